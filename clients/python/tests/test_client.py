# SPDX-License-Identifier: Apache-2.0
"""The client against servers that speak the truth."""
import os
import threading

import pytest

import kvstore


@pytest.fixture(params=["unix", "tcp"])
def client(request, server):
    with kvstore.Client(getattr(server, request.param), deadline_milliseconds=5000) as opened:
        yield opened


@pytest.fixture
def key():
    return os.urandom(32)


def test_ping_and_stat(client):
    client.ping()
    figures = client.stat()
    assert figures and all(isinstance(value, int) for value in figures.values())


@pytest.mark.parametrize("size", [1, 5000, 3_000_000])
def test_put_and_get(client, key, size):
    data = os.urandom(size)
    assert client.get(key) is None
    assert client.put(key, data) is True
    assert client.put(key, data) is False
    assert client.get(key) == data
    assert isinstance(client.get(key), bytearray)
    assert client.delete([key]) == 1
    assert client.delete([key]) == 0
    assert client.get(key) is None


def test_put_gathers_parts(client, key):
    parts = [b"ab", bytearray(b"cd"), memoryview(b"xefx")[1:3], b""]
    assert client.put(key, parts)
    assert client.get(key) == b"abcdef"


def test_get_into(client, key):
    place = bytearray(10)
    assert client.get_into(key, place) is None
    client.put(key, b"hello")
    assert client.get_into(key, place) == 5
    assert place[:5] == b"hello"
    with pytest.raises(kvstore.DestinationTooSmall) as raised:
        client.get_into(key, bytearray(4))
    assert raised.value.byte_count == 5
    with pytest.raises(BufferError):
        client.get_into(key, b"read-only")
    client.ping()


def test_get_many(client):
    keys = [os.urandom(32) for _ in range(300)]
    for index in range(0, 300, 2):
        client.put(keys[index], bytes([index % 256]) * (index + 1))
    found = client.get_many(keys)
    for index, data in enumerate(found):
        assert data == (bytes([index % 256]) * (index + 1) if index % 2 == 0 else None)
    assert client.get_many([]) == []


def test_ranges(client, key):
    assert client.get_range(key, 0, 1) is None
    client.put(key, bytes(range(100)))
    assert client.get_range(key, 40, 30) == bytes(range(40, 70))
    assert client.get_range(key, 0, 100) == client.get(key)
    for offset, byte_count in ((40, 61), (100, 1), (2**64 - 1, 2)):
        with pytest.raises(kvstore.LimitExceeded):
            client.get_range(key, offset, byte_count)
    for offset, byte_count in ((-1, 1), (0, 0), (0, 2**28 + 1), (2**64, 1)):
        with pytest.raises(kvstore.InvalidArgument):
            client.get_range(key, offset, byte_count)
    client.ping()


def test_durable_and_pinned(client, server, key):
    if not server.keeps:
        pytest.skip("needs stable storage")
    assert client.put(key, b"kept", durable=True) is True
    assert client.put(key, b"kept", durable=True) is False
    absent = os.urandom(32)
    expected = [kvstore.KeyStatus.OK, kvstore.KeyStatus.NOT_FOUND]
    assert client.pin([key, absent], 60_000) == expected
    assert client.unpin(iter([key, absent])) == expected
    assert client.pin([], 1) == []
    for milliseconds in (0, 2**40 + 1):
        with pytest.raises(kvstore.InvalidArgument):
            client.pin([key], milliseconds)
    assert client.delete([key]) == 1


def test_lookup(client):
    keys = [os.urandom(32) for _ in range(5)]
    for key in (keys[0], keys[1], keys[3]):
        client.put(key, b"1234")
    client.put(keys[4], b"x", time_to_live_milliseconds=60000, layout_id=b"l" * 16)
    assert client.lookup_prefix(keys) == 2
    assert client.lookup_prefix([]) == 0
    found = client.lookup(keys)
    assert found[2] is None and found[0].byte_count == 4 and found[0].tier == 1
    assert found[0].remaining_milliseconds is None
    assert 0 < found[4].remaining_milliseconds <= 60000


