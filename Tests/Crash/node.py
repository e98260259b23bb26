# SPDX-License-Identifier: Apache-2.0
"""A daemon with an SSD tier and chunks whose bytes are known, for tests of bad directories."""
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import struct
import subprocess

import pytest
from daemon import Daemon, find_kvstored
from frames import NOT_FOUND, OK, Connection

LAYOUT = bytes(range(16))
CHUNK_BYTE_COUNT = 100_000
BLOCK = 4_096
# _IOR('X', 125, __u32), of ext4 and XFS alike, and its flag for losing what the log has not got.
SHUTDOWN, WITHOUT_LOG = 0x8004_587D, 2


def key_of(number):
    return hashlib.sha256(f"chunk {number}".encode()).digest()


def bytes_of(number, round_number=0):
    """Bytes of a chunk; after a deletion it may be stored again in another round."""
    seed = hashlib.sha256(f"bytes {number} {round_number}".encode()).digest()
    return (seed * (CHUNK_BYTE_COUNT // len(seed) + 1))[:CHUNK_BYTE_COUNT]


class Node:
    """A running daemon on `directories`, and a connection to it."""

    def __init__(self, folder, directories, capacity="64MiB", more=()):
        folder.mkdir(exist_ok=True)
        self.is_killed = False
        self.daemon = Daemon(find_kvstored(), folder, [
            "--memory-budget", "32MiB", "--ssd-directories", ",".join(map(str, directories)),
            "--ssd-capacity", capacity, "--ssd-segment-bytes", "2MiB", "--ssd-reserve", "0B",
            "--ssd-admission", "all", "--ssd-scrub-rate", "0", *more])
        try:
            self.daemon.wait_until_ready()
            self.connection = Connection(self.daemon.port, "default")
        except BaseException:
            print(self.daemon.log_tail())
            self.daemon.kill()
            raise

    def __enter__(self):
        return self

    def kill(self):
        """As a power cut would, as far as the process knows."""
        self.daemon.kill()
        self.is_killed = True

    def __exit__(self, *_):
        """Whatever a directory is like, the daemon runs until it is stopped, and stops in order."""
        self.connection.close()
        if self.is_killed:
            return
        try:
            assert self.daemon.is_running(), "the daemon ended by itself"
            self.daemon.terminate()
            self.daemon.wait_until_stopped()
        finally:
            print(self.daemon.log_of_life())
            if self.daemon.is_running():
                self.daemon.kill()

    def put(self, numbers, is_durable=True, round_number=0):
        """The statuses of the answers, each once."""
        for number in numbers:
            data = bytes_of(number, round_number)
            self.connection.send_put(key_of(number), LAYOUT, data, 0, is_durable)
        return {self.connection.receive().status for _ in numbers}

    def found(self, numbers, round_number=0):
        """Those that are there; their bytes must be right."""
        found = set()
        for number, chunk in zip(numbers, self.connection.get(list(map(key_of, numbers)))):
            if chunk.status == OK:
                assert chunk.data == bytes_of(number, round_number), f"chunk {number} is wrong"
                assert chunk.layout == LAYOUT
                found.add(number)
            else:
                assert chunk.status == NOT_FOUND
        return found

    def delete(self, numbers):
        """The statuses of the answers, each once."""
        return set(self.connection.delete(list(map(key_of, numbers))))

    def pin(self, numbers):
        """Keeps chunks whatever else is written; the statuses of the answers, each once."""
        return set(self.connection.pin(list(map(key_of, numbers)), 3_600_000))

    def churn(self, byte_count, start=1_000_000):
        """Stores and deletes until all segments have been written over several times."""
        for number in range(start, start + byte_count // CHUNK_BYTE_COUNT, 20):
            batch = range(number, number + 20)
            self.put(batch)
            self.delete(batch)

    def events(self, name=None):
        """What the daemon has logged in this life."""
        lines = [json.loads(line) for line in self.daemon.log_of_life().splitlines()
                 if line.startswith("{")]
        return [line for line in lines if name is None or line["event"] == name]

    def says(self, text):
        """Whether a warning or an error tells of `text`."""
        return any(text in json.dumps(line) for line in self.events()
                   if line["level"] in ("warning", "error", "critical"))

    def counters(self):
        return self.connection.stat()


def segments(directory):
    """The segment files of a directory, by name."""
    return sorted(directory.glob("segment-*.kvs"))


def state_of(path):
    """What must not change of a file that is left alone."""
    facts = path.lstat()
    return facts.st_size, facts.st_mtime_ns, facts.st_ino, hashlib.sha256(
        path.read_bytes()).hexdigest()


def _need_root(command):
    if os.geteuid() or not shutil.which(command):
        pytest.skip(f"NOT TESTED: needs root and {command}")


@contextlib.contextmanager
def mounted(folder, kind, mebibytes):
    """A file system of its own, below `folder`: ext4, xfs (both in an image) or tmpfs."""
    place = folder / f"mount-{kind}"
    place.mkdir()
    if kind == "tmpfs":
        _need_root("mount")
        command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", place]
    else:
        _need_root(f"mkfs.{kind}")
        image = folder / f"image-{kind}"
        with open(image, "wb") as file:
            file.truncate(mebibytes << 20)
        subprocess.run([f"mkfs.{kind}", "-q", image], check=True)
        command = mount_command(folder, kind)
    with _mounted(command, place):
        yield place


def mount_command(folder, kind):
    """Mounts the image of `mounted` at its place."""
    return ["mount", "-o", "loop", folder / f"image-{kind}", folder / f"mount-{kind}"]


def shut_down(place):
    """From now on every call on this file system fails with EIO, as on a device that was pulled."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", WITHOUT_LOG))
    except OSError as error:
        pytest.skip(f"NOT TESTED: the file system cannot be shut down: {error}")
    finally:
        os.close(descriptor)


def abort(place):
    """The kernel makes an ext4 read-only, as after an error that it found there."""
    subprocess.run(["mount", "-o", "remount,abort", place], capture_output=True, check=False)


@contextlib.contextmanager
def read_only(directory):
    """Makes a directory read-only, for root too: a bind mount on itself."""
    _need_root("mount")
    with _mounted(["mount", "--bind", directory, directory], directory):
        subprocess.run(["mount", "-o", "remount,ro,bind", directory], check=True)
        yield


@contextlib.contextmanager
def _mounted(command, place):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NOT TESTED: this system refuses to mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)
