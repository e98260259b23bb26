# SPDX-License-Identifier: Apache-2.0
"""What a profile is learnt by, and what it is written as; on made-up keys and values."""
import argparse
import pathlib
import struct
import sys

import numpy as np
import pytest
import xxhash

from kvstore_profile import (container, learning, lossless, predictive, rans, row_codes, scalar,
                             tables)
from kvstore_profile import __main__ as learner_program

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "dev" / "codec-evaluation"))
import scoring  # noqa: E402

SEED = 20261121
LAYERS, COLUMNS = 4, 16


@pytest.fixture(scope="module")
def dumps():
    """`[passage, layer, kind, token, column]`, where each layer is half of the one before."""
    generator = np.random.default_rng(SEED)
    hidden = generator.normal(size=(12, 68, 2 * COLUMNS))
    scales = np.exp2(generator.uniform(-3, 3, 2 * COLUMNS))
    result = np.zeros((12, LAYERS, 2, 68, COLUMNS), np.float32)
    for layer in range(LAYERS):
        mixed = hidden * scales + 5
        result[:, layer, 0], result[:, layer, 1] = mixed[..., :COLUMNS], mixed[..., COLUMNS:]
        hidden = 0.95 * hidden + 0.3 * generator.normal(size=hidden.shape)
    return result


@pytest.fixture(scope="module")
def profile(dumps):
    return learning.learn(dumps, None, turn=lambda keys, layer: keys)


def test_tables_code_every_symbol_or_let_it_escape(profile):
    assert (profile.frequencies.sum(1) == tables.SLOT_COUNT).all()
    assert (profile.frequencies[:, tables.ESCAPE] >= 1).all()
    for frequencies in profile.frequencies:
        coded = np.flatnonzero(frequencies[1:])
        assert (np.diff(coded) == 1).all() and 127 in coded  # a run around symbol 0


@pytest.mark.parametrize("rows, places", [(1, 1), (3, 64), (17, 65), (5, 200)])
def test_a_stream_comes_back(profile, rows, places):
    generator = np.random.default_rng(SEED + places)
    of_place = generator.integers(0, tables.TABLE_COUNT, places)
    symbols = np.stack([generator.choice(tables.SYMBOLS, rows, p=profile.frequencies[table] / 2048)
                        for table in of_place], axis=1)
    stream = rans.encode(symbols, of_place, profile.frequencies)
    assert struct.unpack_from("<I", stream, 4)[0] == (symbols == -128).sum()
    assert (rans.decode(stream, rows, of_place, profile.frequencies) == symbols).all()


def test_a_stream_is_as_long_as_its_tables_say(profile):
    table = np.full(64, tables.UNIT_CLASS + 8)
    share = profile.frequencies[table[0]] / 2048
    symbols = np.random.default_rng(SEED).choice(tables.SYMBOLS, (2000, 64), p=share)
    bits = -np.log2(share[symbols + 128]).sum()
    stream = rans.encode(symbols, table, profile.frequencies)
    assert len(stream) * 8 == pytest.approx(bits, rel=0.02)


def test_the_length_of_many_streams_is_known_without_them(profile):
    generator = np.random.default_rng(SEED)
    symbols = generator.integers(-2, 3, (3, 12, 70))
    of_place = generator.integers(tables.UNIT_CLASS, tables.TABLE_COUNT, (3, 70))
    streams = [rans.encode(*section, profile.frequencies)
               for section in zip(symbols, of_place, strict=True)]
    lengths = rans.stream_byte_counts(symbols, of_place, profile.frequencies)
    assert list(lengths) == [len(stream) for stream in streams]


def test_a_damaged_stream_does_not_end_as_it_must(profile):
    symbols = np.random.default_rng(SEED).integers(-2, 3, (20, 64))
    table = np.full(64, tables.UNIT_CLASS)
    stream = bytearray(rans.encode(symbols, table, profile.frequencies))
    stream[300] ^= 4
    with pytest.raises((ValueError, IndexError)):
        rans.decode(bytes(stream), 20, table, profile.frequencies)


