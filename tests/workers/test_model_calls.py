"""`model_calls`: the item that an error is blamed on, the calls which that costs, and the rows of a call."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfeed.workers.item_order import ItemOrder
from ringfeed.workers.model_calls import ModelCalls


def run(why, rows=64):
    calls = []

    def call_model(given):
        calls.append(given["x"].tolist())
        why(given["x"])
        return given["x"] * 2

    model_calls, answers, failures = ModelCalls(call_model, rows, False), {}, {}
    for number in range(rows):
        for chunk in model_calls.add_row({"x": np.array([number])}, number, f"item {number}"):
            answers |= (
                {int(index): int(value) for index, value in zip(chunk.indices, chunk.outputs, strict=True)}
                if len(chunk.indices)
                else {}
            )
            failures |= {error.index: str(error) for error in chunk.failures}
    return calls, answers, failures


@pytest.mark.parametrize("rows", [1, 2, 8, 9, 64, 100])
def test_an_error_of_all_rows_costs_little_more_than_a_call_per_row_and_names_each_item(rows):
    def broken(_):
        raise RuntimeError("the session is broken")

    calls, answers, failures = run(broken, rows)
    assert len(calls) <= rows + np.log2(rows) + 4
    assert not answers
    assert sorted(failures) == list(range(rows))
    assert all(f"item {number}" in text and "broken" in text for number, text in failures.items())


@pytest.mark.parametrize("bad", [{0}, {63}, {40, 41}, set(range(64)), set(range(10, 64))])
def test_the_first_failure_is_of_the_first_bad_row_and_costs_few_calls(bad):
    calls = []

    def call_model(given):
        calls.append(given["x"].tolist())
        if bad.intersection(calls[-1]):
            raise ValueError("one of them is refused")
        return given["x"]

    model_calls = ModelCalls(call_model, 64, False)
    chunks = (chunk for n in range(64) for chunk in model_calls.add_row({"x": np.array([n])}, n, n))
    failure = next(chunk.failures[0] for chunk in chunks if chunk.failures)
    assert failure.index == min(bad)
    assert len(calls) <= 2 * np.log2(64) + 1


BAD = [{0}, {63}, {3, 6}, set(range(63)), {n for n in range(64) if n % 3}, {n for n in range(64) if n not in (3, 6)}]


@pytest.mark.parametrize("bad", [*BAD, set(range(64))])
@pytest.mark.parametrize("rows", [8, 64])
@pytest.mark.parametrize("says_which", [True, False])
def test_a_row_has_the_error_over_itself_alone_and_others_have_results(bad, rows, says_which):
    def unlucky(numbers):
        for number in numbers.tolist():
            if number in bad:
                raise ValueError(f"{number if says_which else 'a row'} is refused")

    calls, answers, failures = run(unlucky, rows)
    bad = bad & set(range(rows))
    assert answers == {number: 2 * number for number in range(rows) if number not in bad}
    assert set(failures) == bad
    assert all([number] in calls for number in bad)
    assert all(f"{number if says_which else 'a row'} is refused" in text for number, text in failures.items())


class Taken(dict):
    """Rows like those of a ring's batch: unreadable after their release."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self["x"][...] = -1


@st.composite
def arrivals(draw):
    """Return a batch size and the items of each take as (number, is it good?), nearly in item order."""
    count = draw(st.integers(0, 60))
    lateness = draw(st.lists(st.integers(0, draw(st.sampled_from([0, 2, 70]))), min_size=count, max_size=count))
    bad = draw(st.sets(st.integers(0, 59)))
    numbers = sorted(range(count), key=lambda number: number + lateness[number])
    return draw(st.integers(1, 9)), [(number, number not in bad) for number in numbers], draw(st.randoms())


@given(arrivals())
@settings(deadline=None)
def test_batches_are_full_and_in_item_order_for_any_order_of_rows(given_rows):
    batch_size, rows, random = given_rows
    seen, answers, late = [], {}, []

    def call_model(batch):
        seen.append(batch["x"].tolist())
        return batch["x"] * 2

    order = ItemOrder()
    calls = ModelCalls(call_model, batch_size, True, order)

    def note(chunks):
        for chunk in chunks:
            answers.update(zip(chunk.indices.tolist(), chunk.outputs.tolist(), strict=True))

    left = list(rows)
    while left:
        assert 1 <= calls.room <= batch_size
        split = random.randint(1, calls.room)
        taken, left = left[:split], left[split:]
        indices, good = np.array([number for number, _ in taken]), np.array([is_good for _, is_good in taken])
        assert calls.waits_for_a_turn == bool(late)
        note(calls.add(Taken(x=indices.copy()), indices, indices.tolist(), good))
        note(calls.leave_out(indices[~good].tolist()))
        settled = {number for number, _ in rows[: len(rows) - len(left)]}
        assert order.frontier == next(number for number in range(len(rows) + 1) if number not in settled)
        late = [number for number, is_good in rows[: len(rows) - len(left)] if is_good and number > order.frontier]
    note(calls.rest())
    wanted = sorted(number for number, is_good in rows if is_good)
    assert seen == [wanted[start : start + batch_size] for start in range(0, len(wanted), batch_size)]
    assert answers == {number: 2 * number for number in wanted}
