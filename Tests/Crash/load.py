# SPDX-License-Identifier: Apache-2.0
"""The clients of the crash test: processes with threads, each with keys and a model of its own.

A `Crew` is a process of clients that lives as long as a store does, over many lives of the daemon.
It is told `run` (a life begins: check what is there, then load) and `report` (it ends), and hears
of the daemon's death by its connections.
"""
import multiprocessing
import random
import threading
import time
import traceback
from collections import Counter
from typing import NamedTuple

from frames import (
    BUSY, DEADLINE_EXCEEDED, EXISTS, LIMIT_EXCEEDED, NOT_DURABLE, NOT_FOUND, OK, UNSUPPORTED,
    Broken, Connection, Lost)
from model import Contents, Finding, Key

NAMESPACES = ("default", "second")
GET_KEYS, LOOKUP_KEYS = 16, 64
PIN_MS = 3_600_000
RETRY_SECONDS, RETRY_COUNT = 0.05, 40
STATUS_NAMES = {OK: "ok", NOT_FOUND: "notFound", EXISTS: "exists", BUSY: "busy",
                DEADLINE_EXCEEDED: "deadlineExceeded", LIMIT_EXCEEDED: "limitExceeded",
                NOT_DURABLE: "notDurable", UNSUPPORTED: "unsupported"}


class Shape(NamedTuple):
    """What a store is loaded with."""

    seed: int
    client_count: int
    keys_per_client: int
    sizes: tuple  # smallest and largest byte count of a chunk
    is_durable_expected: bool  # else every promise is ignored: a daemon without SSD
    needs_pins: bool  # chunks may be evicted: only what is pinned stays for sure


class Life(NamedTuple):
    """What the clients do in one life of the daemon."""

    port: int
    seed: int
    check_share: float  # of the keys, read before the load begins
    is_after_clean_stop: bool  # what was seen before must be found
    is_after_eviction: bool  # the store said that it gave up chunks: nothing is promised


