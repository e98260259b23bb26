# SPDX-License-Identifier: Apache-2.0
"""Kills the daemon at random points under mixed load, restarts it on the same directory, compares.

The last line is `crash: kills=<n> wrong_bytes=<n> lost_durable=<n> resurrected=<n>`; the exit
status is 1 if one of the last three is not 0, or the daemon broke in another way. The rules are in
model.py.

The seed fixes what is chosen, not how the threads and the kernel take turns: a failure will not
come back each time. That is why the directory of a failure is kept.
"""
import argparse
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import NamedTuple

from daemon import TOP, Daemon, DaemonFault, find_kvstored
from frames import Broken, Connection, Lost
from load import Crew, Life, Shape

KINDS = ("wrong_bytes", "lost_durable", "resurrected", "broken")
FINDINGS_TOLD_MAX = 8
CREWS, CLIENTS_PER_CREW = 2, 4
CHECK_SECONDS_MAX = 120.0
# How a life ends, and how often.
ENDS = {
    "in load": 56,  # at a random time under load
    "early": 14,  # soon after it was ready, while clients read
    "in recovery": 12,  # before it is ready, mostly
    "in a checkpoint": 8,  # as soon as one is being written
    "in a stop": 6,  # soon after SIGTERM under load
    "clean stop": 4,  # SIGTERM without load, to its end
}


class Setting(NamedTuple):
    """What a store is run with. Live chunks fit several times over, so that only dead ones have to
    make room; but in an overfull one, the store has to evict."""

    directory_count: int
    segment_mib: int
    capacity_mib: int
    memory_mib: int
    scrub_rate: str
    keys_per_client: int
    sizes: tuple
    is_overfull: bool

    @staticmethod
    def random(source):
        is_overfull = source.random() < 0.15
        keys_per_client, sizes = source.choice((
            (100, (1, 1 << 20)), (100, (1, 1 << 20)), (250, (1, 1 << 16)),
            (20, (1 << 16, 1 << 20))))
        if is_overfull:
            keys_per_client, sizes = 100, (1 << 14, 1 << 20)
        return Setting(
            directory_count=source.choice((1, 1, 2)),
            segment_mib=source.choice((2, 4, 4, 8)),
            capacity_mib=64 if is_overfull else source.choice((160, 192, 256)),
            memory_mib=source.choice((24, 32, 48)),
            scrub_rate=source.choice(("0", "4MiB")),
            keys_per_client=keys_per_client,
            sizes=sizes,
            is_overfull=is_overfull)


