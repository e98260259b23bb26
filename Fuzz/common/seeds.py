# SPDX-License-Identifier: Apache-2.0
"""usage: seeds.py TARGET FOLDER

Writes the seeds of a fuzz target, one file each, from the vectors in Tests/Vectors. The shapes are
those that the targets' Fuzzer.swift read.
"""

import json
import pathlib
import struct
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
HEADER_BYTE_COUNT = 48
# In the order of the number in the frame.
VERBS = [0x01, 0x02, 0x10, 0x11, 0x12, 0x13, 0x14, 0x20, 0x21, 0x22, 0x23, 0x24,
         0x30, 0x31, 0x60]
FIX_CHECKSUMS, AS_IT_IS = 1, 0


def vectors(name):
    for vector in json.loads((ROOT / "Tests/Vectors/wire" / f"{name}.json").read_text()):
        zeros = vector.get("zeros", 0)
        frame = bytes.fromhex(vector["frame"]) + bytes(min(zeros, 1024))
        # Long batches teach the fuzzer nothing, and make it slow.
        if len(frame) <= 2_048:
            yield vector, frame


def headers():
    for name in ("requests", "answers", "bad-requests", "bad-answers"):
        for _, frame in vectors(name):
            yield frame[:HEADER_BYTE_COUNT]


def bodies(names):
    for name in names:
        for vector, frame in vectors(name):
            if frame[5] in VERBS:
                # Of an answer: verb, scope of a STAT, and whether it is `ok`.
                choice = VERBS.index(frame[5]) | vector.get("scope", 0) << 4
                is_ok = frame[20:22] == b"\0\0"
                yield bytes([choice | (0 if is_ok else 1 << 5)]) + frame[HEADER_BYTE_COUNT:]


def connections():
    sound = {vector["name"]: (frame, bytes.fromhex(vector["payload"] or ""))
             for vector, frame in vectors("requests")}
    hello = sound["hello: everything said"][0]
    for frame, payload in sound.values():
        yield bytes([FIX_CHECKSUMS]) + frame + payload
        yield bytes([AS_IT_IS]) + hello + frame + payload
    yield bytes([AS_IT_IS]) + hello + b"".join(
        frame + payload for name, (frame, payload) in sound.items()
        if not name.startswith("hello") and (payload or not name.startswith("put")))
    for _, frame in vectors("bad-requests"):
        yield bytes([FIX_CHECKSUMS]) + hello + frame


def stores():
    """The files of the stores in Tests/Vectors/ssd, as {path: {offset of a row: bytes}}."""
    for path in sorted((ROOT / "Tests/Vectors/ssd").glob("*.store")):
        files, sizes, rows = {}, {}, {}
        for line in path.read_text().splitlines():
            word, *rest = line.split(" ")
            if word == "file":
                rows = files[rest[0]] = {}
                sizes[rest[0]] = int(rest[1])
            else:
                rows[int(word, 16)] = bytes.fromhex(rest[0])
        yield files, sizes


def blocks():
    """Blocks of metadata, each behind the number of its kind."""
    kinds = {b"KVSTORE1": 0, b"KVSSEGMT": 1, b"KVSTRAIL": 2, b"KVSCKPT1": 5}
    for files, sizes in stores():
        for path, rows in files.items():
            for start in sorted({offset - offset % 4096 for offset in rows}):
                block = bytearray(4096)
                for offset, row in rows.items():
                    if start <= offset < start + 4096:
                        block[offset - start : offset - start + len(row)] = row
                kind = kinds.get(bytes(block[:8]), 3 if block[:4] == b"KVRC" else None)
                if kind is None and "segment" in path and start == sizes[path] - 2 * 4096:
                    kind = 7
                if kind is None and "checkpoint" in path:
                    kind = 6
                if kind is not None:
                    # The fuzz target pads with zeros and makes the checksum itself.
                    yield bytes([kind]) + bytes(block[:4088]).rstrip(b"\0")


def containers():
    """Containers as they are and with checksums made right, and payloads to encode."""
    for path in sorted((ROOT / "Tests/Vectors/container").glob("*.json")):
        for vector in json.loads(path.read_text()):
            content = bytes.fromhex(vector["container"])
            if len(content) <= 4_096 and content:
                yield bytes([0]) + content
                yield bytes([1]) + content
            if vector["profile"]:
                profile = bytes.fromhex(vector["profile"])
                # Behind 0, 1 or 2 refinements, where there are any.
                for refinements in range(3 if "embedded" in vector["name"] else 1):
                    choice = 2 + 4 * ((refinements + 2) % 3)
                    yield bytes([choice]) + struct.pack("<I", len(profile)) + profile + content
    for number in range(3, 256, 4):
        yield bytes([number]) + bytes(range(64)) * (1 + number % 9)


def resp_requests():
    def request(*arguments):
        head = b"*%d\r\n" % len(arguments)
        return head + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in arguments)

    sound = [
        request(b"GET", b"key"), request(b"SET", b"key", b"value"), request(b"PING"),
        request(b"set", b"key", b"value", b"NX", b"PX", b"100"), request(b"MGET", b"a", b"b"),
        request(b"SCAN", b"0", b"MATCH", b"a*[b-d]?", b"COUNT", b"10"), b"*0\r\n",
        request(b"HELLO", b"3", b"AUTH", b"default", b"secret"), request(b"DEL", b"x" * 300),
        request(b"APPEND", b"key", b"v" * 9000),
    ]
    for number, one in enumerate(sound):
        yield bytes([16 * number | 1]) + one
        yield bytes([16 * number]) + one
    yield b"\x15" + b"".join(sound)
    for bad in (b"PING\r\n", b"*-1\r\n", b"*1\r\n$-1\r\n", b"*2000000\r\n", b"*1\r\n$3\r\nGETx"):
        yield b"\x01" + bad


def lm_headers():
    key = b"m@1@0@ff@bfloat16"
    for command in (1, 2, 3, 4, 5, 6):
        numbers = (command, 8, 1, 3, 0, 2, 4, 0, 0)
        yield b"".join(n.to_bytes(4, "little") for n in numbers) + key.ljust(150)
    yield b"value\r\n" + bytes(28) + key + b"\x1c\0\x11\0KVN1"
    yield b"\r\n" + b"\0\0\0\0KVN1"


TARGETS = {
    "container": containers,
    "lm-header": lm_headers,
    "resp-requests": resp_requests,
    "ssd-format": blocks,
    "wire-header": headers,
    "wire-requests": lambda: bodies(["requests", "bad-requests"]),
    "wire-answers": lambda: bodies(["answers", "bad-answers"]),
    "wire-connection": connections,
}


def main():
    target, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    seeds = sorted(set(TARGETS[target]()))
    for number, seed in enumerate(seeds):
        (folder / f"{number:04}").write_bytes(seed)
    print(f"{len(seeds)} seeds for {target}")


main()
