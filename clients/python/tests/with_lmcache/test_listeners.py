# SPDX-License-Identifier: Apache-2.0
"""LMCache's own clients, with nothing of ours installed, over our RESP and lm listeners."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

import pytest
from support import SOURCE, Daemon, check_basic, check_bench, run, run_bench, run_until
from test_native_plugin import adapter_of, key, memory, works
from test_remote_plugin import FULL, engine_of

sys.path.append(str(pathlib.Path(__file__).parents[4] / "Tests" / "RESP"))
from supervisor import Supervisor  # noqa: E402

pytestmark = pytest.mark.skipif(
    "--resp-listen" not in subprocess.run(
        [os.environ["KVSTORED"], "--help"], capture_output=True, text=True, check=False).stdout,
    reason="this kvstored has no RESP listener")


@pytest.fixture
def daemon():
    with tempfile.TemporaryDirectory(prefix="kvstore-") as folder:
        # A lookup keeps what it found for a while, in a quarter of the memory at most, and finds
        # nothing beyond that; LMCache's benchmark looks up all that it stored.
        made = Daemon(folder, [
            "--resp-listen", "127.0.0.1:0", "--resp-lmcache-strict-replies", "true",
            "--resp-flush", "true", "--resp-lease", "30s", "--lm-listen", "127.0.0.1:0"], "2GiB")
        made.start()
        try:
            yield made
        finally:
            made.stop()


def port(daemon, door):
    return int(daemon.told[door].rpartition(":")[2])


def resp_adapter(daemon, **more):
    return {"type": "resp", "host": "127.0.0.1", "port": port(daemon, "resp"), **more}


# RESP --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kibibytes,keys", [(64, 50), (4096, 8), (32768, 2)])
def test_bench_verifies_every_byte(daemon, kibibytes, keys):
    output = run_bench(resp_adapter(daemon), "--num-keys", str(keys), "--data-size-kb",
                       str(kibibytes), "--rounds", "2", "--in-flight", "2")
    check_bench(output, 2 * keys)


def test_basic_check_of_the_l2_adapter(daemon):
    output = run("lmcache.v1.basic_check", "--mode", "test_l2_adapter", "--l2-adapter",
                 json.dumps(resp_adapter(daemon)), "--num-keys", "20")
    check_basic(output, 5)


def test_lmcaches_own_integration_tests(daemon):
    """Where the source distribution unpacked them."""
    place = "tests/v1/distributed/test_resp_l2_adapter_integration.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", place],
        cwd=SOURCE, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port(daemon, "resp"))})
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout, done.stdout[-5000:]


def test_a_miss_does_not_hang_the_stock_client(daemon):
    """A nil would: with strict replies a miss is as long as the head that the client expects."""
    with adapter_of(resp_adapter(daemon, num_workers=1)) as adapter:
        assert adapter.store([key(1)], [memory(1.0)])
        for _ in range(50):
            assert adapter.load([key(1000)], [memory(0.0)], seconds=30) == [False]
        objects = [memory(0.0) for _ in range(3)]
        assert adapter.load([key(7), key(1), key(8)], objects) == [False, True, False]
        assert bool((objects[1].tensor == 1.0).all())
        assert works(adapter, [key(2), key(3)])


@pytest.mark.parametrize("size", [25, 250, 2500, 25_000, 250_000, 2_500_000])
def test_misses_of_every_head_length(daemon, size):
    with adapter_of(resp_adapter(daemon, num_workers=2)) as adapter:
        assert adapter.store([key(1)], [memory(1.0, size)])
        for number in range(2, 12):
            assert adapter.load([key(number)], [memory(0.0, size)], seconds=30) == [False]
        objects = [memory(0.0, size)]
        assert adapter.load([key(1)], objects) == [True]
        assert bool((objects[0].tensor == 1.0).all())


def test_what_a_lookup_found_is_still_there_for_the_load(daemon):
    """Although more is stored meanwhile than there is room for."""
    with adapter_of(resp_adapter(daemon)) as adapter:
        value = memory(1.0, 2 << 20)
        keys = [key(number) for number in range(4)]
        assert adapter.store(keys, [memory(float(each), 2 << 20) for each in range(4)])
        assert adapter.lookup(keys) == [True] * 4
        for number in range(100, 380):  # 8 MiB each, in 2 GiB
            assert adapter.store([key(number)], [value])
        objects = [memory(-1.0, 2 << 20) for _ in keys]
        assert adapter.load(keys, objects) == [True] * 4
        for number, each in enumerate(objects):
            assert bool((each.tensor == float(number)).all())


def test_values_too_large_and_deletions_keep_the_connection(daemon):
    with adapter_of(resp_adapter(daemon, num_workers=1)) as adapter:
        large = memory(1.0, 80 << 20)  # 320 MiB
        assert not adapter.store([key(1)], [large])
        del large
        assert works(adapter, [key(2)])
        adapter.adapter.delete([key(2), key(3)])
        assert adapter.lookup([key(2), key(3)]) == [False, False]
        assert works(adapter, [key(2)])


# In-process mode ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme,door", [("lm", "lm"), ("redis", "resp"), ("resp", "resp")])
def test_basic_check_of_the_remote_backend(daemon, tmp_path, scheme, door):
    path = tmp_path / "lmcache.yaml"
    path.write_text("chunk_size: 256\nlocal_cpu: true\nmax_local_cpu_size: 0.1\n"
                    f"remote_url: {scheme}://127.0.0.1:{port(daemon, door)}\n"
                    "remote_serde: naive\nsave_unfull_chunk: false\n"
                    f"extra_config:\n  save_chunk_meta: {str(scheme != 'resp').lower()}\n")
    # With redis:// it hangs in its own close, with Redis too, when all is done and told.
    output = run_until("Performance Results", "lmcache.v1.basic_check", "--mode", "test_remote",
                       "--num-keys", "20", environment={"LMCACHE_CONFIG_FILE": str(path)})
    check_basic(output, 5)


def test_lm_evicts_where_the_reference_server_grows_without_bound():
    count, chunk_byte_count = 200, 2 * FULL.numel()
    with tempfile.TemporaryDirectory(prefix="kvstore-") as folder:
        small = Daemon(folder, ["--lm-listen", "127.0.0.1:0"], "32MiB")
        small.start()
        try:
            assert count * chunk_byte_count > 3 * (32 << 20)
            with engine_of(small, url=f"lm://127.0.0.1:{port(small, 'lm')}") as engine:
                assert engine.get([1]) == [None]
                for number in range(count):
                    engine.put([number], [engine.made(number % 100)])
                last, first = count - 1, 0
                assert engine.get([last, first]) == [(FULL, float(last % 100)), None]
                assert engine.backend.contains(engine.key(last))
                assert not engine.backend.contains(engine.key(first))
        finally:
            small.stop()


# Over a restart in order, for which systemd keeps the sockets; after a crash nothing helps -------


@pytest.fixture
def supervised():
    with tempfile.TemporaryDirectory(prefix="kvstore-") as folder:
        (pathlib.Path(folder) / "ssd").mkdir()
        with Supervisor(folder) as supervisor:
            made = Daemon(folder, [
                "--resp-listen", "127.0.0.1:0", "--resp-lmcache-strict-replies", "true",
                "--lm-listen", "127.0.0.1:0", "--ssd-directories", f"{folder}/ssd",
                "--ssd-capacity", "1GiB"], "256MiB", supervisor)
            made.start()
            try:
                yield made
            finally:
                made.stop()


def test_the_stock_clients_go_on_after_a_restart_resp(supervised):
    with adapter_of(resp_adapter(supervised, num_workers=4)) as adapter:
        for number in range(3):
            keys = [key(10 * number + each) for each in range(8)]
            assert works(adapter, keys)
            supervised.stop()
            supervised.start()
            assert adapter.lookup([*keys, key(1000)]) == [True] * 8 + [False]
            objects = [memory(0.0) for _ in keys]
            assert adapter.load(keys, objects, seconds=60) == [True] * 8
            assert all(bool((one.tensor == each + 1.0).all()) for each, one in enumerate(objects))
            assert adapter.load([key(1001)], [memory(0.0)], seconds=60) == [False]


def test_a_load_that_is_asked_for_while_no_daemon_runs_is_answered_resp(supervised):
    with adapter_of(resp_adapter(supervised, num_workers=2)) as adapter:
        assert works(adapter, [key(1), key(2)])
        supervised.stop()
        loaded, objects = [], [memory(0.0), memory(0.0)]
        loading = threading.Thread(target=lambda: loaded.extend(
            adapter.load([key(1), key(2)], objects, seconds=60)))
        loading.start()
        supervised.start()
        loading.join()
        assert loaded == [True, True]
        assert bool((objects[1].tensor == 2.0).all())


def test_the_stock_clients_go_on_after_a_restart_lm(supervised):
    with engine_of(supervised, url=f"lm://127.0.0.1:{port(supervised, 'lm')}") as engine:
        for number in range(3):
            engine.put([number], [engine.made(number + 1)])
            assert engine.get([number, 99]) == [(FULL, number + 1.0), None]
            supervised.stop()
            supervised.start()
            assert engine.get([number, 98]) == [(FULL, number + 1.0), None]
            assert engine.backend.contains(engine.key(number))
            assert not engine.backend.contains(engine.key(98))
