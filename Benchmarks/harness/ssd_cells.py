# SPDX-License-Identifier: Apache-2.0
"""What is measured of the SSD tier: reads, writes, durable PUTs, GETs from memory beside writes."""

import json
import shutil
import subprocess
import time
from contextlib import contextmanager

from . import fio, ssd_codec
from .servers import PROGRAMS, HarnessError, Server

MEBIBYTE = 1 << 20
PARTS = ("reads", "writes", "durable", "interference", "codec")
LOAD_SECONDS_MAX = 900
FILL_CONNECTIONS = 8
VERIFY_CONNECTIONS = 4
WRITE_DEPTH = 8
INGEST_CONNECTIONS = 8
DRAIN_SECONDS_MAX = 60
FILL_SECONDS_MAX = 300
# Beside segments full of chunks that must stay: the one that is open, those that are kept free,
# metadata, and the share of each segment that chunks do not take.
SPARE_SEGMENTS = 8
SEGMENT_FILL_SHARE = 0.95
# Values in memory beside an ingest: few enough to be read again long before their turn to go.
RESIDENT_MEBIBYTES = 64


def write_memory_mebibytes(arguments):
    """Memory budget while values are written: as much as an ingest brings in the time in which all
    that GETs read is read; an eighth is for values that are put together in shared memory."""
    return 128 if arguments.quick else 3072


