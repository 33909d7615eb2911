from __future__ import annotations

import collections
import itertools
import os
import pathlib
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from predict_runs import Run, copy_rows, running, spec_of

from ringfeed.errors import PreprocessError, RingFeedError, SampleMismatch, WorkerCrashed
from ringfeed.workers.sample_spec import InputSpec
from support import wait_until


def as_row(item: int) -> np.ndarray:
    return np.full(16, item, np.float32)


def wait_for(path: pathlib.Path) -> None:
    while not path.exists():
        time.sleep(0.001)


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


# ---- errors ------------------------------------------------------------------------------------------


def test_an_error_names_its_item_and_carries_the_workers_traceback() -> None:
    def decode(item: int) -> np.ndarray:
        if item == 13:
            raise ValueError("unlucky")
        return as_row(item)

    with running(decode) as run:
        results, failures = run(range(50))
    assert sorted(results) == [i for i in range(50) if i != 13]
    [failure] = failures
    assert isinstance(failure, PreprocessError)
    assert (failure.index, failure.item) == (13, 13)
    assert "item 13 (13)" in str(failure)
    assert "ValueError: unlucky" in str(failure)
    assert "in decode" in str(failure)


def test_a_very_long_error_text_keeps_its_end() -> None:
    def decode(item: int) -> np.ndarray:
        if item:
            raise ValueError("x" * 100_000 + " the end")
        return as_row(item)

    with running(decode) as run:
        _, [failure] = run(range(2))
    assert str(failure).endswith("the end")


@pytest.mark.parametrize("failing", [1, 30, 200])
def test_items_before_the_first_good_one_fail_by_themselves(failing: int) -> None:
    def decode(item: int) -> np.ndarray:
        if item < failing:
            raise ValueError("too early")
        return as_row(item)

    for items in (range(220), iter(range(220))):
        with running(decode) as run:
            results, failures = run(items)
        assert sorted(results) == list(range(failing, 220))
        assert sorted(failure.index for failure in failures) == list(range(failing))


def test_when_every_item_fails_each_says_so() -> None:
    with running(lambda item: 1 / 0) as run:
        results, failures = run(range(5))
    assert not results
    assert [failure.index for failure in failures] == list(range(5))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (np.zeros((8, 9), np.float32), ["(8, 9)", "(16,)"]),
        (np.zeros(16, np.complex64), ["complex64", "float32"]),
        ([np.zeros(16, np.float32)], ["a list of 1", "one array"]),
    ],
)
def test_a_later_item_that_does_not_fit_fails_with_both_descriptions(other: object, said: list[str]) -> None:
    with running(lambda item: other if item == 7 else as_row(item)) as run:
        results, [failure] = run(range(30))
    assert len(results) == 29
    assert failure.index == 7
    for text in said:
        assert text in str(failure)


@pytest.mark.parametrize("form", ["a list under a name", "many names", "long names", "a list of mappings", "deep"])
def test_a_first_item_that_is_too_much_to_tell_of_fails_alone_and_ends_no_worker(form: str) -> None:
    def decode(item: int) -> Any:
        if item:
            return {"image": as_row(item)}
        if form == "a list under a name":
            return {"image": [[0.0] * 3] * 50_176}  # a picture, as a list of its points
        if form == "many names":
            return {f"number {number}": 0.0 for number in range(40_000)}
        if form == "long names":
            return {"x" * 1_000_000 + str(number): 0.0 for number in range(2)}
        if form == "a list of mappings":
            return {"image": [{"a": 0.0, "b": 1.0}] * 20_000}
        nest: Any = 0.0
        for _ in range(150):
            nest = [nest]
        return {"image": nest, "other": 0}

    with running(decode, model=lambda rows, template: np.array(rows["0"])) as run:
        before = run.pool.process_ids
        for _ in range(2):  # in the second call the rings are there
            results, failures = run(range(20))
            assert sorted(results) == list(range(1, 20))
            [failure] = failures
            assert isinstance(failure, SampleMismatch)
            assert "item 0 (0): preprocess returned" in str(failure)
            assert len(str(failure)) < 1000
            if "list" in form:
                assert "numpy.asarray" in str(failure)
        assert run.pool.process_ids == before


