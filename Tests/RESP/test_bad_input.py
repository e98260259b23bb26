# SPDX-License-Identifier: Apache-2.0
"""What is no request, what is too much of one, and clients that do not do their part: an error or
the end of the connection, within bounds, and memory stays in its budget."""
import os
import socket
import time

import conftest
import pytest
import redis

MEBIBYTE = 1 << 20


@pytest.mark.parametrize("data", [
    b"PING\r\n", b"\rx", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\0" * 100,
    b"*-1\r\n", b"*-5\r\n", b"*1000000\r\n", b"*99999999999999999999\r\n", b"*x\r\n",
    b"*1\r\n$-1\r\n", b"*1\r\n$536870913\r\n", b"*1\r\n+OK\r\n", b"*1\r\n$4\r\nPINGxx",
    b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$-1\r\n", b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870913\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$99999999999\r\n", b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nvxx",
])
def test_what_is_no_request_is_told_and_closed(daemon, data):
    with conftest.Wire(daemon.port) as wire:
        wire.send(data)
        assert wire.line().startswith(b"-ERR Protocol error: ")
        assert wire.is_closed()


def test_requests_before_a_bad_one_are_answered(daemon):
    with conftest.Wire(daemon.port) as wire:
        wire.send(conftest.request("PING") + conftest.request("SET", "k", "v") + b"junk\r\n")
        assert wire.line() == b"+PONG\r\n"
        assert wire.line() == b"+OK\r\n"
        assert wire.line().startswith(b"-ERR Protocol error: ")
        assert wire.is_closed()


def test_requests_come_in_any_pieces(daemon):
    data = b"".join([
        conftest.request("SET", "pieces", b"v" * 20_000), conftest.request("GET", "pieces"),
        b"*0\r\n", conftest.request("PING")])
    wanted = b"+OK\r\n$20000\r\n" + b"v" * 20_000 + b"\r\n+PONG\r\n"
    for size in (1, 7, 1000, 16_384, 16_385):
        # Where the pieces are very small, the rest comes at once.
        end = 300 if size < 1000 else len(data)
        with conftest.Wire(daemon.port) as wire:
            for offset in range(0, end, size):
                wire.send(data[offset:min(offset + size, end)])
            wire.send(data[end:])
            assert wire.receive(len(wanted)) == wanted


def test_too_large_a_value_is_read_past(daemon):
    with conftest.Wire(daemon.port) as wire:
        wire.send(b"*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$%d\r\n" % (70 * MEBIBYTE))
        for _ in range(70):
            wire.send(bytes(MEBIBYTE))
        wire.send(b"\r\n" + conftest.request("PING"))
        assert wire.line().startswith(b"-ERR value is too large")
        assert wire.line() == b"+PONG\r\n"


def test_too_large_a_request_is_read_past(daemon):
    with conftest.Wire(daemon.port) as wire:
        keys = [b"x" * 500 + str(number).encode() for number in range(1000)]
        wire.send(conftest.request("MGET", *keys) + conftest.request("PING"))
        assert wire.line().startswith(b"-ERR request is too large")
        assert wire.line() == b"+PONG\r\n"


def test_password():
    with conftest.running("--resp-password", "secret") as daemon:
        with conftest.Wire(daemon.port) as wire:
            for words in (("GET", "k"), ("SET", "k", "v"), ("PING",), ("INFO",), ("COMMAND",)):
                assert wire.ask(*words).startswith(b"-NOAUTH ")
            began = time.monotonic()
            assert wire.ask("AUTH", "wrong").startswith(b"-WRONGPASS ")
            assert time.monotonic() - began >= 0.045
            assert wire.ask("AUTH", "somebody", "secret").startswith(b"-WRONGPASS ")
            assert wire.ask("HELLO", "3").startswith(b"-NOAUTH ")
            assert wire.ask("AUTH", "default", "secret") == b"+OK\r\n"
            assert wire.ask("SET", "k", "v") == b"+OK\r\n"
        for data in (b"*11\r\n", b"*2\r\n$4\r\nAUTH\r\n$1025\r\n",
                     b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\n"):
            with conftest.Wire(daemon.port) as wire:
                wire.send(data)
                assert wire.line().startswith(b"-ERR Protocol error: unauthenticated ")
                assert wire.is_closed()
        with redis.Redis(port=daemon.port, password="secret", protocol=3) as client:
            assert client.get("k") == b"v"
        with redis.Redis(port=daemon.port, username="default", password="secret") as client:
            assert client.get("k") == b"v"
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=daemon.port, password="wrong").ping()
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=daemon.port).ping()


