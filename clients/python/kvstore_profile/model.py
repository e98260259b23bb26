# SPDX-License-Identifier: Apache-2.0
"""Keys and values of a causal language model, and what an error in them costs.

Needs torch and transformers. Arrays are float32 with the axes token, column, where a column is
(head, channel). Keys are those *before* the rotary embedding, which is where a profile works.
"""
from __future__ import annotations

import contextlib
import importlib
from typing import Iterator

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from kvstore_profile.rotary import Shape, rotate

# Positions whose logits are computed at once: the vocabulary's width times this many floats.
LOGIT_POSITIONS = 128


class Model:
    """A model of transformers in float32 on the CPU. One thread at a time."""

    def __init__(self, folder: str, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.network.requires_grad_(False)
        self.config = self.network.config
        self.module = importlib.import_module(type(self.network).__module__)
        self.shape = self._shape()

    def tokens(self, text: str, count: int) -> list[int] | None:
        """The first `count` tokens of a text; None when it has fewer."""
        tokens = self.all_tokens(text)
        return tokens[:count] if len(tokens) >= count else None

    def all_tokens(self, text: str) -> list[int]:
        tokens = self.tokenizer(text, add_special_tokens=False).input_ids
        # Gemma without its first token makes no sense of any text.
        first = self.config.model_type.startswith("gemma")
        return [self.config.bos_token_id] * first + tokens

    def keys_and_values(self, tokens: list[int]) -> np.ndarray:
        """`[layer, kind, token, column]`, keys before the rotary embedding."""
        with self._recording() as record, torch.inference_mode():
            self.network.model(torch.tensor([tokens]), use_cache=False)
        return self._columns(record, lambda tensor: tensor)

    def sensitivity(self, tokens: list[int], prefix_count: int, draws: int,
                    seed: int) -> np.ndarray:
        """Gradients `[draw, layer, kind, token of the prefix, column]`, by the prefix' keys before
        the rotary embedding and values, of the log-likelihood of labels that are drawn from the
        model itself for all tokens behind the prefix. The mean of their outer products is the
        Fisher information: half of x'Fx is the divergence behind a prefix with an error x, as when
        its keys and values come out of a cache."""
        generator = torch.Generator().manual_seed(seed)
        with torch.inference_mode():
            known = DynamicCache()
            self.network.model(torch.tensor([tokens[:prefix_count]]), past_key_values=known,
                               use_cache=True)
        cache = DynamicCache(config=self.config)
        leaves = []
        for index, layer in enumerate(known.layers):
            pair = [part.clone().requires_grad_(True) for part in (layer.keys, layer.values)]
            leaves += pair
            cache.update(*pair, index)
        hidden = self.network.model(torch.tensor([tokens[prefix_count:]]), past_key_values=cache,
                                    use_cache=True).last_hidden_state
        result = []
        for draw in range(draws):
            at_output = torch.empty_like(hidden)
            for start in range(0, hidden.shape[1], LOGIT_POSITIONS):
                block = hidden[:, start:start + LOGIT_POSITIONS].detach().requires_grad_(True)
                logits = self.logits(block)[0]
                with torch.no_grad():
                    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
                torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
                at_output[:, start:start + LOGIT_POSITIONS] = block.grad
            result.append(torch.autograd.grad(hidden, leaves, at_output,
                                              retain_graph=draw + 1 < draws))
        return np.stack([self._unturned(gradients) for gradients in result])

    def _unturned(self, gradients) -> np.ndarray:
        """A turn keeps lengths, so a gradient turns back as keys do."""
        columns = self.shape.column_count
        rows = [gradient[0].transpose(0, 1).reshape(-1, columns).numpy() for gradient in gradients]
        keys = [rotate(part, self.shape, layer, undo=True) for layer, part in enumerate(rows[::2])]
        return np.stack([np.stack(pair) for pair in zip(keys, rows[1::2], strict=True)])

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.network.lm_head(hidden)
        cap = getattr(self.config, "final_logit_softcapping", None)
        return torch.tanh(logits / cap) * cap if cap else logits

    @contextlib.contextmanager
    def _recording(self) -> Iterator[dict[str, list[torch.Tensor]]]:
        """Keeps what goes into the rotary embedding and what comes out of the projection of V."""
        record: dict[str, list[torch.Tensor]] = {"keys": [], "values": []}

        def keep(name: str, tensor: torch.Tensor) -> None:
            if tensor.requires_grad:
                tensor.retain_grad()
            record[name].append(tensor)

        rotate = self.module.apply_rotary_pos_emb

        def rotate_and_keep(query, key, *arguments, **options):
            keep("keys", key)
            return rotate(query, key, *arguments, **options)

        hooks = [
            layer.self_attn.v_proj.register_forward_hook(
                lambda module, inputs, output: keep("values", output))
            for layer in self.network.model.layers
        ]
        self.module.apply_rotary_pos_emb = rotate_and_keep
        try:
            yield record
        finally:
            self.module.apply_rotary_pos_emb = rotate
            for hook in hooks:
                hook.remove()

    def _columns(self, record, part) -> np.ndarray:
        columns = self.shape.column_count
        keys = [part(key)[0].transpose(0, 1).reshape(-1, columns) for key in record["keys"]]
        values = [part(value)[0].reshape(-1, columns) for value in record["values"]]
        pairs = [torch.stack(pair) for pair in zip(keys, values, strict=True)]
        return torch.stack(pairs).detach().numpy().astype(np.float32)

    def _shape(self) -> Shape:
        config = self.config
        head_dim = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads)
        embedding = self.network.model.rotary_emb
        kinds = getattr(config, "layer_types", None) or ["all"] * config.num_hidden_layers
        sets: list[np.ndarray] = []
        names: list[str] = []
        for kind in kinds:
            if kind not in names:
                names.append(kind)
                frequencies = getattr(embedding, f"{kind}_inv_freq", None)
                if frequencies is None:
                    frequencies = embedding.inv_freq
                sets.append(frequencies.double().numpy())
        return Shape(config.num_hidden_layers, config.num_key_value_heads, head_dim,
                     np.stack(sets), tuple(names.index(kind) for kind in kinds))
