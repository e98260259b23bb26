# SPDX-License-Identifier: Apache-2.0
"""The sequence state of llama.cpp as bytes: learn its shape, check a state against it.

`llama_state_seq_get_data` writes no version. So nothing here trusts a description: the shape of a
state (caches, layers, types, row sizes) is learnt once from a state of a single token that the
running engine wrote itself, and every state that comes from elsewhere must match that shape in
every field. A state of n cells then has exactly one possible length and one possible place for
each header, which makes the check total: whatever the bytes are, the answer is yes or no.

All integers are little-endian and unaligned. A state is

    u32 magic, i32 sequence, then one or more caches (two for sliding-window models)

and a cache is

    u32 stream count (1), u32 cell count,
    per cell: i32 position, u32 sequence count (1), i32 sequence,
    u32 values transposed, u32 layer count, [u32 key rotation, u32 value rotation],
    one section of keys per layer, one section of values per layer (none for some models)

A section is a header and its stripes. Keys, and values with flash attention, are one stripe of a
row per cell after `i32 type, u64 row byte count`. Transposed values are one stripe per channel of
an element per cell, after `i32 type, u32 element byte count, u32 channel count`. The two rotation
words exist since llama.cpp 0.6; the learner finds out whether they do.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import Union

MAGIC = 0xAF143CD8

# Bounds on what a state may claim. Far above any model, far below what would hurt.
LAYER_COUNT_MAX = 4_096
CACHE_COUNT_MAX = 8
ROW_BYTE_COUNT_MAX = 1 << 20
CHANNEL_COUNT_MAX = 1 << 18
GGML_TYPE_MAX = 1_023

_STATE_HEADER = struct.Struct("<Ii")
_CACHE_HEADER = struct.Struct("<II")
_CELL = struct.Struct("<iIi")
_LAYER_HEADER = struct.Struct("<II")
_ROW_HEADER = struct.Struct("<iQ")
_CHANNEL_HEADER = struct.Struct("<iII")

# ggml types whose rows are plain numbers: their name in a layout description, and their bytes.
_PLAIN_TYPES = {0: ("float32", 4), 1: ("float16", 2), 30: ("bfloat16", 2)}

Bytes = Union[bytes, bytearray, memoryview]


class MalformedState(ValueError):
    """The bytes are no state, or not one of the expected shape."""


@dataclass(frozen=True)
class Section:
    """Keys or values of one layer: a header, then `stripe_count` stripes of all cells."""

    header: bytes
    ggml_type: int
    cell_byte_count: int
    stripe_count: int

    def byte_count(self, cell_count: int) -> int:
        """Bytes of this section, header included, in a state of so many cells."""
        return len(self.header) + self.stripe_count * self.cell_byte_count * cell_count


@dataclass(frozen=True)
class CacheShape:
    """One cache of a state: what stands after its cells, and its sections in order."""

    values_transposed: bool
    layer_count: int
    layer_header: bytes
    sections: tuple[Section, ...]

    def byte_count(self, cell_count: int) -> int:
        """Bytes of this cache in a state of so many cells."""
        fixed = _CACHE_HEADER.size + _CELL.size * cell_count + len(self.layer_header)
        return fixed + sum(section.byte_count(cell_count) for section in self.sections)


@dataclass(frozen=True)
class StateShape:
    """What every state of one context looks like, whatever it holds."""

    caches: tuple[CacheShape, ...]

    @classmethod
    def learn(cls, state: Bytes) -> StateShape:
        """The shape of a state of at least one cell that the running engine wrote.

        Raises `MalformedState` if it is none, or if two readings of it are possible.
        """
        found: list[StateShape] = []
        for rotation_word_count, has_values in itertools.product((0, 2), (True, False)):
            try:
                shape = _Learner(state, rotation_word_count, has_values).shape()
            except MalformedState:
                continue
            if shape not in found:
                found.append(shape)
        if len(found) != 1:
            raise MalformedState(
                f"{len(found)} readings of a {len(state)}-byte state are possible, expected 1: "
                "the model keeps something else than keys and values per token (recurrent or "
                "M-RoPE models), or kv_unified is off"
            )
        return found[0]

    def byte_count(self, cell_count: int) -> int:
        """Bytes of a state of so many cells."""
        return _STATE_HEADER.size + sum(cache.byte_count(cell_count) for cache in self.caches)

    def check(self, state: Bytes, first_position: int, cell_count: int) -> None:
        """Raises `MalformedState` unless `state` holds exactly these positions in this shape."""
        expected_byte_count = self.byte_count(cell_count)
        if len(state) != expected_byte_count:
            raise MalformedState(f"{len(state)} bytes, expected {expected_byte_count}")
        if _STATE_HEADER.unpack_from(state, 0)[0] != MAGIC:
            raise MalformedState("wrong magic")
        positions = range(first_position, first_position + cell_count)
        offset = _STATE_HEADER.size
        # Released here, so that no traceback keeps memory in use that is only leased.
        with memoryview(state) as view:
            for cache in self.caches:
                offset = _check_cache(view, offset, cache, positions)
        assert offset == expected_byte_count

    def description(self) -> dict[str, str | int]:
        """Fields of the layout description that follow from the shape."""
        fields: dict[str, str | int] = {"cache_count": len(self.caches), "stream_count": 1}
        for index, cache in enumerate(self.caches):
            fields[f"cache{index}_values_transposed"] = int(cache.values_transposed)
            fields[f"cache{index}_layer_count"] = cache.layer_count
            fields[f"cache{index}_layer_header"] = cache.layer_header.hex()
            fields[f"cache{index}_types"] = ",".join(
                str(number) for number in sorted({section.ggml_type for section in cache.sections})
            )
            fields[f"cache{index}_sections"] = _run_lengths(cache.sections)
        return fields

    def tensor_description(self, head_count: int) -> dict[str, str | int]:
        """Where each value stands, in the fields of docs/container-format.md, section 3.

        Empty where these have no words for it: two caches, quantised types, layers that differ.
        """
        cache = self.caches[0]
        keys = cache.sections[: cache.layer_count]
        values = cache.sections[cache.layer_count :]
        dtype, value_byte_count = _PLAIN_TYPES.get(keys[0].ggml_type, ("", 1))
        is_uniform = len(set(keys)) == 1 and len(set(values)) <= 1
        is_plain = all(section.ggml_type == keys[0].ggml_type for section in cache.sections)
        if not dtype or len(self.caches) > 1 or not is_uniform or not is_plain or head_count < 1:
            return {}
        columns = [section.byte_count(1) - len(section.header) for section in (*keys, *values)]
        if any(count % (head_count * value_byte_count) for count in columns):
            return {}
        key_dim = columns[0] // (head_count * value_byte_count)
        value_dim = columns[-1] // (head_count * value_byte_count)
        fields: dict[str, str | int] = {
            "dtype": dtype,
            "layers": cache.layer_count,
            "kv_heads": head_count,
            "head_dim": key_dim,
            "axes": "kv,layer,token,head,channel",
            "lead_bytes": _STATE_HEADER.size + _CACHE_HEADER.size + len(cache.layer_header),
            "lead_bytes_per_token": _CELL.size,
            "section_lead_bytes": len(keys[0].header),
        }
        if not values:
            fields["axes"] = "layer,token,head,channel"
        elif cache.values_transposed:
            fields["axes"] = "kv(layer,token,head,channel|layer,head,channel,token)"
        if value_dim != key_dim:
            fields["value_dim"] = value_dim
        return fields


def _check_cache(view: memoryview, offset: int, cache: CacheShape, positions: range) -> int:
    """Checks one cache at `offset` of a state of the right length; the offset after it."""
    cell_count = len(positions)
    if _CACHE_HEADER.unpack_from(view, offset) != (1, cell_count):
        raise MalformedState("wrong stream or cell count")
    offset += _CACHE_HEADER.size
    cells = bytes(view[offset : offset + _CELL.size * cell_count])
    for expected_position, cell in zip(positions, _CELL.iter_unpack(cells)):
        position, sequence_count, _ = cell
        if position != expected_position or sequence_count != 1:
            raise MalformedState(f"cell of position {position}, expected {expected_position}")
    offset += _CELL.size * cell_count
    if view[offset : offset + len(cache.layer_header)] != cache.layer_header:
        raise MalformedState("wrong layer count, transposition or rotation")
    offset += len(cache.layer_header)
    for index, section in enumerate(cache.sections):
        if view[offset : offset + len(section.header)] != section.header:
            raise MalformedState(f"wrong type or row size in section {index}")
        offset += section.byte_count(cell_count)
    return offset


def _run_lengths(sections: tuple[Section, ...]) -> str:
    """The section headers as text, equal neighbours counted: `60x010000008001000000000000`."""
    groups = itertools.groupby(section.header.hex() for section in sections)
    return ",".join(f"{sum(1 for _ in group)}x{header}" for header, group in groups)


class _Learner:
    """Reads one state under one assumption about the format's two open questions."""

    def __init__(self, state: Bytes, rotation_word_count: int, has_values: bool) -> None:
        self._view = memoryview(state)
        self._offset = 0
        self._rotation_word_count = rotation_word_count
        self._has_values = has_values

    def shape(self) -> StateShape:
        magic, _ = self._read(_STATE_HEADER)
        if magic != MAGIC:
            raise MalformedState("wrong magic")
        caches: list[CacheShape] = []
        while self._offset < len(self._view):
            if len(caches) == CACHE_COUNT_MAX:
                raise MalformedState("too many caches")
            caches.append(self._cache())
        if not caches:
            raise MalformedState("no cache")
        return StateShape(tuple(caches))

    def _cache(self) -> CacheShape:
        stream_count, cell_count = self._read(_CACHE_HEADER)
        if stream_count != 1 or cell_count == 0:
            raise MalformedState("not one stream with cells")
        for _ in range(cell_count):
            _, sequence_count, _ = self._read(_CELL)
            if sequence_count != 1:
                raise MalformedState("a cell of several sequences")
        layer_header_offset = self._offset
        transposed, layer_count = self._read(_LAYER_HEADER)
        if transposed > 1 or not 1 <= layer_count <= LAYER_COUNT_MAX:
            raise MalformedState("implausible layer count")
        self._skip(4 * self._rotation_word_count)
        layer_header = bytes(self._view[layer_header_offset : self._offset])
        sections = [self._section(_ROW_HEADER, cell_count) for _ in range(layer_count)]
        if self._has_values:
            value_header = _CHANNEL_HEADER if transposed else _ROW_HEADER
            sections += [self._section(value_header, cell_count) for _ in range(layer_count)]
        return CacheShape(bool(transposed), layer_count, layer_header, tuple(sections))

    def _section(self, layout: struct.Struct, cell_count: int) -> Section:
        start = self._offset
        ggml_type, cell_byte_count, *rest = self._read(layout)
        stripe_count = rest[0] if rest else 1
        if not 0 <= ggml_type <= GGML_TYPE_MAX:
            raise MalformedState("implausible type")
        if (
            not 1 <= cell_byte_count <= ROW_BYTE_COUNT_MAX
            or not 1 <= stripe_count <= CHANNEL_COUNT_MAX
        ):
            raise MalformedState("implausible row size")
        header = bytes(self._view[start : self._offset])
        self._skip(stripe_count * cell_byte_count * cell_count)
        return Section(header, ggml_type, cell_byte_count, stripe_count)

    def _read(self, layout: struct.Struct) -> tuple[int, ...]:
        start = self._offset
        self._skip(layout.size)
        return layout.unpack_from(self._view, start)

    def _skip(self, byte_count: int) -> None:
        if byte_count > len(self._view) - self._offset:
            raise MalformedState("truncated")
        self._offset += byte_count
