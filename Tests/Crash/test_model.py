# SPDX-License-Identifier: Apache-2.0
"""The crash test's model: what it lets pass, and that it finds what it is there to find."""
import pytest
from frames import (
    BUSY, EXISTS, FOR_EVER, LIMIT_EXCEEDED, NOT_DURABLE, NOT_FOUND, OK, Broken, Chunk, Record)
from model import Contents, Key

NOW = 1_000_000.0


@pytest.fixture
def key():
    return Key(Contents(7, (1, 1 << 16)), client=2, index=5, namespace_twin=1)


def put(key, status=OK, is_durable=True, ttl_ms=0, now=NOW):
    """A PUT that is answered at once. Returns the version's number and the finding."""
    number = key.put_sent(ttl_ms, now)
    return number, key.put_answered(number, status, is_durable, now)


def chunk_of(key, number, remaining_ms=FOR_EVER):
    return Chunk(OK, key.bytes(number), key.layout, remaining_ms)


def kinds(*findings):
    return [found and found.kind for found in findings]


def test_contents_are_told_apart_and_have_their_sizes():
    contents = Contents(7, (1, 1 << 20))
    sizes = set()
    for version in range(300):
        data = contents.bytes(1, 2, version)
        assert len(data) == contents.byte_count(1, 2, version)
        sizes.add(len(data))
        if len(data) >= 16:
            assert data != contents.bytes(1, 3, version)[:len(data)]
            assert f"version {version} of key 2 of client 1, whole" in contents.describe(data)
    assert 1 <= min(sizes) < 64 and 1 << 19 < max(sizes) <= 1 << 20
    assert any(size % 4096 in (1, 4095) for size in sizes)
    assert any(size % 4096 == 0 for size in sizes)


def test_damage_is_described():
    contents = Contents(7, (1 << 12, 1 << 14))
    data = bytearray(contents.bytes(0, 0, 3))
    data[2_000] ^= 1
    assert "but for what is at 2000" in contents.describe(bytes(data))


def test_a_durable_chunk_must_be_found(key):
    number, found = put(key)
    assert found is None
    assert key.got(chunk_of(key, number), NOW, NOW) is None
    key.restarted(NOW + 1)
    assert key.got(chunk_of(key, number), NOW, NOW) is None
    assert key.missed(NOW).kind == "lost_durable"
    # It is told once.
    assert key.missed(NOW) is None


def test_a_chunk_in_memory_may_be_missing(key):
    number, _ = put(key, is_durable=False)
    assert key.missed(NOW) is None
    key.restarted(NOW)
    assert key.missed(NOW) is None
    assert key.got(chunk_of(key, number), NOW, NOW) is None


def test_a_durable_chunk_is_not_stored_again(key):
    put(key)
    assert put(key)[1].kind == "lost_durable"


def test_exists_is_a_promise_too(key):
    put(key, is_durable=False)
    refused, found = put(key, status=EXISTS)
    assert found is None
    key.restarted(NOW)
    assert key.is_promised(NOW)
    assert key.got(chunk_of(key, refused), NOW, NOW).kind == "wrong_bytes"


@pytest.mark.parametrize("status", [NOT_DURABLE, BUSY])
def test_no_promise_when_it_is_refused(key, status):
    put(key, status=status)
    assert not key.is_promised(NOW)
    assert bool(key.visible) == (status == NOT_DURABLE)


def test_what_was_deleted_stays_away(key):
    number, _ = put(key)
    key.delete_sent()
    assert key.delete_answered(OK, NOW) is None
    key.restarted(NOW)
    assert key.missed(NOW) is None
    assert kinds(
        key.got(chunk_of(key, number), NOW, NOW),
        key.looked_up(Record(OK, 2, 10, FOR_EVER), NOW, NOW),
        put(key, status=EXISTS)[1],
        key.delete_answered(OK, NOW)) == ["resurrected"] * 4


def test_a_deletion_without_answer_may_have_happened(key):
    number, _ = put(key)
    key.delete_sent()
    key.restarted(NOW)
    assert key.missed(NOW) is None
    assert key.got(chunk_of(key, number), NOW, NOW) is None


def test_a_deletion_in_memory_may_be_undone_by_a_restart_only(key):
    number, _ = put(key)
    key.delete_sent()
    assert key.delete_answered(NOT_DURABLE, NOW) is None
    assert key.looked_up(Record(OK, 1, 10, FOR_EVER), NOW, NOW).kind == "resurrected"
    key.restarted(NOW)
    assert key.got(chunk_of(key, number), NOW, NOW) is None


def test_a_put_without_answer_may_have_happened(key):
    first, _ = put(key, is_durable=False)
    second = key.put_sent(0, NOW)
    key.put_lost(second, NOW)
    for number in first, second:
        key.restarted(NOW)
        assert key.missed(NOW) is None
        assert key.got(chunk_of(key, number), NOW, NOW) is None
    # In one life it is one of them.
    assert key.got(chunk_of(key, first), NOW, NOW).kind == "wrong_bytes"