def test_an_item_that_kills_its_worker_is_tried_once_more_and_then_fails_by_name(tmp_path: pathlib.Path) -> None:
    def decode(item: int) -> np.ndarray:
        if item == 17:
            with open(tmp_path / "tries", "a") as tries:
                tries.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return as_row(item)

    with running(decode) as run:
        run(range(4))
        results, failures = run(range(60))
        assert len(run.pool) == 2
    assert sorted(results) == [i for i in range(60) if i != 17]
    [failure] = failures
    assert isinstance(failure, WorkerCrashed)
    assert failure.index == 17
    assert "SIGKILL" in str(failure)
    assert (tmp_path / "tries").read_text() == "xx"


def test_an_item_whose_worker_is_killed_once_is_done_by_another(tmp_path: pathlib.Path) -> None:
    def decode(item: int) -> np.ndarray:
        if item == 17 and not (tmp_path / "tried").exists():
            (tmp_path / "tried").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return as_row(item)

    with running(decode, workers=1) as run:
        run(range(4))
        results, failures = run(range(60))
    assert not failures
    assert {index: row[0] for index, row in results.items()} == {i: i for i in range(60)}


def test_workers_killed_at_random_change_no_result() -> None:
    random = np.random.default_rng(5)
    with running(as_row) as run:
        results: dict[int, np.ndarray] = {}
        failures = []
        next_kill = 200
        for chunk in run.chunks(range(3000)):
            failures += chunk.failures
            results.update(zip(chunk.indices.tolist(), chunk.outputs, strict=True))
            # Who holds an item that a killed worker had is not killed: two deaths in a row would blame it.
            if len(results) >= next_kill and len(results) == max(results) + 1:
                next_kill = len(results) + 400
                os.kill(random.choice(run.pool.process_ids), signal.SIGKILL)
    assert next_kill > 200, "nobody was killed"
    assert not failures
    assert {index: row[0] for index, row in results.items()} == {i: i for i in range(3000)}


def test_a_worker_that_can_not_load_the_function_says_why() -> None:
    class Poison:
        def __call__(self, item: int) -> np.ndarray:
            return as_row(item)

        def __reduce__(self):
            return exec, ("raise ImportError('no decoder here')",)

    with running(Poison()) as run, pytest.raises(RingFeedError, match="no decoder here"):
        run(range(3))


def test_workers_that_die_before_they_are_ready_are_not_started_for_ever() -> None:
    class Poison:
        def __call__(self, item: int) -> np.ndarray:
            return as_row(item)

        def __reduce__(self):
            return exec, ("import os; os._exit(3)",)

    with running(Poison()) as run, pytest.raises(RingFeedError, match="exit code 3"):
        run(range(3))


def test_an_error_of_the_users_iterator_comes_through() -> None:
    def items():
        yield from range(20)
        raise LookupError("the list of files is gone")

    with running(as_row) as run:
        with pytest.raises(LookupError, match="the list of files is gone"):
            run(items())
        assert len(run(range(5))[0]) == 5


def test_an_item_that_can_not_travel_fails_alone() -> None:
    import threading

    items = [0, 1, threading.Lock(), 3]
    with running(as_row) as run:
        results, [failure] = run(items)
    assert sorted(results) == [0, 1, 3]
    assert failure.index == 2
    assert "cannot be sent" in str(failure)


# ---- sharing out -------------------------------------------------------------------------------------


def test_a_slow_item_holds_up_only_itself(tmp_path: pathlib.Path) -> None:
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


# ---- forms of the function and of items --------------------------------------------------------------


def test_a_function_with_out_writes_into_the_slot_itself() -> None:
    def decode(item: int, out: np.ndarray) -> None:
        assert out.base is not None
        assert not out.flags.owndata
        out[...] = item

    with running(decode, spec=spec_of((16,))) as run:
        results, failures = run(range(100))
    assert not failures
    assert {index: row[0] for index, row in results.items()} == {i: i for i in range(100)}


def test_a_function_with_out_that_raises_loses_only_its_item() -> None:
    def decode(item: int, out: np.ndarray) -> None:
        if item == 5:
            raise ValueError("no")
        out[...] = item

    with running(decode, spec=spec_of((16,))) as run:
        results, [failure] = run(range(10))
    assert failure.index == 5
    assert len(results) == 9


