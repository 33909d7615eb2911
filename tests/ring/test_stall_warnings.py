"""Waits that cannot end because this program holds every slot: RingFeed collects garbage, then warns once."""

import gc
import os
import threading
import warnings
from contextlib import contextmanager

import numpy as np
import pytest

import ringfeed
from ringfeed import stall
from support import in_thread, numbers, record, states, take_all, wait_until, wait_until_waited

pytestmark = pytest.mark.usefixtures("quick_collection")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Warn at the second check: these tests check the warning, not the time until it comes."""
    monkeypatch.setattr(stall, "STALL_SECONDS", 0.0)
    monkeypatch.setattr(stall, "GARBAGE_SECONDS", 0.0)
    monkeypatch.setattr(stall, "_said", {})


@contextmanager
def warned():
    """Collect the stall warnings of every thread."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield said


def fill(ring, count=None):
    for number in range(ring.slots if count is None else count):
        ring.put(record(number))


WAITS = {
    "take": lambda ring: ring.take(2).release(),
    "batches": lambda ring: next(ring.batches(2)).release(),
    "take_urgent": lambda ring: ring.take_urgent(2).release(),
    "take while waiting": lambda ring: ring.take(2, while_waiting=lambda: False).release(),
    "a linger": lambda ring: ring.take(2, min_rows=2, linger=0.01).release(),
    "claim": lambda ring: ring.claim().discard(),
    "claim of rows": lambda ring: ring.claim(rows=3, zero=True).discard(),
    "put": lambda ring: ring.put(record(0)),
}
KEEPS = {
    "batches": lambda ring: [ring.take(2) for _ in range(4)],
    "arrays": lambda ring: [batch["x"] for batch in (ring.take(1) for _ in range(8))],
    "views of arrays": lambda ring: [ring.take(4)["x"][:, 3:4] for _ in range(2)],
    "DLPack tensors": lambda ring: [np.from_dlpack(ring.take(8))],
}


@pytest.mark.parametrize(
    ("wait", "keep"), [*((wait, "arrays") for wait in WAITS), *(("take", keep) for keep in KEEPS if keep != "arrays")]
)
def test_a_stalled_wait_warns_with_the_holders_of_the_slots_and_continues(ring, wait, keep):
    fill(ring)
    kept = KEEPS[keep](ring)
    assert states(ring) == {"taken": 8}
    with warned() as said, in_thread(WAITS[wait], ring) as waiting:
        wait_until(lambda: said)
        assert not waiting.done()
        kept.clear()
        fill(ring, 2)
        waiting.result()
        (warning,) = said
    assert warning.category is ringfeed.StalledRingWarning
    text = str(warning.message)
    assert f"ring {ring.name!r}: a " in text
    assert "all 8 slots have been held: 8 by batches, arrays or views of this process. Keep copies" in text
    assert "`batch[name].copy()`" in text
    assert "`del batch`" in text
    assert "more slots" in text


def test_the_loop_of_the_issue_is_told_where_it_stands(ring):
    """``[b["x"] for b in ring.batches(4)]`` with a producer that has more records than the ring has slots."""
    with warned() as said, in_thread(fill, ring, 20) as produced:
        kept = []

        def loop():
            kept.extend(batch["x"] for batch in ring.batches(4))

        with in_thread(loop) as looping:
            wait_until(lambda: said)
            wait_until(lambda: kept.clear() or produced.done())
            ring.finish()
            wait_until(lambda: kept.clear() or looping.done())
    assert {warning.category for warning in said} == {ringfeed.StalledRingWarning}
    assert any(warning.filename == __file__ for warning in said), "the warning shows the user's own line"


def test_it_is_said_once_however_many_wait_and_however_long(ring):
    fill(ring)
    kept = [ring.take(8)]
    with warned() as said:
        threads = [threading.Thread(target=ring.put, args=(record(0),)) for _ in range(3)]
        threads.append(threading.Thread(target=lambda: ring.take(1).release()))
        for thread in threads:
            thread.start()
        wait_until(lambda: said)
        for _ in range(3):
            wait_until_waited(ring, "claim")
            wait_until_waited(ring, "take")
        kept.clear()
        for thread in threads:
            thread.join()
        assert len(said) == 1


