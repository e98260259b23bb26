# SPDX-License-Identifier: Apache-2.0
"""Mode predictive: what the two layers before do not predict, in the directions that matter.

The decoder's sums are of whole numbers (docs/container-format.md, section 10), so that every reader
of a container sees the same references.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvstore_profile import tables

REFERENCE_LIMIT = 127
# A reference's step is its deviation over this many.
REFERENCE_SCALE = 28.0
DEAD_ZONE = 0.45


@dataclass
class Section:
    """Of one layer and kind. `prediction` is int8 `[reference, column]`, `synthesis` int16
    `[coefficient, column]`, `analysis` float32 `[column, coefficient]`, for the encoder alone."""

    means: np.ndarray
    reference_steps: np.ndarray
    prediction: np.ndarray
    prediction_scales: np.ndarray
    synthesis: np.ndarray
    synthesis_scales: np.ndarray
    analysis: np.ndarray
    classes: np.ndarray

    def predicted(self, references: np.ndarray) -> np.ndarray:
        """From references `[row, reference]` in whole steps."""
        # Sums of whole numbers below 2^24 are exact in single precision, in any order.
        sums = references.astype(np.float32) @ self.prediction.astype(np.float32)
        return self.means + sums * self.prediction_scales

    def symbols(self, residuals: np.ndarray, level_step: float,
                dead_zone: float = DEAD_ZONE) -> np.ndarray:
        scaled = residuals @ self.analysis / np.float32(level_step)
        return (np.sign(scaled) * np.floor(np.abs(scaled) + dead_zone)).astype(np.int32)

    def values(self, predicted: np.ndarray, symbols: np.ndarray, level_step: float) -> np.ndarray:
        sums = (symbols.astype(np.float64) @ self.synthesis.astype(np.float64)).astype(np.float32)
        return predicted + sums * (self.synthesis_scales * np.float32(level_step))

    def references(self, values: np.ndarray) -> np.ndarray:
        """A decoded section as others refer to it: in whole steps from its means."""
        whole = np.rint((values - self.means) / self.reference_steps)
        return np.clip(whole, -REFERENCE_LIMIT, REFERENCE_LIMIT).astype(np.int8)


def reference_sections(layer: int, kind: int, group: int) -> list[tuple[int, int]]:
    """(layer, kind) of what a section refers to, in the order of the matrix' rows."""
    own = [(layer, 0)] if kind == 1 else []
    earlier = [(layer - back, which) for back in (1, 2) if layer % group >= back
               for which in (0, 1)]
    return own + earlier


def metric_of(fisher: np.ndarray | None, column_count: int, ridge: float) -> np.ndarray:
    if fisher is None:
        return np.eye(column_count)
    return fisher + ridge * np.trace(fisher) / column_count * np.eye(column_count)


class Products:
    """Inner products of the columns of two sections' references, each computed once."""

    def __init__(self, references: dict[tuple[int, int], np.ndarray]) -> None:
        self.references = references
        self._known: dict[tuple[tuple[int, int], tuple[int, int]], np.ndarray] = {}

    def gram(self, places: list[tuple[int, int]]) -> np.ndarray:
        blocks = [[self._product(one, other) for other in places] for one in places]
        return np.block(blocks).astype(np.float64)

    def _product(self, one: tuple[int, int], other: tuple[int, int]) -> np.ndarray:
        if one > other:
            return self._product(other, one).T
        if (one, other) not in self._known:
            left, right = (self.references[place].astype(np.float32) for place in (one, other))
            self._known[one, other] = left.T @ right
        return self._known[one, other]


def learn_section(rows: np.ndarray, places: list[tuple[int, int]], products: Products,
                  means: np.ndarray, metric: np.ndarray) -> Section:
    """From rows `[row, column]` before coding and the references, those of `places`, that their
    decoder will have.

    Every coefficient has the same step, since an error of one in any of them costs the same."""
    centred = rows - means
    references = joined(products.references, places, len(rows))
    prediction, scales = _predictor(references.astype(np.float32), centred,
                                    products.gram(places) if places else None)
    section = Section(
        means=means,
        reference_steps=np.maximum(centred.std(0, dtype=np.float64) / REFERENCE_SCALE, 1e-6)
        .astype(np.float32),
        prediction=prediction, prediction_scales=scales,
        synthesis=np.zeros(0), synthesis_scales=np.zeros(0), analysis=np.zeros(0),
        classes=np.zeros(0))
    residuals = rows - section.predicted(references)
    covariance = residuals.T @ residuals / len(residuals)
    # y = U' L' r with M = L L' has a diagonal covariance, and |y|^2 = r' M r.
    lower = np.linalg.cholesky(metric)
    power, directions = np.linalg.eigh(lower.T @ covariance @ lower)
    directions = directions[:, np.argsort(-power)]
    section.analysis = (lower @ directions).astype(np.float32)
    inverse = np.linalg.solve(lower.T, directions).T
    section.synthesis, section.synthesis_scales = _rows_of_whole_numbers(inverse)
    deviations = (residuals @ section.analysis).std(0, dtype=np.float64)
    section.classes = tables.classes_of(deviations)
    return section


def joined(references: dict[tuple[int, int], np.ndarray], places: list[tuple[int, int]],
           row_count: int) -> np.ndarray:
    """The references of a section `[row, reference]`."""
    return np.concatenate([np.zeros((row_count, 0), np.int8)]
                          + [references[place] for place in places], axis=1)


def _predictor(references: np.ndarray, centred: np.ndarray, gram: np.ndarray | None,
               ridge: float = 2e-3) -> tuple[np.ndarray, np.ndarray]:
    """Least squares, then whole numbers with a scale for each column."""
    column_count = centred.shape[1]
    if gram is None:
        return np.zeros((0, column_count), np.int8), np.zeros(column_count, np.float32)
    gram = gram + ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
    weights = np.linalg.solve(gram, (references.T @ centred).astype(np.float64))
    magnitudes = np.abs(weights)
    # A byte each, and sums below 2^24, which single precision still counts exactly.
    scales = np.maximum(magnitudes.max(0) / 127, magnitudes.sum(0) * REFERENCE_LIMIT / 2**23)
    scales = np.maximum(scales, 1e-12).astype(np.float32)
    return np.rint(weights / scales).astype(np.int8), scales


def _rows_of_whole_numbers(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int16 with a scale for each column, so that 32-bit sums of symbols of a byte cannot pass."""
    limit = min(32767, (2**31 - 1) // (128 * len(matrix)))
    scales = np.maximum(np.abs(matrix).max(0) / limit, 1e-30).astype(np.float32)
    return np.rint(matrix / scales).astype(np.int16), scales
