# SPDX-License-Identifier: Apache-2.0
"""The stores of Tests/Vectors/ssd: sound ones, and ones with one damage each. See README.md."""

from ssd_writer import (
    BLOCK, DELETE, OPAQUE, PIN, Checkpoint, Chunk, Note, Notes, Segment, checksum, identity, name,
    resealed, text_of,
)

STORE, OTHER_STORE = name("store", 16), name("another store", 16)
TENANT, LAYOUT = name("tenant", 16), name("layout", 16)
# Far behind `NOW_MS`, and far ahead.
PAST_MS, NOW_MS, FUTURE_MS = 1_750_000_300_000, 1_800_000_000_000, 4_000_000_000_000
SMALL = 16


def key(number):
    return name(f"key {number}", 32)


def text_payload(number, byte_count=5):
    """Bytes that differ from key to key, all but the first and last 32 zero when there are many."""
    text = f"{number} payload ".encode() * 8
    if byte_count <= 64:
        return text[:byte_count]
    return text[:32] + bytes(byte_count - 64) + text[-32:]


def directory_id(number):
    return name(f"directory {number}", 16)


def chunk(number, byte_count=5, **rest):
    return Chunk(key(number), text_payload(number, byte_count), **rest)


def segment(slot, serial, first_sequence, block_count=SMALL, **rest):
    return Segment(rest.pop("store", STORE), slot, block_count, serial, first_sequence, **rest)


def files(segments, number=0, store=STORE, **more):
    """A directory's files; its segments all have one size."""
    block_count = segments[0].block_count if segments else SMALL
    result = {"store.kvs": identity(store, directory_id(number), block_count)}
    for each in segments:
        result[f"segment-{each.slot:05}.kvs"] = each.data
    result.update({path.replace("_", "."): data for path, data in more.items()})
    return {f"{number}/{path}": data for path, data in result.items()}


# --- Sound stores -------------------------------------------------------------------------------


def examples():
    """What docs/ssd-format.md shows in hexadecimal."""
    only = segment(0, 1, 1)
    block, _ = only.append(Chunk(bytes(range(32)), b"hello", expiry_ms=FUTURE_MS))
    only.append(Notes([Note(DELETE, bytes(range(32, 64))), Note(PIN, bytes(range(32)), FUTURE_MS)]))
    only.seal()
    checkpoint = Checkpoint(
        STORE, 4, [(directory_id(0), 0, 1, 1)], [(name("default", 16), OPAQUE, 0)],
        [(bytes(range(32)), checksum(b"hello"), 0, block, 5, 0, FUTURE_MS)],
        [(name("default", 16), bytes(range(32)), FUTURE_MS)])
    return files([only], checkpoint_kvs=checkpoint.data())


def good():
    """A sealed, an open, a reused and a never used segment; notes, tenants, a checkpoint."""
    earlier = segment(2, 1, 1, 32)
    for number in range(90, 94):
        earlier.append(chunk(number))
    earlier.seal()

    first = segment(0, 2, 10, 32)
    places = [first.append(chunk(1)), first.append(chunk(2, 4096, namespace=TENANT, layout=LAYOUT)),
              first.append(chunk(3, 65_536 + 100, level=1)),
              first.append(chunk(1, 7, namespace=TENANT))]
    first.append(Notes([
        Note(DELETE, key(1)), Note(PIN, key(3), FUTURE_MS),
        Note(PIN, key(2), FUTURE_MS, TENANT), Note(PIN, key(2), 0, TENANT)]))
    first.seal()

    second = segment(1, 3, 20, 32)
    second.append(chunk(4, expiry_ms=PAST_MS))
    second.append(chunk(5, expiry_ms=FUTURE_MS))
    second.append(Notes([Note(DELETE, key(5)), Note(DELETE, key(6))]))
    second.append(chunk(6, 5000))
    # Older than its neighbours: a delete does not count for what came later, wherever it lies.
    second.append(Notes([Note(DELETE, key(3))]), sequence=11)

    # The third life of a segment whose records and footer of the first are still there.
    reused = segment(2, 4, 30, 32)
    reused.data[BLOCK:] = earlier.data[BLOCK:]
    reused.append(chunk(7))

    free = segment(3, 0, 0, 32, state=2, nonce=0, opened_ms=0)
    checkpoint = Checkpoint(
        STORE, 20, [(directory_id(0), 0, 1, 2), (directory_id(0), 1, 0, 3),
                    (directory_id(1), 7, 2, 1)],
        [(TENANT, LAYOUT, 0), (name("default", 16), OPAQUE, 1), (TENANT, OPAQUE, 0)],
        [(key(2), checksum(text_payload(2, 4096)), 0, places[1][0], 4096, 0, 0),
         (key(3), checksum(text_payload(3, 65_636)), 0, places[2][0], 65_636, 1, 0),
         (key(1), checksum(text_payload(1, 7)), 0, places[3][0], 7, 2, 0)],
        [(name("default", 16), key(3), FUTURE_MS)])
    return files([first, second, reused, free], checkpoint_kvs=checkpoint.data())


