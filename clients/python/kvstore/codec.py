# SPDX-License-Identifier: Apache-2.0
"""The codec: chunks as containers, and back, by libkvstore-codec. See docs/engines/python.md.

Optional. Loading the library waits for the first `Codec`, so that nobody else needs it.
"""
from __future__ import annotations

import ctypes
import enum
import functools
import os
import threading
from collections.abc import Mapping
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, NamedTuple

from kvstore import _native, errors
from kvstore.client import format_value

_FILE_NAME = "libkvstore-codec.so.0"
_ABI_VERSION = 1
_HASH_BYTES = 16
_PAYLOAD_BYTE_COUNT_MAX = 1 << 28
_TARGET_TOO_SMALL = 14
_VALUE_TYPES = {"float16": 1, "bfloat16": 2, "float32": 3, "float8_e4m3": 4, "float8_e5m2": 5}
_VALUE_BYTES = {1: 2, 2: 2, 3: 4, 4: 1, 5: 1}
_VALUE_TYPE_NAMES = {number: name for name, number in _VALUE_TYPES.items()}
_METHODS = {5: "scalar", 6: "predicted"}
_MODES = ("raw", "zstd", "lossless", "cachegen", "scalar", "predictive")


class Level(enum.IntEnum):
    """How good a chunk is; docs/container-format.md, section 1."""

    RAW = 0
    ZSTD = 1  # the same bytes come back
    LOSSLESS = 2  # the same bytes come back
    Q1 = 3
    Q2 = 4  # as good for most uses
    Q3 = 5
    Q4 = 6
    ADAPTIVE = 254  # of a get: what the deadline allows
    AS_STORED = 255  # of a get


class ContainerInfo(NamedTuple):
    """What a container says of itself. Counts are 0 where it holds opaque bytes."""

    mode: str  # raw, zstd, lossless, cachegen, scalar, predictive
    level: Level
    payload_byte_count: int
    token_count: int
    exact_token_count: int  # of tokens at the beginning that are exact at every level
    layer_count: int
    kind_count: int  # 2: K and V
    column_counts: tuple[int, int]  # of K and of V, of a token in one layer
    first_position: int | None
    layout_id: bytes
    profile_hash: bytes | None


class Coefficients(NamedTuple):
    """One layer's K or V between the two halves of decoding; docs/container-format.md, section 10,
    says what finishes it. Buffers are what they are in the container, little-endian."""

    mode: str  # of the container
    method: str  # of this section: scalar, predicted
    level: Level  # the profile has its step
    dtype: str  # of exact rows
    row_count: int  # R: tokens behind the exact ones
    column_count: int  # C
    exact_row_count: int
    group_layer_count: int  # of mode predictive, else 0
    first_position: int | None  # of the chunk's first token, which may be an exact one
    profile_hash: bytes
    symbols: memoryview  # signed bytes [R, C]; columns, or coefficients, in natural order
    exact_rows: bytes  # values row by row, after RoPE
    row_codes: bytes  # two to a byte; empty where the level has none
    escapes: bytes  # of 8 each, for each symbol of -128: u32 row * C + column, signed 32-bit q


class _Info(ctypes.Structure):
    _fields_ = [
        ("mode", ctypes.c_uint8),
        ("level", ctypes.c_uint8),
        ("value_type", ctypes.c_uint8),
        ("exact_token_count", ctypes.c_uint8),
        ("token_count", c_uint32),
        ("layer_count", c_uint32),
        ("kind_count", c_uint32),
        ("key_column_count", c_uint32),
        ("value_column_count", c_uint32),
        ("first_position", c_int64),
        ("payload_byte_count", c_uint64),
        ("profile_hash", ctypes.c_uint8 * _HASH_BYTES),
        ("layout", ctypes.c_uint8 * _native.LAYOUT_BYTES),
    ]


