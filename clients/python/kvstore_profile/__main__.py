# SPDX-License-Identifier: Apache-2.0
"""usage: python -m kvstore_profile MODEL_FOLDER TEXT.jsonl PROFILE [options]

Learns a profile of a model of transformers from passages, one JSON object with `text` a line.

  --passages N       how many passages to learn from (default 72)
  --tokens N         tokens of each (default 1024)
  --fisher N         how many of them also tell what an error costs; 0: what errors cost in
                     models that were measured, for which no gradients are needed (default 24)
  --draws N          of the model's answers to each of these passages (default 2)
  --threads N        of torch (default 1)
  --no-predictors    mode scalar alone: a profile of less than a megabyte
  --scalar-steps A,B,C,D       level steps of Q1 to Q4 in mode scalar, for a model that is more or
                               less sensitive than those the defaults come from
  --predictive-steps A,B,C,D   the same in mode predictive
  --require NAME=VALUE   a field that a layout's description must have; may be given again
"""
from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from kvstore_profile import container, learning
from kvstore_profile.rotary import rotate

# Gradients are small; this keeps them within what half precision tells apart.
GRADIENT_SCALE = 64


def levels(text: str) -> tuple[learning.Level, ...]:
    """Of four steps, finest first."""
    steps = [float(step) for step in text.split(",")]
    if len(steps) != 4 or not 0 < steps[0] < steps[1] < steps[2] < steps[3] < float("inf"):
        raise argparse.ArgumentTypeError("four steps, each larger than the one before")
    return tuple(learning.Level(3 + index, step) for index, step in enumerate(steps))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(usage=__doc__.removeprefix("usage: "), add_help=False)
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("profile", type=Path)
    parser.add_argument("--passages", type=int, default=72)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--fisher", type=int, default=24)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-predictors", action="store_true")
    parser.add_argument("--scalar-steps", type=levels, default=learning.SCALAR_LEVELS)
    parser.add_argument("--predictive-steps", type=levels, default=learning.PREDICTIVE_LEVELS)
    parser.add_argument("--require", action="append", default=[], metavar="NAME=VALUE")
    return parser.parse_args()


def tell(line: str) -> None:
    print(f"profile: {line}", file=sys.stderr, flush=True)


def passages(model, options: argparse.Namespace) -> list[list[int]]:
    """Spread over the file, so that a few passages are of as many sources as the file has."""
    texts = [json.loads(line)["text"] for line in options.text.open()]
    cut = [tokens for text in texts if (tokens := model.tokens(text, options.tokens)) is not None]
    stride = 6
    order = [index for start in range(stride) for index in range(start, len(cut), stride)]
    return [cut[index] for index in order[:options.passages]]


def gradients_of(model, chosen: list[list[int]], draws: int, file) -> np.ndarray:
    """`[passage, draw, layer, kind, token, column]` in a file; of the first three quarters of each
    passage's tokens, as a prefix out of a cache, by what the model says about the rest."""
    shape = model.shape
    prefix_count = len(chosen[0]) * 3 // 4
    gradients = np.lib.format.open_memmap(
        file, mode="w+", dtype=np.float16,
        shape=(len(chosen), draws, shape.layer_count, 2, prefix_count, shape.column_count))
    for number, tokens in enumerate(chosen):
        of_passage = model.sensitivity(tokens, prefix_count, draws, seed=number)
        gradients[number] = np.clip(of_passage * GRADIENT_SCALE, -60000, 60000)
        tell(f"gradients of passage {number + 1} of {len(chosen)}")
    return gradients


def main() -> None:
    options = arguments()
    from kvstore_profile.model import Model

    model = Model(options.model, options.threads)
    shape = model.shape
    chosen = passages(model, options)
    if len(chosen) < 2:
        sys.exit(f"profile: fewer than 2 passages of {options.text} have {options.tokens} tokens")
    with (tempfile.NamedTemporaryFile(suffix=".npy") as file,
          tempfile.NamedTemporaryFile(suffix=".npy") as gradient_file):
        gradients = None
        if options.fisher:
            gradients = gradients_of(model, chosen[:options.fisher], options.draws,
                                     gradient_file.name)
        dumps = np.lib.format.open_memmap(
            file.name, mode="w+", dtype=np.float16,
            shape=(len(chosen), shape.layer_count, 2, options.tokens, shape.column_count))
        for number, tokens in enumerate(chosen):
            dumps[number] = np.clip(model.keys_and_values(tokens), -60000, 60000)
        tell(f"keys and values of {len(chosen)} passages")
        profile = learning.learn(
            dumps, gradients, with_predictors=not options.no_predictors, progress=tell,
            scalar_levels=options.scalar_steps, predictive_levels=options.predictive_steps,
            turn=lambda keys, layer: rotate(keys, shape, layer))
    requirements: dict[str, str | int] = {
        "layers": shape.layer_count, "kv_heads": shape.head_count, "head_dim": shape.head_dim}
    requirements.update(field.split("=", 1) for field in options.require)
    note = (f"{len(chosen)} passages of {options.tokens} tokens of {options.text.name}; "
            f"gradients of {min(options.fisher, len(chosen))}")
    data = container.encode(profile, requirements,
                            container.rotation(shape.frequencies, shape.turns), note)
    options.profile.write_bytes(data)
    tell(f"{options.profile}: {len(data)} bytes, hash {container.profile_hash(data).hex()}")


if __name__ == "__main__":
    main()
