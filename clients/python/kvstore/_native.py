# SPDX-License-Identifier: Apache-2.0
"""libkvstore by ctypes: finding it, its types, its functions, and the addresses of buffers."""
import contextlib
import ctypes
import os
import pathlib
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_double,
    c_int,
    c_size_t,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)

ABI_VERSION = 1
FILE_NAME = "libkvstore.so.0"
KEY_BYTES = 32
LAYOUT_BYTES = 16
FOR_EVER = 2**64 - 1

DURABLE = 1  # flags of PutOptions
POSITIONED = 2

OK, NOT_FOUND, EXISTS = 0, 1, 2
LAYOUT_MISMATCH, DESTINATION_TOO_SMALL, DAMAGED = 15, 1005, 1006


class Options(Structure):
    _fields_ = [
        ("size", c_size_t),
        ("namespace_name", c_char_p),
        ("token", c_char_p),
        ("token_byte_count", c_size_t),
        ("client_name", c_char_p),
        ("deadline_milliseconds", c_uint32),
        ("flags", c_uint32),
        ("shared_put_byte_count", c_uint64),
    ]


class Span(Structure):
    _fields_ = [("bytes", c_void_p), ("byte_count", c_size_t)]


class Destination(Structure):
    _fields_ = [("spans", POINTER(Span)), ("span_count", c_size_t)]


class LayoutField(Structure):
    _fields_ = [("name", c_char_p), ("value", c_char_p)]


class PutOptions(Structure):
    _fields_ = [
        ("layout", c_uint8 * LAYOUT_BYTES),
        ("time_to_live_milliseconds", c_uint32),
        ("flags", c_uint32),
        ("first_position", c_uint32),
        ("level", c_int),
        ("codec", c_void_p),
    ]


class CodecFunctions(Structure):
    _fields_ = [
        ("context", c_void_p),
        ("encode", c_void_p),
        ("payload_byte_count", c_void_p),
        ("decode", c_void_p),
        ("error_text", c_void_p),
    ]


class GetOptions(Structure):
    _fields_ = [
        ("size", c_size_t),
        ("expected_layout", c_char_p),
        ("level", c_int),
        ("codec", c_void_p),
    ]


class GetResult(Structure):
    _fields_ = [
        ("status", c_int),
        ("level", c_uint32),
        ("byte_count", c_uint64),
        ("remaining_milliseconds", c_uint64),
    ]


class LookupRecord(Structure):
    _fields_ = [
        ("status", c_int),
        ("tier", c_uint8),
        ("level", c_uint8),
        ("reserved", c_uint16),
        ("load_microseconds", c_uint32),
        ("reserved2", c_uint32),
        ("byte_count", c_uint64),
        ("remaining_milliseconds", c_uint64),
    ]


class StatPair(Structure):
    _fields_ = [("name", c_char * 64), ("value", c_uint64)]


class Completion(Structure):
    _fields_ = [
        ("ticket", c_uint64),
        ("operation", c_int),
        ("status", c_int),
        ("count", c_uint64),
    ]


class Lease(Structure):
    _fields_ = [
        ("status", c_int),
        ("reserved", c_uint32),
        ("bytes", c_void_p),
        ("byte_count", c_uint64),
        ("checksum", c_uint64),
        ("remaining_milliseconds", c_uint64),
        ("expiry_nanoseconds", c_uint64),
        ("lease_id", c_uint64),
        ("connection_number", c_uint64),
        ("mapping", c_void_p),
    ]


Provider = CFUNCTYPE(c_void_p, c_void_p, c_size_t, c_uint64)