class Store:
    """Directories that one daemon after another uses, and the clients that know what is there."""

    def __init__(self, options, number):
        self.options, self.number = options, number
        self.seed = options.seed * 1_000 + number
        self.random = random.Random(self.seed)
        self.setting = Setting.random(self.random)
        self.folder = options.work / f"store-{self.seed}"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.directories = [self.folder / f"ssd-{index}"
                            for index in range(self.setting.directory_count)]
        for directory in self.directories:
            directory.mkdir(parents=True)
        shape = Shape(self.seed, CREWS * CLIENTS_PER_CREW, self.setting.keys_per_client,
                      self.setting.sizes, not options.without_ssd, self.setting.is_overfull)
        self.crews = [Crew(shape, range(index * CLIENTS_PER_CREW, (index + 1) * CLIENTS_PER_CREW))
                      for index in range(CREWS)]
        self.lives = 0
        self.kills = 0
        self.start_seconds = 0.05
        self.has_evicted = False
        self.findings = []
        self.counts = Counter()
        self.daemon = None

    def arguments(self):
        """The daemon's, but for those that every daemon of the test has."""
        setting = self.setting
        arguments = ["--memory-budget", f"{setting.memory_mib}MiB"]
        if not self.options.without_ssd:
            arguments += [
                "--ssd-directories", ",".join(map(str, self.directories)),
                "--ssd-capacity", f"{setting.capacity_mib}MiB",
                "--ssd-segment-bytes", f"{setting.segment_mib}MiB",
                "--ssd-reserve", "0B", "--ssd-admission", "all",
                "--ssd-scrub-rate", setting.scrub_rate]
        return arguments + self.options.daemon_arguments

    # --- One life ---------------------------------------------------------------------------

    def live(self):
        """Starts the daemon, works with it, ends it."""
        self.lives += 1
        end = self.random.choices(list(ENDS), ENDS.values())[0]
        if self.options.snapshots:
            self.keep_snapshot()
        self.daemon = Daemon(self.options.kvstored, self.folder, self.arguments())
        self.counts[f"ended {end}"] += 1
        if end == "in recovery":
            time.sleep(self.random.uniform(0, 1.5 * self.start_seconds))
            self.kill()
            return
        waited = self.daemon.wait_until_ready()
        self.start_seconds = 0.8 * self.start_seconds + 0.2 * waited
        life = Life(
            port=self.daemon.port, seed=self.random.getrandbits(64),
            check_share=self.random.choice((1.0, 1.0, 0.3)), is_loaded=end != "clean stop",
            is_after_eviction=self.has_evicted)
        self.has_evicted = False
        for crew in self.crews:
            crew.run(life)
        try:
            self.work(end)
        finally:
            if self.daemon.is_running():
                self.kill()
            for crew in self.crews:
                findings, counts = crew.report(is_stopped=True)
                self.findings += findings
                self.counts += counts

    def work(self, end):
        """Waits for the moment at which this life ends, and ends it."""
        if end == "early":
            time.sleep(self.random.uniform(0, 0.15))
        else:
            for crew in self.crews:
                if not crew.wait_until_checked(CHECK_SECONDS_MAX):
                    raise DaemonFault(f"clients still read after {CHECK_SECONDS_MAX:.0f} s")
        if end == "clean stop":
            self.stop_cleanly()
            return
        if end in ("in load", "in a stop"):
            self.pause(self.random.choice((0.02, 0.2, 0.4, 0.4, 0.7)))
        elif end == "in a checkpoint":
            self.await_checkpoint(1.0)
        if not self.daemon.is_running():
            raise DaemonFault(f"ended by itself: {self.daemon.process.returncode}")
        if end == "in a stop":
            self.daemon.terminate()
            time.sleep(self.random.uniform(0, 0.1))
        self.kill(may_have_ended=end == "in a stop")

    def kill(self, may_have_ended=False):
        status = self.daemon.kill()
        if status == -signal.SIGKILL:
            self.kills += 1
        elif status or not may_have_ended:
            raise DaemonFault(f"ended by itself: {status}")

    def pause(self, seconds_max):
        """Waits for a random time under load, then looks whether the store gave up chunks."""
        time.sleep(self.random.uniform(0, seconds_max))
        self.note_counters()
        time.sleep(self.random.uniform(0, 0.02))

    def note_counters(self):
        """Sums up what the daemon says of itself; it counts from 0 in each life."""
        try:
            connection = Connection(self.daemon.port, "default")
            try:
                counters = connection.stat()
            finally:
                connection.close()
        except Lost:
            return {}
        for name, value in counters.items():
            if name.startswith("ssd_"):
                self.counts[name] += value
        if counters.get("ssd_chunks_evicted"):
            self.has_evicted = True
            if not self.setting.is_overfull:
                self.counts["lives whose promises are void: chunks were evicted"] += 1
        return counters

    def await_checkpoint(self, seconds_max):
        """Returns in the middle of one, or when there was none."""
        end = time.monotonic() + self.random.uniform(0, seconds_max)
        marks = [os.path.join(directory, "checkpoint.new") for directory in self.directories]
        while time.monotonic() < end:
            if any(map(os.path.exists, marks)):
                time.sleep(self.random.uniform(0, 0.003))
                self.counts["killed in a checkpoint"] += 1
                return
            time.sleep(0.000_2)

    def stop_cleanly(self):
        """Ends it in order; what is durable is there afterwards, as after a kill."""
        self.note_counters()
        self.daemon.terminate()
        self.daemon.wait_until_stopped()

    # --- The directories --------------------------------------------------------------------

    def keep_snapshot(self):
        """The directories as they are now, for whoever looks into a failure."""
        for directory in self.directories:
            copy = directory.with_name(f"{directory.name}-before")
            shutil.rmtree(copy, ignore_errors=True)
            subprocess.run(["cp", "-a", "--sparse=always", "--reflink=auto", directory, copy],
                           check=True)

    def tell_failure(self, fault):
        """Everything that helps to find out why; the directory stays."""
        print(f"\nFAILED: seed {self.options.seed}, store {self.number} ({self.seed}), life "
              f"{self.lives}; {self.setting}")
        if fault:
            print(f"  the daemon {fault}")
        for found in self.findings[:FINDINGS_TOLD_MAX]:
            print(f"  {found.kind}: {found.text}")
        if len(self.findings) > FINDINGS_TOLD_MAX:
            print(f"  and {len(self.findings) - FINDINGS_TOLD_MAX} more")
        print(f"  kept: {self.folder}")
        print("  its log ends:\n" + self.daemon.log_tail(), flush=True)

    def end(self, is_kept):
        for crew in self.crews:
            crew.end()
        if self.daemon and self.daemon.is_running():
            self.daemon.kill()
        if not is_kept:
            shutil.rmtree(self.folder, ignore_errors=True)


