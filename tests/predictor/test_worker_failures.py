"""What an item's error carries: the class of the exception, the exception itself where it can come, and the text."""

from __future__ import annotations

import pathlib
import sys
import threading
import types
from typing import Any

import numpy as np
import pytest
from predict_runs import running, spec_of

import ringfeed
from ringfeed.workers.failures import Failure, RemoteTraceback, RemoteValue, describe_exception, rebuild_exception
from ringfeed.workers.item_errors import preprocess_error, shorten
from ringfeed.workers.messages import decode_failure, encode_failure
from ringfeed.workers.sample_spec import InputSpec


class WithCode(Exception):
    """Whose arguments are not those of its constructor."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.detail = detail
        self.lock = threading.Lock()


class Nested:
    class Inner(ValueError):
        pass


class UnreadableText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


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
def test_an_exception_of_a_known_class_comes_back_as_it_was(error: BaseException) -> None:
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


def test_a_class_that_is_not_known_here_has_a_stand_in_below_the_nearest_that_is() -> None:
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


def test_an_exception_in_a_circle_of_itself_ends() -> None:
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
def test_an_exception_group_is_named_and_its_text_has_all_of_it() -> None:
    failure = failing(lambda: ExceptionGroup("several", [ValueError("one"), KeyError("two")]))  # noqa: F821
    assert failure.exception_type == "ExceptionGroup"
    for text in ("several", "ValueError: one", "KeyError: 'two'"):
        assert text in failure.text
    again = rebuild_exception(decode_failure(encode_failure(failure)))
    assert type(again) is ExceptionGroup  # noqa: F821
    assert again.message == "several"
    assert [(type(part), part.args) for part in again.exceptions] == [(ValueError, ("one",)), (KeyError, ("two",))]


def test_notes_come_along() -> None:
    error = ValueError("x")
    error.__notes__ = ["of item 5"]  # as `add_note` of Python 3.11 does
    again = rebuild_exception(failing(lambda: error))
    assert again is not None
    assert again.__notes__ == ["of item 5"]


@pytest.mark.parametrize("kind", [UnreadableText, LyingReduce])
def test_an_exception_whose_own_methods_raise_breaks_no_message(kind: type[Exception]) -> None:
    error = preprocess_error(failing(lambda: kind("x")), 5, "item", "")
    assert kind.__name__ in str(error)
    assert error.exception_type == f"{__name__}.{kind.__name__}"


def test_an_exception_that_raises_whatever_it_is_asked_for_ends_no_worker() -> None:
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


def test_nothing_is_imported_and_nothing_but_an_exception_is_made() -> None:
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


# ---- through real workers ----------------------------------------------------------------------------


class UnreadableItem:
    def __init__(self, n: int) -> None:
        self.n = n

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Unsendable(UnreadableItem):
    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")


def test_the_errors_of_items_carry_what_was_raised_in_the_worker() -> None:
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
        assert run.pool.process_ids  # none of them ended a worker
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
    assert type(by_index[6].__cause__).__name__ == "Local"  # a stand-in: no name leads to it here
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
def test_the_exception_comes_back_however_long_its_text_is_and_of_whatever_letters(text: str) -> None:
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


def test_the_short_text_of_an_item_is_short_whatever_it_is() -> None:
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
