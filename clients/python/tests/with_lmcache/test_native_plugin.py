# SPDX-License-Identifier: Apache-2.0
"""LMCache's MP mode over our native plugin, inside LMCache's own adapter and storage manager."""
import argparse
import contextlib
import json
import select
import time

import pytest
import torch
from support import check_basic, check_bench, native_plugin, run, run_bench, wait_until
from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
from lmcache.v1.distributed.l2_adapters import create_l2_adapter
from lmcache.v1.distributed.l2_adapters.config import parse_args_to_l2_adapters_config
from lmcache.v1.memory_management import MemoryFormat, MemoryObjMetadata, TensorMemoryObj
from lmcache.v1.platform import consume_fd

NO_LAYOUT = MemoryLayoutDesc(shapes=[], dtypes=[])


def key(number, salt=""):
    return ObjectKey(chunk_hash=ObjectKey.IntHash2Bytes(number), model_name="org/model",
                     kv_rank=ObjectKey.ComputeKVRank(2, 1, 2, 1), cache_salt=salt)


def memory(value, size=70_000):
    data = torch.full((size,), value, dtype=torch.float32)
    return TensorMemoryObj(data, MemoryObjMetadata(
        shape=torch.Size([size]), dtype=torch.float32, address=0, phy_size=4 * size,
        fmt=MemoryFormat.KV_2LTD, ref_count=1), parent_allocator=None)


class Adapter:
    """LMCache's adapter over the plugin, with its three descriptors waited for one by one."""

    def __init__(self, description):
        arguments = argparse.Namespace(l2_adapter=[json.dumps(description)])
        self.adapter = create_l2_adapter(parse_args_to_l2_adapters_config(arguments).adapters[0])

    @staticmethod
    def _wait(descriptor, ask, seconds=60):
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        end = time.monotonic() + seconds
        while (answer := ask()) is None:
            assert time.monotonic() < end, "LMCache's adapter never completes"
            if poller.poll(500):
                with contextlib.suppress(BlockingIOError):
                    consume_fd(descriptor)
        return answer

    def store(self, keys, objects):
        task = self.adapter.submit_store_task(keys, objects)
        found = {}

        def ask():
            found.update(self.adapter.pop_completed_store_tasks())
            return found.get(task)

        return self._wait(self.adapter.get_store_event_fd(), ask).is_successful()

    def submit_lookup(self, keys):
        return self.adapter.submit_lookup_and_lock_task(keys, {0: NO_LAYOUT})

    def lookup(self, keys):
        task = self.submit_lookup(keys)
        bitmap = self._wait(self.adapter.get_lookup_and_lock_event_fd(),
                            lambda: self.adapter.query_lookup_and_lock_result(task))
        self.adapter.submit_unlock(keys)
        return [bitmap.test(index) for index in range(len(keys))]

    def load(self, keys, objects, seconds=60):
        task = self.adapter.submit_load_task(keys, objects)
        bitmap = self._wait(self.adapter.get_load_event_fd(),
                            lambda: self.adapter.query_load_result(task), seconds)
        return [bitmap.test(index) for index in range(len(keys))]


@contextlib.contextmanager
def adapter_of(description):
    made = Adapter(description)
    try:
        yield made
    finally:
        made.adapter.close()


def works(adapter, keys):
    """Whether a store and a load of these keys succeed, with the right bytes."""
    stored = [memory(index + 1.0) for index in range(len(keys))]
    loaded = [memory(0.0) for _ in keys]
    if not adapter.store(keys, stored) or adapter.load(keys, loaded) != [True] * len(keys):
        return False
    assert all(torch.equal(one.tensor, other.tensor) for one, other in zip(stored, loaded))
    return True


# LMCache's own programs --------------------------------------------------------------------------


@pytest.mark.parametrize("kibibytes,keys", [(64, 50), (4096, 8), (32768, 2)])
def test_bench_verifies_every_byte(daemon, kibibytes, keys):
    output = run_bench(native_plugin(daemon), "--num-keys", str(keys), "--data-size-kb",
                       str(kibibytes), "--rounds", "2", "--in-flight", "2")
    check_bench(output, 2 * keys)


def test_bench_with_another_size_on_the_same_keys(daemon):
    """The names that `lmcache bench l2` makes are the same in every run."""
    for kibibytes in (64, 256, 64):
        check_bench(run_bench(native_plugin(daemon), "--num-keys", "4", "--data-size-kb",
                              str(kibibytes)), 4)


def test_basic_check(daemon):
    output = run("lmcache.v1.basic_check", "--mode", "test_l2_adapter", "--l2-adapter",
                 json.dumps(native_plugin(daemon)), "--num-keys", "20")
    check_basic(output, 5)