class Client(threading.Thread):
    """One connection's work in one life of the daemon. The keys outlive it."""

    def __init__(self, shape, life, number, keys, stop, only_looks=False):
        super().__init__(daemon=True)
        self.only_looks = only_looks
        self.shape, self.life, self.keys, self.stop = shape, life, keys, stop
        self.namespace = NAMESPACES[number % len(NAMESPACES)]
        self.random = random.Random(f"{life.seed} {number}")
        self.pin_share = 0.12 if shape.needs_pins else 0.02
        self.connection = None
        self.findings = []
        self.failed_keys = set()
        self.counts = Counter()
        self.has_checked = threading.Event()

    def run(self):
        try:
            self.connection = Connection(self.life.port, self.namespace)
            if self.only_looks:
                self.look_at_the_end()
                return
            self.check()
            self.has_checked.set()
            self.load()
        except Lost:
            pass
        except Broken as error:
            self.findings.append(Finding("broken", str(error)))
        except Exception:
            self.findings.append(Finding("broken", traceback.format_exc()))
        finally:
            self.has_checked.set()
            if self.connection:
                self.connection.close()

    def note(self, key, found):
        """Keeps a Finding, if it is one, and the first for this key."""
        if found is not None and key not in self.failed_keys:
            self.failed_keys.add(key)
            self.findings.append(found)

    def count(self, verb, status):
        self.counts[f"{verb} {STATUS_NAMES.get(status, status)}"] += 1

    # --- Reading ----------------------------------------------------------------------------

    def check(self):
        """Looks at a share of the keys, in an order of its own."""
        share = self.life.check_share
        keys = [key for key in self.keys if self.random.random() < share]
        self.random.shuffle(keys)
        if self.random.random() < 0.3:
            for start in range(0, len(keys), LOOKUP_KEYS):
                self.look_up(keys[start:start + LOOKUP_KEYS])
        for start in range(0, len(keys), GET_KEYS):
            self.get(keys[start:start + GET_KEYS])
        self.counts["keys checked after a start"] += len(keys)

    def look_at_the_end(self):
        """Notes what a clean stop must keep."""
        for key in self.keys:
            key.look_again()
        for start in range(0, len(self.keys), LOOKUP_KEYS):
            self.look_up(self.keys[start:start + LOOKUP_KEYS])

    def get(self, keys):
        asked_at = time.time()
        chunks = self.connection.get([key.key for key in keys])
        missed = []
        for key, chunk in zip(keys, chunks):
            now = time.time()
            self.count("GET", chunk.status)
            if chunk.status == OK:
                self.counts["bytes read"] += len(chunk.data)
                self.note(key, key.got(chunk, asked_at, now))
            elif key.is_promised(now):
                missed.append(key)
        for key in missed:
            self.get_again(key)

    def get_again(self, key):
        """A miss of a chunk that must be there is a loss if it stays away."""
        now = time.time()
        # One that lost much needs not be asked twice for each key.
        for attempt in range(RETRY_COUNT if len(self.findings) < 3 else 0):
            time.sleep(RETRY_SECONDS)
            asked_at = time.time()
            (chunk,) = self.connection.get([key.key])
            now = time.time()
            if chunk.status == OK:
                self.counts["misses of durable chunks that passed"] += 1
                self.note(key, key.got(chunk, asked_at, now))
                return
            # Overload may last, an absence that lasts a little is one.
            if chunk.status == NOT_FOUND and attempt >= 1:
                break
        self.note(key, key.missed(now))

    def get_range(self, key):
        """A part of a chunk; now and then more than there is."""
        byte_count = max((key.possible[number].byte_count for number in key.visible), default=100)
        start = self.random.randrange(byte_count)
        bounds = (start, self.random.randint(1, byte_count - start + byte_count // 100))
        (chunk,) = self.connection.get([key.key], bounds)
        self.count("GET range", chunk.status)
        if chunk.status in (OK, LIMIT_EXCEEDED):
            self.note(key, key.got_range(chunk, bounds))
        elif key.is_promised(time.time()):
            self.get_again(key)

    def look_up(self, keys):
        asked_at = time.time()
        records = self.connection.lookup([key.key for key in keys])
        now = time.time()
        missed = []
        for key, record in zip(keys, records):
            self.count("LOOKUP", record.status)
            if record.status == OK:
                self.counts[f"LOOKUP in tier {record.tier}"] += 1
                self.note(key, key.looked_up(record, asked_at, now))
            elif key.is_promised(now):
                missed.append(key)
        for key in missed:
            self.get_again(key)

    # --- Writing ----------------------------------------------------------------------------

    def some(self, count, wanted):
        """Distinct keys, mostly such that `wanted`."""
        chosen = []
        for _ in range(count * 4):
            key = self.random.choice(self.keys)
            if key not in chosen and (wanted(key) or self.random.random() < 0.1):
                chosen.append(key)
            if len(chosen) == count:
                break
        return chosen

    def ttl_ms(self):
        """0, a life that may end within the test, or one that does not."""
        share = self.random.random()
        if share < 0.85:
            return 0
        return self.random.randint(200, 4_000) if share < 0.95 else 3_600_000

    def put(self, keys, is_durable):
        """Sends a PUT for each key, then waits for the answers."""
        sent = []
        for key in keys:
            ttl_ms, now = self.ttl_ms(), time.time()
            number = key.put_sent(ttl_ms, now)
            sent.append((key, number))
            data = key.bytes(number)
            try:
                self.connection.send_put(key.key, key.layout, data, ttl_ms, is_durable)
            except Lost:
                self.lose(sent)
                raise
            self.counts["bytes sent"] += len(data)
        while sent:
            key, number = sent[0]
            try:
                status = self.connection.receive().status
            except Lost:
                self.lose(sent)
                raise
            sent.pop(0)
            self.count("PUT durable" if is_durable else "PUT", status)
            if is_durable and status == UNSUPPORTED and not self.shape.is_durable_expected:
                key.put_abandoned(number)
            else:
                self.note(key, key.put_answered(number, status, is_durable, time.time()))

    def lose(self, sent):
        now = time.time()
        for key, number in sent:
            key.put_lost(number, now)
        self.counts["PUT unanswered"] += len(sent)

    def abandon_put(self):
        """A PUT that ends in the middle, and its connection with it."""
        (key,) = self.some(1, lambda key: not key.visible) or [self.keys[0]]
        number = key.put_sent(0, time.time())
        key.put_abandoned(number)
        data = key.bytes(number)
        missing = self.random.randint(1, len(data) + 8)
        self.connection.send_put(key.key, key.layout, data, 0, True, missing)
        self.connection.close()
        self.counts["PUT abandoned"] += 1
        self.connection = Connection(self.life.port, self.namespace)

    def delete(self, keys):
        if not keys:
            return
        for key in keys:
            key.delete_sent()
        try:
            statuses = self.connection.delete([key.key for key in keys])
        except Lost:
            self.counts["DELETE unanswered"] += len(keys)
            raise
        now = time.time()
        for key, status in zip(keys, statuses):
            self.count("DELETE", status)
            self.note(key, key.delete_answered(status, now))

    def pin(self, keys):
        if not keys:
            return
        statuses = self.connection.pin([key.key for key in keys], PIN_MS)
        now = time.time()
        for key, status in zip(keys, statuses):
            self.count("PIN", status)
            self.note(key, key.pin_answered(status, now))

    def unpin(self, keys):
        if not keys:
            return
        for key in keys:
            key.unpin_sent()
        for status in self.connection.unpin([key.key for key in keys]):
            self.count("UNPIN", status)

    def load(self):
        """Until it is told to stop or the daemon is gone."""
        while not self.stop.is_set():
            share = self.random.random()
            burst = self.random.choice((1, 1, 1, 2, 4, 8))
            if share < 0.50:
                keys = self.some(burst, lambda key: not key.visible)
                self.put(keys, share < 0.25)
                if share < self.pin_share and self.shape.is_durable_expected:
                    # At once, before they can be evicted.
                    self.pin([key for key in keys if key.promised == {key.next_number - 1}])
            elif share < 0.70:
                self.delete(self.some(burst, lambda key: bool(key.visible)))
            elif share < 0.71 and self.shape.is_durable_expected:
                self.unpin(self.some(burst, lambda key: key.is_pinned))
            elif share < 0.90:
                self.get(self.some(burst, lambda key: True))
            elif share < 0.94 and self.shape.is_durable_expected:
                self.get_range(self.random.choice(self.keys))
            elif share < 0.995:
                self.look_up(self.some(32, lambda key: True))
            else:
                self.abandon_put()


class Crew:
    """A process of clients, seen from outside."""

    def __init__(self, shape, numbers):
        context = multiprocessing.get_context("fork")
        self.pipe, other = context.Pipe()
        self.process = context.Process(
            target=_work, args=(shape, numbers, other), daemon=True)
        self.process.start()
        other.close()

    def run(self, life):
        """Begins a life of the daemon."""
        self.pipe.send(("run", life))

    def wait_until_checked(self, seconds):
        """Whether all clients have looked at what the daemon kept, or lost it."""
        self.pipe.send(("checked", seconds))
        return self.pipe.recv()

    def look(self, life):
        """Notes what is there when nobody loads the daemon any more; `report` waits for it."""
        self.pipe.send(("look", life))

    def report(self):
        """Ends the clients' work, if the daemon's end has not: findings and counts."""
        self.pipe.send(("report", None))
        return self.pipe.recv()

    def end(self):
        """Ends the process."""
        # By word, since other crews have inherited the pipe and keep it open.
        self.pipe.send(("end", None))
        self.process.join()


def _work(shape, numbers, pipe):
    """A crew's process."""
    contents = Contents(shape.seed, shape.sizes)
    # Clients of different namespaces share their keys' bytes, pair by pair.
    keys = {number: [Key(contents, number, index, number // len(NAMESPACES), shape.needs_pins)
                     for index in range(shape.keys_per_client)] for number in numbers}
    clients, stop = [], threading.Event()
    while True:
        try:
            order, argument = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        if order == "end":
            return
        if order in ("run", "look"):
            stop.clear()
            if order == "run":
                _begin_life(shape, argument, keys)
            clients = [Client(shape, argument, number, own, stop, only_looks=order == "look")
                       for number, own in keys.items()]
            for client in clients:
                client.start()
        elif order == "checked":
            end = time.monotonic() + argument
            pipe.send(all(client.has_checked.wait(max(0, end - time.monotonic()))
                          for client in clients))
        else:
            stop.set()
            for client in clients:
                client.join()
            findings = [found for client in clients for found in client.findings]
            pipe.send((findings, sum((client.counts for client in clients), Counter())))
            clients = []


def _begin_life(shape, life, keys):
    """What the end of the life before means for the models."""
    now = time.time()
    for own in keys.values():
        for key in own:
            if life.is_after_clean_stop:
                key.stopped_cleanly()
            if life.is_after_eviction or not shape.is_durable_expected:
                key.evicted()
            key.restarted(now)
