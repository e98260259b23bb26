#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: ingest.py SOCKET CONNECTIONS

Puts chunks of a described layout (bf16, 4 MiB) durably, each connection one after another, until
its standard input ends. Says "ready" when the first of each is stored.
"""

import random
import struct
import sys
import threading

import kvstore

LAYERS, HEADS, CHANNELS, TOKENS = 16, 2, 128, 256
DESCRIPTION = {
    "model": "benchmark", "dtype": "bfloat16", "layers": LAYERS, "kv_heads": HEADS,
    "head_dim": CHANNELS, "axes": "kv,layer,token,head,channel", "rope_theta": 10000.0}


def payload(generator):
    """Values as KV has them: each channel with a scale of its own; a tenth of them drawn, the
    others repeated, which takes no time."""
    scales = [generator.lognormvariate(0, 1) for _ in range(HEADS * CHANNELS)]
    rows = []
    for _ in range(TOKENS * 2):
        values = struct.pack(
            f"<{len(scales)}f", *(generator.gauss(0, scale) for scale in scales))
        # The high halves of floats are bfloat16.
        rows.append(b"".join(values[at + 2 : at + 4] for at in range(0, len(values), 4)))
    return b"".join(b"".join(generator.sample(rows, TOKENS)) for _ in range(2 * LAYERS))


def run(address, number, is_over, has_begun):
    with kvstore.Client(address, deadline_milliseconds=60_000) as client:
        layout = client.describe_layout(DESCRIPTION)
        generator = random.Random(number)
        chunk = payload(generator)
        token = 0
        while not is_over.is_set():
            token += 1
            keys = client.prefix_keys(layout, [number, token] * (TOKENS // 2), TOKENS)
            try:
                client.put(keys[0], chunk, layout_id=layout, durable=True, first_position=0)
            except (kvstore.Busy, kvstore.NotDurable, kvstore.DeadlineExceeded):
                continue  # the SSD is behind: the next one
            finally:
                has_begun.set()


def main():
    address, connections = f"unix:{sys.argv[1]}", int(sys.argv[2])
    is_over = threading.Event()
    begun = [threading.Event() for _ in range(connections)]
    threads = [threading.Thread(target=run, args=(address, number, is_over, event))
               for number, event in enumerate(begun)]
    for thread in threads:
        thread.start()
    for event in begun:
        event.wait(60)
    print("ready", flush=True)
    sys.stdin.read()
    is_over.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
