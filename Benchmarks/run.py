#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares kvstored with a blocking C server, memcached and Redis in the same run.

Every system is measured by the same C client. Within a cell the systems alternate in random
order, round after round, so that a drift of the machine meets all of them. See
docs/benchmarks.md.
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
from pathlib import Path

from harness import cells as cell_list
from harness import machine, report
from harness.servers import (
    PROGRAMS, HarnessError, Server, find_kvstored, program_of, real_time_prefix)

SYSTEMS = ("reference", "kvstore", "memcached", "redis")
LOAD_SECONDS_MAX = 120
SOAK_SECONDS_MAX = 3600
FILL_MILLISECONDS_MAX = 60000
KEY_SET_COUNT_MAX = 8  # of different sizes or purposes, in all cells together
MEBIBYTE = 1 << 20


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true",
                        help="tiny sizes and counts: checks that every driver works, not speed")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="comma-separated")
    parser.add_argument("--cells", default="*",
                        help="comma-separated patterns, e.g. 'get-4m-*,mixed-*'")
    parser.add_argument("--list", action="store_true", help="print the cells' names and end")
    parser.add_argument("--rounds", type=int, help="repeats of each cell (5; 1 with --quick)")
    parser.add_argument("--milliseconds", type=int, help="measured time per row (500; 30)")
    parser.add_argument("--memory-mebibytes", type=int,
                        help="memory budget of every server (1024; 256)")
    parser.add_argument("--key-set-mebibytes", type=int,
                        help="values that are read, together (256; 8)")
    parser.add_argument("--scheduler", choices=("auto", "fifo", "other"), default="auto",
                        help="SCHED_FIFO for servers and client: where permitted, must, never")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="order and key choice")
    parser.add_argument("--kvstored", help="path of the daemon (the release build of this tree)")
    parser.add_argument("--kvstored-arguments", default="", metavar="'ARGUMENTS'",
                        help="further arguments of the daemon, e.g. '--io-shards 1'")
    parser.add_argument("--require-kvstored", action="store_true",
                        help="fail when there is no daemon; without it kvstore is left out")
    parser.add_argument("--json", type=Path, help="write all rows to this file")
    parser.add_argument("--seconds-max", type=int, default=1800, help="bound of the whole run")
    parser.add_argument("--judge", action="store_true",
                        help="exit 1 when a must-hold figure fails")
    parser.add_argument("--soak", type=int, metavar="OPERATIONS",
                        help="instead of cells: random traffic on the first of --systems "
                        "that is a store, watching its memory")
    parser.add_argument("--idle-connections", type=int, default=10000, help="with --soak")
    arguments = parser.parse_args()
    quick = arguments.quick
    defaults = {"rounds": (5, 1), "milliseconds": (500, 30), "memory_mebibytes": (1024, 256),
                "key_set_mebibytes": (256, 8)}
    for name, (full_value, quick_value) in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, quick_value if quick else full_value)
    return arguments


