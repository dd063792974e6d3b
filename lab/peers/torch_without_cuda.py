"""Lets PyTorch's wheel of the Python package index start without the CUDA libraries it is linked to: 4 GB less.

PyTorch's own wheels for processors alone are on another index. This one opens a dozen CUDA libraries as it starts, but calls
none of them where there is no CUDA device. So each gets a stand-in whose every function says "no device". Needs `nm` and `cc`.
"""

import ctypes
import importlib.util
import pathlib
import re
import subprocess

NO_DEVICE = 100  # cudaErrorNoDevice
STAND_IN, EMPTY = "no_device.so", "no_library.so"
FOREIGN = re.compile(r"lib(cu|nv|nccl)[A-Za-z_]*\.so[.0-9]*$")


def library_folder():
    return pathlib.Path(importlib.util.find_spec("torch").origin).parent / "lib"


def preload():
    """To be called before torch is imported."""
    stand_in = library_folder() / STAND_IN
    if stand_in.is_file():
        ctypes.CDLL(str(stand_in), mode=ctypes.RTLD_GLOBAL)


def compiled(path, source):
    command = ["cc", "-shared", "-fPIC", "-w", "-fno-builtin", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=source, text=True, check=True)


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def symbols(library, which):
    lines = output("nm", "-D", which, str(library)).splitlines()
    return {line.split()[-1].partition("@")[0] for line in lines if line.strip()}


def main():
    folder = library_folder()
    own = [path for path in folder.glob("*.so*") if not path.is_symlink() and path.name not in (STAND_IN, EMPTY)]
    names, wanted, defined = set(), set(), set()
    for library in own:
        needed = re.findall(r"NEEDED\s+(\S+)", output("objdump", "-p", str(library)))
        names.update(name for name in needed if FOREIGN.match(name) and not (folder / name).is_file())
        wanted |= symbols(library, "--undefined-only")
        defined |= symbols(library, "--defined-only")
    prefixes = ("cu", "__cu", "nv", "nccl")
    missing = sorted(name for name in wanted - defined if name.startswith(prefixes) and name.isidentifier())
    functions = "\n".join(f"int {name}(void) {{ return {NO_DEVICE}; }}" for name in missing)
    compiled(folder / STAND_IN, functions)
    # A library of a needed name would have to define the versions of its symbols: those are empty, and the functions are in one
    # of another name, which `preload` makes known to all.
    compiled(folder / EMPTY, "")
    for name in names:
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(EMPTY)
    print(f"{len(names)} libraries, {len(missing)} functions")


if __name__ == "__main__":
    main()
