# SPDX-License-Identifier: Apache-2.0
"""What a store may answer about a key, given what was asked of it before: the crash test's model.

A key belongs to one client, which asks one thing about it at a time, so the model is exact. A key
has *versions*: each PUT that is sent is a new one, with bytes of its own. It keeps

- `possible`: versions that may be found after a restart, because nothing that was answered
  forbids it;
- `visible`: those of them that may be found in this life of the daemon;
- `promised`: versions of which one must be found, in this life and after a restart, because an
  answer said that it is on stable storage;
- `dead`: versions that must never be found (again), with the reason.

The rules are those of docs/protocol.md: a PUT stores if the key is absent; `ok` and `exists` to a
PUT that wants it durable are promises; a DELETE that is answered `ok` or `notFound` is for good;
what was not answered may have happened or not. A cache may forget whatever it has not promised. In
a store that may evict, a promise holds for chunks that are pinned.
"""
import hashlib
import math
import random
import struct
from typing import NamedTuple

from frames import (
    BUSY, DEADLINE_EXCEEDED, EXISTS, FOR_EVER, LIMIT_EXCEEDED, NOT_DURABLE, NOT_FOUND, OK, Broken)

# A chunk may be found this long after its time to live, and must be until this long before.
LATE_SECONDS_MAX = 2.0
EARLY_SECONDS_MAX = 0.1
DEAD_COUNT_MAX = 200
POOL_BYTE_COUNT = 4 << 20


class Finding(NamedTuple):
    """Something that must not be."""

    kind: str  # wrong_bytes, lost_durable, resurrected or broken
    text: str
    may_be_eviction: bool = False  # it is none if the store evicted something in the same life


class Version:
    """One PUT of a key. The times are those between which its life ends, by the wall clock."""

    __slots__ = ("byte_count", "expires_first", "expires_last", "number", "ttl_ms")

    def __init__(self, number, byte_count, ttl_ms, now):
        self.number, self.byte_count, self.ttl_ms = number, byte_count, ttl_ms
        self.expires_first = now + ttl_ms / 1000 if ttl_ms else math.inf
        self.expires_last = math.inf

    def settle(self, now):
        """It was stored before `now`, if at all."""
        if self.ttl_ms:
            self.expires_last = now + self.ttl_ms / 1000

    def is_over(self, now):
        return now > self.expires_last + LATE_SECONDS_MAX

    def fits(self, remaining_ms, asked_at, now):
        """Whether a daemon asked between the two times may find it, with this time to live."""
        if not self.ttl_ms:
            return remaining_ms == FOR_EVER
        return (not self.is_over(asked_at)
                and self.expires_first - now - LATE_SECONDS_MAX <= remaining_ms / 1000
                <= self.expires_last - asked_at + LATE_SECONDS_MAX)


