//! The private Python environment of the peers: llama.cpp built for this processor, PyTorch without CUDA.
//!
//! Each part is installed on its own; one that fails is missing, with the reason, and the others go on.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::place::{Place, key, write_atomically};
use crate::venv::Venv;

/// Everything pip may install, with the hash of every file, in parts that begin with `# == name`.
const REQUIREMENTS: &str = include_str!("../../requirements-peers.txt");

/// Lets PyTorch start where CUDA's libraries are missing.
const WITHOUT_CUDA: &str = "lab/peers/torch_without_cuda.py";

/// An environment, made or still to be made.
#[derive(Debug)]
pub struct PeerVenv {
    dir: PathBuf,
    base: PathBuf,
    /// Somebody else's Python, which is used as it is.
    given: Option<PathBuf>,
}

impl PeerVenv {
    /// The environment for this machine: llama.cpp is built for its processor. With a `given` Python nothing is installed.
    ///
    /// # Errors
    /// If there is no Python.
    pub fn find(place: &Place, given: Option<&Path>) -> Result<PeerVenv> {
        if let Some(python) = given {
            return Ok(PeerVenv {
                dir: place.cache.join("venv/peers-given"),
                base: python.to_owned(),
                given: Some(python.to_owned()),
            });
        }
        let lab = Venv::find(place)?;
        let flags = llama_flags(&cpu_flags()).join(" ");
        let name = key(&[
            REQUIREMENTS.as_bytes(),
            flags.as_bytes(),
            lab.version.as_bytes(),
            lab.base().as_os_str().as_encoded_bytes(),
        ]);
        Ok(PeerVenv {
            dir: place.cache.join("venv").join(format!("peers-{name}")),
            base: lab.base().to_owned(),
            given: None,
        })
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its Python.
    pub fn python(&self) -> PathBuf {
        (self.given.clone()).unwrap_or_else(|| self.dir.join("bin/python"))
    }

    /// Makes the environment itself.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(&self, place: &Place) -> Result<()> {
        if self.given.is_some() {
            return Ok(());
        }
        let _lock = place.lock("peers")?;
        if !self.python().is_file() {
            run(Command::new(&self.base).args(["-m", "venv"]).arg(&self.dir))?;
        }
        self.part(place, "tools", "tools to build with", |_| {})
    }

    /// llama.cpp, as llama-cpp-python carries it.
    ///
    /// # Errors
    /// If it cannot be built.
    pub fn llama(&self, place: &Place) -> Result<()> {
        let _lock = place.lock("peers")?;
        let flags = llama_flags(&cpu_flags()).join(" ");
        let cores = super::record::threads().to_string();
        let path = std::env::join_paths([self.dir.join("bin")].into_iter().chain(
            std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()),
        ))?;
        self.part(
            place,
            "llama.cpp",
            "compiled for this processor, about 10 core-minutes",
            |pip| {
                pip.args(["--no-build-isolation", "--verbose"])
                    .env("CMAKE_ARGS", &flags)
                    .env("CMAKE_BUILD_PARALLEL_LEVEL", &cores)
                    .env("PATH", &path);
            },
        )
    }

    /// PyTorch.
    ///
    /// # Errors
    /// If it cannot be installed, or does not start.
    pub fn torch(&self, place: &Place) -> Result<()> {
        let _lock = place.lock("peers")?;
        if self.has("PyTorch") {
            return Ok(());
        }
        self.part(place, "PyTorch", "540 MB to download", |_| {})?;
        std::fs::remove_file(self.stamp("PyTorch")).context("take back the stamp")?;
        run(Command::new(self.python()).arg(place.root.join(WITHOUT_CUDA)))?;
        write_atomically(&self.stamp("PyTorch"), b"")
    }

    /// Installs a part unless it is there.
    fn part(
        &self,
        place: &Place,
        name: &str,
        what: &str,
        with: impl FnOnce(&mut Command),
    ) -> Result<()> {
        if self.has(name) {
            return Ok(());
        }
        if crate::cargo::is_offline() {
            bail!(
                "LLMKIT_OFFLINE is set and {name} is not installed; run this once with a network"
            );
        }
        eprintln!("{name}: {what}, once, into {}", self.dir.display());
        let file = place
            .cache
            .join("venv")
            .join(format!("requirements-{}.txt", slug(name)));
        let lines = part(name).with_context(|| format!("requirements of {name}"))?;
        write_atomically(&file, lines.as_bytes())?;
        let mut pip = Command::new(self.python());
        pip.args([
            "-m",
            "pip",
            "install",
            "--require-hashes",
            "--no-deps",
            "--no-input",
        ])
        .args([
            "--disable-pip-version-check",
            "--progress-bar",
            "off",
            "--requirement",
        ])
        .arg(&file);
        with(&mut pip);
        run(&mut pip)?;
        write_atomically(&self.stamp(name), b"")
    }

    /// Whether a part is installed, or somebody else's business.
    fn has(&self, name: &str) -> bool {
        self.given.is_some() || self.stamp(name).exists()
    }

    fn stamp(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{}.done", slug(name)))
    }
}

