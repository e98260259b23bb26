# SPDX-License-Identifier: Apache-2.0
"""One life of the real daemon: start, wait until it serves, end."""
import json
import os
import pathlib
import signal
import subprocess
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
READY_SECONDS_MAX = 60.0
END_SECONDS_MAX = 30.0
LOG_TAIL_BYTE_COUNT = 16_384

# Two tenants, so that a chunk that moves from one to the other is found.
CONFIGURATION = """\
namespaces:
  - name: default
  - name: second
"""


class DaemonFault(Exception):
    """The daemon did not start, ended by itself, or did not end."""


def find_kvstored(told=None):
    """The executable: `told`, else $KVSTORED, else the release build's, else the debug build's."""
    told = told or os.environ.get("KVSTORED")
    places = [told] if told else [
        TOP / ".build" / kind / "kvstored" for kind in ("release", "debug")]
    for place in places:
        if os.access(place, os.X_OK):
            return pathlib.Path(place).resolve()
    raise DaemonFault(f"no kvstored at {places}; swift build -c release --product kvstored")


class Daemon:
    """A running kvstored. Its log goes on in the same file over its lives."""

    def __init__(self, executable, folder, arguments):
        """Starts it, in `folder`; see `wait_until_ready`."""
        self.folder = pathlib.Path(folder)
        self.ready = self.folder / "ready"
        self.log = self.folder / "log"
        self.ready.unlink(missing_ok=True)
        configuration = self.folder / "kvstored.yaml"
        if not configuration.exists():
            configuration.write_text(CONFIGURATION)
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith("KVSTORED")}
        self.began_at = time.monotonic()
        with open(self.log, "ab") as log:
            self.log_start = log.tell()
            self.process = subprocess.Popen(
                [executable, "--config", configuration, "--listen-unix-socket", "off",
                 "--listen-tcp", "127.0.0.1:0", "--memory-registration", "off", "--io-shards", "1",
                 "--ready-file", self.ready, *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        self.port = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def is_running(self):
        return self.process.poll() is None

    def wait_until_ready(self, seconds_max=None):
        """Returns the seconds since the start; with `seconds_max`, it need not be ready by then."""
        while True:
            try:
                told = json.loads(self.ready.read_text())
                break
            except (FileNotFoundError, ValueError):
                pass
            waited = time.monotonic() - self.began_at
            if not self.is_running():
                raise DaemonFault(f"ended before it was ready: {self.process.returncode}")
            if seconds_max is not None and waited > seconds_max:
                return waited
            if waited > READY_SECONDS_MAX:
                raise DaemonFault(f"is not ready after {waited:.0f} s")
            time.sleep(0.001)
        (address,) = [text for text in told["addresses"] if text.startswith("tcp:")]
        self.port = int(address.rsplit(":", 1)[1])
        return time.monotonic() - self.began_at

    def kill(self):
        """SIGKILL, and waits for the end. Returns the exit status."""
        self.process.kill()
        return self.process.wait()

    def terminate(self):
        """SIGTERM; returns at once."""
        self.process.send_signal(signal.SIGTERM)

    def wait_until_stopped(self):
        """Waits for the end after `terminate`."""
        try:
            status = self.process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DaemonFault(f"runs on {END_SECONDS_MAX:.0f} s after SIGTERM") from None
        if status:
            raise DaemonFault(f"ended with status {status} after SIGTERM")

    def log_of_life(self):
        """What it has logged since it started."""
        with open(self.log, "rb") as log:
            log.seek(self.log_start)
            return log.read().decode(errors="replace")

    def log_tail(self, line_count=40):
        """The last lines of the log."""
        with open(self.log, "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTE_COUNT))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-line_count:])
