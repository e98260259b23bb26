#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns Tests/Vectors into C: vectors.h for test_vectors.c, which has the functions that are called
here, and codec_vectors.h for test_codec.c.

usage: make_vectors.py VECTORS FOLDER
"""
import json
import pathlib
import struct
import sys

EMPTY = {"PING", "PUT", "COMMIT", "ABORT"}
OF_ONE_KEY = {"notFound", "layoutMismatch", "deadlineExceeded"}


def literal(data):
    """Bytes as a C string literal."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in data) + '"'


def raw(text):
    return literal(bytes.fromhex(text))


def frame_of(vector):
    return f"{literal(vector['name'].encode())}, {raw(vector['frame'])}, " \
           f"{len(vector['frame']) // 2}"


def keys_of(fields):
    return f"(const kvs_key *){raw(''.join(fields['keys']))}, {len(fields['keys'])}"


def ids_of(ids):
    return "(const uint64_t[]){" + ", ".join(f"{i}u" for i in [*ids, 0]) + f"}}, {len(ids)}"


def put_body(fields):
    position = fields.get("first_position")
    flags = " | ".join(["KVS_DURABLE"] * bool(fields["acknowledge"])
                       + ["KVS_POSITIONED"] * (position is not None)) or "0"
    return (f"kvsi_encode_put(body, (const kvs_key *){raw(fields['key'])}, "
            f"{fields['chunk_byte_count']}u, options({raw(fields['layout'])}, "
            f"{fields['time_to_live_ms']}u, {flags}, {position or 0}u, {fields['level']}))")


def hello_body(fields):
    if (fields["lowest_version"], fields["highest_version"]) != (1, 1):
        return None
    token = bytes.fromhex(fields["token"])
    return (f"encode_hello(body, {fields['wanted_features']}u, "
            f"{literal(fields['namespace'].encode())}, {literal(token)}, {len(token)}, "
            f"{literal(fields['client_name'].encode())})")


def get_body(fields):
    layout = f"(const kvs_layout *){raw(fields['layout'])}" if fields["options"] & 1 else "NULL"
    ranged = (f"&(const struct kvsi_range){{{fields['range_offset']}u, "
              f"{fields['range_byte_count']}u}}" if fields["options"] & 2 else "NULL")
    return f"kvsi_encode_get(body, {keys_of(fields)}, {fields['level']}, {layout}, {ranged})"


BODIES = {
    "HELLO": hello_body,
    "PING": lambda f: "0",
    "PUT": put_body,
    "RESERVE": put_body,
    "GET": get_body,
    "LOOKUP": lambda f: f"kvsi_encode_lookup(body, {keys_of(f)}, {f['mode']})",
    "DELETE": lambda f: f"kvsi_encode_delete(body, {keys_of(f)})",
    "PIN": lambda f: f"kvsi_encode_pin(body, {keys_of(f)}, {f['pin_ms']}u)",
    "UNPIN": lambda f: f"kvsi_encode_delete(body, {keys_of(f)})",
    "STAT": lambda f: "kvsi_encode_stat(body, "
                      + (f"(const kvs_key *){raw(f['key'])})" if f["scope"] else "NULL)"),
    "LEASE": lambda f: f"kvsi_encode_lease(body, {keys_of(f)}, {ids_of(f['released'])}, "
                       f"{f['lease_ms']}u)",
    "RELEASE": lambda f: f"kvsi_encode_release(body, {ids_of(f['leases'])})",
    "COMMIT": lambda f: f"kvsi_encode_commit(body, {f['reservation_id']}u, {f['checksum']}u)",
    "ABORT": lambda f: f"kvsi_encode_abort(body, {f['reservation_id']}u)",
}


def request(vector):
    make = BODIES.get(vector["verb"])
    body = make and make(vector["fields"])
    if body is None:
        return None  # nothing that this client says
    return (f"    byte_count = {body};\n    check_request({frame_of(vector)}, "
            f"KVSI_{vector['verb']}, {vector['request_id']}u, {vector['deadline_ms']}u, "
            f"{vector['payload_byte_count']}u, body, byte_count);")


def description(fields):
    return (f"{fields['chunk_byte_count']}u, {fields['checksum']}u, {raw(fields['layout'])}, "
            f"{fields['time_to_live_ms']}u, {fields['level']}")


