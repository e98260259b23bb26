# SPDX-License-Identifier: Apache-2.0
"""The rANS stream of docs/container-format.md, section 7: encoder and decoder over NumPy."""
from __future__ import annotations

import numpy as np

LANES = 64
LOWEST = 1 << 16


def encode(symbols: np.ndarray, tables: np.ndarray, frequencies: np.ndarray) -> bytes:
    """Of symbols `[row, place]` in coding order; `tables[place]` is the table of a column."""
    rows, places = symbols.shape
    cumulative = np.cumsum(frequencies, axis=1) - frequencies
    states = np.full(LANES, LOWEST, np.uint64)
    pushed = []
    for start in range((places - 1) // LANES * LANES, -1, -LANES):
        lanes = min(LANES, places - start)
        table = tables[start:start + lanes]
        block = symbols[:, start:start + lanes].astype(np.int64) + 128
        frequency = frequencies[table, block].astype(np.uint64)
        below = cumulative[table, block].astype(np.uint64)
        for row in range(rows - 1, -1, -1):
            of_row = frequency[row]
            full = states[:lanes] >= of_row << np.uint64(21)
            if full.any():
                pushed.append((states[:lanes][full] & np.uint64(0xFFFF)).astype("<u2"))
                states[:lanes][full] >>= np.uint64(16)
            quotient, remainder = np.divmod(states[:lanes], of_row)
            states[:lanes] = (quotient << np.uint64(11)) + below[row] + remainder
    words = np.concatenate(pushed[::-1]) if pushed else np.zeros(0, "<u2")
    escapes = int((symbols == -128).sum())
    head = np.array([len(words), escapes, 0, 0], "<u4").tobytes()
    return head + states.astype("<u4").tobytes() + words.tobytes()


def stream_byte_counts(symbols: np.ndarray, tables: np.ndarray,
                       frequencies: np.ndarray) -> np.ndarray:
    """How long `encode` makes the streams of many sections at once: symbols
    `[section, row, place]`, tables `[section, place]`."""
    sections, rows, places = symbols.shape
    cumulative = np.cumsum(frequencies, axis=1) - frequencies
    states = np.full((sections, LANES), LOWEST, np.uint64)
    words = np.zeros(sections, np.int64)
    for start in range((places - 1) // LANES * LANES, -1, -LANES):
        lanes = min(LANES, places - start)
        table = tables[:, None, start:start + lanes]
        block = symbols[:, :, start:start + lanes].astype(np.int64) + 128
        frequency = frequencies[table, block].astype(np.uint64)
        below = cumulative[table, block].astype(np.uint64)
        for row in range(rows - 1, -1, -1):
            state, of_row = states[:, :lanes], frequency[:, row]
            full = state >= of_row << np.uint64(21)
            words += full.sum(1)
            quotient, remainder = np.divmod(np.where(full, state >> np.uint64(16), state), of_row)
            states[:, :lanes] = (quotient << np.uint64(11)) + below[:, row] + remainder
    return 16 + 4 * LANES + 2 * words


def decode(stream: bytes, rows: int, tables: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """The symbols `[row, place]` again. For tests: raises ValueError where the end does not fit."""
    places = len(tables)
    cumulative = np.cumsum(frequencies, axis=1) - frequencies
    of_slot = np.stack([np.repeat(np.arange(256), of_table) for of_table in frequencies])
    word_count = int(np.frombuffer(stream, "<u4", 1)[0])
    states = np.frombuffer(stream, "<u4", LANES, 16).astype(np.uint64)
    words = np.frombuffer(stream, "<u2", word_count, 16 + 4 * LANES).astype(np.uint64)
    result = np.zeros((rows, places), np.int64)
    read = 0
    for start in range(0, places, LANES):
        lanes = min(LANES, places - start)
        table = tables[start:start + lanes]
        for row in range(rows):
            slot = (states[:lanes] & np.uint64(2047)).astype(np.int64)
            symbol = of_slot[table, slot]
            result[row, start:start + lanes] = symbol - 128
            states[:lanes] = (frequencies[table, symbol].astype(np.uint64)
                              * (states[:lanes] >> np.uint64(11))
                              + (slot - cumulative[table, symbol]).astype(np.uint64))
            empty = states[:lanes] < LOWEST
            needed = int(empty.sum())
            states[:lanes][empty] = (states[:lanes][empty] << np.uint64(16)) + words[
                read:read + needed]
            read += needed
    if read != word_count or (states != LOWEST).any():
        raise ValueError("the stream does not end as it must")
    return result
