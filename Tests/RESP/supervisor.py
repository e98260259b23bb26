# SPDX-License-Identifier: Apache-2.0
"""A stand-in for systemd's file descriptor store: sd_notify(3), sd_listen_fds(3)."""
import fcntl
import os
import socket
import sys
import threading
import time

# Puts descriptors where sd_listen_fds(3) has them, and becomes the service.
LAUNCHER = """
import os, sys
for place, descriptor in enumerate(map(int, filter(None, sys.argv[1].split(",")))):
    os.dup2(descriptor, 3 + place)
    os.set_inheritable(descriptor, False)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""
# Far from where they go.
DESCRIPTOR_MIN = 200


class Supervisor:
    """Keeps what it is told to keep, and passes it to each process that it launches."""

    def __init__(self, folder, keeps=True, answers=True):
        self.address = f"{folder}/notify"
        self.keeps, self.answers = keeps, answers
        self.store, self.told, self.unanswered = [], [], []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"END", self.address)
        self.thread.join()
        self.socket.close()
        self.forget()
        for descriptor in self.unanswered:
            os.close(descriptor)

    def serve(self):
        while True:
            text, descriptors, _, _ = socket.recv_fds(self.socket, 4096, 16)
            if text == b"END":
                return
            fields = dict(line.split("=", 1) for line in text.decode().split("\n"))
            self.told.append(fields)
            if fields.get("FDSTORE") == "1" and self.keeps:
                for descriptor in descriptors:
                    self.keep(fields["FDNAME"], descriptor)
            if fields.get("FDSTOREREMOVE") == "1":
                self.forget(fields["FDNAME"])
            if fields.get("BARRIER") == "1" and not self.answers:
                self.unanswered += descriptors
                continue
            for descriptor in descriptors:
                os.close(descriptor)

    def keep(self, name, descriptor):
        """A copy of it."""
        self.store.append(
            (name, fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, DESCRIPTOR_MIN)))

    def forget(self, name=None):
        for one in [one for one in self.store if name in (None, one[0])]:
            self.store.remove(one)
            os.close(one[1])

    def names(self):
        return sorted(name for name, _ in self.store)

    def launch(self, command):
        """The command that starts the service, the descriptors it inherits, its variables."""
        passed = [descriptor for _, descriptor in self.store]
        variables = {"NOTIFY_SOCKET": self.address}
        if passed:
            variables |= {"LISTEN_FDS": str(len(passed)),
                          "LISTEN_FDNAMES": ":".join(name for name, _ in self.store)}
        descriptors = ",".join(map(str, passed))
        return [sys.executable, "-c", LAUNCHER, descriptors, *command], passed, variables

    def wait_until(self, condition):
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, (self.told, self.names())
            time.sleep(0.01)
