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
import threading
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
OBSERVER_PAUSE_SECONDS = 0.005
# Lives under load in which no durable PUT is answered at all; some loads are very short.
SILENT_LIVES_MAX = 8
# How a life ends, and how often.
ENDS = {
    "in load": 56,  # at a random time under load
    "early": 14,  # soon after it was ready, while clients read
    "in recovery": 12,  # before it is ready, mostly
    "in a checkpoint": 8,  # as soon as one is being written
    "in a stop": 6,  # soon after SIGTERM under load
    "clean stop": 4,  # SIGTERM after the load, to its end
}


class Setting(NamedTuple):
    """What a store is run with, one of three kinds.

    - *roomy*: there is room for all that is ever written, so that nothing may be evicted, and
      every promise holds;
    - *tight*: live chunks fit well, but segments are reclaimed all the time; every promise holds
      here too, unless the store says that it evicted something;
    - *overfull*: live chunks do not fit, so only what is pinned stays for sure.
    """

    kind: str
    directory_count: int
    segment_mib: int
    capacity_mib: int
    memory_mib: int
    scrub_rate: str
    keys_per_client: int
    sizes: tuple

    @staticmethod
    def random(source):
        kind = source.choices(("roomy", "tight", "overfull"), (40, 45, 15))[0]
        keys_per_client, sizes = source.choice((
            (100, (1, 1 << 20)), (100, (1, 1 << 20)), (250, (1, 1 << 16)),
            (20, (1 << 16, 1 << 20))))
        if kind == "overfull":
            keys_per_client, sizes = 100, (1 << 14, 1 << 20)
        return Setting(
            kind=kind,
            directory_count=source.choice((1, 1, 2)),
            segment_mib=source.choice((2, 4, 4, 8)),
            capacity_mib={"roomy": 3_072, "tight": source.choice((128, 160, 192)),
                          "overfull": 64}[kind],
            memory_mib=source.choice((24, 32, 48)),
            scrub_rate=source.choice(("0", "4MiB")),
            keys_per_client=keys_per_client,
            sizes=sizes)


def time_of_change(path):
    """When a file was changed last; 0 when there is none."""
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0


