# SPDX-License-Identifier: Apache-2.0
"""The class for LMCache's `native_plugin`, without LMCache: the form of its calls, and what it does
when the daemon is slow, gone, back again, or has other ideas."""
import contextlib
import ctypes
import os
import pathlib
import select
import signal
import subprocess
import tempfile
import threading
import time

import pytest
from conftest import stub

import kvstore
from kvstore.adapters.lmcache_native import NativeConnector

HASH = "ab" * 32


class Daemon:
    """kvstored, that can be stopped and started again on the same socket."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.address = f"unix:{folder}/socket"
        self.process = None

    def start(self, *options):
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [os.environ["KVSTORED"], "--listen-unix-socket", f"{self.folder}/socket",
             "--listen-tcp", "off", "--memory-budget", "64MiB", "--ready-file", str(ready),
             "--log-level", "error", *options])
        end = time.monotonic() + 30
        while not (ready.exists() and ready.stat().st_size):
            assert self.process.poll() is None, "kvstored ended early"
            assert time.monotonic() < end, "kvstored is not ready"
            time.sleep(0.01)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task")
        end = time.monotonic() + 30
        while any(  # the state stands behind the name, which is in brackets
                (task / "stat").read_text().rpartition(")")[2].split()[0] != "T"
                for task in tasks.iterdir()):
            assert time.monotonic() < end, "kvstored does not stop"
            time.sleep(0.001)

    def stop(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(timeout=20)
            self.process = None


@pytest.fixture
def daemon():
    if not os.environ.get("KVSTORED"):
        pytest.skip("needs KVSTORED")
    with tempfile.TemporaryDirectory(prefix="kvstore-") as folder:
        made = Daemon(folder)
        made.start()
        try:
            yield made
        finally:
            made.stop()


@contextlib.contextmanager
def connected(address, **options):
    connector = NativeConnector(address, **options)
    try:
        yield connector
    finally:
        connector.close()


def results(connector, *numbers):
    """The completions of these futures, waited for as LMCache does."""
    poller = select.poll()
    poller.register(connector.event_fd(), select.POLLIN)
    found = {}
    while len(found) < len(numbers):
        assert poller.poll(60_000), "no completion within 60 s"
        for number, ok, error, flags in connector.drain_completions():
            assert isinstance(ok, bool) and isinstance(error, str) and ok == (error == "")
            assert number not in found
            found[number] = (ok, flags)
    return [found[number] for number in numbers]


def view(size, fill=0):
    """Memory as LMCache hands it over: a memoryview of ctypes."""
    array = (ctypes.c_ubyte * size)()
    ctypes.memset(array, fill, size)
    return memoryview(array)


def names(count, model="model"):
    return [f"{model}@01000100@0@{index:064x}" for index in range(count)]


def test_store_look_up_load_delete(server):
    with connected(server.unix, connections=2) as connector:
        keys = names(20, os.urandom(4).hex())
        stored = [view(50_000, index + 1) for index in range(20)]
        assert results(connector, connector.submit_batch_exists(keys)) == [(True, [False] * 20)]
        assert results(connector, connector.submit_batch_set(keys[:15], stored[:15])) == [
            (True, [True] * 15)]
        exists = connector.submit_batch_exists(keys)
        loaded = [view(50_000) for _ in keys]
        load = connector.submit_batch_get(keys, loaded)
        had = (True, [True] * 15 + [False] * 5)
        assert results(connector, exists, load) == [had, had]
        assert loaded[:15] == stored[:15]
        assert results(connector, connector.submit_batch_delete(keys)) == [(True, [True] * 20)]
        assert results(connector, connector.submit_batch_exists(keys)) == [(True, [False] * 20)]
        empty = [connector.submit_batch_exists([]), connector.submit_batch_get([], []),
                 connector.submit_batch_set([], []), connector.submit_batch_delete([])]
        assert results(connector, *empty) == [(True, [])] * 4


def test_a_value_of_another_size_is_a_miss_and_gives_way(server):
    with connected(server.unix) as connector:
        keys = names(3, os.urandom(4).hex())
        store = connector.submit_batch_set(keys, [view(5000, 7), view(900, 7), view(70, 7)])
        assert results(connector, store) == [(True, [True] * 3)]
        load = connector.submit_batch_get(keys, [view(900) for _ in keys])
        assert results(connector, load) == [(True, [False, True, False])]
        # What was in the way is gone.
        end = time.monotonic() + 20
        while results(connector, connector.submit_batch_exists(keys)) != [
                (True, [False, True, False])]:
            assert time.monotonic() < end
        # Storing replaces what has another size, and leaves what has the same.
        assert results(connector, connector.submit_batch_set(
            [keys[1], keys[0]], [view(400, 9), view(400, 9)])) == [(True, [True, True])]
        assert results(connector, connector.submit_batch_set(
            [keys[0]], [view(400, 1)])) == [(True, [True])]
        loaded = [view(400), view(400)]
        assert results(connector, connector.submit_batch_get(keys[:2], loaded)) == [
            (True, [True, True])]
        assert loaded == [view(400, 9), view(400, 9)]


def test_layouts_namespaces_and_parameters(server, tmp_path):
    key = names(1, os.urandom(4).hex())
    with (connected(server.unix) as plain,
          connected(server.unix, layout={"kv_dtype": "fp8", "chunk_tokens": 256}) as other):
        assert results(plain, plain.submit_batch_set(key, [view(10, 1)])) == [(True, [True])]
        assert results(other, other.submit_batch_exists(key)) == [(True, [False])]
        assert results(other, other.submit_batch_get(key, [view(10)])) == [(True, [False])]
    for wrong in ({"connections": 0}, {"load_deadline_milliseconds": 0}, {"layout": {"Name": 1}}):
        with pytest.raises(kvstore.InvalidArgument):
            NativeConnector(server.unix, **wrong)
    with pytest.raises(TypeError):
        NativeConnector(server.unix, number_of_connections=4)
    with pytest.raises(kvstore.InvalidArgument):
        NativeConnector("/run/kvstored.sock")
    token = tmp_path / "token"
    token.write_text("# comment\n\n")
    with pytest.raises(ValueError, match="no token"):
        NativeConnector(server.unix, token_file=str(token))


def test_a_wrong_token_is_told_at_once(tmp_path):
    token = tmp_path / "token"
    token.write_text("# made by nobody\nwrong\n")
    with stub("unauthorized") as server, pytest.raises(kvstore.Unauthorized):
        NativeConnector(server.unix, token_file=str(token))


@pytest.mark.parametrize("behaviour", ["silent", "silent-after-hello", "trickle"])
def test_a_daemon_that_hangs_costs_a_deadline(behaviour):
    with stub(behaviour) as server, connected(
            server.unix, lookup_deadline_milliseconds=300, load_deadline_milliseconds=300,
            store_deadline_milliseconds=300) as connector:
        start = time.monotonic()
        done = results(connector, connector.submit_batch_exists(names(3)),
                       connector.submit_batch_get(names(3), [view(10)] * 3),
                       connector.submit_batch_set(names(3), [view(10)] * 3),
                       connector.submit_batch_delete(names(3)))
        assert done == [(False, [False] * 3)] * 4
        assert time.monotonic() - start < 30


def test_damaged_bytes_are_a_miss():
    with stub("wrong-payload-checksum") as server, connected(server.unix) as connector:
        results(connector, connector.submit_batch_set(names(1), [view(10, 1)]))
        assert results(connector, connector.submit_batch_get(names(1), [view(10)])) == [
            (True, [False])]


def test_a_daemon_that_comes_later_goes_and_comes_back(daemon):
    daemon.stop()
    key, value = names(1), view(300_000, 5)

    def works(connector):
        (ok, flags), = results(connector, connector.submit_batch_set(key, [value]))
        loaded = view(300_000)
        (ok_too, flags_too), = results(connector, connector.submit_batch_get(key, [loaded]))
        assert (flags, flags_too) == ([ok], [ok_too])
        assert not ok_too or loaded == value
        return ok and ok_too

    def wait_until_it_works(connector):
        end = time.monotonic() + 60
        while not works(connector):
            assert time.monotonic() < end, "never connected again"
            time.sleep(0.05)

    with connected(daemon.address) as connector:
        assert not works(connector)  # misses at once, and no exception
        daemon.start()
        wait_until_it_works(connector)
        daemon.stop()
        assert not works(connector)
        # Another secret: other keys, and the old ones must not be used on.
        secret = daemon.folder / "config.yaml"
        secret.write_text(
            "namespaces:\n  - name: default\n    secret: " + "7f" * 32 + "\n"
            "    shared_memory: true\n")
        daemon.start("--config", str(secret))
        wait_until_it_works(connector)
        with kvstore.Client(daemon.address) as client:
            assert client.secret() == bytes.fromhex("7f" * 32)
            end = time.monotonic() + 60
            while client.lookup([connector._batches.key(key[0])]) == [None] or (
                    connector._batches._secret != client.secret()):
                assert works(connector) and time.monotonic() < end
                time.sleep(0.05)


def test_a_slow_load_does_not_hold_up_lookups(daemon):
    """Loads and stores wait in queues of their own, so a lookup ends while they do not."""
    with connected(daemon.address, connections=1) as connector:
        assert results(connector, connector.submit_batch_set(names(1), [view(10, 1)])) == [
            (True, [True])]
        daemon.pause()
        loads = [connector.submit_batch_get(names(1), [view(10)]) for _ in range(5)]
        lookup = connector.submit_batch_exists(names(1))
        assert results(connector, lookup) == [(False, [False])]  # by its deadline of 1 s, not 5 s
        daemon.process.send_signal(signal.SIGCONT)
        assert all(flags in ([True], [False]) for _, flags in results(connector, *loads))


def test_close_leaves_buffers_alone(daemon):
    connector = NativeConnector(daemon.address)
    assert results(connector, connector.submit_batch_set(names(1), [view(1 << 20, 3)]))[0][0]
    daemon.pause()
    place = bytearray(1 << 20)
    connector.submit_batch_get(names(1), [place])
    with pytest.raises(BufferError):
        place.clear()
    connector.close()
    daemon.process.send_signal(signal.SIGCONT)
    place.clear()
    connector.close()


def test_threads_share_a_connector(server):
    """As LMCache does: several threads submit, one drains."""
    model = os.urandom(4).hex()
    with connected(server.unix, connections=2) as connector:
        submitted, failures = [], []

        def work(thread):
            for index in range(20):
                keys = [f"{model}@{thread}@{index}@{HASH}"]
                submitted.append(connector.submit_batch_set(keys, [view(2000, thread)]))
                submitted.append(connector.submit_batch_exists(keys))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
        for thread in threads:
            thread.start()
        done = 0
        poller = select.poll()
        poller.register(connector.event_fd(), select.POLLIN)
        while done < 160:
            assert poller.poll(60_000), "no completion within 60 s"
            for _, ok, error, _ in connector.drain_completions():
                done += 1
                failures.extend([] if ok else [error])
        for thread in threads:
            thread.join()
        assert not failures and len(set(submitted)) == 160
        for thread in range(1, 5):
            place = view(2000)
            load = connector.submit_batch_get([f"{model}@{thread}@19@{HASH}"], [place])
            assert results(connector, load) == [(True, [True])] and place == view(2000, thread)
