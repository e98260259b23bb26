# SPDX-License-Identifier: Apache-2.0
"""LMCache's in-process mode over our remote plugin, inside LMCache's own remote backend."""
import asyncio
import contextlib
import hmac
import pathlib
import sys
import threading
import time
import types

import pytest
import torch
from support import check_basic, run, wait_until
from lmcache.utils import CacheEngineKey
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.exceptions import IrrecoverableException
from lmcache.v1.memory_management import MemoryFormat
from lmcache.v1.metadata import LMCacheMetadata
from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend
from lmcache.v1.storage_backend.remote_backend import RemoteBackend

from kvstore.adapters.lmcache_remote import HEADER_BYTE_COUNT, ConnectorAdapter, Form

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[4] / "Tests" / "Vectors"))

from container_layout import Layout  # noqa: E402

LAYERS, TOKENS, HEADS, HEAD_SIZE = 4, 256, 2, 64
FULL = torch.Size([2, LAYERS, TOKENS, HEADS * HEAD_SIZE])


def settings(daemon, **more):
    prefix = "remote_storage_plugin.kvstore."
    return {prefix + "module_path": "kvstore.adapters.lmcache_remote",
            prefix + "class_name": "ConnectorAdapter", prefix + "address": daemon.unix,
            **{prefix + name: value for name, value in more.items()}}


class Engine:
    """As much of an LMCache engine as a remote backend needs."""

    def __init__(self, daemon, dtype=torch.bfloat16, plugin="kvstore", timeout=10, url=None,
                 model="org/model", **more):
        self.config = LMCacheEngineConfig.from_defaults(
            chunk_size=TOKENS, local_cpu=True, max_local_cpu_size=0.05,
            remote_serde="naive", lmcache_instance_id="kvstore_test",
            blocking_timeout_secs=timeout)
        if url is None:
            self.config.extra_config = settings(daemon, **more)
            self.config.remote_storage_plugins = [plugin]
        self.config.remote_url = url
        metadata = LMCacheMetadata(
            model_name=model, world_size=1, local_world_size=1, worker_id=0,
            local_worker_id=0, kv_dtype=dtype,
            kv_shape=(LAYERS, 2, TOKENS, HEADS, HEAD_SIZE), chunk_size=TOKENS)
        self.dtype = dtype
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.memory = LocalCPUBackend(config=self.config, metadata=metadata, dst_device="cpu")
        self.backend = RemoteBackend(self.config, metadata, self.loop, self.memory, "cpu",
                                     plugin if url is None else None)

    def key(self, number):
        return CacheEngineKey("org/model", 1, 0, number, self.dtype)

    def made(self, value, shape=FULL, form=MemoryFormat.KV_2LTD):
        made = self.memory.allocate(shape, self.dtype, form)
        made.tensor.fill_(value)
        return made

    def put(self, numbers, memories):
        """Stores, and gives the memory back, as LMCache does."""
        keys = [self.key(number) for number in numbers]
        done = threading.Event()
        left = [len(keys)]

        def count(_key):
            left[0] -= 1
            if left[0] == 0:
                done.set()

        self.backend.batched_submit_put_task(keys, memories, on_complete_callback=count)
        assert done.wait(60), "a put never ends"
        for memory in memories:
            memory.ref_count_down()

    def get(self, numbers):
        """What is there, as (shape, first number, all equal); memory is given back."""
        found = []
        for memory in self.backend.batched_get_blocking([self.key(each) for each in numbers]):
            if memory is None:
                found.append(None)
            else:
                value = memory.tensor.flatten()[0].item()
                assert bool((memory.tensor == value).all())
                found.append((memory.get_shape(), value))
                memory.ref_count_down()
        return found

    def used(self):
        """Bytes of LMCache's memory that are given out."""
        return self.memory.memory_allocator.pin_allocator.total_allocated_size

    def close(self):
        self.backend.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.memory.memory_allocator.close()


@contextlib.contextmanager
def engine_of(daemon, **more):
    made = Engine(daemon, **more)
    try:
        yield made
    finally:
        made.close()


def test_basic_check(daemon, tmp_path):
    lines = "\n".join(f"  {name}: {value}" for name, value in settings(daemon).items())
    path = tmp_path / "lmcache.yaml"
    path.write_text(f"chunk_size: 256\nlocal_cpu: true\nmax_local_cpu_size: 0.1\n"
                    f"remote_url: plugin://kvstore\nremote_serde: naive\n"
                    f"remote_storage_plugins: [kvstore]\nextra_config:\n{lines}\n")
    output = run("lmcache.v1.basic_check", "--mode", "test_remote", "--num-keys", "20",
                 environment={"LMCACHE_CONFIG_FILE": str(path)})
    check_basic(output, 5)


