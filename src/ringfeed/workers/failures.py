"""Exceptions on their way from a worker to the predictor: described there, and rebuilt here.

An exception travels as plain data: its text, the names of its classes, its arguments and attributes. The predictor's
process imports nothing and unpickles nothing for it, so that a hostile worker runs no code there. Parts that cannot
travel have a stand-in: a class that this process has not imported, an argument that is not plain. It may not know
items, workers or rings.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import reprlib
import sys
import traceback
from dataclasses import dataclass
from typing import Any

from .plain_data import DAMAGE, NotPlain, Room, from_json, to_json
from .samples import Sample

_MAX_TEXT_BYTES = 10_000
_START_BYTES = 3_000
_MAX_DATA_BYTES = 4_000
_MAX_ARGUMENT_DEPTH = 8
_MAX_ARGUMENTS = 100
_MAX_CLASSES = 8
_MAX_NAME = 200
_MAX_TYPE_NAME = 1000
_MAX_VALUE_TEXT = 200


@dataclass(frozen=True)
class Failure:
    """Why an item failed.

    Attributes
    ----------
    kind : {"raised", "crashed", "timeout", "unfit", "unlike"}
        Unfit: the result is no row. Unlike: the sample needs rings of another layout.
    text : str
        The worker's traceback; at most about 10,000 bytes: its start, and its end, which names the error.
    exception_type : str
        Name of the exception's class, with its module unless that is ``builtins``; empty if there is no exception.
    recipe : dict or None
        The data to rebuild the exception from, as JSON; at most about 4,000 bytes. None if there is no exception.
    sample : Sample or None
        The sample, if it needs rings of another layout.
    """

    kind: str
    text: str
    exception_type: str = ""
    recipe: dict[str, Any] | None = None
    sample: Sample | None = None


class RemoteTraceback(Exception):
    """The traceback of a worker process, as the cause of a rebuilt exception."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class RemoteValue:
    """Stands for an argument of an exception that stayed in the worker, because it is no plain data, or too large.

    Attributes
    ----------
    type_name : str
        Its class in the worker.
    text : str
        Its ``repr`` there, cut to about 200 characters.
    """

    def __init__(self, type_name: str, text: str) -> None:
        self.type_name = type_name
        self.text = text

    def __repr__(self) -> str:
        return self.text


# ---- In the worker -----------------------------------------------------------------------------------


def describe_exception(error: BaseException) -> Failure:
    """Return the failure of an exception, even if the exception's own methods raise."""
    try:
        recipe = _recipe(error, Room(_MAX_DATA_BYTES), _MAX_ARGUMENT_DEPTH)
    except Exception:
        recipe = None
    return Failure("raised", traceback_text(error), type_name(type(error))[:_MAX_TYPE_NAME], recipe)


def describe_timeout(text: str) -> Failure:
    """Return the failure of an item whose worker was ended because the item took too long."""
    recipe = _recipe(TimeoutError(text), Room(_MAX_DATA_BYTES), _MAX_ARGUMENT_DEPTH)
    return Failure("timeout", text, "TimeoutError", recipe)


def traceback_text(error: BaseException) -> str:
    """Return the traceback of an exception; of a long one, its start and its end."""
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException as reason:
        text = f"{type_name(type(error))} (its traceback cannot be shown: {type_name(type(reason))})\n"
    return _shortened(text)


def type_name(kind: type) -> str:
    """Return the name of a class, with its module unless that is ``builtins``."""
    module = getattr(kind, "__module__", None)
    name = str(kind.__qualname__)
    return name if not isinstance(module, str) or module == "builtins" else f"{module}.{name}"


def message_of(error: BaseException) -> str:
    """Return ``Type: message`` in one line, even if the exception's ``str`` raises."""
    try:
        return f"{type_name(type(error))}: {error}"
    except Exception as reason:
        return f"{type_name(type(error))} (its text cannot be shown: {type_name(type(reason))})"


def _shortened(text: str) -> str:
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) <= _MAX_TEXT_BYTES:
        return text
    start, end = encoded[:_START_BYTES], encoded[_START_BYTES - _MAX_TEXT_BYTES :]
    return f"{start.decode('utf-8', 'ignore')} ... {end.decode('utf-8', 'ignore')}"


def _recipe(error: BaseException, room: Room, depth: int) -> dict[str, Any]:
    """Return the recipe of an exception: its classes, the nearest first, its arguments, its plain attributes."""
    args, attributes = _reduced(error)
    classes = [_named(kind) for kind in type(error).__mro__ if issubclass(kind, BaseException)][:_MAX_CLASSES]
    for part in itertools.chain.from_iterable(classes):
        room.take_text(part)
    recipe = {"classes": classes, "args": [_argument(value, room, depth) for value in args[:_MAX_ARGUMENTS]]}
    state = {}
    for name, value in attributes.items():
        rest = Room(room.left)
        try:
            rest.take_text(name)
            state[name] = to_json(value, rest, _exception_only, depth)
        except Exception:
            continue  # this one stays in the worker
        room.left = rest.left
    return {**recipe, "state": state} if state else recipe