def test_lease(server):
    keys = [os.urandom(32), os.urandom(32)]
    with (kvstore.Client(server.tcp) as client, pytest.raises(kvstore.Unsupported),
          client.lease(keys)):
        pass
    with kvstore.Client(server.unix) as client:
        client.put(keys[0], b"in place")
        if not server.shares:
            with pytest.raises(kvstore.Unsupported), client.lease(keys):
                pass
            return
        leased = client.lease(keys)
        with leased as views:
            assert views[1] is None and bytes(views[0]) == b"in place"
            assert views[0].readonly and views[0].format == "B"
            assert leased.still_valid()
        with pytest.raises(ValueError):
            bytes(views[0])
        with pytest.raises(BufferError), client.lease(keys) as views:
            kept = views[0][3:]
        assert bytes(kept) == b"place"  # still mapped, if only until the lease runs out
        client.ping()


def test_close_waits_for_leases(server):
    if not server.shares:
        pytest.skip("needs shared memory")
    key = os.urandom(32)
    client = kvstore.Client(server.unix)
    client.put(key, b"bytes")
    with client.lease([key]) as views:
        client.close()
        assert bytes(views[0]) == b"bytes"
        with pytest.raises(kvstore.WrongState):
            client.ping()
    assert client._handle is None


def test_keys(client):
    layout = kvstore.layout_id({"model": "m", "layers": 30})
    keys = client.prefix_keys(layout, range(600))
    assert len(keys) == 2 and all(len(key) == 32 for key in keys)
    assert client.prefix_keys(layout, list(range(512)), 256) == keys
    assert len(client.prefix_keys(layout, range(600), chunk_tokens=100)) == 6
    assert client.prefix_keys(layout, []) == []
    assert client.opaque_key(b"name") != client.opaque_key(b"name2")
    with pytest.raises(OverflowError):
        client.prefix_keys(layout, [-1] * 256)
    with pytest.raises(kvstore.InvalidArgument):
        client.prefix_keys(b"short", range(256))


def test_numpy(client, key):
    numpy = pytest.importorskip("numpy")
    layout = bytes(16)
    tokens = numpy.arange(512)
    assert client.prefix_keys(layout, tokens) == client.prefix_keys(layout, range(512))
    assert client.prefix_keys(layout, tokens.astype(numpy.uint32)) == client.prefix_keys(
        layout, range(512))
    values = numpy.random.default_rng(1).random((100, 10), dtype=numpy.float32)
    client.put(key, [values[:50], values[50:]])
    back = numpy.empty_like(values)
    assert client.get_into(key, back) == values.nbytes
    assert (back == values).all()
    assert (numpy.frombuffer(client.get(key), numpy.float32) == values.ravel()).all()


def test_threads_take_turns(client):
    keys = [os.urandom(32) for _ in range(8)]
    failures = []

    def work(key):
        for index in range(30):
            client.put(key, key * 100)
            if client.get(key) != key * 100:
                failures.append(index)

    threads = [threading.Thread(target=work, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_fork(client, key):
    client.put(key, b"parent")
    for _ in range(3):
        child = os.fork()
        if child == 0:
            os._exit(0 if client.get(key) == b"parent" else 1)
        assert client.get(key) == b"parent"
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_mistakes(client, key):
    with pytest.raises(kvstore.InvalidArgument):
        client.get(b"short")
    with pytest.raises(kvstore.InvalidArgument):
        client.put(key, b"")
    with pytest.raises(TypeError):
        client.put(key, [1, 2])
    with pytest.raises(kvstore.InvalidArgument):
        kvstore.Client("file:/x")
    with pytest.raises(TypeError):
        client.put(key, "text")
    client.ping()
