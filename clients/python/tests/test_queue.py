# SPDX-License-Identifier: Apache-2.0
"""The asynchronous form, against servers that speak the truth, and one that says nothing."""
import os
import select

import pytest
from conftest import stub

import kvstore


@pytest.fixture(params=["unix", "tcp"])
def queue(request, server):
    opened = kvstore.Queue(getattr(server, request.param))
    yield opened
    opened.close()


def wait_for(queue, count):
    """That many completions, by ticket."""
    poller = select.poll()
    poller.register(queue.fileno(), select.POLLIN)
    completions = {}
    while len(completions) < count:
        assert poller.poll(20_000), "no completion within 20 s"
        completions.update({each.ticket: each for each in queue.drain()})
    assert queue.drain() == [] and not poller.poll(0)
    return completions


def test_put_get_lookup_delete(queue):
    keys = [os.urandom(32) for _ in range(3)]
    values = [os.urandom(1000), os.urandom(400_000)]
    puts = [queue.submit_put(key, [value[:100], value[100:]]) for key, value in zip(keys, values)]
    puts.append(queue.submit_put(keys[0], [b"other"]))
    done = wait_for(queue, 3)
    assert [done[ticket].status for ticket in puts] == [0, 0, 2]

    lookup = queue.submit_lookup(keys)
    places = [[bytearray(1000)], [bytearray(4), bytearray(500_000)], [bytearray(5)]]
    get = queue.submit_get(keys, places)
    done = wait_for(queue, 2)
    assert [tuple(each) for each in done[lookup].key_results] == [(0, 1000), (0, 400_000), (1, 0)]
    assert [tuple(each) for each in done[get].key_results] == [(0, 1000), (0, 400_000), (1, 0)]
    assert places[0][0] == values[0]
    assert places[1][0] + places[1][1][:400_000 - 4] == values[1]

    small = queue.submit_get([keys[0]], [[bytearray(999)]])
    delete = queue.submit_delete(keys)
    after = queue.submit_lookup(keys)
    done = wait_for(queue, 3)
    assert tuple(done[small].key_results[0]) == (kvstore.DestinationTooSmall.status, 1000)
    assert done[delete].status == 0
    assert [each.status for each in done[after].key_results] == [1, 1, 1]


def test_buffers_are_held_until_the_completion(queue):
    place = bytearray(10)
    queue.submit_get([os.urandom(32)], [[place]])
    with pytest.raises(BufferError):
        place.extend(b"cannot move")
    wait_for(queue, 1)
    place.extend(b"can move")


def test_mistakes_and_close(queue):
    key = os.urandom(32)
    for mistake in (lambda: queue.submit_get([key], []), lambda: queue.submit_put(b"short", [b"x"]),
                    lambda: queue.submit_put(key, [b"x"], layout_id=b"short")):
        with pytest.raises(kvstore.InvalidArgument):
            mistake()
    with pytest.raises(BufferError):
        queue.submit_get([key, key], [[bytearray(1)], [b"read-only"]])
    with pytest.raises(kvstore.InvalidArgument):
        kvstore.Queue("file:/x")
    queue.close()
    queue.close()
    with pytest.raises(kvstore.WrongState):
        queue.submit_lookup([key])
    assert queue.drain() == []


def test_a_full_queue_is_busy_and_a_silent_daemon_ends_by_the_deadline():
    key = os.urandom(32)
    with stub("silent") as server:
        queue = kvstore.Queue(server.unix, depth=2)
        place = bytearray(1)
        get = queue.submit_get([key], [[place]], deadline_milliseconds=200)
        lookup = queue.submit_lookup([key, key], deadline_milliseconds=200)
        with pytest.raises(kvstore.Busy):
            queue.submit_delete([key])
        done = wait_for(queue, 2)
        assert [len(done[ticket].key_results) for ticket in (get, lookup)] == [1, 2]
        failed = {each.status for ticket in (get, lookup) for each in done[ticket].key_results}
        assert failed <= {kvstore.DeadlineExceeded.status, kvstore.CannotConnect.status}

        queue.submit_get([key], [[place]], deadline_milliseconds=60_000)
        queue.close()  # does not wait for the daemon
        place.extend(b"free again")


def test_a_child_has_no_queue(queue):
    child = os.fork()
    if child == 0:
        try:
            queue.submit_lookup([os.urandom(32)])
        except kvstore.Forked:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    queue.submit_lookup([os.urandom(32)])
    wait_for(queue, 1)
