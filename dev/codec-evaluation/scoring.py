# SPDX-License-Identifier: Apache-2.0
"""What a codec does to a model's answers: distributions, perplexity, retrieval.

Needs NumPy alone. Log-probabilities are `[position, token of the vocabulary]`.
"""
from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Scores:
    """Of one codec over some passages; positions of all of them count alike."""

    divergences: list[np.ndarray] = field(default_factory=list)
    agreements: list[np.ndarray] = field(default_factory=list)
    exact_losses: list[np.ndarray] = field(default_factory=list)
    coded_losses: list[np.ndarray] = field(default_factory=list)
    encoded_bytes: int = 0
    payload_bytes: int = 0
    value_count: int = 0
    encode_seconds: float = 0
    decode_seconds: float = 0

    def add(self, exact: np.ndarray, coded: np.ndarray, tokens: np.ndarray) -> None:
        """Both of the same positions; `tokens[i]` is what really stands behind position i."""
        exact, coded = exact.astype(np.float64), coded.astype(np.float64)
        self.divergences.append((np.exp(exact) * (exact - coded)).sum(-1))
        self.agreements.append(exact.argmax(-1) == coded.argmax(-1))
        places = np.arange(len(tokens))
        self.exact_losses.append(-exact[places, tokens])
        self.coded_losses.append(-coded[places, tokens])

    def row(self, level: str, mode: str) -> str:
        """A line for programs; `kl` in nats, `top1` and `ppl_change` are shares of 1."""
        divergence = np.concatenate(self.divergences)
        loss = np.concatenate(self.coded_losses).mean() - np.concatenate(self.exact_losses).mean()
        facts = {
            "level": level, "mode": mode,
            "bits_per_value": f"{8 * self.encoded_bytes / self.value_count:.3f}",
            "kl": f"{divergence.mean():.5f}",
            "kl_p99": f"{np.quantile(divergence, 0.99):.4f}",
            "top1": f"{np.concatenate(self.agreements).mean():.4f}",
            "ppl_change": f"{np.expm1(loss):+.4f}",
            "encode_gbps": _speed(self.payload_bytes, self.encode_seconds),
            "decode_gbps": _speed(self.payload_bytes, self.decode_seconds),
            "passages": len(self.divergences),
        }
        return "codec: " + " ".join(f"{name}={value}" for name, value in facts.items())


def _speed(byte_count: int, seconds: float) -> str:
    return f"{byte_count / seconds / 1e9:.3f}" if seconds > 0 else "none"


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def needle_text(haystack: str, depth: float, name: str, number: int) -> str:
    """A text with one fact in it, `depth` (0 to 1) of the way down, at the end of a sentence."""
    place = haystack.find(". ", int(depth * len(haystack)))
    place = int(depth * len(haystack)) if place < 0 else place + 2
    return f"{haystack[:place]}The secret number of {name} is {number}. {haystack[place:]}"