def two_directories():
    """A chunk and its delete note in different directories; a key twice, the later one counts."""
    first, second = segment(0, 1, 1), segment(0, 2, 4)
    first.append(chunk(1))
    first.append(chunk(2))
    first.append(chunk(3))
    second.append(Notes([Note(DELETE, key(1))]))
    second.append(chunk(2, 9))
    return {**files([first]), **files([second], number=1)}


def full_notes():
    """A record with as many notes as fit, sealed: two blocks of table, nothing left between."""
    full = segment(0, 1, 1, 5)
    full.append(Notes([Note(PIN, key(number), FUTURE_MS + number) for number in range(62)]))
    full.seal()
    return files([full])


def many_stripes():
    """A chunk of more than 256 stripes of 64 KiB; its segment ends with its footer."""
    large = segment(0, 1, 1, 4096 + 5)
    large.append(chunk(1, 256 * 65_536 + 1))
    large.seal()
    return files([large])


def empty_checkpoint():
    """A store without a segment, and a checkpoint without a page."""
    return files([], checkpoint_kvs=Checkpoint(STORE, 1, [], [], [], []).data())


def hole():
    """Open: two records with a gap between them, one right before the trailer's block."""
    open_one = segment(0, 1, 1)
    open_one.append(chunk(1))
    open_one.append(chunk(2), block=8)
    open_one.append(chunk(3, 4000), block=SMALL - 3)
    return files([open_one])


def imitated_record():
    """Open: a payload that looks like a record, with another nonce, and like a trailer."""
    open_one = segment(0, 1, 1)
    false_one = segment(0, 2, 50)
    false_one.append(chunk(9), block=2)
    open_one.append(Chunk(key(1), bytes(false_one.data[2 * BLOCK : 4 * BLOCK])))
    false_one.seal()
    # Behind the last record, as in the unspecified rest of a segment.
    open_one.put(SMALL - 2, false_one.data[(SMALL - 2) * BLOCK :])
    return files([open_one])


def pins():
    """A delete cancels the pins before it, also when the chunk comes back; a later pin holds."""
    sealed_one, open_one = segment(0, 1, 1), segment(1, 2, 6)
    for each in (1, 2, 3):
        sealed_one.append(chunk(each))
    sealed_one.append(Notes([Note(PIN, key(1), FUTURE_MS), Note(PIN, key(2), FUTURE_MS)]))
    sealed_one.seal()
    open_one.append(Notes([Note(DELETE, key(1)), Note(PIN, key(3), FUTURE_MS),
                           Note(PIN, key(3), PAST_MS)]))
    open_one.append(chunk(1))
    return files([sealed_one, open_one])


def rest_of_block():
    """What stands behind a payload, and in reserved fields, means nothing."""
    open_one = segment(0, 1, 1)
    open_one.append(chunk(1, 100))
    open_one.data[2 * BLOCK + 100 : 3 * BLOCK] = b"\xa5" * (BLOCK - 100)
    open_one.change(0, 80, b"\xa5")
    open_one.change(1, 129, b"\xa5\xa5\xa5")
    return files([open_one])


# --- Damage -------------------------------------------------------------------------------------


def sealed_one():
    """A sealed segment of three chunks and a note, to be spoilt."""
    sound = segment(0, 1, 1)
    for number in (1, 2, 3):
        sound.append(chunk(number, 3000 * number))
    sound.append(Notes([Note(DELETE, key(2))]))
    sound.seal()
    return sound


def spoilt(change):
    """The files of a sealed segment after `change`, and a sound one beside it."""
    sound = segment(1, 2, 6)
    sound.append(chunk(4))
    bad = sealed_one()
    change(bad)
    return files([bad, sound])


