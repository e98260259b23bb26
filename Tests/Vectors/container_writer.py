# SPDX-License-Identifier: Apache-2.0
"""Writes containers and profiles for the vectors, as docs/container-format.md says."""

import hashlib
import struct

import numpy
import zstandard
from container_layout import WIDTHS, Layout
from container_methods import BITS, LANES
from container_profile import (CLASSES, COEFFICIENT_CLASSES, LEVELS, LOSSLESS_COLUMNS,
                               LOSSLESS_TABLES, MEANS, NOTE, ORDER, PREDICTION, REFERENCE_STEPS,
                               REFINEMENTS, REQUIREMENTS, ROTATION, STEPS, SYNTHESIS, TABLES,
                               align64, checksum)
from container_profile import ENTRY as PROFILE_ENTRY
from container_profile import HEADER as PROFILE_HEADER
from container_profile import LEVEL
from container_reader import ENTRY, HEADER


def laid_out(header_byte_count, sections):
    """Where sections of these sizes stand behind a directory, and the end of the last one."""
    end = header_byte_count + 16 * len(sections)
    offsets = []
    for section in sections:
        offsets.append(align64(end))
        end = offsets[-1] + len(section)
    return offsets, end


def assembled(magic, header, entries, sections):
    """Magic, checksum, header, directory, sections; `header` is what follows the checksum."""
    body = header + b"".join(entries)
    content = magic + struct.pack("<I", checksum(body)) + body
    offsets, _ = laid_out(8 + len(header), sections)
    for offset, section in zip(offsets, sections):
        content = content.ljust(offset, b"\0") + section
    return content


def container(sections, payload_byte_count, *, mode, level=4, dtype=0, exact=0, flags=0,
              layout_id=bytes(16), profile=bytes(16), first=0, tokens=0, layers=0, group=0,
              version=1, reserved=0):
    """`sections`: (part, number, method, refinement, bytes)."""
    contents = [section[4] for section in sections]
    offsets, _ = laid_out(HEADER.size, contents)
    entries = [
        ENTRY.pack(offset, len(content), checksum(content), number, part | refinement << 4, method)
        for offset, (part, number, method, refinement, content) in zip(offsets, sections)]
    header = HEADER.pack(
        b"KVC1", 0, version, mode, len(sections), level, dtype, exact, flags, layout_id, profile,
        payload_byte_count, first, tokens, layers, group, reserved)
    return assembled(b"KVC1", header[8:], entries, contents)


def packed(content, level=1):
    """A zstd frame that says its content's byte count."""
    return zstandard.ZstdCompressor(
        level=level, write_content_size=True, write_checksum=False, write_dict_id=False
    ).compress(content)


def description(**fields):
    lines = [f"{name}={fields[name]}\n" for name in sorted(fields)]
    return "".join(["kvstore_layout=1\n", *lines]).encode()


def payload_of(layout, tokens, bits, rest=b""):
    """A payload with the values' bits [row, column] by (kind, layer)."""
    count = next(n for n in range(1, 1 << 20) if layout.token_count(n) == tokens)
    payload = numpy.zeros(count, numpy.uint8)
    is_rest = numpy.ones(count, bool)
    for kind, places in layout.places(tokens).items():
        for layer in range(layout.layers):
            for byte in range(layout.width):
                at = places[layer].reshape(tokens, -1) + byte
                payload[at] = bits[kind, layer] >> (8 * byte) & 0xff
                is_rest[at] = False
    payload[is_rest] = numpy.frombuffer(rest, numpy.uint8)
    return payload.tobytes()


def raw(bits, dtype):
    return bits.astype(BITS[WIDTHS[dtype]]).tobytes()


def split(bits, dtype):
    """Symbols and rests of the values' bits, in the same order."""
    width = WIDTHS[dtype]
    rotated = bits.astype(numpy.uint64)
    if width > 1:
        sign = rotated >> (8 * width - 1)
        rotated = (rotated << 1 | sign) & ((1 << 8 * width) - 1)
    symbols = (rotated >> (8 * (width - 1))).astype("u1")
    rests = [(rotated >> (8 * byte) & 0xff).astype("u1") for byte in range(width - 1)]
    rests = numpy.stack(rests, axis=-1) if rests else numpy.zeros((*bits.shape, 0), "u1")
    return symbols, rests


def planes(bits, dtype, by_column, packs=True):
    symbols, rests = split(bits.T if by_column else bits, dtype)
    content = symbols.tobytes()
    frame = packed(content) if packs else content
    return (struct.pack("<II", by_column, len(frame) if packs else 0) + frame + rests.tobytes())


