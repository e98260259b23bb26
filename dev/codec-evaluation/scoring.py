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

    def spread(self, level: str, mode: str) -> str:
        """A line about how passages differ in their mean divergence."""
        of_passages = [passage.mean() for passage in self.divergences]
        return (f"codec-passages: level={level} mode={mode} kl_median={np.median(of_passages):.5f} "
                f"kl_lowest={min(of_passages):.5f} kl_highest={max(of_passages):.5f}")


def _speed(byte_count: int, seconds: float) -> str:
    return f"{byte_count / seconds / 1e9:.3f}" if seconds > 0 else "none"


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


NAMES = ("Alice", "Robert", "Maria", "Thomas", "Julia", "Peter", "Sarah", "David", "Laura", "Henry",
         "Emma", "Frank", "Helen", "Oscar", "Diana", "George", "Nina", "Victor", "Clara", "Simon")
HAYSTACK_CHARACTERS = 2600
FACT = "The secret number of {name} is {number}. "
QUESTION = "\n\nThe secret number of {name} is"


def facts(seed: int) -> list[tuple[str, int]]:
    """A number of four digits for each name; others in each text."""
    numbers = np.random.default_rng(seed).integers(1000, 10000, len(NAMES))
    return [(name, int(number)) for name, number in zip(NAMES, numbers, strict=True)]


def needle_text(text: str, wanted: list[tuple[str, int]]) -> str:
    """The beginning of a text with facts in it, evenly spread over it at the ends of sentences, or
    of words where a text has no sentences."""
    result, place = "", 0
    for index, (name, number) in enumerate(wanted):
        depth = int((index + 0.5) / len(wanted) * HAYSTACK_CHARACTERS)
        for mark in (". ", " "):
            end = text.find(mark, max(depth, place), depth + 200)
            if end >= 0:
                end += len(mark)
                break
        else:
            end = max(depth, place)
        result += text[place:end] + FACT.format(name=name, number=number)
        place = end
    return result + text[place:HAYSTACK_CHARACTERS]
