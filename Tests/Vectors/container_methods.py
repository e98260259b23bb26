# SPDX-License-Identifier: Apache-2.0
"""How sections are encoded: docs/container-format.md, sections 4 to 9. Written from that text."""

import struct

import numpy
import zstandard
from container_layout import K, WIDTHS, require

F32 = numpy.float32
BITS = {1: "<u1", 2: "<u2", 4: "<u4"}
LANES = 64
ESCAPES = numpy.dtype([("place", "<u4"), ("q", "<i4")])


def unpacked(frame, byte_count, word="section"):
    """The content of exactly one zstd frame of that content's size."""
    try:
        facts = zstandard.get_frame_parameters(frame)
        require(facts.content_size == byte_count and facts.dict_id == 0
                and facts.window_size <= 1 << 27, word)
        decompressor = zstandard.ZstdDecompressor().decompressobj()
        content = decompressor.decompress(frame)
        # `eof`: the frame is whole; `unused_data`: what follows it.
        require(decompressor.eof and not decompressor.unused_data, word)
    except zstandard.ZstdError:
        require(False, word)
    require(len(content) == byte_count, word)
    return content


def widen(bits, dtype):
    """Bits (u32) of finite values to float32."""
    bits = bits.astype(numpy.uint32)
    if dtype == 1:
        return bits.astype("<u2").view("<f2").astype(F32)
    if dtype == 2:
        return (bits << 16).view(F32)
    if dtype == 3:
        return bits.view(F32)
    mantissa, low = (3, -6) if dtype == 4 else (2, -14)
    magnitude = bits & 0x7f
    exponent = (magnitude >> mantissa).astype(int)
    fraction = (magnitude & ((1 << mantissa) - 1)).astype(float)
    significand = numpy.where(exponent == 0, 0, 1) + fraction / (1 << mantissa)
    value = numpy.ldexp(significand, numpy.maximum(exponent - 1, 0) + low)
    return numpy.where(bits & 0x80, -value, value).astype(F32)


def narrow(values, dtype):
    """Float32 to the bits of the nearest value, ties to even; too large becomes the largest."""
    sign = (values.view(numpy.uint32) >> 31).astype(numpy.uint32)
    if dtype == 3:
        return values.view(numpy.uint32)
    if dtype == 2:
        magnitude = values.view(numpy.uint32) & 0x7fffffff
        code = (magnitude + 0x7fff + (magnitude >> 16 & 1)) >> 16
        return numpy.minimum(code, 0x7f7f) | sign << 15
    mantissa, low, largest, width = {
        1: (10, -14, 0x7bff, 16), 4: (3, -6, 0x7e, 8), 5: (2, -14, 0x7b, 8)}[dtype]
    magnitude = numpy.abs(values.astype(float))
    exponent = numpy.frexp(magnitude)[1] - 1
    exponent = numpy.where(magnitude == 0, low, numpy.maximum(exponent, low))
    # numpy.round rounds ties to even; the steps of a double are far smaller.
    units = numpy.round(numpy.ldexp(magnitude, mantissa - exponent))
    code = numpy.ldexp((exponent - low).astype(float), mantissa) + units
    return numpy.minimum(code, largest).astype(numpy.uint32) | sign << (width - 1)


def raw(section, rows, columns, dtype, word="section"):
    width = WIDTHS[dtype]
    require(len(section) == rows * columns * width, word)
    return numpy.frombuffer(section, BITS[width]).astype(numpy.uint32).reshape(rows, columns)


def joined(symbols, rests, dtype):
    """Symbols and rests, both in any one order, to the values' bits."""
    width = WIDTHS[dtype]
    rotated = symbols.astype(numpy.uint64) << (8 * (width - 1))
    for byte in range(width - 1):
        rotated |= rests[..., byte].astype(numpy.uint64) << (8 * byte)
    if width > 1:
        rotated = rotated >> 1 | (rotated & 1) << (8 * width - 1)
    return rotated.astype(numpy.uint32)


