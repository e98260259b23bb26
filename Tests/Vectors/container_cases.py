# SPDX-License-Identifier: Apache-2.0
"""The vectors of Tests/Vectors/container: sound containers, and ones with one damage each."""

import hashlib
import math
import random
import struct

import container_writer as w
import numpy
from container_layout import K, V, WIDTHS, Fault, Layout
from container_profile import checksum
from container_reader import (CACHEGEN, LOSSLESS, PREDICTIVE, RAW, SCALAR, ZSTD, Container,
                              decode)

EVERY_TYPE = ["float16", "bfloat16", "float32", "float8_e4m3", "float8_e5m2"]
TURNS = [round(2 ** 64 * 10_000 ** (-pair / 4) / (2 * math.pi)) for pair in range(4)]


def drawn(seed, shape, limit):
    """Whole numbers that are the same with any release of Python: from getrandbits alone."""
    source = random.Random(seed)
    count = math.prod(shape)
    return numpy.array([source.getrandbits(32) % limit for _ in range(count)]).reshape(shape)


def text(**more):
    fields = {"axes": "layer,kv,token,head,channel", "dtype": "bfloat16", "head_dim": 8,
              "kv_heads": 2, "layers": 2}
    return w.description(**{**fields, **more})


def bell(seed, shape, spread):
    """Whole numbers around 0."""
    return sum(drawn(f"{seed} {i}", shape, 2 * spread + 1) - spread for i in range(4)) // 2


def section_bits(layout, tokens, seed):
    """Bits of any kind, those that are not finite among them, by (kind, layer)."""
    limit = 1 << (8 * layout.width)
    return {(kind, layer): drawn(f"{seed} {kind} {layer}", (tokens, layout.columns(kind)), limit)
            for kind in layout.kinds for layer in range(layout.layers)}


def rest_sections(layout, tokens, packs=False):
    count = (layout.lead + layout.lead_per_token * tokens
             + layout.section_lead * layout.layers * len(layout.kinds))
    rest = bytes(i % 251 for i in range(count))
    if not rest:
        return [], rest
    return [(5, 0, 1 if packs else 0, 0, w.packed(rest) if packs else rest)], rest


def exact_container(tokens, described, seed, methods):
    """A container in mode lossless whose sections have `methods` in turn, and its payload."""
    layout = Layout(described)
    bits = section_bits(layout, tokens, seed)
    rest, rest_bytes = rest_sections(layout, tokens, packs=True)
    sections = [(3, 0, 0, 0, described), *rest]
    for index, (layer, kind) in enumerate(
            (layer, kind) for layer in range(layout.layers) for kind in layout.kinds):
        method = methods[index % len(methods)]
        values = bits[kind, layer]
        content = w.raw(values, layout.type) if method == "raw" else w.planes(
            values, layout.type, by_column=method == "column", packs=method != "row, as it is")
        sections.append((kind, layer, 0 if method == "raw" else 2, 0, content))
    payload = w.payload_of(layout, tokens, bits, rest_bytes)
    return w.container(
        sections, len(payload), mode=LOSSLESS, level=2, dtype=layout.type, layout_id=layout.id,
        tokens=tokens, layers=layout.layers), payload


def opaque():
    yield "raw: hello", w.container([(2, 0, 0, 0, b"hello")], 5, mode=RAW, level=0)
    repeated = b"KVStore " * 40
    yield "zstd: a repetition", w.container(
        [(2, 0, 1, 0, w.packed(repeated))], len(repeated), mode=ZSTD, level=1)
    pieces = [b"\x11" * (1 << 20), b"\x22\x33"]
    yield "zstd: two pieces, the second as it is", w.container(
        [(2, 0, 1, 0, w.packed(pieces[0])), (2, 1, 0, 0, pieces[1])], (1 << 20) + 2, mode=ZSTD,
        level=4, layout_id=bytes(range(16)))