def opened(change):
    """As `spoilt`, of a segment without its footer."""
    def open_and_change(bad):
        bad.data[(SMALL - 2) * BLOCK :] = bytes(2 * BLOCK)
        change(bad)
    return spoilt(open_and_change)


def identities(block):
    result = spoilt(lambda _: None)
    result["0/store.kvs"] = block
    return result


def checkpoints(change, **more):
    """A segment, and a checkpoint that `change` spoils."""
    only = segment(0, 1, 1)
    only.append(chunk(1))
    checkpoint = Checkpoint(
        more.pop("store", STORE), more.pop("sequence", 2),
        [(directory_id(0), 0, more.pop("coverage", 0), 1)],
        [(name("default", 16), OPAQUE, 0)],
        [(key(1), checksum(text_payload(1)), more.pop("segment_index", 0), 1,
          more.pop("byte_count", 5), 0, 0)], [], **more)
    data = checkpoint.data()
    return files([only], checkpoint_kvs=change(data) or data)


def flip(data, offset):
    data[offset] ^= 1


def change_entry(bad, index, offset, data):
    entry = bytearray(bad.entries[index])
    entry[offset : offset + len(data)] = data
    bad.entries[index] = bytes(entry)
    bad.seal()


def other_directory_foreign():
    first, second = segment(0, 1, 1), segment(0, 1, 1, store=OTHER_STORE)
    first.append(chunk(1))
    second.append(chunk(2))
    return {**files([first]), **files([second], number=1, store=OTHER_STORE)}


def repeated_directory():
    one = files([sealed_one()])
    return {**one, **{path.replace("0/", "1/", 1): data for path, data in one.items()}}


def identity_missing():
    result = spoilt(lambda _: None)
    del result["0/store.kvs"]
    return result


def torn_payload():
    def tear(bad):
        # Of the payload of 9,000 bytes, the last block was never written.
        bad.put(9, bytes(BLOCK))
    return opened(tear)


def record_behind_torn():
    """A record that was written where the payload of a torn one should be."""
    def put(bad):
        bad.append(chunk(7), block=4, sequence=20)
    return opened(put)


def segment_truncated():
    result = spoilt(lambda _: None)
    del result["0/segment-00000.kvs"][7 * BLOCK :]
    return result


def number(value, size=4):
    return value.to_bytes(size, "little")


