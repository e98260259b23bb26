# SPDX-License-Identifier: Apache-2.0
"""Servers to test against: the stub of Tests/C, and the daemon that KVSTORED names."""
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
STUB = ROOT / "Tests" / "C" / "stub_server.py"
sys.path.insert(0, str(ROOT / "clients" / "python"))


class Server:
    """Where a server listens."""

    def __init__(self, unix, tcp):
        self.unix = unix
        self.tcp = tcp


@contextlib.contextmanager
def started(command, read_ready):
    """Runs a server until the block ends."""
    with tempfile.TemporaryDirectory(prefix="kvstore-") as folder:
        path = f"{folder}/socket"
        ready = pathlib.Path(folder) / "ready"
        process = subprocess.Popen(
            [*command, "--listen-unix-socket", path, "--ready-file", str(ready)],
            stdin=subprocess.PIPE)
        try:
            end = time.monotonic() + 30
            while not (ready.exists() and ready.stat().st_size):
                assert process.poll() is None, f"{command[0]} ended early"
                assert time.monotonic() < end, f"{command[0]} is not ready"
                time.sleep(0.01)
            yield Server(f"unix:{path}", f"tcp:127.0.0.1:{read_ready(ready.read_text())}")
        finally:
            process.stdin.close()
            process.terminate()
            process.wait(timeout=20)


def stub(behaviour):
    """The stub server with a behaviour."""
    return started([sys.executable, str(STUB), "--behaviour", behaviour],
                   lambda text: json.loads(text)["tcpPort"])


def daemon(*arguments):
    """The daemon under test."""
    return started([os.environ["KVSTORED"], "--listen-tcp", "127.0.0.1:0",
                    "--memory-budget", "256MiB", *arguments],
                   lambda text: re.search(r"127\.0\.0\.1:(\d+)", text).group(1))


@contextlib.contextmanager
def daemon_with_ssd():
    """The same, with an SSD tier."""
    with tempfile.TemporaryDirectory(prefix="kvstore-ssd-") as folder, daemon(
            "--ssd-directories", folder, "--ssd-capacity", "256MiB", "--ssd-reserve",
            "0B") as running:
        yield running


SERVERS = ["stub", "shared-stub"] + (
    ["daemon", "daemon-with-ssd"] if os.environ.get("KVSTORED") else [])


@pytest.fixture(scope="module", params=SERVERS)
def server(request):
    """Every server that speaks the truth, one after another."""
    opened = {"stub": lambda: stub("honest"), "shared-stub": lambda: stub("shared"),
              "daemon": daemon, "daemon-with-ssd": daemon_with_ssd}[request.param]
    with opened() as running:
        running.shares = request.param != "stub"
        running.keeps = request.param != "daemon"
        yield running
