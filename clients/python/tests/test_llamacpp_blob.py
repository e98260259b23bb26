# SPDX-License-Identifier: Apache-2.0
"""The state reader against states that were built here, whole, cut and corrupted."""

from __future__ import annotations

import contextlib
import itertools
import random
import struct
from dataclasses import dataclass

import pytest
from kvstore.adapters.llamacpp_state import MAGIC, MalformedState, StateShape

CELL_COUNT = 5
FIRST_POSITION = 512


@dataclass(frozen=True)
class Variant:
    """Which of the format's forms to build."""

    transposed: bool = False
    has_rotation: bool = True
    has_values: bool = True
    cache_count: int = 1


VARIANTS = [
    Variant(*choice)
    for choice in itertools.product((False, True), (False, True), (True, False), (1, 2))
]


def build(variant: Variant, first: int, count: int, seed: int = 1) -> tuple[bytes, set[int]]:
    """A state, and the offsets of its bytes that carry no structure (rows and sequence ids)."""
    source = random.Random(seed)
    state = bytearray(struct.pack("<Ii", MAGIC, 3))
    free = set(range(4, 8))

    def payload(byte_count: int) -> None:
        free.update(range(len(state), len(state) + byte_count))
        state.extend(source.randbytes(byte_count))

    for cache in range(variant.cache_count):
        layer_count = 3 - cache
        state.extend(struct.pack("<II", 1, count))
        for position in range(first, first + count):
            state.extend(struct.pack("<iI", position, 1))
            payload(4)
        state.extend(struct.pack("<II", int(variant.transposed), layer_count))
        if variant.has_rotation:
            state.extend(struct.pack("<II", 64, 0))
        for layer in range(layer_count):
            row = 6 + 2 * layer
            state.extend(struct.pack("<iQ", 1, row))
            payload(row * count)
        for _ in range(layer_count if variant.has_values else 0):
            if variant.transposed:
                state.extend(struct.pack("<iII", 1, 2, 4))
            else:
                state.extend(struct.pack("<iQ", 1, 8))
            payload(8 * count)
    return bytes(state), free


@pytest.fixture(params=VARIANTS, ids=str)
def variant(request) -> Variant:
    return request.param


def shape_of(variant: Variant) -> StateShape:
    return StateShape.learn(build(variant, 0, 1)[0])


def test_a_shape_learnt_from_one_token_fits_any_number(variant):
    shape = shape_of(variant)
    for count in (1, 2, 7, 256):
        state, _ = build(variant, FIRST_POSITION, count)
        assert shape.byte_count(count) == len(state)
        shape.check(state, FIRST_POSITION, count)
    assert len(shape.caches) == variant.cache_count
    assert all(cache.values_transposed == variant.transposed for cache in shape.caches)


def test_it_takes_every_kind_of_buffer(variant):
    state, _ = build(variant, 0, CELL_COUNT)
    for kind in (bytes, bytearray, memoryview):
        shape_of(variant).check(kind(state), 0, CELL_COUNT)


def test_a_state_of_other_positions_is_refused(variant):
    state, _ = build(variant, FIRST_POSITION, CELL_COUNT)
    for wrong in (0, FIRST_POSITION - 1, FIRST_POSITION + 1):
        with pytest.raises(MalformedState):
            shape_of(variant).check(state, wrong, CELL_COUNT)
    for wrong_count in (CELL_COUNT - 1, CELL_COUNT + 1):
        with pytest.raises(MalformedState):
            shape_of(variant).check(state, FIRST_POSITION, wrong_count)


def test_a_state_cut_at_any_offset_is_refused(variant):
    state, _ = build(variant, FIRST_POSITION, CELL_COUNT)
    shape = shape_of(variant)
    for byte_count in range(len(state)):
        with pytest.raises(MalformedState):
            shape.check(state[:byte_count], FIRST_POSITION, CELL_COUNT)
    with pytest.raises(MalformedState):
        shape.check(state + b"\0", FIRST_POSITION, CELL_COUNT)


def test_any_changed_byte_of_the_structure_is_refused_and_no_other(variant):
    state, free = build(variant, FIRST_POSITION, CELL_COUNT)
    shape = shape_of(variant)
    for offset, change in itertools.product(range(len(state)), (1, 0x80, 0xFF)):
        changed = bytearray(state)
        changed[offset] ^= change
        if offset in free:
            shape.check(changed, FIRST_POSITION, CELL_COUNT)
        else:
            with pytest.raises(MalformedState):
                shape.check(changed, FIRST_POSITION, CELL_COUNT)


def test_random_corruption_never_gives_anything_but_yes_or_no():
    source = random.Random(20)
    states = {variant: build(variant, 0, CELL_COUNT)[0] for variant in VARIANTS}
    shapes = {variant: shape_of(variant) for variant in VARIANTS}
    for _ in range(3_000):
        variant = source.choice(VARIANTS)
        state = bytearray(states[variant])
        for _ in range(source.randrange(1, 9)):
            offset = source.randrange(len(state))
            width = min(source.choice((1, 2, 4, 8)), len(state) - offset)
            number = source.choice((0, 1, (1 << 8 * width) - 1, source.getrandbits(8 * width)))
            state[offset : offset + width] = number.to_bytes(width, "little")
        del state[source.choice((len(state), source.randrange(len(state)))) :]
        with contextlib.suppress(MalformedState):
            StateShape.learn(state)
        with contextlib.suppress(MalformedState):
            shapes[variant].check(state, 0, CELL_COUNT)


def test_noise_is_no_state():
    source = random.Random(21)
    for byte_count in range(200):
        with pytest.raises(MalformedState):
            StateShape.learn(source.randbytes(byte_count))


@pytest.mark.parametrize(
    "change",
    [
        (8, 2),  # two streams
        (12, 0),  # no cell
        (12, 1 << 31),  # more cells than bytes
        (20, 2),  # a cell of two sequences
        (28, 7),  # neither transposed nor not
        (32, 0xFFFF_FFFF),  # more layers than bytes
        (36 + 8, 0xFFFF_FFFF),  # an impossible type
        (40 + 8, 0),  # an empty row
        (44 + 8, 1),  # a row of 4 GiB
    ],
)
def test_counts_that_lie_are_refused_by_the_learner(change):
    offset, number = change
    state = bytearray(build(Variant(), 0, 1)[0])
    struct.pack_into("<I", state, offset, number)
    with pytest.raises(MalformedState):
        StateShape.learn(state)


def test_descriptions_differ_wherever_shapes_do():
    descriptions = {str(sorted(shape_of(variant).description().items())) for variant in VARIANTS}
    # Without values, transposition still stands in the layer header.
    assert len(descriptions) == len(VARIANTS)