def rotation(turns, sets, first=0, pairing=0):
    """`turns` [set][pair]."""
    head = struct.pack("<HHBBH", len(turns[0]), first, pairing, len(turns), 0)
    head += bytes(sets).ljust(-(-len(sets) // 8) * 8, b"\0")
    return head + numpy.array(turns, "<u8").tobytes()


def quantised(symbols, exact, *, base, means, codes, slope=0, width=64, flags=0, row_codes=b"",
              pairs=(), packs=True):
    """A section of these symbols [row, column] of any size; `pairs`: numbers of such frames."""
    rows, columns = symbols.shape
    width = min(width, columns)
    order = numpy.argsort(codes, kind="stable")
    frames, fields, coded = [], [], symbols.copy()
    for number in range(-(-columns // width)):
        members = order[number * width:(number + 1) * width]
        low = -8 if number in pairs else -128
        part = symbols[:, members]
        part = numpy.where((part <= low) | (part >= -low), low, part)
        coded[:, members] = numpy.where(part == low, -1 << 30, part)
        values = part.T.ravel()
        if low == -8:
            halves = numpy.append(values, numpy.zeros(len(values) % 2, int)) & 15
            content = (halves[0::2] | halves[1::2] << 4).astype("u1").tobytes()
        else:
            content = values.astype("i1").tobytes()
        frame = packed(content) if packs else content
        frames.append(frame if len(frame) < len(content) else content)
        fields.append(len(frames[-1]) | (low == -8) << 31)
    places = numpy.flatnonzero(coded == -1 << 30)
    listed = b"".join(struct.pack("<Ii", place, symbols.flat[place]) for place in places)
    return b"".join([
        struct.pack("<BBHfII", flags, slope, width % 65_536, base, len(places), 0), exact,
        (numpy.array(means, "<f4").view("<u4") >> 16).astype("<u2").tobytes(),
        bytes(codes), bytes(row_codes), struct.pack(f"<{len(fields)}I", *fields), *frames, listed])


def stream(symbols, order, tables, escape_count=0):
    """A rANS stream of the symbols [row, column]; `tables(column, row)`: 256 frequencies."""
    rows, columns = symbols.shape
    states, words = [1 << 16] * LANES, []
    for first in reversed(range(0, columns, LANES)):
        for row in reversed(range(rows)):
            for lane in reversed(range(min(LANES, columns - first))):
                column = order[first + lane]
                frequencies = tables(column, row)
                place = int(symbols[row, column]) + 128
                frequency, below = int(frequencies[place]), int(frequencies[:place].sum())
                assert frequency > 0, "a symbol that the table does not have"
                if states[lane] >= frequency << 21:
                    words.append(states[lane] & 0xffff)
                    states[lane] >>= 16
                whole, part = divmod(states[lane], frequency)
                states[lane] = (whole << 11) + below + part
    return (struct.pack("<IIQ", len(words), escape_count, 0) + struct.pack("<64I", *states)
            + struct.pack(f"<{len(words)}H", *reversed(words)))


def laplace_table(scale):
    """256 frequencies, sum 2,048, at least 1 for the escape and around 0."""
    weights = numpy.exp(-numpy.abs(numpy.arange(-128, 128)) / scale)
    table = numpy.floor(weights / weights.sum() * 1_900).astype(int)
    table[0] = 1
    table[128] += 2_048 - table.sum()
    return table


def profile(items, *, layers, keys, values, table_count, lossless_count=0):
    """`items`: {(item, layer, kind): bytes}."""
    names = sorted(items)
    contents = [items[name] for name in names]
    offsets, _ = laid_out(PROFILE_HEADER.size, contents)
    entries = [
        PROFILE_ENTRY.pack(offset, len(content), checksum(content), layer, kind, item)
        for offset, content, (item, layer, kind) in zip(offsets, contents, names)]
    header = PROFILE_HEADER.pack(
        b"KVP1", 0, 1, 0, layers, len(names), keys, values, table_count, lossless_count, bytes(32))
    return assembled(b"KVP1", header[8:], entries, contents)


def level_entry(level, mode=4, flags=0, group=0, step=1.0, shifts=(0, 0, 0), lookback=0):
    return LEVEL.pack(level, mode, flags, group, step, *shifts, lookback, bytes(20))


def sha16(content):
    return hashlib.sha256(content).digest()[:16]


__all__ = [
    "CLASSES", "COEFFICIENT_CLASSES", "LEVELS", "LOSSLESS_COLUMNS", "LOSSLESS_TABLES", "MEANS",
    "NOTE", "ORDER", "PREDICTION", "REFERENCE_STEPS", "REFINEMENTS", "REQUIREMENTS", "ROTATION",
    "STEPS",
    "SYNTHESIS", "TABLES", "Layout", "container", "description", "laplace_table",
    "level_entry", "packed", "payload_of", "planes", "profile", "quantised", "raw", "rotation",
    "sha16", "split", "stream"]
