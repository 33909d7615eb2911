"""Calls through worker processes and rings: every item once, in shares, in a window, and after an abandoned call."""

from __future__ import annotations

import collections
import itertools
import os
import pathlib
import resource
import signal
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from predict_runs import as_row, copy_rows, running, wait_for

from support import wait_until


def test_every_item_of_a_sequence_comes_back_once_under_its_index() -> None:
    with running(as_row) as run:
        results, failures = run(list(range(1000)))
    assert not failures
    assert {index: row[0] for index, row in results.items()} == {i: i for i in range(1000)}


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 500])
def test_an_iterator_is_read_to_its_end(count: int) -> None:
    with running(as_row) as run:
        results, failures = run(iter(range(count)))
    assert not failures
    assert {index: row[0] for index, row in results.items()} == {i: i for i in range(count)}


def test_calls_follow_each_other_through_the_same_workers_and_ring() -> None:
    with running(lambda item: np.float32(os.getpid())) as run:
        seen = set()
        for _ in range(5):
            results, _ = run(range(40))
            assert len(results) == 40
            seen |= {int(row) for row in results.values()}
            ring = run.loop.rows
        assert seen <= {int(np.float32(pid)) for pid in run.pool.process_ids}
        assert run.loop.rows is ring


def test_a_larger_batch_size_makes_a_larger_ring() -> None:
    with running(as_row, batch_size=4) as run:
        run(range(10), batch_size=4)
        small = run.loop.rows.slots
        results, _ = run(range(2 * small), batch_size=small)
        assert run.loop.rows.slots >= 2 * small
        assert len(results) == 2 * small


def test_workers_import_no_tensorflow_and_see_no_gpu() -> None:
    def look(item: int) -> np.ndarray:
        return np.array(["tensorflow" in sys.modules, os.environ["CUDA_VISIBLE_DEVICES"] == "-1"])

    with running(look) as run:
        results, _ = run(range(4))
    assert all(row.tolist() == [False, True] for row in results.values())


