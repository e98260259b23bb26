# SPDX-License-Identifier: Apache-2.0
"""Daemons to point real clients at: the one that KVSTORED names, on free ports."""
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import time

import pytest

READY_SECONDS_MAX = 60
# Of any wait for an answer: only a hang meets it.
ANSWER_SECONDS_MAX = 30


class Daemon:
    """A running kvstored with a RESP and an lm listener.

    With a `supervisor` it is started as systemd would; `before` is a daemon whose ports it takes.
    """

    def __init__(self, folder, *arguments, budget="64MiB", supervisor=None, before=None):
        self.folder = pathlib.Path(folder)
        self.ready = self.folder / "ready"
        self.ready.unlink(missing_ok=True)
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith("KVSTORED_")}
        port, lm_port = (before.port, before.lm_port) if before else (0, 0)
        command = [
            os.environ["KVSTORED"], "--listen-unix-socket", "off", "--listen-tcp", "127.0.0.1:0",
            "--memory-budget", budget, "--memory-registration", "off", "--io-shards", "1",
            "--ready-file", str(self.ready), *arguments]
        for option, one in (("--resp-listen", port), ("--lm-listen", lm_port)):
            if option not in arguments:
                command += [option, f"127.0.0.1:{one}"]
        passed = ()
        if supervisor:
            command, passed, variables = supervisor.launch(command)
            environment.update(variables)
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                pass_fds=passed)
        end = time.monotonic() + READY_SECONDS_MAX
        while not self.ready.exists():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end, "the daemon is not ready"
            time.sleep(0.01)
        told = json.loads(self.ready.read_text())
        self.port, self.lm_port = (
            int(told[door].rsplit(":", 1)[1]) if door in told else None for door in ("resp", "lm"))

    def resident_byte_count(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) << 10

    def log(self):
        return (self.folder / "log").read_text()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        assert self.process.returncode == 0, (self.folder / "log").read_text()


@contextlib.contextmanager
def running(*arguments, folder=None, budget="64MiB"):
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kvstore-resp-"))
        daemon = Daemon(folder, *arguments, budget=budget)
        try:
            yield daemon
        finally:
            daemon.stop()


class Wire:
    """A connection on which a test says any bytes, and reads as many as it expects."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS_MAX)
        self.socket.settimeout(ANSWER_SECONDS_MAX)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def receive(self, count):
        """Exactly `count` bytes, or fewer when the daemon closed."""
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                break
            data += piece
        return data

    def line(self):
        data = b""
        while not data.endswith(b"\r\n"):
            byte = self.socket.recv(1)
            if not byte:
                break
            data += byte
        return data

    def is_closed(self):
        """Whether the daemon closes; reads past what it still says."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            pass
        return True

    def ask(self, *words):
        self.send(request(*words))
        return self.line()


def request(*words):
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    head = b"*%d\r\n" % len(words)
    return head + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


@pytest.fixture(scope="module")
def daemon():
    """One for all tests of a module that leave it as it was."""
    with running("--resp-flush", "true") as one:
        yield one


@pytest.fixture(scope="module")
def strict():
    """With the replies that LMCache insists on."""
    with running("--resp-lmcache-strict-replies", "true", "--resp-lease", "1s") as one:
        yield one
