# SPDX-License-Identifier: Apache-2.0
"""Compares a cold and a warm engine run; exits with 1 unless the warm one is right and faster."""

import json
import sys
from pathlib import Path


def main() -> int:
    """Prints the comparison; the last line is for programs."""
    cold, warm = (json.loads(Path(path).read_text()) for path in sys.argv[1:3])
    ratio = cold["ttft_ms"] / warm["ttft_ms"]
    is_identical = warm["output"] == cold["output_memory"]
    for run in (cold, warm):
        if run["fault"]:
            print(f"demo: the {run['mode']} run went on without the store: {run['fault']}")
    print(f"demo: the engine goes on: {warm['text']!r}")
    print(
        f"demo: cold {cold['ttft_ms']:.0f} ms to the first token "
        f"({cold['ttft_cpu_ms']:.0f} ms CPU); {cold['chunks']} chunks, {cold['bytes']} bytes "
        f"saved in {cold['save_ms']:.0f} ms"
    )
    print(
        f"demo: warm {warm['ttft_ms']:.1f} ms to the first token "
        f"({warm['ttft_cpu_ms']:.1f} ms CPU): connect {warm['connect_ms']:.1f}, restore "
        f"{warm['restore_ms']:.1f}, the rest is one decode; the engine's own reuse of its memory "
        f"takes {cold['ttft_memory_ms']:.1f} ms"
    )
    print(
        "demo: output against the engine's own reuse: "
        f"{'identical' if is_identical else 'DIFFERENT'}; against the cold run: "
        f"{'identical' if warm['output'] == cold['output'] else 'different'} (which computes the "
        "last token in a batch, with another kernel)"
    )
    print(
        f"demo: ttft_cold_ms={cold['ttft_ms']:.0f} ttft_warm_ms={warm['ttft_ms']:.1f} "
        f"ratio={ratio:.1f} identical={str(is_identical).lower()} chunks={warm['chunks']} "
        f"bytes={warm['bytes']}"
    )
    return 0 if is_identical and ratio >= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
