# SPDX-License-Identifier: Apache-2.0
"""Writes SSD stores for the vectors, and their text form; see README.md and docs/ssd-format.md."""

import hashlib
import struct
from dataclasses import dataclass, field

import xxhash

BLOCK = 4096
PAGE = 1 << 20
ROW = 32
OPAQUE = bytes(16)
CHUNK, DELETE, PIN = 1, 17, 18


def checksum(data):
    return xxhash.xxh3_64_intdigest(data)


def block_count(byte_count):
    return -(-byte_count // BLOCK)


def name(text, size):
    """A name of `size` bytes that stays the same: of a store, a directory, a key, a layout."""
    return hashlib.sha256(text.encode()).digest()[:size]


def sealed(content):
    """A block of metadata: the content, zeros, and their checksum."""
    body = content + bytes(BLOCK - 8 - len(content))
    return body + struct.pack("<Q", checksum(body))


def resealed(block):
    """The block with the checksum that fits what it says now."""
    return sealed(bytes(block[: BLOCK - 8]))


def identity(store, directory, segment_block_count, created_ms=1_750_000_000_000, version=1):
    return sealed(struct.pack(
        "<8sII16s16sQ", b"KVSTORE1", version, segment_block_count, store, directory, created_ms))


@dataclass
class Chunk:
    key: bytes
    payload: bytes
    namespace: bytes = name("default", 16)
    layout: bytes = OPAQUE
    level: int = 0
    expiry_ms: int = 0
    stored_ms: int = 1_750_000_100_000
    blocks = property(lambda self: 1 + block_count(len(self.payload)))

    def header(self, nonce, sequence, block):
        size = 65_536
        while -(-len(self.payload) // size) > 256:
            size *= 2
        stripes = [checksum(self.payload[at : at + size])
                   for at in range(0, len(self.payload), size)]
        head = struct.pack("<4sHHQQII", b"KVRC", 1, 1, nonce, sequence, self.blocks, block)
        head += self.key + self.namespace + self.layout
        head += struct.pack("<QQQQB3xII", len(self.payload), checksum(self.payload),
                            self.expiry_ms, self.stored_ms, self.level, size, len(stripes))
        return sealed(head.ljust(256, b"\0") + struct.pack(f"<{len(stripes)}Q", *stripes))

    def entries(self, sequence, block):
        return [struct.pack(
            "<BBHIIIQQQ", CHUNK, self.level, 0, block, self.blocks, len(self.payload), sequence,
            checksum(self.payload), self.expiry_ms) + self.key + self.namespace + self.layout]


@dataclass
class Note:
    kind: int
    key: bytes
    until_ms: int = 0
    namespace: bytes = name("default", 16)


@dataclass
class Notes:
    notes: list
    blocks = 1
    payload = b""

    def header(self, nonce, sequence, block):
        head = struct.pack("<4sHHQQIII", b"KVRC", 2, 1, nonce, sequence, 1, block, len(self.notes))
        return sealed(head.ljust(64, b"\0") + b"".join(
            struct.pack("<B7xQ16s32s", note.kind - 16, note.until_ms, note.namespace, note.key)
            for note in self.notes))

    def entries(self, sequence, block):
        return [struct.pack(
            "<BBHIIIQQQ", note.kind, 0, 0, block, 1, 0, sequence + index, 0, note.until_ms)
            + note.key + note.namespace + OPAQUE for index, note in enumerate(self.notes)]


@dataclass
class Segment:
    """A segment while it is written; `data` is the file, and may be spoilt afterwards."""

    store: bytes
    slot: int
    block_count: int
    serial: int
    first_sequence: int
    nonce: int = None
    state: int = 1
    opened_ms: int = 1_750_000_050_000
    version: int = 1
    next_block: int = 1
    entries: list = field(default_factory=list)

    def __post_init__(self):
        if self.nonce is None:
            self.nonce = checksum(f"nonce {self.slot} {self.serial}".encode())
        self.next_sequence = self.first_sequence
        self.data = bytearray(self.block_count * BLOCK)
        self.write_header()

    def write_header(self):
        self.put(0, sealed(struct.pack(
            "<8sII16sIIQQQQ", b"KVSSEGMT", self.version, self.state, self.store, self.slot,
            self.block_count, self.serial, self.nonce, self.first_sequence, self.opened_ms)))

    def put(self, block, data):
        self.data[block * BLOCK : block * BLOCK + len(data)] = data

    def block(self, number):
        return bytes(self.data[number * BLOCK : (number + 1) * BLOCK])

    def change(self, block, offset, data):
        """Other bytes in a block of metadata, with the checksum that fits."""
        self.data[block * BLOCK + offset : block * BLOCK + offset + len(data)] = data
        self.put(block, resealed(self.block(block)))

    def flip(self, block, offset):
        """Damage: one bit of a block."""
        self.data[block * BLOCK + offset] ^= 1

    def append(self, record, sequence=None, block=None):
        """Writes a record; returns (block, sequence)."""
        block = self.next_block if block is None else block
        sequence = self.next_sequence if sequence is None else sequence
        self.put(block, record.header(self.nonce, sequence, block) + record.payload)
        entries = record.entries(sequence, block)
        self.entries += entries
        self.next_block = block + record.blocks
        self.next_sequence = sequence + len(entries)
        return block, sequence

    def seal(self, entry_count=None, version=1, nonce=None, serial=None):
        """Writes footer table and trailer."""
        table = b"".join(self.entries)
        self.put(self.block_count - 1 - block_count(len(table)), table)
        self.put(self.block_count - 1, sealed(struct.pack(
            "<8sIIQQQQ", b"KVSTRAIL", version,
            len(self.entries) if entry_count is None else entry_count,
            self.nonce if nonce is None else nonce, self.serial if serial is None else serial,
            checksum(table), self.next_sequence)))


@dataclass
class Checkpoint:
    """Lists of tuples, by the order of the fields in the format's page."""

    store: bytes
    sequence: int
    segments: list
    bindings: list
    chunks: list
    pins: list
    written_ms: int = 1_750_000_200_000
    version: int = 1

    def data(self):
        stream = b"".join(
            [struct.pack("<16sIIQ", *row) for row in self.segments]
            + [struct.pack("<16s16sII", *row, 0) for row in self.bindings]
            + [struct.pack("<32sQIIIIQ", *row) for row in self.chunks]
            + [struct.pack("<16s32sQQ", *row, 0) for row in self.pins])
        pages = []
        for at in range(0, len(stream), PAGE - 8):
            page = stream[at : at + PAGE - 8].ljust(PAGE - 8, b"\0")
            pages.append(page + struct.pack("<Q", checksum(page)))
        header = struct.pack(
            "<8sII16sQQQIII", b"KVSCKPT1", self.version, len(pages), self.store, self.sequence,
            self.written_ms, len(self.chunks), len(self.segments), len(self.bindings),
            len(self.pins))
        return bytearray(sealed(header) + b"".join(pages))


def text_of(files):
    """The text form of a store: {path: bytes}."""
    lines = []
    for path in sorted(files):
        data = files[path]
        lines.append(f"file {path} {len(data)}\n")
        for at in range(0, len(data), ROW):
            row = bytes(data[at : at + ROW])
            if any(row):
                lines.append(f"{at:x} {row.hex()}\n")
    return "".join(lines)


def files_of(text):
    """{path: bytes} of a text form."""
    files, data = {}, None
    for line in text.splitlines():
        word, *rest = line.split(" ")
        if word == "file":
            data = files[rest[0]] = bytearray(int(rest[1]))
        else:
            row = bytes.fromhex(rest[0])
            data[int(word, 16) : int(word, 16) + len(row)] = row
    return files


def unpack(text, root):
    """Writes a text form below `root` (a pathlib.Path); returns the store's directories."""
    for path, data in files_of(text).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return sorted(str(path) for path in root.iterdir())