def exact():
    methods = ["column", "row", "raw", "row, as it is"]
    for name in EVERY_TYPE:
        yield f"lossless: {name}", exact_container(3, text(dtype=name), name, methods)[0]
    for name, more in {
        "in blocks, K transposed": {
            "axes": "layer,block,head,kv(channel,token|token,channel)", "block_tokens": 4},
        "a state of llama.cpp": {
            "axes": "kv(layer,token,head,channel|layer,head,channel,token)", "lead_bytes": 24,
            "lead_bytes_per_token": 12, "section_lead_bytes": 12, "value_dim": 4},
        "one latent vector": {"axes": "layer,token,channel", "kv_heads": 1, "head_dim": 12},
        "pages first": {"axes": "kv,token,layer,head,channel", "value_dim": 2},
        "side by side": {"axes": "layer,token,head,kv,channel", "value_dim": 5},
    }.items():
        yield f"lossless: {name}", exact_container(4, text(**more), name, methods)[0]
    yield "lossless: one token", exact_container(1, text(), "one", ["raw", "column"])[0]


def quantised_container(described, tokens, exact_rows, rotation=None, flags=0, first=0, **options):
    layout = Layout(described)
    sections = [(3, 0, 0, 0, described)]
    if rotation:
        sections.append((4, 0, 0, 0, rotation))
    for layer in range(layout.layers):
        for kind in layout.kinds:
            seed = f"quantised {layer} {kind}"
            rows, columns = tokens - exact_rows, layout.columns(kind)
            symbols = bell(seed, (rows, columns), 3 if kind == K else 9)
            symbols[0, :3] = [300, -4_000_000, 1 << 24]
            means = (drawn(seed, (columns,), 64) - 32) / 4
            exact_rows_bits = 0x3f80 + drawn(seed, (exact_rows, columns), 128)
            sections.append((kind, layer, 3, 0, w.quantised(
                symbols, w.raw(exact_rows_bits, layout.type), base=0.25 * (layer + 1),
                means=means, codes=(118 + drawn(seed + "c", (columns,), 20)).tolist(),
                slope=8 * (kind == V), width=5, pairs=(0, 2) if kind == K else (),
                flags=(kind == K and rotation is not None) | 2 * (kind == V),
                row_codes=(120 + drawn(seed + "r", (rows,), 16)).tolist() if kind == V else b"",
                packs=layer == 1, **options)))
    count = next(n for n in range(1, 1 << 20) if layout.token_count(n) == tokens)
    return w.container(
        sections, count, mode=CACHEGEN, level=4, dtype=layout.type, exact=exact_rows, flags=flags,
        layout_id=layout.id, first=first, tokens=tokens, layers=layout.layers)


def quantised():
    for name in EVERY_TYPE[:3]:
        yield f"cachegen: {name}", quantised_container(text(dtype=name), 9, 0, flags=1, first=77)
    yield "cachegen: exact rows", quantised_container(text(), 11, 4, flags=1)
    half = w.rotation([TURNS, TURNS[::-1]], [1, 0])
    yield "cachegen: K before RoPE, two sets", quantised_container(
        text(), 7, 2, half, flags=1, first=2)
    far = w.rotation([TURNS[:3]], [0], first=2, pairing=1)
    yield "cachegen: adjacent channels turn, far away", quantised_container(
        text(layers=1), 7, 0, far, flags=1, first=4_000_000_000)
    yield "cachegen: position not known", quantised_container(text(), 6, 4, half)
    example = w.description(axes="layer,kv,token,channel", dtype="float16", head_dim=2, layers=1)
    sections = [(3, 0, 0, 0, example)]
    for kind in (K, V):
        symbols = numpy.array([[1, -2], [0, 7]]) if kind == K else numpy.array([[90, 1], [-128, 5]])
        sections.append((kind, 0, 3, 0, w.quantised(
            symbols, w.raw(numpy.array([[0x3c00, 0xbc00]]), 1), base=0.5, means=[1.0, -3.0],
            codes=[128, 127], pairs=(0,) if kind == K else (), packs=False)))
    yield "example: cachegen", w.container(
        sections, 24, mode=CACHEGEN, dtype=1, exact=1, flags=1, layout_id=Layout(example).id,
        tokens=3, layers=1)


def files():
    """{path: list of vectors}"""
    profiles = dict(with_profile())
    good = [*opaque(), *exact(), *quantised()]
    return {
        "container/good.json": [vector(name, content) for name, content in good],
        "container/good-profile.json": [
            vector(name, content, profile) for name, (content, profile) in profiles.items()],
        "container/bad.json": [
            bad_vector(*case) for case in bad(dict(good), profiles)],
    }


def vector(name, content, profile=None):
    payload = decode(content, profile)
    return {"name": name, "container": content.hex(),
            "profile": profile.hex() if profile else None,
            "payload_byte_count": len(payload),
            "payload_sha256": hashlib.sha256(payload).hexdigest(),
            "payload": payload.hex() if len(payload) <= 4_096 else None}


