# SPDX-License-Identifier: Apache-2.0
"""Random damage to SSD stores in their text form, from a seed; for tests of their readers."""

import random
import struct

import ssd_writer

NAMES = ["examples", "two-directories", "record-torn", "full-notes", "hole", "checkpoint-page"]


def damaged(seed, text_of_store):
    """A store's files ({path: bytes}) with damage; `text_of_store` gives its text by its name."""
    generator = random.Random(seed)
    files = ssd_writer.files_of(text_of_store(generator.choice(NAMES)))
    path = generator.choice(sorted(files))
    data = files[path]
    if generator.random() < 0.3 and path.endswith("00000.kvs"):
        # Most likely in the table.
        at = len(data) - 2 * ssd_writer.BLOCK + generator.randrange(208)
        data[at] = generator.randrange(256)
        refit_table(data)
    else:
        spoil(data, generator)
    return files


def spoil(data, generator):
    """Changes some fields; half of the time with the block checksums that fit."""
    for _ in range(generator.randint(1, 4)):
        block = generator.randrange(max(1, len(data) // ssd_writer.BLOCK))
        if generator.random() < 0.5:
            block = generator.randrange(max(1, min(4, len(data) // ssd_writer.BLOCK)))
        at = block * ssd_writer.BLOCK
        # Most fields of a block are in its first bytes.
        place = at + generator.choice([generator.randrange(160), generator.randrange(4096)])
        value = generator.choice([0, 1, 2, 255, 128, generator.randrange(256)])
        for offset in range(generator.choice([1, 1, 4, 8])):
            if place + offset < len(data):
                data[place + offset] = value
        if generator.random() < 0.5 and at + ssd_writer.BLOCK <= len(data):
            data[at : at + ssd_writer.BLOCK] = ssd_writer.resealed(
                data[at : at + ssd_writer.BLOCK])
    if generator.random() < 0.1:
        del data[generator.randrange(len(data)) :]


def refit_table(data):
    """The table checksum that fits, so that damaged entries are looked at."""
    trailer = data[-ssd_writer.BLOCK :]
    count = struct.unpack_from("<I", trailer, 12)[0] * 104
    blocks = ssd_writer.block_count(count)
    start = len(data) - (1 + blocks) * ssd_writer.BLOCK
    if 0 <= start and blocks:
        struct.pack_into("<Q", trailer, 32, ssd_writer.checksum(bytes(data[start : start + count])))
        data[-ssd_writer.BLOCK :] = ssd_writer.resealed(trailer)
