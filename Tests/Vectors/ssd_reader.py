# SPDX-License-Identifier: Apache-2.0
"""A second reader of the SSD format, version 1.

Written from docs/ssd-format.md alone, to find out whether it says enough, and to say what the
vectors in Tests/Vectors/ssd contain. Here is what blocks and files mean; ssd_inspection.py reads a
whole store with it. Slow and plain on purpose: it trusts nothing. Needs nothing but the `xxhash`
package.
"""

import os
import re
import stat
import struct

import xxhash

BLOCK = 4096
CHECKSUM_AT = BLOCK - 8
SEGMENT_BLOCK_COUNT_MIN, SEGMENT_BLOCK_COUNT_MAX = 5, 65_536
PAYLOAD_BYTE_COUNT_MAX = 1 << 28
NOTE_COUNT_MAX = 62
STRIPE_BYTE_COUNT_MIN, STRIPE_COUNT_MAX = 65_536, 256
# Sequence and serial numbers above this are no valid ones.
NUMBER_MAX = 1 << 62
ENTRY = 104
PAGE = 1 << 20
PAGE_CONTENT = PAGE - 8

IDENTITY_MAGIC, SEGMENT_MAGIC = b"KVSTORE1", b"KVSSEGMT"
TRAILER_MAGIC, CHECKPOINT_MAGIC, RECORD_MAGIC = b"KVSTRAIL", b"KVSCKPT1", b"KVRC"
NOTE_KINDS = {1: "delete", 2: "pin"}
ENTRY_KINDS = {1: "chunk", 17: "delete", 18: "pin"}
SEGMENT_NAME = re.compile(r"segment-(\d{5}|[1-9]\d{5,})\.kvs", re.ASCII)


def checksum(data):
    """XXH3-64 with seed 0."""
    return xxhash.xxh3_64_intdigest(data)


def u32(data, offset):
    return struct.unpack_from("<I", data, offset)[0]


def u64(data, offset):
    return struct.unpack_from("<Q", data, offset)[0]


def hexadecimal(number):
    """A checksum or a nonce as text."""
    return f"{number:016x}"


def ceiling(count, size):
    return -(-count // size)


def stripe_byte_count(byte_count):
    size = STRIPE_BYTE_COUNT_MIN
    while ceiling(byte_count, size) > STRIPE_COUNT_MAX:
        size *= 2
    return size


def block_fault(block, magic):
    """Why a block is not the sound first or last block of a file; None when it is."""
    if block[:8] != magic or checksum(block[:CHECKSUM_AT]) != u64(block, CHECKSUM_AT):
        return "damaged"
    return None if u32(block, 8) == 1 else "version"


# --- Files --------------------------------------------------------------------------------------


class File:
    """A regular file that is only read; anything that keeps it from being read is OSError."""

    def __init__(self, path):
        # Without O_NONBLOCK, opening a pipe would wait for somebody to write into it.
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(self.descriptor)
        self.byte_count = status.st_size
        if not stat.S_ISREG(status.st_mode):
            os.close(self.descriptor)
            raise OSError("not a regular file")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.descriptor)

    def read(self, offset, count):
        """`count` bytes, or fewer where the file ends."""
        pieces = []
        while count > 0:
            piece = os.pread(self.descriptor, count, offset)
            if not piece:
                break
            pieces.append(piece)
            offset, count = offset + len(piece), count - len(piece)
        return b"".join(pieces)


# --- Segments -----------------------------------------------------------------------------------


class Segment:
    """A segment file whose header is sound."""

    def __init__(self, file, directory, slot, header):
        self.file, self.directory, self.slot = file, directory, slot
        self.block_count = u32(header, 36)
        self.is_free = u32(header, 12) == 2
        self.serial, self.nonce = u64(header, 40), u64(header, 48)
        self.first_sequence, self.opened_ms = u64(header, 56), u64(header, 64)

    def block(self, number, count=1):
        """`count` blocks; None when the device does not give them."""
        try:
            data = self.file.read(number * BLOCK, count * BLOCK)
        except OSError:
            return None
        return data if len(data) == count * BLOCK else None

    def place(self, block):
        return {"directory": self.directory, "segment": self.slot, "block": block}