def bad_vector(name, content, profile=None):
    try:
        decode(content, profile)
    except Fault as fault:
        return {"name": name, "container": content.hex(),
                "profile": profile.hex() if profile else None, "fault": str(fault)}
    raise AssertionError(f"{name}: is decoded")


# With a profile ----------------------------------------------------------------------------------

def learnt(layout, *, levels=b"", turns=False, seed="profile"):
    """A profile for `layout`: tables of several widths, orders, means and steps."""
    tables = [w.laplace_table(scale) for scale in (0.7, 1.5, 3, 6, 12)]
    ternary = [[400, 1_248, 400], [900, 900, 248], [1_000, 800, 248], [1_100, 748, 200]]
    items = {
        (w.REQUIREMENTS, 0, 0): w.description(head_dim=8, kv_heads=2),
        (w.LEVELS, 0, 0): levels,
        (w.TABLES, 0, 0): numpy.array(tables, "<u2").tobytes(),
        (w.REFINEMENTS, 0, 0): numpy.array(ternary * len(tables), "<u2").tobytes(),
        (w.LOSSLESS_TABLES, 0, 0): numpy.array(tables[2:4], "<u2").tobytes(),
        (w.NOTE, 0, 0): "learnt from nothing".encode(),
    }
    if turns:
        items[w.ROTATION, 0, 0] = w.rotation([TURNS], [0] * layout.layers)
    for layer in range(layout.layers):
        for kind in layout.kinds:
            name, columns = f"{seed} {layer} {kind}", layout.columns(kind)
            order = sorted(range(columns), key=drawn(name, (columns,), 97).tolist().__getitem__)
            pairs = (117 + drawn(name, (columns,), 4)) | drawn(name + "t", (columns,), 2) << 8
            items |= {
                (w.ORDER, layer, kind): numpy.array(order, "<u2").tobytes(),
                (w.MEANS, layer, kind): (
                    (drawn(name + "m", (columns,), 99) - 49) / 8).astype("<f4").tobytes(),
                (w.STEPS, layer, kind): (
                    (1 + drawn(name + "s", (columns,), 50)) / 16).astype("<f4").tobytes(),
                (w.CLASSES, layer, kind): (
                    drawn(name + "k", (columns,), 7) - 1).astype("i1").tobytes(),
                (w.LOSSLESS_COLUMNS, layer, kind): pairs.astype("<u2").tobytes()}
    return w.profile(
        items, layers=layout.layers, keys=layout.columns(K), values=layout.columns(V),
        table_count=len(tables), lossless_count=2), items


def numbers_of(items, item, layer, kind, dtype):
    return numpy.frombuffer(items[item, layer, kind], dtype)


def exponent_case(described, tokens, name):
    layout = Layout(described)
    profile, items = learnt(layout)
    sections = [(3, 0, 0, 0, described)]
    for layer in range(layout.layers):
        for kind in layout.kinds:
            columns = layout.columns(kind)
            pairs = numbers_of(items, w.LOSSLESS_COLUMNS, layer, kind, "<u2").astype(int)
            tables = numpy.frombuffer(items[w.LOSSLESS_TABLES, 0, 0], "<u2").reshape(-1, 256)
            coded = (bell(f"{name} {layer} {kind}", (tokens, columns), 5)
                     + (pairs & 0xff)[None, :]) % 256
            coded[0, 1] = 7
            symbols = ((coded - (pairs & 0xff)[None, :] + 128) % 256) - 128
            numbers = numpy.broadcast_to(pairs >> 8, symbols.shape)
            is_escape = (tables[numbers, symbols + 128] == 0) | (symbols == -128)
            places = numpy.flatnonzero(is_escape)
            stream = w.stream(
                numpy.where(is_escape, -128, symbols), list(range(columns)),
                lambda column, row, t=tables, p=pairs: t[p[column] >> 8].astype(int), len(places))
            rests = drawn(name, (tokens * columns * (WIDTHS[layout.type] - 1),), 256)
            listed = b"".join(struct.pack("<Ii", at, coded.flat[at]) for at in places)
            sections.append((kind, layer, 4, 0, stream + bytes(rests.tolist()) + listed))
    count = next(n for n in range(1, 1 << 20) if layout.token_count(n) == tokens)
    return w.container(
        sections, count, mode=LOSSLESS, level=2, dtype=layout.type, layout_id=layout.id,
        profile=w.sha16(profile), tokens=tokens, layers=layout.layers), profile


