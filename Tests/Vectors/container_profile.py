# SPDX-License-Identifier: Apache-2.0
"""What was learnt about a model: docs/container-format.md, section 11. Written from that text."""

import hashlib
import struct

import numpy
import xxhash
from container_layout import K, V, fields_of, require

HEADER = struct.Struct("<4sIBBHIIIII32s")
ENTRY = struct.Struct("<IIIHBB")
LEVEL = struct.Struct("<BBBBfbbbB20s")
REQUIREMENTS, ROTATION, LEVELS, TABLES, REFINEMENTS, LOSSLESS_TABLES, NOTE = range(7)
ORDER, MEANS, STEPS, CLASSES, LOSSLESS_COLUMNS = range(16, 21)
REFERENCE_STEPS, PREDICTION, SYNTHESIS, ANALYSIS, COEFFICIENT_CLASSES = range(32, 37)


def checksum(content):
    return xxhash.xxh3_64_intdigest(content) & 0xffffffff


def align64(offset):
    return -(-offset // 64) * 64


def frequencies(content):
    """Tables as rows of 256 frequencies, with the sums below each symbol."""
    tables = numpy.frombuffer(content, "<u2").astype(int).reshape(-1, 256)
    damaged = "profile-damaged"
    require(len(tables) > 0 and bool((tables.sum(axis=1) == 2_048).all()), damaged)
    require(bool((tables[:, 0] >= 1).all()), damaged)
    return tables, numpy.cumsum(tables, axis=1) - tables


class Level:
    def __init__(self, content):
        (self.level, self.mode, self.flags, self.group, self.step, *self.shifts, lookback,
         zeros) = LEVEL.unpack(content)
        predictive = self.mode == 5
        require(3 <= self.level <= 6 and self.mode in (4, 5) and self.flags < 16
                and predictive == (self.group > 0) and not (predictive and self.flags & 2)
                and lookback <= predictive
                and 2.0 ** -40 <= self.step <= 2.0 ** 40 and not any(zeros), "profile-damaged")
        self.row_codes = bool(self.flags & 4), bool(self.flags & 8)
        # How many layers back a prediction looks.
        self.lookback = 1 if lookback else 2


class Profile:
    """The profile in these bytes; raises `profile-damaged`."""

    def __init__(self, content):
        damaged = "profile-damaged"
        self.hash = hashlib.sha256(content).digest()[:16]
        require(len(content) >= HEADER.size, damaged)
        (magic, check, version, zero, self.layers, count, keys, values, table_count,
         lossless_count, zeros) = HEADER.unpack_from(content)
        end = HEADER.size + ENTRY.size * count
        require(magic == b"KVP1" and 1 <= count <= 262_144 and len(content) >= end, damaged)
        require(check == checksum(content[8:end]) and version == 1, damaged)
        require(zero == 0 and not any(zeros), damaged)
        self.columns = [keys, values]
        self.items = {}
        last = (-1, 0, 0)
        for index in range(count):
            offset, byte_count, check, layer, kind, item = ENTRY.unpack_from(
                content, HEADER.size + ENTRY.size * index)
            require(offset == align64(end) and (item, layer, kind) > last, damaged)
            last = (item, layer, kind)
            end = offset + byte_count
            self.items[last] = content[offset:end]
            require(len(self.items[last]) == byte_count, damaged)
            require(checksum(self.items[last]) == check, damaged)
        require(end == len(content), damaged)
        self.levels = self._levels()
        self.tables = self._tables(TABLES, table_count)
        self.lossless_tables = self._tables(LOSSLESS_TABLES, lossless_count)
        self.refinements = self._refinements(table_count)

    def _levels(self):
        content = self.items.get((LEVELS, 0, 0), b"")
        require(len(content) % LEVEL.size == 0, "profile-damaged")
        levels = {}
        for at in range(0, len(content), LEVEL.size):
            level = Level(content[at:at + LEVEL.size])
            require((level.level, level.mode) not in levels, "profile-damaged")
            require(all((other.group, other.lookback) == (level.group, level.lookback)
                        for other in levels.values() if other.mode == level.mode),
                    "profile-damaged")
            levels[level.level, level.mode] = level
        return levels

    def _tables(self, item, count):
        content = self.items.get((item, 0, 0), b"")
        require(len(content) == 512 * count, "profile-damaged")
        return frequencies(content) if count else None

    def _refinements(self, table_count):
        """Tables of the symbols -1, 0 and 1, spread out to 256."""
        content = self.items.get((REFINEMENTS, 0, 0))
        if content is None:
            return None
        require(len(content) == 24 * table_count, "profile-damaged")
        three = numpy.frombuffer(content, "<u2").astype(int).reshape(-1, 3)
        require(bool((three.sum(axis=1) == 2_048).all()), "profile-damaged")
        tables = numpy.zeros((len(three), 256), int)
        tables[:, 127:130] = three
        return tables, numpy.cumsum(tables, axis=1) - tables

    def level(self, level, mode):
        require((level, mode) in self.levels, "profile-unsuitable")
        return self.levels[level, mode]

    def array(self, item, layer, kind, dtype, limit=None):
        """One number for each column; `limit`: of the magnitudes."""
        content = self.items.get((item, layer, kind))
        require(content is not None, "profile-unsuitable")
        numbers = numpy.frombuffer(content, dtype) if len(
            content) == numpy.dtype(dtype).itemsize * self.columns[kind] else []
        require(len(numbers) > 0, "profile-damaged")
        if limit is not None:
            low, high = limit
            magnitudes = numpy.abs(numbers.astype(float))
            require(bool(((magnitudes >= low) & (magnitudes <= high)).all()), "profile-damaged")
        return numbers

    def order(self, layer, kind):
        order = self.array(ORDER, layer, kind, "<u2").astype(int)
        require(sorted(order) == list(range(len(order))), "profile-damaged")
        return order.tolist()

    def matrix(self, item, layer, kind, dtype, row_count):
        """The scales of the columns, and a matrix of whole numbers."""
        content = self.items.get((item, layer, kind))
        require(content is not None, "profile-unsuitable")
        columns = self.columns[kind]
        width = numpy.dtype(dtype).itemsize
        require(len(content) == columns * (4 + width * row_count), "profile-damaged")
        scales = numpy.frombuffer(content[:4 * columns], "<f4")
        require(bool(numpy.isfinite(scales).all()), "profile-damaged")
        rows = numpy.frombuffer(content[4 * columns:], dtype).astype(numpy.int64)
        return scales, rows.reshape(row_count, columns)

    def require_suitable(self, layout):
        try:
            required = fields_of(self.items.get((REQUIREMENTS, 0, 0), b""))
        except ValueError:
            require(False, "profile-damaged")
        require(all(layout.fields.get(name) == value for name, value in required.items()),
                "profile-unsuitable")
        columns = [layout.columns(K), layout.columns(V) if V in layout.kinds else 0]
        require(self.layers == layout.layers and self.columns == columns, "profile-unsuitable")