_FUNCTIONS = {
    "kvs_abi_version": (c_uint32, []),
    "kvs_status_text": (c_char_p, [c_int]),
    "kvs_format_number": (c_int, [c_double, c_char_p]),
    "kvs_layout_id": (c_int, [POINTER(LayoutField), c_size_t, c_char_p]),
    "kvs_describe_layout": (
        c_int, [c_void_p, POINTER(LayoutField), c_size_t, c_char_p, c_uint32]),
    "kvs_derive_prefix_keys": (
        c_int,
        [c_char_p, c_char_p, c_char_p, c_void_p, c_size_t, c_size_t, c_char_p],
    ),
    "kvs_derive_content_key": (c_int, [c_char_p, c_char_p, c_void_p, c_size_t, c_char_p]),
    "kvs_derive_opaque_key": (c_int, [c_char_p, c_char_p, c_size_t, c_char_p]),
    "kvs_open": (c_int, [c_char_p, POINTER(Options), POINTER(c_void_p)]),
    "kvs_close": (None, [c_void_p]),
    "kvs_last_error_text": (c_char_p, [c_void_p]),
    "kvs_ping": (c_int, [c_void_p, c_uint32]),
    "kvs_secret": (c_int, [c_void_p, c_char_p, c_uint32]),
    "kvs_prefix_keys": (
        c_int,
        [c_void_p, c_char_p, c_void_p, c_size_t, c_size_t, c_char_p, POINTER(c_size_t)],
    ),
    "kvs_opaque_key": (c_int, [c_void_p, c_char_p, c_size_t, c_char_p]),
    "kvs_put": (
        c_int,
        [c_void_p, c_char_p, POINTER(Span), c_size_t, POINTER(PutOptions), c_uint32],
    ),
    "kvs_get": (
        c_int,
        [
            c_void_p, c_char_p, c_size_t, POINTER(Destination), POINTER(GetResult), c_char_p,
            c_uint32,
        ],
    ),
    "kvs_get_with": (
        c_int,
        [c_void_p, c_char_p, c_size_t, Provider, c_void_p, POINTER(GetResult), c_char_p, c_uint32],
    ),
    "kvs_get_at": (
        c_int,
        [
            c_void_p, c_char_p, c_size_t, POINTER(GetOptions), POINTER(Destination), Provider,
            c_void_p, POINTER(GetResult), c_uint32,
        ],
    ),
    "kvs_fetch_description": (
        c_int, [c_void_p, c_char_p, POINTER(c_void_p), POINTER(c_size_t), c_uint32]),
    "kvs_fetch_profile": (
        c_int, [c_void_p, c_char_p, c_char_p, POINTER(c_void_p), POINTER(c_size_t), c_uint32]),
    "kvs_free": (None, [c_void_p]),
    "kvs_get_range": (
        c_int,
        [
            c_void_p, c_char_p, c_size_t, c_uint64, c_uint64, POINTER(Destination),
            POINTER(GetResult), c_char_p, c_uint32,
        ],
    ),
    "kvs_lookup": (c_int, [c_void_p, c_char_p, c_size_t, POINTER(LookupRecord), c_uint32]),
    "kvs_lookup_prefix": (
        c_int,
        [c_void_p, c_char_p, c_size_t, POINTER(c_size_t), POINTER(LookupRecord), c_uint32],
    ),
    "kvs_delete": (c_int, [c_void_p, c_char_p, c_size_t, POINTER(c_size_t), c_uint32]),
    "kvs_pin": (
        c_int,
        [c_void_p, c_char_p, c_size_t, c_uint64, POINTER(c_int), c_uint32],
    ),
    "kvs_unpin": (c_int, [c_void_p, c_char_p, c_size_t, POINTER(c_int), c_uint32]),
    "kvs_stat": (c_int, [c_void_p, POINTER(StatPair), c_size_t, POINTER(c_size_t), c_uint32]),
    "kvs_lease_acquire": (
        c_int,
        [c_void_p, c_char_p, c_size_t, c_uint32, POINTER(Lease), c_uint32],
    ),
    "kvs_lease_still_valid": (c_int, [c_void_p, POINTER(Lease)]),
    "kvs_lease_release": (None, [c_void_p, POINTER(Lease), c_size_t]),
    "kvs_release_now": (c_int, [c_void_p, c_uint32]),
    "kvs_queue_open": (c_int, [c_char_p, POINTER(Options), c_size_t, POINTER(c_void_p)]),
    "kvs_queue_event_fd": (c_int, [c_void_p]),
    "kvs_queue_submit_get": (
        c_int,
        [
            c_void_p, c_uint64, c_char_p, c_size_t, POINTER(Destination), POINTER(GetResult),
            c_uint32,
        ],
    ),
    "kvs_queue_submit_put": (
        c_int,
        [c_void_p, c_uint64, c_char_p, POINTER(Span), c_size_t, POINTER(PutOptions), c_uint32],
    ),
    "kvs_queue_submit_lookup": (
        c_int,
        [c_void_p, c_uint64, c_char_p, c_size_t, c_int, POINTER(LookupRecord), c_uint32],
    ),
    "kvs_queue_submit_delete": (c_int, [c_void_p, c_uint64, c_char_p, c_size_t, c_uint32]),
    "kvs_queue_drain": (c_size_t, [c_void_p, POINTER(Completion), c_size_t]),
    "kvs_queue_close": (None, [c_void_p]),
}