def test_another_stall_is_said_again(ring):
    fill(ring)
    with warned() as said:
        for turn in range(3):
            kept = [ring.take(8)]
            with in_thread(ring.put, record(turn)):
                wait_until(lambda turn=turn: len(said) == turn + 1)
                kept.clear()
            fill(ring, 7)
    assert len(said) == 3


def test_slots_that_only_garbage_holds_come_back_without_a_word(ring):
    fill(ring)
    gc.disable()
    try:
        for _ in range(4):
            circle = [ring.take(2)]
            circle.append(circle)
        del circle
        assert states(ring) == {"taken": 8}
        with warned() as said:
            ring.put(record(5))
            assert take_all(ring) == [5]
        assert not said
    finally:
        gc.enable()


def test_claims_that_are_kept_are_named_as_what_they_are(ring):
    kept = [ring.claim() for _ in range(7)]
    ring.put(record(0))
    batch = ring.take(1)
    with warned() as said, in_thread(ring.claim) as claim:
        wait_until(lambda: said)
        kept.pop().discard()
        claim.result().discard()
    text = str(said[0].message)
    assert "1 by batches, arrays or views of this process, 7 by claims of this process that are not published" in text
    assert "`publish` or `discard`" in text
    batch.release()


def test_pinned_slots_count_as_held(ring):
    kept = []
    for _ in range(8):
        slot = ring.claim()
        kept.append(slot["x"])
        slot.publish()
    take_all(ring)
    assert states(ring) == {"kept": 8}
    with warned() as said, in_thread(ring.put, record(0)):
        wait_until(lambda: said)
        kept.clear()
    assert "8 by batches, arrays or views of this process" in str(said[0].message)


@pytest.mark.parametrize("wait", ["take", "claim"])
def test_a_wait_that_can_end_is_no_stall(ring, wait):
    """With a free slot, a ready record, or an open claim that a taker waits for, the wait can still end."""
    kept = [ring.claim() for _ in range(7)]
    if wait == "claim":
        ring.put(record(0))  # a taker may still come
    with warned() as said:
        call = (lambda: ring.take(1).release()) if wait == "take" else (lambda: ring.put(record(1)))
        with in_thread(call):
            for _ in range(3):
                wait_until_waited(ring, wait)
            kept.pop().publish() if wait == "take" else take_all(ring)
    assert not said


def test_the_error_of_a_wait_with_a_timeout_names_the_holders_of_the_slots(ring):
    fill(ring)
    kept = ring.take(8)
    with pytest.raises(ringfeed.RingEmpty, match=r"0 of 1 records ready after 0\.01 s; all 8 slots are held: 8 .*copy"):
        ring.take(1, timeout=0.01)
    with pytest.raises(
        ringfeed.RingFull, match=r"0 of 8 slots free after 0\.01 s; 8 are held .*8 by batches, arrays or views of this"
    ):
        ring.put(record(0), timeout=0.01)
    kept.release()


def test_a_finished_ring_whose_records_are_all_held_ends_its_takers(ring):
    fill(ring)
    kept = [ring.take(8)]
    ring.finish()
    with warned() as said:
        assert list(ring.batches(4)) == []
        with pytest.raises(ringfeed.RingFinished):
            ring.put(record(0))
    assert not said
    assert numbers(kept[0]) == list(range(8))


def test_all_levels_have_to_be_held(make_ring):
    ring = make_ring(priorities=2)
    first, second = ring.levels
    fill(first)
    fill(second)
    kept = [first.take(8)]
    with warned() as said:
        ring.take_urgent(1).release()
        assert not said
        kept.append(second.take(8))
        second.put(record(7))
        kept.append(second.take(1))
        with in_thread(lambda: ring.take_urgent(1).release()):
            wait_until(lambda: said)
            kept.clear()
            second.put(record(1))
    assert "all 16 slots have been held: 16 by batches, arrays or views of this process" in str(said[0].message)


def test_a_filter_that_makes_it_an_error_ends_the_wait_and_loses_nothing(ring):
    fill(ring)
    kept = ring.take(8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ringfeed.StalledRingWarning)
        for call in (lambda: ring.put(record(0)), lambda: ring.take(1), lambda: ring.claim()):
            stall._said.clear()
            with pytest.raises(ringfeed.StalledRingWarning, match="all 8 slots"):
                call()
    assert numbers(kept) == list(range(8))
    kept.release()
    assert states(ring) == {"free": 8}