/// The lines of a part of the requirements.
fn part(name: &str) -> Option<&'static str> {
    let (_, after) = REQUIREMENTS.split_once(&format!("# == {name}\n"))?;
    after.split("# == ").next()
}

fn slug(name: &str) -> String {
    name.to_ascii_lowercase().replace('.', "-")
}

/// Flags that Linux gives the processor; none elsewhere.
fn cpu_flags() -> Vec<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with("flags"));
    let flags = line
        .and_then(|line| line.split_once(':'))
        .map_or("", |it| it.1);
    flags.split_whitespace().map(str::to_owned).collect()
}

/// llama.cpp's build options for a processor: each instruction set by name. Letting it choose (`GGML_NATIVE`) takes AMX in where the
/// processor has it, and dies there of an illegal instruction because it does not ask the kernel for permission.
fn llama_flags(cpu: &[String]) -> Vec<String> {
    const SETS: [(&str, &str); 9] = [
        ("avx", "GGML_AVX"),
        ("avx2", "GGML_AVX2"),
        ("fma", "GGML_FMA"),
        ("f16c", "GGML_F16C"),
        ("bmi2", "GGML_BMI2"),
        ("avx512f", "GGML_AVX512"),
        ("avx512_vbmi", "GGML_AVX512_VBMI"),
        ("avx512_vnni", "GGML_AVX512_VNNI"),
        ("avx512_bf16", "GGML_AVX512_BF16"),
    ];
    let mut flags: Vec<String> = [
        "CMAKE_BUILD_TYPE=Release",
        "GGML_NATIVE=OFF",
        "LLAVA_BUILD=OFF",
    ]
    .map(|it| format!("-D{it}"))
    .into();
    // /proc/cpuinfo calls it avx512vbmi.
    let has = |name: &str| {
        cpu.iter()
            .any(|it| it == name || *it == name.replacen('_', "", 1))
    };
    for (name, option) in SETS {
        flags.push(format!(
            "-D{option}={}",
            if has(name) { "ON" } else { "OFF" }
        ));
    }
    flags.extend(["TILE", "INT8", "BF16"].map(|it| format!("-DGGML_AMX_{it}=OFF")));
    flags
}

/// Runs a command whose messages go to standard error: standard output is for results.
fn run(command: &mut Command) -> Result<()> {
    use std::os::fd::AsFd;
    let name = Path::new(command.get_program()).display().to_string();
    let errors = std::io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .context("stderr")?;
    let status = command
        .stdin(Stdio::null())
        .stdout(errors)
        .status()
        .with_context(|| format!("start {name}"))?;
    if !status.success() {
        let args: Vec<_> = command.get_args().map(|it| it.to_string_lossy()).collect();
        bail!(
            "{name} {} failed ({status}); see its messages above",
            args.join(" ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_there_pinned_and_hashed() {
        for (name, needed) in [
            ("tools", "cmake"),
            ("llama.cpp", "llama-cpp-python"),
            ("PyTorch", "torch"),
        ] {
            let lines = part(name).unwrap();
            assert!(lines.contains(&format!("{needed}==")), "{name}");
            let mut is_hashed = true;
            for line in lines.lines() {
                if line.starts_with(|c: char| c.is_ascii_alphanumeric()) {
                    assert!(is_hashed && line.contains("=="), "{line}");
                    is_hashed = false;
                }
                is_hashed |= line.contains("--hash=sha256:");
                assert!(!line.contains("://"), "an address: {line}");
            }
            assert!(is_hashed);
        }
        assert!(part("nonsense").is_none());
    }

    #[test]
    fn llama_gets_what_the_processor_has_and_never_amx() {
        let cpu = ["avx2", "avx512_vnni", "avx512vbmi", "amx_tile"].map(str::to_owned);
        let flags = llama_flags(&cpu).join(" ");
        for expected in [
            "-DGGML_AVX2=ON",
            "-DGGML_AVX512_VNNI=ON",
            "-DGGML_AVX512_VBMI=ON",
            "-DGGML_FMA=OFF",
            "-DGGML_AMX_TILE=OFF",
            "-DGGML_NATIVE=OFF",
        ] {
            assert!(flags.contains(expected), "{expected}");
        }
    }
}
