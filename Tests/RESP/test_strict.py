# SPDX-License-Identifier: Apache-2.0
"""The hazards of LMCache's native client, which reads as many bytes as it expects and compares
them: with strict replies none of them hurts. `Worker` does what that client does."""
import os
import time

import conftest
import pytest


class Hung(Exception):
    """The client would wait for ever, or be out of step from now on."""


class Worker(conftest.Wire):
    """One connection of the client; requests and what it insists on as in docs/resp.md."""

    def expect(self, count):
        self.socket.settimeout(5)
        try:
            data = self.receive(count)
        except TimeoutError:
            raise Hung from None
        if len(data) < count:
            raise Hung
        return data

    def set(self, key, value):
        self.send(conftest.request("SET", key, value))
        return self.expect(5) == b"+OK\r\n"

    def get(self, key, size):
        """The value, or None for what the client takes as a miss."""
        self.send(conftest.request("GET", key))
        head = b"$%d\r\n" % size
        if self.expect(len(head)) != head:
            return None
        value = self.expect(size)
        assert self.expect(2) == b"\r\n"
        return value

    def exists(self, key):
        self.send(conftest.request("EXISTS", key))
        return self.expect(4) == b":1\r\n"

    def delete(self, key):
        self.send(conftest.request("DEL", key))
        return self.expect(4) == b":1\r\n"

    def in_step(self):
        """Whether nothing is left over from earlier replies."""
        return self.ask("PING") == b"+PONG\r\n"


def key(number, model="model/name", rank="00010001", salt=""):
    return f"{model}@{rank}@0@{number:064x}{salt}"


@pytest.mark.parametrize("size", [5, 50, 500, 5000, 50_000, 500_000, 4 << 20, 12 << 20])
def test_a_miss_does_not_hang(strict, size):
    with Worker(strict.port) as worker:
        assert worker.set(key(1, f"m{size}"), os.urandom(size))
        for number in range(2, 6):
            assert worker.get(key(number, f"m{size}"), size) is None
            assert worker.in_step()


def test_families_of_other_sizes_are_kept_apart(strict):
    sizes = {"a": 300, "b": 4 << 20, "c": 70_000}
    with Worker(strict.port) as worker:
        for model, size in sizes.items():
            worker.set(key(1, model), os.urandom(size))
        for model, size in sizes.items():
            assert worker.get(key(2, model), size) is None
            assert worker.in_step()
        # The in-process form of keys, with a tag behind the hash.
        for dtype, size in (("bfloat16", 90), ("float", 20_000)):
            worker.set(f"m@1@0@-12ab@{dtype}", os.urandom(size))
        for dtype, size in (("bfloat16", 90), ("float", 20_000)):
            assert worker.get(f"m@1@0@ffff@{dtype}", size) is None
            assert worker.in_step()


def test_the_exact_bytes_of_docs_resp(strict):
    with Worker(strict.port) as worker:
        worker.set(key(1, "exact"), os.urandom(4 << 20))
        worker.send(conftest.request("GET", key(2, "exact")))
        assert worker.receive(10) == b"-MISS   \r\n"
        worker.set(key(1, "short"), b"x" * 123)
        worker.send(conftest.request("GET", key(2, "short")))
        assert worker.receive(6) == b"-MIS\r\n"
        assert worker.in_step()


def test_sizes_are_learnt_again_after_a_restart(tmp_path):
    arguments = ["--resp-lmcache-strict-replies", "true", "--ssd-directories",
                 str(tmp_path / "ssd"), "--ssd-capacity", "256MiB"]
    (tmp_path / "ssd").mkdir()
    value = os.urandom(123_456)
    with conftest.running(*arguments, folder=tmp_path) as daemon, Worker(daemon.port) as worker:
        assert worker.set(key(1), value)
    with conftest.running(*arguments, folder=tmp_path) as daemon, Worker(daemon.port) as worker:
        assert worker.exists(key(1))
        assert worker.get(key(2), len(value)) is None
        assert worker.in_step()
        assert worker.get(key(1), len(value)) == value


def test_refusals_have_the_right_length(strict):
    with Worker(strict.port) as worker:
        assert worker.set(key(1), b"x" * 100)
        # Larger than the memory, too long a key, an option that nobody knows.
        assert not worker.set(key(1), bytes(80 << 20))
        assert worker.in_step()
        assert not worker.set("k" * 1100, b"value")
        assert worker.in_step()
        worker.send(conftest.request("SET", key(1), b"value", "XX"))
        assert worker.expect(5) == b"-NO\r\n"
        assert not worker.exists("k" * 1100)
        assert not worker.delete("k" * 1100)
        assert not worker.exists("k" * 10_000)
        assert worker.in_step()


def test_without_a_password_nothing_hangs():
    with conftest.running("--resp-lmcache-strict-replies", "true", "--resp-password",
                          "secret") as daemon:
        with Worker(daemon.port) as worker:
            assert not worker.set("m@r@0@1", b"x" * 100)
            assert not worker.exists("m@r@0@1")
            assert worker.get("m@r@0@1", 4 << 20) is None
            assert worker.ask("AUTH", "secret") == b"+OK\r\n"
            assert worker.set("m@r@0@1", b"x" * 100)
            assert worker.get("m@r@0@1", 100) == b"x" * 100


def test_what_exists_found_is_there_for_the_get():
    # 16 values of 1 MiB find room at most; far more are written between EXISTS and GET.
    with conftest.running("--resp-lmcache-strict-replies", "true", "--resp-lease", "20s",
                          budget="24MiB") as daemon:
        value = os.urandom(1 << 20)
        with Worker(daemon.port) as first, Worker(daemon.port) as second:
            assert first.set(key(0), value)
            assert first.exists(key(0))
            assert first.exists(key(0))
            for number in range(1, 60):
                assert second.set(key(number), os.urandom(1 << 20))
            assert second.get(key(0), len(value)) == value
            # Others were evicted: this is what would have happened without.
            assert not second.exists(key(1))


def test_leases_end_and_are_bounded():
    with conftest.running("--resp-lmcache-strict-replies", "true", "--resp-lease", "3s",
                          budget="24MiB") as daemon:
        with Worker(daemon.port) as worker:
            for number in range(12):
                assert worker.set(key(number), os.urandom(1 << 20))
            granted = [worker.exists(key(number)) for number in range(12)]
            # A quarter of the memory; beyond, EXISTS says 0, and the engine computes.
            assert 0 < sum(granted) < 8
            end = time.monotonic() + conftest.ANSWER_SECONDS_MAX
            while not worker.exists(key(granted.index(False))):
                assert time.monotonic() < end, "no lease has ended"
                time.sleep(0.05)
            # Memory is free again: everything can be replaced.
            for number in range(100, 140):
                assert worker.set(key(number), os.urandom(1 << 20))


def test_idle_connections_stay_open():
    # Longer than any deadline of a request.
    with conftest.running("--resp-transfer-deadline", "1s", "--limits-request-deadline",
                          "100ms") as daemon:
        with Worker(daemon.port) as worker:
            assert worker.set("key", b"value")
            time.sleep(2.5)
            assert worker.get("key", 5) == b"value"


def test_a_lost_value_is_a_miss_even_after_exists(strict):
    with Worker(strict.port) as worker:
        worker.set(key(1), b"x" * 1000)
        assert worker.exists(key(1))
        assert worker.delete(key(1))
        assert worker.get(key(1), 1000) is None
        assert worker.in_step()
