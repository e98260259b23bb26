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
    """Of one layer and kind. `prediction` is int8 `[reference, column]`, `synthesis` whole
    numbers of -127 to 127 `[coefficient, column]`, `analysis` float32 `[column, coefficient]`, for
    the encoder alone."""

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
                factors: np.ndarray | float = 1, dead_zone: float = DEAD_ZONE) -> np.ndarray:
        scaled = residuals @ self.analysis / (np.float32(level_step) * np.float32(factors))
        return (np.sign(scaled) * np.floor(np.abs(scaled) + dead_zone)).astype(np.int32)

    def values(self, predicted: np.ndarray, symbols: np.ndarray, level_step: float,
               factors: np.ndarray | float = 1) -> np.ndarray:
        """`factors`: of each row, `[row, 1]`."""
        sums = _exact_product(symbols, self.synthesis)
        steps = (self.synthesis_scales * np.float32(level_step)).astype(np.float32)
        return predicted + sums * (steps * np.float32(factors))

    def references(self, values: np.ndarray) -> np.ndarray:
        """A decoded section as others refer to it: in whole steps from its means."""
        whole = np.rint((values - self.means) / self.reference_steps)
        return np.clip(whole, -REFERENCE_LIMIT, REFERENCE_LIMIT).astype(np.int8)


def reference_sections(layer: int, kind: int, group: int,
                       lookback: int) -> list[tuple[int, int]]:
    """(layer, kind) of what a section refers to, in the order of the matrix' rows."""
    own = [(layer, 0)] if kind == 1 else []
    earlier = [(layer - back, which) for back in range(1, lookback + 1) if layer % group >= back
               for which in (0, 1)]
    return own + earlier


def metric_of(fisher: np.ndarray | None, deviations: np.ndarray, ridge: float,
              usual_step: float) -> np.ndarray:
    if fisher is None:
        return np.eye(len(deviations)) / (np.mean(deviations ** 2) * usual_step ** 2)
    return fisher + ridge * np.trace(fisher) / len(fisher) * np.eye(len(fisher))


def learn_section(rows: np.ndarray, factors: np.ndarray, references: np.ndarray,
                  means: np.ndarray, metric: np.ndarray) -> Section:
    """From rows `[row, column]` before coding, their factors `[row, 1]`, and the references
    `[row, reference]` that their decoder will have.

    Every coefficient has the same step, since an error of one in any of them costs the same."""
    centred = rows - means
    prediction, scales = _predictor(references / factors, centred / factors)
    section = Section(
        means=means,
        reference_steps=np.maximum(centred.std(0, dtype=np.float64) / REFERENCE_SCALE, 1e-6)
        .astype(np.float32),
        prediction=prediction, prediction_scales=scales,
        synthesis=np.zeros(0), synthesis_scales=np.zeros(0), analysis=np.zeros(0),
        classes=np.zeros(0))
    residuals = (rows - section.predicted(references)) / factors
    covariance = residuals.T @ residuals / len(residuals)
    # y = U' L' r with M = L L' has a diagonal covariance, and |y|^2 = r' M r.
    lower = np.linalg.cholesky(metric)
    power, directions = np.linalg.eigh(lower.T @ covariance @ lower)
    directions = directions[:, np.argsort(-power)]
    inverse = np.linalg.solve(lower.T, directions).T
    section.synthesis, section.synthesis_scales = _in_bytes(inverse)
    # The inverse of what the decoder really has, so that its rounding costs nothing.
    rounded = section.synthesis * section.synthesis_scales.astype(np.float64)
    section.analysis = np.linalg.inv(rounded).astype(np.float32)
    deviations = (residuals @ section.analysis).std(0, dtype=np.float64)
    section.classes = tables.classes_of(deviations)
    return section


def joined(references: dict[tuple[int, int], np.ndarray], places: list[tuple[int, int]],
           row_count: int) -> np.ndarray:
    """The references of a section `[row, reference]`."""
    return np.concatenate([np.zeros((row_count, 0), np.int8)]
                          + [references[place] for place in places], axis=1)


def _predictor(references: np.ndarray, centred: np.ndarray,
               ridge: float = 2e-3) -> tuple[np.ndarray, np.ndarray]:
    """Least squares, then whole numbers with a scale for each column."""
    reference_count, column_count = references.shape[1], centred.shape[1]
    if reference_count == 0:
        return np.zeros((0, column_count), np.int8), np.zeros(column_count, np.float32)
    gram = (references.T @ references).astype(np.float64)
    gram += ridge * np.trace(gram) / reference_count * np.eye(reference_count)
    weights = np.linalg.solve(gram, (references.T @ centred).astype(np.float64))
    magnitudes = np.abs(weights)
    # A byte each, and sums below 2^24, which single precision still counts exactly.
    scales = np.maximum(magnitudes.max(0) / 127, magnitudes.sum(0) * REFERENCE_LIMIT / 2**23)
    scales = np.maximum(scales, 1e-12).astype(np.float32)
    return np.rint(weights / scales).astype(np.int8), scales


def _in_bytes(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signed bytes with a scale for each column: the format allows 16 bits, kernels like 8."""
    scales = np.maximum(np.abs(matrix).max(0) / 127, 1e-30).astype(np.float32)
    return np.rint(matrix / scales).astype(np.int16), scales


def _exact_product(symbols: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Sums of whole numbers, exact before they are rounded to single precision. Sums below 2^24
    are so in single precision, too."""
    largest = np.abs(matrix).sum(0, dtype=np.int64).max() * np.abs(symbols).max(initial=0)
    form = np.float32 if largest < 2**24 else np.float64
    return (symbols.astype(form) @ matrix.astype(form)).astype(np.float32)
