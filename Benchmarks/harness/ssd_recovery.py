# SPDX-License-Identifier: Apache-2.0
"""How long a start takes on directories full of chunks, and what each chunk costs in memory."""

import json
import shutil
import subprocess
import time
from pathlib import Path
from statistics import median

from .servers import PROGRAMS, HarnessError
from .ssd_report import row

MEBIBYTE = 1 << 20
READY_SECONDS_MAX = 600
MAKE_SECONDS_MAX = 600
# Segments beside the full ones: a store needs free ones to write to.
FREE_SEGMENTS = 8
VERIFY_CONNECTIONS = 4


def make_segments(bench, store, value_bytes, with_payloads):
    """Writes a directory of full segments; without payloads, the files are sparse."""
    command = [str(PROGRAMS / "make-segments"), "--directory", str(store),
               "--segments", str(bench.arguments.recovery_segments),
               "--segment-bytes", str(bench.segment_bytes), "--value-bytes", str(value_bytes)]
    done = subprocess.run(command + (["--payloads"] if with_payloads else []), text=True,
                          capture_output=True, timeout=MAKE_SECONDS_MAX, check=False)
    if done.returncode != 0:
        raise HarnessError(f"{' '.join(command)}:\n{done.stderr.strip()}")
    return json.loads(done.stdout)


def resident_bytes(server):
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def start(bench, store, segment_count, memory_mebibytes):
    """A started daemon, the seconds that it took from its first instruction to its first answer,
    and its resident memory then. Its arena is not touched, so that only tables count."""
    capacity = segment_count * bench.segment_bytes // MEBIBYTE
    begin = time.monotonic()
    server = bench.start(store, capacity, memory_mebibytes, prefaults=False,
                         ready_seconds_max=READY_SECONDS_MAX)
    bench.stat(server)
    return server, time.monotonic() - begin, resident_bytes(server)


def empty_start(bench, memory_mebibytes):
    store = bench.disk_folder / "empty"
    store.mkdir()
    server, seconds, resident = start(bench, store, FREE_SEGMENTS, memory_mebibytes)
    server.stop()
    shutil.rmtree(store)
    return seconds, resident


def full_start(bench, store, made, memory_mebibytes, checks_payloads):
    """Starts on what was made; every chunk must be there, and readable where it has a payload."""
    server, seconds, resident = start(
        bench, store, made["segments"] + FREE_SEGMENTS, memory_mebibytes)
    try:
        found = bench.load(server, "lookup", value_bytes=made["value_bytes"],
                           key_count=made["chunks"])
        if found["present"] != made["chunks"]:
            raise HarnessError(f"of {made['chunks']} chunks, {found['present']} are there after "
                               f"the start; the log ends:\n{server.log_tail()}")
        if checks_payloads:
            bench.load(server, "verify", value_bytes=made["value_bytes"],
                       key_count=made["chunks"], connections=VERIFY_CONNECTIONS)
    finally:
        server.stop()
    return seconds, resident


def measure(bench):
    """Prints a row per chunk size, and per start with and without a checkpoint."""
    quick = bench.arguments.quick
    memory_mebibytes = 128 if quick else 4096
    for value_bytes in (70000,) if quick else (4 * MEBIBYTE, 256 << 10):
        for round_number in bench.rounds:
            store = bench.disk_folder / "recovery"
            made = make_segments(bench, store, value_bytes, with_payloads=quick)
            empty_seconds, empty_resident = empty_start(bench, memory_mebibytes)
            # The first start finds no checkpoint; the daemon leaves one when it ends.
            for checkpoint in ("no", "yes"):
                seconds, resident = full_start(
                    bench, store, made, memory_mebibytes, checks_payloads=quick)
                measured = {"seconds": seconds, "empty_seconds": empty_seconds,
                            "bytes_per_chunk": (resident - empty_resident) / made["chunks"]}
                bench.results.add("recovery", {
                    "chunks": made["chunks"], "value_bytes": value_bytes,
                    "checkpoint": checkpoint}, round_number, measured)
            shutil.rmtree(store)
    print_rows(bench.results)


def print_rows(results):
    for value_bytes, chunks, checkpoint in results.places(
            "recovery", "value_bytes", "chunks", "checkpoint"):
        rows = results.select("recovery", value_bytes=value_bytes, checkpoint=checkpoint)
        seconds = [each["seconds"] for each in rows]
        row("ssd-recovery", chunks=chunks, value_bytes=value_bytes, checkpoint=checkpoint,
            seconds=median(seconds), min=min(seconds), max=max(seconds),
            empty_seconds=median(each["empty_seconds"] for each in rows),
            bytes_per_chunk=median(each["bytes_per_chunk"] for each in rows))
