# SPDX-License-Identifier: Apache-2.0
"""The real daemon on directories as operators and accidents leave them.

Whatever a directory is like: the daemon serves, says what is wrong, returns no wrong bytes, and
leaves alone what is not its own.
"""
import contextlib
import os
import shutil
import struct

import pytest
from daemon import DaemonFault
from frames import EXISTS, NOT_DURABLE, NOT_FOUND, OK, checksum
from node import BLOCK, Node, key_of, mounted, read_only, segments, state_of

SOME = range(20)
MORE = range(100, 180)
CAPACITY_BYTE_COUNT = 64 << 20


@pytest.fixture
def folder(tmp_path):
    """A folder for the daemon's own files."""
    return tmp_path / "daemon"


@pytest.fixture
def directory(tmp_path):
    """An empty directory for the SSD tier."""
    made = tmp_path / "ssd"
    made.mkdir()
    return made


def set_version(path, version):
    """Gives the first block of a file another version, and the checksum that belongs to it."""
    with open(path, "r+b") as file:
        data = bytearray(file.read(BLOCK))
        data[8:12] = struct.pack("<I", version)
        data[-8:] = struct.pack("<Q", checksum(bytes(data[:-8])))
        file.seek(0)
        file.write(data)


def serves_from_memory_alone(node):
    """Chunks are kept, and nobody is told that they are durable."""
    assert node.put(MORE) == {NOT_DURABLE}
    assert node.found(MORE) == set(MORE)
    assert node.put([200], is_durable=False) == {OK}
    return True


# --- Sound directories --------------------------------------------------------------------------


def test_what_is_durable_outlives_kills(folder, directory):
    with Node(folder, [directory]) as node:
        assert node.put(SOME) == {OK}
        assert node.put(SOME) == {EXISTS}
        assert node.put(MORE, is_durable=False) == {OK}
        assert node.delete([3, 4, 999]) == {OK, NOT_FOUND}
        node.kill()
    with Node(folder, [directory]) as node:
        assert not node.events("ssd_unavailable")
        assert node.found(SOME) == set(SOME) - {3, 4}
        node.found(MORE)
        assert node.delete([5]) == {OK}
        node.kill()
    with Node(folder, [directory]) as node:
        assert node.found(SOME) == set(SOME) - {3, 4, 5}


@pytest.mark.parametrize("is_durable", [True, False])
def test_a_clean_stop_keeps_everything(folder, directory, is_durable):
    with Node(folder, [directory]) as node:
        assert node.put(SOME, is_durable) == {OK}
    with Node(folder, [directory]) as node:
        assert node.found(SOME) == set(SOME)


def test_directories_share_what_there_is(folder, tmp_path):
    directories = [tmp_path / "one", tmp_path / "two"]
    for directory in directories:
        directory.mkdir()
    with Node(folder, directories) as node:
        assert node.put(MORE) == {OK}
    assert all(map(segments, directories))
    # Their order is not part of what they are.
    with Node(folder, directories[::-1]) as node:
        assert node.found(MORE) == set(MORE)


# --- Files that are not the daemon's ------------------------------------------------------------