class Contents:
    """The bytes of every version of every key of a store."""

    def __init__(self, seed, sizes):
        """`sizes`: (smallest, largest) byte count, between which sizes are spread by magnitude."""
        self.seed = seed
        self.smallest, self.largest = sizes
        self.pool = random.Random(seed).randbytes(POOL_BYTE_COUNT + self.largest)

    def digest(self, client, key_index, version):
        text = struct.pack("<QIIQ", self.seed % 2**64, client, key_index, version)
        return hashlib.blake2b(text, digest_size=32).digest()

    def byte_count(self, client, key_index, version):
        return self._byte_count(self.digest(client, key_index, version))

    def _byte_count(self, digest):
        share, edge, shift = struct.unpack_from("<IBB", digest, 16)
        ratio = self.largest / self.smallest
        count = round(self.smallest * ratio ** (share / 2**32))
        if edge < 40:
            # One more or less than whole blocks, and whole blocks.
            count = (count // 4096 or 1) * 4096 + shift % 3 - 1
        return min(max(count, self.smallest), self.largest)

    def bytes(self, client, key_index, version):
        """Who it is, then bytes that no other place of the store has at the same offset."""
        digest = self.digest(client, key_index, version)
        count = self._byte_count(digest)
        if count < 16:
            return digest[:count]
        (offset,) = struct.unpack_from("<I", digest, 24)
        offset %= POOL_BYTE_COUNT
        head = struct.pack("<QII", version, client, key_index)
        return head + self.pool[offset:offset + count - 16]

    def describe(self, data):
        """Whose bytes these seem to be."""
        if len(data) < 16:
            return f"{len(data)} bytes {data.hex()}"
        version, client, key_index = struct.unpack_from("<QII", data)
        text = f"{len(data)} bytes that begin {data[:16].hex()}"
        if client < 2**16 and key_index < 2**16 and version < 2**32:
            text += f" (version {version} of key {key_index} of client {client}"
            expected = self.bytes(client, key_index, version)
            if expected == data:
                return text + ", whole)"
            place = next((place for place, (one, other) in enumerate(zip(expected, data))
                          if one != other), "its end")
            text += f", {len(expected)} bytes, but for what is at {place})"
        return text


class Key:
    """One key of one client."""

    __slots__ = ("client", "contents", "dead", "index", "is_pinned", "is_seen", "key", "layout",
                 "needs_pin", "next_number", "possible", "promised", "visible")

    def __init__(self, contents, client, index, namespace_twin, needs_pin=False):
        """`namespace_twin` names the same key bytes in several namespaces. `needs_pin`: the store
        may evict."""
        self.contents, self.client, self.index = contents, client, index
        self.needs_pin, self.is_pinned, self.is_seen = needs_pin, False, False
        text = struct.pack("<QII", contents.seed % 2**64, namespace_twin, index)
        self.key = hashlib.sha256(text).digest()
        self.layout = hashlib.sha256(text + struct.pack("<I", client)).digest()[:16]
        self.next_number = 1
        self.possible = {}
        self.visible = set()
        self.promised = frozenset()
        self.dead = {}

    def __str__(self):
        return (f"client {self.client} key {self.index} ({self.key.hex()[:16]}…): "
                f"possible {sorted(self.possible)}, visible {sorted(self.visible)}, "
                f"promised {sorted(self.promised)}{', pinned' * self.is_pinned}")

    def bytes(self, number):
        return self.contents.bytes(self.client, self.index, number)

    def finding(self, kind, text):
        """A finding, after which nothing is expected of the key until it is deleted."""
        found = Finding(kind, f"{text}\n    {self}\n    dead: {dict(list(self.dead.items())[-8:])}",
                        may_be_eviction=kind == "lost_durable" and not self.is_pinned)
        self.promised = frozenset()
        self.visible = set(self.possible)
        return found

    def kill(self, numbers, why):
        """These versions must never be found again."""
        for number in numbers:
            self.possible.pop(number, None)
            self.visible.discard(number)
            self.dead[number] = why
        while len(self.dead) > DEAD_COUNT_MAX:
            del self.dead[next(iter(self.dead))]

    # --- The daemon's lives -----------------------------------------------------------------

    def restarted(self, now):
        """A new life of the daemon begins."""
        self.kill([number for number, version in self.possible.items() if version.is_over(now)],
                  "expired")
        self.visible = set(self.possible)
        self.promised &= self.visible
        self.is_seen = False

    def evicted(self):
        """The store says that it evicted something: it may be this."""
        if not self.is_pinned:
            self.promised = frozenset()

    def stopped_cleanly(self):
        """What was seen at the end of a life is now promised."""
        if self.is_seen:
            self.promised = frozenset(self.visible)

    def look_again(self):
        """The life is about to end, and what is seen from now on counts."""
        self.is_seen = False

    def is_promised(self, now):
        """Whether it must be found."""
        return bool(self.promised) and (self.is_pinned or not self.needs_pin) and (
            now + EARLY_SECONDS_MAX
            < min(self.possible[number].expires_first for number in self.promised))

    # --- PUT --------------------------------------------------------------------------------

    def put_sent(self, ttl_ms, now):
        """The number of the version that is being sent."""
        number = self.next_number
        self.next_number += 1
        version = Version(
            number, self.contents.byte_count(self.client, self.index, number), ttl_ms, now)
        self.possible[number] = version
        self.visible.add(number)
        return number

    def put_lost(self, number, now):
        """No answer will come."""
        self.possible[number].settle(now)

    def put_abandoned(self, number):
        """It was never sent to its end."""
        self.kill([number], "not sent to its end")

    def put_answered(self, number, status, is_durable, now):
        """None, or the Finding."""
        self.possible[number].settle(now)
        others = self.visible - {number}
        if status == OK:
            found = None
            if self.is_promised(now):
                found = self.finding("lost_durable", f"PUT of version {number} is answered ok")
            self.visible = {number}
            self.promised = frozenset([number]) if is_durable else frozenset()
            self.is_pinned = False
            return found
        if status == EXISTS:
            self.kill([number], "refused: exists")
            if not others:
                return self.finding("resurrected", f"PUT of version {number} is answered exists")
            if all(self.possible[other].is_over(now) for other in others):
                return self.finding("wrong_bytes", f"PUT of {number}: an expired chunk exists")
            if is_durable:
                self.promised = frozenset(others)
            return None
        if status == BUSY:
            self.kill([number], "refused: busy")
            return None
        if status in (NOT_DURABLE, DEADLINE_EXCEEDED):
            # It may be there or not, in this life and the next.
            return None
        raise Broken(f"PUT is answered {status}")

    # --- DELETE -----------------------------------------------------------------------------

    def delete_sent(self):
        self.promised = frozenset()
        self.is_pinned = False

    def delete_answered(self, status, now):
        """None, or the Finding."""
        found = None
        if status == OK and not self.visible:
            found = self.finding("resurrected", "DELETE of an absent chunk is answered ok")
        if status in (OK, NOT_FOUND):
            self.kill(list(self.possible), "deleted")
        elif status == NOT_DURABLE:
            # Gone now; after a restart it may be back.
            self.visible = set()
        elif status not in (BUSY, DEADLINE_EXCEEDED):
            raise Broken(f"DELETE is answered {status}")
        return found

    # --- PIN and UNPIN ----------------------------------------------------------------------

    def pin_answered(self, status, now):
        """None, or the Finding, when PIN for a long time was answered."""
        if status in (OK, NOT_DURABLE):
            if not self.visible:
                return self.finding("resurrected", "PIN finds a chunk")
            self.is_pinned = status == OK
        elif status == NOT_FOUND:
            return self.missed(now)
        elif status != BUSY:
            raise Broken(f"PIN is answered {status}")
        return None

    def unpin_sent(self):
        self.is_pinned = False

    # --- GET and LOOKUP ---------------------------------------------------------------------

    def missed(self, now):
        """None, or the Finding, when it was answered notFound before `now`."""
        if self.is_promised(now):
            return self.finding("lost_durable", "a chunk that is durable was not found")
        return None

    def looked_up(self, record, asked_at, now):
        """None, or the Finding, when LOOKUP said that it is there."""
        sizes = {self.possible[number].byte_count for number in self.visible}
        if not self.visible:
            return self.finding("resurrected", f"LOOKUP finds {record.byte_count} bytes")
        if record.byte_count not in sizes:
            return self.finding("wrong_bytes", f"LOOKUP finds {record.byte_count} bytes")
        self.is_seen = True
        return self._life_is_wrong(self.visible, record.remaining_ms, asked_at, now)

    def got(self, chunk, asked_at, now):
        """None, or the Finding, when GET returned `chunk`."""
        number = next((number for number in self.visible if self.bytes(number) == chunk.data), None)
        if number is None:
            return self._wrong(chunk)
        self.visible = {number}
        if self.promised:
            self.promised = frozenset([number])
        if chunk.layout != self.layout:
            return self.finding("wrong_bytes", f"version {number} has layout {chunk.layout.hex()}")
        return self._life_is_wrong([number], chunk.remaining_ms, asked_at, now)

    def got_range(self, chunk, bounds):
        """None, or the Finding, when GET returned a range of the chunk, or refused it."""
        start, end = bounds[0], sum(bounds)
        for number in self.visible:
            if chunk.status == LIMIT_EXCEEDED:
                if self.possible[number].byte_count < end:
                    return None
            elif self.bytes(number)[start:end] == chunk.data:
                return None
        return self.finding("wrong_bytes", f"range {bounds}: status {chunk.status}, "
                            f"{len(chunk.data)} bytes {chunk.data[:32].hex()}…")

    def _life_is_wrong(self, numbers, remaining_ms, asked_at, now):
        """None, or the Finding, when none of `numbers` can have this time to live."""
        versions = [self.possible[number] for number in numbers]
        if any(version.fits(remaining_ms, asked_at, now) for version in versions):
            return None
        ends = [(version.expires_first - now, version.expires_last - now) for version in versions]
        return self.finding(
            "wrong_bytes", f"{remaining_ms} ms are left to live; seconds expected: {ends}")

    def _wrong(self, chunk):
        """The Finding for bytes of no visible version."""
        told = self.contents.describe(chunk.data)
        for number, why in reversed(self.dead.items()):
            if self.bytes(number) == chunk.data:
                kind = "resurrected" if why == "deleted" else "wrong_bytes"
                return self.finding(kind, f"version {number} was found, but {why}: {told}")
        for number in self.possible:
            if self.bytes(number) == chunk.data:
                return self.finding("wrong_bytes", f"version {number} took the place of another, "
                                    f"in one life of the daemon: {told}")
        return self.finding("wrong_bytes", f"bytes that were never stored: {told}")
