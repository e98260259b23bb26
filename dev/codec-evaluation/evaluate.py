# SPDX-License-Identifier: Apache-2.0
"""usage: evaluate.py --model FOLDER --text FILE.jsonl --profile FILE [options]

Replaces the keys and values of a prefix by what the codec makes of them, and compares what the
model says about the real text behind it with what it says by the exact ones.

  --kvstored PATH         by this daemon's own code
  --coders a,b            what to judge: plain (the daemon without a profile), scalar and predictive
                          (with it), S and P (modes scalar and predictive in NumPy, which is slow);
                          default: those of the daemon, or without one those of NumPy
  --levels Q1,Q2,...      (default L0,Q1,Q2,Q3,Q4)
  --passages N            of the text, the first N that are long enough (default 8; 0: none)
  --needles N             retrieval: N passages with twenty facts each (default 2)
  --history               also chunks that are computed from coded chunks before them
"""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import coders
import daemon
import numpy as np
import scoring
import torch
from kvstore_profile import container
from kvstore_profile.model import Model
from transformers import DynamicCache

PREFIX_TOKENS = 1024
SCORED_TOKENS = 256
CHUNK_TOKENS = 256


class Judge:
    """A model whose keys and values can be replaced."""

    def __init__(self, folder: str) -> None:
        self.model = Model(folder)
        self.shape = self.model.shape

    def cache(self, chunks: list[np.ndarray]) -> DynamicCache:
        """Of keys after the rotary embedding."""
        cache = DynamicCache(config=self.model.config)
        joined = torch.from_numpy(np.concatenate(chunks, axis=2))
        heads = (joined.shape[2], self.shape.head_count, self.shape.head_dim)
        for layer in range(self.shape.layer_count):
            key, value = (joined[layer, kind].reshape(heads).transpose(0, 1)[None].contiguous()
                          for kind in (0, 1))
            cache.update(key, value, layer)
        return cache

    def log_probabilities(self, chunks: list[np.ndarray], tokens: list[int]) -> np.ndarray:
        """Of what stands behind each of `tokens`, which stand behind the chunks."""
        with torch.inference_mode():
            logits = self.model.network(torch.tensor([tokens]), past_key_values=self.cache(chunks),
                                        use_cache=True).logits[0]
            return torch.log_softmax(logits.float(), -1).numpy()

    def next_chunk(self, chunks: list[np.ndarray], tokens: list[int]) -> np.ndarray:
        """Keys and values of `tokens` behind the chunks, as an engine in bfloat16 has them."""
        cache = self.cache(chunks) if chunks else DynamicCache(config=self.model.config)
        with torch.inference_mode():
            self.model.network.model(torch.tensor([tokens]), past_key_values=cache, use_cache=True)
        pairs = []
        for layer in cache.layers:
            pair = [tensor[0, :, -len(tokens):].transpose(0, 1).reshape(len(tokens), -1)
                    for tensor in (layer.keys, layer.values)]
            pairs.append(torch.stack(pair))
        return coders.to_bfloat16(torch.stack(pairs).numpy())

    def exact_chunks(self, tokens: list[int]) -> list[np.ndarray]:
        chunks: list[np.ndarray] = []
        for start in range(0, len(tokens), CHUNK_TOKENS):
            chunks.append(self.next_chunk(chunks, tokens[start:start + CHUNK_TOKENS]))
        return chunks


def coded_chunks(coder, chunks, scores) -> list[np.ndarray]:
    coded = []
    position = 0
    for chunk in chunks:
        one = coder.code(chunk, position)
        position += chunk.shape[2]
        scores.encoded_bytes += one.byte_count
        scores.value_count += chunk.size
        scores.payload_bytes += 2 * chunk.size
        scores.encode_seconds += one.encode_seconds
        scores.decode_seconds += one.decode_seconds
        coded.append(one.values)
    return coded