def test_a_worker_reuses_the_memory_of_one_item_for_the_next() -> None:
    def page_faults(item: int) -> np.int64:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        buffers = [bytearray(b"x") * (3 << 20) for _ in range(4)]  # 3,072 pages; freed together at the end
        del buffers
        return np.int64(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

    with running(page_faults, workers=1) as run:
        results, _ = run(range(8))
    assert results[7] < 100


def test_workers_are_not_forked_from_this_process() -> None:
    here = itertools.count(7)
    assert next(here) == 7
    with running(lambda item: np.int64(len(sys.modules))) as run:
        results, _ = run(range(2))
        commands = [pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() for pid in run.pool.process_ids]
    assert all(b"ringfeed.workers.main" in command for command in commands)
    assert min(int(row) for row in results.values()) < len(sys.modules)


def test_a_slow_item_delays_only_itself(tmp_path: pathlib.Path) -> None:
    def decode(item: int) -> np.ndarray:
        if item == 3:
            wait_for(tmp_path / "go on")
        return as_row(item)

    with running(decode) as run:
        run(range(2))
        done: list[int] = []
        for chunk in run.chunks(range(300), linger=0.0):
            done += chunk.indices.tolist()
            if len(done) == 299:
                assert 3 not in done
                (tmp_path / "go on").touch()
    assert sorted(done) == list(range(300))
    assert done[-1] == 3


def test_contiguous_shares_are_blocks_of_one_worker_each() -> None:
    with running(lambda item: np.int64(os.getpid()), workers=3, partition="contiguous") as run:
        results, _ = run(list(range(100)))
        workers = run.pool.process_ids
    owners = [int(results[index]) for index in range(100)]
    assert [owner for owner, _ in itertools.groupby(owners)] == workers
    assert sorted(collections.Counter(owners).values()) == [33, 33, 34]


def test_stratified_shares_have_each_label_alike() -> None:
    labels = np.array([0] * 90 + [1] * 9 + [2] * 3)
    with running(lambda item: np.int64(os.getpid()), workers=3, partition="stratified") as run:
        results, _ = run(list(range(102)), labels)
    counts = collections.Counter((int(results[index]), int(labels[index])) for index in range(102))
    assert sorted(counts.values()) == [1] * 3 + [3] * 3 + [30] * 3


def test_shares_need_a_sequence_and_labels_for_all() -> None:
    with running(as_row, partition="stratified") as run:
        with pytest.raises(TypeError, match="needs a sequence"):
            run(iter(range(3)), [1, 2, 3])
        with pytest.raises(ValueError, match="needs a label for each of the 3 items; 2 were given"):
            run([1, 2, 3], [1, 2])


def test_large_items_travel_beside_the_ring_and_leave_nothing() -> None:
    items = [np.full(1 << 20, i, np.uint8) for i in range(12)]
    with running(lambda item: item[:16].astype(np.float32) + len(item)) as run:
        results, failures = run(items)
    assert not failures
    assert {index: row[0] for index, row in results.items()} == {i: i + (1 << 20) for i in range(12)}
    assert not [name for name in os.listdir("/dev/shm") if name.startswith("ringfeed.") and f"-{os.getpid()}-" in name]


def test_the_rings_have_no_name_that_could_be_left_behind() -> None:
    with running(as_row) as run:
        run(range(3))
        assert not [name for name in os.listdir("/dev/shm") if name.startswith(f"ringfeed.predict-{os.getpid()}-")]


def test_an_abandoned_call_leaves_nothing_for_the_next() -> None:
    with running(as_row) as run:
        for _ in range(5):
            chunks = run.chunks(itertools.count(5000), linger=0.0)
            next(chunks)
            chunks.close()
            results, failures = run(range(30))
            assert not failures
            assert {index: row[0] for index, row in results.items()} == {i: i for i in range(30)}


def test_an_abandoned_call_with_hundreds_of_failures_does_not_delay_the_next() -> None:
    def fail_later(item: int) -> np.ndarray:
        if item >= 10_000:
            raise ValueError("too much")
        return as_row(item)

    with running(fail_later, batch_size=64) as run:
        run(range(4))
        chunks = run.chunks(itertools.chain(range(40), itertools.count(10_000)), linger=0.0)
        next(chunks)
        failures_ring = run.loop._rings.failures
        assert failures_ring is not None
        wait_until(lambda: failures_ring.stats()["free"] == 0)
        chunks.close()
        results, failures = run(range(30))
    assert not failures
    assert {index: row[0] for index, row in results.items()} == {i: i for i in range(30)}


def test_the_window_bounds_how_far_items_are_read_ahead() -> None:
    read = itertools.count()
    chunks_taken = 0
    with running(as_row) as run:
        items = (next(read) for _ in itertools.count())
        chunks = run.chunks(items, linger=0.0, window=50)
        chunk = next(chunks)
        yielded = 0
        while yielded < 500:
            yielded += len(chunk.indices)
            chunks_taken += 1
            chunk = chunks.send(len(chunk.indices))
            ahead = next(read)
            assert ahead <= yielded + 50 + 1 + chunks_taken
        chunks.close()


@pytest.mark.parametrize("window", [1, 2, 3, 50])
@pytest.mark.parametrize("calls_before", [0, 1])
def test_the_window_bounds_the_items_that_are_read_and_not_yielded(calls_before: int, window: int) -> None:
    read = yielded = most = 0

    def items() -> Iterator[int]:
        nonlocal read, most
        for item in range(120):
            read += 1
            most = max(most, read - yielded)
            yield item

    with running(as_row, batch_size=4) as run:
        for _ in range(calls_before):
            run(range(3))
        chunks = run.chunks(items(), batch_size=4, linger=0.0, window=window)
        chunk = next(chunks, None)
        while chunk is not None:
            # While a chunk is held, the window fills up: the item sender waits for the next place in it.
            full = min(yielded + window, 120)
            wait_until(lambda full=full: read >= full)
            yielded += len(chunk.indices)
            try:
                chunk = chunks.send(len(chunk.indices))
            except StopIteration:
                chunk = None
    assert (read, yielded) == (120, 120)
    assert most == window


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("lost_in", ["the model", "a wait"])
def test_a_ctrl_c_that_is_lost_in_a_destructor_is_still_raised(lost_in: str) -> None:
    """Python drops an exception of a destructor. TensorFlow drops some exceptions, too, while it traces a function."""

    class Interrupted:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass

    def model(batch: object, template: object) -> np.ndarray:
        Interrupted()
        return copy_rows(batch, template)

    def prepare(item: int) -> np.ndarray:
        if item >= 16 and lost_in == "a wait":
            time.sleep(3600)  # no further batch comes
        return as_row(item)

    model_of_one_batch = model if lost_in == "the model" else copy_rows
    with running(prepare, model=model_of_one_batch) as run, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        for chunk in run.chunks(range(100)):
            assert lost_in == "a wait"
            if len(chunk.indices):
                run.pool.replace_dead = lambda: Interrupted() and 0  # between two slices of the wait