def test_an_error_is_at_most_half_a_step(profile, dumps):
    for (layer, kind), section in profile.scalars.items():
        rows = dumps[1, layer, kind]
        codes = profile.row_codes_of((layer, kind), rows)
        factors = 1 if codes is None else row_codes.factors(codes)
        for level in profile.scalar_levels:
            symbols = section.symbols(rows, level.step, factors)
            back = section.values(symbols, level.step, factors)
            limit = section.steps * level.step * factors * 0.5 + np.abs(rows).max() * 2.0 ** -20
            assert (np.abs(back - rows) <= limit).all(), (layer, kind, level)


def test_gradients_make_finer_steps(dumps):
    gradients = np.random.default_rng(SEED).normal(size=(3, 2, LAYERS, 2, 40, COLUMNS))
    gradients[:, :, :, 0, :, 3] *= 20
    with_weights = learning.learn(dumps, gradients, with_predictors=False)
    steps = with_weights.scalars[1, 0].steps
    assert steps[3] * 3 < np.delete(steps, 3).min()
    assert with_weights.has_row_codes == (False, False)


def test_rows_of_v_have_codes_where_no_gradients_tell_more(profile, dumps):
    assert profile.has_row_codes == (False, True)
    rows = dumps[0, 1, 1].copy()
    means = profile.scalars[1, 1].means
    rows[5] = means + 4 * (rows[5] - means)
    assert profile.row_codes_of((1, 0), rows) is None
    codes = profile.row_codes_of((1, 1), rows).astype(int)
    assert codes[5] > np.delete(codes, 5).mean() + 5
    assert codes.min() >= 0 and codes.max() <= row_codes.HIGHEST
    assert row_codes.factors(np.array([8, 12, 0, 9])).ravel() == pytest.approx(
        [1, 2, 0.25, 2 ** 0.25])


def test_a_model_can_have_steps_of_its_own(dumps):
    wanted = learner_program.levels("0.1,0.3,0.6,1.2")
    own = learning.learn(dumps, None, scalar_levels=wanted, predictive_levels=wanted)
    data = container.encode(own, {"layers": LAYERS},
                            container.rotation(np.array([[1.0]]), (0,) * LAYERS), "")
    for of_mode in (container.decode(data).scalar_levels, container.decode(data).predictive_levels):
        assert [level.number for level in of_mode] == [3, 4, 5, 6]
        assert [level.step for level in of_mode] == pytest.approx([0.1, 0.3, 0.6, 1.2])
    for wrong in ("0.1,0.3,0.6", "0.3,0.1,0.6,1.2", "0,1,2,3", "1,2,3,nan", "1,2,3,inf"):
        with pytest.raises(argparse.ArgumentTypeError):
            learner_program.levels(wrong)


def test_rows_of_v_have_codes_where_small_rows_cost_most(dumps):
    """As in a model whose sliding windows make some rows attract all attention."""
    generator = np.random.default_rng(SEED)
    small = generator.choice(np.arange(4, 68), 12, replace=False)
    rows = dumps.copy()
    means = rows[:, :, 1].mean((0, 2), keepdims=True)[0]
    rows[:, :, 1, small] = means + 0.1 * (rows[:, :, 1, small] - means)
    gradients = generator.normal(size=(3, 2, LAYERS, 2, 68, COLUMNS))
    even = learning.learn(rows, gradients, with_predictors=False)
    assert even.has_row_codes == (False, False)
    gradients[:, :, :, 1, small] *= 20
    coded = learning.learn(rows, gradients, with_predictors=False)
    assert coded.has_row_codes == (False, True)
    for layer in range(LAYERS):
        codes = coded.row_codes_of((layer, 1), rows[0, layer, 1, 4:]).astype(int)
        is_small = np.isin(np.arange(4, 68), small)
        assert codes[is_small].max() < codes[~is_small].min()
        # What V's gradients say counts with the codes, too: its steps are finer beside K's.
        beside_keys = [np.median(each.scalars[layer, 1].steps / each.scalars[layer, 0].steps)
                       for each in (even, coded)]
        assert beside_keys[1] < beside_keys[0]


def test_row_codes_are_packed_in_pairs():
    assert row_codes.packed(np.array([1, 2, 15], np.uint8)) == bytes([0x21, 0x0F])
    assert row_codes.packed(np.array([7, 8], np.uint8)) == bytes([0x87])
    assert row_codes.packed(np.array([], np.uint8)) == b""


def test_the_analysis_undoes_the_rounded_synthesis(profile):
    for section in profile.predictors.values():
        assert np.abs(section.synthesis).max() <= 127
        product = (section.synthesis * section.synthesis_scales) @ section.analysis
        assert product == pytest.approx(np.eye(COLUMNS), abs=1e-4)


