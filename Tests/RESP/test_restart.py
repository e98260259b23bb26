# SPDX-License-Identifier: Apache-2.0
"""Connections that outlive the daemon: a restart under systemd, which keeps their sockets."""
import contextlib
import os
import socket
import time

import conftest
import pytest
import redis
from conftest import Daemon, Wire, request
from supervisor import Supervisor
from test_lm import NO_PAYLOAD, Connector

GRACE = ("--shutdown-grace", "1s")


class Service:
    """A daemon that is stopped and started again under a supervisor."""

    def __init__(self, folder, supervisor, *arguments):
        self.folder, self.supervisor, self.arguments = folder, supervisor, arguments
        self.daemon = Daemon(folder, *arguments, supervisor=supervisor)

    def stop(self):
        self.daemon.stop()

    def start(self, *arguments):
        """With other arguments, if any are given."""
        self.daemon = Daemon(self.folder, *(arguments or self.arguments),
                             supervisor=self.supervisor, before=self.daemon)

    def restart(self, *arguments):
        self.stop()
        self.start(*arguments)


@contextlib.contextmanager
def service(folder, *arguments, **options):
    with Supervisor(folder, **options) as supervisor:
        one = Service(folder, supervisor, *arguments)
        try:
            yield one
        finally:
            one.daemon.stop()


def backend(name):
    return ("--io-backend", name)


@pytest.mark.parametrize("io", ["auto", "poll"])
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("password", [None, "correct horse"])
def test_a_redis_client_goes_on(tmp_path, io, protocol, password):
    arguments = backend(io) + (("--resp-password", password) if password else ())
    with service(tmp_path, *arguments) as one:
        # A connection, not a client, which would connect again.
        connection = redis.connection.Connection(
            "127.0.0.1", one.daemon.port, password=password, protocol=protocol, socket_timeout=30)
        connection.connect()
        name = connection._sock.getsockname()
        for value in (b"first", b"second", b"third"):
            connection.send_command("SET", "key", value)
            assert connection.read_response() == b"OK"
            connection.send_command("GET", "key")
            assert connection.read_response() == value
            one.restart()
            assert connection._sock.getsockname() == name
            # What was in memory alone is gone; a nil has the form of the version.
            connection.send_command("GET", "key")
            assert connection.read_response() is None
            connection.send_command("CONFIG", "GET", "x")
            assert connection.read_response() == ([] if protocol == 2 else {})
        assert one.supervisor.store == []
        connection.disconnect()


@pytest.mark.parametrize("io", ["auto", "poll"])
def test_an_lm_client_goes_on_and_finds_what_was_on_ssd(tmp_path, io):
    (tmp_path / "ssd").mkdir()
    ssd = ("--ssd-directories", str(tmp_path / "ssd"), "--ssd-capacity", "256MiB")
    value = os.urandom(1 << 20)
    with service(tmp_path, *ssd, *backend(io)) as one, Connector(one.daemon.lm_port) as connector:
        connector.put("key", value, (2, 3, 0, 1, 2, 3, 4))
        assert connector.exists("key")
        for _ in range(2):
            one.restart()
            code, metadata, payload = connector.get("key")
            assert (code, metadata) == (200, (2, 3, 1, 2, 3, 4, 0))
            assert payload == value
            assert not connector.exists("absent")


@pytest.mark.parametrize("io", ["auto", "poll"])
def test_what_is_sent_while_no_daemon_runs_is_answered(tmp_path, io):
    with service(tmp_path, *backend(io)) as one, Wire(one.daemon.port) as wire, \
            Connector(one.daemon.lm_port) as connector:
        assert wire.ask("PING") == b"+PONG\r\n"
        assert not connector.exists("absent")
        one.stop()
        assert one.supervisor.names() == [
            "kvstored-1-lm", "kvstored-1-resp-2-open", "kvstored-1-state"]
        for number in range(100):
            wire.send(request("SET", f"key-{number}", f"value-{number}"))
            wire.send(request("GET", f"key-{number}"))
        connector.put("key", b"value", (1, 2, 0, 5, 0, 0, 0))
        connector.request(2, "key")
        one.start()
        for number in range(100):
            assert wire.line() == b"+OK\r\n"
            assert wire.line() == b"$%d\r\n" % len(f"value-{number}")
            assert wire.line() == f"value-{number}\r\n".encode()
        assert connector.reply() == (200, (1, 2, 5, 0, 0, 0, 0), b"value")
        one.supervisor.wait_until(
            lambda: "connections of the daemon before go on" in one.daemon.log())


