# SPDX-License-Identifier: Apache-2.0
"""The few C functions of llama.cpp that the adapter calls, over any ctypes library handle."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

from kvstore._native import Buffer


class UnsupportedEngine(RuntimeError):
    """This context's KV cannot be kept by chunks; the message names the reason and the cure."""


class Functions:
    """The C functions, as own prototypes: those of the library object belong to others."""

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, integer, size = ctypes.c_void_p, ctypes.c_int32, ctypes.c_size_t

        def bind(name: str, result: Any, *arguments: Any) -> Any:
            if not hasattr(library, name):
                raise UnsupportedEngine(
                    f"this llama.cpp has no {name}; cure: a release of July 2025 or later"
                )
            return ctypes.CFUNCTYPE(result, *arguments)((name, library))

        self.get_memory = bind("llama_get_memory", pointer, pointer)
        self.sequence_count = bind("llama_n_seq_max", ctypes.c_uint32, pointer)
        self.copy = bind("llama_memory_seq_cp", None, pointer, integer, integer, integer, integer)
        self.remove = bind("llama_memory_seq_rm", ctypes.c_bool, pointer, integer, integer, integer)
        self.last_position = bind("llama_memory_seq_pos_max", integer, pointer, integer)
        self.state_byte_count = bind("llama_state_seq_get_size", size, pointer, integer)
        self.state_read = bind("llama_state_seq_get_data", size, pointer, pointer, size, integer)
        self.state_write = bind("llama_state_seq_set_data", size, pointer, pointer, size, integer)
        self._decode = bind("llama_decode", integer, pointer, _Batch)
        self._context_size = bind("llama_n_ctx", ctypes.c_uint32, pointer)
        self._get_model = bind("llama_get_model", pointer, pointer)
        self._metadata = bind(
            "llama_model_meta_val_str", integer, pointer, ctypes.c_char_p, ctypes.c_char_p, size
        )
        # Only for what the codec would like to know; a release without them is good enough.
        self._key_head_count = self._rope_type = None
        if hasattr(library, "llama_model_n_head_kv") and hasattr(library, "llama_model_rope_type"):
            self._key_head_count = bind("llama_model_n_head_kv", integer, pointer)
            self._rope_type = bind("llama_model_rope_type", integer, pointer)

    def decode_one(self, context: ctypes.c_void_p, token: int, position: int, sequence: int) -> int:
        """Decodes one token into a sequence; 0 if that worked."""
        integer = ctypes.c_int32
        sequences = (ctypes.POINTER(integer) * 1)(ctypes.pointer(integer(sequence)))
        one = [ctypes.pointer(integer(value)) for value in (token, position, 1)]
        output = ctypes.pointer(ctypes.c_int8(0))
        return self._decode(context, _Batch(1, one[0], None, one[1], one[2], sequences, output))

    def context_beyond_original(self, context: ctypes.c_void_p) -> int:
        """1 if the context exceeds the model's original one: LongRoPE then turns otherwise."""
        original = self.metadata(context, "rope.scaling.original_context_length")
        return int(original.isdigit() and self._context_size(context) > int(original))

    def metadata(self, context: ctypes.c_void_p, name: str) -> str:
        """A field of the model's GGUF metadata, its architecture's name left off; "" if absent."""
        model = self._get_model(context)
        text = ctypes.create_string_buffer(64)
        if self._metadata(model, b"general.architecture", text, len(text)) <= 0:
            return ""
        full_name = text.value + b"." + name.encode() if name else b"general.architecture"
        if self._metadata(model, full_name, text, len(text)) <= 0:
            return ""
        return text.value.decode(errors="replace")

    def head_count(self, context: ctypes.c_void_p) -> int:
        """Heads of K of a layer; 0 where the library does not tell."""
        if self._key_head_count is None:
            return 0
        return self._key_head_count(self._get_model(context))

    def rope_pairing(self, context: ctypes.c_void_p) -> str:
        """Which channels turn together: `interleaved`, `half`, or "" (no rope, or another)."""
        if self._rope_type is None:
            return ""
        return {0: "interleaved", 2: "half"}.get(self._rope_type(self._get_model(context)), "")


class _Batch(ctypes.Structure):
    """`llama_batch`, unchanged since 2023."""

    _fields_ = [
        ("token_count", ctypes.c_int32),
        ("tokens", ctypes.POINTER(ctypes.c_int32)),
        ("embeddings", ctypes.c_void_p),
        ("positions", ctypes.POINTER(ctypes.c_int32)),
        ("sequence_counts", ctypes.POINTER(ctypes.c_int32)),
        ("sequences", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("outputs", ctypes.POINTER(ctypes.c_int8)),
    ]


@contextlib.contextmanager
def address_of(buffer: Any) -> Iterator[int]:
    """The address of a contiguous buffer, read-only or not, which is kept from moving meanwhile."""
    held = Buffer(buffer)
    try:
        yield held.address
    finally:
        held.release()
