# SPDX-License-Identifier: Apache-2.0
"""The evaluation's way through the daemon's codec, with made-up keys and values: what
`make eval-codec` does with a model's, small enough for every test run."""
import os
import pathlib
import sys

import numpy as np
import pytest

from kvstore_profile import container, learning, rotary, scalar

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "dev" / "codec-evaluation"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "Tests" / "Vectors"))
import coders  # noqa: E402
import container_reader  # noqa: E402
import daemon  # noqa: E402

SEED = 20261121
SHAPE = rotary.Shape(2, 2, 16, (100.0 ** (-np.arange(8) / 8))[None], (0, 0))

@pytest.fixture(scope="module")
def link():
    if "KVSTORED" not in os.environ:
        pytest.skip("KVSTORED names no daemon")
    server = daemon.Daemon(os.environ["KVSTORED"])
    yield server.connection
    server.close()


@pytest.fixture(scope="module")
def stored():
    """`[layer, kind, token, column]`, keys before the rotary embedding."""
    generator = np.random.default_rng(SEED)
    columns = SHAPE.column_count
    means = generator.normal(size=(2, 2, 1, columns)) * 4
    return (means + generator.normal(size=(2, 2, 96, columns))).astype(np.float32)


def turned(stored, first_position=0, undo=False):
    result = stored.copy()
    for layer in range(SHAPE.layer_count):
        result[layer, 0] = rotary.rotate(stored[layer, 0], SHAPE, layer, first_position, undo)
    return result if undo else coders.to_bfloat16(result)


def test_nothing_is_lost_at_level_zero(link, stored):
    chunk = turned(stored)
    coder = daemon.DaemonCoder(link, SHAPE, "L0", None)
    coded = coder.code(chunk, 0)
    assert coder.mode == "L" and coded.byte_count < 0.9 * 2 * chunk.size
    assert (coded.values == chunk).all()


@pytest.mark.parametrize("first_position", [0, 256])
def test_coarser_levels_take_fewer_bytes_for_larger_errors(link, stored, first_position):
    chunk = turned(stored, first_position)
    sizes, errors = [], []
    for level in ("Q1", "Q2", "Q3", "Q4"):
        coder = daemon.DaemonCoder(link, SHAPE, level, None)
        coded = coder.code(chunk, first_position)
        assert coder.mode == "cachegen"
        sizes.append(coded.byte_count)
        errors.append(float(((coded.values - chunk) ** 2).mean()))
        if first_position == 0:
            exact = slice(0, scalar.EXACT_ROWS)
            assert (coded.values[:, :, exact] == chunk[:, :, exact]).all()
    assert sizes == sorted(sizes, reverse=True) and errors == sorted(errors)
    assert errors[0] > 0 and errors[1] < 0.05 * chunk.var()


@pytest.mark.parametrize("mode", ["S", "P"])
def test_the_daemon_uses_a_profile(link, stored, mode):
    """And what it makes of a chunk is as good, and as small, as what NumPy makes of it."""
    noise = np.random.default_rng(SEED).normal(size=(24, *stored.shape)).astype(np.float32)
    profile = learning.learn(stored.mean(2, keepdims=True) + noise, None)
    fields = {"layers": 2, "kv_heads": 2, "head_dim": 16}
    data = container.encode(profile, fields,
                            container.rotation(SHAPE.frequencies, SHAPE.turns), "")
    if mode == "S":
        data = container.without_predictors(data)
    coder = daemon.DaemonCoder(link, SHAPE, "Q2", data)
    chunk = turned(stored)
    coded = coder.code(chunk, 0)
    assert coder.mode == mode
    levels = profile.predictive_levels if mode == "P" else profile.scalar_levels
    judge = coders.ProfileCoder(container.decode(data), data, SHAPE, mode, levels[1])
    expected = judge.code(chunk, 0)
    assert coded.byte_count == pytest.approx(expected.byte_count, rel=0.01)
    assert (coded.values == expected.values).mean() > 0.99


@pytest.mark.parametrize("mode", ["S", "P"])
@pytest.mark.parametrize("first_position", [0, 2, 256])
def test_the_second_reader_agrees_with_the_encoder(stored, mode, first_position):
    """What Tests/Vectors/container_reader.py, written from the format's text alone, makes of a
    container with a learnt profile."""
    profile = learning.learn(np.stack([stored] * 3), None, turn=lambda keys, layer: keys)
    fields = {"layers": 2, "kv_heads": 2, "head_dim": 16}
    data = container.encode(profile, fields,
                            container.rotation(SHAPE.frequencies, SHAPE.turns), "")
    chunk = turned(stored, first_position)
    chunk[1, 1, 20, 3] = 1000  # an escape
    levels = profile.predictive_levels if mode == "P" else profile.scalar_levels
    coder = coders.ProfileCoder(container.decode(data), data, SHAPE, mode, levels[1])
    content = coder.container(chunk, first_position)
    coded = coder.code(chunk, first_position)
    assert len(content) == coded.byte_count
    payload = container_reader.decode(content, data)
    read = (np.frombuffer(payload, "<u2").astype(np.uint32) << 16).view(np.float32)
    assert (read.reshape(chunk.shape) == coded.values).mean() > 0.999
    # Libraries' sines differ in the last bit, which rounding may turn into a bit of bfloat16.
    assert np.allclose(read.reshape(chunk.shape), coded.values, rtol=2**-7, atol=1e-5)
