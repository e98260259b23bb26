# SPDX-License-Identifier: Apache-2.0
"""The client: one connection to one daemon. Thread-safe (calls take turns), usable after fork."""
from __future__ import annotations

import array
import contextlib
import ctypes
import enum
import os
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from kvstore import _native, errors
from kvstore._native import library

if TYPE_CHECKING:
    from kvstore.codec import Codec

_MISSES = (_native.NOT_FOUND, _native.LAYOUT_MISMATCH, _native.DAMAGED)
_STAT_CAPACITY = 1024
_BAD_DESCRIPTION = "names of a layout description are [a-z0-9_]+, values have no line breaks"


class ChunkInfo(NamedTuple):
    """What lookup tells about a stored chunk."""

    byte_count: int
    tier: int  # 1 RAM, 2 SSD only, 3 peer
    level: int  # how it is encoded; 0: raw
    load_microseconds: int  # estimated time to load
    remaining_milliseconds: int | None  # to live; None: for ever


class KeyStatus(enum.IntEnum):
    """What `pin` and `unpin` tell of a key."""

    OK = 0
    NOT_FOUND = 1  # not stored: nothing to pin
    BUSY = 3  # more is pinned than the daemon allows
    NOT_DURABLE = 17  # done, but a restart of the daemon may undo it


def _status_text(status):
    return library.kvs_status_text(status).decode()


def _key_status(status):
    try:
        return KeyStatus(status)
    except ValueError:
        raise errors.error_for(status, _status_text(status)) from None


def format_value(value):
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise errors.InvalidArgument(f"a layout value is text or a number, not {value!r}")
    if isinstance(value, int):
        return str(value)
    text = ctypes.create_string_buffer(32)
    if library.kvs_format_number(value, text) != _native.OK:
        raise errors.InvalidArgument(f"a layout value is a finite number, not {value!r}")
    return text.value.decode()


def layout_id(description: Mapping[str, str | int | float]) -> bytes:
    """16 bytes that say what a chunk's bytes mean; see docs/key-derivation.md.

    A field is a whole number (int) or a double (float) for good: 10000 and 10000.0 differ.
    """
    made = ctypes.create_string_buffer(_native.LAYOUT_BYTES)
    if library.kvs_layout_id(
            _layout_fields(description), len(description), made) != _native.OK:
        raise errors.InvalidArgument(_BAD_DESCRIPTION)
    return made.raw


def _layout_fields(description):
    fields = (_native.LayoutField * max(1, len(description)))()
    for field, (name, value) in zip(fields, description.items()):
        field.name = name.encode()
        field.value = format_value(value).encode()
        if b"\0" in name.encode() or "\0" in format_value(value):
            raise errors.InvalidArgument("a layout description has no NUL characters")
    return fields


def _joined_keys(keys):
    """Keys one after another, and their number."""
    joined = b"".join(keys)
    count = len(keys)
    if len(joined) != count * _native.KEY_BYTES or any(
            len(key) != _native.KEY_BYTES for key in keys):
        raise errors.InvalidArgument("a key has 32 bytes")
    return joined, count


def _token_array(tokens):
    """Tokens as u32, without a copy where they are such already."""
    try:
        view = memoryview(tokens)
    except TypeError:
        listed = tokens.tolist() if hasattr(tokens, "tolist") else tokens
        return array.array("I", listed)
    if view.format == "I" and view.ndim == 1 and view.c_contiguous:
        return view
    return array.array("I", view.tolist())


def _is_single_buffer(parts):
    if hasattr(parts, "data_ptr"):
        return True
    try:
        memoryview(parts).release()
    except TypeError:
        return False
    return True


