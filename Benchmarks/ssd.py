#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures kvstored's SSD tier beside fio, on the same file system, in the same run.

The systems alternate in random order, round after round. With --recovery: how long a start takes
on a directory full of chunks, and what they cost in memory. See docs/benchmarks.md, "SSD tier".
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from harness import fio, machine, ssd_cells, ssd_recovery, ssd_report
from harness.servers import TOP, HarnessError, find_kvstored, real_time_prefix

MEBIBYTE = 1 << 20
FIO_BUFFER_MEBIBYTES = 256  # huge pages beside the arena's
HUGE_PAGE_COUNT = Path("/proc/sys/vm/nr_hugepages")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true",
                        help="tiny sizes: checks that everything works, not speed")
    parser.add_argument("--recovery", action="store_true",
                        help="measure starts on a full directory instead of reads and writes")
    parser.add_argument("--parts", default=",".join(ssd_cells.PARTS),
                        help="comma-separated, of " + ", ".join(ssd_cells.PARTS))
    parser.add_argument("--rounds", type=int, help="repeats of each row (3; 1 with --quick)")
    parser.add_argument("--milliseconds", type=int, help="measured time per row (5000; 300)")
    parser.add_argument("--directory", type=Path, default=TOP / "build",
                        help="where stores and fio's file are made, and removed at the end")
    parser.add_argument("--key-set-mebibytes", type=int,
                        help="values of one size that are read (6144; 64)")
    parser.add_argument("--capacity-mebibytes", type=int,
                        help="the store while it is written to (6144; 256)")
    parser.add_argument("--memory-mebibytes", type=int,
                        help="memory budget while values are read (512; 48)")
    parser.add_argument("--batch", type=int,
                        help="keys per LEASE (1; 4); depth = connections x batch")
    parser.add_argument("--huge-pages", action="store_true",
                        help="reserve huge pages for the arena and for fio while this runs (root)")
    parser.add_argument("--scheduler", choices=("fifo", "other"), default="other",
                        help="the kernel's own threads complete writes, so not SCHED_FIFO")
    parser.add_argument("--recovery-segments", type=int, help="segments of 256 MiB (4096; 3)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="order and key choice")
    parser.add_argument("--kvstored", help="path of the daemon (the release build of this tree)")
    parser.add_argument("--kvstored-arguments", default="", metavar="'ARGUMENTS'",
                        help="further arguments of the daemon")
    parser.add_argument("--without-fio", action="store_true", help="kvstored alone")
    parser.add_argument("--json", type=Path, help="write all rows to this file")
    arguments = parser.parse_args()
    defaults = {"rounds": (3, 1), "milliseconds": (5000, 300), "key_set_mebibytes": (6144, 64),
                "capacity_mebibytes": (6144, 256), "memory_mebibytes": (512, 48), "batch": (1, 4),
                "recovery_segments": (4096, 3)}
    for name, (full_value, quick_value) in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, quick_value if arguments.quick else full_value)
    return arguments


@contextmanager
def reserved_huge_pages(mebibytes):
    """Keeps that much in huge pages, and gives back what was not there before."""
    before = HUGE_PAGE_COUNT.read_text()
    try:
        HUGE_PAGE_COUNT.write_text(f"{int(before) + mebibytes // 2}\n")
        yield
    finally:
        HUGE_PAGE_COUNT.write_text(before)


def check_room(arguments, folder):
    """Fails before anything is written when the file system has no room for it."""
    needed = max(arguments.key_set_mebibytes * 5 // 2, arguments.capacity_mebibytes * 2) * MEBIBYTE
    free = shutil.disk_usage(folder).free
    if not arguments.recovery and free < needed:
        raise HarnessError(f"{folder} has {free >> 30} GiB free, {needed >> 30} GiB are needed; "
                           "give --directory, or a smaller --key-set-mebibytes")


def print_conditions(arguments, prefix):
    print("\n".join(machine.lines(arguments.seed, prefix)))
    version = "not installed" if not fio.is_installed() else subprocess.run(
        ["fio", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    print(f"{arguments.rounds} rounds of {arguments.milliseconds} ms a row; {version}; stores in "
          f"{arguments.directory}", flush=True)


def run_all(arguments, disk_folder, socket_folder):
    kvstored = find_kvstored(arguments.kvstored)
    if kvstored is None:
        raise HarnessError("no kvstored found; build it or give --kvstored")
    check_room(arguments, disk_folder)
    prefix = real_time_prefix(arguments.scheduler)
    results = ssd_report.Results()
    print_conditions(arguments, prefix)
    bench = ssd_cells.Bench(
        arguments, kvstored, prefix, random.Random(arguments.seed), results, disk_folder,
        socket_folder)
    try:
        if arguments.recovery:
            ssd_recovery.measure(bench)
        else:
            bench.measure()
    finally:
        if arguments.json:
            arguments.json.write_text(json.dumps(results.rows, indent=1) + "\n")
    if not arguments.recovery:
        ssd_report.print_all(results)
    if arguments.quick and not arguments.recovery:
        ssd_recovery.measure(bench)
    return 0


def main():
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments.directory.mkdir(parents=True, exist_ok=True)
    disk_folder = Path(tempfile.mkdtemp(prefix="bench-ssd-", dir=arguments.directory))
    # A socket's path must be short.
    socket_folder = Path(tempfile.mkdtemp(prefix="kvstore-bench-"))
    try:
        if arguments.huge_pages:
            memory = max(arguments.memory_mebibytes, ssd_cells.write_memory_mebibytes(arguments))
            with reserved_huge_pages(memory + FIO_BUFFER_MEBIBYTES):
                return run_all(arguments, disk_folder, socket_folder)
        return run_all(arguments, disk_folder, socket_folder)
    except (HarnessError, subprocess.TimeoutExpired, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(disk_folder, ignore_errors=True)
        shutil.rmtree(socket_folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
