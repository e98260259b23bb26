# SPDX-License-Identifier: Apache-2.0
"""Codecs that an evaluation can judge: chunks of keys and values in, as many bytes as they take and
what comes back out.

A chunk is bfloat16-valued float32 `[layer, kind, token, column]`, keys after the rotary embedding.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from kvstore_profile import learning, predictive, rans, scalar, tables
from kvstore_profile.rotary import Shape, rotate

HEADER_BYTES = 64
ENTRY_BYTES = 16


@dataclass
class Coded:
    """`seconds`: of processor time, (0, 0) where they say nothing about the store."""

    byte_count: int
    values: np.ndarray
    encode_seconds: float = 0
    decode_seconds: float = 0


class ProfileCoder:
    """Modes scalar and predictive in NumPy, as the format's text has them: every section's real
    bytes. Slow; its seconds are not told."""

    def __init__(self, profile: learning.Profile, shape: Shape, mode: str,
                 level: learning.Level, description_bytes: int = 256) -> None:
        self.profile, self.shape, self.mode, self.level = profile, shape, mode, level
        self.shift = tables.shift_of(level.step)
        rotation_bytes = 8 + -(-shape.layer_count // 8) * 8 + 8 * shape.frequencies.size
        self.fixed_sections = [description_bytes, rotation_bytes]

    def code(self, chunk: np.ndarray, first_position: int) -> Coded:
        exact = max(0, scalar.EXACT_ROWS - first_position)
        stored = chunk.copy()
        for layer in range(self.shape.layer_count):
            stored[layer, 0] = rotate(chunk[layer, 0], self.shape, layer, first_position,
                                      undo=True)
        decoded = np.empty_like(stored)
        coded, tables_of = [], []
        sections = self._predictive if self.mode == "P" else self._scalar
        for layer, kind, symbols, values, classes in sections(stored, exact):
            decoded[layer, kind] = values
            # Predicted coefficients stand in their own order, columns in that of their classes.
            order = np.argsort(classes, kind="stable") if self.mode == "S" else slice(None)
            tables_of.append(tables.table_of(classes, self.shift)[order])
            coded.append(symbols[exact:, order])
        byte_count = self._byte_count(np.stack(coded), np.stack(tables_of), exact)
        for layer in range(self.shape.layer_count):
            decoded[layer, 0] = rotate(decoded[layer, 0], self.shape, layer, first_position)
        decoded[:, :, :exact] = chunk[:, :, :exact]
        return Coded(byte_count, to_bfloat16(decoded))

    def _byte_count(self, symbols: np.ndarray, tables_of: np.ndarray, exact: int) -> int:
        """Of the container: `symbols[section, row, place]`."""
        clipped = np.clip(symbols, -128, 127)
        has_slot = self.profile.frequencies[tables_of[:, None], clipped + 128] > 0
        is_coded = has_slot & (np.abs(symbols) < 128)
        streams = rans.stream_byte_counts(np.where(is_coded, symbols, -128), tables_of,
                                          self.profile.frequencies)
        escapes = (~is_coded).sum((1, 2))
        lengths = self.fixed_sections + list(
            streams + 8 * escapes + 2 * exact * self.shape.column_count)
        byte_count = HEADER_BYTES + ENTRY_BYTES * len(lengths)
        for length in lengths:
            byte_count = -(-byte_count // 64) * 64 + int(length)
        return byte_count

    def _scalar(self, stored, exact):
        for (layer, kind), section in self.profile.scalars.items():
            rows = stored[layer, kind]
            symbols = section.symbols(rows, self.level.step)
            yield layer, kind, symbols, section.values(symbols, self.level.step), section.classes

    def _predictive(self, stored, exact):
        references: dict[tuple[int, int], np.ndarray] = {}
        for (layer, kind), section in self.profile.predictors.items():
            rows = stored[layer, kind]
            sources = predictive.reference_sections(layer, kind, self.profile.group)
            predicted = section.predicted(predictive.joined(references, sources, len(rows)))
            symbols = section.symbols(rows - predicted, self.level.step)
            values = section.values(predicted, symbols, self.level.step)
            values[:exact] = rows[:exact]
            references[layer, kind] = section.references(values)
            yield layer, kind, symbols, values, section.classes


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Rounded to nearest, ties to even. Finite values alone."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)
