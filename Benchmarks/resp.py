#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares kvstored's RESP listener with Redis in the same run: under redis-benchmark, and under
Benchmarks/load, which keeps up with large values.

The systems alternate within a cell, in random order, round after round, so that a drift of the
machine meets both. See docs/benchmarks.md.
"""

import argparse
import csv
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import machine
from harness.servers import (
    PROGRAMS, HarnessError, Server, clean_environment, find_kvstored, free_port, program_of,
    real_time_prefix)

KIBIBYTE, MEBIBYTE = 1 << 10, 1 << 20
RUN_SECONDS_MAX = 300
# How the rows of each are called.
CLIENTS = {"redis-benchmark": "redis", "load": "redis-load"}

# value bytes, clients, pipeline, and what must hold: kvstored / redis in GB/s.
CELLS = [
    (64, 8, 16, 0.7), (KIBIBYTE, 8, 16, 0.7), (4 * KIBIBYTE, 8, 16, 0.7),
    (64 * KIBIBYTE, 1, 1, 1.0), (64 * KIBIBYTE, 8, 1, 1.0),
    (MEBIBYTE, 1, 1, 1.0), (MEBIBYTE, 8, 1, 1.0),
    (4 * MEBIBYTE, 1, 1, 1.5), (4 * MEBIBYTE, 8, 1, 1.5),
    (32 * MEBIBYTE, 1, 1, 1.5), (32 * MEBIBYTE, 8, 1, 1.5),
]
QUICK_CELLS = [(4 * KIBIBYTE, 4, 16, 0.7), (MEBIBYTE, 2, 1, 1.0)]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true",
                        help="few and small values: checks that it runs, not how fast")
    parser.add_argument("--kvstored", help="path of the daemon (the release build of this tree)")
    parser.add_argument("--rounds", type=int, help="repeats of each cell (5; 1 with --quick)")
    parser.add_argument("--mebibytes", type=int, help="moved in one repeat (1024; 8)")
    parser.add_argument("--operations-max", type=int, default=200_000, help="in one repeat")
    parser.add_argument("--memory-mebibytes", type=int, default=1024)
    parser.add_argument("--value-bytes", type=int, action="append", help="only these cells")
    parser.add_argument("--scheduler", choices=("auto", "fifo", "other"), default="auto",
                        help="SCHED_FIFO for servers and client: where permitted, must, never")
    parser.add_argument("--kvstored-arguments", default="", metavar="'ARGUMENTS'",
                        help="further arguments of the daemon, e.g. '--io-shards 1'")
    parser.add_argument("--clients", default=",".join(CLIENTS), help="comma-separated")
    parser.add_argument("--milliseconds", type=int,
                        help="of one repeat with the load client (300; 30)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the order")
    parser.add_argument("--judge", action="store_true",
                        help="exit 1 when a figure that must hold does not")
    arguments = parser.parse_args()
    sizes = {"rounds": (5, 1), "mebibytes": (1024, 8), "milliseconds": (300, 30)}
    for name, (full, quick) in sizes.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, quick if arguments.quick else full)
    return arguments


class Run:
    """The servers under comparison, and how they are asked."""

    def __init__(self, arguments, kvstored, folder):
        self.prefix = real_time_prefix("other" if arguments.quick else arguments.scheduler)
        self.servers, self.ports = {}, {}
        for system in ("kvstore", "redis"):
            port = free_port()
            more = [f"--resp-listen=127.0.0.1:{port}", *arguments.kvstored_arguments.split()]
            server = Server(system, program_of(system, kvstored), folder,
                            arguments.memory_mebibytes, self.prefix,
                            more if system == "kvstore" else [])
            self.servers[system] = server
            self.ports[system] = port if system == "kvstore" else server.port
            print(" ".join(server.command), flush=True)
        for server in self.servers.values():
            server.wait_until_ready()

    def stop(self):
        for server in self.servers.values():
            server.stop()

    def processor_seconds(self, system):
        """What the server has used, in user and system mode."""
        stat = Path(f"/proc/{self.servers[system].process.pid}/stat").read_text()
        fields = stat.rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def measure(self, client, system, operation, cell, arguments):
        """Operations a second, and the server's CPU seconds per GB."""
        if client == "load":
            return self.measure_with_load(system, operation, cell, arguments)
        value_bytes, clients, pipeline, _ = cell
        count = min(arguments.mebibytes * MEBIBYTE // value_bytes, arguments.operations_max)
        count = max(count, 4 * clients * pipeline)
        command = [*self.prefix, "redis-benchmark", "-p", str(self.ports[system]),
                   "-t", operation, "-d", str(value_bytes), "-c", str(clients),
                   "-P", str(pipeline), "-n", str(count), "--csv"]
        before = self.processor_seconds(system)
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              timeout=RUN_SECONDS_MAX, env=clean_environment())
        used = self.processor_seconds(system) - before
        for row in csv.reader(done.stdout.splitlines()):
            if row and row[0] == operation.upper():
                return float(row[1]), used / (count * value_bytes / 1e9)
        raise HarnessError(f"redis-benchmark says {done.stdout!r} and {done.stderr!r}")


    def measure_with_load(self, system, operation, cell, arguments):
        value_bytes, clients, _, _ = cell
        key_set = 8 if arguments.quick else 256
        command = [*self.prefix, str(PROGRAMS / "load"), "--system", "redis",
                   "--operation", {"set": "put", "get": "get"}[operation],
                   "--milliseconds", str(arguments.milliseconds),
                   "--key-set-mebibytes", str(key_set), "--seed", str(arguments.seed % 1000),
                   "--server-pid", str(self.servers[system].process.pid),
                   "--value-bytes", str(value_bytes), "--connections", str(clients),
                   "--port", str(self.ports[system])]
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              timeout=RUN_SECONDS_MAX, env=clean_environment())
        if done.returncode != 0:
            raise HarnessError(f"{' '.join(command)} says {done.stderr!r}")
        told = json.loads(done.stdout)
        return (told["operations"] / told["elapsed_seconds"],
                told["server_cpu_seconds_per_gigabyte"] or 0.0)


