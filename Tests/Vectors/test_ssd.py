# SPDX-License-Identifier: Apache-2.0
"""Tests of the second reader of the SSD format, and of docs/ssd-format.md against the vectors."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))

import damage  # noqa: E402
import ssd_inspection  # noqa: E402
import ssd_stores  # noqa: E402
import ssd_writer  # noqa: E402

NAMES = sorted(path.stem for path in (HERE / "ssd").glob("*.store"))
PAGE = (ROOT / "docs" / "ssd-format.md").read_text()
# Damages that leave nothing to report: what they spoil is of an earlier life.
SILENT = {"trailer-of-earlier-life", "record-of-earlier-life", "segment-blank",
          "checkpoint-coverage"}
SOUND = {
    "examples", "good", "two-directories", "full-notes", "many-stripes", "empty-checkpoint",
    "hole", "pins", "imitated-record", "rest-of-block",
}


def text(name):
    return (HERE / "ssd" / f"{name}.store").read_text()


def expected(name):
    return (HERE / "ssd" / f"{name}.jsonl").read_text()


def inspect(directories):
    return list(ssd_inspection.Inspection(
        directories, verifies=True, recovers=True, now_ms=ssd_stores.NOW_MS).lines())


def run(*arguments):
    return subprocess.run(
        [sys.executable, ROOT / "dev" / "ssd-inspect", *arguments], capture_output=True, text=True,
        timeout=120)


@pytest.mark.parametrize("name", ["good", "two-directories", "record-torn", "identity-missing"])
def test_the_command_prints_what_the_vectors_expect(name, tmp_path):
    directories = ssd_writer.unpack(text(name), tmp_path)
    result = run(*directories, "--json", "--verify", "--recover", "--now", str(ssd_stores.NOW_MS))
    assert result.stdout == expected(name)
    assert result.stderr == ""
    assert result.returncode == (0 if name in SOUND else 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_damage_is_reported_and_soundness_is_not(name):
    faults = [line for line in map(json.loads, expected(name).splitlines())
              if line["type"] == "fault"]
    assert (faults == []) == (name in SOUND | SILENT)


@pytest.mark.parametrize("name", NAMES)
def test_the_text_form_loses_nothing(name):
    assert ssd_writer.text_of(ssd_writer.files_of(text(name))) == text(name)


def test_the_page_lists_every_fault_and_the_vectors_show_it():
    table = PAGE.split("## 9. Damage")[1].split("## 10.")[0]
    listed = set()
    for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
        listed |= set(re.findall(r"`([a-z-]+)`", row))
    seen = {line["what"] for name in NAMES for line in map(json.loads, expected(name).splitlines())
            if line["type"] == "fault"}
    assert seen <= listed
    # A file cannot be made that the device does not give; tested below as far as it goes.
    assert {what for what in listed - seen if "unreadable" not in what} == set()


def test_the_page_lists_every_field():
    table = PAGE.split("## 11. Output")[1].split("Order:")[0]
    fields = {}
    for kind, row in re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", table, re.MULTILINE):
        row = re.sub(r"\([^)]*\)", "", row)
        fields.setdefault(kind, []).append(["type", *re.findall(r"`([a-z_]+)`", row)])
    seen = set()
    for name in NAMES:
        for line in map(json.loads, expected(name).splitlines()):
            assert list(line) in fields[line["type"]], line
            seen.add(line["type"])
    assert seen == set(fields) - {"type"}


def test_the_examples_of_the_page_are_those_of_the_vector():
    files = ssd_writer.files_of(text("examples"))
    fences = re.findall(r"^```hex (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(fences) == 6
    for path, content in fences:
        shown = {}
        for row in content.splitlines():
            offset, first, second = re.match(
                r"([0-9a-f]{5})  ((?:[0-9a-f]{2} ?){8}) ((?:[0-9a-f]{2} ?){8})", row).groups()
            shown[int(offset, 16)] = bytes.fromhex(first + second)
        for block in {offset // ssd_writer.BLOCK for offset in shown}:
            start = block * ssd_writer.BLOCK
            for at in range(start, start + ssd_writer.BLOCK, 16):
                assert shown.get(at, bytes(16)) == files[path][at : at + 16], (path, hex(at))


def test_what_cannot_be_read_is_a_fault(tmp_path):
    directories = ssd_writer.unpack(text("examples"), tmp_path)
    path = pathlib.Path(directories[0])
    os.mkfifo(path / "segment-00001.kvs")
    (path / "segment-00002.kvs").mkdir()
    (path / "segment-00003.kvs").symlink_to("nowhere")
    (path / "segment-0004.kvs").write_text("not a segment's name")
    (path / "checkpoint.kvs").unlink()
    (path / "checkpoint.kvs").mkdir()
    absent = tmp_path / "absent"
    unreadable = tmp_path / "unreadable"
    (unreadable / "store.kvs").mkdir(parents=True)
    lines = inspect([directories[0], str(absent), str(unreadable)])
    faults = [(line["what"], line["directory"], line["segment"]) for line in lines
              if line["type"] == "fault"]
    assert faults == [
        *(("segment-unreadable", 0, slot) for slot in (1, 2, 3)),
        ("checkpoint-unreadable", 0, None), ("directory-unreadable", 1, None),
        ("identity-unreadable", 2, None),
    ]
    assert lines[-2]["type"] == "recovered"


def test_a_segment_of_one_slot(tmp_path):
    directories = ssd_writer.unpack(text("good"), tmp_path)
    lines = run(*directories, "--json", "--segment", "1").stdout.splitlines()
    segments = {line.get("segment") for line in map(json.loads, lines)} - {None}
    assert segments == {1}
    assert not any("checkpoint" in line for line in lines)


def test_the_readable_form_says_the_same(tmp_path):
    result = run(*ssd_writer.unpack(text("examples"), tmp_path))
    lines = result.stdout.splitlines()
    assert result.returncode == 0
    assert lines[1].startswith("segment: directory 0, segment 0, state sealed, serial 1, nonce 81")
    assert len(lines) == len(expected("examples").splitlines()) - 1


def test_a_wrong_command_line_has_a_status_of_its_own(tmp_path):
    assert run().returncode == 2
    assert run(tmp_path, "--segment", "-1").returncode == 2
    assert run(tmp_path, "--now", str(1 << 64)).returncode == 2


@pytest.mark.parametrize("seed", range(300))
def test_no_damage_stops_the_reader(seed, tmp_path):
    files = damage.damaged(seed, text)
    lines = inspect(ssd_writer.unpack(ssd_writer.text_of(files), tmp_path))
    for line in lines:
        json.dumps(line)
    assert lines[-1]["type"] == "summary", seed
    assert lines[-1]["faults"] == sum(line["type"] == "fault" for line in lines), seed