def test_many_connections_go_on_at_once(tmp_path):
    with service(tmp_path) as one, contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(one.daemon.port)) for _ in range(60)]
        for number, wire in enumerate(wires):
            assert wire.ask("ECHO", number).startswith(b"$")
            wire.line()
        one.restart()
        for number, wire in enumerate(wires):
            wire.send(request("ECHO", number))
        for number, wire in enumerate(wires):
            wire.line()
            assert wire.line() == b"%d\r\n" % number


def test_a_connection_amid_a_request_ends(tmp_path):
    with service(tmp_path, *GRACE) as one, Wire(one.daemon.port) as amid, \
            Wire(one.daemon.port) as idle, Connector(one.daemon.lm_port) as amid_lm:
        assert idle.ask("PING") == b"+PONG\r\n"
        assert amid.ask("PING") == b"+PONG\r\n"
        amid.send(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$10\r\n01234")
        assert not amid_lm.exists("absent")
        amid_lm.request(1, "key", 100)
        # What the daemon has not read yet is the next one's, and its connection goes on.
        time.sleep(0.5)
        one.restart()
        assert amid.receive(1) == b""
        assert amid_lm.receive(1) == b""
        assert idle.ask("PING") == b"+PONG\r\n"


def test_a_request_that_ends_in_time_is_answered_and_the_connection_goes_on(tmp_path):
    with service(tmp_path) as one, Wire(one.daemon.port) as wire:
        assert wire.ask("PING") == b"+PONG\r\n"
        wire.send(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$10\r\n01234")
        one.daemon.process.terminate()
        one.supervisor.wait_until(lambda: any("STOPPING" in told for told in one.supervisor.told))
        wire.send(b"56789\r\n")
        assert wire.line() == b"+OK\r\n"
        one.restart()
        assert wire.ask("EXISTS", "key") == b":0\r\n"


def test_foreign_descriptors_are_closed(tmp_path):
    with service(tmp_path) as one, Wire(one.daemon.port) as wire, contextlib.ExitStack() as stack:
        assert wire.ask("PING") == b"+PONG\r\n"
        one.stop()
        pipes = [os.pipe() for _ in range(2)]
        pairs = [socket.socketpair() for _ in range(2)]
        elsewhere = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(elsewhere.getsockname())
        other = elsewhere.accept()[0]
        for each in (*pairs[0], *pairs[1], elsewhere, client, other):
            stack.enter_context(each).settimeout(30)
        keep = one.supervisor.keep
        keep("kvstored.socket", pipes[0][1])
        keep("kvstored-1-lm", pipes[1][1])
        keep("", pairs[0][0].fileno())
        keep("kvstored-1-resp-2-open", pairs[1][0].fileno())
        # A listening socket, and a connection to another port than ours.
        keep("kvstored-1-lm", elsewhere.fileno())
        keep("kvstored-1-lm", other.fileno())
        for name in ("kvstored-1-resp-4-open", "kvstored-2-lm", "kvstored-1-lm-", "kvstored-1-"):
            keep(name, other.fileno())
        for each in (pairs[0][0], pairs[1][0], other):
            each.close()
        for _, writer in pipes:
            os.close(writer)
        one.start()
        assert one.supervisor.store == []
        for reader, _ in pipes:
            assert os.read(reader, 1) == b""
            os.close(reader)
        for _, peer in pairs:
            assert peer.recv(1) == b""
        assert client.recv(1) == b""
        # The log is written behind.
        one.supervisor.wait_until(lambda: one.daemon.log().count("descriptor_refused") == 10)
        # It listens still: only our copy was closed.
        socket.create_connection(elsewhere.getsockname()).close()
        assert wire.ask("PING") == b"+PONG\r\n"


def test_descriptors_for_another_process_are_left_alone(tmp_path):
    with service(tmp_path) as one, Wire(one.daemon.port) as wire:
        assert wire.ask("PING") == b"+PONG\r\n"
        one.stop()
        kept = one.supervisor.names()
        # LISTEN_PID is this process's, not the daemon's.
        with conftest.running("--node-name", "other"):
            pass
        assert one.supervisor.names() == kept
        one.start()
        assert wire.ask("PING") == b"+PONG\r\n"


def test_a_state_that_is_damaged_ends_all(tmp_path):
    with service(tmp_path) as one, Wire(one.daemon.port) as wire:
        assert wire.ask("PING") == b"+PONG\r\n"
        one.stop()
        (state,) = [descriptor for name, descriptor in one.supervisor.store
                    if name == "kvstored-1-state"]
        os.pwrite(state, b"x", 5000)
        one.start()
        assert wire.receive(1) == b""
        assert one.supervisor.store == []


@pytest.mark.parametrize("now,goes_on", [
    (("--resp-password", "right"), True),
    (("--resp-password", "wrong"), False),
    (("--node-name", "open"), True),
    (("--resp-password", "right", "--resp-listen", "off"), False),
])
def test_a_password_must_still_be_right(tmp_path, now, goes_on):
    with service(tmp_path, "--resp-password", "right") as one, Wire(one.daemon.port) as wire, \
            Wire(one.daemon.port) as stranger:
        assert wire.ask("AUTH", "right") == b"+OK\r\n"
        assert stranger.ask("PING").startswith(b"-NOAUTH")
        one.restart(*now)
        # Nothing is kept of who has not said the password.
        assert stranger.receive(1) == b""
        if goes_on:
            assert wire.ask("PING") == b"+PONG\r\n"
        else:
            assert wire.receive(1) == b""


def test_a_password_that_is_new_is_asked_of_all(tmp_path):
    with service(tmp_path) as one, Wire(one.daemon.port) as wire:
        assert wire.ask("PING") == b"+PONG\r\n"
        one.restart("--resp-password", "new")
        assert wire.receive(1) == b""


def test_the_password_is_not_in_the_name(tmp_path):
    names = set()
    with service(tmp_path, "--resp-password", "secret") as one, Wire(one.daemon.port) as wire:
        assert wire.ask("AUTH", "secret") == b"+OK\r\n"
        for _ in range(2):
            one.stop()
            (name,) = [name for name in one.supervisor.names() if "resp" in name]
            names.add(name)
            one.start()
            assert wire.ask("PING") == b"+PONG\r\n"
    # Under a key of each stop, so that nobody can try passwords on it.
    assert len(names) == 2


def test_misses_have_the_length_that_strict_clients_expect(tmp_path):
    arguments = ("--resp-lmcache-strict-replies", "true")
    with service(tmp_path, *arguments) as one, Wire(one.daemon.port) as wire:
        assert wire.ask("SET", "model@1@0@aa", bytes(250)) == b"+OK\r\n"
        assert wire.ask("SET", "other@1@0@aa", bytes(25_000)) == b"+OK\r\n"
        for _ in range(2):
            one.restart()
            # As long as "$250" and "$25000".
            assert wire.ask("GET", "model@1@0@bb") == b"-MIS\r\n"
            assert wire.ask("GET", "other@1@0@bb") == b"-MISS \r\n"


def test_limits_hold_for_those_that_come_back(tmp_path):
    with service(tmp_path) as one, Wire(one.daemon.port) as first, Wire(one.daemon.port) as second:
        for wire in (first, second):
            assert wire.ask("PING") == b"+PONG\r\n"
        one.restart("--resp-connections", "1")
        answers = sorted([first.ask("PING"), second.ask("PING")])
        assert answers == [b"+PONG\r\n", b"-ERR max number of clients reached\r\n"]


def test_nothing_is_kept_of_a_daemon_that_is_killed(tmp_path):
    with service(tmp_path) as one, Wire(one.daemon.port) as wire:
        assert wire.ask("PING") == b"+PONG\r\n"
        one.daemon.process.kill()
        one.daemon.process.wait()
        assert wire.is_closed()
        assert one.supervisor.store == []
        one.start()


def test_without_a_supervisor_connections_end(tmp_path):
    with conftest.running(folder=tmp_path) as daemon, Wire(daemon.port) as wire:
        assert wire.ask("PING") == b"+PONG\r\n"
        daemon.stop()
        assert wire.receive(1) == b""


@pytest.mark.parametrize("options", [{"keeps": False}, {"keeps": False, "answers": False}])
def test_connections_end_where_they_are_not_kept(tmp_path, options):
    with service(tmp_path, **options) as one, Wire(one.daemon.port) as wire, \
            Connector(one.daemon.lm_port) as connector:
        assert wire.ask("PING") == b"+PONG\r\n"
        assert connector.get("absent") == (400, NO_PAYLOAD, b"")
        one.stop()
        assert wire.receive(1) == b""
        assert connector.receive(1) == b""
        one.start()