class Bench:
    """One run: the order, the results, the folder on the disk."""

    def __init__(self, arguments, kvstored, prefix, random, results, disk_folder, socket_folder):
        self.arguments = arguments
        self.kvstored = kvstored
        self.prefix = prefix
        self.random = random
        self.results = results
        self.disk_folder = disk_folder
        self.socket_folder = socket_folder
        self.segment_bytes = (16 if arguments.quick else 256) * MEBIBYTE
        quick = arguments.quick
        self.read_sizes = (256 << 10,) if quick else (MEBIBYTE, 4 * MEBIBYTE)
        self.read_depths = (1, 8) if quick else (1, 8, 32)
        self.write_sizes = (256 << 10,) if quick else (MEBIBYTE, 4 * MEBIBYTE)
        self.durable_sizes = (64 << 10,) if quick else (64 << 10, *self.write_sizes)
        self.with_fio = fio.is_installed() and not arguments.without_fio
        self.printed_command = False

    @property
    def rounds(self):
        return range(1, self.arguments.rounds + 1)

    def shuffled(self, items):
        return self.random.sample(list(items), len(items))

    # Daemon and client

    def start(self, store, capacity_mebibytes, memory_mebibytes, prefaults=True,
              ready_seconds_max=60, more=()):
        """A daemon over the directory `store`, ready to serve."""
        server = Server(
            "kvstore", self.kvstored, self.socket_folder, memory_mebibytes, self.prefix,
            ["--ssd-directories", str(store), "--ssd-capacity", f"{capacity_mebibytes}MiB",
             "--ssd-segment-bytes", f"{self.segment_bytes // MEBIBYTE}MiB",
             "--ssd-admission", "all", "--ssd-scrub-rate", "0",
             *more, *self.arguments.kvstored_arguments.split()], prefaults)
        if not self.printed_command:
            print(f"kvstored: {' '.join(server.command)}", flush=True)
            self.printed_command = True
        try:
            server.wait_until_ready(ready_seconds_max)
        except BaseException:
            server.stop()
            raise
        return server

    @contextmanager
    def daemon(self, capacity_mebibytes, memory_mebibytes, more=()):
        """A daemon over a new directory, ended and removed afterwards."""
        store = self.disk_folder / "store"
        store.mkdir()
        server = self.start(store, capacity_mebibytes, memory_mebibytes, more=more)
        try:
            yield server
        finally:
            server.stop()
            shutil.rmtree(store)

    @contextmanager
    def fio_file(self, server, byte_count):
        """fio over a file that is written already, or None without fio."""
        if not self.with_fio:
            yield None
            return
        huge_pages = self.stat(server)["huge_pages"] > 0
        if huge_pages and fio.huge_pages_free() == 0:
            print("fio: no reserved huge page is free, so its buffers are on small pages")
            huge_pages = False
        runner = fio.Fio(self.disk_folder / "fio", self.prefix, self.random, huge_pages)
        try:
            runner.lay_out(byte_count)
            yield runner
        finally:
            runner.remove()

    def load(self, server, operation, transport="unix", **options):
        """One call of the load client."""
        words = [str(PROGRAMS / "load"), "--system", "kvstore", "--operation", operation,
                 "--server-pid", str(server.process.pid),
                 "--seed", str(self.random.getrandbits(32))]
        # With both addresses, only what needs shared memory takes the Unix socket.
        words += ["--unix-socket", server.unix_socket]
        words += ["--port", str(server.port)] if transport == "tcp" else []
        for name, value in options.items():
            words += ["--" + name.replace("_", "-"), str(value)]
        command = self.prefix + words
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LOAD_SECONDS_MAX, check=False)
        if done.returncode != 0:
            raise HarnessError(f"{' '.join(command)}:\n{done.stderr.strip()}\n"
                               f"the server's log ends:\n{server.log_tail()}")
        return json.loads(done.stdout)

    def stat(self, server):
        """The daemon's counters; asking for one that it does not have is an error."""
        return Counters(self.load(server, "stat"))

    # Parts

    def measure(self):
        parts = [part.strip() for part in self.arguments.parts.split(",")]
        unknown = [part for part in parts if part not in PARTS]
        if unknown:
            raise HarnessError(f"no part is called {', '.join(unknown)}; there are "
                               f"{', '.join(PARTS)}")
        if "reads" in parts:
            for value_bytes in self.read_sizes:
                self.measure_reads(value_bytes)
        if "codec" in parts:
            ssd_codec.measure(self)
        if set(parts) - {"reads", "codec"}:
            with self.daemon(self.arguments.capacity_mebibytes,
                             write_memory_mebibytes(self.arguments)) as server:
                self.overwrite_once(server)
                self.measure_writing(server, parts)

    def overwrite_once(self, server):
        """Brings the log to its steady state, in which segments are used again."""
        enough = self.arguments.capacity_mebibytes * MEBIBYTE * 9 // 8
        deadline = time.monotonic() + FILL_SECONDS_MAX
        while self.stat(server)["ssd_written_bytes"] < enough:
            if time.monotonic() > deadline:
                raise HarnessError(f"kvstored did not write {enough >> 20} MiB in "
                                   f"{FILL_SECONDS_MAX} s")
            self.put(server, self.write_sizes[-1], FILL_CONNECTIONS, 1000, "put-local")

    def measure_reads(self, value_bytes):
        key_count = self.arguments.key_set_mebibytes * MEBIBYTE // value_bytes
        chunks_per_segment = int(self.segment_bytes * SEGMENT_FILL_SHARE) // (value_bytes + 4096)
        segment_count = -(-key_count // chunks_per_segment) + SPARE_SEGMENTS
        capacity_mebibytes = segment_count * self.segment_bytes // MEBIBYTE
        with self.daemon(capacity_mebibytes, self.arguments.memory_mebibytes) as server:
            self.load(server, "fill", value_bytes=value_bytes, key_count=key_count,
                      connections=FILL_CONNECTIONS, acknowledge="ssd")
            self.load(server, "verify", value_bytes=value_bytes, key_count=key_count,
                      connections=VERIFY_CONNECTIONS)
            with self.fio_file(server, key_count * value_bytes) as yardstick:
                reader = Reader(self, server, value_bytes, key_count)
                for round_number in self.rounds:
                    for depth in self.shuffled(self.read_depths):
                        self.read_round(reader, yardstick, depth, round_number)

    def read_round(self, reader, yardstick, depth, round_number):
        milliseconds = self.arguments.milliseconds
        runs = [("kvstored", "read", lambda: reader.lease(depth, milliseconds)),
                ("kvstored", "get_tcp", lambda: reader.get(depth, milliseconds))]
        if yardstick:
            runs.append(("fio", "read", lambda: yardstick.measure(
                "read", reader.value_bytes, depth, milliseconds)))
        self.transfers(runs, reader.value_bytes, depth, round_number)

    def transfers(self, runs, value_bytes, depth, round_number):
        for system, operation, run in self.shuffled(runs):
            place = {"system": system, "operation": operation, "value_bytes": value_bytes,
                     "depth": depth}
            self.results.add("transfer", place, round_number, run())

    def measure_writing(self, server, parts):
        file_mebibytes = self.arguments.capacity_mebibytes * 2 // 3
        with self.fio_file(server, file_mebibytes * MEBIBYTE) as yardstick:
            for round_number in self.rounds:
                if "writes" in parts:
                    for value_bytes in self.shuffled(self.write_sizes):
                        self.write_round(server, yardstick, value_bytes, round_number)
                if "durable" in parts:
                    places = [(size, clients) for size in self.durable_sizes
                              for clients in (1, 8)]
                    for value_bytes, clients in self.shuffled(places):
                        self.durable_round(server, yardstick, value_bytes, clients, round_number)
        if "interference" in parts:
            for round_number in self.rounds:
                for connections, ingest in self.shuffled([
                        (count, ingest) for count in (1, 4) for ingest in ("off", "on")]):
                    self.interference(server, connections, ingest, round_number)

    def write_round(self, server, yardstick, value_bytes, round_number):
        milliseconds = self.arguments.milliseconds

        def ingest():
            before, kernel_before = self.stat(server), kernel_written_bytes(server)
            row = self.put(server, value_bytes, WRITE_DEPTH, milliseconds, "put-local")
            after = self.drained(server)
            self.results.add("amplification", {"value_bytes": value_bytes}, round_number, {
                "payload_bytes": after.since(before, "ssd_payload_written_bytes"),
                "device_bytes": after.since(before, "ssd_written_bytes"),
                "kernel_bytes": kernel_written_bytes(server) - kernel_before})
            return row

        runs = [("kvstored", "write", ingest),
                ("kvstored", "put_unix",
                 lambda: self.put(server, value_bytes, WRITE_DEPTH, milliseconds))]
        if yardstick:
            runs += [("fio", operation, lambda operation=operation: yardstick.measure(
                operation, value_bytes, WRITE_DEPTH, milliseconds))
                     for operation in ("write", "write_fsync")]
        self.transfers(runs, value_bytes, WRITE_DEPTH, round_number)

    def durable_round(self, server, yardstick, value_bytes, clients, round_number):
        milliseconds = max(self.arguments.milliseconds * 2 // 5, 100)
        place = {"value_bytes": value_bytes, "clients": clients}
        runs = [("kvstored", lambda: self.put(server, value_bytes, clients, milliseconds))]
        if yardstick:
            runs.append(("fio", lambda: yardstick.measure(
                "write", value_bytes, clients, milliseconds)))
        for system, run in self.shuffled(runs):
            self.results.add("durable", {**place, "system": system}, round_number, run())
        self.drained(server)

    def put(self, server, value_bytes, connections, milliseconds, operation="put"):
        """New chunks, each answered when it is on stable storage."""
        return self.load(server, operation, value_bytes=value_bytes, connections=connections,
                         acknowledge="ssd", milliseconds=milliseconds)

    def interference(self, server, connections, ingest, round_number):
        """GETs of chunks that are in memory, over TCP, with and without PUTs at full speed."""
        background = {} if ingest == "off" else {
            "background_operation": "put-local", "background_connections": INGEST_CONNECTIONS,
            "background_value_bytes": self.write_sizes[-1], "acknowledge": "ssd"}
        resident_mebibytes = 8 if self.arguments.quick else RESIDENT_MEBIBYTES
        before = self.stat(server)
        row = self.load(
            server, "get", "tcp", value_bytes=MEBIBYTE, connections=connections,
            key_set_mebibytes=resident_mebibytes, order_seed=1 + self.random.getrandbits(32),
            milliseconds=self.arguments.milliseconds, **background)
        row["ssd_reads"] = self.drained(server).since(before, "ssd_hits")
        self.results.add("interference", {"connections": connections, "ingest": ingest},
                         round_number, row)

    def drained(self, server):
        """The counters once the daemon writes nothing more by itself."""
        deadline = time.monotonic() + DRAIN_SECONDS_MAX
        before = self.stat(server)
        while time.monotonic() < deadline:
            time.sleep(0.1)
            after = self.stat(server)
            if after.since(before, "ssd_written_bytes") == 0:
                return after
            before = after
        raise HarnessError("kvstored goes on writing to the SSD, though nobody puts anything")


class Reader:
    """Reads the key set in one order, on and on: no key returns before all others were read, so
    none is still in memory. fio's random reads do the same with their blocks."""

    def __init__(self, bench, server, value_bytes, key_count):
        self.bench = bench
        self.server = server
        self.value_bytes = value_bytes
        self.key_count = key_count
        self.order_seed = 1 + bench.random.getrandbits(32)
        self.position = 0

    def lease(self, depth, milliseconds):
        """In place over the Unix socket; `depth` keys are in flight."""
        batch = min(depth, self.bench.arguments.batch)
        return self.run("lease", "unix", depth // batch, milliseconds, batch=batch)

    def get(self, depth, milliseconds):
        """Whole values over TCP, for comparison."""
        return self.run("get", "tcp", depth, milliseconds)

    def run(self, operation, transport, connections, milliseconds, batch=1):
        before = self.bench.stat(self.server)
        row = self.bench.load(
            self.server, operation, transport, value_bytes=self.value_bytes,
            key_count=self.key_count, key_set="stored", connections=connections, batch=batch,
            milliseconds=milliseconds, order_seed=self.order_seed, first_position=self.position)
        read_count = row["operations"] * batch
        self.position = (self.position + read_count) % self.key_count
        hits = self.bench.stat(self.server).since(before, "ssd_hits")
        row["ssd_share"] = min(1, hits / read_count)
        # Only what came from the SSD counts as read.
        row["gigabytes_per_second"] *= row["ssd_share"]
        return row


class Counters(dict):
    """The daemon's answer to STAT."""

    def __missing__(self, name):
        raise HarnessError(f"kvstored has no counter {name}; it has {', '.join(self)}")

    def since(self, before, name):
        return self[name] - before[name]


def kernel_written_bytes(server):
    """What the kernel wrote to disks for the server's process (proc(5), io)."""
    with open(f"/proc/{server.process.pid}/io") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))
