"""Drives JupyterLab's own server as a browser does and prints what was measured as one JSON object.

Python, because the private environment already has the server and a websocket client; the numbers are then those a
user of JupyterLab meets, server included. Called by `cargo lab bench notebook` with one JSON argument.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
import uuid

import websocket

HOT = [
    "let x{i} = {i} * 2 + 1;",
    "x{p} as usize + a.len()",
    'println!("{{}}", a[{i} % 3]);',
    "fn f{i}(v: f32) -> f32 {{ v * {i}.0 }}",
    "let y{i}: Vec<f32> = a.iter().map(|v| v + {i}.0).collect();",
]
QUERY_SETUP = [
    "use polars::prelude::*;",
    'let table = df!("group" => ["a", "b", "a", "b", "c"], "value" => [1.0, 2.0, 3.0, 4.0, 5.0])?;',
]
QUERIES = [
    'table.clone().lazy().group_by([col("group")]).agg([col("value").mean().alias("mean")])'
    '.sort(["mean"], Default::default()).collect()?',
    'table.clone().lazy().filter(col("value").gt(lit(2.0))).select([col("group"), col("value")]).collect()?',
    'table.clone().lazy().with_columns([(col("value") * lit(2.0)).alias("twice")]).collect()?',
]


class Server:
    """JupyterLab on a free port of this machine, with a token."""

    def __init__(self, root, jupyter_args):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.token = secrets.token_hex(16)
        port = self.address.rpartition(":")[2]
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1"]
        command += [f"--ServerApp.port={port}", f"--ServerApp.root_dir={root}", "--ServerApp.log_level=ERROR"]
        environment = dict(os.environ, JUPYTER_TOKEN=self.token)
        self.process = subprocess.Popen(command + jupyter_args, env=environment, stdout=sys.stderr)
        deadline = time.monotonic() + 120
        while True:
            try:
                self.request("GET", "/api/status")
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise SystemExit("JupyterLab did not start; try `cargo lab doctor`")
                time.sleep(0.1)

    def request(self, method, path, body=None):
        request = urllib.request.Request(
            f"http://{self.address}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {self.token}"},
        )
        # A proxy of the environment is not for this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=120) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Kernel:
    """One kernel; `ready` is seconds from the request to start it to its first idle."""

    def __init__(self, server, name):
        self.server, self.session = server, uuid.uuid4().hex
        start = time.monotonic()
        self.id = server.request("POST", "/api/kernels", {"name": name})["id"]
        url = f"ws://{server.address}/api/kernels/{self.id}/channels?session_id={self.session}"
        header = [f"Authorization: token {server.token}"]
        self.socket = websocket.create_connection(url, header=header, timeout=600, http_no_proxy=["*"])
        self.ask("kernel_info_request", {})
        self.ready = time.monotonic() - start

    def ask(self, kind, content):
        """Sends a request and waits for its reply and its idle; gives the reply and the texts shown."""
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": kind,
            "session": self.session,
            "username": "bench",
            "version": "5.3",
            "date": "",
        }
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        self.socket.send(json.dumps(message))
        reply, is_idle, texts = None, False, []
        while reply is None or not is_idle:
            message = json.loads(self.socket.recv())
            if message["parent_header"].get("msg_id") != header["msg_id"]:
                continue
            content = message["content"]
            if message["channel"] == "shell":
                reply = content
            elif message["msg_type"] == "status":
                is_idle |= content["execution_state"] == "idle"
            elif message["msg_type"] in ("execute_result", "display_data"):
                texts.append(content["data"].get("text/plain", ""))
        return reply, texts

    def execute(self, code):
        """Seconds of a cell and what it shows; an error ends the benchmark."""
        start = time.monotonic()
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        reply, texts = self.ask("execute_request", content)
        seconds = time.monotonic() - start
        if reply["status"] != "ok":
            raise SystemExit(f"cell failed: {code}\n{reply.get('evalue', reply)}")
        return seconds, texts

    def stop(self):
        self.socket.close()
        self.server.request("DELETE", f"/api/kernels/{self.id}")


def memory(pid):
    """Resident bytes of all processes in the group of process `pid`."""
    group, total = os.getpgid(pid), 0
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.getpgid(int(entry)) == group:
                with open(f"/proc/{entry}/statm", encoding="ascii") as file:
                    total += int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError):
            pass
    return total


def measure(server, options, result):
    for number in range(options["rounds"] + 1):
        print(f"round {number} of {options['rounds']}", file=sys.stderr)
        kernel = Kernel(server, options["kernel"])
        if number == 0:
            # Nothing was warm: what the very first kernel costs. Its warm successor is what follows.
            seconds, _ = kernel.execute("let a = vec![1.0f32, 2.0, 3.0];")
            result["first_answer_cold"].append(kernel.ready + seconds)
        else:
            result["ready"].append(kernel.ready)
            result["first_let"].append(kernel.execute("let a = vec![1.0f32, 2.0, 3.0];")[0])
            result["first_answer"].append(result["ready"][-1] + result["first_let"][-1])
            last = None
            for i in range(options["cells"]):
                code = HOT[i % len(HOT)] if last is not None else HOT[0]
                result["hot"].append(kernel.execute(code.format(i=i, p=last))[0])
                last = i if code == HOT[0] else last
            for code in QUERY_SETUP:
                kernel.execute(code)
            for code in QUERIES:
                result["query"].append(kernel.execute(code)[0])
            pid = int(kernel.execute("std::process::id()")[1][0])
            result["memory"].append(memory(pid))
        time.sleep(options["pause"])
        kernel.stop()


def main():
    options = json.loads(sys.argv[1])
    result = {name: [] for name in ("first_answer_cold", "ready", "first_let", "first_answer", "hot", "query", "memory")}
    server = Server(options["root"], options["jupyter_args"])
    try:
        measure(server, options, result)
    finally:
        server.stop()
    print(json.dumps(result))


main()