# What hurts LMCache's stock clients, and must not hurt here --------------------------------------


def test_a_miss_completes_and_the_next_request_is_served(daemon):
    """The stock RESP client waits for ever for the rest of a nil."""
    with adapter_of(native_plugin(daemon)) as adapter:
        keys = [key(number) for number in range(6)]
        assert adapter.store(keys[:3], [memory(float(number)) for number in range(3)])
        assert adapter.lookup(keys) == [True] * 3 + [False] * 3
        objects = [memory(-1.0) for _ in keys]
        assert adapter.load(keys, objects) == [True] * 3 + [False] * 3
        for number in range(3):
            assert bool((objects[number].tensor == float(number)).all())
        for _ in range(20):
            assert adapter.load([key(1000)], [memory(0.0)]) == [False]
        assert works(adapter, [key(2000)])


def test_evicted_between_lookup_and_load(daemon):
    with adapter_of(native_plugin(daemon)) as adapter:
        assert adapter.store([key(1)], [memory(1.0)]) and adapter.lookup([key(1)]) == [True]
        adapter.adapter.delete([key(1)])
        assert adapter.load([key(1)], [memory(0.0)]) == [False]
        assert works(adapter, [key(1)])


def test_a_daemon_that_crashes_is_used_again(daemon):
    """The stock clients never connect again."""
    with adapter_of(native_plugin(daemon)) as adapter:
        keys = [key(number) for number in range(4)]
        assert works(adapter, keys)
        daemon.kill()
        assert adapter.lookup(keys) == [False] * 4
        assert adapter.load(keys, [memory(0.0) for _ in keys]) == [False] * 4
        assert not adapter.store(keys, [memory(0.0) for _ in keys])
        daemon.start()
        wait_until(lambda: works(adapter, keys), "never connected again")


def test_a_daemon_that_hangs_costs_a_deadline(daemon):
    description = native_plugin(daemon, lookup_deadline_milliseconds=300,
                                load_deadline_milliseconds=300, store_deadline_milliseconds=300)
    with adapter_of(description) as adapter:
        assert works(adapter, [key(1)])
        daemon.pause()
        assert adapter.load([key(1)], [memory(0.0)]) == [False]
        assert adapter.lookup([key(1)]) == [False]
        assert not adapter.store([key(2)], [memory(0.0)])
        adapter.adapter.delete([key(1)])
        daemon.resume()
        wait_until(lambda: works(adapter, [key(3)]), "never used again")


def test_a_value_of_another_size_is_a_miss(daemon):
    """RESP's client takes a reply of another size for the beginning of the next one."""
    with adapter_of(native_plugin(daemon)) as adapter:
        assert adapter.store([key(1), key(2)], [memory(1.0, 5000), memory(2.0, 6000)])
        objects = [memory(0.0, 6000), memory(0.0, 6000)]
        assert adapter.load([key(1), key(2)], objects) == [False, True]
        assert bool((objects[1].tensor == 2.0).all())
        assert adapter.store([key(1)], [memory(3.0, 6000)])
        assert adapter.load([key(1)], objects[:1]) == [True]
        assert bool((objects[0].tensor == 3.0).all())


def test_tenants_by_salt_do_not_meet(daemon):
    with adapter_of(native_plugin(daemon)) as adapter:
        assert adapter.store([key(1, "alice")], [memory(1.0)])
        assert adapter.lookup([key(1), key(1, "alice"), key(1, "bob")]) == [False, True, False]


def test_deletion_and_accounting(daemon):
    with adapter_of(native_plugin(daemon)) as adapter:
        keys = [key(number) for number in range(3)]
        assert adapter.store(keys, [memory(1.0) for _ in keys])
        assert adapter.adapter.get_usage().total_bytes_used == 3 * 280_000
        adapter.adapter.delete(keys)
        assert adapter.adapter.get_usage().total_bytes_used == 0
        assert adapter.lookup(keys) == [False] * 3


def test_a_daemon_that_comes_later(daemon):
    daemon.stop()
    with adapter_of(native_plugin(daemon)) as adapter:
        assert adapter.lookup([key(1)]) == [False]
        daemon.start()
        wait_until(lambda: works(adapter, [key(1)]), "never connected")


@pytest.mark.parametrize("wrong", [{"number": 1}, {"connections": 0}, {"address": "/socket"}])
def test_wrong_parameters_are_told_at_start(daemon, wrong):
    with pytest.raises((TypeError, ValueError)):
        Adapter(native_plugin(daemon, **wrong))