def encoded(section_symbols, frequencies):
    return sum(tables.code_lengths(frequencies)[tables.table_of(classes, shift)[None, :],
                                                np.clip(symbols, -128, 127) + 128].sum()
               for symbols, classes, shift in section_symbols)


def test_prediction_takes_fewer_bits_for_the_same_error(profile, dumps):
    """A deep layer's values, from the decoded ones of the layers before."""
    level = profile.predictive_levels[learning.LEARNING_LEVEL]
    references, squares, parts = {}, [], []
    for (layer, kind), section in profile.predictors.items():
        rows = dumps[2, layer, kind]
        codes = profile.row_codes_of((layer, kind), rows)
        factors = 1 if codes is None else row_codes.factors(codes)
        sources = predictive.reference_sections(layer, kind, profile.group, profile.lookback)
        predicted = section.predicted(predictive.joined(references, sources, len(rows)))
        symbols = section.symbols(rows - predicted, level.step, factors)
        values = section.values(predicted, symbols, level.step, factors)
        references[layer, kind] = section.references(values)
        squares.append(((rows - values) ** 2).mean())
        parts.append((symbols, section.classes, tables.shift_of(level.step)))
    with_prediction = encoded(parts, profile.frequencies)
    alone = []
    step = float(np.sqrt(12 * np.mean(squares)))
    for (layer, kind), section in profile.scalars.items():
        # One step for all columns gives this error when each is coded by itself.
        flat = scalar.Section(section.means, np.ones(COLUMNS, np.float32),
                              tables.classes_of(dumps[:, layer, kind].std((0, 1))))
        alone.append((flat.symbols(dumps[2, layer, kind], step), flat.classes,
                      tables.shift_of(step)))
    assert with_prediction < 0.9 * encoded(alone, profile.frequencies)


def test_a_decoder_needs_whole_numbers_only(profile):
    """The sums of a section fit in 32 bits whatever its symbols and references are."""
    for section in profile.predictors.values():
        assert np.abs(section.synthesis.astype(np.int64)).sum(0).max() * 128 < 2**31
        assert np.abs(section.prediction.astype(np.int64)).sum(0).max(initial=0) * 127 < 2**24


def test_references_stay_in_their_group():
    assert predictive.reference_sections(10, 0, 10, 2) == []
    assert predictive.reference_sections(10, 1, 10, 2) == [(10, 0)]
    assert predictive.reference_sections(11, 0, 10, 2) == [(10, 0), (10, 1)]
    assert predictive.reference_sections(13, 1, 10, 2) == [
        (13, 0), (12, 0), (12, 1), (11, 0), (11, 1)]
    assert predictive.reference_sections(13, 1, 10, 1) == [(13, 0), (12, 0), (12, 1)]


def test_exponents_of_a_column_take_few_bits():
    generator = np.random.default_rng(SEED)
    values = generator.normal(size=(4000, 32)) * np.exp2(generator.uniform(-9, 9, 32))
    offsets, counts = lossless.histograms(values)
    frequencies, of_column = lossless.group(counts)
    assert (frequencies.sum(1) == 2048).all() and of_column.max() < lossless.TABLE_COUNT
    bits = (counts * tables.code_lengths(frequencies)[of_column]).sum() / counts.sum()
    assert bits < 2.9  # of 8
    assert (np.abs(offsets - np.median(lossless.exponents(values), axis=0)) <= 0.5).all()


def test_a_profile_is_written_as_the_format_says(profile):
    fields = {"layers": LAYERS, "kv_heads": 2, "head_dim": 8}
    turns = container.rotation(np.array([[1.0, 0.1]]), (0,) * LAYERS)
    data = container.encode(profile, fields, turns, "made up")
    assert data[:4] == b"KVP1" and len(container.profile_hash(data)) == 16
    count = struct.unpack_from("<I", data, 12)[0]
    end = 64 + 16 * count
    assert struct.unpack_from("<I", data, 4)[0] == xxhash.xxh3_64_intdigest(data[8:end]) % 2**32
    entries = [struct.unpack_from("<IIIHBB", data, 64 + 16 * index) for index in range(count)]
    items = [(item, layer, kind) for *_, layer, kind, item in entries]
    assert items == sorted(set(items))
    for offset, size, checksum, *_ in entries:
        assert offset % 64 == 0
        assert xxhash.xxh3_64_intdigest(data[offset:offset + size]) % 2**32 == checksum
        assert offset - end < 64 and not any(data[end:offset])
        end = offset + size
    assert end == len(data)
    means = next(entry for entry in entries if (entry[5], entry[3], entry[4]) == (17, 2, 1))
    assert (np.frombuffer(data, "<f4", COLUMNS, means[0]) == profile.scalars[2, 1].means).all()
    assert sum(entry[5] == 20 for entry in entries) == 2 * LAYERS