class _LeasedViews:
    """Context manager of `Client.lease`."""

    def __init__(self, client, keys):
        self._client = client
        self._joined, self._count = _joined_keys(keys)
        self._leases = None
        self._views = []
        self._areas = []

    def __enter__(self):
        leases = (_native.Lease * max(1, self._count))()
        with self._client._turn() as handle:
            status = library.kvs_lease_acquire(handle, self._joined, self._count, 0, leases, 0)
            self._client._check(handle, status)
            self._client._lease_count += 1
        self._leases = leases
        for lease in leases[:self._count]:
            view = area_reference = None
            if lease.status == _native.OK:
                area = (ctypes.c_char * lease.byte_count).from_address(lease.bytes)
                area_reference = weakref.ref(area)
                view = memoryview(area).cast("B").toreadonly()
                del area
            self._views.append(view)
            self._areas.append(area_reference)
        return list(self._views)

    def __exit__(self, *_):
        for view in self._views:
            try:
                if view is not None:
                    view.release()
            except BufferError:
                pass
        still_used = 0
        for lease, area_reference in zip(self._leases, self._areas):
            if area_reference is not None and area_reference() is not None:
                # Somebody (a NumPy array, a slice) still looks at the memory: it must stay mapped,
                # so this lease is left to run out in the daemon instead of being given back.
                lease.status = _native.NOT_FOUND
                still_used += 1
        self._views = []
        self._client._give_back(self._leases, self._count)
        if still_used:
            raise BufferError(
                f"{still_used} leased views are still in use after the lease; copy what you keep")

    def still_valid(self):
        """Whether every lease still holds; ask after reading, within the block."""
        with self._client._turn() as handle:
            return all(
                lease.status != _native.OK
                or library.kvs_lease_still_valid(handle, ctypes.byref(lease)) == 1
                for lease in self._leases[:self._count])


def make_options(namespace, token, deadline_milliseconds, client_name):
    """kvs_options of a client or a queue."""
    return _native.Options(
        size=ctypes.sizeof(_native.Options),
        namespace_name=namespace.encode(),
        token=token,
        token_byte_count=len(token) if token else 0,
        client_name=client_name.encode(),
        deadline_milliseconds=deadline_milliseconds,
    )


@contextlib.contextmanager
def _codec_of(codec):
    """The address of a codec's functions, which nobody else uses meanwhile; None without one."""
    if codec is None:
        yield None
    else:
        with codec._turn():
            yield ctypes.addressof(codec._functions)


