#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A small store that outlives kills, and can lie, which the crash test has to find out.

usage: liar.py --lie NAME --ssd-directories DIR --ready-file FILE [daemon options, ignored]

It appends each PUT and DELETE to one file before it answers, and reads that file at its start.
"""
import argparse
import json
import os
import pathlib
import random
import signal
import socket
import struct
import sys
import threading
import time

sys.dont_write_bytecode = True

from frames import (  # noqa: E402
    DELETE, EXISTS, FOR_EVER, GET, HELLO, LIMIT_EXCEEDED, LOOKUP, MORE, NOT_FOUND, OK, PIN, PUT,
    RESPONSE, STAT, UNPIN, checksum)

LIES = {
    "none": "keeps its promises",
    "forgets": "loses some chunks at a restart",
    "late": "answers before it has written",
    "undead": "some deletions are undone by a restart",
    "damage": "changes some bytes at a restart, and their checksum with them",
    "neighbours": "takes the namespaces for one",
    "immortal": "forgets at a restart when chunks expire",
    "torn": "stores a PUT that has not come to its end",
    "dies": "ends by itself",
    "stale": "a chunk that was deleted and stored anew has its old bytes after a restart",
}
HEAD = struct.Struct("<BIQ16sQ")  # kind, byte count of all, expiry ms, layout, data checksum
PUT_KIND, DELETE_KIND = 1, 2


class Store:
    """Chunks by namespace and key: (data, layout, expiry in wall ms or 0)."""

    def __init__(self, lie, path):
        self.lie, self.path = lie, path
        self.lock = threading.Lock()
        self.chunks = {}
        self.late = []
        self.replay()
        self.file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def happens(self):
        """Whether a lie is told now; not always, as with a real defect."""
        return random.random() < 0.3

    def replay(self):
        """Reads the file, and writes it anew without what is not needed."""
        data = self.path.read_bytes() if self.path.exists() else b""
        offset = 0
        while offset + HEAD.size <= len(data):
            kind, count, expiry, layout, check = HEAD.unpack_from(data, offset)
            body = data[offset + HEAD.size:offset + HEAD.size + count]
            if len(body) < count or checksum(body) != check:
                break
            offset += HEAD.size + count
            name, chunk = body[:33], body[33:]
            if kind == PUT_KIND:
                if self.lie == "stale":
                    chunk = self.chunks.get((name, "old"), (chunk,))[0]
                    self.chunks[name, "old"] = (chunk, layout, 0)
                self.chunks[name] = (chunk, layout, 0 if self.lie == "immortal" else expiry)
            elif not (self.lie == "undead" and self.happens()):
                self.chunks.pop(name, None)
        self.chunks = {name: self.altered(*chunk) for name, chunk in self.chunks.items()
                       if isinstance(name, bytes) and not (
                           self.lie == "forgets" and self.happens())}
        fresh = self.path.with_suffix(".new")
        fresh.write_bytes(b"".join(
            self.record(PUT_KIND, name, *chunk) for name, chunk in self.chunks.items()))
        fresh.rename(self.path)

    def altered(self, data, layout, expiry):
        if self.lie == "damage" and self.happens():
            place = random.randrange(len(data))
            data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1:]
        return data, layout, expiry

    @staticmethod
    def record(kind, name, data=b"", layout=bytes(16), expiry=0):
        body = name + data
        return HEAD.pack(kind, len(body), expiry, layout, checksum(body)) + body

    def write(self, record):
        if self.lie != "late":
            os.write(self.file, record)
            return
        self.late.append(record)
        if len(self.late) >= 20:
            os.write(self.file, b"".join(self.late))
            self.late.clear()

    def find(self, name):
        chunk = self.chunks.get(name)
        if chunk and chunk[2] and time.time() * 1_000 >= chunk[2]:
            return None
        return chunk

    def put(self, name, data, layout, ttl_ms):
        with self.lock:
            if self.find(name):
                return EXISTS
            expiry = int(time.time() * 1_000) + ttl_ms if ttl_ms else 0
            self.chunks[name] = (data, layout, expiry)
            self.write(self.record(PUT_KIND, name, data, layout, expiry))
            return OK

    def delete(self, name):
        with self.lock:
            found = self.find(name)
            self.chunks.pop(name, None)
            self.write(self.record(DELETE_KIND, name))
            return OK if found else NOT_FOUND


def remaining(chunk):
    return max(0, chunk[2] - int(time.time() * 1_000)) if chunk[2] else FOR_EVER


class Session:
    """One client's connection."""

    def __init__(self, connection, store):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection, self.store = connection, store
        self.reader = connection.makefile("rb", 1 << 16)
        self.namespace = b"\0"

    def answer(self, status=OK, body=b"", payload=b"", flags=0):
        head = struct.pack("<4sBBHQIHHIIQI", b"KVS1", 1, self.verb, flags | RESPONSE, self.number,
                           0, status, 0, len(body), checksum(body) & 0xFFFF_FFFF, len(payload), 0)
        self.connection.sendall(
            head + struct.pack("<I", checksum(head) & 0xFFFF_FFFF) + body + payload)

    def serve(self):
        while len(head := self.reader.read(48)) == 48:
            self.verb, _, self.number, _, _, _, body_byte_count, _, payload_byte_count = (
                struct.unpack_from("<BHQIHHIIQ", head, 5))
            body = self.reader.read(body_byte_count)
            payload = self.reader.read(payload_byte_count)
            if len(payload) < payload_byte_count:
                if self.store.lie == "torn" and self.verb == PUT:
                    self.put(body, payload)
                return
            if self.store.lie == "dies" and random.random() < 0.005:
                os._exit(3)
            HANDLERS[self.verb](self, body, payload)

    def name(self, key):
        return (b"\0" if self.store.lie == "neighbours" else self.namespace) + key

    def keys(self, body, start):
        return [self.name(body[offset:offset + 32]) for offset in range(start, len(body), 32)]

    def hello(self, body, _):
        self.namespace = body[13:14] or b"\0"
        self.answer(body=bytes(141))

    def put(self, body, payload):
        key, layout, count, ttl_ms = struct.unpack_from("<32s16sQI", body)
        data = payload[:count].ljust(count, b"\0")
        self.answer(self.store.put(self.name(key), data, layout, ttl_ms))

    def get(self, body, _):
        _, _, options = struct.unpack_from("<HBB", body)
        start, count = struct.unpack_from("<QQ", body, 24) if options & 2 else (0, 1 << 62)
        names = self.keys(body, 40 if options & 2 else 24)
        for index, name in enumerate(names):
            flags = MORE if index + 1 < len(names) else 0
            chunk = self.store.find(name)
            if chunk is None:
                self.answer(NOT_FOUND, struct.pack("<IH", index, 0), flags=flags)
                continue
            data = chunk[0][start:start + count]
            if options & 2 and len(data) < count:
                self.answer(LIMIT_EXCEEDED, struct.pack("<IH", index, 0), flags=flags)
                continue
            self.answer(OK, struct.pack("<IIQQ16sQ", index, 0, len(chunk[0]), checksum(data),
                                        chunk[1], remaining(chunk)), data, flags)

    def look_up(self, body, _):
        chunks = [self.store.find(name) for name in self.keys(body, 8)]
        self.answer(body=struct.pack("<II", 0, len(chunks)) + b"".join(
            struct.pack("<HBBIQQ", OK, 2, 0, 5, len(chunk[0]), remaining(chunk)) if chunk else
            struct.pack("<HBBIQQ", NOT_FOUND, 0, 0, 0, 0, 0) for chunk in chunks))

    def change(self, body, _):
        names = self.keys(body, 16 if self.verb == PIN else 8)
        statuses = [self.store.delete(name) if self.verb == DELETE
                    else OK if self.store.find(name) else NOT_FOUND for name in names]
        self.answer(body=struct.pack(
            f"<II{len(statuses)}H", statuses.count(OK), len(statuses), *statuses))

    def stat(self, *_):
        self.answer(body=bytes(4))


HANDLERS = {HELLO: Session.hello, PUT: Session.put, GET: Session.get, LOOKUP: Session.look_up,
            DELETE: Session.change, PIN: Session.change, UNPIN: Session.change, STAT: Session.stat}


def serve(connection, store):
    try:
        Session(connection, store).serve()
    except OSError:
        pass
    finally:
        connection.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lie", choices=LIES, default="none")
    parser.add_argument("--ssd-directories", required=True)
    parser.add_argument("--ready-file", required=True, type=pathlib.Path)
    options, _ = parser.parse_known_args()
    # Everything is in the file: nothing is left to do.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    store = Store(options.lie, pathlib.Path(options.ssd_directories.split(",")[0]) / "liar")
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    options.ready_file.write_text(json.dumps({"addresses": [f"tcp:127.0.0.1:{port}"]}))
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, store), daemon=True).start()


if __name__ == "__main__":
    main()