class Run:
    """One run: the servers, the order, the results."""

    def __init__(self, arguments, folder):
        self.arguments = arguments
        self.folder = folder
        self.prefix = real_time_prefix("other" if arguments.quick else arguments.scheduler)
        self.random = random.Random(arguments.seed)
        self.servers = {}
        self.results = report.Results()
        self.deadline = time.monotonic() + arguments.seconds_max

    def start_servers(self, systems):
        kvstored = find_kvstored(self.arguments.kvstored)
        for system in systems:
            program = program_of(system, kvstored)
            if program is None and system == "kvstore" and not self.arguments.require_kvstored:
                print("kvstore is left out: no kvstored found; build it or give --kvstored")
                continue
            if program is None:
                raise HarnessError(f"{system} is not installed; dev/bench installs what is needed")
            self.servers[system] = Server(
                system, program, self.folder, self.memory_mebibytes(system), self.prefix,
                self.arguments.kvstored_arguments.split() if system == "kvstore" else ())
        for server in self.servers.values():
            server.wait_until_ready()
        if not self.servers:
            raise HarnessError("no server is left to measure")

    def memory_mebibytes(self, system):
        """The budget of a server. memcached and Redis evict approximately, also what was just put;
        they get room for every key set of a run, so that they never evict while measured."""
        budget = self.arguments.memory_mebibytes
        if system in ("memcached", "redis"):
            return max(budget, KEY_SET_COUNT_MAX * self.arguments.key_set_mebibytes)
        return budget

    def stop_servers(self):
        for server in self.servers.values():
            server.stop()

    def load(self, variant, milliseconds):
        server = self.servers[variant.system]
        command = self.prefix + [
            str(PROGRAMS / "load"), "--system", variant.system, "--operation", variant.operation,
            "--milliseconds", str(milliseconds),
            "--key-set-mebibytes", str(self.arguments.key_set_mebibytes),
            "--server-pid", str(server.process.pid), "--seed", str(self.random.getrandbits(32)),
            *variant.arguments]
        if variant.transport == "unix":
            command += ["--unix-socket", server.unix_socket]
        else:
            command += ["--port", str(server.port)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LOAD_SECONDS_MAX, check=False)
        if done.returncode != 0:
            raise HarnessError(f"{variant.name} in {' '.join(command)}:\n{done.stderr.strip()}\n"
                               f"the server's log ends:\n{server.log_tail()}")
        return json.loads(done.stdout)

    def fill(self):
        """Brings kvstored to its steady state, a full budget, before anything is measured."""
        if "kvstore" not in self.servers or self.arguments.quick:
            return
        value_bytes = 4 * MEBIBYTE
        count = self.arguments.memory_mebibytes * MEBIBYTE // value_bytes
        variant = cell_list.Variant("kvstore", "put", "tcp", cell_list.words(
            value_bytes=value_bytes, connections=1, operations_max=count))
        self.load(variant, FILL_MILLISECONDS_MAX)

    def measure(self, cells):
        """All rounds of all cells. Returns whether time sufficed."""
        for round_number in range(1, self.arguments.rounds + 1):
            for cell in self.random.sample(cells, len(cells)):
                if time.monotonic() > self.deadline:
                    print(f"\nStopped in round {round_number}: --seconds-max is reached.")
                    return False
                variants = [each for each in cell.variants if each.system in self.servers]
                for variant in self.random.sample(variants, len(variants)):
                    milliseconds = self.arguments.milliseconds * cell.duration_factor
                    row = self.load(variant, milliseconds)
                    self.results.add(cell, variant, round_number, row)
        return True

    def soak(self):
        (system, server), = self.servers.items()
        command = [
            str(PROGRAMS / "soak"), "--system", system, "--port", str(server.port),
            "--server-pid", str(server.process.pid), "--seed", str(self.arguments.seed),
            "--operations", str(self.arguments.soak),
            "--memory-mebibytes", str(self.arguments.memory_mebibytes),
            "--idle-connections", str(self.arguments.idle_connections)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SOAK_SECONDS_MAX, check=False)
        print(done.stdout, end="")
        if done.returncode != 0:
            print(f"{done.stderr.strip()}\nthe server's log ends:\n{server.log_tail()}")
        return done.returncode


def print_conditions(run):
    arguments = run.arguments
    print("\n".join(machine.lines(arguments.seed, run.prefix)))
    print(f"{arguments.rounds} rounds of {arguments.milliseconds} ms a row; budget "
          f"{arguments.memory_mebibytes} MiB a server, values of {arguments.key_set_mebibytes} MiB")
    for server in run.servers.values():
        print(f"{server.system}: {' '.join(server.command)}")
        if server.system == "reference":
            print(f"reference: {server.log_tail().strip()}")


def run_all(arguments, folder):
    cells = cell_list.quick_cells() if arguments.quick else cell_list.full_cells()
    cells = cell_list.select(cells, arguments.cells)
    if arguments.list:
        print("\n".join(cell.name for cell in cells))
        return 0
    systems = [name.strip() for name in arguments.systems.split(",")]
    unknown = [name for name in systems if name not in SYSTEMS]
    if unknown or not cells:
        raise HarnessError(f"no such system: {', '.join(unknown)}" if unknown else
                           "no cell has such a name; --list prints them")
    if arguments.soak:
        # The reference is no store: it keeps no keys apart.
        systems = [name for name in systems if name != "reference"][:1]
    run = Run(arguments, folder)
    try:
        run.start_servers(systems)
        print_conditions(run)
        if arguments.soak:
            return run.soak()
        run.fill()
        complete = run.measure(cells)
    finally:
        run.stop_servers()
    if arguments.json:
        arguments.json.write_text(json.dumps(run.results.rows, indent=1) + "\n")
    if arguments.quick:
        print(f"quick: {len(run.results.rows)} rows of {len(cells)} cells, every value came back "
              f"as it was put, by {', '.join(run.servers)}")
        return 0 if complete else 1
    for cell in cells:
        report.print_cell(cell, run.results)
    failing = report.print_verdicts(cells, run.results)
    return 1 if not complete or (arguments.judge and failing) else 0


def main():
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = tempfile.mkdtemp(prefix="kvstore-bench-")
    try:
        return run_all(arguments, folder)
    except (HarnessError, subprocess.TimeoutExpired) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