def test_chunks_come_back_and_memory_is_given_back(daemon):
    with engine_of(daemon) as engine:
        assert engine.get([1, 2]) == [None, None]
        engine.put([1, 2, 3], [engine.made(value) for value in (1, 2, 3)])
        assert engine.get([3, 4, 1]) == [(FULL, 3.0), None, (FULL, 1.0)]
        assert engine.backend.contains(engine.key(1)) and not engine.backend.contains(engine.key(4))
        assert engine.backend.batched_contains([engine.key(each) for each in (1, 2, 4, 3)]) == 2
        assert engine.backend.remove(engine.key(1)) and not engine.backend.contains(engine.key(1))
        assert engine.used() == 0


def test_incomplete_chunks_and_layers(daemon):
    part = torch.Size([2, LAYERS, 17, HEADS * HEAD_SIZE])
    layer = torch.Size([TOKENS, 2, HEADS * HEAD_SIZE])
    with engine_of(daemon) as engine:
        engine.put([1, 2, 3], [engine.made(1), engine.made(2, part), engine.made(3)])
        assert engine.get([2, 3, 2, 1]) == [(part, 2.0), (FULL, 3.0), (part, 2.0), (FULL, 1.0)]
        layers = engine.key(9).split_layers(LAYERS)
        engine.key = lambda number: layers[number]
        for _ in range(2):
            engine.put(range(LAYERS), [
                engine.made(10 + each, layer, MemoryFormat.KV_T2D) for each in range(LAYERS)])
            assert engine.get(range(LAYERS)) == [
                (layer, 10.0 + each) for each in range(LAYERS)]
        assert engine.used() == 0
    with engine_of(daemon) as fresh:  # has seen no layer yet
        fresh.key = lambda number: layers[number]
        assert fresh.get([0, 1]) == [(layer, 10.0), (layer, 11.0)]
        assert fresh.get([2, 3]) == [(layer, 12.0), (layer, 13.0)]
        assert fresh.used() == 0


def test_other_forms_do_not_meet(daemon):
    with engine_of(daemon) as engine:
        engine.put([1], [engine.made(1)])
    with engine_of(daemon, dtype=torch.float16) as other:
        other.key = lambda number: CacheEngineKey("org/model", 1, 0, number, torch.bfloat16)
        assert other.get([1]) == [None]
    with engine_of(daemon, layout={"engine": "vllm"}) as other:
        assert other.get([1]) == [None]


def test_lookup_and_load_without_blocking(daemon):
    """What LMCache's asynchronous loading asks for."""
    with engine_of(daemon) as engine:
        engine.put([1, 2, 4], [engine.made(value) for value in (1, 2, 4)])
        keys = [engine.key(number) for number in (1, 2, 3, 4)]

        def call(coroutine):
            return asyncio.run_coroutine_threadsafe(coroutine, engine.loop).result(60)

        assert call(engine.backend.batched_async_contains("id", keys)) == 2
        memories = call(engine.backend.batched_get_non_blocking("id", keys))
        assert [memory.tensor.flatten()[0].item() for memory in memories] == [1.0, 2.0]
        for memory in memories:
            memory.ref_count_down()
        assert call(engine.backend.connection.ping()) == 0
        assert engine.used() == 0


def test_the_codec_is_told_where_values_stand(daemon):
    """The description in the namespace finds every value of a stored chunk."""
    with engine_of(daemon) as engine:
        made = engine.made(0)
        made.tensor.copy_(torch.arange(made.tensor.numel()).reshape(FULL) % 251)
        expected = made.tensor.clone()
        engine.put([1], [made])
        batches = engine.backend.connection._connector._batches
        key = batches.key(engine.key(1).to_string())
        chunk = batches.client.get(key)
        message = b"l1" + batches.layout_id
        description = batches.client.get(
            hmac.new(batches.client.secret(), message, "sha256").digest())
    layout = Layout(bytes(description))
    assert layout.token_count(len(chunk)) == TOKENS
    for kind, places in layout.places(TOKENS).items():
        at = torch.from_numpy(places)[..., None] + torch.arange(2)
        found = torch.frombuffer(chunk, dtype=torch.uint8)[at].view(torch.bfloat16)[..., 0]
        assert torch.equal(found, expected[kind].reshape(LAYERS, TOKENS, HEADS, HEAD_SIZE))


def test_rope_of_a_local_model(daemon, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "rope_theta": 500000.0}')
    with engine_of(daemon, model=str(tmp_path)) as engine:
        description = engine.backend.connection._connector._batches._description
    assert (description["rope_theta"], description["rope_pairing"]) == (500000.0, "half")


