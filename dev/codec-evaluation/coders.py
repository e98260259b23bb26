# SPDX-License-Identifier: Apache-2.0
"""Codecs that an evaluation can judge: chunks of keys and values in, as many bytes as they take and
what comes back out.

A chunk is bfloat16-valued float32 `[layer, kind, token, column]`, keys after the rotary embedding.
"""
from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import numpy as np
import xxhash
from kvstore_profile import container, learning, predictive, rans, row_codes, scalar, tables
from kvstore_profile.rotary import Shape, rotate

_HEADER = struct.Struct("<4sIBBHBBBB16s16sIIIHBB")
_ENTRY = struct.Struct("<IIIHBB")
_BFLOAT16, _FIRST_POSITION_IS_KNOWN = 2, 1
_LAYOUT_PART, _ROTATION_PART, _RAW_METHOD = 3, 4, 0


@dataclass
class Coded:
    """`seconds`: of wall time, 0 where they say nothing about the store."""

    byte_count: int
    values: np.ndarray
    encode_seconds: float = 0
    decode_seconds: float = 0


def description_of(shape: Shape, **more: str) -> bytes:
    """The canonical description of a payload of a chunk's values as bfloat16, in the order of their
    axes."""
    fields: dict[str, str | int] = {
        "dtype": "bfloat16", "layers": shape.layer_count, "kv_heads": shape.head_count,
        "head_dim": shape.head_dim, "axes": "layer,kv,token,head,channel", **more}
    if len(shape.frequencies) == 1:
        # The base of the rotation, from its second frequency.
        theta = shape.frequencies[0][1] ** (-shape.head_dim / 2)
        fields["rope_theta"] = repr(float(round(theta)))
    return container.canonical(fields)


def checksum(data: bytes) -> int:
    return xxhash.xxh3_64_intdigest(data) & 0xFFFFFFFF