class _Coefficients(ctypes.Structure):
    _fields_ = [
        ("mode", ctypes.c_uint8),
        ("method", ctypes.c_uint8),
        ("level", ctypes.c_uint8),
        ("value_type", ctypes.c_uint8),
        ("row_count", c_uint32),
        ("column_count", c_uint32),
        ("exact_row_count", c_uint32),
        ("group_layer_count", c_uint32),
        ("first_position", c_int64),
        ("symbol_byte_count", c_uint64),
        ("exact_row_byte_count", c_uint64),
        ("row_code_byte_count", c_uint64),
        ("escape_byte_count", c_uint64),
        ("exact_rows", c_void_p),
        ("row_codes", c_void_p),
        ("escapes", c_void_p),
        ("profile_hash", ctypes.c_uint8 * _HASH_BYTES),
    ]


_CONTAINER = [c_void_p, c_void_p, c_uint64]
_FUNCTIONS = {
    "kvsc_abi_version": (c_uint32, []),
    "kvsc_status_text": (c_char_p, [c_int]),
    "kvsc_open": (c_int, [c_char_p, c_size_t, c_uint64, POINTER(c_void_p)]),
    "kvsc_close": (None, [c_void_p]),
    "kvsc_last_error_text": (c_char_p, [c_void_p]),
    "kvsc_knows_layout": (c_int, [c_void_p]),
    "kvsc_add_profile": (c_int, [c_void_p, c_void_p, c_size_t, c_char_p]),
    "kvsc_container_byte_count_maximum": (c_uint64, [c_void_p, c_uint64]),
    "kvsc_encode": (
        c_int, [*_CONTAINER, c_int, c_int64, c_void_p, c_uint64, POINTER(c_uint64)]),
    "kvsc_inspect": (c_int, [*_CONTAINER, POINTER(_Info)]),
    "kvsc_decode": (c_int, [*_CONTAINER, c_void_p, c_uint64]),
    "kvsc_decode_layers": (c_int, [*_CONTAINER, c_uint32, c_uint32, c_void_p, c_uint64]),
    "kvsc_decode_section": (
        c_int, [*_CONTAINER, c_uint32, c_uint32, c_uint32, c_void_p, c_uint64]),
    "kvsc_decode_coefficients": (
        c_int, [*_CONTAINER, c_uint32, c_uint32, c_void_p, c_uint64, POINTER(_Coefficients)]),
    "kvsc_attach": (None, [c_void_p, POINTER(_native.CodecFunctions)]),
}


@functools.cache
def _load():
    path = os.environ.get("KVSTORE_CODEC_LIBRARY") or _native.find(_FILE_NAME)
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(
            f"cannot load {path}: {error}; build it with dev/build-libkvstore release release, or "
            "set KVSTORE_CODEC_LIBRARY to its path") from error
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    version = library.kvsc_abi_version()
    if version != _ABI_VERSION:
        raise ImportError(f"{path} has interface version {version}, not {_ABI_VERSION}")
    return library


