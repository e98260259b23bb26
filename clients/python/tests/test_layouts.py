# SPDX-License-Identifier: Apache-2.0
"""What adapters tell the codec about their chunks, read back by the format's second reader: every
value of a known tensor must be found at the place of its layer, kind, token, head and channel."""
import json
import pathlib
import struct
import sys

import numpy
import pytest

from kvstore.adapters.layouts import lmcache_fields, model_configuration, rope_fields
from kvstore.adapters.llamacpp_state import MAGIC, StateShape

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "Tests" / "Vectors"))

from container_layout import K, V, Layout  # noqa: E402

LAYERS, TOKENS, HEADS, CHANNELS = 3, 5, 2, 4


def tensor():
    """A float16 of its own for each [kind, layer, token, head, channel]."""
    count = 2 * LAYERS * TOKENS * HEADS * CHANNELS
    return numpy.arange(count, dtype=numpy.float16).reshape(2, LAYERS, TOKENS, HEADS, CHANNELS)


def values(fields, payload, kind):
    """What the fields say stands there, as [layer, token, head, channel]."""
    lines = [f"{name}={fields[name]}" for name in sorted(fields)]
    layout = Layout("\n".join(["kvstore_layout=1", *lines, ""]).encode())
    tokens = layout.token_count(len(payload))
    assert tokens == TOKENS
    places = layout.places(tokens)[kind]
    return numpy.frombuffer(payload, numpy.uint8)[
        places[..., None] + numpy.arange(2)].view(numpy.float16)[..., 0]


def llama_state(transposed, rotation_words, has_values=True):
    """A state of llama.cpp that holds the tensor."""
    made = bytearray(struct.pack("<IiII", MAGIC, 0, 1, TOKENS))
    for position in range(TOKENS):
        made += struct.pack("<iIi", position, 1, 0)
    made += struct.pack(f"<II{rotation_words}I", int(transposed), LAYERS, *[7] * rotation_words)
    for layer in range(LAYERS):
        made += struct.pack("<iQ", 1, 2 * HEADS * CHANNELS) + tensor()[0, layer].tobytes()
    for layer in range(LAYERS if has_values else 0):
        if transposed:
            made += struct.pack("<iII", 1, 2, HEADS * CHANNELS)
            made += numpy.moveaxis(tensor()[1, layer], 0, 2).tobytes()
        else:
            made += struct.pack("<iQ", 1, 2 * HEADS * CHANNELS) + tensor()[1, layer].tobytes()
    return bytes(made)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rotation_words", [0, 2])
def test_a_state_of_llama_cpp(transposed, rotation_words):
    state = llama_state(transposed, rotation_words)
    fields = StateShape.learn(state).tensor_description(HEADS)
    for kind in (K, V):
        assert numpy.array_equal(values(fields, state, kind), tensor()[kind])


def test_a_state_of_llama_cpp_without_values():
    state = llama_state(False, 2, has_values=False)
    fields = StateShape.learn(state).tensor_description(HEADS)
    assert numpy.array_equal(values(fields, state, K), tensor()[0])


def test_states_that_are_opaque_to_the_codec():
    shape = StateShape.learn(llama_state(False, 2))
    assert shape.tensor_description(0) == {}  # a library that does not tell the heads
    assert shape.tensor_description(3) == {}  # heads that do not divide the columns
    assert StateShape(shape.caches * 2).tensor_description(HEADS) == {}
    quantised = llama_state(False, 2).replace(
        struct.pack("<iQ", 1, 2 * HEADS * CHANNELS), struct.pack("<iQ", 8, 2 * HEADS * CHANNELS))
    assert StateShape.learn(quantised).tensor_description(HEADS) == {}


def test_values_of_lmcache():
    hidden = HEADS * CHANNELS
    chunk = tensor().tobytes()
    shape = (2, LAYERS, TOKENS, hidden)
    for header in (b"", b"h" * 512):
        fields = lmcache_fields("KV_2LTD", shape, "torch.float16", HEADS, len(header))
        for kind in (K, V):
            assert numpy.array_equal(values(fields, header + chunk, kind), tensor()[kind])

    layer = numpy.moveaxis(tensor()[:, 1], 0, 1).tobytes()
    fields = lmcache_fields("KV_T2D", (TOKENS, 2, hidden), "torch.float16", HEADS)
    for kind in (K, V):
        assert numpy.array_equal(values(fields, layer, kind)[0], tensor()[kind, 1])

    latent = tensor()[0].reshape(1, LAYERS, TOKENS, hidden)
    fields = lmcache_fields("KV_MLA_FMT", latent.shape, "torch.float16", 1)
    assert numpy.array_equal(values(fields, latent.tobytes(), K)[:, :, 0], latent[0])


def test_values_of_lmcache_that_are_opaque_to_the_codec():
    shape = (2, LAYERS, TOKENS, HEADS * CHANNELS)
    assert lmcache_fields("KV_2LTD", shape, "torch.uint8", HEADS) == {}
    assert lmcache_fields("KV_2LTD", shape, "torch.float16", 3) == {}
    assert lmcache_fields("BINARY", (1_000,), "torch.float16", HEADS) == {}
    assert lmcache_fields("KV_2LTD", (1, *shape[1:]), "torch.float16", HEADS) == {}


def test_rope_of_models(tmp_path):
    llama = {"model_type": "llama", "rope_theta": 500000.0}
    assert rope_fields(llama, 128) == {"rope_theta": 500000.0, "rope_pairing": "half"}
    scaled = llama | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}
    assert rope_fields(scaled, 128)["rope_scaling"] == "llama3"
    newer = {"model_type": "qwen3", "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}
    assert rope_fields(newer, 128) == {"rope_theta": 1e6, "rope_pairing": "half"}
    assert rope_fields(llama | {"partial_rotary_factor": 0.5}, 128)["rope_dim"] == 64
    for other in ({}, {"model_type": "llama"}, {"model_type": "gptj", "rope_theta": 1e4},
                  {"model_type": "gemma3_text", "rope_theta": 1e6}):
        assert rope_fields(other, 128) == {}

    (tmp_path / "config.json").write_text(json.dumps(llama))
    assert model_configuration(str(tmp_path)) == llama
    (tmp_path / "config.json").write_text("{")
    assert model_configuration(str(tmp_path)) == {}
    assert model_configuration(str(tmp_path / "absent")) == {}