def planes(section, rows, columns, dtype):
    require(len(section) >= 8, "section")
    order, frame_count = struct.unpack_from("<II", section)
    count, width = rows * columns, WIDTHS[dtype]
    stored = frame_count or count
    require(order < 2 and len(section) == 8 + stored + count * (width - 1), "section")
    symbols = section[8:8 + stored]
    if frame_count:
        symbols = unpacked(symbols, count)
    symbols = numpy.frombuffer(symbols, "u1")
    rests = numpy.frombuffer(section[8 + stored:], "u1").reshape(count, width - 1)
    bits = joined(symbols, rests, dtype)
    return bits.reshape(columns, rows).T if order else bits.reshape(rows, columns)


class Rotation:
    """The section `rotation`."""

    def __init__(self, section, layout):
        sets_end = 8 + -(-layout.layers // 8) * 8
        require(len(section) >= sets_end, "section")
        self.pairs, self.first, self.pairing, sets, zero = struct.unpack_from("<HHBBH", section)
        require(self.pairs and self.first + 2 * self.pairs <= layout.channels[K]
                and self.pairing < 2 and 1 <= sets <= 254 and zero == 0
                and len(section) == sets_end + 8 * self.pairs * sets, "section")
        self.sets = section[8:8 + layout.layers]
        require(all(each < sets or each == 255 for each in self.sets)
                and not any(section[8 + layout.layers:sets_end]), "section")
        self.turns = numpy.frombuffer(section[sets_end:], "<u8").reshape(sets, self.pairs)

    def angles(self, layer, positions):
        """Cosines and sines [row, pair]."""
        with numpy.errstate(over="ignore"):
            fraction = positions.astype(numpy.uint64)[:, None] * self.turns[self.sets[layer]]
        angle = (fraction >> numpy.uint64(11)).astype(float) * 2.0 ** -53 * (2 * numpy.pi)
        return numpy.cos(angle).astype(F32), numpy.sin(angle).astype(F32)

    def turn(self, values, layer, positions, direction):
        """Turns [row, head, channel] in place; `direction` 1 as the engine has it, -1 back."""
        cosine, sine = self.angles(layer, positions)
        cosine, sine = cosine[:, None, :], sine[:, None, :] * F32(direction)
        index = numpy.arange(self.pairs)
        low = self.first + (2 * index if self.pairing else index)
        high = low + (1 if self.pairing else self.pairs)
        x, y = values[:, :, low].copy(), values[:, :, high].copy()
        values[:, :, low] = x * cosine - y * sine
        values[:, :, high] = y * cosine + x * sine

    def turns_layer(self, layer):
        return self.sets[layer] != 255


def escapes(section, count, places):
    """The list at the end of a section, which must name exactly `places`, in order."""
    listed = numpy.frombuffer(section, ESCAPES)
    require(len(listed) == count and numpy.array_equal(listed["place"], places), "section")
    require(bool((numpy.abs(listed["q"].astype(int)) <= 1 << 24).all()), "section")
    return listed["q"]


def power(exponents):
    return numpy.exp2(exponents).astype(F32)


def quantised(section, rows, columns, exact_bytes, kind):
    """Values [row, column] of the quantised rows before turning, and whether K is to be turned."""
    require(rows > 0 and len(section) >= 16, "section")
    flags, slope, width, base, escape_count, zero = struct.unpack_from("<BBHfII", section)
    width = width or 65_536
    require(flags < 4 and slope <= 8 and width <= columns and zero == 0
            and 2.0 ** -80 <= base <= 2.0 ** 40, "section")
    require(kind == K or not flags & 1, "section")
    frame_count = -(-columns // width)
    sizes = [exact_bytes, 2 * columns, columns, rows if flags & 2 else 0, 4 * frame_count]
    require(escape_count <= rows * columns
            and len(section) >= 16 + sum(sizes) + 8 * escape_count, "section")
    parts, at = [], 16
    for size in sizes:
        parts.append(section[at:at + size])
        at += size
    means = (numpy.frombuffer(parts[1], "<u2").astype(numpy.uint32) << 16).view(F32)
    require(bool((numpy.abs(means) <= 2.0 ** 80).all()), "section")
    codes = numpy.frombuffer(parts[2], "u1").astype(float)
    steps = F32(base) * power(slope * (codes - 128) / 64)
    factors = numpy.ones(rows, F32)
    if flags & 2:
        factors = power((numpy.frombuffer(parts[3], "u1").astype(float) - 128) / 8)
    end = len(section) - 8 * escape_count
    symbols = numpy.zeros((rows, columns), int)
    is_escape = numpy.zeros((rows, columns), bool)
    order = numpy.argsort(codes, kind="stable")
    for number, field in enumerate(numpy.frombuffer(parts[4], "<u4")):
        byte_count, pairs = int(field) & 0x7fffffff, int(field) >> 31
        require(byte_count <= end - at, "section")
        members = order[number * width:(number + 1) * width]
        frame = section[at:at + byte_count]
        found = frame_symbols(frame, len(members) * rows, pairs)
        symbols[:, members] = found.reshape(len(members), rows).T
        is_escape[:, members] = symbols[:, members] == (-8 if pairs else -128)
        at += byte_count
    require(at == end, "section")
    places = numpy.flatnonzero(is_escape)
    symbols.flat[places] = escapes(section[end:], escape_count, places)
    products = symbols.astype(F32) * (steps[None, :] * factors[:, None])
    return means[None, :] + products, bool(flags & 1)


def row_factors(codes, rows):
    """What multiplies the steps of each row: codes of four bits, two to a byte."""
    require(len(codes) == (rows + 1) // 2, "section")
    content = numpy.frombuffer(codes, "u1").astype(int)
    halves = numpy.stack([content & 15, content >> 4], axis=1).ravel()
    require(not halves[rows:].any(), "section")
    return power((halves[:rows] - 8) / 4)


def frame_symbols(frame, count, pairs):
    byte_count = (count + 1) // 2 if pairs else count
    if len(frame) != byte_count:
        frame = unpacked(frame, byte_count)
    content = numpy.frombuffer(frame, "i1")
    if not pairs:
        return content.astype(int)
    content = content.view("u1").astype(int)
    halves = numpy.stack([content & 15, content >> 4], axis=1).ravel()
    require(not halves[count:].any(), "section")
    return (halves[:count] ^ 8) - 8


def stream(section, rows, columns, order, tables):
    """The rANS stream at the start of a section: symbols [row, column], what follows, escape count.

    `tables(column, row)` gives the 256 frequencies of the next symbol of a column.
    """
    require(len(section) >= 272, "section")
    word_count, escape_count, zero = struct.unpack_from("<IIQ", section)
    end = 272 + 2 * word_count
    require(zero == 0 and len(section) >= end, "section")
    states = numpy.frombuffer(section[16:272], "<u4").astype(int).tolist()
    require(min(states) >= 1 << 16, "section")
    words = iter(numpy.frombuffer(section[272:end], "<u2").astype(int).tolist())
    symbols = numpy.zeros((rows, columns), int)
    for first in range(0, columns, LANES):
        lanes = range(min(LANES, columns - first))
        for row in range(rows):
            for lane in lanes:
                column = order[first + lane]
                frequencies, sums = tables(column, row)
                slot = states[lane] & 2047
                place = int(numpy.searchsorted(sums, slot, side="right")) - 1
                symbols[row, column] = place - 128
                states[lane] = (int(frequencies[place]) * (states[lane] >> 11) + slot
                                - int(sums[place]))
            for lane in lanes:
                if states[lane] < 1 << 16:
                    word = next(words, None)
                    require(word is not None, "section")
                    states[lane] = states[lane] << 16 | word
    require(next(words, None) is None and set(states) == {1 << 16}, "section")
    return symbols, section[end:], escape_count
