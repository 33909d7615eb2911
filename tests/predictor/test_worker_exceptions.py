"""Errors of items through real workers: the exception that was raised there, and its text."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pytest
from odd_exceptions import UnreadableText, WithCode
from predict_runs import running, spec_of

import ringfeed
from ringfeed.workers.failures import RemoteTraceback, RemoteValue
from ringfeed.workers.item_errors import shorten
from ringfeed.workers.sample_spec import InputSpec


class UnreadableItem:
    def __init__(self, n: int) -> None:
        self.n = n

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Unsendable(UnreadableItem):
    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")


def test_the_errors_of_items_carry_the_exceptions_of_the_worker() -> None:
    class Local(Exception):
        pass

    def decode(item: Any) -> np.ndarray:
        number = getattr(item, "n", item)
        errors = {
            1: ValueError("unlucky", 1),
            2: SystemExit("out"),
            3: KeyboardInterrupt(),
            4: FileNotFoundError(2, "No such file", "4.png"),
            5: UnreadableText(),
            6: Local("here"),
            7: WithCode(7, detail="seven"),
            8: ValueError("y" * 50_000 + " the end"),
            9: ExceptionGroup("group", [ValueError("nine")]) if sys.version_info >= (3, 11) else ValueError(),  # noqa: F821
        }
        if number in errors:
            raise errors[number]
        return np.float32(number)

    items = [UnreadableItem(n) if n == 7 else Unsendable(n) if n == 11 else n for n in range(12)]
    with running(decode) as run:
        results, failures = run(items)
        assert run.pool.process_ids  # no item ended a worker
    assert sorted(results) == [0, 10]
    by_index = {failure.index: failure for failure in failures}
    assert all(type(failure) is ringfeed.PreprocessError for failure in failures)
    assert by_index[1].exception_type == "ValueError"
    assert by_index[1].__cause__.args == ("unlucky", 1)
    assert "in decode" in str(by_index[1].__cause__.__cause__)
    assert type(by_index[2].__cause__) is SystemExit
    assert type(by_index[3].__cause__) is KeyboardInterrupt
    assert by_index[4].__cause__.filename == "4.png"
    assert by_index[5].exception_type.endswith("UnreadableText")
    assert by_index[6].exception_type.endswith("Local")
    assert (
        type(by_index[6].__cause__).__name__ == "Local"
    )  # a stand-in: the class has no name that can be resolved here
    assert by_index[6].__cause__.args == ("here",)
    assert "Local: here" in str(by_index[6])
    assert (by_index[7].__cause__.code, by_index[7].__cause__.detail) == (7, "seven")
    assert str(by_index[8]).endswith("the end")
    assert "nine" in str(by_index[9])
    if sys.version_info >= (3, 11):
        assert str(by_index[9].__cause__.exceptions[0]) == "nine"
    assert "UnreadableItem" in str(by_index[7])
    assert "whose repr raises RuntimeError" in str(by_index[7])
    assert "no pickle" in str(by_index[11])


TEXTS = {
    "Cyrillic": "\u043e\u0448\u0438\u0431\u043a\u0430 ",
    "Chinese": "\u9519\u8bef",
    "emoji": "\U0001f4a5",
    "colours of a terminal": "\x1b[31m",
    "control characters": "\x00\x01\x7f",
    "quotes and backslashes": '"\\',
    "ends of lines": "\n",
    "surrogates": "\udcff\ud83d",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_an_exception_with_a_text_of_any_length_and_letters_comes_back(text: str) -> None:
    lengths = (10, 500, 1_000, 1_900, 3_900, 5_000, 30_000)

    def decode(item: int) -> np.ndarray:
        if item:
            raise ValueError("the start", text * (lengths[item - 1] // len(text)), item)
        return np.zeros(3, np.float32)

    def fill(item: int, out: np.ndarray) -> None:
        decode(item)

    for function, spec in ((decode, InputSpec(None)), (fill, spec_of((3,)))):
        with running(function, spec=spec) as run:
            results, failures = run(range(len(lengths) + 1))
        assert sorted(results) == [0]
        assert sorted(failure.index for failure in failures) == [*range(1, len(lengths) + 1)]
        for failure in failures:
            cause = failure.__cause__
            assert type(cause) is ValueError
            start, long, end = cause.args
            assert (start, end) == ("the start", failure.index)
            sent = text * (lengths[failure.index - 1] // len(text))
            assert long == sent or (isinstance(long, RemoteValue) and lengths[failure.index - 1] > 500)
            assert isinstance(cause.__cause__, RemoteTraceback)
            assert str(cause.__cause__).rstrip().endswith(f', {failure.index})\n"""')
            assert f", {failure.index})" in str(failure)[-20:]


def test_a_class_with_a_name_without_end_breaks_nothing() -> None:
    def decode(item: int) -> np.ndarray:
        if item != 1:
            name = ("\u043e", "", "\x01")[item] * 600_000
            raise type(name, (KeyError,), {})("here", [0.1 + 0.2] * 240)
        return np.zeros(3, np.float32)

    with running(decode) as run:
        before = run.pool.process_ids
        results, failures = run(range(3))
        assert run.pool.process_ids == before
    assert sorted(results) == [1]
    assert [type(failure.__cause__).__mro__[1] for failure in failures] == [KeyError, KeyError]


def test_a_first_item_that_cannot_be_sent_or_named_is_that_items_error() -> None:
    with running(lambda item: np.float32(getattr(item, "n", 0))) as run:
        for item, said in ((Unsendable(1), "no pickle"), (threading.Lock(), "lock")):
            with pytest.raises(ringfeed.PreprocessError, match=said) as info:
                run.pool.probe(0, item)
            assert info.value.index == 0
            assert info.value.item is item
        assert run.pool.probe(0, UnreadableItem(1)).leaves == [((), "float32")]


def test_the_short_text_of_any_item_is_short() -> None:
    class Wild(np.ndarray):
        @property
        def shape(self) -> Any:
            raise RuntimeError("no shape")

    class NotText:
        def __repr__(self) -> Any:
            return 3

    for item in (
        "x" * 10**8,
        b"x" * 10**8,
        list(range(1000)),
        np.zeros((3, 4)).view(Wild),
        NotText(),
        UnreadableItem(3),
    ):
        assert 0 < len(shorten(item)) <= 160
    assert shorten("x.png") == "'x.png'"
    assert shorten("x" * 100).endswith("...")
    assert shorten(np.zeros((2, 3), np.uint8)) == "array of shape (2, 3), uint8"