def lookup_records(fields):
    return "(const kvs_lookup_record[]){" + ", ".join(
        f"{{{r['status']}, {r['tier']}, {r['level']}, 0, {r['load_us']}u, 0, "
        f"{r['chunk_byte_count']}u, {r['time_to_live_ms']}u}}"
        for r in fields["records"]) + f"{'' if fields['records'] else '{0}'}}}, " \
        f"{len(fields['records'])}"


def lease_records(fields):
    return "(const struct lease_record[]){" + ", ".join(
        f"{{{r['status']}, {r['lease_id']}u, {r['arena_offset']}u, {r['chunk_byte_count']}u, "
        f"{r['checksum']}u, {r['time_to_live_ms']}u}}"
        for r in fields["records"]) + f"{'' if fields['records'] else '{0}'}}}, " \
        f"{len(fields['records'])}"


def stat_pairs(fields):
    kept = [pair for pair in fields["pairs"] if len(pair["name"].encode()) < 64]
    return "(const kvs_stat_pair[]){" + ", ".join(
        f"{{{literal(pair['name'].encode())}, {pair['value']}u}}"
        for pair in kept) + f"{'' if kept else '{{0}, 0}'}}}, {len(kept)}"


def answer(vector):
    head, verb, f = frame_of(vector), vector["verb"], vector["fields"]
    if verb not in BODIES:
        return None  # an answer to what this client never says
    common = f"{head}, KVSI_{verb}, {vector['request_id']}u"
    if vector["status"] != "ok":
        index = f.get("index", -1)
        text = literal(f["error_text"].encode())
        return (f"    check_refusal({common}, {vector['status_number']}, {index}, {text}, "
                f"{int(vector['closes'])});")
    if verb in EMPTY:
        return f"    check_empty({common});"
    if verb == "HELLO":
        return (f"    check_hello({head}, &(const struct kvsi_hello){{{f['granted_features']}u, "
                f"{{{', '.join(str(b) for b in bytes.fromhex(f['secret']))}}}, {f['node_id']}u, "
                f"{f['body_byte_count_limit']}u, {f['batch_key_count_limit']}u, "
                f"{f['chunk_byte_count_limit']}u, {f['lease_ms_limit']}u, "
                f"{f['arena_byte_count']}u, {f['staging_byte_count_limit']}u}});")
    if verb == "GET" or vector["scope"] == 1:
        payload = vector["payload_byte_count"] if verb == "GET" else 0
        return f"    check_chunk({common}, {payload}u, {f['index']}, {description(f)});"
    if verb == "LOOKUP":
        return f"    check_lookup({head}, {f['prefix_count']}, {lookup_records(f)});"
    if verb in ("DELETE", "PIN", "UNPIN"):
        listed = ", ".join(f"{status}" for status in f["statuses"])
        return (f"    check_statuses({common}, (const int[]){{{listed}}}, "
                f"{len(f['statuses'])});")
    if verb == "STAT":
        return f"    check_stat({head}, {stat_pairs(f)});"
    if verb == "LEASE":
        return f"    check_lease({head}, {f['expiry_ns']}u, {lease_records(f)});"
    if verb == "RELEASE":
        return f"    check_release({head}, {f['released_count']}u);"
    return (f"    check_reserve({head}, {f['reservation_id']}u, {f['staging_offset']}u, "
            f"{f['staging_byte_count']}u, {f['expiry_ns']}u);")


def bad_answer(vector):
    frame = bytes.fromhex(vector["frame"])
    numbers = {0x01, 0x02, 0x10, 0x11, 0x12, 0x13, 0x14, 0x20, 0x21, 0x22, 0x23, 0x24, 0x30, 0x31}
    if frame[5] == 0x60:
        return None  # an answer to what this client never says
    verb = frame[5] if frame[5] in numbers else 0x02
    return (f"    check_bad({frame_of(vector)}, {vector['zeros']}, {verb}, {vector['scope']}, "
            f"{vector.get('range_byte_count', 0)}u);")


def layout(vector):
    lines, fields = [], []
    for index, field in enumerate(vector["fields"]):
        if "double_bits" in field:
            value = struct.unpack("<d", struct.pack("<Q", field["double_bits"]))[0]
            lines.append(f"    number({float.hex(value)}, numbers[{index}]);")
            fields.append(f"{{{literal(field['name'].encode())}, numbers[{index}]}}")
        else:
            text = str(field["whole"]) if "whole" in field else field["text"]
            fields.append(f"{{{literal(field['name'].encode())}, {literal(text.encode())}}}")
    listed = ", ".join(fields) or "{0}"
    lines.append(f"    check_layout({literal(vector['name'].encode())}, "
                 f"(const kvs_layout_field[]){{{listed}}}, {len(fields)}, {raw(vector['id'])});")
    return "\n".join(lines)


