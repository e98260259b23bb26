# SPDX-License-Identifier: Apache-2.0
"""`kvctl codec profile learn` beside the learner in Python, without gradients, on the same rows."""
import os
import pathlib
import subprocess

import numpy as np
import pytest

from kvstore_profile import container, learning, predictive, row_codes, tables

SEED = 20261121
LAYERS, COLUMNS, PASSAGES, TOKENS = 3, 16, 12, 360
LAYOUT = f"""dtype=bfloat16
layers={LAYERS}
kv_heads=2
head_dim={COLUMNS // 2}
axes=layer,kv,token,head,channel
"""

pytestmark = pytest.mark.skipif("KVSTORED" not in os.environ, reason="KVSTORED names no daemon")


def bfloat16(values):
    """The values rounded, and the bits of that."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    high = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return (high << 16).view(np.float32), high.astype("<u2")


@pytest.fixture(scope="module")
def profiles(tmp_path_factory):
    """What both learn, and rows that neither has seen."""
    generator = np.random.default_rng(SEED)
    shape = (PASSAGES + 1, TOKENS, 2 * COLUMNS)
    hidden = generator.normal(size=shape)
    scales = np.exp2(generator.uniform(-3, 3, 2 * COLUMNS))
    sizes = np.exp2(generator.normal(scale=0.5, size=(*shape[:2], 1)))
    dumps = np.zeros((PASSAGES + 1, LAYERS, 2, TOKENS, COLUMNS), np.float32)
    for layer in range(LAYERS):
        rows = hidden * scales
        dumps[:, layer, 0] = rows[..., :COLUMNS] + 3
        dumps[:, layer, 1] = rows[..., COLUMNS:] * sizes
        hidden = 0.95 * hidden + 0.3 * generator.normal(size=shape)
    dumps, bits = bfloat16(dumps)
    folder = tmp_path_factory.mktemp("learnt")
    (folder / "layout").write_text(LAYOUT)
    files = []
    for number in range(PASSAGES):
        files.append(folder / f"chunk{number}")
        files[-1].write_bytes(bits[number].tobytes())
    kvctl = pathlib.Path(os.environ["KVSTORED"]).with_name("kvctl")
    subprocess.run([kvctl, "codec", "profile", "learn", "--layout", folder / "layout",
                    "-o", folder / "profile", *files], check=True, timeout=300)
    with pytest.MonkeyPatch.context() as patch:
        # All rows, as kvctl takes them of so few.
        patch.setattr(learning, "TABLE_STRIDE", 1)
        patch.setattr(learning, "PREDICTOR_STRIDE", 1)
        ours = learning.learn(dumps[:PASSAGES], None, turn=lambda keys, layer: keys)
    ours = container.decode(container.encode(
        ours, {"layers": LAYERS}, container.rotation(np.ones((1, 1)), (0,) * LAYERS), ""))
    return ours, container.decode((folder / "profile").read_bytes()), dumps[PASSAGES]


def test_levels_and_columns_agree(profiles):
    ours, theirs, _ = profiles
    for name in ("scalar_levels", "predictive_levels", "group", "lookback", "has_row_codes"):
        assert getattr(ours, name) == getattr(theirs, name), name
    far = 0
    # A row whose code is a matter of rounding changes its section's steps a little.
    for place, section in ours.scalars.items():
        other = theirs.scalars[place]
        assert np.abs(other.means - section.means).max() <= 1e-5 * np.abs(section.means).max()
        assert other.steps == pytest.approx(section.steps, rel=5e-4)
        assert np.abs(other.classes - section.classes).max() <= 2, place
        far += (other.classes != section.classes).sum()
    assert far <= 0.05 * LAYERS * 2 * COLUMNS


@pytest.mark.parametrize("name", ["frequencies", "exponent_frequencies"])
def test_tables_code_as_short(profiles, name):
    ours, theirs, _ = profiles
    more = []
    for left, right in zip(getattr(ours, name), getattr(theirs, name), strict=True):
        inside = left > 0
        bits = tables.code_lengths(np.stack([left, right]))[:, inside]
        costs = (left[inside] / left.sum() * bits).sum(1)
        more.append(costs[1] - costs[0])
    # A column that takes another class changes two tables, which have few columns here.
    assert np.median(more) < 0.003 and np.sum(np.array(more) > 0.1) <= 3


def coded(profile, rows, mode, level):
    """Bits of a passage, and the root mean square of its errors."""
    bits_of = tables.code_lengths(profile.frequencies)
    bits, squares, references = 0, [], {}
    for place, section in profile.scalars.items():
        values = rows[place]
        codes = profile.row_codes_of(place, values)
        factors = 1 if codes is None else row_codes.factors(codes)
        if mode == "predictive":
            predictor = profile.predictors[place]
            sources = predictive.reference_sections(*place, profile.group, profile.lookback)
            predicted = predictor.predicted(predictive.joined(references, sources, len(values)))
            symbols = predictor.symbols(values - predicted, level.step, factors)
            back = predictor.values(predicted, symbols, level.step, factors)
            references[place] = predictor.references(back)
            classes = predictor.classes
        else:
            symbols = section.symbols(values, level.step, factors)
            back = section.values(symbols, level.step, factors)
            classes = section.classes
        table = tables.table_of(classes, tables.shift_of(level.step))
        bits += bits_of[table[None, :], np.clip(symbols, -128, 127) + 128].sum()
        squares.append(((back - values) ** 2).mean())
    return bits, np.sqrt(np.mean(squares))


@pytest.mark.parametrize("mode", ["scalar", "predictive"])
def test_new_rows_take_as_many_bits_at_the_same_error(profiles, mode):
    ours, theirs, rows = profiles
    for level in getattr(ours, f"{mode}_levels"):
        bits, error = coded(ours, rows, mode, level)
        other_bits, other_error = coded(theirs, rows, mode, level)
        assert other_error == pytest.approx(error, rel=0.01), level
        assert other_bits == pytest.approx(bits, rel=0.01), level


def test_predictors_predict_alike(profiles):
    ours, theirs, _ = profiles
    for place, section in ours.predictors.items():
        other = theirs.predictors[place]
        assert other.reference_steps == pytest.approx(section.reference_steps, rel=1e-4)
        # What is deeper has references that say much the same, and many weights that do as well.
        if section.prediction.size and place[0] < 2:
            weights = [one.prediction * one.prediction_scales.astype(np.float64)
                       for one in (section, other)]
            # A reference may round otherwise here and there.
            assert np.abs(weights[1] - weights[0]).max() < 0.03 * np.abs(weights[0]).max()
        for one in (section, other):
            synthesis = one.synthesis * one.synthesis_scales.astype(np.float64)
            assert np.abs(one.analysis @ synthesis - np.eye(COLUMNS)).max() < 1e-3
            assert np.abs(one.synthesis).max() <= 127