def check_value(port, value_bytes):
    """The value that redis-benchmark stored is there, and as large: GET measured hits."""
    done = subprocess.run(["redis-cli", "-p", str(port), "STRLEN", "key:__rand_int__"],
                          capture_output=True, text=True, check=True, timeout=60)
    if int(done.stdout) != value_bytes:
        raise HarnessError(f"a value of {done.stdout.strip()} bytes, not {value_bytes}")


def measure(arguments, run, client, cell, order):
    """What `Run.measure` told of each system and operation, by round."""
    told = {(system, operation): [] for system in run.ports for operation in ("set", "get")}
    for _ in range(arguments.rounds):
        for operation in ("set", "get"):
            systems = list(run.ports)
            order.shuffle(systems)
            for system in systems:
                if operation == "get" and client == "redis-benchmark":
                    check_value(run.ports[system], cell[0])
                told[system, operation].append(
                    run.measure(client, system, operation, cell, arguments))
    return told


def report(client, cell, told):
    """Prints the rows of a cell; returns the verdicts."""
    value_bytes, clients, pipeline, bound = cell
    verdicts = []
    for operation in ("set", "get"):
        for system, name in (("kvstore", "kvstored"), ("redis", "redis")):
            all_rates = [rate for rate, _ in told[system, operation]]
            used = statistics.median(used for _, used in told[system, operation])
            gbps = [rate * value_bytes / 1e9 for rate in all_rates]
            print(f"{CLIENTS[client]}: system={name} op={operation} value_bytes={value_bytes} "
                  f"clients={clients} pipeline={pipeline} gbps={statistics.median(gbps):.3f} "
                  f"min={min(gbps):.3f} max={max(gbps):.3f} "
                  f"ops_per_s={statistics.median(all_rates):.0f} cpu_s_per_gb={used:.3f}",
                  flush=True)
        ratios = [ours / theirs for (ours, _), (theirs, _)
                  in zip(told["kvstore", operation], told["redis", operation])]
        ratio = statistics.median(ratios)
        verdicts.append(ratio >= bound)
        print(f"{CLIENTS[client]}-ratio: op={operation} value_bytes={value_bytes} "
              f"clients={clients} pipeline={pipeline} ratio={ratio:.2f} min={min(ratios):.2f} "
              f"max={max(ratios):.2f} bound={bound} holds={str(verdicts[-1]).lower()}", flush=True)
    return verdicts


def main():
    arguments = parse_arguments()
    for program in ("redis-server", "redis-benchmark", "redis-cli"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed: run dev/setup")
    kvstored = find_kvstored(arguments.kvstored)
    if kvstored is None:
        sys.exit("no kvstored: swift build -c release --product kvstored, or --kvstored PATH")
    for line in machine.lines(arguments.seed, []):
        print(line, flush=True)
    order = random.Random(arguments.seed)
    cells = QUICK_CELLS if arguments.quick else CELLS
    if arguments.value_bytes:
        cells = [cell for cell in cells if cell[0] in arguments.value_bytes]
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="kvstore-redis-") as folder:
        run = Run(arguments, kvstored, folder)
        try:
            for client in arguments.clients.split(","):
                for cell in cells:
                    # The load client has one request under way in each connection.
                    if client == "load" and cell[2] > 1:
                        continue
                    told = measure(arguments, run, client, cell, order)
                    verdicts += report(client, cell, told)
        except HarnessError as error:
            sys.exit(f"redis: {error}")
        finally:
            run.stop()
    if arguments.judge and not all(verdicts):
        sys.exit(1)


main()
