# SPDX-License-Identifier: Apache-2.0
"""GETs from memory beside chunks that are encoded on their way to the SSD, or written as they are.

A process of its own puts chunks of a described layout as fast as the SSD takes them; GETs over TCP
of chunks in memory are timed meanwhile, with one level after another, in random order.
"""

import os
import subprocess
import sys
from contextlib import contextmanager

from .servers import TOP, HarnessError

MEBIBYTE = 1 << 20
LEVELS = ("raw", "lossless", "q2")
RESIDENT_MEBIBYTES = 64  # few enough to be read again long before their turn to go
GET_CONNECTIONS = 4
INGEST_CONNECTIONS = 2
INGEST_STOP_SECONDS_MAX = 30


def measure(bench):
    library = TOP / "build" / "lib" / "libkvstore.so.0"
    if not library.exists():
        raise HarnessError(f"{library} is missing: run dev/build-libkvstore")
    for round_number in bench.rounds:
        for level in bench.shuffled(LEVELS):
            memory = 256 if bench.arguments.quick else 3072
            with bench.daemon(bench.arguments.capacity_mebibytes, memory,
                              ["--codec-demotion", level]) as server:
                bench.results.add(
                    "codec", {"level": level}, round_number, measure_level(bench, server, library))


def measure_level(bench, server, library):
    resident = 8 if bench.arguments.quick else RESIDENT_MEBIBYTES
    options = {"value_bytes": MEBIBYTE, "connections": GET_CONNECTIONS,
               "key_set_mebibytes": resident, "milliseconds": bench.arguments.milliseconds}
    # The first one fills the key set.
    bench.load(server, "get", "tcp", **{**options, "milliseconds": 100})
    with ingest(server, library):
        before = bench.stat(server)
        row = bench.load(server, "get", "tcp", **options)
        after = bench.stat(server)
    row["stored_bytes"] = after.since(before, "puts_stored_bytes")
    row["encoded_bytes"] = sum(
        after.since(before, f"codec_{mode}_in_bytes")
        for mode in ("zstd", "lossless", "cachegen", "scalar", "predictive"))
    row["ssd_reads"] = after.since(before, "ssd_hits")
    return row


@contextmanager
def ingest(server, library):
    """Puts chunks until the end of the block."""
    environment = {**os.environ, "KVSTORE_LIBRARY": str(library),
                   "PYTHONPATH": str(TOP / "clients" / "python")}
    process = subprocess.Popen(
        [sys.executable, str(TOP / "Benchmarks" / "ingest.py"), server.unix_socket,
         str(INGEST_CONNECTIONS)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        if process.stdout.readline().strip() != "ready":
            raise HarnessError("Benchmarks/ingest.py did not start")
        yield
    finally:
        process.stdin.close()
        try:
            process.wait(INGEST_STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
