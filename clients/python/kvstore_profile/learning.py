# SPDX-License-Identifier: Apache-2.0
"""From keys and values of training passages to everything that a profile holds."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable

import numpy as np

from kvstore_profile import lossless, predictive, row_codes, scalar, tables

# Every how many rows count for predictors and for tables: neighbours are alike.
PREDICTOR_STRIDE = 2
TABLE_STRIDE = 8


@dataclass(frozen=True)
class Level:
    """A level of one mode: its number in a container (3 is Q1) and its step."""

    number: int
    step: float


SCALAR_LEVELS = (Level(3, 0.25), Level(4, 0.46), Level(5, 0.8), Level(6, 1.4))
PREDICTIVE_LEVELS = (Level(3, 0.15), Level(4, 0.42), Level(5, 0.8), Level(6, 1.6))
# The predictive level that predictors are learnt for: their references have its errors.
LEARNING_LEVEL = 1
GROUP = 15
LOOKBACK = 2
# With gradients, rows of V have codes where these make errors in V cost less than this share.
ROW_CODES_WORTHWHILE = 0.5


@dataclass
class Profile:
    """`frequencies[table, symbol]`; sections by (layer, kind)."""

    layer_count: int
    column_count: int
    frequencies: np.ndarray
    scalars: dict[tuple[int, int], scalar.Section] = field(default_factory=dict)
    predictors: dict[tuple[int, int], predictive.Section] = field(default_factory=dict)
    scalar_levels: tuple[Level, ...] = SCALAR_LEVELS
    predictive_levels: tuple[Level, ...] = PREDICTIVE_LEVELS
    group: int = GROUP
    lookback: int = LOOKBACK
    # Whether rows of K, and rows of V, have codes.
    has_row_codes: tuple[bool, bool] = (False, False)
    # Mode lossless: tables, and of each section the columns' offsets and tables.
    exponent_frequencies: np.ndarray = field(default_factory=lambda: np.zeros((0, 256), np.int64))
    exponents: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def row_codes_of(self, place: tuple[int, int], values: np.ndarray) -> np.ndarray | None:
        """Of rows `[row, column]` of a chunk; None where this kind has none."""
        if not self.has_row_codes[place[1]]:
            return None
        section = self.scalars[place]
        return row_codes.of_rows(values, section.means, section.steps)


def learn(dumps: np.ndarray, gradients: np.ndarray | None, *, scalar_ridge: float = 0.1,
          predictive_ridge: float = 0.5, with_predictors: bool = True,
          scalar_levels: tuple[Level, ...] = SCALAR_LEVELS,
          predictive_levels: tuple[Level, ...] = PREDICTIVE_LEVELS,
          turn: Callable[[np.ndarray, int], np.ndarray] | None = None,
          progress: Callable[[str], None] = lambda line: None) -> Profile:
    """`dumps`: `[passage, layer, kind, token, column]`, each passage from position 0 on, keys
    before the rotary embedding. `gradients`: `[passage, draw, layer, kind, token, column]` of the
    first passages and their first tokens, or None. `turn`: what turns a passage's keys of a layer
    as the engine does; without it nothing is learnt for mode lossless.
    """
    learner = _Learner(dumps, progress)
    profile = learner.profile
    profile.scalar_levels, profile.predictive_levels = scalar_levels, predictive_levels
    if gradients is not None:
        learner.learn_costs(gradients)
        progress("what errors cost")
    profile.scalars = scalar.learn(learner.sections(), learner.fisher, profile.layer_count,
                                   scalar_ridge)
    # Only now are there steps, and by them codes of rows.
    if gradients is None or learner.cost_with_row_codes(gradients) < ROW_CODES_WORTHWHILE:
        profile.has_row_codes = (False, True)
        if gradients is not None:
            learner.learn_costs(gradients)
        profile.scalars = scalar.learn(learner.sections(), learner.fisher, profile.layer_count,
                                       scalar_ridge)
    progress("means and steps")
    samples = learner.scalar_samples()
    if with_predictors:
        samples += learner.learn_predictors(predictive_ridge)
    _learn_tables(profile, samples)
    if turn is not None:
        _learn_exponents(profile, dumps, turn)
        progress("exponents")
    return profile


class _Learner:
    """Of one model."""

    def __init__(self, dumps: np.ndarray, progress: Callable[[str], None]) -> None:
        self.dumps, self.progress = dumps, progress
        self.profile = Profile(dumps.shape[1], dumps.shape[4], np.zeros(0))
        self.places = [(layer, kind) for layer in range(dumps.shape[1]) for kind in (0, 1)]
        # Of each (layer, kind), or None: `[column, column]`.
        self.fisher: dict[tuple[int, int], np.ndarray] | None = None

    def rows(self, place: tuple[int, int]) -> np.ndarray:
        part = self.dumps[:, place[0], place[1], scalar.EXACT_ROWS:]
        return np.asarray(part, np.float32).reshape(-1, self.profile.column_count)

    def factors(self, place: tuple[int, int], rows: np.ndarray) -> np.ndarray:
        """`[row, 1]`, of all of `rows(place)`."""
        if not self.profile.has_row_codes[place[1]]:
            return np.ones((len(rows), 1), np.float32)
        codes = [self.profile.row_codes_of(place, of_passage)
                 for of_passage in np.split(rows, len(self.dumps))]
        return row_codes.factors(np.concatenate(codes))

    def sections(self):
        for place in self.places:
            rows = self.rows(place)
            yield place, rows, self.factors(place, rows)

    def learn_costs(self, gradients: np.ndarray) -> None:
        """The Fisher matrix of each section: the mean of the gradients' outer products, by errors
        that are multiplied by their rows' factors."""
        self.fisher = {}
        for place in self.places:
            part = _of_place(gradients, place) * self._factors_of(gradients, place)
            rows = part.reshape(-1, part.shape[-1])
            self.fisher[place] = (rows.T @ rows).astype(np.float64) / len(rows)

    def cost_with_row_codes(self, gradients: np.ndarray) -> float:
        """What errors in V cost when its rows have codes, beside what they cost without: the
        geometric mean over the layers. Bits are the same, since that of factors is 1."""
        before = self.profile.has_row_codes
        self.profile.has_row_codes = (False, True)
        ratios = []
        for place in self.places[1::2]:
            squares = (_of_place(gradients, place) * self.profile.scalars[place].steps) ** 2
            with_codes = squares * self._factors_of(gradients, place) ** 2
            ratios.append(np.log(with_codes.sum(dtype=np.float64) / squares.sum(dtype=np.float64)))
        self.profile.has_row_codes = before
        return float(np.exp(np.mean(ratios)))

    def _factors_of(self, gradients: np.ndarray, place: tuple[int, int]) -> np.ndarray:
        """`[passage, 1, row, 1]`, of the rows that gradients are by."""
        if not self.profile.has_row_codes[place[1]]:
            return np.ones((1, 1, 1, 1), np.float32)
        row_count = gradients.shape[4] - scalar.EXACT_ROWS
        factors = self.factors(place, self.rows(place)).reshape(len(self.dumps), -1)
        return factors[:len(gradients), None, :row_count, None]

    def scalar_samples(self) -> list:
        samples = []
        for place, rows, factors in self.sections():
            section = self.profile.scalars[place]
            for level in self.profile.scalar_levels:
                symbols = section.symbols(rows[::TABLE_STRIDE], level.step,
                                          factors[::TABLE_STRIDE])
                samples.append((section, np.clip(symbols, -128, 127).astype(np.int8), level.step))
        return samples

    def learn_predictors(self, ridge: float) -> list:
        """Layer by layer, each from the references that a decoder of the layers before it has."""
        profile = self.profile
        level = profile.predictive_levels[LEARNING_LEVEL]
        metrics, logarithms = {}, []
        for place, rows, factors in self.sections():
            centred = (rows - profile.scalars[place].means) / factors
            covariance = np.cov(centred[::TABLE_STRIDE], rowvar=False)
            metrics[place] = predictive.metric_of(
                None if self.fisher is None else self.fisher[place],
                np.sqrt(np.diag(covariance)), ridge, scalar.usual_step(*place, profile.layer_count))
            logarithms.append(np.log(np.trace(metrics[place] @ covariance)
                                     / profile.column_count))
        metric_scale = float(np.exp(-np.mean(logarithms)))

        samples = []
        references: dict[tuple[int, int], np.ndarray] = {}
        for place, rows, factors in self.sections():
            layer, kind = place
            rows, factors = rows[::PREDICTOR_STRIDE], factors[::PREDICTOR_STRIDE]
            sources = predictive.reference_sections(layer, kind, profile.group, profile.lookback)
            referred = predictive.joined(references, sources, len(rows))
            section = predictive.learn_section(rows, factors, referred,
                                               profile.scalars[place].means,
                                               metrics[place] * metric_scale)
            predicted = section.predicted(referred)
            residuals = rows - predicted
            symbols = section.symbols(residuals, level.step, factors)
            references[place] = section.references(
                section.values(predicted, symbols, level.step, factors))
            for old in [key for key in references if key[0] < layer - profile.lookback + kind]:
                del references[old]
            profile.predictors[place] = section
            stride = TABLE_STRIDE // PREDICTOR_STRIDE
            for other in profile.predictive_levels:
                coded = section.symbols(residuals[::stride], other.step, factors[::stride])
                samples.append((section, np.clip(coded, -128, 127).astype(np.int8), other.step))
            if kind == 1:
                self.progress(f"predictors of layer {layer}")
        return samples


