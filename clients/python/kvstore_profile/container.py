# SPDX-License-Identifier: Apache-2.0
"""A profile as bytes (docs/container-format.md, section 11)."""
from __future__ import annotations

import hashlib
import math
import struct

import numpy as np

from kvstore_profile import predictive, scalar, tables
from kvstore_profile.learning import Level, Profile

_SCALAR_MODE, _PREDICTIVE_MODE = 4, 5
_KEYS_BEFORE_ROPE = 1
_ROW_CODES = (4, 8)  # of K, of V
_PREDICTIVE_ITEMS = range(32, 37)
_HEADER = struct.Struct("<4sIBxHIIIII32x")
_ENTRY = struct.Struct("<IIIHBB")
_LEVEL = struct.Struct("<BBBBfbbbB20x")
_ROTATION = struct.Struct("<HHBBxx")


def profile_hash(data: bytes) -> bytes:
    """What a container names a profile by."""
    return hashlib.sha256(data).digest()[:16]


def canonical(fields: dict[str, str | int]) -> bytes:
    """The canonical description of docs/key-derivation.md, of texts and whole numbers."""
    lines = [f"{name}={fields[name]}\n" for name in sorted(fields)]
    return ("kvstore_layout=1\n" + "".join(lines)).encode()


def rotation(frequencies: np.ndarray, sets: tuple[int, ...], first_channel: int = 0,
             interleaved: bool = False) -> bytes:
    """`frequencies[set, pair]` in radians per token; `sets`: of each layer."""
    head = _ROTATION.pack(frequencies.shape[1], first_channel, interleaved, len(frequencies))
    of_layers = bytes(sets)
    of_layers += bytes(-len(of_layers) % 8)
    turns = (round(float(value) * 2**64 / (2 * math.pi)) % 2**64 for value in frequencies.ravel())
    return head + of_layers + b"".join(struct.pack("<Q", turn) for turn in turns)


def encode(profile: Profile, requirements: dict[str, str | int], rotation_item: bytes,
           note: str) -> bytes:
    """The profile's bytes, which never change from then on: their hash names them."""
    entries: list[tuple[int, int, int, bytes]] = []  # item, layer, kind, content

    def add(item: int, content: bytes, layer: int = 0, kind: int = 0) -> None:
        entries.append((item, layer, kind, content))

    add(0, canonical(requirements))
    add(1, rotation_item)
    add(2, b"".join(_levels(profile)))
    add(3, profile.frequencies.astype("<u2").tobytes())
    add(6, note.encode())
    for (layer, kind), section in profile.scalars.items():
        order = np.argsort(section.classes, kind="stable")
        add(16, order.astype("<u2").tobytes(), layer, kind)
        add(17, section.means.astype("<f4").tobytes(), layer, kind)
        add(18, section.steps.astype("<f4").tobytes(), layer, kind)
        add(19, section.classes.astype(np.int8).tobytes(), layer, kind)
    if profile.exponents:
        add(5, profile.exponent_frequencies.astype("<u2").tobytes())
    for (layer, kind), (offsets, of_column) in profile.exponents.items():
        pairs = np.stack([offsets, of_column], axis=1)
        add(20, pairs.astype(np.uint8).tobytes(), layer, kind)
    for (layer, kind), section in profile.predictors.items():
        add(32, section.reference_steps.astype("<f4").tobytes(), layer, kind)
        add(33, section.prediction_scales.astype("<f4").tobytes()
            + section.prediction.tobytes(), layer, kind)
        add(34, section.synthesis_scales.astype("<f4").tobytes()
            + section.synthesis.astype("<i2").tobytes(), layer, kind)
        add(35, section.analysis.astype("<f4").tobytes(), layer, kind)
        add(36, section.classes.astype(np.int8).tobytes(), layer, kind)
    return _assembled(profile, sorted(entries, key=lambda entry: entry[:3]))


def without_predictors(data: bytes) -> bytes:
    """The same profile without what mode predictive needs."""
    profile = decode(data)
    items = {place: content for place, content in _items(data).items()
             if place[0] not in _PREDICTIVE_ITEMS}
    profile.predictors = {}
    items[2, 0, 0] = b"".join(_levels(profile))
    return _assembled(profile, [(*place, content) for place, content in sorted(items.items())])