def header_fault(block, slot, store, block_count):
    """Why a segment's header does not count; None when it does."""
    fault = block_fault(block, SEGMENT_MAGIC)
    if fault == "damaged" and not any(block[:72]):
        return "segment-blank"
    if fault == "damaged" and block[:8] == SEGMENT_MAGIC and block[16:32] == store:
        return "segment-torn"
    if fault is None and (
            u32(block, 12) not in (1, 2) or u64(block, 40) > NUMBER_MAX
            or u64(block, 56) > NUMBER_MAX
            or not SEGMENT_BLOCK_COUNT_MIN <= u32(block, 36) <= SEGMENT_BLOCK_COUNT_MAX):
        fault = "invalid"
    if fault is None and block[16:32] != store:
        fault = "foreign"
    if fault is None and (u32(block, 32) != slot or u32(block, 36) != block_count):
        fault = "invalid"
    return fault and f"segment-{fault}"


def decode_record(segment, number, block):
    """(record, None), or (None, what is wrong), or (None, None) where no record begins."""
    if block[:4] != RECORD_MAGIC or u64(block, 8) != segment.nonce:
        return None, None
    if checksum(block[:CHECKSUM_AT]) != u64(block, CHECKSUM_AT):
        return None, "record-damaged"
    kind, version = struct.unpack_from("<HH", block, 4)
    block_count = u32(block, 24)
    invalid = (None, "record-invalid")
    if version != 1 or u32(block, 28) != number or u64(block, 16) > NUMBER_MAX - NOTE_COUNT_MAX:
        return invalid
    if not 1 <= block_count <= segment.block_count - 1 - number:
        return invalid
    place = {"type": "record", **segment.place(number), "block_count": block_count}
    sequence = u64(block, 16)
    if kind == 1:
        line = decode_chunk(block, block_count)
        return ({**place, "kind": "chunk", "sequence": sequence, **line}, None) if line else invalid
    count = u32(block, 32)
    if kind != 2 or block_count != 1 or not 1 <= count <= NOTE_COUNT_MAX:
        return invalid
    if any(block[64 + 64 * index] not in NOTE_KINDS for index in range(count)):
        return invalid
    return {**place, "kind": "notes", "sequence": sequence, "note_count": count}, None


def decode_chunk(block, block_count):
    """What is particular to a chunk; None when it cannot be."""
    byte_count = u64(block, 96)
    if not 1 <= byte_count <= PAYLOAD_BYTE_COUNT_MAX:
        return None
    stripe = stripe_byte_count(byte_count)
    if block_count != 1 + ceiling(byte_count, BLOCK):
        return None
    if u32(block, 132) != stripe or u32(block, 136) != ceiling(byte_count, stripe):
        return None
    return {
        "namespace": block[64:80].hex(), "key": block[32:64].hex(), "layout": block[80:96].hex(),
        "level": block[128], "byte_count": byte_count, "checksum": hexadecimal(u64(block, 104)),
        "expiry_ms": u64(block, 112), "stored_ms": u64(block, 120), "stripe_byte_count": stripe,
        "stripe_count": ceiling(byte_count, stripe),
    }


def decode_notes(segment, record, block):
    """The notes of a record, a line each."""
    for index in range(record["note_count"]):
        note = block[64 + 64 * index : 128 + 64 * index]
        yield {
            "type": "note", **segment.place(record["block"]), "index": index,
            "sequence": record["sequence"] + index, "kind": NOTE_KINDS[note[0]],
            "namespace": note[16:32].hex(), "key": note[32:64].hex(), "until_ms": u64(note, 8),
        }


def decode_entry(segment, index, entry):
    """A line of the footer table; None when it cannot be."""
    kind, block, block_count = ENTRY_KINDS.get(entry[0]), u32(entry, 4), u32(entry, 8)
    byte_count = u32(entry, 12)
    if kind is None or block < 1 or block + block_count > segment.block_count - 1:
        return None
    if u64(entry, 16) > NUMBER_MAX:
        return None
    if kind == "chunk" and not 1 <= byte_count <= PAYLOAD_BYTE_COUNT_MAX:
        return None
    if block_count != 1 + (ceiling(byte_count, BLOCK) if kind == "chunk" else 0):
        return None
    return {
        "type": "footer-entry", "directory": segment.directory, "segment": segment.slot,
        "index": index, "kind": kind, "block": block, "block_count": block_count,
        "sequence": u64(entry, 16), "namespace": entry[72:88].hex(), "key": entry[40:72].hex(),
        "layout": entry[88:104].hex(), "level": entry[1], "byte_count": byte_count,
        "checksum": hexadecimal(u64(entry, 24)), "expiry_ms": u64(entry, 32),
    }


