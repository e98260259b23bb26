# SPDX-License-Identifier: Apache-2.0
"""LMCache's in-process mode: a remote storage plugin. docs/engines/lmcache.md.

LMCache runs the coroutines here on an event loop of its own, in a thread of its own, and calls the
others (`…_sync`, `batched_contains`) from the engine's threads.
"""
from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from lmcache.utils import CacheEngineKey
from lmcache.v1.exceptions import IrrecoverableException
from lmcache.v1.memory_management import MemoryFormat
from lmcache.v1.storage_backend import connector as lmcache_connector
from lmcache.v1.storage_backend.connector.base_connector import RemoteConnector

import kvstore
from kvstore.adapters import layouts
from kvstore.adapters.lmcache_batches import Batch, Batches

# In front of each value: what LMCache needs to know to give it room.
HEADER_BYTE_COUNT = 512
_MAGIC = b"KVL1"
_PLUGIN = "plugin://kvstore"
_LOADER = ("module_path", "class_name")
_PING_NAME = "kvstore ping: nothing has this name"

_log = logging.getLogger(__name__)


class Form(NamedTuple):
    """What LMCache must know of a value to allocate it."""

    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    format: MemoryFormat

    @classmethod
    def of(cls, memory) -> Form:
        """The form of a memory object."""
        shapes, dtypes = memory.get_shapes(), memory.get_dtypes()
        return cls(tuple(shapes), tuple(dtypes), memory.get_memory_format())

    def differs_in_tokens_alone(self, other: Form) -> bool:
        """Whether a value of this form is one of the other, of any number of tokens."""
        return (self.format, self.dtypes) == (other.format, other.dtypes) and (
            _without_tokens(self) == _without_tokens(other))

    def header(self, byte_count: int) -> bytes:
        """Raises ValueError for more layer groups than a header has room for."""
        text = json.dumps([
            byte_count, self.format.name, [list(shape) for shape in self.shapes],
            [None if dtype is None else str(dtype).removeprefix("torch.")
             for dtype in self.dtypes]], separators=(",", ":"))
        made = _MAGIC + text.encode()
        if len(made) > HEADER_BYTE_COUNT:
            raise ValueError("too many layer groups for a header")
        return made.ljust(HEADER_BYTE_COUNT)

    @classmethod
    def parse(cls, header: bytes) -> tuple[int, Form]:
        """Byte count of the value, and its form; raises ValueError, TypeError or KeyError."""
        if header[:len(_MAGIC)] != _MAGIC:
            raise ValueError("not a value of LMCache")
        byte_count, name, shapes, dtype_names = json.loads(header[len(_MAGIC):])
        dtypes = tuple(None if each is None else getattr(torch, each) for each in dtype_names)
        if not all(each is None or isinstance(each, torch.dtype) for each in dtypes):
            raise ValueError("a header names a dtype that is none")
        return byte_count, cls(tuple(map(torch.Size, shapes)), dtypes, MemoryFormat[name])


def layer_form(full: Form) -> Form:
    """The form of one layer of a chunk."""
    if full.format == MemoryFormat.KV_MLA_FMT:  # has no name of its own there
        return full
    tokens, hidden = full.shapes[0][2:]
    return Form((torch.Size((tokens, 2, hidden)),), full.dtypes, MemoryFormat.KV_T2D)


def _without_tokens(form: Form) -> list[list[int]]:
    token_dim = 0 if form.format == MemoryFormat.KV_T2D else 2
    return [[*shape[:token_dim], *shape[token_dim + 1:]] for shape in form.shapes]


def _tensor_fields(form: Form, metadata) -> layouts.Fields:
    """What the codec needs to know of values of this form; {} where there are no words for it."""
    if len(form.shapes) != 1 or form.dtypes[0] is None:
        return {}
    heads = 1 if metadata.use_mla else metadata.kv_shape[3]
    fields = layouts.lmcache_fields(
        form.format.name, form.shapes[0], str(form.dtypes[0]), heads, HEADER_BYTE_COUNT)
    if not fields or metadata.use_mla:
        return fields
    model = layouts.model_configuration(metadata.model_name)
    return {**fields, **layouts.rope_fields(model, int(fields["head_dim"]))}