class Codec:
    """Encodes and decodes chunks of one layout. Thread-safe: calls take turns; make one for each
    thread where they shall not.

    `description`: what `Client.describe_layout` takes, or its canonical bytes; None: opaque bytes,
    and any container can be decoded. Raises ImportError where the library is not installed.
    """

    def __init__(self, description: Mapping[str, str | int | float] | bytes | None = None, *,
                 profile: Any = None, payload_byte_count_max: int = _PAYLOAD_BYTE_COUNT_MAX):
        self._handle = None
        self._lock = threading.Lock()
        self._library = _load()
        if isinstance(description, Mapping):
            description = canonical_description(description)
        text = description or b""
        handle = c_void_p()
        if self._library.kvsc_open(
                text, len(text), payload_byte_count_max, ctypes.byref(handle)):
            raise errors.InvalidArgument("a payload has 1 to 2**28 bytes")
        self._handle = handle
        self._functions = _native.CodecFunctions()
        self._library.kvsc_attach(handle, ctypes.byref(self._functions))
        if profile is not None:
            self.add_profile(profile)

    @classmethod
    def of_layout(cls, client: Any, layout_id: bytes, *,
                  payload_byte_count_max: int = _PAYLOAD_BYTE_COUNT_MAX) -> Codec:
        """A codec by what the namespace of a client knows of a layout: its description, and the
        profile that was installed for it, each if it is there."""
        return cls(client.layout_description(layout_id), profile=client.profile(layout_id),
                   payload_byte_count_max=payload_byte_count_max)

    def close(self) -> None:
        """Frees the codec."""
        with self._lock:
            if self._handle is not None:
                self._library.kvsc_close(self._handle)
                self._handle = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        if getattr(self, "_handle", None) is not None:
            self._library.kvsc_close(self._handle)
            self._handle = None

    @property
    def knows_layout(self) -> bool:
        """Whether the description says where values stand; else chunks are opaque bytes."""
        with self._turn() as handle:
            return self._library.kvsc_knows_layout(handle) == 1

    def add_profile(self, profile: Any) -> bytes:
        """Uses a profile for what is encoded from now on; chunks that were encoded with this one or
        those before can be decoded. The 16 bytes that name it."""
        made = ctypes.create_string_buffer(_HASH_BYTES)
        with _native.held(profile) as bytes_, self._turn() as handle:
            self._check(handle, self._library.kvsc_add_profile(
                handle, bytes_.address, bytes_.byte_count, made))
        return made.raw

    def encode(self, payload: Any, level: Level | int, *,
               first_position: int | None = None) -> bytearray:
        """The container of a payload, which may be larger than the payload where that is noise."""
        with _native.held(payload) as source, self._turn() as handle:
            capacity = self._library.kvsc_container_byte_count_maximum(handle, source.byte_count)
            if not capacity:
                raise errors.InvalidArgument("a payload has 1 to 2**28 bytes")
            container, address = _native.new_bytearray(capacity)
            count = c_uint64()
            self._check(handle, self._library.kvsc_encode(
                handle, source.address, source.byte_count, level,
                -1 if first_position is None else first_position, address, capacity,
                ctypes.byref(count)))
        del container[count.value:]
        return container

    def inspect(self, container: Any) -> ContainerInfo:
        """What a container says of itself; its sections are not looked at."""
        with _native.held(container) as source, self._turn() as handle:
            return self._inspect(handle, source)

    def decode(self, container: Any) -> bytearray:
        """The payload of a container."""
        with _native.held(container) as source, self._turn() as handle:
            count = self._inspect(handle, source).payload_byte_count
            payload, address = _native.new_bytearray(count)
            self._check(handle, self._library.kvsc_decode(
                handle, source.address, source.byte_count, address, count))
        return payload

    def decode_layers(self, container: Any, layers: range, payload: Any) -> None:
        """Decodes K and V of some layers to their places in a writable buffer of the payload's
        size, and leaves the rest of it alone."""
        if layers.step != 1:
            raise errors.InvalidArgument("layers are decoded one after another")
        with _native.held(container) as source, _native.held(payload, writable=True) as target, (
                self._turn()) as handle:
            self._check(handle, self._library.kvsc_decode_layers(
                handle, source.address, source.byte_count, layers.start, len(layers),
                target.address, target.byte_count))

    def decode_section(self, container: Any, layer: int, kind: int,
                       dtype: str = "float32") -> bytearray:
        """One layer's K (kind 0) or V (kind 1), token by token, columns in order, as a dtype."""
        value_type = _VALUE_TYPES.get(dtype)
        if value_type is None or kind not in (0, 1):
            raise errors.InvalidArgument(f"dtypes are {', '.join(_VALUE_TYPES)}; kinds are 0 and 1")
        with _native.held(container) as source, self._turn() as handle:
            info = self._inspect(handle, source)
            count = info.token_count * info.column_counts[kind] * _VALUE_BYTES[value_type]
            values, address = _native.new_bytearray(max(1, count))
            self._check(handle, self._library.kvsc_decode_section(
                handle, source.address, source.byte_count, layer, kind, value_type, address,
                max(1, count)))
        return values

    def coefficients(self, container: Any, layer: int, kind: int) -> Coefficients:
        """One layer's K (kind 0) or V (kind 1) as far as its symbols, for what finishes them
        elsewhere, such as a GPU. Sections of modes scalar and predictive have them; for others the
        `reason` of NotDecoded is "no coefficients", and for embedded containers "profile
        unsuitable": those are for `decode_section`."""
        if layer < 0 or kind not in (0, 1):
            raise errors.InvalidArgument("layers count from 0; kinds are 0 and 1")
        told = _Coefficients()
        with _native.held(container) as source, self._turn() as handle:
            arguments = (handle, source.address, source.byte_count, layer, kind)
            self._check(handle, self._library.kvsc_decode_coefficients(
                *arguments, None, 0, ctypes.byref(told)))
            symbols, address = _native.new_bytearray(told.symbol_byte_count)
            self._check(handle, self._library.kvsc_decode_coefficients(
                *arguments, address, len(symbols), ctypes.byref(told)))
            # Copies, since they stand in the container.
            exact_rows = ctypes.string_at(told.exact_rows, told.exact_row_byte_count)
            row_codes = ctypes.string_at(told.row_codes, told.row_code_byte_count)
            escapes = ctypes.string_at(told.escapes, told.escape_byte_count)
        return Coefficients(
            mode=_MODES[told.mode], method=_METHODS[told.method], level=Level(told.level),
            dtype=_VALUE_TYPE_NAMES[told.value_type], row_count=told.row_count,
            column_count=told.column_count, exact_row_count=told.exact_row_count,
            group_layer_count=told.group_layer_count,
            first_position=None if told.first_position < 0 else told.first_position,
            profile_hash=bytes(told.profile_hash),
            symbols=memoryview(symbols).cast("b", (told.row_count, told.column_count)),
            exact_rows=exact_rows, row_codes=row_codes, escapes=escapes)

    # Parts of the above --------------------------------------------------------------------------

    def _turn(self):
        return _CodecTurn(self)

    def _check(self, handle, status):
        if status:
            name = self._library.kvsc_status_text(status).decode()
            text = self._library.kvsc_last_error_text(handle).decode()
            raise errors.NotDecoded(f"{name}: {text}", name)

    def _inspect(self, handle, source):
        info = _Info()
        self._check(handle, self._library.kvsc_inspect(
            handle, source.address, source.byte_count, ctypes.byref(info)))
        profile = bytes(info.profile_hash)
        return ContainerInfo(
            mode=_MODES[info.mode], level=Level(info.level),
            payload_byte_count=info.payload_byte_count, token_count=info.token_count,
            exact_token_count=info.exact_token_count, layer_count=info.layer_count,
            kind_count=info.kind_count,
            column_counts=(info.key_column_count, info.value_column_count),
            first_position=None if info.first_position < 0 else info.first_position,
            layout_id=bytes(info.layout), profile_hash=profile if any(profile) else None)


class _CodecTurn:
    """The codec's handle for one call."""

    __slots__ = ("_codec",)

    def __init__(self, codec):
        self._codec = codec

    def __enter__(self):
        self._codec._lock.acquire()
        if self._codec._handle is None:
            self._codec._lock.release()
            raise errors.WrongState("the codec is closed")
        return self._codec._handle

    def __exit__(self, *_):
        self._codec._lock.release()


def canonical_description(description: Mapping[str, str | int | float]) -> bytes:
    """The canonical form of a layout description, docs/key-derivation.md."""
    fields = {name: format_value(value) for name, value in description.items()}
    lines = [f"{name}={fields[name]}\n" for name in sorted(fields)]
    return "".join(["kvstore_layout=1\n", *lines]).encode()
