# SPDX-License-Identifier: Apache-2.0
"""All that the directories of an SSD store say, line by line; see ssd_reader.py.

    for line in Inspection(["/var/lib/kvstored"], recovers=True).lines():
        print(json.dumps(line, ensure_ascii=False))

A line is a dict with the fields that docs/ssd-format.md lists, in their order.
"""

import os

import xxhash
from ssd_reader import (
    BLOCK, CHECKPOINT_LISTS, CHECKPOINT_MAGIC, IDENTITY_MAGIC, NUMBER_MAX, PAGE, PAGE_CONTENT,
    SEGMENT_BLOCK_COUNT_MAX, SEGMENT_BLOCK_COUNT_MIN, SEGMENT_NAME, CheckpointStream, File, Footer,
    Segment, block_fault, ceiling, checkpoint_header, checksum, decode_notes, decode_record,
    header_fault, hexadecimal, stream_byte_count, u32, u64,
)


class Recovery:
    """What counts, of all that was read. A chunk is named by its key within its namespace."""

    def __init__(self):
        self.chunks, self.deletes, self.pins = {}, {}, {}

    @staticmethod
    def keep_latest(table, line, value):
        name = (line["key"], line["namespace"])
        if name not in table or table[name][0] < line["sequence"]:
            table[name] = (line["sequence"], value)

    def chunk(self, line):
        self.keep_latest(self.chunks, line, line)

    def note(self, kind, line, until_ms):
        self.keep_latest(self.deletes if kind == "delete" else self.pins, line, until_ms)

    def lines(self, now_ms):
        for name in sorted(self.chunks):
            sequence, line = self.chunks[name]
            deleted = self.deletes.get(name, (-1, 0))[0]
            if deleted > sequence:
                continue
            if 0 < line["expiry_ms"] <= now_ms:
                continue
            pinned, until_ms = self.pins.get(name, (-1, 0))
            yield {
                "type": "recovered", "key": line["key"], "namespace": line["namespace"],
                "directory": line["directory"], "segment": line["segment"], "block": line["block"],
                "sequence": sequence, "byte_count": line["byte_count"],
                "checksum": line["checksum"], "expiry_ms": line["expiry_ms"],
                "pinned_until_ms": until_ms if pinned > deleted else 0,
            }


