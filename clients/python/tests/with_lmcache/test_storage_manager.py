# SPDX-License-Identifier: Apache-2.0
"""LMCache's storage manager, as `lmcache server` has it: L1 in front, kvstored behind as L2."""
import contextlib
import json
import socket
import subprocess
import sys
import urllib.request

import torch
from support import native_plugin, wait_until
from lmcache.v1.distributed.api import (
    GroupedObjectKeys,
    MemoryLayoutDesc,
    ObjectKey,
    PrefetchTaskSpec,
)
from lmcache.v1.distributed.config import (
    EvictionConfig,
    L1ManagerConfig,
    L1MemoryManagerConfig,
    StorageManagerConfig,
)
from lmcache.v1.distributed.l2_adapters.config import L2AdaptersConfig
from lmcache.v1.distributed.l2_adapters.native_plugin_l2_adapter import (
    NativePluginL2AdapterConfig,
)
from lmcache.v1.distributed.storage_manager import StorageManager

MEBIBYTE = 1 << 20
LAYOUT = MemoryLayoutDesc(shapes=[torch.Size([2, 8, 256, 128])], dtypes=[torch.bfloat16])


def key(number):
    return ObjectKey(chunk_hash=ObjectKey.IntHash2Bytes(number), model_name="org/model", kv_rank=0)


@contextlib.contextmanager
def manager_of(daemon):
    description = native_plugin(daemon, load_deadline_milliseconds=2000)
    made = StorageManager(StorageManagerConfig(
        l1_manager_config=L1ManagerConfig(
            memory_config=L1MemoryManagerConfig(
                size_in_bytes=64 * MEBIBYTE, use_lazy=False, init_size_in_bytes=64 * MEBIBYTE,
                align_bytes=4096),
            write_ttl_seconds=600, read_ttl_seconds=300),
        eviction_config=EvictionConfig(eviction_policy="LRU"),
        l2_adapter_config=L2AdaptersConfig(
            adapters=[NativePluginL2AdapterConfig.from_dict(description)])))
    try:
        yield made
    finally:
        made.close()


def fill(manager, keys):
    """Puts the number of each key into its object in L1, from where LMCache stores it in L2."""
    objects = manager.reserve_write(keys, LAYOUT)
    for index, each in enumerate(keys):
        if each in objects:
            objects[each].tensor.fill_(index + 1)
    manager.finish_write(list(objects))
    return objects


def write(manager, keys):
    """As `fill`, and waits until all is in L2 too."""
    objects = fill(manager, keys)
    used = sum(memory_object.get_size() for memory_object in objects.values())
    adapter = manager._l2_adapters[0]
    wait_until(lambda: adapter.get_usage().total_bytes_used >= used, "not stored in L2")


def prefetched(manager, keys):
    """How many leading keys a prefetch brings, with their contents compared."""
    handle = manager.submit_prefetch_task(PrefetchTaskSpec(
        key_groups=[GroupedObjectKeys(keys=keys, object_group_id=0, layout_desc=LAYOUT)]))
    count = wait_until(lambda: manager.query_prefetch_status(handle),
                       "a prefetch never ends").hit_cells[0].count_leading_ones()
    if count:
        with manager.read_prefetched_results(keys[:count]) as objects:
            assert objects is not None
            for index, memory_object in enumerate(objects):
                assert bool((memory_object.tensor == index + 1).all()), index
        manager.finish_read_prefetched(keys[:count])
    return count


def test_a_second_engine_gets_what_the_first_one_stored(daemon):
    keys = [key(number) for number in range(12)]
    with manager_of(daemon) as first:
        assert prefetched(first, keys) == 0
        write(first, keys)
    with manager_of(daemon) as second:
        assert prefetched(second, keys) == 12
        assert prefetched(second, [*keys[:3], key(99), *keys[4:]]) == 3


def test_prefetches_end_whatever_the_daemon_does(daemon):
    keys = [key(number) for number in range(4)]
    with manager_of(daemon) as manager:
        write(manager, keys)
        manager.clear()
        daemon.pause()
        assert prefetched(manager, keys) == 0
        daemon.resume()
        wait_until(lambda: prefetched(manager, keys) == 4, "never used again")
        manager.clear()
        daemon.kill()
        assert prefetched(manager, keys) == 0
        daemon.start()
        # Nothing is left of what was stored; engines compute and store again.
        again = [key(number) for number in range(10, 14)]

        def stored_and_prefetched():
            fill(manager, again)
            manager.clear()
            return prefetched(manager, again) == 4

        wait_until(stored_and_prefetched, "never connected again")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_lmcache_server_with_the_documented_configuration(daemon):
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "lmcache.cli.main", "server", "--port", str(free_port()),
         "--http-host", "127.0.0.1", "--http-port", str(port), "--l1-size-gb", "0.1",
         "--eviction-policy", "LRU", "--l2-adapter", json.dumps(native_plugin(daemon))],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def status():
        assert process.poll() is None, "lmcache server ended"
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=10) as answer:
                return json.loads(answer.read())
        return None

    try:
        told = wait_until(status, "lmcache server does not answer", seconds=120)
        assert told["storage_manager"]["l2_adapters"] == [
            {"is_healthy": True, "type": "NativeConnector"}]
    finally:
        process.terminate()
        process.wait(timeout=60)