def exits_on_five(item: int) -> np.ndarray:
    if item == 5:
        sys.exit("enough")
    return as_row(item)


def exits_on_five_with_out(item: int, out: np.ndarray) -> None:
    out[...] = exits_on_five(item)


@pytest.mark.parametrize("function", [exits_on_five, exits_on_five_with_out])
@pytest.mark.parametrize("first", [0, 5])
def test_a_function_that_exits_loses_only_its_item(function, first: int) -> None:
    choose = {"spec": spec_of((16,))}
    with running(function, **choose if function is exits_on_five_with_out else {}) as run:
        pids = run.pool.process_ids
        results, [failure] = run(range(first, 10))
        assert run.pool.process_ids == pids
    assert failure.index == 5 - first
    assert "SystemExit: enough" in str(failure)
    assert len(results) == 9 - first


class Marked(np.ndarray):
    """An array that is not quite NumPy's own."""


FORMS = {
    "dense": lambda rows: rows,
    "strided": lambda rows: np.repeat(rows, 2, axis=1)[:, ::2],
    "transposed": np.asfortranarray,
    "backwards": lambda rows: rows[::-1].copy()[::-1],
    "unaligned": lambda rows: np.frombuffer(b"x" + rows.tobytes(), rows.dtype, offset=1).reshape(rows.shape),
    "of another dtype": lambda rows: rows.astype(np.float64),
    "of another byte order": lambda rows: rows.astype(">f4"),
    "read-only": lambda rows: np.frombuffer(rows.tobytes(), rows.dtype).reshape(rows.shape),
    "of a subclass": lambda rows: rows.view(Marked),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_result_of_any_layout_arrives_as_it_is(form: str) -> None:
    shape = FORMS[form]

    def function(item: int) -> np.ndarray:
        return shape(np.arange(12, dtype=np.float32).reshape(3, 4) + item)

    with running(function, spec=spec_of((3, 4))) as run:
        results, failures = run(range(40))
    assert not failures
    for index in range(40):
        np.testing.assert_array_equal(results[index], np.arange(12).reshape(3, 4) + index)


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


def test_an_abandoned_call_whose_items_failed_by_the_hundred_does_not_hold_up_the_next() -> None:
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
def test_no_more_items_are_read_and_not_yielded_than_the_window_has(calls_before: int, window: int) -> None:
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
            # While a chunk is held the window fills up: the feeder goes to sleep for the next place in it.
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
def test_a_ctrl_c_that_is_lost_in_a_destructor_is_raised_all_the_same(lost_in: str) -> None:
    """Python drops what is raised there; TensorFlow has such places, too, while it traces a function."""

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
            time.sleep(3600)  # no batch comes any more
        return as_row(item)

    model_of_one_batch = model if lost_in == "the model" else copy_rows
    with running(prepare, model=model_of_one_batch) as run, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        for chunk in run.chunks(range(100)):
            assert lost_in == "a wait"
            if len(chunk.indices):
                run.pool.replace_dead = lambda: Interrupted() and 0  # between two slices of the wait


# ---- the first item of a call ------------------------------------------------------------------------


@pytest.mark.parametrize("linger", [None, 0.0])
def test_batches_of_one_row_work_in_every_call(linger: float | None) -> None:
    with running(as_row, batch_size=1) as run:
        for _ in range(3):
            results, failures = run(range(20), batch_size=1, linger=linger)
            assert not failures
            assert {index: row[0] for index, row in results.items()} == {i: i for i in range(20)}


@pytest.mark.parametrize("batch_size", [16, 128, 1000])
def test_more_failures_than_their_ring_holds_stop_nobody(batch_size: int) -> None:
    def decode(item: int) -> np.ndarray:
        if item != 7:
            raise ValueError("no")
        return as_row(item)

    with running(decode, batch_size=batch_size) as run:
        for _ in range(2):
            results, failures = run(range(1500), batch_size=batch_size)
            assert sorted(results) == [7]
            assert len(failures) == 1499


def test_a_named_tuple_of_the_main_module_may_change_its_shapes_from_call_to_call() -> None:
    Pair = collections.namedtuple("Pair", "a b")
    Pair.__module__ = "__main__"

    def pair(side: int) -> Any:
        return Pair(np.full(side, 1.0), np.full(2, 2.0))

    def model(rows: Any, template: Any) -> np.ndarray:
        return np.array([len(rows["0"][0])] * len(rows["0"]))

    with running(pair, model=model) as run:
        for side in (2, 5, 3):
            results, failures = run([side] * 20)
            assert not failures
            assert set(results.values()) == {side}


def test_what_the_model_does_not_take_decides_nothing() -> None:
    def picture(item: int) -> dict[str, Any]:
        boxes = np.zeros((item % 3, 4))
        return {"boxes": boxes, "image": np.full(4, item, np.float32), "name": None if item % 2 else "text"}

    spec = InputSpec({"image": ((4,), "float32")})
    with running(picture, spec=spec, model=lambda rows, template: np.array(rows["0"])) as run:
        rings = set()
        for first in (0, 1, 2):
            results, failures = run(range(first, 30))
            assert not failures
            assert {index + first: row[0] for index, row in results.items()} == {i: i for i in range(first, 30)}
            rings.add(id(run.loop.rows))
        assert len(rings) == 1


MORE_THAN_IS_TAKEN: dict[str, Callable[[int], Any]] = {
    "a long list": lambda item: [item] * 2000,
    "lists of various lengths": lambda item: [item] * item,
    "many names": lambda item: {f"name {number}": item for number in range(2000)},
    "a list of mappings": lambda item: [{"a": item, "b": [1, 2]}] * 2000,
    "a tuple that has all": lambda item: ([item] * 2000, {"a": item}, "text", [[], {}]),
    "more than a probe could tell": lambda item: [[0.0] * 3] * 30_000,
}


def check_that_rings_stay(run: Run, size: int) -> None:
    """Three items of one size give their rows, and another call of that size the same ring."""
    results, failures = run([size] * 3)
    assert not failures, failures[0]
    assert [row.tolist() for row in results.values()] == [[size] * size] * 3
    ring = run.loop.rows
    assert len(run([size])[0]) == 1
    assert run.loop.rows is ring


@pytest.mark.parametrize("more", MORE_THAN_IS_TAKEN)
@pytest.mark.parametrize("by", ["the model's names", "the arguments of a function"])
def test_what_the_model_does_not_take_needs_no_room_where_rows_get_another_shape(more: str, by: str) -> None:
    meta = MORE_THAN_IS_TAKEN[more]

    def picture(item: int) -> dict[str, Any]:
        return {"before": meta(item + 1), "x": np.full(item, item, np.float32), "meta": meta(item)}

    spec = InputSpec(((None,), "float32"), ["x"]) if by == "the model's names" else InputSpec(None, arguments=["x"])
    with running(picture, spec=spec, model=lambda rows, template: np.array(next(iter(rows.values())))) as run:
        for size in (5, 6):
            check_that_rings_stay(run, size)


def test_parts_of_a_named_tuple_that_the_model_does_not_take_need_no_room_either() -> None:
    Sample = collections.namedtuple("Sample", "text x boxes")
    Sample.__module__ = "__main__"
    spec = InputSpec({"x": ((None,), "float32")}, ["x"])

    def picture(item: int) -> Any:
        return Sample("text", np.full(item, item, np.float32), [{"a": 1, "b": (2, "c")}] * (2 * item))

    def model(rows: Any, template: Any) -> Any:
        assert template == {"x": 0}
        return np.array(rows["0"])

    with running(picture, spec=spec, model=model) as run:
        for size in (5, 6, 15, 6):
            check_that_rings_stay(run, size)


def test_with_a_spec_that_settles_all_no_item_travels_alone(tmp_path: pathlib.Path) -> None:
    def decode(item: int) -> np.ndarray:
        if item == 0:
            wait_for(tmp_path / "the other was here")
        else:
            (tmp_path / "the other was here").touch()
        return as_row(item)

    with running(decode, spec=spec_of((16,))) as run:
        run([5])
        (tmp_path / "the other was here").unlink()
        results, failures = run(range(2))
    assert not failures
    assert sorted(results) == [0, 1]
