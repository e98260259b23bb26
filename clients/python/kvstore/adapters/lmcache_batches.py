# SPDX-License-Identifier: Apache-2.0
"""Batches of LMCache's keys over several queues: split, followed up, and put together again.

Shared by the plugins of LMCache's two modes; needs no LMCache. What is promised of it stands in
docs/engines/lmcache.md.
"""
from __future__ import annotations

import ctypes
import itertools
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import kvstore
from kvstore import _native

_PREFIX = b"lmcache/1\0"
_RETRY_SECONDS_FIRST = 0.1
_RETRY_SECONDS_MAX = 5.0
_WARNING_SECONDS = 60.0

# Statuses that say that the daemon is not there, rather than what it thinks of a key.
_GONE = frozenset(
    kind.status for kind in (kvstore.CannotConnect, kvstore.ConnectionLost, kvstore.ShuttingDown))
_MISSES = frozenset((_native.NOT_FOUND, _native.LAYOUT_MISMATCH, _native.DAMAGED))
_TOO_SMALL = kvstore.DestinationTooSmall.status
_INVALID = kvstore.InvalidArgument.status

_log = logging.getLogger(__name__)


class Batch:
    """One batch. When it is done, `byte_counts` has a number for each key: of bytes that were
    loaded, stored, or found; 0 for a key that was deleted, None for one that was not there, or of
    which the fault is told."""

    __slots__ = ("byte_counts", "exact", "fault", "keys", "left", "number", "opaque", "parts",
                 "sizes", "misfits", "when_done")

    def __init__(self, number, keys, parts=(), exact=False, when_done=None):
        self.number: int = number
        self.keys: list[bytes] = keys
        self.parts: Sequence[Sequence[Any]] = parts
        self.sizes = [sum(memoryview(part).nbytes for part in each) for each in parts]
        self.exact = exact
        self.opaque: frozenset[int] = frozenset()
        self.when_done: Callable[[Batch], None] | None = when_done
        self.byte_counts: list[int | None] = [None] * len(keys)
        self.fault: str | None = None
        self.misfits = False  # buffers of a load had not the size of a value
        self.left = 0  # requests under way

    def fail(self, status):
        if self.fault is None:
            self.fault = _native.library.kvs_status_text(status).decode()


class _Lane:
    """A queue, what to do with its completions, and how many bytes wait in it."""

    def __init__(self, queue):
        self.queue = queue
        self.waiting_byte_count = 0
        self.followers: dict[int, Callable[[kvstore.Completion], None]] = {}


def read_token(token_file: str | None) -> bytes | None:
    """The first line of a token file that is no comment."""
    if token_file is None:
        return None
    for line in Path(token_file).read_bytes().splitlines():
        if line.strip() and not line.startswith(b"#"):
            return line.strip()
    raise ValueError(f"{token_file} has no token")


