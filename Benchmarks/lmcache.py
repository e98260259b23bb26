#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""LMCache's own benchmark (`lmcache bench l2`) over kvstored and over Redis, in turns.

Each repeat runs every system once for each size, every other repeat in reverse order; LMCache
verifies every byte of the last round. A cell is the median over the repeats of LMCache's median
round. Run it by dev/bench-lmcache, in whose environment LMCache is. docs/benchmarks.md says what
must hold.
"""
import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import machine, servers

MEBIBYTE = 1 << 20
OPERATIONS = ("Store", "Load", "Lookup")
PARSER = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
PARSER.add_argument("--mebibytes", default="1,4,8,32", help="sizes of values")
PARSER.add_argument("--round-mebibytes", type=int, default=128, help="bytes of a round")
PARSER.add_argument("--rounds", type=int, default=6)
PARSER.add_argument("--repeats", type=int, default=3)
PARSER.add_argument("--systems", default="redis,resp,plugin,plugin-tcp")
PARSER.add_argument("--memory-mebibytes", type=int, default=3072)
PARSER.add_argument("--redis-io-threads", type=int, default=1,
                    help="more than one spin, which costs them where cores are few")
PARSER.add_argument("--kvstored", help="the daemon to measure")
PARSER.add_argument("--json", help="file for all rows")
PARSER.add_argument("--judge", action="store_true",
                    help="status 1 when `plugin` or `resp` stores or loads slower than Redis")


class Failure(Exception):
    """What could not be done, in one sentence."""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def running(command, is_ready):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + servers.READY_SECONDS_MAX
        while not is_ready():
            if process.poll() is not None or time.monotonic() > end:
                raise Failure(f"{command[0]} does not serve")
            time.sleep(servers.READY_POLL_SECONDS)
        yield
    finally:
        process.terminate()
        process.wait(timeout=servers.STOP_SECONDS_MAX)


def redis(port, *words):
    done = subprocess.run(["redis-cli", "-p", str(port), *words], capture_output=True, text=True,
                          check=False)
    return done.stdout.strip()


class Systems:
    """The servers, and how LMCache is told of each."""

    def __init__(self, arguments, stack, folder):
        self.redis_port, self.resp_port, self.tcp_port = free_port(), free_port(), free_port()
        self.socket = f"{folder}/kvstored.sock"
        wanted = arguments.systems.split(",")
        self.names = [name for name in wanted if name in ("redis", "plugin", "plugin-tcp")]
        program = servers.find_kvstored(arguments.kvstored)
        if program is None:
            raise Failure("no kvstored; build it: swift build -c release --product kvstored")
        options = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
        command = [
            program, "--listen-unix-socket", self.socket,
            "--listen-tcp", f"127.0.0.1:{self.tcp_port}",
            "--memory-budget", f"{arguments.memory_mebibytes}MiB", "--memory-prefault", "true",
            "--log-level", "error", "--ready-file", f"{folder}/ready"]
        if "resp" in wanted and "--resp-listen" in options.stdout:
            self.names.insert(1, "resp")
            configuration = Path(folder) / "kvstored.yaml"
            configuration.write_text(
                "namespaces:\n  - name: default\n    shared_memory: true\n"
                f"resp:\n  listen: 127.0.0.1:{self.resp_port}\n"
                "  lmcache_strict_replies: true\n  flush: true\n")
            command += ["--config", str(configuration)]
        print("kvstored:", " ".join(command[1:]))
        stack.enter_context(running(command, lambda: os.path.exists(f"{folder}/ready")))
        if "redis" in self.names:
            command = [
                shutil.which("redis-server") or "redis-server", "--bind", "127.0.0.1", "--port",
                str(self.redis_port), "--save", "", "--appendonly", "no", "--io-threads",
                str(arguments.redis_io_threads), "--maxmemory", f"{arguments.memory_mebibytes}mb",
                "--maxmemory-policy", "allkeys-lru", "--dir", folder]
            print("redis:", " ".join(command[1:]))
            stack.enter_context(running(
                command, lambda: redis(self.redis_port, "ping") == "PONG"))

    def adapter(self, name, run):
        """LMCache's JSON for a system. Its keys are the same in every run, so what Redis and our
        listener have is removed, and the plugins get keys of their own by their layout."""
        if name in ("redis", "resp"):
            port = self.redis_port if name == "redis" else self.resp_port
            answer = redis(port, "FLUSHDB")
            if answer != "OK":
                raise Failure(f"{name}: FLUSHDB answers {answer}")
            return {"type": "resp", "host": "127.0.0.1", "port": port}
        address = f"unix:{self.socket}" if name == "plugin" else f"tcp:127.0.0.1:{self.tcp_port}"
        return {"type": "native_plugin", "module_path": "kvstore.adapters.lmcache_native",
                "class_name": "NativeConnector",
                "adapter_params": {"address": address, "layout": {"run": run}}}


def measure(adapter, size, arguments, path):
    """MiB/s of each operation's median round, keys/s of the lookup's."""
    keys = max(1, arguments.round_mebibytes // size)
    done = subprocess.run(
        [sys.executable, "-m", "lmcache.cli.main", "bench", "l2", "--l2-adapter",
         json.dumps(adapter), "--num-keys", str(keys), "--data-size-kb", str(size * 1024),
         "--rounds", str(arguments.rounds), "--lookup-max-hit-rate", "1.0", "--no-skip-verify",
         "--format", "json", "--output", path],
        capture_output=True, text=True, check=False, timeout=900)
    if done.returncode != 0 or f"All {keys} keys data verified OK" not in done.stdout:
        raise Failure(f"LMCache's benchmark failed:\n{(done.stdout + done.stderr)[-3000:]}")
    figures = {}
    for section in find_sections(json.loads(Path(path).read_text())):
        total, success = section["total_keys"], section["total_success"]
        if success != total or section["rounds_timed_out"]:
            raise Failure(f"{section['operation']}: {success} of {total} keys")
        seconds = section["duration_p50_ms"] / 1000
        amount = keys if section["operation"] == "Lookup" else keys * size
        figures[section["operation"]] = amount / max(seconds, 1e-5)
    return figures


def find_sections(value):
    """Every object of LMCache's report that is an operation's."""
    if isinstance(value, dict):
        if "duration_p50_ms" in value:
            yield value
        else:
            for each in value.values():
                yield from find_sections(each)
    elif isinstance(value, list):
        for each in value:
            yield from find_sections(each)


def run_all(arguments, systems, folder):
    rows = []
    run = 0
    for repeat in range(arguments.repeats):
        for size in map(int, arguments.mebibytes.split(",")):
            for name in systems.names if repeat % 2 == 0 else reversed(systems.names):
                run += 1
                figures = measure(
                    systems.adapter(name, run), size, arguments, f"{folder}/{run}.json")
                rows.append({"system": name, "mebibytes": size, "repeat": repeat, **figures})
                print(f"repeat {repeat + 1}, {size} MiB, {name}: " + ", ".join(
                    f"{operation} {figures[operation]:.0f}" for operation in OPERATIONS),
                    flush=True)
    return rows


def judge(rows, names):
    """Prints the table; what is slower than Redis."""
    slower = []
    print("\nmedian (lowest..highest); Store and Load in MiB/s, Lookup in keys/s")
    print("| operation | MiB | " + " | ".join(names) + " |")
    print("|---|---:|" + "---:|" * len(names))
    for operation in OPERATIONS:
        for size in sorted({row["mebibytes"] for row in rows}):
            cells, medians = [], {}
            for name in names:
                figures = [row[operation] for row in rows
                           if (row["system"], row["mebibytes"]) == (name, size)]
                medians[name] = statistics.median(figures)
                cells.append(f"{medians[name]:.0f} ({min(figures):.0f}..{max(figures):.0f})")
            print(f"| {operation} | {size} | " + " | ".join(cells) + " |")
            for name in ("plugin", "resp"):
                if operation != "Lookup" and name in medians and medians[name] < medians.get(
                        "redis", 0):
                    slower.append(f"{operation} of {size} MiB: {name} {medians[name]:.0f}, "
                                  f"redis {medians['redis']:.0f} MiB/s")
    return slower


def main():
    arguments = PARSER.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers are ended on the way out
    print("\n".join(machine.lines("none", "")))
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kvstore-bench-"))
        systems = Systems(arguments, stack, folder)
        rows = run_all(arguments, systems, folder)
    slower = judge(rows, systems.names)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))
    for text in slower:
        print("slower than Redis:", text)
    return 1 if slower and arguments.judge else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"bench-lmcache: {failure}")