def _named(kind: type) -> tuple[str, str]:
    module = getattr(kind, "__module__", None)
    return (module if type(module) is str else "")[:_MAX_NAME], str(kind.__qualname__)[:_MAX_NAME]


def _argument(value: Any, room: Room, depth: int) -> Any:
    """Return an argument, or its stand-in."""
    rest = Room(room.left)
    try:
        tree = to_json(value, rest, _special, depth)
    except Exception:  # too much of it, or its own methods raise
        return _stand_in(value, room, depth)
    room.left = rest.left
    return tree


def _special(value: Any, room: Room, depth: int) -> Any:
    return (_exception_only if isinstance(value, BaseException) else _stand_in)(value, room, depth)


def _exception_only(value: Any, room: Room, depth: int) -> Any:
    """Take exceptions within exceptions: those of a group, or a reason."""
    if not isinstance(value, BaseException) or depth <= 0:
        raise NotPlain("no plain data")
    return {"exception": _recipe(value, room, depth)}


def _stand_in(value: Any, room: Room, _depth: int) -> Any:
    short = reprlib.Repr()
    short.maxstring = short.maxother = _MAX_VALUE_TEXT
    try:
        text = short.repr(value)
    except Exception as reason:
        text = f"<its repr raises {type_name(type(reason))}>"
    name, text = type_name(type(value))[:_MAX_NAME], text[:_MAX_VALUE_TEXT]
    try:
        room.take_text(name + text)
    except NotPlain:
        text = "..."
    return {"value": [name, text]}


def _reduced(error: BaseException) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments and attributes as pickle takes them: of an OSError also the file, which `args` lacks."""
    args, attributes = error.args, getattr(error, "__dict__", {})
    try:
        reduced: Any = error.__reduce__()
        made_by, made_of, *more = reduced
    except Exception:  # the class has a method of its own
        made_by, made_of, more = None, (), []
    if made_by is type(error) and isinstance(made_of, tuple):
        args = made_of
        attributes = more[0] if more and isinstance(more[0], dict) else attributes
    return args, {name: value for name, value in attributes.items() if type(name) is str}


# ---- In the predictor's process ----------------------------------------------------------------------


def rebuild_exception(failure: Failure) -> BaseException | None:
    """Return the exception that was raised in the worker, or None if there was none.

    It is of the class of that name if this process has imported it. Otherwise it is of a stand-in class, derived from
    the nearest base class that is known here. An argument that is no plain data is a `RemoteValue`. The exception's
    ``__cause__`` is a `RemoteTraceback` with the worker's traceback. Nothing is imported.
    """
    if failure.recipe is None:
        return None
    try:
        error = _made_of(failure.recipe)
    except NotPlain:
        return None
    error.__cause__ = RemoteTraceback(failure.text)
    return error


def _made_of(recipe: Any) -> BaseException:
    """Return the exception of a recipe; raises `NotPlain` for an invalid recipe."""
    try:
        classes = [(str(module), str(name)) for module, name in recipe["classes"]]
        args = from_json({"tuple": recipe["args"]}, _remote)
        state = {str(name): from_json(value, _remote) for name, value in recipe.get("state", {}).items()}
        kind = _exception_class(classes)
    except DAMAGE as error:
        raise NotPlain(f"no exception: {error}") from None
    made = _made(kind, args)
    for name, value in state.items():
        if name == "__notes__" or not name.startswith("__"):
            with contextlib.suppress(Exception):  # an attribute that cannot be set is left out, and the others remain
                setattr(made, name, value)
    return made


def _remote(key: str, content: Any) -> Any:
    if key == "exception":
        return _made_of(content)
    if key == "value":
        kind, text = content
        return RemoteValue(str(kind), str(text))
    raise NotPlain(f"{key!r:.40} is unknown")


def _exception_class(classes: list[tuple[str, str]]) -> type[BaseException]:
    """Return the first class if it was imported already, else a stand-in for it."""
    for module, name in classes:
        found = _imported(module, name)
        if found is not None:
            return found if (module, name) == classes[0] else _standing_for(*classes[0], found)  # type: ignore[arg-type]
    raise NotPlain("none of its classes is known here")


def _imported(module: str, name: str) -> type[BaseException] | None:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        try:
            found = vars(found).get(part)
        except TypeError:
            return None
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


@functools.lru_cache(maxsize=256)
def _standing_for(module: str, name: str, base: type) -> type[BaseException]:
    doc = f"Stands for {module}.{name} of a worker process, which this process has not imported, or not by that name."
    members = {"__module__": module, "__qualname__": name, "__doc__": doc}
    kind: type[BaseException] = type(name.rpartition(".")[2], (base,), members)
    return kind


def _made(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    with contextlib.suppress(Exception):  # fails for a class whose arguments are not its `args`
        error = kind(*args)
        if isinstance(error, kind):
            return error
    try:
        error = kind.__new__(kind, *args)
        error.args = args
    except Exception as reason:
        raise NotPlain(f"the exception cannot be rebuilt: {reason}") from None
    if not isinstance(error, kind):
        raise NotPlain("its class made another object")
    return error