class Client:
    """A client for "unix:/path" or "tcp:host:port". Connects at the first call."""

    def __init__(self, address: str, *, namespace: str = "default",
                 token: bytes | None = None, deadline_milliseconds: int = 1000):
        self._handle = None
        self._lock = threading.Lock()
        self._lease_count = 0
        self._close_wanted = False
        self._deadline_seconds = deadline_milliseconds / 1000
        options = make_options(namespace, token, deadline_milliseconds, "kvstore-python")
        handle = ctypes.c_void_p()
        status = library.kvs_open(address.encode(), ctypes.byref(options), ctypes.byref(handle))
        if status != _native.OK:
            raise errors.error_for(status, f"{address}: {_status_text(status)}; addresses are "
                                           "unix:/path or tcp:host:port")
        self._handle = handle
        _clients.add(self)

    # Life ----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Closes the connection; with leases in use, once the last of them has ended."""
        with self._lock:
            self._close_wanted = True
            self._close_if_unused()

    def _close_if_unused(self):
        if self._close_wanted and self._lease_count == 0 and self._handle is not None:
            library.kvs_close(self._handle)
            self._handle = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        if getattr(self, "_handle", None) is not None and self._lease_count == 0:
            library.kvs_close(self._handle)
            self._handle = None

    def _turn(self):
        return _Turn(self)

    def _check(self, handle, status):
        if status != _native.OK:
            text = library.kvs_last_error_text(handle).decode(errors="replace")
            raise errors.error_for(status, text or _status_text(status))

    def _give_back(self, leases, count):
        with self._lock:
            if self._handle is not None:
                library.kvs_lease_release(self._handle, leases, count)
            self._lease_count -= 1
            self._close_if_unused()

    # Keys ----------------------------------------------------------------------------------------

    def prefix_keys(self, layout_id: bytes, tokens, chunk_tokens: int = 256) -> list[bytes]:
        """Keys of the complete chunks of a prompt, under the secret of this namespace."""
        if len(layout_id) != _native.LAYOUT_BYTES:
            raise errors.InvalidArgument("a layout id has 16 bytes")
        if chunk_tokens < 1:
            raise errors.InvalidArgument("a chunk has at least one token")
        numbers = _token_array(tokens)
        capacity = len(numbers) // chunk_tokens
        keys = ctypes.create_string_buffer(_native.KEY_BYTES * max(1, capacity))
        count = ctypes.c_size_t()
        held = _native.Buffer(numbers)
        try:
            with self._turn() as handle:
                self._check(handle, library.kvs_prefix_keys(
                    handle, bytes(layout_id), held.address, len(numbers), chunk_tokens, keys,
                    ctypes.byref(count)))
        finally:
            held.release()
        raw = keys.raw
        return [raw[start:start + _native.KEY_BYTES]
                for start in range(0, count.value * _native.KEY_BYTES, _native.KEY_BYTES)]

    def secret(self) -> bytes:
        """The 32 bytes under which this namespace derives its keys."""
        secret = ctypes.create_string_buffer(_native.KEY_BYTES)
        with self._turn() as handle:
            self._check(handle, library.kvs_secret(handle, secret, 0))
        return secret.raw

    def opaque_key(self, name: bytes) -> bytes:
        """Key of an opaque value with a name of any bytes."""
        key = ctypes.create_string_buffer(_native.KEY_BYTES)
        with self._turn() as handle:
            self._check(handle, library.kvs_opaque_key(handle, name, len(name), key))
        return key.raw

    def describe_layout(self, description: Mapping[str, str | int | float]) -> bytes:
        """The layout's id, as `layout_id`; and tells the daemon the description, so that it can
        compress chunks of this layout (docs/container-format.md). Once, where an engine starts.

        That the daemon could not be told is no error: its chunks are compressed less.
        """
        made = layout_id(description)
        told = ctypes.create_string_buffer(_native.LAYOUT_BYTES)
        with self._turn() as handle:
            library.kvs_describe_layout(
                handle, _layout_fields(description), len(description), told, 0)
        return made

    def layout_description(self, layout_id: bytes) -> bytes | None:
        """The canonical description of a layout that somebody described, or None."""
        return self._fetch(library.kvs_fetch_description, layout_id)

    def profile(self, layout_id: bytes, profile_hash: bytes | None = None) -> bytes | None:
        """The profile that was installed for a layout, or the one of that hash; or None."""
        if profile_hash is not None and len(profile_hash) != 16:
            raise errors.InvalidArgument("the hash of a profile has 16 bytes")
        return self._fetch(library.kvs_fetch_profile, layout_id, profile_hash)

    def _fetch(self, function, layout_id, *more):
        if len(layout_id) != _native.LAYOUT_BYTES:
            raise errors.InvalidArgument("a layout id has 16 bytes")
        address, count = ctypes.c_void_p(), ctypes.c_size_t()
        with self._turn() as handle:
            status = function(handle, bytes(layout_id), *more, ctypes.byref(address),
                              ctypes.byref(count), 0)
            if status == _native.NOT_FOUND:
                return None
            self._check(handle, status)
        try:
            return ctypes.string_at(address.value, count.value)
        finally:
            library.kvs_free(address)

    # Storing -------------------------------------------------------------------------------------

    def put(self, key: bytes, parts, *, layout_id: bytes = bytes(16),
            time_to_live_milliseconds: int = 0, durable: bool = False,
            first_position: int | None = None, level: int = 0,
            codec: Codec | None = None) -> bool:
        """Stores the bytes of one buffer, or of several one after another.

        `first_position` is the place of the chunk's first token in its sequence; with it the
        daemon can compress the chunk by what was learnt about its model. With a `level` and a
        `codec` the chunk is encoded here and travels as a container, if that is smaller;
        `layout_id` must be that of the codec's description. With a `level` alone the bytes are a
        container of that level; Unsupported is raised where the daemon cannot keep it.

        True: stored. False: the key was there, and its bytes stay as they were. With `durable`
        both mean that the chunk is on stable storage; NotDurable is raised when it is in memory
        only, where it can be read until a restart of the daemon.
        """
        joined, _ = _joined_keys([key])
        if len(layout_id) != _native.LAYOUT_BYTES:
            raise errors.InvalidArgument("a layout id has 16 bytes")
        held = []
        try:
            for part in [parts] if _is_single_buffer(parts) else parts:
                held.append(_native.Buffer(part))
            spans = (_native.Span * max(1, len(held)))()
            for span, buffer in zip(spans, held):
                span.bytes = buffer.address
                span.byte_count = buffer.byte_count
            options = _native.PutOptions(
                layout=(ctypes.c_uint8 * _native.LAYOUT_BYTES)(*layout_id),
                time_to_live_milliseconds=time_to_live_milliseconds,
                flags=(_native.DURABLE if durable else 0)
                | (_native.POSITIONED if first_position is not None else 0),
                first_position=first_position or 0, level=level)
            with _codec_of(codec) as options.codec, self._turn() as handle:
                status = library.kvs_put(handle, joined, spans, len(held),
                                         ctypes.byref(options), 0)
                if status != _native.EXISTS:
                    self._check(handle, status)
            return status == _native.OK
        finally:
            for buffer in held:
                buffer.release()

    # Loading -------------------------------------------------------------------------------------

    def get(self, key: bytes, *, level: int = 0, codec: Codec | None = None) -> bytearray | None:
        """The bytes of a chunk, or None."""
        return self.get_many([key], level=level, codec=codec)[0]

    def get_many(self, keys: Sequence[bytes], *, level: int = 0,
                 codec: Codec | None = None) -> list[bytearray | None]:
        """The bytes of each chunk, or None where it is not there (or did not survive the way).

        With a `level` (see `Level`) the daemon may send containers of that level or a finer one,
        which `codec` decodes here. Raises NotDecoded where it cannot, with the codec's reason.
        """
        if level and codec is None:
            raise errors.InvalidArgument("a level needs a codec; see get_encoded")
        return [None if each is None else each[1] for each in self._get(keys, level, codec)]

    def get_encoded(self, keys: Sequence[bytes], level: int) -> list[tuple[int, bytearray] | None]:
        """Each chunk as the daemon sends it for a level: how it is encoded, and the bytes, which
        are a container unless that is 0. None where it is not there."""
        return self._get(keys, level, None)

    def _get(self, keys, level, codec):
        joined, count = _joined_keys(keys)
        results = (_native.GetResult * max(1, count))()
        found = [None] * count
        options = _native.GetOptions(size=ctypes.sizeof(_native.GetOptions), level=level)

        def provide(_context, index, byte_count):
            try:
                found[index], address = _native.new_bytearray(byte_count)
                return address
            except MemoryError:
                return None

        with _codec_of(codec) as options.codec, self._turn() as handle:
            self._check(handle, library.kvs_get_at(
                handle, joined, count, ctypes.byref(options), None, _native.Provider(provide),
                None, results, 0))
            if any(result.status == errors.NotDecoded.status for result in results):
                self._check(handle, errors.NotDecoded.status)
        return [(results[index].level, found[index]) if self._is_hit(results[index]) else None
                for index in range(count)]

    def get_into(self, key: bytes, destination) -> int | None:
        """Reads a chunk into a writable buffer; the number of bytes, or None.

        Raises DestinationTooSmall, with `byte_count`, if it does not fit.
        """
        joined, _ = _joined_keys([key])
        held = _native.Buffer(destination, writable=True)
        try:
            span = _native.Span(held.address, held.byte_count)
            place = _native.Destination(ctypes.pointer(span), 1)
            result = _native.GetResult()
            with self._turn() as handle:
                self._check(handle, library.kvs_get(
                    handle, joined, 1, ctypes.byref(place), ctypes.byref(result), None, 0))
            return result.byte_count if self._is_hit(result) else None
        finally:
            held.release()

    def get_range(self, key: bytes, offset: int, byte_count: int) -> bytearray | None:
        """`byte_count` bytes of a chunk from `offset` on, or None where it is not there.

        The daemon reads no more than that. Raises LimitExceeded if the chunk does not have all of
        them.
        """
        if not 0 <= offset < 2**64 or not 1 <= byte_count <= 2**28:
            raise errors.InvalidArgument("a range starts at 0 or later and has 1 to 2**28 bytes")
        joined, _ = _joined_keys([key])
        found, address = _native.new_bytearray(byte_count)
        span = _native.Span(address, byte_count)
        place = _native.Destination(ctypes.pointer(span), 1)
        result = _native.GetResult()
        with self._turn() as handle:
            self._check(handle, library.kvs_get_range(
                handle, joined, 1, offset, byte_count, ctypes.byref(place), ctypes.byref(result),
                None, 0))
        return found if self._is_hit(result) else None

    @staticmethod
    def _is_hit(result):
        if result.status == _native.OK:
            return True
        if result.status in _MISSES:
            return False
        error = errors.error_for(result.status, _status_text(result.status))
        if isinstance(error, errors.DestinationTooSmall):
            error.byte_count = result.byte_count
        raise error

    def lease(self, keys: Sequence[bytes]) -> _LeasedViews:
        """Chunks in place: `with client.lease(keys) as views:` gives a list of read-only
        memoryviews, None where a chunk is absent. They are invalid after the block.

        Raises Unsupported where memory is not shared (TCP).
        """
        return _LeasedViews(self, keys)

    # Asking --------------------------------------------------------------------------------------

    def lookup_prefix(self, keys: Sequence[bytes]) -> int:
        """How many leading keys are stored."""
        joined, count = _joined_keys(keys)
        found = ctypes.c_size_t()
        with self._turn() as handle:
            self._check(handle, library.kvs_lookup_prefix(
                handle, joined, count, ctypes.byref(found), None, 0))
        return found.value

    def lookup(self, keys: Sequence[bytes]) -> list[ChunkInfo | None]:
        """What is stored under each key; None: nothing."""
        joined, count = _joined_keys(keys)
        records = (_native.LookupRecord * max(1, count))()
        with self._turn() as handle:
            self._check(handle, library.kvs_lookup(handle, joined, count, records, 0))
        return [None if record.status != _native.OK else ChunkInfo(
            record.byte_count, record.tier, record.level, record.load_microseconds,
            None if record.remaining_milliseconds == _native.FOR_EVER
            else record.remaining_milliseconds) for record in records[:count]]

    def delete(self, keys: Iterable[bytes]) -> int:
        """Deletes chunks; how many were there.

        Raises NotDurable when all is done, but some of what is gone may come back after a restart
        of the daemon.
        """
        joined, count = _joined_keys(list(keys))
        deleted = ctypes.c_size_t()
        with self._turn() as handle:
            self._check(handle, library.kvs_delete(
                handle, joined, count, ctypes.byref(deleted), 0))
        return deleted.value

    def pin(self, keys: Iterable[bytes], milliseconds: int) -> list[KeyStatus]:
        """Keeps chunks from being evicted for a time from now; what became of each.

        Deletion and a chunk's own time to live still end it. An earlier pin's time is replaced.
        """
        if not 1 <= milliseconds <= 2**40:
            raise errors.InvalidArgument("a pin lasts 1 to 2**40 milliseconds")
        joined, count = _joined_keys(list(keys))
        statuses = (ctypes.c_int * max(1, count))()
        with self._turn() as handle:
            self._check(handle, library.kvs_pin(
                handle, joined, count, milliseconds, statuses, 0))
        return [_key_status(status) for status in statuses[:count]]

    def unpin(self, keys: Iterable[bytes]) -> list[KeyStatus]:
        """Lets chunks be evicted again; OK also for one that was not pinned."""
        joined, count = _joined_keys(list(keys))
        statuses = (ctypes.c_int * max(1, count))()
        with self._turn() as handle:
            self._check(handle, library.kvs_unpin(handle, joined, count, statuses, 0))
        return [_key_status(status) for status in statuses[:count]]

    def stat(self) -> dict[str, int]:
        """Figures of the node; names carry their unit."""
        pairs = (_native.StatPair * _STAT_CAPACITY)()
        count = ctypes.c_size_t()
        with self._turn() as handle:
            self._check(handle, library.kvs_stat(
                handle, pairs, _STAT_CAPACITY, ctypes.byref(count), 0))
        return {pair.name.decode(): pair.value
                for pair in pairs[:min(count.value, _STAT_CAPACITY)]}

    def ping(self) -> None:
        """A round trip; raises if the daemon does not answer."""
        with self._turn() as handle:
            self._check(handle, library.kvs_ping(handle, 0))


class _Turn:
    """The client's handle for one call; waits for other threads no longer than the deadline."""

    __slots__ = ("_client",)

    def __init__(self, client):
        self._client = client

    def __enter__(self):
        client = self._client
        if not client._lock.acquire(timeout=max(client._deadline_seconds, 0.001)):
            raise errors.DeadlineExceeded("other threads kept this client busy")
        if client._handle is None or client._close_wanted:
            client._lock.release()
            raise errors.WrongState("the client is closed")
        return client._handle

    def __exit__(self, *_):
        self._client._lock.release()


_clients = weakref.WeakSet()


def _renew_locks():
    """A lock that another thread held at fork would stay locked in the child for ever."""
    for client in list(_clients):
        client._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
