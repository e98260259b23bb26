# SPDX-License-Identifier: Apache-2.0
"""redis-cli and redis-benchmark as they are; and the SSD tier behind all of it."""
import os
import subprocess

import conftest
import redis


def run(*words, standard_input=None):
    done = subprocess.run(words, input=standard_input, capture_output=True, timeout=120,
                          check=False)
    assert done.returncode == 0, done
    return done.stdout


def cli(daemon, *words, **options):
    return run("redis-cli", "-p", str(daemon.port), *words, **options).rstrip(b"\n")


def test_redis_cli(daemon):
    for version in ("-2", "-3"):
        assert cli(daemon, version, "SET", "greeting", "hello") == b"OK"
        assert cli(daemon, version, "GET", "greeting") == b"hello"
        assert cli(daemon, version, "GET", "absent") == b""
        assert cli(daemon, version, "EXISTS", "greeting") == b"1"
        assert cli(daemon, version, "DEL", "greeting") == b"1"
        assert b"redis_mode:standalone" in cli(daemon, version, "INFO")
    assert b"unknown command" in cli(daemon, "LPUSH", "list", "x")
    value = os.urandom(300_000)
    assert cli(daemon, "-x", "SET", "from-stdin", standard_input=value) == b"OK"
    assert cli(daemon, "--no-raw", "STRLEN", "from-stdin") == b"(integer) 300000"
    assert cli(daemon, "--scan", "--pattern", "from-*") == b"from-stdin"
    piped = b"".join(conftest.request("SET", f"piped-{n}", "v" * n) for n in range(1000))
    assert b"replies: 1000" in cli(daemon, "--pipe", standard_input=piped)
    assert cli(daemon, "STRLEN", "piped-999") == b"999"


def test_redis_benchmark(daemon):
    for words in (("-t", "ping_mbulk,set,get", "-n", "2000", "-P", "16", "-d", "100"),
                  ("-t", "set,get", "-n", "200", "-d", "1048576", "-c", "8"),
                  ("-3", "-t", "set,get", "-n", "2000", "-r", "100", "-c", "20")):
        output = run("redis-benchmark", "-p", str(daemon.port), "--csv", *words)
        assert b'"SET"' in output and b'"GET"' in output
        assert b"Error" not in output
    redis.Redis(port=daemon.port).flushdb()


def ssd(tmp_path, *more):
    (tmp_path / "ssd").mkdir(exist_ok=True)
    return conftest.running("--ssd-directories", str(tmp_path / "ssd"), "--ssd-capacity", "512MiB",
                            "--resp-flush", "true", *more, folder=tmp_path, budget="24MiB")


def test_values_live_on_ssd_and_through_a_restart(tmp_path):
    values = {f"key-{number}": os.urandom(1 << 20) for number in range(60)}
    with ssd(tmp_path) as daemon, redis.Redis(port=daemon.port, socket_timeout=30) as client:
        for key, value in values.items():
            client.set(key, value)
        for key, value in list(values.items())[:20]:
            assert client.get(key) in (value, None)
        values["key-3"] = b"another"
        client.set("key-3", values["key-3"])
        client.delete("key-4")
        del values["key-4"]
        client.set("mortal", "soul", ex=1000)
    with ssd(tmp_path) as daemon, redis.Redis(port=daemon.port, socket_timeout=30) as client:
        names = {name.decode() for name in client.scan_iter()}
        kept = [name for name in values if name in names]
        # A cache may lose some; it must not lose most, and nothing else may come up.
        assert len(kept) > 30
        assert names <= set(values) | {"mortal"}
        assert client.dbsize() == len(names)
        for key in names - {"mortal"}:
            assert client.get(key) == values[key]
            assert client.strlen(key) == len(values[key])
        assert client.mget(list(values)) == [
            values[name] if name in names else None for name in values]
        assert 900 < client.ttl("mortal") <= 1000
        assert client.persist("mortal") is True
        assert client.ttl("mortal") == -1
        assert client.get("key-4") is None
        assert client.set(kept[0], "x", nx=True) is None
        client.flushdb()
        assert client.dbsize() == 0
        assert list(client.scan_iter()) == []
    with ssd(tmp_path) as daemon, redis.Redis(port=daemon.port, socket_timeout=30) as client:
        assert client.dbsize() == 0
        assert client.get(kept[1]) is None


def test_replaced_values_do_not_come_back(tmp_path):
    with ssd(tmp_path) as daemon, redis.Redis(port=daemon.port, socket_timeout=30) as client:
        last = {}
        for turn in range(5):
            for number in range(20):
                last[number] = bytes([turn]) * (500_000 + turn)
                client.set(f"key-{number}", last[number])
                # Pushes what is in memory out to where only the SSD has it.
                client.set(f"other-{turn}-{number}", bytes(600_000))
            for number in range(20):
                assert client.get(f"key-{number}") in (last[number], None)


def test_exists_reads_from_ssd_ahead_of_the_get(tmp_path):
    with ssd(tmp_path, "--resp-lmcache-strict-replies", "true") as daemon:
        with redis.Redis(port=daemon.port, socket_timeout=30) as client:
            values = [os.urandom(1 << 20) for _ in range(40)]
            for number, value in enumerate(values):
                client.set(f"m@r@0@{number:02}", value)
            for number, value in enumerate(values):
                if client.exists(f"m@r@0@{number:02}"):
                    assert client.get(f"m@r@0@{number:02}") == value