def row_codes(name, rows, flags, kind):
    """Codes of the rows as a section has them, where the level has them for this kind."""
    if not flags & (4 << kind):
        return b""
    codes = [*drawn(name + "r", (rows,), 16).tolist(), 0]
    return bytes(codes[i] | codes[i + 1] << 4 for i in range(0, rows, 2))


def scalar_case(described, tokens, name, *, exact_rows=0, first=100, turns=True, embedded=False,
                codes=0, kept=2, scale=1):
    """`kept`: how many refinements of an embedded container are left."""
    layout = Layout(described)
    flags = turns | 2 * embedded | codes
    levels = w.level_entry(
        4, flags=flags, step=0.5, shifts=(-2 if embedded else 0, 1, 2))
    profile, items = learnt(
        layout, levels=levels + w.level_entry(3, step=0.25), turns=turns)
    tables = numpy.frombuffer(items[w.TABLES, 0, 0], "<u2").reshape(-1, 256).astype(int)
    ternary = numpy.zeros((20, 256), int)
    ternary[:, 127:130] = numpy.frombuffer(items[w.REFINEMENTS, 0, 0], "<u2").reshape(-1, 3)
    sections = [(3, 0, 0, 0, described)]
    if turns:
        sections.append((4, 0, 0, 0, w.rotation([TURNS], [0] * layout.layers)))
    refined = {1: [], 2: []}
    for layer in range(layout.layers):
        for kind in layout.kinds:
            rows, columns = tokens - exact_rows, layout.columns(kind)
            order = numbers_of(items, w.ORDER, layer, kind, "<u2").tolist()
            classes = numbers_of(items, w.CLASSES, layer, kind, "i1").astype(int)
            q = bell(f"{name} {layer} {kind}", (rows, columns), 4) * (9 if embedded else 1)
            q = q + (drawn(name, q.shape, 9) - 4 if embedded else 0)
            q = q * scale + (scale - 1)
            q[0, 0], q[rows - 1, 1] = 70_000, -1 << 24
            chain = [q]
            for _ in range(2 if embedded else 0):
                chain.insert(0, numpy.floor_divide(chain[0] + 1, 3))
            numbers = numpy.clip(classes + (-2 if embedded else 0), 0, len(tables) - 1)
            fits = (numpy.abs(chain[0]) < 128) & (
                tables[numbers[None, :], numpy.clip(chain[0], -128, 127) + 128] > 0)
            places = numpy.flatnonzero(~fits)
            base = w.stream(
                numpy.where(fits, chain[0], -128), order,
                lambda column, row, n=numbers: tables[n[column]], len(places))
            exact = 0x3f80 + drawn(name, (exact_rows, columns), 128)
            listed = b"".join(struct.pack("<Ii", at, q.flat[at]) for at in places)
            sections.append((kind, layer, 5, 0, base + w.raw(exact, layout.type) + row_codes(
                f"{name} {layer} {kind}", rows, flags, kind) + listed))
            coarser = numpy.where(fits, chain[0], 0)
            for refinement in (1, 2) if embedded else ():
                finer = numpy.where(fits, chain[refinement], 0)
                t = finer - 3 * coarser
                contexts = 4 * numpy.clip(classes + refinement, 0, 4)[None, :] + numpy.minimum(
                    numpy.abs(coarser), 3)
                refined[refinement].append((kind, layer, 5, refinement, w.stream(
                    numpy.where(coarser < 0, -t, t), order,
                    lambda column, row, at=contexts: ternary[at[row, column]])))
                coarser = finer
    count = next(n for n in range(1, 1 << 20) if layout.token_count(n) == tokens)
    return w.container(
        sections + sum([refined[r] for r in range(1, kept + 1)], []), count, mode=SCALAR,
        dtype=layout.type,
        exact=exact_rows, flags=1 | 2 * embedded, layout_id=layout.id, profile=w.sha16(profile),
        first=first, tokens=tokens, layers=layout.layers), profile


