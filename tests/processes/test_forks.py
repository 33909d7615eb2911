"""Forked children are new participants. They never publish, release, close or unlink on behalf of their parent.

Every test forks in a fresh process, because threads of other libraries run in pytest's process.
"""

import gc
import os
import threading
import time

import pytest

import ringfeed
from support import is_gone, numbers, record, run_program, segments, states, take_all, wait_until

FIELDS = {"x": ((512,), "int64")}


def in_a_fork(function):
    """Run a function in a forked child; return its message, or raise the error that it reports."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = function() or "done"
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, str(answer).encode())
        os._exit(0)
    os.close(writing)
    answer = b"".join(iter(lambda: os.read(reading, 4096), b"")).decode()
    os.close(reading)
    os.waitpid(child, 0)
    return answer


def claims_of_the_parent(pipe, name):
    ring = ringfeed.Ring.create(name, FIELDS, slots=8)
    published, discarded, dropped = (ring.claim() for _ in range(3))
    for claim in (published, discarded, dropped):
        claim["x"] = 5
    rest = [published, discarded, dropped]
    del dropped

    def child():
        discarded.discard()
        rest.clear()
        gc.collect()
        published.publish()

    answer = in_a_fork(child)
    before = states(ring)
    for claim in rest:
        claim.publish()
    taken = take_all(ring)
    ring.close()
    ring.unlink()
    return answer, before, taken


def test_a_claim_of_the_parent_is_neither_published_nor_given_back_by_the_child(ring_name, start):
    answer, before, taken = start(claims_of_the_parent, ring_name).result()
    assert answer.startswith("SlotLost")
    assert "forked" in answer
    assert before == {"free": 5, "claimed": 3}
    assert taken == [5, 5, 5]


def batches_of_the_parent(pipe, name):
    with ringfeed.Ring.create(name, FIELDS, slots=8) as ring:
        for n in range(4):
            ring.put(record(n))
        released, dropped, viewed = (ring.take(max_rows=1) for _ in range(3))
        views = [viewed["x"]]
        viewed.release()
        held = [dropped]
        del dropped

        def child():
            released.release()
            held.clear()
            seen = int(views.pop()[0, 0])
            gc.collect()
            return seen

        answer = in_a_fork(child)
        before = states(ring)
        seen = numbers(released), numbers(held[0]), int(views[0][0, 0])
        released.release()
        held.clear()
        views.clear()
        return answer, before, seen, states(ring)


def test_a_batch_of_the_parent_is_not_released_by_the_child(ring_name, start):
    answer, before, seen, after = start(batches_of_the_parent, ring_name).result()
    assert answer == "2"
    assert before == {"free": 4, "ready": 1, "taken": 3}
    assert seen == ([0], [1], 2)
    assert after == {"free": 7, "ready": 1}


def a_child_that_works(pipe, name):
    with ringfeed.Ring.create(name, FIELDS, slots=8) as ring:
        ring.put(record(1))

        def child():
            assert not ring.is_owner
            taken = take_all(ring)
            with ring.claim() as slot:
                slot["x"] = 2
            ring.put(record(3))
            return taken, ring.stats()["participants"]

        answer = in_a_fork(child)
        assert ring.is_owner
        ring.put(record(4))
        batch = ring.take(max_rows=8)
        return answer, numbers(batch), batch.records["producer"].tolist()


def test_the_child_takes_and_puts_as_a_participant_of_its_own(ring_name, start):
    answer, taken, producers = start(a_child_that_works, ring_name).result()
    assert answer == "([1], 2)"
    assert taken == [2, 3, 4]
    assert producers[0] == producers[1] != producers[2]


def a_child_that_ends(pipe, name, joins):
    ring = ringfeed.Ring.create(name, FIELDS, slots=8)
    ring.put(record(1))

    def child():
        if joins:
            ring.put(record(2))
        with ring:
            pass
        ring.close()

    answer = in_a_fork(child)
    assert ring.is_owner
    assert not ring.closed
    ringfeed.Ring.attach(name).put(record(3))
    taken = take_all(ring)
    ring.close()
    ring.unlink()
    return answer, sorted(taken)


@pytest.mark.parametrize("joins", [False, True])
def test_a_child_that_closes_the_ring_closes_it_for_itself(ring_name, start, joins):
    expected = [1, 2, 3] if joins else [1, 3]
    assert start(a_child_that_ends, ring_name, joins).result() == ("done", expected)


@pytest.mark.parametrize("joins", [False, True])
def test_the_whole_end_of_python_in_the_child_leaves_the_ring_to_the_parent(ring_name, joins):
    program = f"""
        ring = ringfeed.Ring.create({ring_name!r}, {{"x": ((512,), "int64")}}, slots=8)
        claim, view = ring.claim(), ring.claim()["x"]
        child = os.fork()
        if child == 0:
            {joins} and ring.put({{"x": np.zeros(512, np.int64)}})
            raise SystemExit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert os.path.exists("/dev/shm/ringfeed.{ring_name}")
        assert ring.is_owner and not ring.closed
        assert ring.stats()["claimed"] == 2
        claim.publish()
        ringfeed.Ring.attach({ring_name!r}).close()
        """
    assert run_program(program) == (0, "", "")
    assert ring_name not in segments()


def fork_beside_waiting_threads(pipe, name):
    with ringfeed.Ring.create(name, FIELDS, slots=8) as ring:
        other = ringfeed.Ring.attach(name)
        stop = threading.Event()

        def busy():
            while not stop.is_set():
                other.put(record(1))
                other.take(max_rows=1).release()
                ringfeed.Ring.attach(name).close()
                ring.recover()

        threads = [threading.Thread(target=busy, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()

        def child():
            own = ringfeed.Ring.attach(name)
            for n in range(20):
                own.put(record(n))
                ring.take(max_rows=1).release()
            return "worked"

        answers = [in_a_fork(child) for _ in range(20)]
        stop.set()
        for thread in threads:
            thread.join()
        other.close()
        return set(answers)


def test_a_fork_amid_busy_threads_finds_no_lock_held(ring_name, start):
    assert start(fork_beside_waiting_threads, ring_name).result() == {"worked"}


def die_with_a_claim(pipe, name):
    with ringfeed.Ring.create(name, FIELDS, slots=8) as ring:

        def child():
            ring.claim()["x"][...] = 1
            claim = ring.claim()
            os.kill(os.getpid(), 9)
            return claim

        child_pid = os.fork()
        if child_pid == 0:
            child()
        os.waitpid(child_pid, 0)
        held = states(ring)
        ring.recover()
        return held, states(ring), ring.stats()["participants"]


def test_a_forked_child_that_dies_gives_its_own_claims_back(ring_name, start):
    held, after, participants = start(die_with_a_claim, ring_name).result()
    assert held == {"free": 7, "claimed": 1}
    assert after == {"free": 8}
    assert participants == 1


def outlive_the_owner(pipe, name):
    """After the parent's death the child, which shares its memory and descriptors, must not count as the owner."""
    ring = ringfeed.Ring.create(name, FIELDS, slots=8)
    ring.put(record(1))
    if os.fork() == 0:
        pipe.tell(os.getpid())
        wait_until(lambda: ring.closed or take_one(ring))
        pipe.tell("saw the end")
        os._exit(0)
    time.sleep(1e6)


def take_one(ring):
    try:
        ring.take(max_rows=1).release()
    except ringfeed.RingClosed:
        return True


def test_the_owners_death_is_seen_by_its_own_forked_child(ring_name, start):
    child = start(outlive_the_owner, ring_name)
    grandchild = child.told()
    child.kill()
    assert child.told() == "saw the end"
    wait_until(lambda: is_gone(grandchild))
    with ringfeed.Ring.create(ring_name, FIELDS) as ring:  # replaces the dead owner's segment
        ring.put(record(1))
