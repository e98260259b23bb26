# SPDX-License-Identifier: Apache-2.0
"""Row codes (docs/container-format.md, section 9): how much finer or coarser a row's steps are.

A row's error then follows its size. Without gradients that stands in for what they would have told
about V. With them it gains little in most models, and much in those where rows within a text that
attract all attention have a small V.
"""
from __future__ import annotations

import numpy as np

# The code of factor 1, and the codes of a factor of 2.
UNIT, PER_OCTAVE = 8, 4
HIGHEST = 15


def factors(codes: np.ndarray) -> np.ndarray:
    """`[row, 1]`, what each row's steps are multiplied by."""
    return np.exp2((codes.astype(np.float64) - UNIT) / PER_OCTAVE).astype(np.float32)[:, None]


def of_rows(values: np.ndarray, means: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Codes of a chunk's rows `[row, column]`: by each row's root mean square in steps, against the
    geometric mean of those of all."""
    squares = (((values - means) / steps) ** 2).mean(1)
    octaves = 0.5 * np.log2(np.maximum(squares, 1e-30))
    codes = np.rint(UNIT + PER_OCTAVE * (octaves - octaves.mean()))
    return np.clip(codes, 0, HIGHEST).astype(np.uint8)


def packed(codes: np.ndarray) -> bytes:
    """Two to a byte, the earlier row's in the low half."""
    even = np.append(codes, 0)[:(len(codes) + 1) // 2 * 2].astype(np.uint8)
    return (even[::2] | even[1::2] << 4).tobytes()
