# SPDX-License-Identifier: Apache-2.0
"""Mode lossless: of each column an offset of its exponents, and one of a few tables."""
from __future__ import annotations

import numpy as np

from kvstore_profile import tables

# Few, so that they stay in a core's first cache.
TABLE_COUNT = 4
PRIOR_SAMPLES = 64.0


def exponents(values: np.ndarray) -> np.ndarray:
    """The exponent bytes of values rounded to bfloat16."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = bits + 0x7FFF + (bits >> np.uint64(16) & np.uint64(1))
    return (rounded >> np.uint64(23) & np.uint64(255)).astype(np.int64)


def histograms(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of `[row, column]`: each column's offset, and how often each symbol -128...127 occurs."""
    of_rows = exponents(values)
    offsets = np.median(of_rows, axis=0).astype(np.int64)
    symbols = (of_rows - offsets + 128) % 256
    counts = np.stack([np.bincount(column, minlength=256) for column in symbols.T])
    return offsets, counts


def group(counts: np.ndarray, rounds: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Tables `[table, symbol]` of frequencies, and each column's: columns of like histograms."""
    share = counts / counts.sum(1, keepdims=True)
    spread = -(share * np.log2(np.maximum(share, 1e-12))).sum(1)
    edges = np.quantile(spread, np.arange(1, TABLE_COUNT) / TABLE_COUNT)
    of_column = np.searchsorted(edges, spread)
    for _ in range(rounds):
        pooled = np.stack([counts[of_column == table].sum(0) for table in range(TABLE_COUNT)])
        frequencies = np.stack([_frequencies(histogram) for histogram in pooled])
        nearest = (counts @ tables.code_lengths(frequencies).T).argmin(1)
        if (nearest == of_column).all():
            break
        of_column = nearest
    return frequencies, of_column


def _frequencies(histogram: np.ndarray) -> np.ndarray:
    """A run around the offset, and the escape."""
    places = np.abs(tables.SYMBOLS)
    share = histogram + PRIOR_SAMPLES * np.where(places < 20, 2.0 ** -places, 0)
    share = share / share.sum()
    inside = share >= tables.RAREST
    common = np.flatnonzero(inside)
    inside[min(common[0], 128):max(common[-1], 128) + 1] = True
    inside[tables.ESCAPE] = True
    share[tables.ESCAPE] = 0
    return tables.apportioned(np.where(inside, share, 0), inside)