def predicted_case(described, tokens, name, *, exact_rows, first, group, codes=0, lookback=0):
    """Layers in groups; K of the second layer is stored as it is, one of its values no number."""
    layout = Layout(described)
    level = w.level_entry(4, mode=5, flags=1 | codes, group=group, step=0.5, lookback=lookback)
    _, items = learnt(layout, levels=level, turns=True)
    columns, rows = layout.columns(K), tokens - exact_rows
    sections = [(3, 0, 0, 0, described),
                (4, 0, 0, 0, w.rotation([TURNS], [0] * layout.layers))]
    for layer in range(layout.layers):
        for kind in layout.kinds:
            seed = f"{name} {layer} {kind}"
            sources = 2 * min(1 if lookback else 2, layer % group) + (kind == V)
            scales = ((1 + drawn(seed + "a", (2, columns), 9)) / 256).astype("<f4")
            matrix = drawn(seed + "A", (sources * columns, columns), 41) - 20
            synthesis = drawn(seed + "S", (columns, columns), 401) - 200
            items |= {
                (w.REFERENCE_STEPS, layer, kind): (
                    (1 + drawn(seed + "h", (columns,), 9)) / 32).astype("<f4").tobytes(),
                (w.PREDICTION, layer, kind): scales[0].tobytes() + matrix.astype("i1").tobytes(),
                (w.SYNTHESIS, layer, kind): scales[1].tobytes() + synthesis.astype(
                    "<i2").tobytes(),
                (w.COEFFICIENT_CLASSES, layer, kind): bytes(
                    drawn(seed + "k", (columns,), 5).tolist())}
            bits = 0x3e80 + drawn(seed + "x", (tokens, columns), 400)
            if (layer, kind) == (1, K):
                bits[rows - 1, 2] = 0x7fc1
                sections.append((kind, layer, 0, 0, w.raw(bits, layout.type)))
                continue
            tables = numpy.frombuffer(items[w.TABLES, 0, 0], "<u2").reshape(-1, 256).astype(int)
            numbers = numpy.frombuffer(items[w.COEFFICIENT_CLASSES, layer, kind], "i1").astype(int)
            q = bell(seed, (rows, columns), 3)
            q[0, 0] = 5_000
            fits = (numpy.abs(q) < 128) & (
                tables[numbers[None, :], numpy.clip(q, -128, 127) + 128] > 0)
            places = numpy.flatnonzero(~fits)
            stream = w.stream(
                numpy.where(fits, q, -128), list(range(columns)),
                lambda column, row, n=numbers: tables[n[column]], len(places))
            listed = b"".join(struct.pack("<Ii", at, q.flat[at]) for at in places)
            sections.append((kind, layer, 6, 0, stream + w.raw(
                bits[:exact_rows], layout.type) + row_codes(seed, rows, codes, kind) + listed))
    profile = w.profile(
        items, layers=layout.layers, keys=columns, values=columns, table_count=5, lossless_count=2)
    count = next(n for n in range(1, 1 << 20) if layout.token_count(n) == tokens)
    return w.container(
        sections, count, mode=PREDICTIVE, dtype=layout.type, exact=exact_rows, flags=1,
        layout_id=layout.id, profile=w.sha16(profile), first=first, tokens=tokens,
        layers=layout.layers, group=group), profile


def with_profile():
    for name in EVERY_TYPE:
        yield f"exponent: {name}", exponent_case(text(dtype=name, layers=1), 5, name)
    wide = text(layers=1, kv_heads=2, head_dim=8, value_dim=40)
    yield "exponent: two groups of columns", exponent_case(wide, 3, "wide")
    yield "scalar: K before RoPE", scalar_case(text(), 6, "scalar")
    yield "scalar: exact rows, float16", scalar_case(
        text(dtype="float16", layers=1), 9, "exact", exact_rows=4, first=0)
    yield "scalar: two groups of columns, not turned", scalar_case(wide, 3, "wide", turns=False)
    yield "predicted: two groups", predicted_case(
        text(layers=5), 5, "predicted", exact_rows=2, first=2, group=3)
    yield "scalar: embedded", scalar_case(text(layers=1), 5, "embedded", embedded=True)
    yield "scalar: row codes of V", scalar_case(
        text(dtype="float16"), 9, "codes of V", exact_rows=4, first=0, codes=8)
    yield "scalar: row codes of K and V, K before RoPE", scalar_case(
        text(layers=1), 12, "codes", codes=12)
    yield "scalar: row codes of K, float32", scalar_case(
        text(layers=1, dtype="float32"), 1, "codes of K", turns=False, codes=4)
    yield "scalar: embedded, row codes", scalar_case(
        text(layers=1), 7, "embedded codes", embedded=True, codes=12)
    yield "predicted: row codes", predicted_case(
        text(layers=4), 6, "predicted codes", exact_rows=1, first=3, group=3, codes=8)
    yield "scalar: escapes alone", scalar_case(
        text(layers=1, dtype="float32"), 24, "far", scale=10_001, turns=False)
    for kept in (0, 1):
        yield f"scalar: embedded, {kept} of 2 refinements", scalar_case(
            text(dtype="float16"), 6, "cut", embedded=True, codes=8, exact_rows=1, first=3,
            kept=kept)
    yield "predicted: one layer back, row codes of K and V", predicted_case(
        text(layers=4), 5, "one back", exact_rows=0, first=9, group=4, codes=12, lookback=1)