def test_a_wait_that_minds_stalls_itself_is_left_alone(ring):
    fill(ring)
    kept = ring.take(8)
    looks = []

    @stall.minds_stalls
    def look():
        looks.append(1)
        return len(looks) > 4

    with warned() as said, pytest.raises(ringfeed.RingEmpty):
        ring.take(1, while_waiting=look)
    assert not said
    kept.release()


def test_what_a_feed_says_is_of_the_same_family():
    waiting = pytest.importorskip("ringfeed.tf.feed.waiting")
    assert issubclass(waiting.StalledFeedWarning, ringfeed.StalledRingWarning)
    assert issubclass(waiting.Stall, stall.Stall)


# ---- Other processes ---------------------------------------------------------------------------------


def take_and_keep(pipe, name, rows):
    ring = ringfeed.Ring.attach(name)
    batch = ring.take(rows, min_rows=rows)
    pipe.tell(len(batch))
    pipe.hear()


def test_what_other_processes_hold_is_told_with_their_numbers(ring, start):
    fill(ring)
    child = start(take_and_keep, ring.name, 3)
    assert child.told() == 3
    kept = [ring.take(5)]
    with warned() as said, in_thread(ring.put, record(0)):
        wait_until(lambda: said)
        kept.clear()
    text = str(said[0].message)
    assert "5 by batches, arrays or views of this process, 3 by batches, arrays or views of other processes" in text
    assert f"(pid {child.pid})" in text
    child.tell("enough")
    child.result()


def test_where_this_process_holds_nothing_it_has_nothing_to_say(ring, start):
    fill(ring)
    child = start(take_and_keep, ring.name, 8)
    assert child.told() == 8
    with warned() as said, in_thread(ring.put, record(0)):
        for _ in range(3):
            wait_until_waited(ring, "claim")
        child.tell("enough")
        child.result()
    assert not said


def test_a_forked_child_does_not_call_its_parents_slots_its_own(ring):
    fill(ring)
    kept = ring.take(8)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    ring.put(record(0), timeout=0.2)
                except ringfeed.RingFull as error:
                    status = 0 if f"of other processes (pid {os.getppid()})" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    kept.release()


def _claim_and_keep(pipe, name):
    ring = ringfeed.Ring.attach(name)
    claim = ring.claim()
    pipe.tell("claimed")
    pipe.hear()
    claim.discard()


@pytest.mark.parametrize("wait", ["take", "batches", "take_urgent", "take while waiting"])
def test_this_process_is_named_if_it_forgot_a_claim_of_a_finished_ring(ring, wait):
    claim = ring.claim()
    ring.finish()
    with warned() as said, in_thread(finishes, WAITS[wait], ring) as waiting:
        wait_until(lambda: said)
        claim.discard()
        assert waiting.result(timeout=30)
    text = str(said[0].message)
    assert f"ring {ring.name!r} is finished" in text
    assert "1 by claims of this process that are not published" in text
    assert said[0].category is ringfeed.StalledRingWarning


def finishes(wait, ring):
    try:
        wait(ring)
    except (ringfeed.RingFinished, StopIteration):
        return True
    return False


def test_another_process_that_forgot_a_claim_of_a_finished_ring_is_named_by_its_pid(ring, start):
    child = start(_claim_and_keep, ring.name)
    assert child.told() == "claimed"
    ring.finish()
    with warned() as said, in_thread(finishes, WAITS["take"], ring) as waiting:
        wait_until(lambda: said)
        child.tell()
        assert waiting.result(timeout=30)
    assert f"1 by claims of other processes (pid {child.pid})" in str(said[0].message)
    child.result()


def test_a_finished_ring_whose_claims_are_published_by_and_by_is_no_stall(ring):
    claims = [ring.claim() for _ in range(3)]
    ring.finish()
    with warned() as said:
        for number, claim in enumerate(claims):
            claim["x"] = record(number)["x"]
            claim.publish()
            with ring.take(1) as batch:
                assert numbers(batch) == [number]
    assert not said