class Footer:
    """Trailer and table. `entries` is None where they do not count; `fault` may say why."""

    def __init__(self, segment):
        self.entries = self.fault = None
        self.fault_block = segment.block_count - 1
        trailer = segment.block(self.fault_block)
        if trailer is None:
            self.fault = "unreadable"
        elif u64(trailer, 16) == segment.nonce:
            self.read(segment, trailer)
        # Another nonce: an earlier life's trailer, or data that was never one.

    def read(self, segment, trailer):
        fault = block_fault(trailer, TRAILER_MAGIC)
        entry_count, self.next_sequence = u32(trailer, 12), u64(trailer, 40)
        block_count = ceiling(entry_count * ENTRY, BLOCK)
        if fault is None and (
                u64(trailer, 24) != segment.serial or block_count + 2 > segment.block_count
                or self.next_sequence > NUMBER_MAX):
            fault = "invalid"
        if fault:
            self.fault = f"trailer-{fault}"
            return
        self.fault_block -= block_count
        table = segment.block(self.fault_block, block_count)
        if table is None:
            self.fault = "unreadable"
            return
        table = table[: entry_count * ENTRY]
        if checksum(table) != u64(trailer, 32):
            self.fault = "table-damaged"
            return
        entries = [decode_entry(segment, index, table[index * ENTRY : (index + 1) * ENTRY])
                   for index in range(entry_count)]
        if None in entries:
            self.fault = "table-invalid"
        else:
            self.entries = entries


# What of a segment is in a checkpoint.
COVERAGES = {1: "all", 2: "chunks"}

# --- Checkpoint ---------------------------------------------------------------------------------


class CheckpointStream:
    """The byte stream that the pages of a checkpoint carry."""

    def __init__(self, file):
        self.file, self.page, self.rest = file, 0, b""

    def take(self, count):
        while len(self.rest) < count:
            self.rest += self.file.read(BLOCK + self.page * PAGE, PAGE_CONTENT)
            self.page += 1
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken


def checkpoint_header(block):
    return {
        "sequence": u64(block, 32), "written_ms": u64(block, 40), "page_count": u32(block, 12),
        "segment_count": u32(block, 56), "binding_count": u32(block, 60),
        "chunk_count": u64(block, 48), "pin_count": u32(block, 64),
    }


def stream_byte_count(header):
    return (
        32 * header["segment_count"] + 40 * header["binding_count"]
        + 64 * header["chunk_count"] + 64 * header["pin_count"]
    )


def checkpoint_segment(data, _):
    return {
        "directory_id": data[:16].hex(), "segment": u32(data, 16),
        "coverage": COVERAGES.get(u32(data, 20), "none"), "serial": u64(data, 24),
    }, True


def checkpoint_binding(data, _):
    return {
        "namespace": data[:16].hex(), "layout": data[16:32].hex(), "level": u32(data, 32),
    }, True


def checkpoint_chunk(data, header):
    line = {
        "key": data[:32].hex(), "checksum": hexadecimal(u64(data, 32)),
        "segment_index": u32(data, 40), "block": u32(data, 44), "byte_count": u32(data, 48),
        "binding_index": u32(data, 52), "expiry_ms": u64(data, 56),
    }
    return line, (
        line["segment_index"] < header["segment_count"]
        and line["binding_index"] < header["binding_count"]
        and 1 <= line["byte_count"] <= PAYLOAD_BYTE_COUNT_MAX
        and 1 <= line["block"] < SEGMENT_BLOCK_COUNT_MAX
    )


def checkpoint_pin(data, _):
    return {
        "namespace": data[:16].hex(), "key": data[16:48].hex(), "until_ms": u64(data, 48),
    }, True


CHECKPOINT_LISTS = [
    ("segment", 32, checkpoint_segment), ("binding", 40, checkpoint_binding),
    ("chunk", 64, checkpoint_chunk), ("pin", 64, checkpoint_pin),
]
