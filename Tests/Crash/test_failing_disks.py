# SPDX-License-Identifier: Apache-2.0
"""The real daemon on disks that fail under it, or are not what it would like them to be.

It says so, tells the operator which directory, serves from memory and from the other disks, and
nobody is told that something is durable which is not.
"""
import contextlib
import shutil
import subprocess
import time

import pytest
from frames import EXISTS, NOT_DURABLE, NOT_FOUND, OK
from node import Node, abort, mount_command, mounted, shut_down, state_of

SOME = range(20)
WAIT_SECONDS_MAX = 60.0
FAILURES = [
    pytest.param("ext4", shut_down, id="ext4 is gone"),
    pytest.param("xfs", shut_down, id="xfs is gone"),
    pytest.param("ext4", abort, id="ext4 turns read-only"),
]
# To be loaded before the C library.
WITHOUT_DIRECT_IO = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

/* As where a file system has no O_DIRECT: the file may be made, and is not opened. */
int openat(int directory, const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    unsigned mode = flags & O_CREAT ? va_arg(arguments, unsigned) : 0;
    va_end(arguments);
    long file = syscall(SYS_openat, directory, path, flags & ~O_DIRECT, mode);
    if (file < 0 || !(flags & O_DIRECT)) return (int)file;
    close((int)file);
    errno = EINVAL;
    return -1;
}
int openat64(int directory, const char *path, int flags, ...)
    __attribute__((alias("openat")));
"""


@pytest.fixture
def folder(tmp_path):
    """A folder for the daemon's own files."""
    return tmp_path / "daemon"


@contextlib.contextmanager
def directory_on(tmp_path, kind):
    """A directory for the SSD tier on a file system of its own."""
    with mounted(tmp_path, kind, 400) as place:
        directory = place / "ssd"
        directory.mkdir()
        yield place, directory


def mount_again(tmp_path, kind):
    """As an operator does when the device is back."""
    subprocess.run(["umount", tmp_path / f"mount-{kind}"], check=True)
    subprocess.run(mount_command(tmp_path, kind), check=True)


def wait(what, condition):
    end = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < end, f"{what} does not come about"
        time.sleep(0.01)


def tells_of_fault(node, directory):
    """Whether log and metrics say that this directory, and no other, failed."""
    wait("a failed directory", lambda: node.counters()["ssd_directories_failed"] == 1)
    wait("a line in the log", lambda: node.events("ssd_fault"))
    faults = node.events("ssd_fault")
    assert {(fault["level"], fault["path"]) for fault in faults} == {("error", str(directory))}
    reasons = ("Input/output error", "Read-only file system")
    assert all(any(reason in fault["message"] for reason in reasons) for fault in faults)
    return node.counters()["ssd_write_faults"] > 0


# --- Disks that fail under it -------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "fail"), FAILURES)
def test_one_of_two_disks_fails(folder, tmp_path, kind, fail):
    other = tmp_path / "other"
    other.mkdir()
    with directory_on(tmp_path, kind) as (place, directory):
        with Node(folder, [directory, other], capacity="128MiB") as node:
            # More than memory holds.
            assert node.put(range(400)) == {OK}
            fail(place)
            # There is another disk: nobody notices anything but misses.
            assert node.put(range(400, 440)) == {OK}
            assert tells_of_fault(node, directory)
            assert len(node.found(range(400))) >= 200
            assert node.found(range(400, 440)) == set(range(400, 440))
            assert node.delete([401]) == {OK}
        mount_again(tmp_path, kind)
        with Node(folder, [directory, other], capacity="128MiB") as node:
            assert node.counters()["ssd_directories_failed"] == 0
            assert node.found(range(440)) == set(range(440)) - {401}
            assert node.put(range(500, 520)) == {OK}