# Damage ------------------------------------------------------------------------------------------

def resealed(content):
    """With the checksum of header and directory made right again."""
    count = struct.unpack_from("<H", content, 10)[0]
    end = min(64 + 16 * count, len(content))
    return content[:4] + struct.pack("<I", checksum(content[8:end])) + content[8:]


def edited(content, at, new, seals=True):
    content = content[:at] + new + content[at + len(new):]
    return resealed(content) if seals else content


def section_edited(content, index, at, new):
    """With bytes of a section changed and both checksums made right; `at` may be negative."""
    entry = 64 + 16 * index
    offset, byte_count = struct.unpack_from("<II", content, entry)
    at = offset + (at if at >= 0 else byte_count + at)
    content = content[:at] + new + content[at + len(new):]
    check = checksum(content[offset:offset + byte_count])
    return edited(content, entry + 8, struct.pack("<I", check))


def bad(good, profiles):
    hello, tensor = good["raw: hello"], good["lossless: bfloat16"]
    packed, coded = good["zstd: a repetition"], good["cachegen: K before RoPE, two sets"]
    llama = good["lossless: a state of llama.cpp"]
    plain = good["cachegen: exact rows"]
    yield "empty", b""
    yield "63 bytes", hello[:63]
    yield "no directory", hello[:79]
    yield "no section", hello[:128]
    yield "a byte less", hello[:-1]
    yield "a byte more", hello + b"\0"
    yield "magic", edited(hello, 0, b"KVC2")
    yield "checksum of the header", edited(hello, 48, b"\6", seals=False)
    yield "checksum of the directory", edited(hello, 72, b"\0", seals=False)
    yield "version 2", edited(hello, 8, b"\2")
    for name, at, new in [
        ("mode", 9, b"\6"), ("no sections", 10, b"\0\0"), ("level", 12, b"\7"),
        ("dtype", 13, b"\6"), ("a dtype where none belongs", 13, b"\1"),
        ("exact rows", 14, b"\1"), ("flag", 15, b"\4"),
        ("a position where none belongs", 15, b"\1"),
        ("profile where none belongs", 32, b"\1"), ("payload of no bytes", 48, bytes(4)),
        ("payload of 2^28 + 1 bytes", 48, struct.pack("<I", (1 << 28) + 1)),
        ("position that is not known", 52, b"\1"), ("tokens", 56, b"\1"), ("layers", 60, b"\1"),
        ("group", 62, b"\1"), ("reserved", 63, b"\1"),
    ]:
        yield f"header: {name}", edited(hello, at, new)
    for name, at, new in [
        ("no dtype", 13, b"\0"), ("more exact rows than tokens", 14, b"\4"),
        ("embedded", 15, b"\2"), ("no layout", 16, bytes(16)), ("no tokens", 56, bytes(4)),
        ("too many tokens", 56, struct.pack("<I", (1 << 20) + 1)), ("no layers", 60, bytes(2)),
        ("too many layers", 60, struct.pack("<H", 4_097)), ("group", 62, b"\1"),
    ]:
        yield f"header of a tensor: {name}", edited(tensor, at, new)
    for name, at, new in [
        ("offset", 64, struct.pack("<I", 192)), ("no bytes", 68, bytes(4)),
        ("number", 76, b"\1"), ("part", 78, b"\6"), ("another part", 78, b"\5"),
        ("refinement", 78, b"\x12"), ("refinement 3", 78, b"\x32"), ("method", 79, b"\7"),
        ("method of another part", 79, b"\2"),
    ]:
        yield f"directory: {name}", edited(hello, at, new)
    yield "directory: a piece is missing", edited(hello, 48, struct.pack("<I", (1 << 20) + 1))
    for name, at, new in [
        ("layer", 92, b"\1"), ("order", 94, b"\1"), ("refinement", 94, b"\x10"),
        ("method zstd", 95, b"\1"), ("no layout", 78, b"\5"), ("layout's number", 76, b"\1"),
    ]:
        yield f"directory of a tensor: {name}", edited(tensor, at, new)
    yield "directory of a tensor: no rest", edited(llama, 94, b"\4")
    yield "section's checksum", hello[:-1] + b"O"
    yield "layout's checksum", tensor.replace(b"kvstore_layout=1\n", b"kvstore_layout=2\n")
    yield "section: too few bytes for a piece", edited(hello, 48, b"\6")
    yield "section: no zstd frame", section_edited(packed, 0, 0, b"\0")
    yield "section: a frame of another size", edited(packed, 48, b"\0\1")
    yield "section: planes of no order", section_edited(tensor, 1, 0, b"\2")
    yield "section: planes' reserved byte", section_edited(tensor, 1, 1, b"\1")
    yield "section: planes' frame is longer", section_edited(tensor, 1, 4, b"\xff\xff")
    yield "section: planes' frame is damaged", section_edited(tensor, 1, 8, b"\0")
    for name, at, new in [
        ("canonical", 0, b"K"), ("of another id", -2, b"3"),
    ]:
        yield f"layout: not {name}", section_edited(tensor, 0, at, new)
    yield "layout: another dtype", edited(tensor, 13, b"\1")
    yield "layout: other layers", edited(tensor, 60, b"\1")
    yield "layout: other tokens", edited(tensor, 56, b"\2")
    yield "layout: another payload", edited(tensor, 48, b"\1")
    for name, at, new in [
        ("pairs", 0, b"\5"), ("no pairs", 0, b"\0"), ("first channel", 2, b"\1"),
        ("pairing", 4, b"\2"), ("no sets", 5, b"\0"), ("sets", 5, b"\3"), ("reserved", 6, b"\1"),
        ("set of a layer", 8, b"\2"), ("zeros", 10, b"\1"),
    ]:
        yield f"rotation: {name}", section_edited(coded, 1, at, new)
    for name, at, new in [
        ("flag", 0, b"\4"), ("row codes that are not there", 0, b"\3"), ("slope", 1, b"\x09"),
        ("width", 2, b"\x11"), ("width 0", 2, b"\0"), ("no step", 4, bytes(4)),
        ("step below 0", 4, struct.pack("<f", -1)),
        ("step is infinite", 4, struct.pack("<f", math.inf)),
        ("step is no number", 4, b"\0\0\xc0\x7f"), ("escapes", 8, b"\2"),
        ("too many escapes", 8, b"\xff\xff\xff\xff"), ("reserved", 12, b"\1"),
        ("a place twice", -16, struct.pack("<I", 0)), ("a place beyond", -8, b"\xff\xff\xff\xff"),
        ("a place without escape", -8, struct.pack("<I", 9)),
        ("a symbol too large", -4, struct.pack("<i", (1 << 24) + 1)),
        ("a symbol too small", -4, struct.pack("<i", -(1 << 31))),
        ("mean is infinite", 16 + 2 * 2 * 16, b"\x80\x7f"),
    ]:
        yield f"quantised: {name}", section_edited(coded, 2, at, new)
    yield "quantised: V turns", section_edited(coded, 3, 0, b"\3")
    yield "quantised: K turns without a rotation", section_edited(plain, 1, 0, b"\1")
    yield "quantised: no rows", edited(plain, 14, b"\x0b")
    yield from bad_with_profile(profiles)


