# SPDX-License-Identifier: Apache-2.0
"""From keys and values of training passages to everything that a profile holds."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable

import numpy as np

from kvstore_profile import lossless, predictive, scalar, tables

# Every how many rows count for predictors and for tables: neighbours are alike.
PREDICTOR_STRIDE = 2
TABLE_STRIDE = 8


@dataclass(frozen=True)
class Level:
    """A level of one mode: its number in a container (3 is Q1) and its step."""

    number: int
    step: float


SCALAR_LEVELS = (Level(3, 0.25), Level(4, 0.43), Level(5, 0.7), Level(6, 1.2))
PREDICTIVE_LEVELS = (Level(3, 0.15), Level(4, 0.40), Level(5, 0.75), Level(6, 1.5))
# The predictive level that predictors are learnt for: their references have its errors.
LEARNING_LEVEL = 1
GROUP = 15


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
    # Mode lossless: tables, and of each section the columns' offsets and tables.
    exponent_frequencies: np.ndarray = field(default_factory=lambda: np.zeros((0, 256), np.int64))
    exponents: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def learn(dumps: np.ndarray, fisher: np.ndarray | None, *, scalar_ridge: float = 0.1,
          predictive_ridge: float = 0.5, with_predictors: bool = True,
          turn: Callable[[np.ndarray, int], np.ndarray] | None = None,
          progress: Callable[[str], None] = lambda line: None) -> Profile:
    """`dumps`: `[passage, layer, kind, token, column]`, each passage from position 0 on, keys
    before the rotary embedding. `fisher`: `[layer, kind, column, column]`, or None. `turn`: what
    turns a passage's keys of a layer as the engine does; without it nothing is learnt for mode
    lossless.
    """
    layer_count, column_count = dumps.shape[1], dumps.shape[4]
    places = [(layer, kind) for layer in range(layer_count) for kind in (0, 1)]

    def rows(place: tuple[int, int]) -> np.ndarray:
        part = dumps[:, place[0], place[1], scalar.EXACT_ROWS:]
        return np.asarray(part, np.float32).reshape(-1, column_count)

    profile = Profile(layer_count, column_count, np.zeros(0))
    profile.scalars = scalar.learn(((place, rows(place)) for place in places), fisher,
                                   layer_count, scalar_ridge)
    progress("means and steps")
    samples = []
    for place, section in profile.scalars.items():
        for level in profile.scalar_levels:
            symbols = section.symbols(rows(place)[::TABLE_STRIDE], level.step)
            samples.append((section, np.clip(symbols, -128, 127).astype(np.int8),
                            level.step))
    if with_predictors:
        samples += _learn_predictors(profile, rows, fisher, predictive_ridge, progress)
    _learn_tables(profile, samples)
    if turn is not None:
        _learn_exponents(profile, dumps, turn)
        progress("exponents")
    return profile


def _learn_predictors(profile, rows, fisher, ridge, progress):
    """Layer by layer, each from the references that a decoder of the layers before it has."""
    level = profile.predictive_levels[LEARNING_LEVEL]
    metrics = {}
    logarithms = []
    for place in profile.scalars:
        layer, kind = place
        metric = predictive.metric_of(None if fisher is None else fisher[layer, kind],
                                      profile.column_count, ridge)
        covariance = np.cov(rows(place)[::TABLE_STRIDE], rowvar=False)
        logarithms.append(np.log(np.trace(metric @ covariance) / profile.column_count))
        metrics[place] = metric
    metric_scale = float(np.exp(-np.mean(logarithms)))

    samples = []
    references: dict[tuple[int, int], np.ndarray] = {}
    products = predictive.Products(references)
    for place in profile.scalars:
        layer, kind = place
        of_section = rows(place)[::PREDICTOR_STRIDE]
        sources = predictive.reference_sections(layer, kind, profile.group)
        section = predictive.learn_section(of_section, sources, products,
                                           profile.scalars[place].means,
                                           metrics[place] * metric_scale)
        predicted = section.predicted(
            predictive.joined(references, sources, len(of_section)))
        residuals = of_section - predicted
        symbols = section.symbols(residuals, level.step)
        references[place] = section.references(section.values(predicted, symbols, level.step))
        for old in [key for key in references if key[0] < layer - 2 + kind]:
            del references[old]
        profile.predictors[place] = section
        for other in profile.predictive_levels:
            coded = section.symbols(residuals[::TABLE_STRIDE // PREDICTOR_STRIDE], other.step)
            samples.append((section, np.clip(coded, -128, 127).astype(np.int8), other.step))
        if kind == 1:
            progress(f"predictors of layer {layer}")
    return samples


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
