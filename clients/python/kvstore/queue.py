# SPDX-License-Identifier: Apache-2.0
"""The asynchronous form: submit requests, watch a descriptor, drain results.

A queue is one connection with one thread, which is libkvstore's own and needs no GIL. It serves its
requests in order; open several for requests side by side.
"""
from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from kvstore import _native, errors
from kvstore._native import library
from kvstore.client import _clients, _joined_keys, _status_text, make_options

DEPTH_MAXIMUM = 65536
_DRAIN_COUNT = 64


class KeyResult(NamedTuple):
    """What happened to one key. `byte_count`: of the chunk, where the status tells of one."""

    status: int
    byte_count: int


class Completion(NamedTuple):
    """A finished request. `status` is a number of kvstore.h, 0: done; `key_results`: one for each
    key of a get or a lookup, else none."""

    ticket: int
    status: int
    key_results: list[KeyResult]


class _Held:
    """What a request refers to until its completion: buffers, and the array of its results."""

    __slots__ = ("buffers", "results")

    def __init__(self, buffers, results):
        self.buffers = buffers
        self.results = results

    def release(self):
        for buffer in self.buffers:
            buffer.release()
        self.buffers = []


class Queue:
    """A queue to "unix:/path" or "tcp:host:port". Connects at the first request.

    All methods may be called from several threads and return at once. `submit_…` give a ticket that
    a completion will name, and raise `Busy` when `depth` requests are under way; buffers must not
    be used for anything else until then. A forked child cannot use it (`Forked`).
    """

    def __init__(self, address: str, *, namespace: str = "default", token: bytes | None = None,
                 depth: int = 4096, client_name: str = "kvstore-python"):
        self._handle = None
        self._lock = threading.Lock()
        self._held: dict[int, _Held] = {}
        self._tickets = itertools.count(1)
        self._completions = (_native.Completion * _DRAIN_COUNT)()
        options = make_options(namespace, token, 0, client_name)
        handle = ctypes.c_void_p()
        status = library.kvs_queue_open(
            address.encode(), ctypes.byref(options), depth, ctypes.byref(handle))
        if status != _native.OK:
            raise errors.error_for(status, f"{address}: {_status_text(status)}; addresses are "
                                           "unix:/path or tcp:host:port")
        self._handle = handle
        self._descriptor = library.kvs_queue_event_fd(handle)
        _clients.add(self)

    def fileno(self) -> int:
        """Descriptor that is readable while completions wait."""
        return self._descriptor

    def submit_get(self, keys: Sequence[bytes], destinations: Sequence[Sequence[Any]], *,
                   deadline_milliseconds: int = 0) -> int:
        """Reads chunks, each into a list of writable buffers that are filled one after another.

        A key's contents are defined only where its result has status 0.
        """
        joined, count = _joined_keys(keys)
        places = (_native.Destination * max(1, count))()
        buffers: list[Any] = []
        try:
            if len(destinations) != count:
                raise errors.InvalidArgument("a get needs a list of buffers for each key")
            for place, parts in zip(places, destinations):
                place.spans = _spans(parts, buffers, writable=True)
                place.span_count = len(parts)
        except BaseException:
            _release(buffers)
            raise
        results = (_native.GetResult * max(1, count))()
        return self._submit(_Held(buffers, (results, count)), lambda ticket: (
            library.kvs_queue_submit_get(
                self._handle, ticket, joined, count, places, results, deadline_milliseconds)))

    def submit_put(self, key: bytes, parts: Sequence[Any], *, layout_id: bytes = bytes(16),
                   deadline_milliseconds: int = 0) -> int:
        """Stores the bytes of the buffers, one after another; status 2: was there."""
        joined, _ = _joined_keys([key])
        if len(layout_id) != _native.LAYOUT_BYTES:
            raise errors.InvalidArgument("a layout id has 16 bytes")
        buffers: list[Any] = []
        try:
            spans = _spans(parts, buffers, writable=False)
        except BaseException:
            _release(buffers)
            raise
        options = _native.PutOptions(layout=(ctypes.c_uint8 * 16)(*layout_id))
        return self._submit(_Held(buffers, None), lambda ticket: library.kvs_queue_submit_put(
            self._handle, ticket, joined, spans, len(parts), ctypes.byref(options),
            deadline_milliseconds))

    def submit_lookup(self, keys: Sequence[bytes], *, deadline_milliseconds: int = 0) -> int:
        """Tells for every key whether it is stored, and its size."""
        joined, count = _joined_keys(keys)
        records = (_native.LookupRecord * max(1, count))()
        return self._submit(_Held([], (records, count)), lambda ticket: (
            library.kvs_queue_submit_lookup(
                self._handle, ticket, joined, count, 0, records, deadline_milliseconds)))

    def submit_delete(self, keys: Sequence[bytes], *, deadline_milliseconds: int = 0) -> int:
        """Deletes keys."""
        joined, count = _joined_keys(keys)
        return self._submit(_Held([], None), lambda ticket: library.kvs_queue_submit_delete(
            self._handle, ticket, joined, count, deadline_milliseconds))

    def drain(self) -> list[Completion]:
        """What was finished since the last time."""
        drained: list[Completion] = []
        with self._lock:
            while self._handle is not None:
                count = library.kvs_queue_drain(self._handle, self._completions, _DRAIN_COUNT)
                drained.extend(self._finish(each) for each in self._completions[:count])
                if count < _DRAIN_COUNT:
                    break
        return drained

    def close(self) -> None:
        """Ends what is under way; no completion follows, and buffers are free again."""
        with self._lock:
            handle, self._handle = self._handle, None
        if handle is not None:
            library.kvs_queue_close(handle)
            for held in self._held.values():
                held.release()
            self._held.clear()

    def __del__(self):
        if getattr(self, "_handle", None) is not None:
            self.close()

    def _submit(self, held, submit):
        with self._lock:
            if self._handle is None:
                held.release()
                raise errors.WrongState("the queue is closed")
            ticket = next(self._tickets)
            status = submit(ticket)
            if status == _native.OK:
                self._held[ticket] = held
                return ticket
        held.release()
        raise errors.error_for(status, _status_text(status))

    def _finish(self, completion):
        held = self._held.pop(completion.ticket)
        held.release()
        if held.results is None:
            return Completion(completion.ticket, completion.status, [])
        array, count = held.results
        # A get tells of every key whatever became of the request, a lookup only where it succeeded.
        if completion.status == _native.OK or array._type_ is _native.GetResult:
            listed = [KeyResult(each.status, each.byte_count) for each in array[:count]]
        else:
            listed = [KeyResult(completion.status, 0)] * count
        return Completion(completion.ticket, completion.status, listed)


def _spans(parts, buffers, writable):
    spans = (_native.Span * max(1, len(parts)))()
    for span, part in zip(spans, parts):
        buffer = _native.Buffer(part, writable=writable)
        buffers.append(buffer)
        span.bytes = buffer.address
        span.byte_count = buffer.byte_count
    return spans


def _release(buffers):
    for buffer in buffers:
        buffer.release()
