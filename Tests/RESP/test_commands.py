# SPDX-License-Identifier: Apache-2.0
"""Every command, through redis-py in both protocol versions."""
import os
import random
import threading
import time

import pytest
import redis


@pytest.fixture(params=[2, 3])
def client(daemon, request):
    with redis.Redis(port=daemon.port, protocol=request.param, socket_timeout=30) as one:
        one.flushdb()
        yield one


def test_values_come_back(client):
    for size in (0, 1, 100, 4096, 8190, 8192, 8193, 16384, 262144, 1 << 20, (4 << 20) + 3):
        value = os.urandom(size)
        assert client.set(f"key-{size}", value) is True
        assert client.get(f"key-{size}") == value
        assert client.strlen(f"key-{size}") == size
    assert client.get("absent") is None
    assert client.strlen("absent") == 0


def test_keys_may_be_any_bytes(client):
    keys = [b"", b"\0", b"\r\n", b"a b", bytes(range(256)), b"\xff" * 1024]
    for number, key in enumerate(keys):
        client.set(key, f"value {number}")
    for number, key in enumerate(keys):
        assert client.get(key) == f"value {number}".encode()
    assert set(client.scan_iter()) == set(keys)
    with pytest.raises(redis.ResponseError, match="1024"):
        client.set(b"x" * 1025, "value")
    with pytest.raises(redis.ResponseError, match="1024"):
        client.get(b"x" * 1025)
    with pytest.raises(redis.ResponseError, match="too large"):
        client.get(b"x" * 9000)
    assert client.ping() is True


def test_a_value_is_replaced(client):
    for size in (10, 100_000, 0, 3_000_000, 10):
        value = os.urandom(size)
        client.set("key", value)
        assert client.get("key") == value
    assert client.dbsize() == 1


def test_readers_see_one_value_or_the_other(client, daemon):
    values = [bytes([number]) * size for number, size in enumerate((700_000, 900_000))]
    client.set("key", values[0])
    stop = threading.Event()

    def write():
        with redis.Redis(port=daemon.port, socket_timeout=30) as writer:
            turn = 0
            while not stop.is_set():
                turn += 1
                writer.set("key", values[turn % 2])

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(200):
            assert client.get("key") in values
    finally:
        stop.set()
        for writer in writers:
            writer.join()


def test_set_options(client):
    assert client.set("key", "1", nx=True) is True
    assert client.set("key", "2" * 300_000, nx=True) is None
    assert client.get("key") == b"1"
    assert client.set("key", "3", ex=100) is True
    assert 50 <= client.ttl("key") <= 100
    assert client.set("key", "4", px=50_000, nx=False) is True
    assert 20_000 <= client.pttl("key") <= 50_000
    assert client.set("key", "5") is True
    assert client.ttl("key") == -1
    with pytest.raises(redis.ResponseError, match="syntax error"):
        client.set("key", "6", xx=True)
    with pytest.raises(redis.ResponseError, match="invalid expire time"):
        client.set("key", "6", ex=0)
    with pytest.raises(redis.ResponseError, match="not an integer"):
        client.execute_command("SET", "key", "6", "EX", "soon")
    with pytest.raises(redis.ResponseError, match="syntax error"):
        client.execute_command("SET", "key", "6", "EX")
    with pytest.raises(redis.ResponseError, match="syntax error"):
        client.execute_command("SET", "key", "6", "EX", "1", "PX", "1")
    assert client.get("key") == b"5"


def test_values_end(client):
    client.set("key", "value", px=60)
    client.set("other", "value")
    assert client.expire("other", 100) is True
    assert 50 <= client.ttl("other") <= 100
    assert client.persist("other") is True
    assert client.persist("other") is False
    assert client.ttl("other") == -1
    assert client.pexpire("other", 50) is True
    assert client.expire("absent", 100) is False
    time.sleep(0.12)
    assert client.get("key") is None
    assert client.ttl("key") == -2
    assert client.exists("key", "other") == 0
    client.set("key", "value")
    assert client.expire("key", -1) is True
    assert client.exists("key") == 0


def test_expire_keeps_large_values_whole(client):
    value = os.urandom(5 << 20)
    client.set("key", value)
    assert client.expire("key", 100)
    assert client.get("key") == value


def test_delete_and_exists(client):
    for number in range(10):
        client.set(f"key-{number}", "value")
    assert client.exists(*[f"key-{number}" for number in range(20)]) == 10
    assert client.exists("key-0", "key-0") == 2
    assert client.delete("key-0", "key-1", "absent") == 2
    assert client.unlink("key-2", "key-2") == 1
    assert client.exists("key-0") == 0
    assert client.type("key-3") == b"string"
    assert client.type("key-0") == b"none"