class ConnectorAdapter(lmcache_connector.ConnectorAdapter):
    """What LMCache makes of `module_path` and `class_name`: it makes the connectors."""

    def __init__(self) -> None:
        super().__init__(_PLUGIN)

    def can_parse(self, url: str) -> bool:
        """`plugin://kvstore` and `plugin://kvstore.INSTANCE`."""
        return url == _PLUGIN or url.startswith(_PLUGIN + ".")

    def create_connector(self, context: Any) -> RemoteConnector:
        name = context.plugin_name or context.url.removeprefix("plugin://")
        prefix = f"remote_storage_plugin.{name}."
        given = (context.config.extra_config or {}) if context.config else {}
        options = {key.removeprefix(prefix): value for key, value in given.items()
                   if key.startswith(prefix) and key.removeprefix(prefix) not in _LOADER}
        try:
            return Connector(context.loop, context.local_cpu_backend, context.config,
                             context.metadata, **options)
        except (TypeError, ValueError, OSError, kvstore.Error) as error:
            # LMCache tries again what fails otherwise; no retry mends a setting.
            raise IrrecoverableException(f"extra_config, {prefix}…: {error}") from error


class Connector(RemoteConnector):
    """Values of one LMCache engine in kvstored."""

    def __init__(self, loop, local_cpu_backend, config, metadata, address: str, *,
                 layout: dict[str, str | int | float] | None = None, **options: Any):
        super().__init__(config, metadata)
        self._loop = loop
        self._memory = local_cpu_backend
        full = Form(tuple(self.meta_shapes), tuple(self.meta_dtypes), self.meta_fmt)
        # The form that is described for the codec; values of another one are opaque to it.
        self._described = layer_form(full) if config.use_layerwise else full
        description = {
            **_tensor_fields(self._described, metadata),
            **(layout or {}),
            "lmcache_mode": "remote",
            "serde": config.remote_serde or "naive",
            "kv_dtype": str(metadata.kv_dtype),
            "kv_shape": "x".join(map(str, metadata.kv_shape)),
            "chunk_tokens": metadata.chunk_size,
            "uses_mla": int(metadata.use_mla),
        }
        # What values are like, by the type of their key. Of chunks it is known, and only the last
        # chunk of a prompt is smaller; of layers it is learnt.
        self._full = full
        self._usual: dict[type, Form] = {CacheEngineKey: full}
        self._batches = Batches(address, description=description, **options)
        self._waiting: dict[asyncio.Future[Batch], Sequence[Any]] = {}
        loop.call_soon_threadsafe(self._listen)

    # Lookups -------------------------------------------------------------------------------------

    async def exists(self, key) -> bool:
        return await self.batched_async_contains("", [key]) == 1

    def exists_sync(self, key) -> bool:
        return self.batched_contains([key]) == 1

    def support_batched_contains(self) -> bool:
        return True

    def batched_contains(self, keys) -> int:
        """How many leading keys are stored. Waits for the daemon, within a lookup's deadline."""
        try:
            return self._batches.client.lookup_prefix(
                [self._batches.key(key.to_string()) for key in keys])
        except kvstore.Error as error:
            _log.debug("kvstore: lookup: %s", error)
            return 0

    async def batched_async_contains(self, lookup_id, keys, pin=False) -> int:
        batch = await self._run(lambda when_done: self._batches.submit_lookup(
            [key.to_string() for key in keys], when_done=when_done))
        return _prefix_count(batch.byte_counts)

    # Loads ---------------------------------------------------------------------------------------

    async def get(self, key):
        return (await self.batched_get([key]))[0]

    def support_batched_get(self) -> bool:
        return True

    async def batched_get(self, keys) -> list:
        """The memory objects, None for each that is not there or has no room."""
        forms = [self._usual.get(type(key), self._full) for key in keys]
        memories = [self._allocate(form) for form in forms]
        asked = [index for index, memory in enumerate(memories) if memory is not None]
        headers = [bytearray(HEADER_BYTE_COUNT) for _ in asked]
        try:
            batch = await self._run(
                lambda when_done: self._batches.submit_load(
                    [keys[index].to_string() for index in asked],
                    [[header, memories[index].byte_array]
                     for header, index in zip(headers, asked)],
                    exact=False, when_done=when_done),
                [memories[index] for index in asked])
        except BaseException:
            for index in asked:
                memories[index].ref_count_down()
            raise
        if batch.misfits:  # larger than those before: begin again with room for a whole chunk
            self._usual = {CacheEngineKey: self._full}
        for index, header, byte_count in zip(asked, headers, batch.byte_counts):
            memories[index] = self._accept(
                keys[index], forms[index], memories[index], header, byte_count)
        return memories

    async def batched_get_non_blocking(self, lookup_id, keys) -> list:
        """The leading memory objects that are there; the others are given back."""
        memories = await self.batched_get(keys)
        count = _prefix_count(memories)
        for memory in memories[count:]:
            if memory is not None:
                memory.ref_count_down()
        return memories[:count]

    # Stores and the rest -------------------------------------------------------------------------

    async def put(self, key, memory_obj) -> None:
        await self.batched_put([key], [memory_obj])

    def support_batched_put(self) -> bool:
        return True

    async def batched_put(self, keys, memory_objs) -> None:
        names, parts, opaque = [], [], set()
        for index, (key, memory) in enumerate(zip(keys, memory_objs)):
            form, data = Form.of(memory), memory.byte_array
            byte_count = memoryview(data).nbytes
            self._usual.setdefault(type(key), form)
            if not form.differs_in_tokens_alone(self._described):
                opaque.add(index)
            names.append(key.to_string())
            parts.append([form.header(byte_count), data])
        batch = await self._run(lambda when_done: self._batches.submit_store(
            names, parts, opaque=frozenset(opaque), when_done=when_done), memory_objs)
        if batch.fault:
            _log.debug("kvstore: store: %s", batch.fault)

    def remove_sync(self, key) -> bool:
        try:
            return self._batches.client.delete([self._batches.key(key.to_string())]) == 1
        except kvstore.Error as error:
            _log.debug("kvstore: remove: %s", error)
            return False

    async def list(self) -> list[str]:
        """Nothing: names are not kept."""
        return []

    def support_ping(self) -> bool:
        return True

    async def ping(self) -> int:
        """0, or 1 when the daemon does not answer."""
        batch = await self._run(lambda when_done: self._batches.submit_lookup(
            [_PING_NAME], when_done=when_done))
        return 1 if batch.fault else 0

    async def close(self) -> None:
        self._loop.remove_reader(self._batches.fileno())
        self._batches.close()
        for future, memories in list(self._waiting.items()):
            self._end(future, memories)
            if not future.done():
                future.set_exception(ConnectionError("the connector was closed"))

    # Parts of the above --------------------------------------------------------------------------

    def _listen(self):
        self._loop.add_reader(self._batches.fileno(), self._batches.drain)

    async def _run(self, submit, memories=()):
        """Waits for a batch. Its memory objects live until the batch lets go of them, even where
        whoever waits is cancelled: the connection may still write there."""
        future = self._loop.create_future()
        for memory in memories:
            memory.ref_count_up()
        self._waiting[future] = memories

        def when_done(batch):
            self._end(future, memories)
            if not future.done():
                future.set_result(batch)

        try:
            submit(when_done)
        except BaseException:
            self._end(future, memories)
            raise
        return await future

    def _end(self, future, memories):
        if self._waiting.pop(future, None) is not None:
            for memory in memories:
                memory.ref_count_down()

    def _allocate(self, form):
        return self._memory.allocate(
            list(form.shapes), list(form.dtypes), form.format, busy_loop=False)

    def _accept(self, key, expected, memory, header, byte_count):
        """The memory object of a loaded value, in the value's form; None if it is a miss."""
        if byte_count is None:
            memory.ref_count_down()
            return None
        try:
            told_byte_count, form = Form.parse(bytes(header))
            if told_byte_count != byte_count - HEADER_BYTE_COUNT:
                raise ValueError("a header tells of another size")
            if form == expected:
                return memory
            # An incomplete chunk, or of another kind than the last one was.
            self._usual.setdefault(type(key), form)
            fitting = self._allocate(form)
            if fitting is not None:
                memoryview(fitting.byte_array).cast("B")[:] = (
                    memoryview(memory.byte_array).cast("B")[:told_byte_count])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            _log.warning("kvstore: a value is not as LMCache's are: %s", error)
            fitting = None
        memory.ref_count_down()
        return fitting


def _prefix_count(values):
    for index, value in enumerate(values):
        if value is None:
            return index
    return len(values)
