"""Exceptions described as plain data and rebuilt: their class, arguments, attributes and text."""

from __future__ import annotations

import pathlib
import sys
import threading
import types
from typing import Any

import numpy as np
import pytest
from odd_exceptions import UnreadableText, WithCode
from predict_runs import running

import ringfeed
from ringfeed.workers.failures import Failure, RemoteTraceback, RemoteValue, describe_exception, rebuild_exception
from ringfeed.workers.item_errors import preprocess_error
from ringfeed.workers.messages import decode_failure, encode_failure


class Nested:
    class Inner(ValueError):
        pass


class LyingReduce(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")


def failing(make: Any) -> Failure:
    try:
        raise make()
    except BaseException as error:
        return describe_exception(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("unlucky", 13),
        KeyError(("a", 1)),
        FileNotFoundError(2, "No such file or directory", "x.png"),
        OSError("just a text"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        ZeroDivisionError(),
        TimeoutError("late"),
        SystemExit(3),
        KeyboardInterrupt(),
        StopIteration(4),
        np.exceptions.AxisError(3, 2),
        Nested.Inner("inner", [1, (2.5, None, True)], b"bytes"),
        WithCode(5, detail="d"),
        LyingReduce("plain anyway"),
        ImportError("no module", name="m", path="p"),
        ValueError("\udcff surrogate", float("inf"), 1 << 70, 2j),
        ringfeed.RingFull("full"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_of_a_known_class_comes_back_unchanged(error: BaseException) -> None:
    failure = decode_failure(encode_failure(failing(lambda: error)))
    again = rebuild_exception(failure)
    assert type(again) is type(error)
    assert again.args == error.args
    assert str(again) == str(error)
    for name in ("filename", "errno", "code", "detail", "name", "path", "axis", "reason"):
        if hasattr(error, name):
            assert getattr(again, name) == getattr(error, name)
    assert isinstance(again.__cause__, RemoteTraceback)
    assert "Traceback (most recent call last)" in str(again.__cause__)
    assert type(error).__name__ in failure.exception_type


def test_the_name_of_a_class_has_its_module_unless_it_is_built_in() -> None:
    assert failing(lambda: ValueError()).exception_type == "ValueError"
    assert failing(lambda: Nested.Inner()).exception_type == f"{__name__}.Nested.Inner"


@pytest.mark.parametrize(
    ("argument", "type_name"),
    [
        (object(), "object"),
        (threading.Lock(), "_thread.lock"),
        ("x" * 100_000, "str"),
        ([["deep"] * 5000], "list"),
        (1 << 1_000_000, "int"),
        (np.zeros((100, 100)), "numpy.ndarray"),
        (UnreadableText(), f"{__name__}.UnreadableText"),
    ],
    ids=["object", "lock", "long text", "long list", "huge number", "large array", "text that raises"],
)
def test_an_argument_that_is_not_plain_or_too_long_has_a_stand_in(argument: Any, type_name: str) -> None:
    failure = failing(lambda: ValueError("before", argument, "behind"))
    body = encode_failure(failure)
    assert len(body) < 16_000
    again = rebuild_exception(decode_failure(body))
    assert type(again) is ValueError
    before, between, behind = again.args
    assert (before, behind) == ("before", "behind")
    if isinstance(argument, Exception):
        assert type(between) is type(argument)
    else:
        assert isinstance(between, RemoteValue)
        assert between.type_name == type_name
        assert len(repr(between)) <= 200


@pytest.mark.parametrize(
    "argument",
    [
        np.arange(6, dtype=np.int16).reshape(2, 3),
        {"key": (1, b"two"), 3: {4.0}},
        frozenset({"a"}),
        pathlib.Path("/a/b.png"),
        [[], (), {}, set(), ""],
        np.zeros((0, 4), np.complex64),
    ],
    ids=["array", "dict", "frozenset", "path", "empties", "array without numbers"],
)
def test_arguments_that_are_plain_data_come_back(argument: Any) -> None:
    again = rebuild_exception(decode_failure(encode_failure(failing(lambda: ValueError(argument)))))
    assert again is not None
    np.testing.assert_equal(again.args[0], argument)
    assert type(again.args[0]) is type(argument)


def test_an_unknown_class_has_a_stand_in_derived_from_its_nearest_known_base() -> None:
    def late() -> BaseException:
        module = types.ModuleType("of_the_worker_alone")
        exec("class Parent(OSError): pass\nclass Broken(Parent): pass", vars(module))
        return module.Broken(2, "gone", "x.png")  # type: ignore[no-any-return]

    failure = failing(late)
    assert failure.exception_type == "of_the_worker_alone.Broken"
    again, other = rebuild_exception(failure), rebuild_exception(failure)
    assert isinstance(again, OSError)
    assert (type(again).__module__, type(again).__name__) == ("of_the_worker_alone", "Broken")
    assert type(again) is type(other)
    assert again.filename == "x.png"
    assert "not imported" in str(type(again).__doc__)
    assert "of_the_worker_alone" not in sys.modules


def test_a_scalar_of_numpy_in_an_exception_becomes_a_number_of_python() -> None:
    again = rebuild_exception(failing(lambda: KeyError(np.int64(5), np.float32(0.5))))
    assert again is not None
    assert again.args == (5, 0.5)
    assert [type(value) for value in again.args] == [int, float]


def test_the_text_of_a_circular_chain_of_exceptions_ends() -> None:
    arguments: list[Any] = []
    arguments.append(arguments)
    again = rebuild_exception(failing(lambda: ValueError(arguments)))
    assert type(again) is ValueError
    circle = ValueError("circle")
    circle.args = (circle,)
    assert type(rebuild_exception(failing(lambda: circle))) is ValueError


def test_a_chain_of_exceptions_and_a_group_are_in_the_text() -> None:
    def chain() -> None:
        try:
            try:
                raise KeyError("first")
            except KeyError as first:
                raise ValueError("second") from first
        except ValueError:
            raise TypeError("third")  # noqa: B904

    try:
        chain()
    except TypeError as error:
        failure = describe_exception(error)
    for text in ("KeyError: 'first'", "ValueError: second", "TypeError: third"):
        assert text in failure.text
    again = rebuild_exception(failure)
    assert isinstance(again, TypeError)
    assert "KeyError: 'first'" in str(again.__cause__)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups are of Python 3.11")
def test_an_exception_group_is_named_and_its_text_is_complete() -> None:
    failure = failing(lambda: ExceptionGroup("several", [ValueError("one"), KeyError("two")]))  # noqa: F821
    assert failure.exception_type == "ExceptionGroup"
    for text in ("several", "ValueError: one", "KeyError: 'two'"):
        assert text in failure.text
    again = rebuild_exception(decode_failure(encode_failure(failure)))
    assert type(again) is ExceptionGroup  # noqa: F821
    assert again.message == "several"
    assert [(type(part), part.args) for part in again.exceptions] == [(ValueError, ("one",)), (KeyError, ("two",))]


def test_notes_of_an_exception_are_kept() -> None:
    error = ValueError("x")
    error.__notes__ = ["of item 5"]  # as `add_note` of Python 3.11 does
    again = rebuild_exception(failing(lambda: error))
    assert again is not None
    assert again.__notes__ == ["of item 5"]


@pytest.mark.parametrize("kind", [UnreadableText, LyingReduce])
def test_an_exception_whose_own_methods_raise_breaks_no_message(kind: type[Exception]) -> None:
    error = preprocess_error(failing(lambda: kind("x")), 5, "item", "")
    assert kind.__name__ in str(error)
    assert error.exception_type == f"{kind.__module__}.{kind.__name__}"


def test_an_exception_whose_every_attribute_raises_ends_no_worker() -> None:
    class SaysNothing(Exception):
        def __getattribute__(self, name: str) -> Any:
            raise MemoryError(name)

    def decode(item: int) -> np.ndarray:
        if item == 1:
            raise SaysNothing
        return np.float32(item)

    with running(decode) as run:
        results, failures = run(range(3))
    assert sorted(results) == [0, 2]
    assert [type(failure) for failure in failures] == [ringfeed.PreprocessError]
    assert failures[0].exception_type.endswith("SaysNothing")


def test_nothing_is_imported_and_only_exceptions_are_made() -> None:
    made = []

    class Dangerous:
        def __init__(self, *args: Any) -> None:
            made.append(args)

    globals()["Dangerous"] = Dangerous
    try:
        for classes in (
            [(__name__, "Dangerous")],
            [("os", "system")],
            [("json.tool", "JSONDecodeError"), ("antigravity", "X")],
            [("", "")],
            [(".", "."), ("a", ".b")],
            [],
            "os.system",
            [("os",)],
            None,
        ):
            recipe = {"classes": classes, "args": ["x"]}
            assert rebuild_exception(Failure("raised", "text", "Error", recipe)) is None
    finally:
        del globals()["Dangerous"]
    assert not made
    assert "antigravity" not in sys.modules
