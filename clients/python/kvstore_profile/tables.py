# SPDX-License-Identifier: Apache-2.0
"""Symbol tables of the rANS stream (docs/container-format.md, section 7).

A class is the scale of a column, its standard deviation over its step, in quarter octaves. A table
is learnt for each class, once for all columns, levels and modes of a model.
"""
from __future__ import annotations

import numpy as np

TABLE_COUNT = 80
SLOT_COUNT = 2048
SYMBOLS = np.arange(-128, 128)
ESCAPE = 0  # the index of symbol -128
# The table of scale 1.
UNIT_CLASS = 44
# An escape costs its own code and 8 bytes in the list; a symbol rarer than this is not worth a
# slot of its own.
RAREST = 1e-5
PRIOR_SAMPLES = 400.0


def classes_of(scales: np.ndarray) -> np.ndarray:
    """Class of each scale at step 1, not clamped."""
    return np.rint(4 * np.log2(np.maximum(scales, 1e-12))).astype(np.int64) + UNIT_CLASS


def shift_of(step: float) -> int:
    """What a level's step adds to every class."""
    return int(np.rint(-4 * np.log2(step)))


def table_of(classes: np.ndarray, shift: int) -> np.ndarray:
    return np.clip(classes + shift, 0, TABLE_COUNT - 1)


def count(symbols: np.ndarray, tables: np.ndarray, histogram: np.ndarray) -> None:
    """Adds symbols `[row, column]`, clipped to -128...127, to `histogram[table, symbol]`."""
    for table in np.unique(tables):
        of_table = np.clip(symbols[:, tables == table], -128, 127).astype(np.int64) + 128
        histogram[table] += np.bincount(of_table.ravel(), minlength=256)


def expected(scale: float) -> np.ndarray:
    """Probabilities of the symbols of a logistic distribution of this standard deviation."""
    width = scale * np.sqrt(3) / np.pi
    edges = np.clip((np.arange(-128, 129) - 0.5) / max(width, 1e-9), -700, 700)
    cumulative = 1 / (1 + np.exp(-edges))
    return np.diff(cumulative)


def quantised(histogram: np.ndarray) -> np.ndarray:
    """Frequencies `[table, symbol]`, each table's summing up to 2,048: a run around zero in which
    every symbol can be coded, and the escape."""
    result = np.zeros((len(histogram), 256), np.int64)
    for table, counts in enumerate(histogram):
        prior = expected(2.0 ** ((table - UNIT_CLASS) / 4))
        share = counts + PRIOR_SAMPLES * prior
        share = share / share.sum()
        share[ESCAPE] = 0
        common = np.flatnonzero(share >= RAREST)
        low = min(int(common[0]), 128) if len(common) else 128
        high = max(int(common[-1]), 128) if len(common) else 128
        inside = np.zeros(256, bool)
        inside[low:high + 1] = True
        inside[ESCAPE] = True
        result[table] = apportioned(np.where(inside, share, 0), inside)
    return result


def apportioned(share: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Whole frequencies of at least 1 where `inside`, with the least code length for `share`."""
    wanted = share / share.sum() * SLOT_COUNT
    frequencies = np.where(inside, np.maximum(1, np.floor(wanted)), 0).astype(np.int64)
    while (excess := int(frequencies.sum()) - SLOT_COUNT) != 0:
        if excess > 0:  # take a slot where that costs least
            fewer = np.maximum(frequencies - 1, 1)
            ratio = np.maximum(frequencies, 1) / fewer
            loss = np.where(frequencies > 1, share * np.log(ratio), np.inf)
            frequencies[int(np.argmin(loss))] -= 1
        else:
            ratio = (frequencies + 1) / np.maximum(frequencies, 1)
            gain = np.where(inside, share * np.log(ratio), -1)
            frequencies[int(np.argmax(gain))] += 1
    return frequencies


def code_lengths(frequencies: np.ndarray) -> np.ndarray:
    """Bits of each symbol `[table, symbol]`, with the list's 64 for those that must escape."""
    escape = np.log2(SLOT_COUNT / frequencies[:, ESCAPE]) + 64
    with np.errstate(divide="ignore"):
        bits = np.log2(SLOT_COUNT / frequencies)
    bits = np.where(frequencies > 0, bits, escape[:, None])
    bits[:, ESCAPE] = escape
    return bits


def best_classes(symbols: np.ndarray, classes: np.ndarray, shift: int,
                 frequencies: np.ndarray, reach: int = 6) -> np.ndarray:
    """Of each column the class, at most `reach` from the one given, that codes it shortest."""
    bits = code_lengths(frequencies)
    clipped = np.clip(symbols, -128, 127).astype(np.int64) + 128
    result = classes.copy()
    for column in range(symbols.shape[1]):
        counts = np.bincount(clipped[:, column], minlength=256)
        candidates = classes[column] + np.arange(-reach, reach + 1)
        cost = bits[table_of(candidates, shift)] @ counts
        best = candidates[int(np.argmin(cost))]
        if cost.min() < cost[reach]:
            result[column] = best
    return result