def find(file_name):
    """Where a library is: next to the package, in a source checkout, or installed."""
    package = pathlib.Path(__file__).resolve().parent
    places = [package / file_name]
    if len(package.parents) > 2:
        places.append(package.parents[2] / "build" / "lib" / file_name)
    return next((str(place) for place in places if place.exists()), file_name)


def _load():
    path = os.environ.get("KVSTORE_LIBRARY") or find(FILE_NAME)
    try:
        loaded = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(
            f"cannot load {path}: {error}; build it with dev/build-libkvstore, or set "
            "KVSTORE_LIBRARY to its path"
        ) from error
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(loaded, name)
        function.restype = result
        function.argtypes = arguments
    version = loaded.kvs_abi_version()
    if version != ABI_VERSION:
        raise ImportError(f"{path} has interface version {version}, not {ABI_VERSION}")
    return loaded


library = _load()


# Buffers -----------------------------------------------------------------------------------------


class _PyBuffer(Structure):
    _fields_ = [
        ("buf", c_void_p),
        ("obj", c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", c_int),
        ("ndim", c_int),
        ("format", c_char_p),
        ("shape", c_void_p),
        ("strides", c_void_p),
        ("suboffsets", c_void_p),
        ("internal", c_void_p),
    ]


_PyBUF_SIMPLE, _PyBUF_WRITABLE = 0, 1
_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = [ctypes.py_object, POINTER(_PyBuffer), c_int]
_get_buffer.restype = c_int
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = [POINTER(_PyBuffer)]
_release_buffer.restype = None


class Buffer:
    """Address and size of an object's memory, held in place until `release`.

    Takes anything with a contiguous buffer, and contiguous CPU tensors of torch, which have none.
    """

    __slots__ = ("_kept", "_view", "address", "byte_count")

    def __init__(self, source, writable=False):
        self._view = None
        self._kept = source
        if hasattr(source, "data_ptr"):
            if source.device.type != "cpu" or not source.is_contiguous():
                raise BufferError("only contiguous tensors in CPU memory can be used in place")
            self.address = source.data_ptr()
            self.byte_count = source.numel() * source.element_size()
            return
        view = _PyBuffer()
        _get_buffer(source, ctypes.byref(view), _PyBUF_WRITABLE if writable else _PyBUF_SIMPLE)
        self._view = view
        self.address = view.buf
        self.byte_count = view.len

    def release(self):
        if self._view is not None:
            _release_buffer(ctypes.byref(self._view))
            self._view = None
        self._kept = None


@contextlib.contextmanager
def held(source, writable=False):
    """A `Buffer` for as long as the block lasts."""
    buffer = Buffer(source, writable)
    try:
        yield buffer
    finally:
        buffer.release()


_new_bytearray = ctypes.pythonapi.PyByteArray_FromStringAndSize
_new_bytearray.argtypes = [c_void_p, ctypes.c_ssize_t]
_new_bytearray.restype = ctypes.py_object
_bytearray_address = ctypes.pythonapi.PyByteArray_AsString
_bytearray_address.argtypes = [ctypes.py_object]
_bytearray_address.restype = c_void_p


def new_bytearray(byte_count):
    """A bytearray that is not zeroed first, and its address."""
    made = _new_bytearray(None, byte_count)
    return made, _bytearray_address(made)
