# SPDX-License-Identifier: Apache-2.0
"""Both readers of the SSD format say the same: kvctl ($KVCTL, or that of the debug build), and the
second reader."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
KVCTL = os.environ.get("KVCTL", str(HERE.parent.parent / ".build" / "debug" / "kvctl"))
sys.path.insert(0, str(HERE))

import damage  # noqa: E402
import ssd_inspection  # noqa: E402
import ssd_stores  # noqa: E402
import ssd_writer  # noqa: E402

NAMES = sorted(path.stem for path in (HERE / "ssd").glob("*.store"))


def text(name):
    return (HERE / "ssd" / f"{name}.store").read_text()


def kvctl(command, directories, *options):
    return subprocess.run(
        [KVCTL, "ssd", command, *directories, *options], capture_output=True, text=True,
        timeout=120)


def inspected(directories):
    return kvctl(
        "inspect", directories, "--json", "--verify", "--recover", "--now",
        str(ssd_stores.NOW_MS))


@pytest.mark.parametrize("name", NAMES)
def test_a_vector(name, tmp_path):
    result = inspected(ssd_writer.unpack(text(name), tmp_path))
    expected = (HERE / "ssd" / f"{name}.jsonl").read_text()
    assert result.stdout == expected
    assert result.returncode == (5 if '"type": "fault"' in expected else 0), result.stderr


@pytest.mark.parametrize("seed", range(200))
def test_random_damage(seed, tmp_path):
    files = damage.damaged(1_000 + seed, text)
    directories = ssd_writer.unpack(ssd_writer.text_of(files), tmp_path)
    inspection = ssd_inspection.Inspection(
        directories, verifies=True, recovers=True, now_ms=ssd_stores.NOW_MS)
    expected = "".join(f"{json.dumps(line)}\n" for line in inspection.lines())
    assert inspected(directories).stdout == expected, seed


def test_files_that_cannot_be_read(tmp_path):
    directories = ssd_writer.unpack(text("examples"), tmp_path)
    path = pathlib.Path(directories[0])
    os.mkfifo(path / "segment-00001.kvs")
    (path / "segment-00002.kvs").mkdir()
    (path / "segment-00003.kvs").symlink_to("nowhere")
    (path / "segment-0004.kvs").write_text("not a segment's name")
    (path / "checkpoint.kvs").unlink()
    (path / "checkpoint.kvs").mkdir()
    (tmp_path / "other" / "store.kvs").mkdir(parents=True)
    everything = [directories[0], str(tmp_path / "absent"), str(tmp_path / "other")]
    inspection = ssd_inspection.Inspection(everything, verifies=True, recovers=True, now_ms=1)
    expected = "".join(f"{json.dumps(line)}\n" for line in inspection.lines())
    result = kvctl("inspect", everything, "--json", "--verify", "--recover", "--now", "1")
    assert result.stdout == expected
    assert result.returncode == 7


def test_one_segment(tmp_path):
    directories = ssd_writer.unpack(text("good"), tmp_path)
    expected = "".join(
        f"{json.dumps(line)}\n" for line in ssd_inspection.Inspection(directories, 1).lines())
    assert kvctl("inspect", directories, "--json", "--segment", "1").stdout == expected
