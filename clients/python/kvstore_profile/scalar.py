# SPDX-License-Identifier: Apache-2.0
"""Mode scalar: a mean, a step and a class for each column."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvstore_profile import tables

# Rows at the beginning of a sequence that no lossy mode touches, and no statistics count.
EXACT_ROWS = 4


@dataclass
class Section:
    """Of one layer and kind, an entry for each column. Value = mean + symbol * step * level step."""

    means: np.ndarray
    steps: np.ndarray
    classes: np.ndarray

    def symbols(self, values: np.ndarray, level_step: float) -> np.ndarray:
        step = (self.steps * np.float32(level_step)).astype(np.float32)
        return np.rint((values - self.means) / step).astype(np.int32)

    def values(self, symbols: np.ndarray, level_step: float) -> np.ndarray:
        step = (self.steps * np.float32(level_step)).astype(np.float32)
        return self.means + symbols.astype(np.float32) * step


def weights_of(fisher: np.ndarray | None, deviations: np.ndarray, ridge: float) -> np.ndarray:
    """What an error in each column costs, from the Fisher matrix `[column, column]`'s diagonal,
    evened out by `ridge` times its mean; without it, one over the section's variance."""
    if fisher is None:
        return np.full(len(deviations), 1 / np.mean(deviations.astype(np.float64) ** 2))
    diagonal = np.diag(fisher).astype(np.float64)
    return diagonal + ridge * diagonal.mean()


def learn(sections, fishers, ridge: float = 0.1) -> dict[tuple[int, int], Section]:
    """`sections`: (layer, kind) and rows `[row, column]`; `fishers[layer][kind]`, or None. Steps
    are scaled so that a level step of 1 is, in the geometric mean, one standard deviation."""
    columns: dict[tuple[int, int], Section] = {}
    logarithms = []
    for (layer, kind), rows in sections:
        means = rows.mean(0, dtype=np.float64)
        deviations = np.maximum(rows.std(0, dtype=np.float64), 1e-6)
        fisher = None if fishers is None else fishers[layer][kind]
        steps = 1 / np.sqrt(weights_of(fisher, deviations, ridge))
        logarithms.append(np.log(deviations / steps))
        columns[layer, kind] = Section(means.astype(np.float32), steps, deviations)
    scale = np.exp(np.mean(np.concatenate(logarithms)))
    for column in columns.values():
        deviations = column.classes
        column.steps = (column.steps * scale).astype(np.float32)
        column.classes = tables.classes_of(deviations / column.steps)
    return columns
