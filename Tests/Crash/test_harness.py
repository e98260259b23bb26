# SPDX-License-Identifier: Apache-2.0
"""The crash test against a store that lies: each lie is found, and the truth is not called one."""
import pathlib
import re
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).resolve().parent
LAST_LINE = re.compile(
    r"crash: kills=(\d+) wrong_bytes=(\d+) lost_durable=(\d+) resurrected=(\d+)")


def crash_test(folder, lie, runs):
    """Exit status, output, and the numbers of the last line."""
    done = subprocess.run(
        [sys.executable, FOLDER / "crash.py", "--runs", str(runs), "--seed", "3", "--failures", "1",
         "--runs-per-store", "10", "--work", folder, "--kvstored", FOLDER / "liar.py", "--",
         "--lie", lie],
        capture_output=True, text=True, timeout=300, check=False)
    last = LAST_LINE.fullmatch(done.stdout.splitlines()[-1])
    assert last, done.stdout + done.stderr
    numbers = dict(zip(("kills", "wrong_bytes", "lost_durable", "resurrected"),
                       map(int, last.groups())))
    return done.returncode, done.stdout, numbers


def test_the_truth_passes(tmp_path):
    status, output, numbers = crash_test(tmp_path, "none", 4)
    assert status == 0, output
    assert numbers == {"kills": 4, "wrong_bytes": 0, "lost_durable": 0, "resurrected": 0}
    assert "FAILED" not in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("lie", "findings"), [
    ("forgets", ["lost_durable"]),
    # A deletion that is lost brings back what it deleted.
    ("late", ["lost_durable", "resurrected"]),
    ("undead", ["resurrected"]),
    ("damage", ["wrong_bytes"]),
    ("neighbours", ["wrong_bytes"]),
    ("immortal", ["wrong_bytes"]),
    # It depends on who asks first: a PUT or a GET.
    ("torn", ["wrong_bytes", "resurrected"]),
    ("stale", ["resurrected"]),
    ("dies", []),
])
def test_a_lie_is_found(tmp_path, lie, findings):
    status, output, numbers = crash_test(tmp_path, lie, 60)
    assert status == 1, output
    assert not findings or sum(numbers[finding] for finding in findings) > 0, output
    assert findings or "the daemon ended by itself: 3" in output
    assert "FAILED: seed 3" in output
    # What is needed to look into it stays.
    (kept,) = tmp_path.iterdir()
    assert f"kept: {kept}" in output
    assert (kept / "log").exists()