def test_no_room_is_a_miss_and_holds_nobody_up(daemon):
    with engine_of(daemon) as engine:
        engine.put([1], [engine.made(1)])
        hoard = []
        while (memory := engine.memory.allocate(
                FULL, engine.dtype, MemoryFormat.KV_2LTD, busy_loop=False)) is not None:
            hoard.append(memory)
        assert engine.get([1]) == [None]
        for memory in hoard:
            memory.ref_count_down()
        assert engine.get([1]) == [(FULL, 1.0)]


def test_a_request_that_lmcache_gives_up_keeps_its_memory(daemon):
    """The connection may still write there, so nobody else may get it."""
    with engine_of(daemon, timeout=1, load_deadline_milliseconds=3000) as engine:
        engine.put([1], [engine.made(1)])
        daemon.pause()
        start = time.monotonic()
        assert engine.get([1]) == [None]
        assert time.monotonic() - start < 30
        assert engine.used() > 0
        daemon.resume()
        wait_until(lambda: engine.used() == 0, "memory is never given back")
        wait_until(lambda: engine.get([1]) == [(FULL, 1.0)], "never used again")


def test_a_daemon_that_crashes_is_used_again(daemon):
    """`lm://` and `resp://` never connect again, `contains` waits without bound."""
    with engine_of(daemon, lookup_deadline_milliseconds=300) as engine:
        engine.put([1], [engine.made(1)])
        assert engine.get([1]) == [(FULL, 1.0)]
        daemon.kill()
        assert engine.get([1]) == [None] and not engine.backend.contains(engine.key(1))
        engine.put([2], [engine.made(2)])
        daemon.start()

        def works():
            engine.put([3], [engine.made(3)])
            return engine.get([3]) == [(FULL, 3.0)]

        wait_until(works, "never connected again")
        daemon.pause()
        assert not engine.backend.contains(engine.key(3))
        assert engine.backend.batched_contains([engine.key(3)]) == 0
        daemon.resume()
        wait_until(works, "never used again")
        assert engine.used() == 0


def test_close_gives_everything_back(daemon):
    engine = Engine(daemon)
    try:
        engine.put([1], [engine.made(1)])
        daemon.pause()
        getting = asyncio.run_coroutine_threadsafe(
            engine.backend.connection.batched_get([engine.key(1)]), engine.loop)
        wait_until(lambda: engine.used() > 0, "no memory was taken")
    finally:
        engine.close()
    with pytest.raises((ConnectionError, asyncio.CancelledError)):
        getting.result(60)
    assert engine.used() == 0
    daemon.resume()


def test_instances_and_wrong_settings(daemon):
    two = {"module_path": "kvstore.adapters.lmcache_remote", "class_name": "ConnectorAdapter",
           "address": daemon.unix, "connections": 1}
    # Behind the prefix "remote_storage_plugin.kvstore." that `settings` adds.
    two = {f"two.{name}": value for name, value in two.items()}
    with engine_of(daemon, plugin="kvstore.two", **two) as engine:
        engine.put([1], [engine.made(1)])
        assert engine.get([1]) == [(FULL, 1.0)]


@pytest.mark.parametrize("wrong", [
    {"number_of_connections": 4}, {"address": "/socket"}, {"connections": 0},
    {"token_file": "/nonexistent"}, {"layout": {"Name": 1}}])
def test_wrong_settings_end_the_start(daemon, wrong):
    """Others than a daemon that is not there, which is tried again."""
    with engine_of(daemon) as engine:
        extra = settings(daemon, **wrong)
        context = types.SimpleNamespace(
            plugin_name="kvstore", url="plugin://kvstore", loop=engine.loop,
            local_cpu_backend=engine.memory, metadata=engine.backend.metadata,
            config=types.SimpleNamespace(
                extra_config=extra, remote_serde="naive", use_layerwise=False))
        with pytest.raises(IrrecoverableException):
            ConnectorAdapter().create_connector(context)


def test_headers():
    form = Form((FULL,), (torch.bfloat16,), MemoryFormat.KV_2LTD)
    header = form.header(123)
    assert len(header) == HEADER_BYTE_COUNT and Form.parse(header) == (123, form)
    binary = Form((torch.Size([9, 0, 0, 0]),), (None,), MemoryFormat.BINARY_BUFFER)
    assert Form.parse(binary.header(9)) == (9, binary)
    for wrong in (b"", b"KVL1", b"KVL2" + header[4:], header.replace(b"bfloat16", b"Tensor\"  "),
                  header.replace(b"bfloat16", b"nonsense"), header.replace(b"KV_2LTD", b"KV_9LTD")):
        with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
            Form.parse(wrong)
    with pytest.raises(ValueError):
        Form((FULL,) * 20, (torch.bfloat16,) * 20, MemoryFormat.KV_2LTD).header(1)