class Observer(threading.Thread):
    """Asks a daemon for its counters again and again, so that the last answer is a fresh one."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port = port
        self.counters = {}
        self.fault = None
        self.start()

    def run(self):
        try:
            connection = Connection(self.port, "default")
            try:
                while True:
                    self.counters = connection.stat()
                    time.sleep(OBSERVER_PAUSE_SECONDS)
            finally:
                connection.close()
        except Lost:
            pass
        except Broken as error:
            self.fault = error


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
                      self.setting.sizes, not options.without_ssd,
                      self.setting.kind == "overfull")
        self.crews = [Crew(shape, range(index * CLIENTS_PER_CREW, (index + 1) * CLIENTS_PER_CREW))
                      for index in range(CREWS)]
        self.lives = 0
        self.kills = 0
        self.silent_lives = 0
        self.start_seconds = 0.05
        self.has_stopped_cleanly = self.has_evicted = False
        self.findings = []
        self.counts = Counter()
        self.daemon = None
        self.last_counters = [{}, {}]  # what the daemon said at the ends of the last two lives

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
            # What it may evict once it is ready should not go unseen.
            self.daemon.wait_until_ready(self.random.uniform(0, 1.5 * self.start_seconds))
            self.kill()
            return
        waited = self.daemon.wait_until_ready()
        observer = Observer(self.daemon.port)
        self.start_seconds = 0.8 * self.start_seconds + 0.2 * waited
        life = Life(
            port=self.daemon.port, seed=self.random.getrandbits(64),
            check_share=self.random.choice((1.0, 1.0, 0.3)),
            is_after_clean_stop=self.has_stopped_cleanly and not self.has_evicted,
            is_after_eviction=self.has_evicted)
        self.has_stopped_cleanly = self.has_evicted = False
        for crew in self.crews:
            crew.run(life)
        try:
            self.work(end, life)
        finally:
            self.daemon.kill()
            answered = self.durable_put_count()
            self.take_reports()
            self.note_counters(observer)
        if self.durable_put_count() > answered:
            self.silent_lives = 0
        elif end != "early":
            self.silent_lives += 1
        if self.silent_lives > SILENT_LIVES_MAX:
            raise DaemonFault(f"has answered no durable PUT in {self.silent_lives} lives")

    def durable_put_count(self):
        """Those that were answered so far."""
        return sum(value for name, value in self.counts.items()
                   if name.startswith("PUT durable "))

    def take_reports(self):
        """Waits for the clients to end this life: by the daemon's end, or told so."""
        for crew in self.crews:
            findings, counts = crew.report()
            self.findings += findings
            self.counts += counts

    def work(self, end, life):
        """Waits for the moment at which this life ends, and ends it."""
        if end == "early":
            time.sleep(self.random.uniform(0, 0.15))
            self.kill()
            return
        for crew in self.crews:
            if not crew.wait_until_checked(CHECK_SECONDS_MAX):
                raise DaemonFault(f"clients still read after {CHECK_SECONDS_MAX:.0f} s")
        if end == "clean stop":
            time.sleep(self.random.uniform(0, 0.3))
            self.stop_cleanly(life)
            return
        longest = self.random.choice((0.02, 0.2, 0.4, 0.4, 0.7))
        time.sleep(self.random.uniform(0, 0.2 if end == "in a checkpoint" else longest))
        # There is a checkpoint at each stop, and now and then under load.
        stops = end == "in a stop" or end == "in a checkpoint" and self.random.random() < 0.7
        if stops:
            self.daemon.terminate()
        if end == "in a stop":
            time.sleep(self.random.uniform(0, 0.1))
        elif end == "in a checkpoint":
            self.await_checkpoint(0.5)
        self.kill(may_have_ended=stops)

    def kill(self, may_have_ended=False):
        status = self.daemon.kill()
        if status == -signal.SIGKILL:
            self.kills += 1
        elif status or not may_have_ended:
            raise DaemonFault(f"ended by itself: {status}")

    def note_counters(self, observer):
        """Sums up what the daemon said of itself; it counts from 0 in each life."""
        observer.join()
        if observer.fault:
            raise observer.fault
        self.last_counters = [self.last_counters[1], observer.counters]
        for name, value in observer.counters.items():
            if name.startswith("ssd_"):
                self.counts[name] += value
        if observer.counters.get("ssd_chunks_evicted"):
            self.has_evicted = True
            self.findings = [found for found in self.findings if not found.may_be_eviction]
            if self.setting.kind != "overfull":
                self.counts["lives whose promises are void: chunks were evicted"] += 1
        # What was not written while there was room in memory may be gone after a stop.
        if observer.counters.get("ssd_chunks_skipped"):
            self.has_stopped_cleanly = False

    def await_checkpoint(self, seconds_max):
        """Returns in the middle of one, or when there was none."""
        end = time.monotonic() + seconds_max
        marks = [os.path.join(directory, "checkpoint.new") for directory in self.directories]
        before = list(map(time_of_change, marks))
        while time.monotonic() < end and self.daemon.is_running():
            if list(map(time_of_change, marks)) != before:
                time.sleep(self.random.uniform(0, 0.004))
                self.counts["killed in a checkpoint"] += 1
                return
            time.sleep(0.000_2)

    def stop_cleanly(self, life):
        """Everything that is there when the load has ended is there after a clean stop, unless the
        store said that it could not write something."""
        self.take_reports()
        for crew in self.crews:
            crew.look(life)
        self.take_reports()
        self.daemon.terminate()
        self.daemon.wait_until_stopped()
        self.has_stopped_cleanly = True

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
        for when, counters in zip(("the life before", "this life"), self.last_counters):
            told = {name: value for name, value in counters.items() if name.startswith("ssd_")}
            print(f"  counters at the end of {when}: {told}")
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
        self.next_store = options.store
        self.counts = Counter()
        self.found = Counter()
        self.began_at = time.monotonic()

    def run(self):
        while self.kills < self.options.runs and self.failed_stores < self.options.failures:
            self.stores += 1
            self.run_store(Store(self.options, self.next_store))
            self.next_store += 1
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
    parser.add_argument("--store", type=int, default=1, metavar="NUMBER",
                        help="begin with this store of the seed (1)")
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