def _items(data: bytes) -> dict[tuple[int, int, int], bytes]:
    """By (item, layer, kind)."""
    magic, _, version, _, entry_count, *_ = _HEADER.unpack_from(data)
    if (magic, version) != (b"KVP1", 1):
        raise ValueError("not a profile of version 1")
    items = {}
    for index in range(entry_count):
        offset, size, _, layer, kind, item = _ENTRY.unpack_from(
            data, _HEADER.size + _ENTRY.size * index)
        items[item, layer, kind] = data[offset:offset + size]
    return items


def decode(data: bytes) -> Profile:
    """A profile that `encode` made, to judge it with: only little of it is checked."""
    items = _items(data)
    _, _, _, layer_count, _, columns, _, _, lossless_count = _HEADER.unpack_from(data)

    def numbers(item: int, place: tuple[int, int], form: str = "<f4") -> np.ndarray:
        return np.frombuffer(items[(item, *place)], form)

    levels = list(_LEVEL.iter_unpack(items[2, 0, 0]))
    frequencies = np.frombuffer(items[3, 0, 0], "<u2").reshape(-1, 256).astype(np.int64)
    profile = Profile(layer_count, columns, frequencies)
    if lossless_count:
        profile.exponent_frequencies = np.frombuffer(items[5, 0, 0], "<u2").reshape(-1, 256)
    profile.scalar_levels, profile.predictive_levels = (
        tuple(Level(number, step) for number, of_level, _, _, step, *_ in levels
              if of_level == mode) for mode in (_SCALAR_MODE, _PREDICTIVE_MODE))
    profile.group = max(level[3] for level in levels)
    profile.lookback = 1 if any(level[8] == 1 for level in levels) else 2
    profile.has_row_codes = tuple(bool(levels[0][2] & flag) for flag in _ROW_CODES)
    for place in ((layer, kind) for layer in range(layer_count) for kind in (0, 1)):
        profile.scalars[place] = scalar.Section(
            numbers(17, place), numbers(18, place), numbers(19, place, "i1").astype(np.int64))
        if (36, *place) in items:
            classes = numbers(36, place, "i1").astype(np.int64)
            prediction, synthesis = numbers(33, place, "i1"), numbers(34, place, "<i2")
            profile.predictors[place] = predictive.Section(
                means=numbers(17, place), reference_steps=numbers(32, place),
                prediction_scales=prediction[:4 * columns].view("<f4"),
                prediction=prediction[4 * columns:].reshape(-1, columns),
                synthesis_scales=synthesis[:2 * columns].view("<f4"),
                synthesis=synthesis[2 * columns:].reshape(-1, columns),
                analysis=numbers(35, place).reshape(columns, -1), classes=classes)
    return profile


def _levels(profile: Profile):
    modes = [(_SCALAR_MODE, profile.scalar_levels, 0)]
    if profile.predictors:
        modes.append((_PREDICTIVE_MODE, profile.predictive_levels, profile.group))
    flags = _KEYS_BEFORE_ROPE + sum(
        flag for flag, has in zip(_ROW_CODES, profile.has_row_codes, strict=True) if has)
    for mode, levels, group in modes:
        lookback = 1 if group and profile.lookback == 1 else 0
        for level in levels:
            shift = tables.shift_of(level.step)
            yield _LEVEL.pack(level.number, mode, flags, group, level.step, shift, 0, 0, lookback)


def _assembled(profile: Profile, entries) -> bytes:
    import xxhash  # the store's checksum; only who writes profiles needs it

    def checksum(data: bytes) -> int:
        return xxhash.xxh3_64_intdigest(data) & 0xFFFFFFFF

    offset = -(-(_HEADER.size + _ENTRY.size * len(entries)) // 64) * 64
    body = bytearray()
    directory = bytearray()
    for item, layer, kind, content in entries:
        body += bytes(-len(body) % 64)
        directory += _ENTRY.pack(offset + len(body), len(content), checksum(content), layer,
                                 kind, item)
        body += content
    head = _HEADER.pack(b"KVP1", 0, 1, profile.layer_count, len(entries), profile.column_count,
                        profile.column_count, len(profile.frequencies),
                        len(profile.exponent_frequencies)) + bytes(directory)
    head = head[:4] + struct.pack("<I", checksum(head[8:])) + head[8:]
    return head + bytes(offset - len(head)) + bytes(body)
