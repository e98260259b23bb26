# SPDX-License-Identifier: Apache-2.0
"""The shape of a model's keys and values, and how its keys turn with their positions."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Shape:
    """`turns[layer]`: the index of the layer's set of frequencies in `frequencies`."""

    layer_count: int
    head_count: int
    head_dim: int
    frequencies: np.ndarray
    turns: tuple[int, ...]

    @property
    def column_count(self) -> int:
        return self.head_count * self.head_dim


def rotate(keys: np.ndarray, shape: Shape, layer: int, first_position: int = 0,
           undo: bool = False) -> np.ndarray:
    """Keys `[token, column]` of a layer, turned by their positions (`undo`: turned back)."""
    tokens = np.arange(first_position, first_position + len(keys), dtype=np.float64)
    angles = np.outer(tokens, shape.frequencies[shape.turns[layer]])
    cosine = np.cos(angles).astype(np.float32)[:, None]
    sine = np.sin(angles).astype(np.float32)[:, None] * np.float32(-1 if undo else 1)
    heads = keys.reshape(len(keys), shape.head_count, 2, shape.head_dim // 2)
    low, high = heads[:, :, 0], heads[:, :, 1]
    turned = np.stack([low * cosine - high * sine, high * cosine + low * sine], axis=2)
    return turned.reshape(keys.shape)