class Campaign:
    """Store after store until there were enough kills."""

    def __init__(self, options):
        self.options = options
        self.kills = self.lives = self.stores = self.failed_stores = 0
        self.counts = Counter()
        self.found = Counter()
        self.began_at = time.monotonic()

    def run(self):
        while self.kills < self.options.runs and self.failed_stores < self.options.failures:
            self.stores += 1
            self.run_store(Store(self.options, self.stores))
        return not any(self.found.values())

    def run_store(self, store):
        fault = None
        life_count = round(self.options.runs_per_store * store.random.uniform(0.7, 1.3))
        try:
            while (store.lives < life_count and not store.findings
                   and self.kills + store.kills < self.options.runs):
                store.live()
        except (DaemonFault, Broken) as error:
            fault = error
            self.found["broken"] += 1
        finally:
            has_failed = bool(fault or store.findings)
            store.end(is_kept=has_failed)
        if has_failed:
            self.failed_stores += 1
            store.tell_failure(fault)
        self.kills += store.kills
        self.lives += store.lives
        self.counts += store.counts
        self.found += Counter(found.kind for found in store.findings)
        print(f"store {store.number}: {store.lives} lives, {store.kills} kills; "
              f"together {self.kills} kills after {time.monotonic() - self.began_at:.0f} s",
              flush=True)

    def tell(self):
        for name, value in sorted(self.counts.items()):
            print(f"  {name}: {value:,}")
        if self.found["broken"]:
            print(f"  broken: {self.found['broken']}")
        seconds = time.monotonic() - self.began_at
        print(f"{self.lives} lives of the daemon in {self.stores} stores, {seconds:.0f} s; "
              f"seed {self.options.seed}")
        print(f"crash: kills={self.kills} " + " ".join(
            f"{kind}={self.found[kind]}" for kind in KINDS[:3]), flush=True)


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        prog="dev/crash-test", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1_000, help="kills (1000)")
    parser.add_argument("--seed", type=int, default=None, help="(a random one, printed)")
    parser.add_argument("--kvstored", default=None, metavar="PATH",
                        help="the daemon ($KVSTORED, else the release build, else the debug build)")
    parser.add_argument("--work", type=pathlib.Path, default=TOP / "build" / "crash",
                        metavar="DIRECTORY", help="where the stores lie (build/crash)")
    parser.add_argument("--runs-per-store", type=int, default=50,
                        help="lives of the daemon on the same directories, about (50)")
    parser.add_argument("--failures", type=int, default=5,
                        help="end after as many stores that failed (5)")
    parser.add_argument("--without-ssd", action="store_true",
                        help="a daemon that keeps nothing: only what it returns is checked")
    parser.add_argument("--snapshots", action="store_true",
                        help="copy the directories before each start, beside them")
    parser.add_argument("daemon_arguments", nargs="*", metavar="-- DAEMON ARGUMENT",
                        help="more arguments of the daemon")
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    options.work = options.work.resolve()
    return options


def main(arguments=None):
    options = parse_arguments(arguments)
    try:
        options.kvstored = find_kvstored(options.kvstored)
    except DaemonFault as fault:
        print(f"dev/crash-test: {fault}", file=sys.stderr)
        return 64
    print(f"crash test: seed {options.seed}, {options.kvstored}", flush=True)
    campaign = Campaign(options)
    is_good = campaign.run()
    campaign.tell()
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
