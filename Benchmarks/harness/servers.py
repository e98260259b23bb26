# SPDX-License-Identifier: Apache-2.0
"""The servers under comparison: how each is started, found ready, and ended."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PROGRAMS = TOP / "build" / "bench"
READY_SECONDS_MAX = 60.0
READY_POLL_SECONDS = 0.01
STOP_SECONDS_MAX = 10.0
REAL_TIME_PRIORITY = 5
CONNECTION_COUNT_MAX = 16384


class HarnessError(Exception):
    """What could not be done, in one sentence."""


def find_kvstored(given):
    """The daemon to measure: the path given, else the release or debug build of this tree."""
    if given:
        return given if os.access(given, os.X_OK) else None
    for build in ("release", "debug"):
        path = TOP / ".build" / build / "kvstored"
        if os.access(path, os.X_OK):
            return str(path)
    return shutil.which("kvstored")


def kvstored_command(program, server):
    # The one place that knows the daemon's command line.
    return [
        program,
        "--listen-unix-socket", server.unix_socket,
        "--listen-tcp", f"127.0.0.1:{server.port}",
        "--memory-budget", f"{server.memory_mebibytes}MiB",
        "--memory-prefault", "true" if server.prefaults else "false",
        *server.more_arguments,
    ]


def reference_command(program, server):
    return [
        program, "--port", str(server.port), "--unix-socket", server.unix_socket,
        "--memory-mebibytes", str(server.memory_mebibytes),
    ]


def memcached_command(program, server):
    command = [
        program, "--listen=127.0.0.1", f"--port={server.port}", "--udp-port=0",
        f"--memory-limit={server.memory_mebibytes}", "--max-item-size=64m",
        f"--conn-limit={CONNECTION_COUNT_MAX}",
    ]
    return command + (["--user=root"] if os.geteuid() == 0 else [])


def redis_command(program, server):
    return [
        program, "--bind", "127.0.0.1", "--port", str(server.port), "--save", "",
        "--appendonly", "no", "--protected-mode", "no",
        "--maxmemory", f"{server.memory_mebibytes}mb",
        "--maxmemory-policy", "allkeys-lru",
        "--maxclients", str(CONNECTION_COUNT_MAX), "--daemonize", "no", "--dir", server.folder,
    ]


COMMANDS = {
    "reference": reference_command,
    "kvstore": kvstored_command,
    "memcached": memcached_command,
    "redis": redis_command,
}


def program_of(system, kvstored):
    if system == "reference":
        return str(PROGRAMS / "reference-server")
    if system == "kvstore":
        return kvstored
    return shutil.which({"memcached": "memcached", "redis": "redis-server"}[system])


def real_time_prefix(wanted):
    """`chrt` words that make a command real-time, or none where that is not permitted."""
    prefix = ["chrt", "--fifo", str(REAL_TIME_PRIORITY)]
    if wanted == "other" or shutil.which("chrt") is None:
        return []
    permitted = subprocess.run(prefix + ["true"], capture_output=True, check=False).returncode == 0
    if not permitted and wanted == "fifo":
        raise HarnessError("SCHED_FIFO is not permitted here; use --scheduler other")
    return prefix if permitted else []


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end_with_parent():
    """In the child: end when the harness ends, however it ends."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def clean_environment():
    """The environment without kvstored's own variables, which would change what is measured."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KVSTORED_")}


class Server:
    """One started server: its process, port, socket and log."""

    def __init__(self, system, program, folder, memory_mebibytes, prefix, more_arguments=(),
                 prefaults=True):
        self.system = system
        self.prefaults = prefaults  # kvstored: whether its memory is touched before it is ready
        self.more_arguments = more_arguments
        self.folder = str(folder)
        self.memory_mebibytes = memory_mebibytes
        self.port = free_port()
        self.unix_socket = str(Path(folder) / f"{system}.sock")
        self.log_path = Path(folder) / f"{system}.log"
        self.command = prefix + COMMANDS[system](program, self)
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=clean_environment(), preexec_fn=end_with_parent)

    @property
    def has_unix_socket(self):
        return self.system in ("reference", "kvstore")

    def log_tail(self):
        return self.log_path.read_text(errors="replace")[-2000:]

    def wait_until_ready(self, seconds_max=READY_SECONDS_MAX):
        deadline = time.monotonic() + seconds_max
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise HarnessError(f"{self.system} ended at once:\n{self.log_tail()}")
            unix_ready = not self.has_unix_socket or os.path.exists(self.unix_socket)
            if unix_ready and self.port_answers():
                return
            time.sleep(READY_POLL_SECONDS)
        raise HarnessError(f"{self.system} was not ready in time:\n{self.log_tail()}")

    def port_answers(self):
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self):
        if self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