def test_slow_and_silent_clients_are_cut_off():
    with conftest.running("--resp-transfer-deadline", "3s") as daemon:
        with redis.Redis(port=daemon.port, socket_timeout=30) as client:
            client.set("big", os.urandom(16 * MEBIBYTE))
            silent = conftest.Wire(daemon.port)
            silent.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            # Far more than the sockets hold; nothing is read.
            for _ in range(4):
                silent.send(conftest.request("GET", "big"))
            half = conftest.Wire(daemon.port)
            half.send(b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$1000000\r\nabc")
            begun = conftest.Wire(daemon.port)
            begun.send(b"*2\r\n$3\r\nGE")
            for wire in (half, begun, silent):
                with wire:
                    assert wire.is_closed()
            assert client.get("half") is None
            assert len(client.get("big")) == 16 * MEBIBYTE


def test_memory_stays_in_its_budget():
    budget = 64
    with conftest.running("--resp-connections", "200", budget=f"{budget}MiB") as daemon:
        with redis.Redis(port=daemon.port, socket_timeout=30) as client:
            client.set("big", os.urandom(8 * MEBIBYTE))
            wires = [conftest.Wire(daemon.port) for _ in range(150)]
            for number, wire in enumerate(wires):
                # Values that are announced and do not come, replies that nobody reads, and
                # requests that do not end.
                if number % 3 == 0:
                    wire.send(b"*3\r\n$3\r\nSET\r\n$5\r\nk%04d\r\n$%d\r\nabc"
                              % (number, 8 * MEBIBYTE))
                elif number % 3 == 1:
                    wire.send(conftest.request("GET", "big") * 20)
                else:
                    wire.send(b"*1026\r\n$3\r\nDEL\r\n" + b"$8000\r\n" + b"x" * 8000)
            assert daemon.resident_byte_count() < (budget + 64) * MEBIBYTE
            for number in range(100):
                try:
                    client.set(f"key-{number}", bytes(MEBIBYTE))
                except redis.ResponseError as error:
                    assert "BUSY" in str(error)
            assert daemon.resident_byte_count() < (budget + 64) * MEBIBYTE
            for wire in wires:
                wire.socket.close()
            client.set("after", "all")
            assert client.get("after") == b"all"


def test_too_many_connections_are_told():
    with conftest.running("--resp-connections", "2") as daemon:
        with conftest.Wire(daemon.port) as first, conftest.Wire(daemon.port) as second:
            assert first.ask("PING") == second.ask("PING") == b"+PONG\r\n"
            with conftest.Wire(daemon.port) as third:
                assert third.line() == b"-ERR max number of clients reached\r\n"
                assert third.is_closed()


def test_the_namespace_is_nobody_elses(daemon):
    """The native protocol cannot open it: same answer as to a name that does not exist."""
    import json
    import subprocess
    native = [text for text in json.loads(daemon.ready.read_text())["addresses"]
              if text.startswith("tcp:")][0]
    kvctl = os.path.join(os.path.dirname(os.environ["KVSTORED"]), "kvctl")
    for name in ("resp", "lm", "nosuch"):
        done = subprocess.run([kvctl, "status", "--address", native, "--namespace", name],
                              capture_output=True, check=False, timeout=60)
        assert done.returncode != 0
        assert b"namespace or token" in done.stderr, done.stderr