def without_last_section(content):
    """With an entry and its section taken away, and everything else in its place."""
    count = struct.unpack_from("<H", content, 10)[0] - 1
    container = Container(content)
    entries = [(e.part, e.number, e.method, e.refinement, container.section(e))
               for e in container.entries[:count]]
    return w.container(
        entries, container.payload_byte_count, mode=container.mode, level=container.level,
        dtype=container.type, exact=container.exact, flags=container.flags,
        layout_id=container.layout_id, profile=container.profile_hash,
        first=container.first_position, tokens=container.tokens, layers=container.layers)


def resealed_profile(profile):
    """With the checksum of header and directory made right again."""
    end = 64 + 16 * struct.unpack_from("<I", profile, 12)[0]
    return profile[:4] + struct.pack("<I", checksum(profile[8:end])) + profile[8:]


def with_level(profile, at, new):
    """With bytes of its first level changed."""
    entry = next(e for e in range(64, len(profile), 16) if profile[e + 15] == w.LEVELS)
    offset, byte_count = struct.unpack_from("<II", profile, entry)
    profile = profile[:offset + at] + new + profile[offset + at + len(new):]
    check = checksum(profile[offset:offset + byte_count])
    return resealed_profile(profile[:entry + 8] + struct.pack("<I", check) + profile[entry + 12:])


