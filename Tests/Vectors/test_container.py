# SPDX-License-Identifier: Apache-2.0
"""Tests of the second reader of containers, and of docs/container-format.md against the vectors."""

import json
import pathlib
import random
import re
import subprocess
import sys

import numpy
import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))

import container_cases  # noqa: E402
from container_layout import Fault  # noqa: E402
from container_methods import narrow, widen  # noqa: E402
from container_reader import decode  # noqa: E402

PAGE = (ROOT / "docs" / "container-format.md").read_text()


def vectors(name):
    return json.loads((HERE / "container" / f"{name}.json").read_text())


GOOD = vectors("good") + vectors("good-profile")
BAD = vectors("bad")


def content(vector):
    return bytes.fromhex(vector["container"])


def profile(vector):
    return bytes.fromhex(vector["profile"]) if vector["profile"] else None


def run(*arguments):
    return subprocess.run(
        [sys.executable, ROOT / "dev" / "container-inspect", *arguments], capture_output=True,
        text=True, timeout=120)


@pytest.mark.parametrize("vector", GOOD, ids=lambda vector: vector["name"])
def test_no_cut_and_no_flipped_bit_is_decoded_or_crashes(vector):
    source = random.Random(vector["name"])
    whole = content(vector)
    cuts = [source.randrange(len(whole)) for _ in range(3)]
    for cut in cuts:
        with pytest.raises(Fault):
            decode(whole[:cut], profile(vector))
    for _ in range(8):
        at = source.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[at] ^= 1 << source.randrange(8)
        try:
            # Only what stands between sections may change and nobody look at it.
            decode(bytes(damaged), profile(vector))
            assert whole[at] == 0
        except Fault:
            pass


def test_the_page_lists_every_fault_and_the_vectors_show_it():
    table = PAGE.split("## 14. Damage")[1].split("## 15.")[0]
    listed = set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE))
    assert {vector["fault"] for vector in BAD} == listed


def rows(block):
    for line in block.splitlines():
        # An offset, twice eight bytes, and what they are.
        yield int(line[:5], 16), bytes.fromhex(line[7:30] + line[32:55])


def test_the_examples_of_the_page_are_vectors():
    examples = re.findall(r"```hex ([^\n]+)\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) >= 2
    by_name = {vector["name"]: content(vector) for vector in GOOD}
    for name, block in examples:
        shown = bytearray(len(by_name[name]))
        for offset, row in rows(block):
            shown[offset:offset + len(row)] = row
        assert bytes(shown) == by_name[name], name


@pytest.mark.parametrize("dtype", [1, 2, 4, 5])
def test_every_finite_value_comes_back_from_a_float(dtype):
    bits = numpy.arange(1 << (16 if dtype < 3 else 8), dtype=numpy.uint32)
    magnitude = bits & (0x7fff if dtype < 3 else 0x7f)
    finite = bits[magnitude <= {1: 0x7bff, 2: 0x7f7f, 4: 0x7e, 5: 0x7b}[dtype]]
    assert numpy.array_equal(narrow(widen(finite, dtype), dtype), finite)


def test_the_command_tells_what_is_in_a_container(tmp_path):
    vector = next(each for each in GOOD if each["name"] == "cachegen: exact rows")
    (tmp_path / "chunk").write_bytes(content(vector))
    result = run(tmp_path / "chunk", "--json", "--payload", tmp_path / "payload")
    assert (result.returncode, result.stderr) == (0, "")
    said = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["type"] for line in said] == ["container"] + ["section"] * 5 + ["payload"]
    assert said[0]["mode"] == "cachegen"
    assert said[-1]["sha256"] == vector["payload_sha256"]
    assert (tmp_path / "payload").read_bytes().hex() == vector["payload"]


def test_the_command_reports_a_fault(tmp_path):
    (tmp_path / "chunk").write_bytes(b"not a container, though long enough to be one" * 2)
    result = run(tmp_path / "chunk")
    assert result.returncode == 1
    assert result.stdout == "fault: what magic\n"


def test_the_vectors_are_those_that_the_cases_make():
    files = container_cases.files()
    assert {name for name in files} == {
        f"container/{path.name}" for path in (HERE / "container").glob("*.json")}
