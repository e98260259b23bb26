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
    """Of one layer and kind, an entry for each column. A value is its mean + symbol * step *
    level step."""

    means: np.ndarray
    steps: np.ndarray
    classes: np.ndarray

    def symbols(self, values: np.ndarray, level_step: float,
                factors: np.ndarray | float = 1) -> np.ndarray:
        return np.rint((values - self.means) / self._steps(level_step, factors)).astype(np.int32)

    def values(self, symbols: np.ndarray, level_step: float,
               factors: np.ndarray | float = 1) -> np.ndarray:
        return self.means + symbols.astype(np.float32) * self._steps(level_step, factors)

    def _steps(self, level_step: float, factors: np.ndarray | float) -> np.ndarray:
        """`factors`: of each row, `[row, 1]`."""
        return (self.steps * np.float32(level_step)).astype(np.float32) * np.float32(factors)


# Steps of V beside those of K, by the third of the layers, where no gradients say better: what the
# Fisher diagonals of the models that were measured have in common.
VALUE_STEPS = (0.7, 1.43, 2.0)


def usual_step(layer: int, kind: int, layer_count: int) -> float:
    return VALUE_STEPS[3 * layer // layer_count] if kind else 1


def weights_of(fisher: np.ndarray | None, deviations: np.ndarray, ridge: float,
               usual_step: float) -> np.ndarray:
    """What an error in each column costs, from the Fisher matrix `[column, column]`'s diagonal,
    evened out by `ridge` times its mean; without it, that of `usual_step` times the section's
    deviation."""
    if fisher is None:
        variance = np.mean(deviations.astype(np.float64) ** 2)
        return np.full(len(deviations), 1 / (variance * usual_step**2))
    diagonal = np.diag(fisher).astype(np.float64)
    return diagonal + ridge * diagonal.mean()


def learn(sections, weights, layer_count: int,
          ridge: float = 0.1) -> dict[tuple[int, int], Section]:
    """`sections`: (layer, kind), rows `[row, column]` and their factors `[row, 1]`; `weights`: by
    (layer, kind) the Fisher matrix of errors of these factors, or None. Steps are scaled so that a
    level step of 1 is, in the geometric mean, one standard deviation."""
    columns: dict[tuple[int, int], Section] = {}
    spreads: dict[tuple[int, int], np.ndarray] = {}
    for (layer, kind), rows, factors in sections:
        means = rows.mean(0, dtype=np.float64)
        spread = np.maximum(((rows - means.astype(np.float32)) / factors).std(0, dtype=np.float64),
                            1e-6)
        fisher = None if weights is None else weights[layer, kind]
        usual = usual_step(layer, kind, layer_count)
        steps = 1 / np.sqrt(weights_of(fisher, spread, ridge, usual))
        columns[layer, kind] = Section(means.astype(np.float32), steps, np.zeros(0))
        spreads[layer, kind] = spread
    logarithms = [np.log(spreads[place] / columns[place].steps) for place in columns]
    scale = np.exp(np.mean(np.concatenate(logarithms)))
    for place, column in columns.items():
        column.steps = (column.steps * scale).astype(np.float32)
        column.classes = tables.classes_of(spreads[place] / column.steps)
    return columns