def test_a_profile_comes_back(profile):
    fields = {"layers": LAYERS}
    turns = container.rotation(np.array([[1.0, 0.1]]), (0,) * LAYERS)
    back = container.decode(container.encode(profile, fields, turns, ""))
    assert (back.frequencies == profile.frequencies).all() and back.group == profile.group
    assert (back.lookback, back.has_row_codes) == (profile.lookback, profile.has_row_codes)
    assert [level.number for level in back.predictive_levels] == [3, 4, 5, 6]
    for place, section in profile.predictors.items():
        for name in vars(section):
            assert (getattr(back.predictors[place], name) == getattr(section, name)).all(), name
        for name in vars(profile.scalars[place]):
            expected = getattr(profile.scalars[place], name)
            assert (getattr(back.scalars[place], name) == expected).all(), name


def test_scores_of_a_codec_that_changes_nothing_and_of_one_that_does():
    generator = np.random.default_rng(SEED)
    exact = scoring.log_softmax(generator.normal(size=(50, 20)) * 3)
    tokens = generator.integers(0, 20, 50)
    same, other = scoring.Scores(), scoring.Scores()
    for scores, coded in ((same, exact), (other, scoring.log_softmax(exact * 0.5))):
        scores.add(exact, coded, tokens)
        scores.encoded_bytes, scores.value_count = 300, 800
    assert same.row("Q1", "S") == (
        "codec: level=Q1 mode=S bits_per_value=3.000 kl=0.00000 kl_p99=0.0000 top1=1.0000 "
        "ppl_change=+0.0000 encode_gbps=none decode_gbps=none passages=1")
    shares = np.exp(exact)
    divergence = (shares * (exact - scoring.log_softmax(exact * 0.5))).sum(1).mean()
    assert f" kl={divergence:.5f} " in other.row("Q1", "S")
    assert " top1=1.0000 " in other.row("Q1", "S")
    assert other.spread("Q1", "S") == (
        f"codec-passages: level=Q1 mode=S kl_median={divergence:.5f} kl_lowest={divergence:.5f} "
        f"kl_highest={divergence:.5f}")


def test_needles_are_spread_over_a_text():
    text = "".join(f"Sentence number {index}. " for index in range(400))
    wanted = scoring.facts(7)
    with_facts = scoring.needle_text(text, wanted)
    places = []
    for name, number in wanted:
        fact = scoring.FACT.format(name=name, number=number)
        places.append(with_facts.index(fact))
        with_facts = with_facts.replace(fact, "")
    assert with_facts == text[:len(with_facts)] and places == sorted(places)
    # Each stands at its depth; those before it are taken out already.
    for index, place in enumerate(places):
        assert abs(place - (index + 0.5) / 20 * scoring.HAYSTACK_CHARACTERS) < 60


def test_needles_find_room_in_a_text_without_sentences():
    text = scoring.needle_text("x" * 4000, scoring.facts(1))
    assert all(scoring.FACT.format(name=name, number=number) in text
               for name, number in scoring.facts(1))


def test_a_profile_without_predictors_has_the_rest(profile):
    fields = {"layers": LAYERS}
    turns = container.rotation(np.array([[1.0, 0.1]]), (0,) * LAYERS)
    data = container.encode(profile, fields, turns, "made up")
    less = container.without_predictors(data)
    back = container.decode(less)
    assert back.predictors == {} and back.predictive_levels == ()
    assert back.scalar_levels == container.decode(data).scalar_levels
    assert (back.scalars[2, 1].means == profile.scalars[2, 1].means).all()
    assert struct.unpack_from("<I", less, 28) == struct.unpack_from("<I", data, 28)
    assert len(less) < len(data)