def test_mget(client):
    large = os.urandom(1 << 20)
    client.mset = None
    client.set("small", "s")
    client.set("large", large)
    assert client.mget("small", "absent", "large", "small") == [b"s", None, large, b"s"]
    assert client.mget([f"key-{number}" for number in range(1024)]) == [None] * 1024
    keys = [f"key-{number:0100}" for number in range(500)]
    client.set(keys[499], "last")
    assert client.mget(keys) == [None] * 499 + [b"last"]


def test_scan_finds_all(client):
    keys = {f"key-{number}".encode() for number in range(700)}
    for key in keys:
        client.set(key, "value")
    assert set(client.scan_iter()) == keys
    assert set(client.scan_iter(count=1000)) == keys
    assert set(client.scan_iter(match="key-1?")) == {b"key-%d" % n for n in range(10, 20)}
    assert set(client.scan_iter(match="key-[56]0*", count=100)) == {
        key for key in keys if key.startswith((b"key-50", b"key-60"))}
    assert list(client.scan_iter(_type="LIST")) == []
    assert client.dbsize() == 700
    with pytest.raises(redis.ResponseError, match="invalid cursor"):
        client.execute_command("SCAN", "x")
    with pytest.raises(redis.ResponseError, match="syntax error"):
        client.execute_command("SCAN", "0", "COUNT", "0")
    # A cursor that nobody gave out is an end, and no harm.
    assert client.scan(cursor=(1 << 62) + 12345)[0] == 0
    # Keys that come and go do not hide those that stay.
    seen, cursor = set(), None
    while cursor != 0:
        cursor, some = client.scan(cursor or 0, count=50)
        seen.update(some)
        for number in random.sample(range(700), 20):
            client.set(f"key-{number}", "another" * number)
        client.set(os.urandom(8), "new")
    assert keys <= seen


def test_flush(client):
    for number in range(100):
        client.set(f"key-{number}", "value")
    assert client.flushdb() is True
    assert client.dbsize() == 0
    assert list(client.scan_iter()) == []


def test_pipelines_answer_in_order(client):
    values = [os.urandom(size) for size in (10, 300_000, 0, 5000, 1 << 20)] * 4
    with client.pipeline(transaction=False) as pipeline:
        for number, value in enumerate(values):
            pipeline.set(f"key-{number}", value)
            pipeline.get(f"key-{number}")
            pipeline.get("absent")
            pipeline.echo("x" * number)
        replies = pipeline.execute()
    for number, value in enumerate(values):
        wanted = [True, value, None, b"x" * number]
        assert replies[4 * number:4 * number + 4] == wanted


def test_connection_commands(client):
    assert client.ping() is True
    assert client.echo("hello") == b"hello"
    assert client.echo("x" * 8000) == b"x" * 8000
    assert isinstance(client.client_id(), int)
    assert client.client_setname("tests") is True
    assert client.client_getname() in ("tests", b"tests")
    assert client.execute_command("SELECT", "0") in (True, b"OK", "OK")
    with pytest.raises(redis.ResponseError, match="out of range"):
        client.execute_command("SELECT", "1")
    with pytest.raises(redis.ResponseError, match="NOPROTO|unsupported protocol"):
        client.execute_command("HELLO", "4")
    with pytest.raises(redis.ResponseError, match="unknown command 'nosuch'"):
        client.execute_command("nosuch")
    with pytest.raises(redis.ResponseError, match="unknown command"):
        client.execute_command("LPUSH", "list", "x" * 100_000)
    with pytest.raises(redis.ResponseError, match="wrong number of arguments"):
        client.execute_command("GET")
    with pytest.raises(redis.ResponseError, match="wrong number of arguments"):
        client.execute_command("SET", "key")


def test_what_clients_ask_of_the_server(client):
    info = client.info()
    assert info["redis_mode"] == "standalone"
    assert info["maxmemory_policy"] == "allkeys-lru"
    client.set("key", "value")
    assert client.info("keyspace")["db0"]["keys"] == 1
    assert "redis_mode" not in client.info("keyspace")
    commands = client.execute_command("COMMAND")
    assert client.command_count() == len(commands)
    assert set(client.execute_command("COMMAND", "INFO", "get", "del")) == {"get", "del"}
    assert client.config_get("save") == {}


def test_flush_has_to_be_allowed(strict):
    with redis.Redis(port=strict.port, socket_timeout=30) as client:
        client.set("key", "value")
        with pytest.raises(redis.ResponseError, match="resp.flush"):
            client.flushdb()
        assert client.get("key") == b"value"
