# SPDX-License-Identifier: Apache-2.0
"""The second reader of containers, written from docs/container-format.md alone."""

import struct

import numpy
from container_layout import K, V, WIDTHS, Fault, Layout, require
from container_methods import (F32, Rotation, escapes, joined, narrow, planes, quantised, raw,
                               row_factors, stream, unpacked, widen)
from container_profile import (CLASSES, COEFFICIENT_CLASSES, LOSSLESS_COLUMNS, MEANS, PREDICTION,
                               REFERENCE_STEPS, STEPS, SYNTHESIS, Profile, align64, checksum)

HEADER = struct.Struct("<4sIBBHBBBB16s16sIIIHBB")
ENTRY = struct.Struct("<IIIHBB")
PIECE = 1 << 20
RAW, ZSTD, LOSSLESS, CACHEGEN, SCALAR, PREDICTIVE = MODES = range(6)
MODE_NAMES = ["raw", "zstd", "lossless", "cachegen", "scalar", "predictive"]
METHOD_NAMES = ["raw", "zstd", "planes", "quantised", "exponent", "scalar", "predicted"]
PART_NAMES = ["keys", "values", "piece", "layout", "rotation", "rest"]
PIECE_PART, LAYOUT_PART, ROTATION_PART, REST_PART = 2, 3, 4, 5
# By part.
METHODS = [{0, 2, 3, 4, 5, 6}, {0, 2, 3, 4, 5, 6}, {0, 1}, {0}, {0}, {0, 1}]


class Entry:
    def __init__(self, content):
        (self.offset, self.byte_count, self.checksum, self.number, part,
         self.method) = ENTRY.unpack(content)
        self.part, self.refinement = part & 15, part >> 4
        require(self.part < len(METHODS) and self.method in METHODS[self.part], "directory")
        require(self.byte_count > 0 and self.refinement <= 2, "directory")


