# SPDX-License-Identifier: Apache-2.0
"""LMCache's lm:// protocol, as its connector speaks it: one blocking socket, 186 and 36 bytes."""
import os
import socket
import struct
import time

import conftest
import pytest

PUT, GET, EXIST, LIST, HEALTH = range(1, 6)
NO_PAYLOAD = (1, 2, 0, 0, 0, 0, 0)


class Connector(conftest.Wire):
    """Takes every header with a single recv, as the stock client does."""

    def request(self, command, key="", length=0, metadata=(0, 0, 0, 0, 0, 0, 0)):
        self.send(struct.pack("<9i150s", command, length, *metadata, key.encode().ljust(150)))

    def put(self, key, value, metadata):
        self.request(PUT, key, len(value), metadata)
        self.send(value)

    def reply(self):
        head = self.socket.recv(36)
        assert len(head) == 36, "the header came in pieces"
        code, length, *metadata = struct.unpack("<9i", head)
        return code, tuple(metadata), self.receive(length)

    def get(self, key):
        self.request(GET, key)
        return self.reply()

    def exists(self, key):
        self.request(EXIST, key)
        code, metadata, payload = self.reply()
        assert (metadata, payload) == (NO_PAYLOAD, b"")
        return code == 200


def test_the_example_of_the_docs(daemon):
    with Connector(daemon.lm_port) as connector:
        connector.send(bytes.fromhex(
            "01000000 08000000 01000000 03000000 00000000 02000000 04000000 00000000 00000000")
            + b"m@1@0@ff@bfloat16".ljust(150) + bytes(range(1, 9)))
        connector.request(GET, "m@1@0@ff@bfloat16")
        assert connector.receive(44) == bytes.fromhex(
            "c8000000 08000000 01000000 03000000 02000000 04000000 00000000 00000000 00000000"
            "0102030405060708")


@pytest.mark.parametrize("size", [0, 1, 100, 65_536, 1 << 20, (4 << 20) + 1])
def test_values_and_metadata_come_back(daemon, size):
    with Connector(daemon.lm_port) as connector:
        value = os.urandom(size)
        # Format, dtype, location, shape; a reply has the location last.
        connector.put(f"m@1@0@{size:x}@half", value, (2, 3, 1, 2, 4, 256, 1024))
        code, metadata, payload = connector.get(f"m@1@0@{size:x}@half")
        assert (code, metadata) == (200, (2, 3, 2, 4, 256, 1024, 1))
        assert payload == value
        assert connector.exists(f"m@1@0@{size:x}@half")
        assert not connector.exists(f"m@1@0@{size:x}@floa")


def test_a_miss_is_400(daemon):
    with Connector(daemon.lm_port) as connector:
        assert connector.get("absent") == (400, NO_PAYLOAD, b"")
        connector.request(HEALTH)
        assert connector.reply() == (200, NO_PAYLOAD, b"")
        # Nobody answers a LIST, and the connection goes on.
        connector.request(LIST)
        assert not connector.exists("absent")


def test_a_put_replaces(daemon):
    with Connector(daemon.lm_port) as connector:
        for size in (100, 3_000_000, 10):
            value = os.urandom(size)
            connector.put("replaced", value, (1, 2, 0, size, 0, 0, 0))
            assert connector.get("replaced") == (200, (1, 2, size, 0, 0, 0, 0), value)


def test_memory_is_bounded():
    # The reference server keeps everything, and is killed for it.
    with conftest.running(budget="32MiB") as daemon, Connector(daemon.lm_port) as connector:
        for number in range(200):
            connector.put(f"key-{number}", os.urandom(1 << 20), (1, 2, 0, 1, 0, 0, 0))
        code, _, payload = connector.get("key-199")
        assert (code, len(payload)) == (200, 1 << 20)
        assert connector.get("key-0")[0] == 400
        assert daemon.resident_byte_count() < (32 + 64) << 20


def test_too_large_a_value_is_read_past(daemon):
    with Connector(daemon.lm_port) as connector:
        connector.put("large", b"small", (1, 2, 0, 5, 0, 0, 0))
        connector.request(PUT, "large", 70 << 20, (1, 2, 0, 5, 0, 0, 0))
        for _ in range(70):
            connector.send(bytes(1 << 20))
        # Neither the new value nor the old one.
        assert connector.get("large")[0] == 400


@pytest.mark.parametrize("data", [
    struct.pack("<9i150s", 9, 0, *([0] * 7), b"k".ljust(150)),
    struct.pack("<9i150s", PUT, -1, *([0] * 7), b"k".ljust(150)),
    struct.pack("<9i150s", GET, 0, *([0] * 7), b"k\0".ljust(150)),
    b"*1\r\n$4\r\nPING\r\n" + bytes(180),
])
def test_what_is_no_request_ends_the_connection(daemon, data):
    with Connector(daemon.lm_port) as connector:
        connector.send(data)
        assert connector.receive(1) == b""


def test_values_survive_a_restart(tmp_path):
    (tmp_path / "ssd").mkdir()
    arguments = ("--ssd-directories", str(tmp_path / "ssd"), "--ssd-capacity", "256MiB")
    value = os.urandom(1 << 20)
    with conftest.running(*arguments, folder=tmp_path) as daemon:
        with Connector(daemon.lm_port) as connector:
            connector.put("kept", value, (1, 3, 0, 2, 4, 5, 6))
            assert connector.exists("kept")
    with conftest.running(*arguments, folder=tmp_path) as daemon:
        with Connector(daemon.lm_port) as connector:
            assert connector.exists("kept")
            assert connector.get("kept") == (200, (1, 3, 2, 4, 5, 6, 0), value)


def test_idle_connections_stay_open():
    with conftest.running("--limits-request-deadline", "100ms") as daemon:
        with Connector(daemon.lm_port) as connector:
            connector.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connector.put("key", b"value", (1, 2, 0, 5, 0, 0, 0))
            time.sleep(1.5)
            assert connector.get("key")[2] == b"value"