def stores():
    """{name: files} of all."""
    sound = {
        "examples": examples(), "good": good(), "two-directories": two_directories(),
        "full-notes": full_notes(), "many-stripes": many_stripes(),
        "empty-checkpoint": empty_checkpoint(), "hole": hole(),
        "pins": pins(), "imitated-record": imitated_record(), "rest-of-block": rest_of_block(),
    }
    sound_identity = identity(STORE, directory_id(0), SMALL)
    damaged_identity = bytearray(sound_identity)
    flip(damaged_identity, 33)
    of_identity = {
        "identity-missing": identity_missing(),
        "identity-damaged": identities(damaged_identity),
        "identity-short": identities(sound_identity[:4000]),
        "identity-version": identities(identity(STORE, directory_id(0), SMALL, version=2)),
        "identity-invalid": identities(identity(STORE, directory_id(0), 65_537)),
        "identity-foreign": other_directory_foreign(),
        "identity-repeated": repeated_directory(),
    }
    of_segment = {
        "segment-truncated": segment_truncated(),
        "segment-magic": spoilt(lambda bad: bad.change(0, 0, b"KVSSEGMU")),
        "segment-damaged": spoilt(lambda bad: bad.flip(0, 20)),
        "segment-torn": spoilt(lambda bad: bad.flip(0, 48)),
        "segment-version": spoilt(lambda bad: bad.change(0, 8, number(2))),
        "segment-state": spoilt(lambda bad: bad.change(0, 12, number(3))),
        "segment-foreign": spoilt(lambda bad: bad.change(0, 16, OTHER_STORE)),
        "segment-slot": spoilt(lambda bad: bad.change(0, 32, number(1))),
        "segment-block-count": spoilt(lambda bad: bad.change(0, 36, number(SMALL + 1))),
        "segment-serial": spoilt(lambda bad: bad.change(0, 40, number((1 << 62) + 1, 8))),
        "segment-sequence": spoilt(lambda bad: bad.change(0, 56, number((1 << 62) + 1, 8))),
        "segment-blank": spoilt(lambda bad: bad.put(0, bytes(BLOCK))),
    }
    last = SMALL - 1
    of_footer = {
        "trailer-of-earlier-life": spoilt(lambda bad: bad.seal(nonce=1, serial=0)),
        "trailer-damaged": spoilt(lambda bad: bad.flip(last, 40)),
        "trailer-version": spoilt(lambda bad: bad.seal(version=2)),
        "trailer-serial": spoilt(lambda bad: bad.seal(serial=7)),
        "trailer-entry-count": spoilt(lambda bad: bad.seal(entry_count=0xFFFF_FFFF)),
        "trailer-sequence": spoilt(
            lambda bad: bad.change(last, 40, number((1 << 62) + 1, 8))),
        "table-damaged": spoilt(lambda bad: bad.flip(last - 1, 40)),
        "table-kind": spoilt(lambda bad: change_entry(bad, 1, 0, b"\2")),
        "table-block": spoilt(lambda bad: change_entry(bad, 1, 4, number(last - 1))),
        "table-byte-count": spoilt(lambda bad: change_entry(bad, 1, 12, number(1 << 31))),
        "table-sequence": spoilt(lambda bad: change_entry(bad, 1, 16, number((1 << 62) + 1, 8))),
        "entry-differs": spoilt(lambda bad: change_entry(bad, 1, 16, number(99, 8))),
    }
    of_record = {
        "record-damaged": opened(lambda bad: bad.flip(3, 100)),
        "record-of-earlier-life": opened(lambda bad: bad.change(3, 8, number(1, 8))),
        "record-version": opened(lambda bad: bad.change(3, 6, number(2, 2))),
        "record-kind": opened(lambda bad: bad.change(3, 4, number(3, 2))),
        "record-elsewhere": opened(lambda bad: bad.put(12, bad.block(3))),
        "record-block-count": opened(lambda bad: bad.change(3, 24, number(4))),
        "record-sequence": opened(lambda bad: bad.change(3, 16, number((1 << 64) - 1, 8))),
        "record-byte-count": opened(lambda bad: bad.change(3, 96, number((1 << 28) + 1, 8))),
        "record-stripes": opened(lambda bad: bad.change(3, 132, number(131_072))),
        "record-past-end": opened(
            lambda bad: bad.append(chunk(8, 8192), block=SMALL - 3)),
        "notes-count": opened(lambda bad: bad.change(10, 32, number(63))),
        "notes-kind": opened(lambda bad: bad.change(10, 64, b"\3")),
        "listed-record-damaged": spoilt(lambda bad: bad.flip(3, 100)),
        "record-torn": torn_payload(), "record-behind-torn": record_behind_torn(),
        "payload-damaged": spoilt(lambda bad: bad.flip(4, 5)),
        "stripe-checksum": spoilt(lambda bad: bad.change(3, 256, number(5, 8))),
        "payload-checksum": spoilt(lambda bad: bad.change(3, 104, number(5, 8))),
    }
    page_end = BLOCK + (1 << 20)
    of_checkpoint = {
        "checkpoint-damaged": checkpoints(lambda data: flip(data, 32)),
        "checkpoint-short": checkpoints(lambda data: data[:100]),
        "checkpoint-version": checkpoints(lambda _: None, version=2),
        "checkpoint-foreign": checkpoints(lambda _: None, store=OTHER_STORE),
        "checkpoint-truncated": checkpoints(lambda data: data[: page_end - 1]),
        "checkpoint-counts": checkpoints(
            lambda data: resealed(data[:48] + number(1 << 60, 8) + data[56:4096]) + data[4096:]),
        "checkpoint-page": checkpoints(lambda data: flip(data, page_end - 100)),
        "checkpoint-entry": checkpoints(lambda _: None, segment_index=1),
        "checkpoint-byte-count": checkpoints(lambda _: None, byte_count=0),
        "checkpoint-coverage": checkpoints(lambda _: None, coverage=3),
        "checkpoint-sequence": checkpoints(lambda _: None, sequence=0),
        "checkpoint-number-limit": checkpoints(lambda _: None, sequence=(1 << 62) + 1),
    }
    return {**sound, **of_identity, **of_segment, **of_footer, **of_record, **of_checkpoint}


def texts():
    return {name_: text_of(each) for name_, each in stores().items()}