class Batches:
    """Batches to one daemon. Thread-safe; a batch is never refused, it fails."""

    def __init__(self, address: str, *, description: Mapping[str, str | int | float],
                 namespace: str = "default", token_file: str | None = None, connections: int = 4,
                 lookup_deadline_milliseconds: int = 1000,
                 load_deadline_milliseconds: int = 5000,
                 store_deadline_milliseconds: int = 30000):
        """Raises what makes no sense: an address, a token. A daemon that is not there is none."""
        if not 1 <= connections <= 64:
            raise kvstore.InvalidArgument("connections: from 1 to 64")
        for name, value in (("lookup", lookup_deadline_milliseconds),
                            ("load", load_deadline_milliseconds),
                            ("store", store_deadline_milliseconds)):
            if not 1 <= value <= 600_000:
                raise kvstore.InvalidArgument(f"{name}_deadline_milliseconds: from 1 to 600000")
        self._address = address
        self._lookup_milliseconds = lookup_deadline_milliseconds
        self._load_milliseconds = load_deadline_milliseconds
        self._store_milliseconds = store_deadline_milliseconds
        self.layout_id = kvstore.layout_id(description)
        self._description = dict(description)
        self._prefix = _PREFIX + self.layout_id
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._done: list[Batch] = []
        self._closed = False
        self._reachable = True
        self._warned: dict[int, float] = {}  # status: when, by time.monotonic
        self._close_event = threading.Event()
        self._secret: bytes | None = None
        self._secret_thread: threading.Thread | None = None
        options = {"namespace": namespace, "token": read_token(token_file)}
        self.client = kvstore.Client(
            address, deadline_milliseconds=lookup_deadline_milliseconds, **options)
        self._epoll = select.epoll()
        self._event_descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._event_descriptor, select.EPOLLIN)
        self._loads = [self._open_lane(options) for _ in range(connections)]
        self._stores = [self._open_lane(options) for _ in range(connections)]
        self._others = self._open_lane(options)
        self._learn_secret_at_once()

    def fileno(self) -> int:
        """Descriptor that is readable while there is something to drain."""
        return self._epoll.fileno()

    # Submitting ----------------------------------------------------------------------------------

    def submit_load(self, names: Sequence[str], parts: Sequence[Sequence[Any]], *,
                    exact: bool = True, when_done: Callable[[Batch], None] | None = None) -> int:
        """Loads values into buffers. With `exact` a value of another size than its buffers is a
        miss, and removed, so that one of the right size can be stored."""
        with self._lock:
            batch = self._new(names, parts, exact, when_done)
            shares = self._share_out(batch, self._loads)
            for lane, (indexes, byte_count) in shares.items():
                keys = [batch.keys[index] for index in indexes]
                places = [batch.parts[index] for index in indexes]
                self._submit(batch, lane, byte_count, lambda queue, k=keys, p=places: (
                    queue.submit_get(k, p, deadline_milliseconds=self._load_milliseconds)),
                    lambda completion, i=indexes: self._loaded(batch, i, completion))
            return self._submitted(batch)

    def submit_store(self, names: Sequence[str], parts: Sequence[Sequence[Any]], *,
                     opaque: frozenset[int] = frozenset(),
                     when_done: Callable[[Batch], None] | None = None) -> int:
        """Stores values; one that is there already with another size is replaced. `opaque`: the
        indexes of those that are not as the description says."""
        with self._lock:
            batch = self._new(names, parts, False, when_done)
            batch.opaque = opaque
            for lane, (indexes, _) in self._share_out(batch, self._stores).items():
                for index in indexes:
                    self._store(batch, lane, index, may_replace=True)
            return self._submitted(batch)

    def submit_lookup(self, names: Sequence[str], *,
                      when_done: Callable[[Batch], None] | None = None) -> int:
        """Tells which values are stored."""
        with self._lock:
            batch = self._new(names, (), False, when_done)

            def follow(completion):
                for index, result in enumerate(completion.key_results):
                    if result.status == _native.OK:
                        batch.byte_counts[index] = result.byte_count
                    else:
                        self._note(batch, result.status)

            if batch.keys:
                self._submit(batch, self._others, 0, lambda queue: queue.submit_lookup(
                    batch.keys, deadline_milliseconds=self._lookup_milliseconds), follow)
            return self._submitted(batch)

    def submit_delete(self, names: Sequence[str], *,
                      when_done: Callable[[Batch], None] | None = None) -> int:
        """Deletes values. A key counts as deleted also where it was not there: it is gone."""
        with self._lock:
            batch = self._new(names, (), False, when_done)

            def follow(completion):
                if completion.status in (_native.OK, kvstore.NotDurable.status):
                    batch.byte_counts = [0] * len(batch.keys)
                else:
                    self._note(batch, completion.status)

            if batch.keys:
                self._submit(batch, self._others, 0, lambda queue: queue.submit_delete(
                    batch.keys, deadline_milliseconds=self._lookup_milliseconds), follow)
            return self._submitted(batch)

    def key(self, name: str) -> bytes:
        """The chunk key of a name of LMCache. Raises CannotConnect before the daemon was met."""
        with self._lock:
            if self._secret is None:
                raise kvstore.CannotConnect("the daemon was not met yet")
            return self._derive(self._secret, name)

    # Draining ------------------------------------------------------------------------------------

    def drain(self) -> list[Batch]:
        """Batches that are done, but for those that have a `when_done`: that was called."""
        with self._lock:
            if self._closed:
                return []
            try:
                os.eventfd_read(self._event_descriptor)
            except BlockingIOError:
                pass
            for lane in (*self._loads, *self._stores, self._others):
                for completion in lane.queue.drain():
                    lane.followers.pop(completion.ticket)(completion)
            done, self._done = self._done, []
        told = []
        for batch in done:
            if batch.when_done is None:
                told.append(batch)
            else:
                batch.when_done(batch)
        return told

    def close(self) -> None:
        """Ends everything. Batches under way do not complete; their buffers are free afterwards."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._close_event.set()
        for lane in (*self._loads, *self._stores, self._others):
            lane.queue.close()
            lane.followers.clear()
        self.client.close()
        self._epoll.close()
        os.close(self._event_descriptor)

    # What follows a completion; the lock is held -------------------------------------------------

    def _loaded(self, batch, indexes, completion):
        wrong_size = []
        for index, result in zip(indexes, completion.key_results):
            if result.status == _native.OK and not (
                    batch.exact and result.byte_count != batch.sizes[index]):
                batch.byte_counts[index] = result.byte_count
            elif result.status in (_native.OK, _TOO_SMALL):
                wrong_size.append(batch.keys[index])
                batch.misfits = True
            else:
                self._note(batch, result.status)
        if wrong_size and batch.exact:
            _log.warning("kvstore: %d values of another size than LMCache expects are removed; do "
                         "engines with different KV share a model name? See `layout`",
                         len(wrong_size))
            cleaning = Batch(0, wrong_size, when_done=lambda _: None)
            self._submit(cleaning, self._others, 0, lambda queue: queue.submit_delete(
                wrong_size, deadline_milliseconds=self._lookup_milliseconds), lambda _: None)

    def _store(self, batch, lane, index, may_replace):
        def follow(completion):
            if completion.status == _native.OK:
                batch.byte_counts[index] = batch.sizes[index]
            elif completion.status == _native.EXISTS and may_replace:
                self._compare(batch, lane, index)
            elif completion.status == _native.EXISTS:
                batch.fail(completion.status)  # somebody else was faster, twice
            else:
                self._note(batch, completion.status)

        layout_id = bytes(16) if index in batch.opaque else self.layout_id
        self._submit(batch, lane, batch.sizes[index], lambda queue: queue.submit_put(
            batch.keys[index], batch.parts[index], layout_id=layout_id,
            deadline_milliseconds=self._store_milliseconds), follow)

    def _compare(self, batch, lane, index):
        """Looks whether what is stored under a key has the size of what was to be stored."""
        key = batch.keys[index]

        def follow(completion):
            result = completion.key_results[0]
            if result.status not in (_native.OK, _native.NOT_FOUND):
                self._note(batch, result.status)
            elif result.byte_count == batch.sizes[index]:
                batch.byte_counts[index] = result.byte_count
            else:
                # A queue serves in order, so the old value is gone when the new one arrives.
                self._submit(batch, lane, 0, lambda queue: queue.submit_delete(
                    [key], deadline_milliseconds=self._store_milliseconds), lambda _: None)
                self._store(batch, lane, index, may_replace=False)

        self._submit(batch, lane, 0, lambda queue: queue.submit_lookup(
            [key], deadline_milliseconds=self._store_milliseconds), follow)

    # Parts of the above; the lock is held --------------------------------------------------------

    def _new(self, names, parts, exact, when_done):
        batch = Batch(next(self._numbers), [], parts, exact, when_done)
        batch.left = 1  # until it is submitted as a whole
        if self._closed:
            raise kvstore.WrongState("closed")
        if self._secret is None:
            batch.byte_counts = [None] * len(names)
            self._note(batch, kvstore.CannotConnect.status)
        else:
            batch.keys = [self._derive(self._secret, name) for name in names]
            batch.byte_counts = [None] * len(names)
        return batch

    def _submitted(self, batch):
        self._finish_one(batch)
        return batch.number

    def _derive(self, secret, name):
        full_name = self._prefix + name.encode()
        key = ctypes.create_string_buffer(_native.KEY_BYTES)
        status = _native.library.kvs_derive_opaque_key(secret, full_name, len(full_name), key)
        if status != _native.OK:
            raise kvstore.InvalidArgument(f"no key can be derived from {name!r}")
        return key.raw

    @staticmethod
    def _share_out(batch, lanes):
        """Gives every key to the lane with the fewest bytes: {lane: (indexes, byte count)}."""
        shares: dict[_Lane, tuple[list[int], int]] = {}
        waiting = {lane: lane.waiting_byte_count for lane in lanes}
        for index in range(len(batch.keys)):
            lane = min(lanes, key=waiting.__getitem__)
            byte_count = batch.sizes[index]
            waiting[lane] += byte_count
            indexes, sum_before = shares.get(lane, ([], 0))
            indexes.append(index)
            shares[lane] = (indexes, sum_before + byte_count)
        return shares

    def _submit(self, batch, lane, byte_count, submit, follow):
        try:
            ticket = submit(lane.queue)
        except kvstore.Error as error:
            self._note(batch, error.status)
            return
        except (BufferError, TypeError, ValueError) as error:
            _log.warning("kvstore: LMCache gave a buffer that cannot be used: %s", error)
            batch.fail(_INVALID)
            return
        batch.left += 1
        lane.waiting_byte_count += byte_count

        def finish(completion):
            lane.waiting_byte_count -= byte_count
            if completion.status == _native.OK:
                self._note_reachable()
            follow(completion)
            self._finish_one(batch)

        lane.followers[ticket] = finish

    def _finish_one(self, batch):
        batch.left -= 1
        if batch.left == 0:
            self._done.append(batch)
            os.eventfd_write(self._event_descriptor, 1)

    def _open_lane(self, options):
        lane = _Lane(kvstore.Queue(self._address, client_name="kvstore-lmcache", **options))
        self._epoll.register(lane.queue.fileno(), select.EPOLLIN)
        return lane

    # Whether the daemon is there -----------------------------------------------------------------

    def _note(self, batch, status):
        """What a status other than OK means for a batch, and for what we think of the daemon."""
        if status in _MISSES:
            return
        batch.fail(status)
        now = time.monotonic()
        if now >= self._warned.get(status, -_WARNING_SECONDS) + _WARNING_SECONDS:
            self._warned[status] = now
            _log.warning("kvstore: %s: %s; LMCache goes on without what cannot be had (told once "
                         "a minute)", self._address, batch.fault)
        if status in _GONE:
            self._reachable = False
            # Whoever comes back may be a daemon with another secret.
            self._learn_secret_later()

    def _note_reachable(self):
        if not self._reachable:
            self._reachable = True
            self._warned.clear()
            _log.warning("kvstore: %s: answers again", self._address)

    def _learn_secret_at_once(self):
        try:
            self._secret = self.client.secret()
            self._describe()
        except (kvstore.Unauthorized, kvstore.InvalidArgument, kvstore.VersionMismatch):
            self.close()
            raise
        except kvstore.Error as error:
            _log.warning("kvstore: %s; LMCache goes on without until it answers", error)
            self._reachable = False
            self._learn_secret_later()

    def _describe(self):
        """Tells the daemon what the layout is, if it says where values stand."""
        if "axes" in self._description:
            self.client.describe_layout(self._description)

    def _learn_secret_later(self):
        with self._lock:
            if self._closed or self._secret_thread is not None:
                return
            self._secret_thread = threading.Thread(
                target=self._keep_asking, name="kvstore-secret", daemon=True)
            self._secret_thread.start()

    def _keep_asking(self):
        pause = _RETRY_SECONDS_FIRST
        while not self._close_event.wait(pause):
            pause = min(2 * pause, _RETRY_SECONDS_MAX)
            try:
                self.client.ping()
                secret = self.client.secret()
                self._describe()
            except kvstore.Error:
                continue
            with self._lock:
                self._secret = secret
                self._secret_thread = None
                self._note_reachable()
            return
