# SPDX-License-Identifier: Apache-2.0
"""Layout ids, and servers that lie, stall or are not there."""
import hashlib
import time

import pytest
from conftest import stub

import kvstore

KEY = bytes(range(32))


def test_layout_id():
    text = "kvstore_layout=1\nlayers=30\nmodel=m\nrope_scale=0.25\nrope_theta=10000.0\n"
    description = {"rope_theta": 10000.0, "model": "m", "layers": 30, "rope_scale": 0.25}
    assert kvstore.layout_id(description) == hashlib.sha256(text.encode()).digest()[:16]
    for wrong in ({"Name": 1}, {"a": "x\ny"}, {"a": float("nan")}, {"a": True}, {"": 1}):
        with pytest.raises(kvstore.InvalidArgument):
            kvstore.layout_id(wrong)


def test_numbers_are_written_as_python_does():
    for value in (0.1, 1e-5, 1.5e300, 123.456, 1 / 3, -2.5, 5e-324, 1e22 / 7):
        text = f"kvstore_layout=1\na={value!r}\n"
        assert kvstore.layout_id({"a": value}) == hashlib.sha256(text.encode()).digest()[:16]


def test_no_daemon():
    client = kvstore.Client("unix:/tmp/kvstore-nobody-listens.sock")
    with pytest.raises(kvstore.CannotConnect, match="is kvstored running"):
        client.ping()
    start = time.monotonic()
    with pytest.raises(kvstore.Error):
        client.get(KEY)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("behaviour", ["silent", "silent-after-hello", "trickle"])
def test_deadline(behaviour):
    with (stub(behaviour) as server,
          kvstore.Client(server.unix, deadline_milliseconds=200) as client):
        start = time.monotonic()
        with pytest.raises(kvstore.DeadlineExceeded):
            client.ping()
        assert time.monotonic() - start < 2


@pytest.mark.parametrize("behaviour,expected", [
    ("wrong-header-checksum", kvstore.ProtocolError), ("body-bomb", kvstore.ProtocolError),
    ("unauthorized", kvstore.Unauthorized), ("busy-at-accept", kvstore.Busy),
    ("close-at-once", kvstore.ConnectionLost), ("unknown-status", kvstore.Internal)])
def test_errors_have_types(behaviour, expected):
    with (stub(behaviour) as server, kvstore.Client(server.unix) as client,
          pytest.raises(expected)):
        client.ping()


def test_what_a_restart_would_undo():
    with stub("forgetful") as server, kvstore.Client(server.unix) as client:
        with pytest.raises(kvstore.NotDurable):
            client.put(KEY, b"bytes", durable=True)
        assert client.get(KEY) == b"bytes"
        assert client.pin([KEY], 1000) == [kvstore.KeyStatus.NOT_DURABLE]
        with pytest.raises(kvstore.NotDurable, match="1 deleted"):
            client.delete([KEY])
        assert client.get(KEY) is None


def test_statuses_of_a_later_daemon():
    with (stub("unknown-status") as server, kvstore.Client(server.unix) as client,
          pytest.raises(kvstore.Internal)):
        client.unpin([KEY])


def test_damaged_bytes_are_a_miss():
    with stub("wrong-payload-checksum") as server, kvstore.Client(server.tcp) as client:
        client.put(KEY, b"bytes")
        assert client.get(KEY) is None
        assert client.get_into(KEY, bytearray(5)) is None
        assert client.get_range(KEY, 1, 2) is None
