"""Functions and results of any form, and first items that decide the layout of a row."""

from __future__ import annotations

import collections
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from predict_runs import Run, as_row, running, spec_of, wait_for

from ringfeed.workers.sample_spec import InputSpec


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
    """A subclass of NumPy's array."""


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


@pytest.mark.parametrize("linger", [None, 0.0])
def test_batches_of_one_row_work_in_every_call(linger: float | None) -> None:
    with running(as_row, batch_size=1) as run:
        for _ in range(3):
            results, failures = run(range(20), batch_size=1, linger=linger)
            assert not failures
            assert {index: row[0] for index, row in results.items()} == {i: i for i in range(20)}


@pytest.mark.parametrize("batch_size", [16, 128, 1000])
def test_more_failures_than_their_ring_holds_block_no_process(batch_size: int) -> None:
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


def test_parts_that_the_model_does_not_take_decide_nothing() -> None:
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
    """Predict three items of one size. A second call with that size uses the same ring."""
    results, failures = run([size] * 3)
    assert not failures, failures[0]
    assert [row.tolist() for row in results.values()] == [[size] * size] * 3
    ring = run.loop.rows
    assert len(run([size])[0]) == 1
    assert run.loop.rows is ring


@pytest.mark.parametrize("more", MORE_THAN_IS_TAKEN)
@pytest.mark.parametrize("by", ["the model's names", "the arguments of a function"])
def test_parts_that_the_model_does_not_take_need_no_room_where_rows_change_shape(more: str, by: str) -> None:
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


def test_with_a_complete_spec_no_item_is_sent_alone(tmp_path: pathlib.Path) -> None:
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
