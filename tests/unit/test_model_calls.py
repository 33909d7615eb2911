"""`ringfeed.model_calls`: an error common to all rows costs few calls, and rows that are right are never blamed."""

from __future__ import annotations

import numpy as np
import pytest

from ringfeed.model_calls import ModelCalls


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


@pytest.mark.parametrize("rows", [8, 9, 64, 100])
def test_an_error_of_all_rows_costs_few_calls_and_names_each_item(rows):
    def broken(_):
        raise RuntimeError("the session is broken")

    calls, answers, failures = run(broken, rows)
    assert len(calls) <= 2 * np.log2(rows) + 4
    assert not answers
    assert sorted(failures) == list(range(rows))
    assert all(f"item {number}" in text and "broken" in text for number, text in failures.items())


@pytest.mark.parametrize("bad", [{0}, {63}, set(range(63)), {n for n in range(64) if n % 3}, set(range(64))])
def test_rows_that_are_right_have_results_whichever_others_fail(bad):
    def unlucky(numbers):
        for number in numbers.tolist():
            if number in bad:
                raise ValueError(f"{number} is refused")

    _, answers, failures = run(unlucky)
    assert answers == {number: 2 * number for number in range(64) if number not in bad}
    assert set(failures) == bad
    assert all(f"{number} is refused" in text for number, text in failures.items())