def test_a_put_that_was_not_sent_to_its_end_never_shows(key):
    number = key.put_sent(0, NOW)
    key.put_abandoned(number)
    assert key.got(chunk_of(key, number), NOW, NOW).kind == "wrong_bytes"


def test_the_bytes_and_the_layout_are_checked(key):
    number, _ = put(key)
    data = key.bytes(number)
    other = Key(key.contents, client=3, index=5, namespace_twin=1)
    assert other.key == key.key
    put(other)
    assert kinds(
        key.got(Chunk(OK, data[:-1], key.layout, FOR_EVER), NOW, NOW),
        key.got(Chunk(OK, data, other.layout, FOR_EVER), NOW, NOW),
        key.got(chunk_of(other, number), NOW, NOW),
        key.looked_up(Record(OK, 1, len(data) + 1, FOR_EVER), NOW, NOW)) == ["wrong_bytes"] * 4


def test_a_range_is_that_of_a_version(key):
    number, _ = put(key)
    size = key.possible[number].byte_count
    data = key.bytes(number)
    bounds = (size // 3, max(1, size // 4))
    assert key.got_range(Chunk(OK, data[bounds[0]:sum(bounds)]), bounds) is None
    assert key.got_range(Chunk(LIMIT_EXCEEDED), (size - 1, 2)) is None
    assert kinds(
        key.got_range(Chunk(OK, bytes(bounds[1])), bounds),
        key.got_range(Chunk(LIMIT_EXCEEDED), (size - 1, 1))) == ["wrong_bytes"] * 2


def test_a_time_to_live_ends_and_survives(key):
    number, _ = put(key, ttl_ms=5_000)
    assert key.is_promised(NOW + 4) and not key.is_promised(NOW + 5)
    key.restarted(NOW + 4)
    assert key.got(chunk_of(key, number, 1_000), NOW + 4, NOW + 4) is None
    # It may be found a little later still, and may be missing.
    assert key.got(chunk_of(key, number, 0), NOW + 6, NOW + 6) is None
    assert key.missed(NOW + 6) is None
    assert kinds(
        key.got(chunk_of(key, number, 0), NOW + 7.5, NOW + 7.5),
        key.got(chunk_of(key, number), NOW + 4, NOW + 4),
        key.got(chunk_of(key, number, 9_000), NOW + 4, NOW + 4)) == ["wrong_bytes"] * 3
    key.restarted(NOW + 8)
    assert put(key, status=EXISTS, now=NOW + 8)[1].kind == "resurrected"


def test_a_chunk_for_ever_gets_no_time_to_live(key):
    number, _ = put(key)
    assert key.got(chunk_of(key, number, 5_000), NOW, NOW).kind == "wrong_bytes"


def test_eviction_voids_promises_but_for_pins(key):
    put(key)
    key.evicted()
    assert not key.is_promised(NOW)
    key.delete_sent()
    key.delete_answered(OK, NOW)
    put(key)
    assert key.pin_answered(OK, NOW) is None
    key.evicted()
    assert key.is_promised(NOW)
    assert not key.missed(NOW).may_be_eviction
    put(key)
    assert key.missed(NOW).may_be_eviction
    put(key)
    key.unpin_sent()
    key.evicted()
    assert not key.is_promised(NOW)


def test_a_store_that_may_evict_promises_what_is_pinned():
    key = Key(Contents(7, (1, 1 << 16)), 0, 0, 0, needs_pin=True)
    put(key)
    assert key.missed(NOW) is None
    key.pin_answered(OK, NOW)
    assert key.missed(NOW).kind == "lost_durable"


def test_a_pin_shows_what_is_there(key):
    assert key.pin_answered(NOT_FOUND, NOW) is None
    assert key.pin_answered(OK, NOW).kind == "resurrected"
    put(key)
    assert key.pin_answered(NOT_FOUND, NOW).kind == "lost_durable"


def test_a_clean_stop_promises_what_was_there_at_its_end(key):
    number, _ = put(key, is_durable=False)
    key.look_again()
    key.stopped_cleanly()
    key.restarted(NOW)
    assert key.missed(NOW) is None
    size = key.possible[number].byte_count
    assert key.looked_up(Record(OK, 1, size, FOR_EVER), NOW, NOW) is None
    key.stopped_cleanly()
    key.restarted(NOW)
    assert key.missed(NOW).kind == "lost_durable"


def test_statuses_that_make_no_sense_are_no_answer(key):
    number = key.put_sent(0, NOW)
    with pytest.raises(Broken):
        key.put_answered(number, 9, True, NOW)
    with pytest.raises(Broken):
        key.delete_answered(16, NOW)
    with pytest.raises(Broken):
        key.pin_answered(8, NOW)