def bad_with_profile(profiles):
    content, profile = profiles["scalar: exact rows, float16"]
    exponent, other = profiles["exponent: bfloat16"]
    embedded, its_profile = profiles["scalar: embedded"]
    yield "profile: missing", content, None
    yield "profile: another", content, other
    yield "profile: none named", edited(content, 32, bytes(16)), profile
    for name, at, new in [
        ("magic", 0, b"KVP2"), ("checksum", 60, b"\1"), ("cut", None, None),
        ("an item's checksum", -1, b"\x7e"),
    ]:
        broken = profile[:-1] if at is None else (
            profile[:at % len(profile)] + new + profile[at % len(profile) + len(new):])
        yield f"profile: {name}", edited(content, 32, w.sha16(broken)), broken
    yield "profile: lacks the level", edited(content, 12, b"\5"), profile
    yield "scalar: words too many", section_edited(content, 2, 0, b"\xff\xff"), profile
    yield "scalar: escapes", section_edited(content, 2, 4, b"\1"), profile
    yield "scalar: reserved", section_edited(content, 2, 8, b"\1"), profile
    yield "scalar: a state below 2^16", section_edited(content, 2, 16, bytes(4)), profile
    yield "scalar: a state of no column", section_edited(content, 2, 268, b"\1"), profile
    yield "scalar: a word", section_edited(content, 2, 272, b"\x5a\xa5"), profile
    yield "scalar: a place without escape", section_edited(content, 2, -8, b"\x05"), profile
    yield "scalar: position not known", edited(edited(content, 15, b"\0"), 52, bytes(4)), profile
    yield "exponent: an escape of more than a byte", section_edited(
        exponent, 1, -4, b"\0\1"), other
    yield "embedded: a refinement's escapes", section_edited(embedded, 4, 4, b"\1"), its_profile
    count = len(Container(embedded).entries)
    last = 64 + 16 * (count - 1)
    yield "embedded: a refinement of another method", edited(
        embedded, last + 15, b"\0"), its_profile
    coded, its_profile = profiles["scalar: row codes of V"]
    escapes = struct.unpack_from("<I", Container(coded).section(
        Container(coded).sections[V, 0, 0]), 4)[0]
    yield "scalar: half a byte behind the row codes", section_edited(
        coded, 3, -8 * escapes - 1, b"\x10"), its_profile
    plain = with_level(its_profile, 2, b"\1")
    yield "scalar: row codes that are not there", edited(coded, 32, w.sha16(plain)), plain
    cut, its_profile = profiles["scalar: embedded, 1 of 2 refinements"]
    yield "embedded: half of a refinement", without_last_section(cut), its_profile
    plain = with_level(its_profile, 2, b"\x09")
    yield "embedded: a level that is not", edited(cut, 32, w.sha16(plain)), plain
    yield "embedded: a refinement's stream", section_edited(cut, 7, 16, b"\x5a\xa5"), its_profile
    predictive, its_profile = profiles["predicted: two groups"]
    for name, at, new in [
        ("flag", 2, b"\x11"), ("embedded", 2, b"\3"), ("no group", 3, b"\0"),
        ("lookback", 11, b"\2"), ("zeros", 12, b"\1"),
    ]:
        broken = with_level(its_profile, at, new)
        yield f"profile: a predictive level's {name}", edited(
            predictive, 32, w.sha16(broken)), broken
    content, profile = profiles["scalar: exact rows, float16"]
    for name, at, new in [("group", 3, b"\1"), ("lookback", 11, b"\1")]:
        broken = with_level(profile, at, new)
        yield f"profile: a scalar level's {name}", edited(content, 32, w.sha16(broken)), broken
