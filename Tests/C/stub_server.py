#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A second daemon for the client tests, written from docs/protocol.md alone, that can also lie.

usage: stub_server.py [--behaviour NAME] --listen-unix-socket PATH --ready-file FILE

It keeps chunks in a dictionary. `honest` speaks the protocol; `shared` also grants shared memory;
every other behaviour breaks something in a way that a client must survive (BEHAVIOURS).
"""
import argparse
import ctypes
import ctypes.util
import fcntl
import json
import mmap
import os
import socket
import struct
import sys
import threading
import time

BEHAVIOURS = {
    "honest": "speaks the protocol",
    "forgetful": "speaks the protocol, and has nothing that would survive a restart",
    "shared": "grants shared memory",
    "refuses-leases": "grants shared memory, then answers LEASE with unsupported",
    "no-staging-room": "grants shared memory, then answers RESERVE with busy",
    "silent": "accepts and never answers",
    "silent-after-hello": "answers HELLO only",
    "trickle": "answers byte by byte, ten bytes a second",
    "close-at-once": "closes as soon as it has accepted",
    "busy-at-accept": "answers busy with request id 0 and closes",
    "unauthorized": "refuses every HELLO",
    "wrong-header-checksum": "damages every header after HELLO",
    "wrong-body-checksum": "damages every body after HELLO",
    "wrong-payload-checksum": "damages every payload",
    "close-in-payload": "closes in the middle of a payload",
    "body-bomb": "announces a body of 4 GiB",
    "payload-bomb": "announces a payload of 2^60 bytes",
    "payload-lie": "announces more payload than the chunk has",
    "payload-everywhere": "adds a payload to frames that have none",
    "wrong-id": "answers another request",
    "more-for-ever": "never sends the last frame",
    "wrong-index": "names another key in a GET frame",
    "count-lie": "announces more records than were asked for",
    "lease-outside": "leases bytes beyond the arena",
    "reserve-outside": "reserves bytes beyond the staging region",
    "unsealed": "grants an arena without seals and shrinks it",
    "small-arena": "announces a larger arena than it hands over",
    "unknown-status": "answers every request with status 999",
    "final": "closes after every answer, saying so",
    "drop-every-second": "closes silently after every second answer",
}

HELLO, PING, PUT, GET, LOOKUP, DELETE, STAT = 0x01, 0x02, 0x10, 0x11, 0x12, 0x13, 0x14
LEASE, RELEASE, RESERVE, COMMIT, ABORT = 0x20, 0x21, 0x22, 0x23, 0x24
PIN, UNPIN, CONTROL = 0x30, 0x31, 0x60
OK, NOT_FOUND, EXISTS, CHECKSUM_MISMATCH, UNAUTHORIZED, UNSUPPORTED = 0, 1, 2, 6, 7, 8
NO_LEASE, LIMIT_EXCEEDED, LAYOUT_MISMATCH, NOT_DURABLE = 12, 14, 15, 17
BUSY, PINNED_MOST = 3, 4
RESPONSE, MORE, FINAL = 1, 2, 4
FOR_EVER = 2**64 - 1
ARENA_BYTES = 64 << 20
STAGING_BYTES = 16 << 20
SECRET = bytes(range(32))

_xxhash = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
_xxhash.XXH3_64bits.restype = ctypes.c_uint64
_xxhash.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def checksum(data):
    """XXH3-64 with seed 0."""
    data = bytes(data)
    return _xxhash.XXH3_64bits(data, len(data))


def header(verb, flags, request_id, status, body, payload_bytes):
    """The 48 bytes of a frame's header."""
    head = struct.pack("<4sBBHQIHHIIQI", b"KVS1", 1, verb, flags, request_id, 0, status, 0,
                       len(body), checksum(body) & 0xFFFFFFFF, payload_bytes, 0)
    return head + struct.pack("<I", checksum(head) & 0xFFFFFFFF)


