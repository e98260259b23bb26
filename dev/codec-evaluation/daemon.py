# SPDX-License-Identifier: Apache-2.0
"""The codec inside kvstored, as a coder to judge: chunks go in raw, come back at a level, go in
again as those containers, and come back raw. Speaks docs/protocol.md itself, to be able to ask for
levels.
"""
from __future__ import annotations

import hashlib
import hmac
import json
import os
import socket
import struct
import subprocess
import tempfile
import time

import numpy as np
import xxhash
from coders import Coded, description_of, to_bfloat16
from kvstore_profile import container

_HEADER = struct.Struct("<4sBBHQIHHIIQI")
_HELLO, _PUT, _GET, _DELETE = 0x01, 0x10, 0x11, 0x13
_OK, _RESPONSE, _RAW = 0, 1, 0
_DEADLINE_MS = 120_000
_MODES = ("raw", "zstd", "L", "cachegen", "S", "P")
LEVELS = {"L0": 2, "Q1": 3, "Q2": 4, "Q3": 5, "Q4": 6}


class Refused(Exception):
    """The daemon answered with another status than ok."""


def _short(data) -> int:
    return xxhash.xxh3_64_intdigest(data) & 0xFFFFFFFF


class Connection:
    """One connection of the default namespace, one request at a time."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(2 * _DEADLINE_MS / 1000)
        self.socket.connect(path)
        self.count = 0
        body = struct.pack("<BBHQ", 1, 1, 0, 0) + b"\0" + b"\0\0" + b"\x04eval"
        answer, _ = self.call(_HELLO, body)
        self.secret = answer[12:44]

    def call(self, verb: int, body: bytes, payload: bytes = b"") -> tuple[bytes, bytes]:
        self.count += 1
        head = _HEADER.pack(b"KVS1", 1, verb, 0, self.count, _DEADLINE_MS, 0, 0, len(body),
                            _short(body), len(payload), 0)
        self.socket.sendall(head + struct.pack("<I", _short(head)) + body)
        self.socket.sendall(payload)
        fields = _HEADER.unpack(self._read(48)[:44])
        flags, status, body_count, payload_count = fields[3], fields[6], fields[8], fields[10]
        answer, data = self._read(body_count), self._read(payload_count)
        if not flags & _RESPONSE or status != _OK:
            raise Refused(f"verb {verb:#x}: status {status}: {answer[2:].decode(errors='replace')}")
        return answer, data

    def put(self, key: bytes, data: bytes, layout: bytes = bytes(16), level: int = _RAW,
            position: int | None = None) -> None:
        body = key + layout + struct.pack("<QIBB4xI2x", len(data), 0, level, 0,
                                          0 if position is None else position + 1)
        self.call(_PUT, body, data + struct.pack("<Q", xxhash.xxh3_64_intdigest(data)))

    def get(self, key: bytes, level: int) -> tuple[int, bytes]:
        """Level and bytes of what came."""
        answer, data = self.call(_GET, struct.pack("<HBB4x16x", 1, level, 0) + key)
        return answer[4], data

    def delete(self, keys: list[bytes]) -> None:
        self.call(_DELETE, struct.pack("<H6x", len(keys)) + b"".join(keys))

    def key(self, prefix: bytes, name: bytes) -> bytes:
        return hmac.new(self.secret, prefix + name, hashlib.sha256).digest()

    def _read(self, count: int) -> bytes:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            received = self.socket.recv_into(view)
            if received == 0:
                raise ConnectionError("kvstored closed the connection")
            view = view[received:]
        return bytes(data)


class Daemon:
    """A kvstored of its own in a temporary folder, ended by `close`."""

    def __init__(self, path: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        ready = os.path.join(self.folder.name, "ready.json")
        listen = os.path.join(self.folder.name, "kvstored.sock")
        self.process = subprocess.Popen(
            [path, "--listen-unix-socket", listen, "--listen-tcp", "off",
             "--memory-budget", "1GiB", "--ready-file", ready, "--log-format", "text",
             "--log-level", "warning"])
        for _ in range(200):
            if self.process.poll() is not None:
                raise RuntimeError(f"{path} ended with status {self.process.returncode}")
            try:
                with open(ready) as file:
                    json.load(file)
                break
            except (OSError, ValueError):
                time.sleep(0.1)
        self.connection = Connection(listen)

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()


class DaemonCoder:
    """One level. `mode` is that of the last container: the daemon may have taken another one."""

    def __init__(self, connection: Connection, shape, level: str, profile: bytes | None) -> None:
        self.connection, self.level, self.mode = connection, LEVELS[level], "none"
        # A layout of its own for each profile: a layout's choice is made once.
        description = description_of(
            shape, evaluation=container.profile_hash(profile).hex() if profile else "none")
        self.layout = hashlib.sha256(description).digest()[:16]
        self._put_once(connection.key(b"l1", self.layout), description)
        if profile:
            name = container.profile_hash(profile)
            self._put_once(connection.key(b"f1", name), profile)
            self._put_once(connection.key(b"f2", self.layout), name + bytes(16))

    def _put_once(self, key: bytes, data: bytes) -> None:
        try:
            self.connection.put(key, data)
        except Refused:  # there already; or refused, and then the level's mode tells
            pass

    def code(self, chunk: np.ndarray, first_position: int) -> Coded:
        link = self.connection
        payload = (chunk.view(np.uint32) >> 16).astype("<u2").tobytes()
        raw_key = link.key(b"o1", b"raw" + os.urandom(16))
        coded_key = link.key(b"o1", b"coded" + os.urandom(16))
        link.put(raw_key, payload, self.layout, position=first_position)
        began = time.perf_counter()
        level, coded = link.get(raw_key, self.level)
        encoded = time.perf_counter()
        if level != self.level:
            raise Refused(f"level {level} came where {self.level} was asked for")
        self.mode = _MODES[coded[9]]
        link.put(coded_key, coded, self.layout, level)
        stored = time.perf_counter()
        _, back = link.get(coded_key, _RAW)
        decoded = time.perf_counter()
        link.delete([raw_key, coded_key])
        bits = np.frombuffer(back, "<u2").astype(np.uint32) << 16
        values = bits.view(np.float32).reshape(chunk.shape)
        return Coded(len(coded), to_bfloat16(values), encoded - began, decoded - stored)