class PayloadCheck:
    """Reads the payload of a record, stripe by stripe."""

    def __init__(self, segment, record, block):
        self.bad_stripes, self.unread_stripe, self.is_whole = [], None, False
        size, left = record["stripe_byte_count"], record["byte_count"]
        whole = xxhash.xxh3_64()
        for index in range(record["stripe_count"]):
            count = min(size, left)
            first = record["block"] + 1 + index * (size // BLOCK)
            data = segment.block(first, ceiling(count, BLOCK))
            if data is None:
                self.unread_stripe = index
                return
            if checksum(data[:count]) != u64(block, 256 + 8 * index):
                self.bad_stripes.append(index)
            whole.update(data[:count])
            left -= count
        self.is_whole = hexadecimal(whole.intdigest()) == record["checksum"]


class Inspection:
    """Reads the directories of a store; `lines` may be called once.

    `segment`: only the segments of this slot, and no checkpoint. `verifies`: read and check the
    payloads. `recovers`: say what a recovery at `now_ms` finds.
    """

    def __init__(self, directories, segment=None, verifies=False, recovers=False, now_ms=0):
        self.directories, self.only = directories, segment
        self.verifies, self.recovers, self.now_ms = verifies, recovers, now_ms
        self.store, self.directory_ids = None, set()
        self.recovery = Recovery()
        self.counts = dict.fromkeys(
            ("identity", "segment", "record", "note", "fault", "recovered"), 0)
        self.verified_payload_count = 0

    @property
    def fault_count(self):
        return self.counts["fault"]

    def lines(self):
        for line in self.all_lines():
            self.counts[line["type"]] = self.counts.get(line["type"], 0) + 1
            yield line
        yield {
            "type": "summary", "directories": self.counts["identity"],
            "segments": self.counts["segment"], "records": self.counts["record"],
            "notes": self.counts["note"],
            "verified_payloads": self.verified_payload_count if self.verifies else None,
            "recovered": self.counts["recovered"] if self.recovers else None,
            "faults": self.fault_count,
        }

    def all_lines(self):
        for directory, path in enumerate(self.directories):
            yield from self.directory_lines(directory, path)
        if self.recovers:
            yield from self.recovery.lines(self.now_ms)

    @staticmethod
    def fault(what, directory, segment=None, block=None, index=None):
        return {
            "type": "fault", "what": what, "directory": directory, "segment": segment,
            "block": block, "index": index,
        }

    def directory_lines(self, directory, path):
        try:
            names = os.listdir(path)
        except OSError:
            yield self.fault("directory-unreadable", directory)
            return
        block, fault = self.identity(path)
        if fault:
            yield self.fault(fault, directory)
            return
        yield {
            "type": "identity", "directory": directory, "version": 1,
            "segment_block_count": u32(block, 12), "store": block[16:32].hex(),
            "directory_id": block[32:48].hex(), "created_ms": u64(block, 48),
        }
        matches = filter(None, map(SEGMENT_NAME.fullmatch, names))
        slots = sorted((int(match[1]), match[0]) for match in matches)
        for slot, name in slots:
            if slot < 1 << 32 and self.only in (None, slot):
                yield from self.segment_lines(directory, os.path.join(path, name), slot,
                                              u32(block, 12))
        if self.only is None and "checkpoint.kvs" in names:
            yield from self.checkpoint_lines(directory, os.path.join(path, "checkpoint.kvs"))

    def identity(self, path):
        """(identity block, None), or (None, what is wrong)."""
        try:
            with File(os.path.join(path, "store.kvs")) as file:
                block = file.read(0, BLOCK)
        except FileNotFoundError:
            return None, "identity-missing"
        except OSError:
            return None, "identity-unreadable"
        fault = "damaged" if len(block) < BLOCK else block_fault(block, IDENTITY_MAGIC)
        if fault:
            return None, f"identity-{fault}"
        if not SEGMENT_BLOCK_COUNT_MIN <= u32(block, 12) <= SEGMENT_BLOCK_COUNT_MAX:
            return None, "identity-invalid"
        if self.store not in (None, block[16:32]):
            return None, "identity-foreign"
        if block[32:48] in self.directory_ids:
            return None, "identity-repeated"
        self.store = block[16:32]
        self.directory_ids.add(block[32:48])
        return block, None

    def segment_lines(self, directory, path, slot, block_count):
        try:
            with File(path) as file:
                if file.byte_count != block_count * BLOCK:
                    yield self.fault("segment-size", directory, slot)
                    return
                header = file.read(0, BLOCK)
                if len(header) < BLOCK:
                    raise OSError("shorter than it said")
                fault = header_fault(header, slot, self.store, block_count)
                if fault == "segment-blank":
                    yield self.segment_line(directory, slot, "blank")
                    return
                if fault:
                    yield self.fault(fault, directory, slot)
                    return
                yield from self.sound_segment_lines(Segment(file, directory, slot, header))
        except OSError:
            yield self.fault("segment-unreadable", directory, slot)

    def sound_segment_lines(self, segment):
        footer = None if segment.is_free else Footer(segment)
        is_sealed = footer is not None and footer.entries is not None
        content = []
        if is_sealed:
            content = list(self.table_lines(segment, footer.entries))
        elif footer:
            if footer.fault:
                content.append(self.fault_in(segment, footer.fault, footer.fault_block))
            content += self.scan_lines(segment)
        yield self.segment_line(
            segment.directory, segment.slot,
            "free" if segment.is_free else "sealed" if is_sealed else "open",
            serial=segment.serial, nonce=hexadecimal(segment.nonce),
            first_sequence=segment.first_sequence, opened_ms=segment.opened_ms,
            entries=len(footer.entries) if is_sealed else None,
            next_sequence=footer.next_sequence if is_sealed else None,
            records=sum(line["type"] == "record" for line in content))
        yield from content

    @staticmethod
    def segment_line(directory, slot, state, records=0, **facts):
        names = ("serial", "nonce", "first_sequence", "opened_ms", "entries", "next_sequence")
        return {
            "type": "segment", "directory": directory, "segment": slot, "state": state,
            **{name: facts.get(name) for name in names}, "records": records,
        }

    def fault_in(self, segment, what, block, index=None):
        return self.fault(what, segment.directory, segment.slot, block, index)

    def scan_lines(self, segment):
        """The records of an open segment, found block by block."""
        number = 1
        while number < segment.block_count - 1:
            block = segment.block(number)
            if block is None:
                yield self.fault_in(segment, "unreadable", number)
                number += 1
                continue
            record, fault = decode_record(segment, number, block)
            if fault:
                yield self.fault_in(segment, fault, number)
            if not record:
                number += 1
                continue
            if record["kind"] == "chunk":
                check = PayloadCheck(segment, record, block)
                if check.unread_stripe is not None or not check.is_whole:
                    # Torn: it does not count, and others may lie where its payload should.
                    yield (
                        self.fault_in(segment, "record-torn", number)
                        if check.unread_stripe is None
                        else self.fault_in(segment, "unreadable", number, check.unread_stripe))
                    number += 1
                    continue
                self.recovery.chunk(record)
            for line in self.record_lines(segment, record, block):
                if line["type"] == "note":
                    self.recovery.note(line["kind"], line, line["until_ms"])
                yield line
            number += record["block_count"]

    def table_lines(self, segment, entries):
        """The entries of a sealed segment, then the records that they name."""
        for entry in entries:
            yield entry
            if entry["kind"] == "chunk":
                self.recovery.chunk(entry)
            else:
                self.recovery.note(entry["kind"], entry, entry["expiry_ms"])
        found = {}
        for entry in entries:
            number = entry["block"]
            if number not in found:
                found[number] = []
                block = segment.block(number)
                record, fault = (
                    (None, "unreadable") if block is None
                    else decode_record(segment, number, block))
                if record is None:
                    yield self.fault_in(segment, fault or "record-damaged", number)
                else:
                    found[number] = list(self.record_lines(segment, record, block))
                    yield from found[number]
            if found[number] and not any(agrees(entry, line) for line in found[number]):
                yield self.fault_in(segment, "entry-differs", number, entry["index"])

    def record_lines(self, segment, record, block):
        yield record
        if record["kind"] == "notes":
            yield from decode_notes(segment, record, block)
        elif self.verifies:
            yield from self.payload_faults(segment, record, block)

    def payload_faults(self, segment, record, block):
        self.verified_payload_count += 1
        check, number = PayloadCheck(segment, record, block), record["block"]
        for index in check.bad_stripes:
            yield self.fault_in(segment, "stripe-damaged", number, index)
        if check.unread_stripe is not None:
            yield self.fault_in(segment, "unreadable", number, check.unread_stripe)
        elif not check.is_whole:
            yield self.fault_in(segment, "payload-damaged", number)

    def checkpoint_lines(self, directory, path):
        try:
            with File(path) as file:
                yield from self.checkpoint_content(directory, file)
        except OSError:
            yield self.fault("checkpoint-unreadable", directory)

    def checkpoint_fault(self, file, block):
        """(header, None), or (None, what is wrong)."""
        fault = "damaged" if len(block) < BLOCK else block_fault(block, CHECKPOINT_MAGIC)
        if fault:
            return None, fault
        header = checkpoint_header(block)
        page_count = header["page_count"]
        if (header["chunk_count"] >= 1 << 32 or not 1 <= header["sequence"] <= NUMBER_MAX
                or page_count != ceiling(stream_byte_count(header), PAGE_CONTENT)
                or file.byte_count < BLOCK + page_count * PAGE):
            return None, "invalid"
        return (header, None) if block[16:32] == self.store else (None, "foreign")

    def checkpoint_content(self, directory, file):
        header, fault = self.checkpoint_fault(file, file.read(0, BLOCK))
        if fault:
            yield self.fault(f"checkpoint-{fault}", directory)
            return
        yield {"type": "checkpoint", "directory": directory, **header}
        is_whole = True
        for page in range(header["page_count"]):
            data = file.read(BLOCK + page * PAGE, PAGE)
            if len(data) < PAGE or checksum(data[:PAGE_CONTENT]) != u64(data, PAGE_CONTENT):
                is_whole = False
                yield self.fault("checkpoint-page", directory, index=page)
        if is_whole:
            yield from self.checkpoint_entries(directory, header, CheckpointStream(file))

    def checkpoint_entries(self, directory, header, stream):
        for name, size, decode in CHECKPOINT_LISTS:
            for index in range(header[f"{name}_count"]):
                line, is_valid = decode(stream.take(size), header)
                yield {
                    "type": f"checkpoint-{name}", "directory": directory, "index": index, **line}
                if not is_valid:
                    yield self.fault("checkpoint-entry", directory, index=index)


def agrees(entry, line):
    """Whether a record's line, or a note's, says the same as a footer entry."""
    if line["type"] == "fault" or line["kind"] != entry["kind"]:
        return False
    names = ["sequence", "namespace", "key"]
    if entry["kind"] == "chunk":
        names += ["block_count", "layout", "level", "byte_count", "checksum", "expiry_ms"]
    elif entry["expiry_ms"] != line["until_ms"] or any(
            int(str(entry[name]), 16) for name in ("layout", "level", "byte_count", "checksum")):
        return False
    return all(entry[name] == line[name] for name in names)
