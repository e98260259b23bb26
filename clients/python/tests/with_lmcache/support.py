# SPDX-License-Identifier: Apache-2.0
"""Daemons that are stopped and started again, and LMCache's own programs. See dev/test-lmcache."""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

SOURCE = pathlib.Path(os.environ["LMCACHE_SOURCE"])


class Daemon:
    """kvstored on addresses that stay the same over a restart.

    With a `supervisor` (Tests/RESP/supervisor.py) it is started as systemd would.
    """

    def __init__(self, folder, options=(), memory_budget="768MiB", supervisor=None):
        self.folder = pathlib.Path(folder)
        self.unix = f"unix:{folder}/socket"
        self.options = list(options)
        self.memory_budget = memory_budget
        self.supervisor = supervisor
        self.process = None
        self.told = {}

    def start(self):
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        command = [
            os.environ["KVSTORED"], "--listen-unix-socket", f"{self.folder}/socket",
            "--listen-tcp", "127.0.0.1:0", "--memory-budget", self.memory_budget, "--ready-file",
            str(ready), "--log-level", "error", *self.options]
        passed, variables = (), {}
        if self.supervisor:
            command, passed, variables = self.supervisor.launch(command)
        self.process = subprocess.Popen(
            command, pass_fds=passed, env={**os.environ, **variables})
        wait_until(lambda: ready.exists() and ready.stat().st_size, "kvstored is not ready")
        self.told = json.loads(ready.read_text())
        for door in ("resp", "lm"):
            if door in self.told:
                place = self.options.index(f"--{door}-listen") + 1
                self.options[place] = self.told[door].removeprefix("tcp:")

    def kill(self):
        """As a crash: nothing is said to anybody."""
        self.process.kill()
        self.process.wait(timeout=20)
        self.process = None

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task")
        wait_until(lambda: all(  # the state stands behind the name, which is in brackets
            (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"
            for task in tasks.iterdir()), "kvstored does not stop")

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        if self.process is not None:
            self.resume()
            self.process.terminate()
            self.process.wait(timeout=20)
            self.process = None


def wait_until(condition, otherwise, seconds=60):
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, otherwise
        time.sleep(0.02)


def native_plugin(daemon, **parameters):
    """The configuration of docs/engines/lmcache.md."""
    return {"type": "native_plugin", "module_path": "kvstore.adapters.lmcache_native",
            "class_name": "NativeConnector",
            "adapter_params": {"address": daemon.unix, **parameters}}


def run(module, *arguments, environment=None, seconds=300):
    """The output of one of LMCache's programs, which must end with 0."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False,
        timeout=seconds, env={**os.environ, **(environment or {})})
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-5000:]
    return output


def run_until(text, module, *arguments, environment=None, seconds=300):
    """The output of a program of LMCache's up to a text, for one that does not end by itself."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", module, *arguments], stdout=output,
            stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})})

        def read():
            output.seek(0)
            return output.read()

        try:
            wait_until(lambda: text in read(), f"{module} does not come to {text!r}", seconds)
            return read()
        finally:
            process.kill()
            process.wait(timeout=20)


def run_bench(adapter, *arguments):
    """`lmcache bench l2` with its check of every byte, and a lookup of what is stored."""
    return run("lmcache.cli.main", "bench", "l2", "--l2-adapter", json.dumps(adapter),
               "--no-skip-verify", "--lookup-max-hit-rate", "1.0", *arguments)


def check_bench(output, key_count):
    """That no round of store, lookup and load failed, timed out or missed."""
    assert f"All {key_count} keys data verified OK" in output, output
    for operation in ("Store", "Lookup", "Load"):
        rounds = re.findall(rf"\[{operation}\] Round .*=(\d+)/(\d+)", output)
        assert rounds and all(had == wanted for had, wanted in rounds), output
    assert "TIMEOUT" not in output


def check_basic(output, phase_count):
    """That LMCache's basic_check found nothing: it always ends with 0."""
    assert "Failed" not in output and "FAIL" not in output, output
    tallies = re.findall(r"(?:Validation.*|Batch store OK.*)", output)
    assert len(tallies) >= phase_count, output
    for line in tallies:
        for had, wanted in re.findall(r"(\d+)/(\d+)", line):
            assert had == wanted, output