class ProfileCoder:
    """Modes scalar and predictive in NumPy, as the format's text has them. `code` knows every
    section's length without its bytes, `container` makes them. Their seconds are not told."""

    def __init__(self, profile: learning.Profile, profile_bytes: bytes, shape: Shape, mode: str,
                 level: learning.Level) -> None:
        self.profile, self.shape, self.mode, self.level = profile, shape, mode, level
        self.profile_hash = container.profile_hash(profile_bytes)
        self.shift = tables.shift_of(level.step)
        self.description = description_of(shape)
        self.rotation = container.rotation(shape.frequencies, shape.turns)

    def container(self, chunk: np.ndarray, first_position: int) -> bytes:
        """The chunk's container, every byte of it."""
        exact = max(0, scalar.EXACT_ROWS - first_position)
        method = 6 if self.mode == "P" else 5
        sections = [(_LAYOUT_PART, 0, _RAW_METHOD, self.description),
                    (_ROTATION_PART, 0, _RAW_METHOD, self.rotation)]
        for layer, kind, symbols, _, classes, codes in self._sections(chunk, first_position):
            order = self._order(classes)
            table = tables.table_of(classes, self.shift)
            coded = symbols[exact:]
            frequencies = self.profile.frequencies[table, np.clip(coded, -128, 127) + 128]
            escapes = np.flatnonzero((frequencies == 0) | (np.abs(coded) > 127))
            written = coded.copy()
            written.flat[escapes] = -128
            content = rans.encode(written[:, order], table[order], self.profile.frequencies)
            content += (chunk[layer, kind, :exact].view(np.uint32) >> 16).astype("<u2").tobytes()
            if codes is not None:
                content += row_codes.packed(codes[exact:])
            content += np.stack([escapes, coded.flat[escapes]], axis=1).astype("<i4").tobytes()
            sections.append((kind, layer, method, content))
        end = _HEADER.size + _ENTRY.size * len(sections)
        entries, body = b"", b""
        for part, number, method, content in sections:
            body += bytes(-(end + len(body)) % 64)
            entries += _ENTRY.pack(end + len(body), len(content), checksum(content), number, part,
                                   method)
            body += content
        head = _HEADER.pack(
            b"KVC1", 0, 1, 5 if self.mode == "P" else 4, len(sections), self.level.number,
            _BFLOAT16, exact, _FIRST_POSITION_IS_KNOWN,
            hashlib.sha256(self.description).digest()[:16], self.profile_hash, 2 * chunk.size,
            first_position, chunk.shape[2], self.shape.layer_count,
            self.profile.group if self.mode == "P" else 0, 0) + entries
        return head[:4] + struct.pack("<I", checksum(head[8:])) + head[8:] + body

    def _sections(self, chunk: np.ndarray, first_position: int):
        """Layer, kind, symbols, decoded values before the rotary embedding, classes, row codes."""
        stored = chunk.copy()
        for layer in range(self.shape.layer_count):
            stored[layer, 0] = rotate(chunk[layer, 0], self.shape, layer, first_position,
                                      undo=True)
        exact = max(0, scalar.EXACT_ROWS - first_position)
        return self._predictive(stored, exact) if self.mode == "P" else self._scalar(stored, exact)

    def _order(self, classes: np.ndarray):
        """Predicted coefficients stand in their own order, columns in that of their classes."""
        return np.argsort(classes, kind="stable") if self.mode == "S" else slice(None)

    def code(self, chunk: np.ndarray, first_position: int) -> Coded:
        exact = max(0, scalar.EXACT_ROWS - first_position)
        decoded = np.empty_like(chunk)
        coded, tables_of = [], []
        code_bytes = []
        for layer, kind, symbols, values, classes, codes in self._sections(chunk, first_position):
            decoded[layer, kind] = values
            order = self._order(classes)
            tables_of.append(tables.table_of(classes, self.shift)[order])
            coded.append(symbols[exact:, order])
            code_bytes.append(0 if codes is None else len(row_codes.packed(codes[exact:])))
        byte_count = self._byte_count(np.stack(coded), np.stack(tables_of), exact, code_bytes)
        for layer in range(self.shape.layer_count):
            decoded[layer, 0] = rotate(decoded[layer, 0], self.shape, layer, first_position)
        decoded[:, :, :exact] = chunk[:, :, :exact]
        return Coded(byte_count, to_bfloat16(decoded))

    def _byte_count(self, symbols: np.ndarray, tables_of: np.ndarray, exact: int,
                    code_bytes: list[int]) -> int:
        """Of the container: `symbols[section, row, place]`."""
        clipped = np.clip(symbols, -128, 127)
        has_slot = self.profile.frequencies[tables_of[:, None], clipped + 128] > 0
        is_coded = has_slot & (np.abs(symbols) < 128)
        streams = rans.stream_byte_counts(np.where(is_coded, symbols, -128), tables_of,
                                          self.profile.frequencies)
        escapes = (~is_coded).sum((1, 2))
        lengths = [len(self.description), len(self.rotation), *(
            streams + 8 * escapes + 2 * exact * self.shape.column_count + code_bytes)]
        byte_count = _HEADER.size + _ENTRY.size * len(lengths)
        for length in lengths:
            byte_count = -(-byte_count // 64) * 64 + int(length)
        return byte_count

    def _row_codes(self, stored, layer, kind, exact):
        """Codes of all rows, exact ones too, and their factors."""
        rows = stored[layer, kind]
        codes = self.profile.row_codes_of((layer, kind), rows[exact:])
        if codes is None:
            return None, 1
        codes = np.concatenate([np.full(exact, row_codes.UNIT, np.uint8), codes])
        return codes, row_codes.factors(codes)

    def _scalar(self, stored, exact):
        for (layer, kind), section in self.profile.scalars.items():
            rows = stored[layer, kind]
            codes, factors = self._row_codes(stored, layer, kind, exact)
            symbols = section.symbols(rows, self.level.step, factors)
            values = section.values(symbols, self.level.step, factors)
            yield layer, kind, symbols, values, section.classes, codes

    def _predictive(self, stored, exact):
        profile = self.profile
        references: dict[tuple[int, int], np.ndarray] = {}
        for (layer, kind), section in profile.predictors.items():
            rows = stored[layer, kind]
            codes, factors = self._row_codes(stored, layer, kind, exact)
            sources = predictive.reference_sections(layer, kind, profile.group, profile.lookback)
            predicted = section.predicted(predictive.joined(references, sources, len(rows)))
            symbols = section.symbols(rows - predicted, self.level.step, factors)
            values = section.values(predicted, symbols, self.level.step, factors)
            values[:exact] = rows[:exact]
            references[layer, kind] = section.references(values)
            yield layer, kind, symbols, values, section.classes, codes


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Rounded to nearest, ties to even. Finite values alone."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)