def _of_place(gradients: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    """`[passage, draw, row, column]`."""
    return np.asarray(gradients[:, :, place[0], place[1], scalar.EXACT_ROWS:], np.float32)


def _learn_exponents(profile, dumps, turn, passage_count: int = 12) -> None:
    counts, offsets = {}, {}
    for layer, kind in profile.scalars:
        rows = [np.asarray(dump[layer, kind], np.float32) for dump in dumps[:passage_count]]
        if kind == 0:
            rows = [turn(keys, layer) for keys in rows]
        offsets[layer, kind], counts[layer, kind] = lossless.histograms(np.concatenate(rows))
    profile.exponent_frequencies, of_column = lossless.group(np.concatenate(list(counts.values())))
    parts = np.split(of_column, len(counts))
    profile.exponents = {place: (offsets[place], part)
                         for place, part in zip(counts, parts, strict=True)}


def _learn_tables(profile, samples, rounds: int = 2) -> None:
    """Tables from the classes, then the classes that the tables code best, then tables again."""
    histogram = np.zeros((tables.TABLE_COUNT, 256))
    for _ in range(rounds):
        histogram[:] = 0
        for section, symbols, step in samples:
            tables.count(symbols, tables.table_of(section.classes, tables.shift_of(step)),
                         histogram)
        profile.frequencies = tables.quantised(histogram)
        steps = {}
        for section, symbols, step in samples:  # by the second level, the default
            steps.setdefault(id(section), []).append((section, symbols, step))
        for levels in steps.values():
            section, symbols, step = levels[1]
            section.classes = tables.best_classes(symbols, section.classes,
                                                  tables.shift_of(step), profile.frequencies)
    histogram[:] = 0
    for section, symbols, step in samples:
        tables.count(symbols, tables.table_of(section.classes, tables.shift_of(step)), histogram)
    profile.frequencies = tables.quantised(histogram)