def test_files_of_others_are_left_alone(folder, directory):
    others = [directory / name for name in (
        "notes.txt", "segment-00000.kvs.bak", "segment-0.kvs", "segment-00001", "lost+found/x")]
    for other in others:
        other.parent.mkdir(exist_ok=True)
        other.write_bytes(os.urandom(10_000))
    before = list(map(state_of, others))
    with Node(folder, [directory]) as node:
        assert node.put(SOME) == {OK}
        assert node.pin(SOME) == {OK}
        node.churn(CAPACITY_BYTE_COUNT * 5 // 4)
    with Node(folder, [directory]) as node:
        assert node.found(SOME) == set(SOME)
    assert list(map(state_of, others)) == before


def in_use(directory):
    """The segments that have records."""
    return [path for path in segments(directory)
            if path.read_bytes()[:16] == b"KVSSEGMT" + struct.pack("<II", 1, 1)]


def overwrite(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def test_foreign_segments_are_left_alone(folder, directory, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for place, number in ((other, 1_000), (directory, 2_000)):
        with Node(folder, [place]) as node:
            assert node.put(range(number, number + 200)) == {OK}
    paths = in_use(directory)[:5]
    of_another_store, older, newer, cut_short, without_magic = paths
    shutil.copyfile(in_use(other)[0], of_another_store)
    set_version(older, 0)
    set_version(newer, 2)
    os.truncate(cut_short, cut_short.stat().st_size // 2)
    overwrite(without_magic, 0, b"?")
    before = list(map(state_of, paths))
    with Node(folder, [directory]) as node:
        for path in paths:
            assert node.says(path.name)
        assert node.counters()["ssd_foreign_files"] == len(paths)
        assert node.found(range(1_000, 1_200)) == set()
        kept = node.found(range(2_000, 2_200))
        assert 0 < len(kept) < 200
        assert node.put(SOME) == {OK}
        assert node.pin(SOME) == {OK}
        node.churn(CAPACITY_BYTE_COUNT * 5 // 4)
    with Node(folder, [directory]) as node:
        assert node.found(SOME) == set(SOME)
        node.found(sorted(kept))
    assert list(map(state_of, paths)) == before


def test_a_torn_segment_is_used_again(folder, directory):
    with Node(folder, [directory]) as node:
        assert node.put(MORE) == {OK}
    for path in in_use(directory):
        # As a crash leaves a header that was being written.
        overwrite(path, 60, b"????")
    (directory / "checkpoint.kvs").unlink(missing_ok=True)
    with Node(folder, [directory]) as node:
        assert node.found(MORE) == set()
        assert node.put(MORE, round_number=1) == {OK}
        node.kill()
    with Node(folder, [directory]) as node:
        assert node.found(MORE, round_number=1) == set(MORE)


def test_a_segment_that_is_a_folder_or_a_link_is_left_alone(folder, directory, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(bytes(2 << 20))
    (directory / "segment-00000.kvs").mkdir()
    (directory / "segment-00001.kvs").symlink_to(target)
    with Node(folder, [directory]) as node:
        assert node.put(SOME) == {OK}
        assert node.pin(SOME) == {OK}
        node.churn(CAPACITY_BYTE_COUNT)
    assert target.read_bytes() == bytes(2 << 20)
    with Node(folder, [directory]) as node:
        assert node.found(SOME) == set(SOME)


# --- Damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), [
    ("checkpoint.kvs", 0), ("checkpoint.kvs", 3 << 20), ("checkpoint.new", BLOCK)])
def test_a_bad_checkpoint_costs_nothing(folder, directory, name, size):
    with Node(folder, [directory]) as node:
        assert node.put(SOME) == {OK}
        assert node.delete([7]) == {OK}
    (directory / name).write_bytes(os.urandom(size))
    with Node(folder, [directory]) as node:
        assert node.found(SOME) == set(SOME) - {7}


def test_a_stale_checkpoint_does_not_bring_back_what_was_deleted(folder, directory):
    with Node(folder, [directory]) as node:
        assert node.put(SOME) == {OK}
    checkpoint = directory / "checkpoint.kvs"
    stale = checkpoint.read_bytes() if checkpoint.exists() else b""
    with Node(folder, [directory]) as node:
        assert node.delete(range(10)) == {OK}
        node.put(range(5), round_number=1)
        assert node.pin([*range(5), *range(10, 20)]) == {OK}
        node.churn(CAPACITY_BYTE_COUNT)
    checkpoint.write_bytes(stale)
    with Node(folder, [directory]) as node:
        assert node.found(range(5), round_number=1) == set(range(5))
        assert node.found(range(5, 20)) == set(range(10, 20))


def test_damaged_payloads_are_misses(folder, directory):
    with Node(folder, [directory]) as node:
        assert node.put(MORE) == {OK}
    damaged = 0
    for path in segments(directory):
        data = bytearray(path.read_bytes())
        for offset in range(BLOCK * 7, len(data) - BLOCK * 8, 500_000):
            data[offset] ^= 0x40
            damaged += 1
        path.write_bytes(data)
    with Node(folder, [directory]) as node:
        found = node.found(MORE)
        assert found < set(MORE)
        assert len(found) >= len(MORE) - damaged
        # A chunk that was damaged can be stored again.
        node.put(MORE)
        assert node.found(MORE) == set(MORE)
    with Node(folder, [directory]) as node:
        assert node.found(MORE) == set(MORE)


@pytest.mark.parametrize("change", [
    pytest.param(lambda path: path.write_bytes(b""), id="empty"),
    pytest.param(lambda path: path.write_bytes(os.urandom(BLOCK)), id="damaged"),
    pytest.param(lambda path: set_version(path, 2), id="of a later version"),
])
def test_a_directory_without_a_sound_identity_is_left_alone(folder, directory, change):
    with Node(folder, [directory]) as node:
        assert node.put(SOME) == {OK}
    change(directory / "store.kvs")
    files = sorted(path for path in directory.iterdir() if path.name != "lock")
    before = list(map(state_of, files))
    with Node(folder, [directory]) as node:
        assert node.found(SOME) == set()
        assert node.events("ssd_unavailable")
        assert node.counters()["ssd_directories_failed"] == 1
        assert serves_from_memory_alone(node)
    assert sorted(path for path in directory.iterdir() if path.name != "lock") == files
    assert list(map(state_of, files)) == before


def test_segments_without_an_identity_are_left_alone(folder, directory):
    with Node(folder, [directory]) as node:
        assert node.put(SOME) == {OK}
    (directory / "store.kvs").unlink()
    before = {path: state_of(path) for path in segments(directory)}
    # A new store may begin beside them.
    with Node(folder, [directory]) as node:
        assert node.found(SOME) == set()
        assert node.put(MORE) in ({OK}, {NOT_DURABLE})
        node.churn(CAPACITY_BYTE_COUNT * 5 // 4)
    assert {path: state_of(path) for path in before} == before


def test_a_copy_of_a_directory_is_not_used_beside_it(folder, directory, tmp_path):
    with Node(folder, [directory]) as node:
        assert node.put(SOME) == {OK}
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    with Node(folder, [directory, copy]) as node:
        assert node.found(SOME) == set(SOME)
        assert node.counters()["ssd_directories_failed"] == 1
        assert node.delete(range(5)) == {OK}
    with Node(folder, [directory]) as node:
        assert node.found(SOME) == set(SOME) - set(range(5))


# --- Directories that cannot be used ------------------------------------------------------------


def test_a_directory_belongs_to_one_daemon(folder, directory, tmp_path):
    with Node(folder, [directory]) as first:
        assert first.put(SOME) == {OK}
        with Node(tmp_path / "second daemon", [directory]) as second:
            assert second.events("ssd_unavailable")
            assert second.counters()["ssd_directories_failed"] == 1
            assert second.found(SOME) == set()
            assert serves_from_memory_alone(second)
        assert first.found(SOME) == set(SOME)
        assert first.delete([1]) == {OK}
    with Node(tmp_path / "second daemon", [directory]) as second:
        assert second.found(SOME) == set(SOME) - {1}


def test_a_missing_directory(folder, directory):
    directory.rmdir()
    with Node(folder, [directory]) as node:
        assert node.events("ssd_unavailable")
        assert serves_from_memory_alone(node)
    assert not directory.exists()


def test_a_file_in_the_place_of_a_directory(folder, directory):
    directory.rmdir()
    directory.write_text("a file")
    with Node(folder, [directory]) as node:
        assert node.events("ssd_unavailable")
        assert serves_from_memory_alone(node)
    assert directory.read_text() == "a file"


@pytest.mark.parametrize("is_used", [False, True])
def test_a_read_only_directory(folder, directory, is_used):
    if is_used:
        with Node(folder, [directory]) as node:
            assert node.put(SOME) == {OK}
    with read_only(directory):
        with Node(folder, [directory]) as node:
            assert node.events("ssd_unavailable")
            assert node.counters()["ssd_directories_failed"] == 1
            assert serves_from_memory_alone(node)
    with Node(folder, [directory]) as node:
        assert node.found(SOME) == (set(SOME) if is_used else set())
        assert node.put(range(300, 310)) == {OK}


def those_in(directory, numbers):
    """The chunks that have a record in a directory: it has their key."""
    data = b"".join(path.read_bytes() for path in segments(directory))
    return [number for number in numbers if key_of(number) in data]


def test_one_of_two_directories_is_away_for_a_while(folder, tmp_path):
    directories = [tmp_path / "one", tmp_path / "two"]
    for directory in directories:
        directory.mkdir()
    with Node(folder, directories) as node:
        stored, parts = range(0), [[], []]
        while min(map(len, parts)) < 9:
            assert len(stored) < 900, "one of the directories gets nothing"
            stored = range(len(stored) + 40)
            assert node.put(stored) <= {OK, EXISTS}
            parts = [those_in(directory, stored) for directory in directories]
    away = tmp_path / "away"
    directories[1].rename(away)
    # Of the chunks in each directory some are deleted, some stored anew, some left alone.
    deleted, renewed = (parts[0][start:9:3] + parts[1][start:9:3] for start in (0, 1))
    with Node(folder, directories) as node:
        assert node.counters()["ssd_directories_failed"] == 1
        assert node.found(stored) == set(parts[0])
        # Whether it is found or not: what is deleted now does not come back with the directory.
        assert node.delete(deleted) == {OK, NOT_FOUND}
        # What is stored anew counts, and not what the other directory still has.
        assert node.delete(renewed) == {OK, NOT_FOUND}
        assert node.put(renewed, round_number=1) == {OK}
    away.rename(directories[1])
    with Node(folder, directories) as node:
        assert node.counters()["ssd_directories_failed"] == 0
        assert node.found(deleted) == set()
        assert node.found(renewed, round_number=1) == set(renewed)
        rest = set(stored) - set(deleted) - set(renewed)
        assert node.found(sorted(rest)) == rest


def test_a_capacity_that_shrinks_and_grows(folder, directory):
    with Node(folder, [directory], capacity="128MiB") as node:
        assert node.put(range(700)) == {OK}
    for capacity in ("64MiB", "128MiB"):
        with Node(folder, [directory], capacity=capacity) as node:
            node.found(range(700))
            # While it makes room, it may refuse.
            assert node.put(SOME) <= {OK, EXISTS, NOT_DURABLE}
            node.churn(CAPACITY_BYTE_COUNT // 2)
            assert node.put(range(800, 810)) <= {OK, EXISTS}
            assert node.pin(range(800, 810)) == {OK}
    with Node(folder, [directory], capacity="128MiB") as node:
        assert node.found(range(800, 810)) == set(range(800, 810))


def fill(path):
    """Writes a file until there is no space left."""
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass


# --- File systems -------------------------------------------------------------------------------


def test_a_file_system_that_is_full_from_the_start(folder, tmp_path):
    with mounted(tmp_path, "tmpfs", 40) as place:
        (place / "junk").write_bytes(bytes(39 << 20))
        directory = place / "ssd"
        directory.mkdir()
        with Node(folder, [directory]) as node:
            assert serves_from_memory_alone(node)
            assert node.events("ssd_unavailable") or node.says("space")
        (place / "junk").unlink()
        with Node(folder, [directory]) as node:
            assert node.put(SOME) == {OK}


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_file_system_smaller_than_the_capacity(folder, tmp_path, kind):
    with mounted(tmp_path, kind, 64) as place:
        directory = place / "ssd"
        directory.mkdir()
        with Node(folder, [directory], capacity="1GiB") as node:
            assert node.put(SOME) == {OK}
            node.churn(CAPACITY_BYTE_COUNT * 5 // 4)
            assert node.says("ssd_disk_full")
        with Node(folder, [directory], capacity="1GiB") as node:
            node.found(SOME)
            assert node.put(range(300, 310)) == {OK}


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_file_system_that_others_fill(folder, tmp_path, kind):
    with mounted(tmp_path, kind, 128) as place:
        directory = place / "ssd"
        directory.mkdir()
        with Node(folder, [directory], capacity="128MiB") as node:
            assert node.put(SOME) == {OK}
            fill(place / "junk")
            # What was reserved can be written; the rest of the capacity cannot be had.
            node.churn(CAPACITY_BYTE_COUNT // 4)
            assert node.put(range(300, 500)) <= {OK, NOT_DURABLE}
            assert node.found(range(480, 500)) == set(range(480, 500))
        with Node(folder, [directory], capacity="128MiB") as node:
            node.found(SOME)
        (place / "junk").unlink()
        with Node(folder, [directory], capacity="128MiB") as node:
            assert node.put(range(2_000, 2_020)) == {OK}


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_file_system_of_its_own(folder, tmp_path, kind):
    with mounted(tmp_path, kind, 400) as place:
        directory = place / "ssd"
        directory.mkdir()
        with Node(folder, [directory]) as node:
            assert node.put(SOME) == {OK}
            assert node.pin(SOME) == {OK}
            node.churn(CAPACITY_BYTE_COUNT * 5 // 4)
            assert not node.says("direct")
        with Node(folder, [directory]) as node:
            assert node.found(SOME) == set(SOME)


def test_the_daemon_refuses_nonsense_before_it_touches_anything(folder, directory):
    with pytest.raises(DaemonFault):
        Node(folder, [directory], capacity="1KiB")
    assert list(directory.iterdir()) == []