def region(byte_count, name, sealed=True):
    """A memfd of the given size and its mapping."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, byte_count)
    view = mmap.mmap(descriptor, byte_count)
    if sealed:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return descriptor, view


class Store:
    """Chunks by key: (bytes, layout id, expiry or None, arena offset or None)."""

    def __init__(self, behaviour):
        self.behaviour = behaviour
        self.lock = threading.Lock()
        self.chunks = {}
        self.pinned = set()
        # What a chunk, a pin or a removal is answered with that a restart shall not undo.
        self.durable = NOT_DURABLE if behaviour == "forgetful" else OK
        self.arena_used = 0
        self.shares = behaviour in ("shared", "refuses-leases", "no-staging-room", "lease-outside",
                                    "reserve-outside", "unsealed", "small-arena")
        if self.shares:
            self.arena = region(ARENA_BYTES, "arena", sealed=behaviour != "unsealed")

    def put(self, key, layout, data, milliseconds, acknowledge, level=0):
        with self.lock:
            done = self.durable if acknowledge else OK
            if key in self.chunks:
                return done or EXISTS
            expiry = time.monotonic() + milliseconds / 1000 if milliseconds else None
            offset = None
            if level == 0 and self.shares and self.arena_used + len(data) <= ARENA_BYTES:
                offset = self.arena_used
                self.arena[1][offset:offset + len(data)] = data
                self.arena_used += (len(data) + 4095) & ~4095
            self.chunks[key] = (data, layout, expiry, offset, level)
            return done

    def find(self, key):
        with self.lock:
            chunk = self.chunks.get(key)
            if chunk and chunk[2] is not None and time.monotonic() >= chunk[2]:
                del self.chunks[key]
                return None
            return chunk

    def delete(self, key):
        with self.lock:
            self.pinned.discard(key)
            return NOT_FOUND if self.chunks.pop(key, None) is None else self.durable

    def pin(self, key):
        with self.lock:
            if key not in self.chunks:
                return NOT_FOUND
            if len(self.pinned | {key}) > PINNED_MOST:
                return BUSY
            self.pinned.add(key)
            return self.durable

    def unpin(self, key):
        with self.lock:
            self.pinned.discard(key)
            return self.durable if key in self.chunks else NOT_FOUND


def remaining(chunk):
    return FOR_EVER if chunk[2] is None else max(0, int((chunk[2] - time.monotonic()) * 1000))


class Closed(Exception):
    """The connection ends."""


class Connection:
    def __init__(self, sock, store):
        self.sock = sock
        self.store = store
        self.behaviour = store.behaviour
        self.descriptor = None  # to send with the next frame
        self.staging = None
        self.staging_used = 0
        self.reservations = {}
        self.answered = 0

    def read(self, byte_count):
        data = bytearray()
        while len(data) < byte_count:
            part = self.sock.recv(min(1 << 20, byte_count - len(data)))
            if not part:
                raise Closed
            data += part
        return bytes(data)

    def write(self, data):
        if self.behaviour == "trickle":
            for byte in data:
                self.sock.sendall(bytes([byte]))
                time.sleep(0.1)
        elif self.descriptor is not None:
            sent = socket.send_fds(self.sock, [data], [self.descriptor])
            self.descriptor = None
            self.sock.sendall(data[sent:])
        else:
            self.sock.sendall(data)

    def answer(self, verb, request_id, status=OK, body=b"", payload=b"", flags=0):
        payload_bytes = len(payload)
        lie = self.behaviour if verb != HELLO else ""
        if lie == "unknown-status":
            status, body = 999, b""
        if status != OK and not body:
            text = b"stub"
            body = struct.pack("<H", len(text)) + text
        if lie == "wrong-id":
            request_id += 1
        if lie == "more-for-ever" and verb == GET:
            flags |= MORE
        if lie == "final" and not flags & MORE:
            flags |= FINAL
        if lie == "payload-bomb":
            payload_bytes = 1 << 60
        if lie == "payload-everywhere" and verb != GET:
            payload = b"surprise"
            payload_bytes = len(payload)
        if lie == "payload-lie" and payload:
            payload_bytes += 1
            payload += b"x"
        if lie == "wrong-payload-checksum" and payload:
            payload = bytes([payload[0] ^ 1]) + payload[1:]
        head = bytearray(header(verb, flags | RESPONSE, request_id, status, body, payload_bytes))
        if lie == "wrong-header-checksum":
            head[44] ^= 1
        if lie == "wrong-body-checksum" and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        if lie == "body-bomb":
            head[24:28] = b"\xff\xff\xff\xff"
            head[44:48] = struct.pack("<I", checksum(head[:44]) & 0xFFFFFFFF)
        if lie == "close-in-payload" and payload:
            self.write(bytes(head) + body + payload[:len(payload) // 2])
            raise Closed
        self.write(bytes(head) + body + payload)
        self.answered += 1
        if flags & FINAL or (lie == "drop-every-second" and self.answered % 2 == 0):
            raise Closed

    def serve(self):
        if self.behaviour == "silent":
            while self.sock.recv(65536):
                pass
            return
        if self.behaviour == "close-at-once":
            return
        if self.behaviour == "busy-at-accept":
            self.answer(HELLO, 0, status=3, flags=FINAL)
        while True:
            head = self.read(48)
            (magic, version, verb, _flags, request_id, _deadline, status, reserved, body_bytes,
             body_sum, payload_bytes, reserved2, head_sum) = struct.unpack("<4sBBHQIHHIIQII", head)
            assert magic == b"KVS1" and version == 1 and not (status or reserved or reserved2)
            assert head_sum == checksum(head[:44]) & 0xFFFFFFFF, "header checksum"
            body = self.read(body_bytes)
            assert body_sum == checksum(body) & 0xFFFFFFFF, "body checksum"
            payload = self.read(payload_bytes)
            if self.behaviour == "silent-after-hello" and verb != HELLO:
                continue
            HANDLERS[verb](self, request_id, body, payload)

    def hello(self, request_id, body, _payload):
        low, high, reserved, wanted = struct.unpack_from("<BBHQ", body)
        assert low <= 1 <= high and reserved == 0
        name_bytes = body[12]
        token_bytes = struct.unpack_from("<H", body, 13 + name_bytes)[0]
        client_bytes = body[15 + name_bytes + token_bytes]
        assert len(body) == 16 + name_bytes + token_bytes + client_bytes, "HELLO length"
        if self.behaviour == "unauthorized":
            self.answer(HELLO, request_id, UNAUTHORIZED, flags=FINAL)
        granted = wanted & 1 if self.store.shares else 0
        arena_bytes = ARENA_BYTES if granted else 0
        if granted:
            self.descriptor = self.store.arena[0]
        if self.behaviour == "small-arena":
            arena_bytes *= 2
        name = b"stub 1"
        self.answer(HELLO, request_id, body=struct.pack(
            "<B3xQ32sQIIQIIQQ48xB", 1, granted, SECRET, 7, 65536, 1024, 1 << 28, 64, 30000,
            arena_bytes, STAGING_BYTES if granted else 0, len(name)) + name)
        if self.behaviour == "unsealed":
            os.ftruncate(self.store.arena[0], 0)

    def ping(self, request_id, body, _payload):
        assert not body
        self.answer(PING, request_id)

    def put(self, request_id, body, payload):
        key, layout, count, milliseconds, level, acknowledge = struct.unpack("<32s16sQIBB10x", body)
        assert level <= 6 and acknowledge <= 1 and len(payload) == count + 8
        data = payload[:-8]
        if struct.unpack("<Q", payload[-8:])[0] != checksum(data):
            self.answer(PUT, request_id, CHECKSUM_MISMATCH)
            return
        self.answer(PUT, request_id,
                    self.store.put(key, layout, data, milliseconds, acknowledge, level))

    def get(self, request_id, body, _payload):
        count, level, options, layout = struct.unpack_from("<HBB4x16s", body)
        offset, length = struct.unpack_from("<QQ", body, 24) if options & 2 else (0, None)
        start = 40 if options & 2 else 24
        assert len(body) == start + 32 * count and count > 0 and options <= 3 and length != 0
        for index in range(count):
            key = body[start + 32 * index:start + 32 + 32 * index]
            chunk = self.store.find(key)
            if chunk is not None and chunk[4] != 0 and level == 0:
                chunk = None  # nothing is decoded here
            flags = MORE if index + 1 < count else 0
            named = index + 1 if self.behaviour == "wrong-index" else index
            status = NOT_FOUND if chunk is None else OK
            if chunk is not None and options & 1 and chunk[1] != layout:
                status = LAYOUT_MISMATCH
            elif chunk is not None and length is not None and offset + length > len(chunk[0]):
                status = LIMIT_EXCEEDED
            if status != OK:
                self.answer(GET, request_id, status, struct.pack("<IH4s", named, 4, b"miss"),
                            flags=flags)
            else:
                payload = chunk[0] if length is None else chunk[0][offset:offset + length]
                self.answer(GET, request_id, OK, self.describe(named, chunk, payload), payload,
                            flags)

    @staticmethod
    def describe(index, chunk, payload):
        return struct.pack("<IB3xQQ16sQ", index, chunk[4], len(chunk[0]), checksum(payload),
                           chunk[1], remaining(chunk))

    def lookup(self, request_id, body, _payload):
        count, mode = struct.unpack_from("<HB5x", body)
        assert len(body) == 8 + 32 * count
        chunks = [self.store.find(body[8 + 32 * i:40 + 32 * i]) for i in range(count)]
        prefix = next((i for i, chunk in enumerate(chunks) if chunk is None), count)
        if mode == 1:
            chunks = chunks[:prefix]
        records = b"".join(
            struct.pack("<HBBIQQ", 1, 0, 0, 0, 0, 0) if chunk is None else
            struct.pack("<HBBIQQ", 0, 1, 0, 5, len(chunk[0]), remaining(chunk))
            for chunk in chunks)
        lie = 1000 if self.behaviour == "count-lie" else 0
        self.answer(LOOKUP, request_id,
                    body=struct.pack("<II", prefix + lie, len(chunks) + lie) + records)

    def delete(self, request_id, body, _payload):
        self.answer_statuses(DELETE, request_id, body, 8, self.store.delete)

    def pin(self, request_id, body, _payload):
        assert 1 <= struct.unpack_from("<Q", body, 8)[0] <= 1 << 40
        self.answer_statuses(PIN, request_id, body, 16, self.store.pin)

    def unpin(self, request_id, body, _payload):
        self.answer_statuses(UNPIN, request_id, body, 8, self.store.unpin)

    def answer_statuses(self, verb, request_id, body, start, do):
        count = struct.unpack_from("<H6x", body)[0]
        assert len(body) == start + 32 * count and count > 0
        statuses = [do(body[start + 32 * i:start + 32 + 32 * i]) for i in range(count)]
        lie = 1000 if self.behaviour == "count-lie" else 0
        self.answer(verb, request_id, body=struct.pack(
            f"<II{count}H", statuses.count(OK), count + lie, *statuses))

    def control(self, request_id, body, _payload):
        operation, size = struct.unpack_from("<H6xH", body)
        argument = body[10:].decode()
        assert len(body) == 10 + size
        if operation == 3 and argument != "/srv/größer":
            self.answer(CONTROL, request_id, NOT_FOUND)
            return
        told = {"operation": str(operation), "argument": argument, "used_bytes": str(3 << 20)}
        self.answer(CONTROL, request_id, body=struct.pack("<H", len(told)) + b"".join(
            struct.pack("<B", len(name)) + name.encode()
            + struct.pack("<H", len(text.encode())) + text.encode()
            for name, text in told.items()))

    def stat(self, request_id, body, _payload):
        if body[0] == 1:
            chunk = self.store.find(body[8:40])
            if chunk is None:
                self.answer(STAT, request_id, NOT_FOUND)
            else:
                self.answer(STAT, request_id, body=self.describe(0, chunk, chunk[0]))
            return
        pairs = {"chunks": len(self.store.chunks), "memory_budget_bytes": ARENA_BYTES,
                 "n" * 200: 1}
        lie = 1000 if self.behaviour == "count-lie" else 0
        self.answer(STAT, request_id, body=struct.pack("<I", len(pairs) + lie) + b"".join(
            struct.pack("<B", len(name)) + name.encode() + struct.pack("<Q", value)
            for name, value in pairs.items()))

    def lease(self, request_id, body, _payload):
        if not self.store.shares or self.behaviour == "refuses-leases":
            self.answer(LEASE, request_id, UNSUPPORTED)
            return
        count, released, milliseconds = struct.unpack_from("<HHI8x", body)
        assert len(body) == 16 + 8 * released + 32 * count
        milliseconds = min(milliseconds or 30000, 30000)
        records = b""
        for index in range(count):
            start = 16 + 8 * released + 32 * index
            chunk = self.store.find(body[start:start + 32])
            if chunk is None or chunk[3] is None:
                records += struct.pack("<H46x", NOT_FOUND)
                continue
            offset = 2**64 - 8 if self.behaviour == "lease-outside" else chunk[3]
            records += struct.pack("<HB5xQQQQQ", OK, 0, index + 1, offset, len(chunk[0]),
                                   checksum(chunk[0]), remaining(chunk))
        expiry = time.monotonic_ns() + milliseconds * 1_000_000
        self.answer(LEASE, request_id, body=struct.pack("<I4xQ", count, expiry) + records)

    def release(self, request_id, body, _payload):
        count = struct.unpack_from("<H6x", body)[0]
        assert len(body) == 8 + 8 * count
        self.answer(RELEASE, request_id, body=struct.pack("<I4x", count))

    def reserve(self, request_id, body, _payload):
        key, layout, count, milliseconds, _level, acknowledge = struct.unpack_from(
            "<32s16sQIBB", body)
        if self.store.find(key) is not None:
            self.answer(RESERVE, request_id, (acknowledge and self.store.durable) or EXISTS)
            return
        if self.behaviour == "no-staging-room":
            self.answer(RESERVE, request_id, BUSY)
            return
        if self.staging is None:
            self.staging = region(STAGING_BYTES, "staging")
            self.descriptor = self.staging[0]
        if self.staging_used + count > STAGING_BYTES:
            self.staging_used = 0
        offset = self.staging_used
        self.staging_used += (count + 4095) & ~4095
        number = len(self.reservations) + 1
        self.reservations[number] = (key, layout, offset, count, milliseconds, acknowledge)
        if self.behaviour == "reserve-outside":
            offset = STAGING_BYTES - count + 1
        self.answer(RESERVE, request_id, body=struct.pack(
            "<QQQQ", number, offset, STAGING_BYTES, time.monotonic_ns() + 10**9))

    def commit(self, request_id, body, _payload):
        number, expected = struct.unpack("<QQ", body)
        reservation = self.reservations.pop(number, None)
        if reservation is None:
            self.answer(COMMIT, request_id, NO_LEASE)
            return
        key, layout, offset, count, milliseconds, acknowledge = reservation
        data = self.staging[1][offset:offset + count]
        status = self.store.put(key, layout, data, milliseconds, acknowledge)
        self.answer(COMMIT, request_id, status if checksum(data) == expected else CHECKSUM_MISMATCH)

    def abort(self, request_id, body, _payload):
        known = self.reservations.pop(struct.unpack("<Q", body)[0], None)
        self.answer(ABORT, request_id, OK if known else NO_LEASE)


HANDLERS = {HELLO: Connection.hello, PING: Connection.ping, PUT: Connection.put,
            GET: Connection.get, LOOKUP: Connection.lookup, DELETE: Connection.delete,
            STAT: Connection.stat, LEASE: Connection.lease, RELEASE: Connection.release,
            RESERVE: Connection.reserve, COMMIT: Connection.commit, ABORT: Connection.abort,
            PIN: Connection.pin, UNPIN: Connection.unpin, CONTROL: Connection.control}


def serve_connection(sock, store):
    connection = Connection(sock, store)
    try:
        connection.serve()
    except (Closed, ConnectionError, BrokenPipeError):
        pass
    finally:
        if connection.staging is not None:
            os.close(connection.staging[0])
        sock.close()


def serve_socket(listener, store):
    while True:
        sock, _ = listener.accept()
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve_connection, args=(sock, store), daemon=True).start()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--behaviour", choices=BEHAVIOURS, default="honest")
    parser.add_argument("--listen-unix-socket", required=True)
    parser.add_argument("--ready-file", required=True)
    arguments = parser.parse_args()
    store = Store(arguments.behaviour)
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(arguments.listen_unix_socket)
    tcp = socket.create_server(("127.0.0.1", 0))
    for listener in (unix, tcp):
        listener.listen(64)
        threading.Thread(target=serve_socket, args=(listener, store), daemon=True).start()
    with open(arguments.ready_file + ".new", "w", encoding="utf-8") as file:
        json.dump({"unixSocket": arguments.listen_unix_socket,
                   "tcpPort": tcp.getsockname()[1]}, file)
    os.rename(arguments.ready_file + ".new", arguments.ready_file)
    sys.stdin.read()  # ends with whoever started it


if __name__ == "__main__":
    main()