def judge_texts(judge, contenders, texts, passage_count, with_history) -> None:
    results = {name: scoring.Scores() for name in contenders}
    histories = {name: scoring.Scores() for name in contenders} if with_history else {}
    done = 0
    for text in texts:
        tokens = judge.model.tokens(text, PREFIX_TOKENS + SCORED_TOKENS)
        if tokens is None or done == passage_count:
            continue
        done += 1
        prefix, scored = tokens[:PREFIX_TOKENS], tokens[PREFIX_TOKENS:]
        behind = np.array(scored[1:])
        chunks = judge.exact_chunks(prefix)
        exact = judge.log_probabilities(chunks, scored)
        for name, coder in contenders.items():
            coded = judge.log_probabilities(coded_chunks(coder, chunks, results[name]), scored)
            results[name].add(exact[:-1], coded[:-1], behind)
            print(f"passage {done}: {results[name].row(name[1], coder.mode)}", file=sys.stderr,
                  flush=True)
        for name, scores in histories.items():
            history: list[np.ndarray] = []
            for start in range(0, PREFIX_TOKENS, CHUNK_TOKENS):
                fresh = judge.next_chunk(history, prefix[start:start + CHUNK_TOKENS])
                one = contenders[name].code(fresh, start)
                scores.encoded_bytes += one.byte_count
                scores.value_count += fresh.size
                history.append(one.values)
            scores.add(exact[:-1], judge.log_probabilities(history, scored)[:-1], behind)
    for name, scores in results.items():
        print(scores.row(name[1], contenders[name].mode), flush=True)
    for name, scores in results.items():
        print(scores.spread(name[1], contenders[name].mode), flush=True)
    for name, scores in histories.items():
        row = scores.row(name[1], contenders[name].mode)
        print(row.replace("codec:", "codec-history:", 1), flush=True)


def answers(judge, chunks, question, answer) -> bool:
    """Whether the model's most likely continuation of the question is the answer."""
    likely = judge.log_probabilities(chunks, question + answer).argmax(-1)
    return list(likely[len(question) - 1:-1]) == answer


def judge_needles(judge, contenders, texts, count) -> None:
    """In each text `scoring.NAMES` facts, from its beginning to its end. What a codec loses is what
    the exact keys and values still answer."""
    found = dict.fromkeys(["exact", *contenders], 0)
    lost = dict.fromkeys(contenders, 0)
    plain = judge.model.tokenizer
    total = 0
    for index, text in enumerate(texts[:count]):
        facts = scoring.facts(index)
        tokens = judge.model.all_tokens(scoring.needle_text(text, facts))
        chunks = judge.exact_chunks(tokens)
        asked = [(plain(scoring.QUESTION.format(name=name), add_special_tokens=False).input_ids,
                  plain(f" {number}.", add_special_tokens=False).input_ids)
                 for name, number in facts]
        exact = [answers(judge, chunks, *each) for each in asked]
        total += len(asked)
        found["exact"] += sum(exact)
        for contender, coder in contenders.items():
            coded = coded_chunks(coder, chunks, scoring.Scores())
            right = [answers(judge, coded, *each) for each in asked]
            found[contender] += sum(right)
            lost[contender] += sum(had and not has for had, has in zip(exact, right, strict=True))
    print(f"codec-needle: level=raw mode=exact found={found['exact']} lost=0 of={total}",
          flush=True)
    for contender, coder in contenders.items():
        print(f"codec-needle: level={contender[1]} mode={coder.mode} found={found[contender]} "
              f"lost={lost[contender]} of={total}", flush=True)


def contenders_of(options, judge) -> tuple[dict, daemon.Daemon | None]:
    """By (who, level)."""
    data = options.profile.read_bytes()
    profile = container.decode(data)
    server = daemon.Daemon(options.kvstored) if options.kvstored else None
    wanted = options.coders.split(",") if options.coders else (
        ["plain", "scalar", "predictive"] if server else ["S", "P"])
    contenders: dict = {}
    for who, used in (("plain", None), ("scalar", container.without_predictors(data)),
                      ("predictive", data)):
        if who in wanted and server is not None:
            for level in options.levels.split(","):
                # Mode lossless is the same with both profiles.
                if level != "L0" or who != "predictive":
                    contenders[who, level] = daemon.DaemonCoder(
                        server.connection, judge.shape, level, used)
    for mode, of_mode in (("S", profile.scalar_levels), ("P", profile.predictive_levels)):
        for level in of_mode:
            name = f"Q{level.number - 2}"
            if mode in wanted and name in options.levels.split(","):
                contenders[mode, name] = coders.ProfileCoder(
                    profile, data, judge.shape, mode, level)
    return contenders, server


def main() -> None:
    parser = argparse.ArgumentParser(usage=__doc__.removeprefix("usage: "), add_help=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--kvstored")
    parser.add_argument("--coders", default="")
    parser.add_argument("--levels", default="L0,Q1,Q2,Q3,Q4")
    parser.add_argument("--passages", type=int, default=8)
    parser.add_argument("--needles", type=int, default=2)
    parser.add_argument("--history", action="store_true")
    options = parser.parse_args()
    judge = Judge(options.model)
    texts = [json.loads(line)["text"] for line in options.text.open()]
    contenders, server = contenders_of(options, judge)
    try:
        if options.passages:
            judge_texts(judge, contenders, texts, options.passages, options.history)
        if options.needles:
            judge_needles(judge, contenders, texts, options.needles)
    finally:
        if server is not None:
            server.close()


if __name__ == "__main__":
    main()