class Container:
    """Header and directory of the container in these bytes; raises `Fault`."""

    def __init__(self, content):
        self.content = content
        require(len(content) >= HEADER.size, "truncated")
        (magic, check, version, self.mode, count, self.level, self.type, self.exact, self.flags,
         self.layout_id, self.profile_hash, self.payload_byte_count, self.first_position,
         self.tokens, self.layers, self.group, zero) = HEADER.unpack_from(content)
        require(magic == b"KVC1", "magic")
        directory_end = HEADER.size + ENTRY.size * count
        require(len(content) >= directory_end, "truncated")
        require(check == checksum(content[8:directory_end]), "checksum")
        require(version == 1, "version")
        require(count > 0 and zero == 0, "header")
        self._check_header()
        self.entries = []
        end = directory_end
        for at in range(HEADER.size, directory_end, ENTRY.size):
            entry = Entry(content[at:at + ENTRY.size])
            require(entry.offset == align64(end), "directory")
            end = entry.offset + entry.byte_count
            self.entries.append(entry)
        require(len(content) >= end, "truncated")
        require(len(content) == end, "length")
        self.layout = None
        if self.mode in (RAW, ZSTD):
            self._check_pieces()
        else:
            self._read_layout()
            self._check_sections()

    def _check_header(self):
        require(self.mode in MODES and self.level <= 6 and self.type <= 5 and self.flags < 4,
                "header")
        require(1 <= self.payload_byte_count <= 1 << 28 and self.exact <= self.tokens, "header")
        require(self.flags & 1 or self.first_position == 0, "header")
        if self.mode in (RAW, ZSTD):
            require(not any((self.type, self.flags, self.tokens, self.layers, self.group))
                    and not any(self.profile_hash), "header")
            return
        require(self.type != 0 and any(self.layout_id), "header")
        require(1 <= self.tokens <= 1 << 20 and 1 <= self.layers <= 4_096, "header")
        require((self.mode == PREDICTIVE) == (self.group > 0), "header")
        require(not self.flags & 2 or self.mode == SCALAR, "header")

    def _check_pieces(self):
        require(len(self.entries) == -(-self.payload_byte_count // PIECE), "directory")
        for number, entry in enumerate(self.entries):
            require((entry.part, entry.number, entry.refinement) == (PIECE_PART, number, 0),
                    "directory")

    def _read_layout(self):
        entry = self.entries[0]
        require((entry.part, entry.number, entry.refinement) == (LAYOUT_PART, 0, 0), "directory")
        try:
            self.layout = Layout(self.section(entry))
        except ValueError:
            raise Fault("layout") from None
        require(self.layout.id == self.layout_id and self.layout.type == self.type
                and self.layout.layers == self.layers
                and self.layout.token_count(self.payload_byte_count) == self.tokens, "layout")

    def rest_byte_count(self):
        layout = self.layout
        return (layout.lead + layout.lead_per_token * self.tokens
                + layout.section_lead * layout.layers * len(layout.kinds))

    def _check_sections(self):
        names = [(e.part, e.number, e.refinement) for e in self.entries]
        expected = [(LAYOUT_PART, 0, 0)]
        self.rotation_entry = None
        if names[1:2] == [(ROTATION_PART, 0, 0)]:
            self.rotation_entry = self.entries[1]
            expected.append(names[1])
        if self.rest_byte_count():
            expected.append((REST_PART, 0, 0))
        base = [(kind, layer, 0) for layer in range(self.layers) for kind in self.layout.kinds]
        start = len(expected)
        expected += base
        require(len(names) >= len(expected), "directory")
        self.sections = {name: self.entries[start + i] for i, name in enumerate(base)}
        self.refinements = 0
        if self.flags & 2:
            for refinement in (1, 2):
                # A container that was cut ends behind any refinement.
                if len(names) == len(expected):
                    break
                self.refinements = refinement
                for name in base:
                    if self.sections[name].method == 5:
                        refined = (*name[:2], refinement)
                        if len(expected) < len(names):
                            self.sections[refined] = self.entries[len(expected)]
                        expected.append(refined)
        require(names == expected, "directory")
        require(all(self.sections[name].method == 5 for name in self.sections if name[2]),
                "directory")

    def section(self, entry):
        section = self.content[entry.offset:entry.offset + entry.byte_count]
        require(checksum(section) == entry.checksum, "section-checksum")
        return section

    # Decoding ------------------------------------------------------------------------------------

    def payload(self, profile_bytes=None):
        """The payload's bytes; raises `Fault`."""
        if self.layout is None:
            return b"".join(
                self._opaque(entry, min(PIECE, self.payload_byte_count - PIECE * entry.number))
                for entry in self.entries)
        self.profile = None
        if any(entry.method >= 4 for entry in self.sections.values()):
            self.profile = self._profile(profile_bytes)
        self.rotation = None
        if self.rotation_entry:
            self.rotation = Rotation(self.section(self.rotation_entry), self.layout)
        payload = numpy.zeros(self.payload_byte_count, numpy.uint8)
        is_rest = numpy.ones(self.payload_byte_count, bool)
        self.references = {}
        all_places = self.layout.places(self.tokens)
        for layer in range(self.layers):
            for kind, places in all_places.items():
                bits = self._bits(layer, kind)
                if self.mode == PREDICTIVE and self.profile:
                    self._refer(bits, layer, kind)
                for byte in range(self.layout.width):
                    at = places[layer].reshape(self.tokens, -1) + byte
                    payload[at] = bits >> (8 * byte) & 0xff
                    is_rest[at] = False
        if self.rest_byte_count():
            entry = self.entries[2 if self.rotation_entry else 1]
            rest = self._opaque(entry, self.rest_byte_count())
            payload[is_rest] = numpy.frombuffer(rest, numpy.uint8)
        return payload.tobytes()

    def _opaque(self, entry, byte_count):
        section = self.section(entry)
        if entry.method == ZSTD:
            return unpacked(section, byte_count)
        require(len(section) == byte_count, "section")
        return section

    def _profile(self, profile_bytes):
        require(profile_bytes is not None, "profile-missing")
        profile = Profile(profile_bytes)
        require(profile.hash == self.profile_hash, "profile-missing")
        profile.require_suitable(self.layout)
        return profile

    def _bits(self, layer, kind):
        """One section as bits [row, column]."""
        entry = self.sections[kind, layer, 0]
        section = self.section(entry)
        columns = self.layout.columns(kind)
        if entry.method == 0:
            return raw(section, self.tokens, columns, self.type)
        if entry.method == 2:
            return planes(section, self.tokens, columns, self.type)
        if entry.method == 4:
            return self._exponent(section, layer, kind)
        rows = self.tokens - self.exact
        exact_bytes = self.exact * columns * WIDTHS[self.type]
        if entry.method == 3:
            values, turns = quantised(section, rows, columns, exact_bytes, kind)
            exact = section[16:16 + exact_bytes]
        else:
            coded = self._scalar if entry.method == 5 else self._predicted
            values, exact, turns = coded(section, layer, kind, rows, exact_bytes)
        exact = raw(exact, self.exact, columns, self.type)
        if turns:
            require(kind == K and self.rotation is not None
                    and self.rotation.turns_layer(layer), "section")
            heads = values.reshape(rows, self.layout.heads, -1)
            positions = self.first_position + numpy.arange(self.exact, self.tokens)
            self.rotation.turn(heads, layer, positions, 1)
        return numpy.concatenate([exact, narrow(values.astype(F32), self.type)])

    def _exponent(self, section, layer, kind):
        columns, width = self.layout.columns(kind), WIDTHS[self.type]
        pairs = self.profile.array(LOSSLESS_COLUMNS, layer, kind, "<u2")
        offsets, numbers = pairs & 0xff, pairs >> 8
        require(self.profile.lossless_tables is not None, "profile-unsuitable")
        tables, sums = self.profile.lossless_tables
        require(int(numbers.max()) < len(tables), "profile-damaged")
        symbols, tail, count = stream(
            section, self.tokens, columns, list(range(columns)),
            lambda column, row: (tables[numbers[column]], sums[numbers[column]]))
        rest_count = self.tokens * columns * (width - 1)
        require(len(tail) == rest_count + 8 * count, "section")
        places = numpy.flatnonzero(symbols == -128)
        coded = (symbols + offsets.astype(int)[None, :]) & 0xff
        listed = escapes(tail[rest_count:], count, places)
        require(bool(((listed >= 0) & (listed < 256)).all()), "section")
        coded.flat[places] = listed
        rests = numpy.frombuffer(tail[:rest_count], "u1").reshape(self.tokens, columns, width - 1)
        return joined(coded, rests, self.type)

    def _scalar(self, section, layer, kind, rows, exact_bytes):
        """Values before turning, the exact rows' bytes, and whether K is to be turned."""
        require(rows > 0, "section")
        profile, level = self.profile, self.profile.level(self.level, 4)
        columns = self.layout.columns(kind)
        order = profile.order(layer, kind)
        classes = profile.array(CLASSES, layer, kind, "i1").astype(int)
        steps = profile.array(STEPS, layer, kind, "<f4", (2.0 ** -40, 2.0 ** 40))
        require(profile.tables is not None, "profile-unsuitable")
        tables, sums = profile.tables
        numbers = numpy.clip(classes + level.shifts[0], 0, len(tables) - 1)
        q, tail, count = stream(
            section, rows, columns, order,
            lambda column, row: (tables[numbers[column]], sums[numbers[column]]))
        exact, factors, tail = self._row_factors(level, kind, rows, exact_bytes, tail, count)
        places = numpy.flatnonzero(q == -128)
        listed = escapes(tail, count, places)
        own = numpy.broadcast_to(steps * F32(level.step), q.shape).copy()
        if self.flags & 2:
            require(level.flags & 2, "profile-unsuitable")
            q = self._refined(q, layer, kind, order, classes, level)
            # Escapes keep the finest step, wherever the container ends.
            is_escape = numpy.zeros(q.shape, bool)
            is_escape.flat[places] = True
            coarser = steps * (F32(3 ** (2 - self.refinements)) * F32(level.step))
            own = numpy.where(is_escape, own, coarser[None, :])
        q.flat[places] = listed
        means = profile.array(MEANS, layer, kind, "<f4", (0, 2.0 ** 80))
        values = means[None, :] + q.astype(F32) * (own * factors[:, None])
        return values, exact, self._turns(layer, kind, level)

    def _row_factors(self, level, kind, rows, exact_bytes, tail, escape_count):
        """What follows a stream: the exact rows' bytes, the factors of the others, the escapes."""
        code_bytes = (rows + 1) // 2 if level.row_codes[kind] else 0
        require(len(tail) == exact_bytes + code_bytes + 8 * escape_count, "section")
        codes = tail[exact_bytes:exact_bytes + code_bytes]
        factors = row_factors(codes, rows) if code_bytes else numpy.ones(rows, F32)
        return tail[:exact_bytes], factors, tail[exact_bytes + code_bytes:]

    def _turns(self, layer, kind, level):
        """Whether the values of a section with a profile are those before RoPE."""
        turns = kind == K and bool(level.flags & 1) and self.rotation is not None \
            and self.rotation.turns_layer(layer)
        require(not turns or self.flags & 1, "section")
        return turns

    # Mode predictive -----------------------------------------------------------------------------

    def _predicted(self, section, layer, kind, rows, exact_bytes):
        require(rows > 0, "section")
        profile, level = self.profile, self.profile.level(self.level, 5)
        require(level.group == self.group, "profile-unsuitable")
        columns = self.layout.columns(kind)
        classes = profile.array(COEFFICIENT_CLASSES, layer, kind, "i1").astype(int)
        require(profile.tables is not None, "profile-unsuitable")
        tables, sums = profile.tables
        numbers = numpy.clip(classes + level.shifts[0], 0, len(tables) - 1)
        q, tail, count = stream(
            section, rows, columns, list(range(columns)),
            lambda column, row: (tables[numbers[column]], sums[numbers[column]]))
        exact, factors, tail = self._row_factors(level, kind, rows, exact_bytes, tail, count)
        places = numpy.flatnonzero(q == -128)
        q.flat[places] = escapes(tail, count, places)
        references = [self.references[name][self.exact:]
                      for name in self._sources(layer, kind, level.lookback)]
        references = numpy.concatenate(references or [numpy.zeros((rows, 0), int)], axis=1)
        scales, matrix = profile.matrix(PREDICTION, layer, kind, "i1", references.shape[1])
        means = profile.array(MEANS, layer, kind, "<f4", (0, 2.0 ** 80))
        prediction = means + scales * (references @ matrix).astype(F32)
        scales, matrix = profile.matrix(SYNTHESIS, layer, kind, "<i2", columns)
        sums = (q.astype(numpy.int64) @ matrix).astype(F32)
        values = prediction + scales * F32(level.step) * factors[:, None] * sums
        self.unrounded = values.copy()
        return values, exact, self._turns(layer, kind, level)

    def _sources(self, layer, kind, lookback):
        """The sections that a section is predicted from, as (kind, layer)."""
        first = layer // self.group * self.group
        own = [(K, layer)] if kind == V else []
        return own + [(each, layer - back) for back in range(1, lookback + 1)
                      if layer - back >= first for each in self.layout.kinds]

    def _refer(self, bits, layer, kind):
        """Keeps the whole numbers by which other sections refer to this one."""
        level = self.profile.level(self.level, 5)
        heads = widen(bits, self.type).reshape(self.tokens, self.layout.heads, -1)
        if self._turns(layer, kind, level):
            self.rotation.turn(heads, layer, self.first_position + numpy.arange(self.tokens), -1)
        values = heads.reshape(self.tokens, -1)
        if self.sections[kind, layer, 0].method == 6:
            values[self.exact:] = self.unrounded
        means = self.profile.array(MEANS, layer, kind, "<f4", (0, 2.0 ** 80))
        steps = self.profile.array(REFERENCE_STEPS, layer, kind, "<f4", (2.0 ** -40, 2.0 ** 40))
        with numpy.errstate(invalid="ignore"):
            units = numpy.rint((values - means) / steps)
        units = numpy.where(numpy.isnan(units), 0, units)
        self.references[kind, layer] = numpy.clip(units, -127, 127).astype(numpy.int64)

    def _refined(self, q, layer, kind, order, classes, level):
        """The symbols with 9 D, made finer by the refinements that are there."""
        require(self.profile.refinements is not None, "profile-unsuitable")
        tables, sums = self.profile.refinements
        q = numpy.where(q == -128, 0, q)
        for refinement in range(1, self.refinements + 1):
            coarser = q
            numbers = 4 * numpy.clip(
                classes + level.shifts[refinement], 0, len(tables) // 4 - 1)
            contexts = numbers[None, :] + numpy.minimum(numpy.abs(coarser), 3)
            t, tail, count = stream(
                self.section(self.sections[kind, layer, refinement]), *q.shape, order,
                lambda column, row, at=contexts: (tables[at[row, column]], sums[at[row, column]]))
            require(not tail and count == 0, "section")
            q = 3 * coarser + numpy.where(coarser < 0, -t, t)
        return q


def decode(content, profile_bytes=None):
    """The payload of the container in these bytes; raises `Fault`."""
    return Container(content).payload(profile_bytes)


__all__ = ["Container", "Fault", "K", "V", "decode"]