def tokens_of(vector):
    listed = ", ".join(f"{token}u" for token in vector["tokens"]) or "0"
    return f"(const uint32_t[]){{{listed}}}, {len(vector['tokens'])}"


def prefix(vector):
    return (f"    check_prefix({literal(vector['name'].encode())}, {raw(vector['secret'])}, "
            f"{raw(vector['layout'])}, {tokens_of(vector)}, {vector['tokens_per_chunk']}, "
            f"{raw(''.join(vector['keys']))}, {len(vector['keys'])});")


def single(vector):
    name, secret, key = literal(vector["name"].encode()), raw(vector["secret"]), raw(vector["key"])
    if vector["opaque_name"] is not None:
        count = len(vector["opaque_name"]) // 2
        return f"    check_opaque({name}, {secret}, {raw(vector['opaque_name'])}, {count}, {key});"
    return (f"    check_content({name}, {secret}, {raw(vector['layout'])}, {tokens_of(vector)}, "
            f"{key});")


FILES = {
    "wire/requests": request, "wire/answers": answer, "wire/bad-answers": bad_answer,
    "key/layouts": layout, "key/prefixes": prefix, "key/singles": single,
}


CODEC_VECTORS = {
    "scalar: escapes alone": "far", "scalar: row codes of K, float32": "coded",
    "scalar: embedded": "embedded",
}


def codec_vector(vector):
    """A container with one layer in mode scalar, and what finishes its symbols: means, steps and
    the level's step. docs/container-format.md, sections 2 and 11, say where they stand."""
    container, profile = bytes.fromhex(vector["container"]), bytes.fromhex(vector["profile"])
    offset, byte_count = struct.unpack_from("<II", container, 64)
    parts, items = [container[offset:offset + byte_count], profile, container], {}
    for index in range(struct.unpack_from("<I", profile, 12)[0]):
        offset, byte_count, _, of_layer, kind, item = struct.unpack_from(
            "<IIIHBB", profile, 64 + 16 * index)
        items[item, of_layer, kind] = profile[offset:offset + byte_count]
    mode, level = container[9], container[12]
    levels = struct.iter_unpack("<BBBBf24s", items[2, 0, 0])
    step = next(each[4] for each in levels if each[:2] == (level, mode))
    columns = [f"{{{', '.join(literal(items[item, 0, kind]) for kind in range(2))}}}"
               for item in (17, 18)]
    fields = [f"{literal(part)}, {len(part)}" for part in parts]
    return (f"static const struct codec_vector {CODEC_VECTORS[vector['name']]}_vector = {{\n    "
            + ",\n    ".join([*fields, *columns, f"{float.hex(step)}f"]) + "};")


def write_codec_vectors(folder, output):
    vectors = json.loads((folder / "container/good-profile.json").read_text(encoding="utf-8"))
    made = [codec_vector(each) for each in vectors if each["name"] in CODEC_VECTORS]
    assert len(made) == len(CODEC_VECTORS)
    output.write_text("\n".join(["// Made by Tests/C/make_vectors.py.", *made, ""]),
                      encoding="utf-8")


def main():
    folder, output = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    lines = ["// Made by Tests/C/make_vectors.py.", "static void run_vectors(void) {",
             "    static uint8_t body[KVSI_BODY_BYTE_COUNT_MAXIMUM];",
             "    static char numbers[64][KVS_NUMBER_BYTE_COUNT];", "    size_t byte_count = 0;"]
    for name, translate in FILES.items():
        vectors = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        made = [translate(vector) for vector in vectors]
        lines += [line for line in made if line is not None]
        skipped = made.count(None)
        print(f"  vectors {name}: {len(made) - skipped}"
              + (f", and {skipped} that this client never says" if skipped else ""))
    lines.append("}\n")
    (output / "vectors.h").write_text("\n".join(lines), encoding="utf-8")
    write_codec_vectors(folder, output / "codec_vectors.h")


if __name__ == "__main__":
    main()