@pytest.mark.parametrize(("kind", "fail"), FAILURES)
def test_the_only_disk_fails(folder, tmp_path, kind, fail):
    with directory_on(tmp_path, kind) as (place, directory):
        with Node(folder, [directory]) as node:
            assert node.put(SOME) == {OK}
            fail(place)
            wait("a fault", lambda: node.put([len(node.events()) + 1_000]) == {NOT_DURABLE})
            assert tells_of_fault(node, directory)
            # Memory goes on.
            assert node.found(SOME) == set(SOME)
            assert node.put([2_000], is_durable=False) == {OK}
            assert node.found([2_000]) == {2_000}
            # A deletion holds, and is not said to hold over a restart.
            assert node.delete([3]) == {NOT_DURABLE}
            assert node.found([3]) == set()
        mount_again(tmp_path, kind)
        with Node(folder, [directory]) as node:
            assert node.found(SOME) >= set(SOME) - {3}
            assert node.put([3_000]) == {OK}


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_disk_that_stands_still_is_waited_for(folder, tmp_path, kind):
    with directory_on(tmp_path, kind) as (place, directory):
        with Node(folder, [directory]) as node:
            assert node.put(SOME) == {OK}
            subprocess.run(["fsfreeze", "--freeze", place], check=True)
            try:
                assert node.put([100], is_durable=False) == {OK}
                assert node.found([*SOME, 100]) == {*SOME, 100}
            finally:
                subprocess.run(["fsfreeze", "--unfreeze", place], check=True)
            assert node.put([100, 101]) <= {OK, EXISTS}
            assert not node.events("ssd_fault")
        with Node(folder, [directory]) as node:
            assert node.found([*SOME, 100, 101]) == {*SOME, 100, 101}


def test_a_mount_that_is_taken_away_is_used_to_the_end(folder, tmp_path):
    with directory_on(tmp_path, "ext4") as (place, directory):
        with Node(folder, [directory]) as node:
            assert node.put(SOME) == {OK}
            subprocess.run(["umount", "--lazy", place], check=True)
            try:
                assert not directory.exists()
                assert node.put(range(100, 120)) == {OK}
                node.kill()
            finally:
                # Once the daemon has ended the device is free, though not at once.
                wait("a free device", lambda: subprocess.run(
                    mount_command(tmp_path, "ext4"), capture_output=True,
                    check=False).returncode == 0)
        with Node(folder, [directory]) as node:
            assert node.found([*SOME, *range(100, 120)]) == {*SOME, *range(100, 120)}


# --- Without O_DIRECT ---------------------------------------------------------------------------


@pytest.fixture
def without_direct_io(tmp_path, monkeypatch):
    """Daemons that start meanwhile find no O_DIRECT."""
    if shutil.which("cc") is None:
        pytest.skip("NOT TESTED: needs cc")
    source, library = tmp_path / "shim.c", tmp_path / "shim.so"
    source.write_text(WITHOUT_DIRECT_IO)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    with monkeypatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(library))
        yield


@pytest.mark.usefixtures("without_direct_io")
def test_without_direct_io_it_goes_through_the_cache_or_not_at_all(folder, tmp_path):
    directory = tmp_path / "ssd"
    directory.mkdir()
    refusing = ["--ssd-direct-io", "require"]
    with Node(folder, [directory], more=refusing) as node:
        (event,) = node.events("ssd_unavailable")
        assert (event["level"], event["path"]) == ("error", str(directory))
        assert "no O_DIRECT" in event["message"] and "direct_io" in event["message"]
        assert node.counters()["ssd_directories_failed"] == 1
        assert node.put(SOME) == {NOT_DURABLE}
        assert node.found(SOME) == set(SOME)
    with Node(folder, [directory]) as node:
        (event,) = node.events("ssd_buffered_io")
        assert (event["level"], event["path"]) == ("warning", str(directory))
        assert node.put(SOME) == {OK}
        assert node.delete([5, 999]) == {OK, NOT_FOUND}
        node.churn(40 << 20)
        assert node.put(range(100, 120)) == {OK}
        node.kill()
    with Node(folder, [directory], more=["--ssd-direct-io", "off"]) as node:
        assert not node.events("ssd_buffered_io"), "it was asked for"
        assert node.found(range(100, 120)) == set(range(100, 120))
    before = {path: state_of(path) for path in directory.iterdir() if path.name != "lock"}
    with Node(folder, [directory], more=refusing) as node:
        assert node.events("ssd_unavailable")
        assert node.put(SOME) == {NOT_DURABLE}
    assert before == {
        path: state_of(path) for path in directory.iterdir() if path.name != "lock"}


def test_a_file_system_that_can_do_neither(folder, tmp_path):
    """ramfs has no O_DIRECT, and does not reserve space."""
    place = tmp_path / "mount-ramfs"
    place.mkdir()
    command = ["mount", "-t", "ramfs", "none", place]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("NOT TESTED: this system refuses to mount")
    try:
        with Node(folder, [place]) as node:
            assert node.events("ssd_buffered_io")
            assert node.put(SOME) == {NOT_DURABLE}
            assert node.found(SOME) == set(SOME)
            (event,) = node.events("ssd_disk_full")
            assert (event["level"], event["path"]) == ("warning", str(place))
    finally:
        subprocess.run(["umount", place], check=True)
