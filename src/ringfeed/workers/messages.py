"""The messages of a worker to its pool, as bytes that the pool may trust: plain data, every part of it checked.

Commands go to workers as pickles, because they carry the user's classes. Nothing from a worker is unpickled: a worker
that a damaged picture has taken over would run its code in the process of the model. This module may not know how
messages travel.
"""

from __future__ import annotations

import collections
import functools
import keyword
import sys
from dataclasses import dataclass
from typing import Any

from ..record_spec import as_dtype
from .failures import Failure
from .plain_data import DAMAGE, NotPlain, Room, dumps, from_json, loads, to_json
from .samples import Sample

MAX_BYTES = 1 << 20
"""The size limit of a message over the channel."""

_MAX_PARTS = 255  # of a named tuple
_MAX_LEVELS = 50  # of a sample: the predictor reads each level some calls deeper
_KINDS = ("raised", "crashed", "timeout", "unfit", "unlike")
_LOADED = ("function", "initializer", "command", "rings")


@dataclass(frozen=True)
class Ready:
    """The function is loaded, the initializer has run."""


@dataclass(frozen=True)
class LoadingFailed:
    """The worker raised something that no item caused, and ends."""

    what: str  # "function", "initializer", "command" or "rings"
    text: str


@dataclass(frozen=True)
class ProbeResult:
    """The result of the probe of that number."""

    number: int
    result: Sample | Failure


WorkerMessage = Ready | LoadingFailed | ProbeResult


# ---- In the worker -----------------------------------------------------------------------------------


def encode_message(message: WorkerMessage) -> bytes:
    """Return a message as bytes.

    Raises
    ------
    NotPlain
        The structure of a sample cannot travel, or its description is too large.
    """
    if isinstance(message, Ready):
        return dumps({"ready": True})
    if isinstance(message, LoadingFailed):
        return dumps({"loading_failed": [message.what, message.text]})
    result = message.result
    tree = {"sample": _sample_tree(result)} if isinstance(result, Sample) else {"failure": _failure_tree(result)}
    body = dumps({"probe": [message.number, tree]})
    if len(body) > MAX_BYTES:
        raise NotPlain(
            f"preprocess returned a structure whose description takes {len(body)} bytes; the limit is {MAX_BYTES}. "
            "Return fewer arrays, under the names of the model's inputs; make an array of a list of numbers: "
            "numpy.asarray(...)."
        )
    return body


def encode_failure(failure: Failure) -> bytes:
    """Return a failure as bytes; raises `NotPlain` if the structure of its sample cannot travel."""
    return dumps(_failure_tree(failure))


def _failure_tree(failure: Failure) -> dict[str, Any]:
    tree: dict[str, Any] = {"kind": failure.kind, "text": failure.text, "type": failure.exception_type}
    if failure.recipe is not None:
        tree["recipe"] = failure.recipe
    if failure.sample is not None:
        tree["sample"] = _sample_tree(failure.sample)
    return tree


def _sample_tree(sample: Sample) -> dict[str, Any]:
    leaves = [leaf if isinstance(leaf, str) else [list(leaf[0]), leaf[1]] for leaf in sample.leaves]
    return {"template": _template_tree(sample.template, _MAX_LEVELS), "leaves": leaves}


def _template_tree(template: Any, levels: int) -> Any:
    """Return a nest of numbers as JSON; classes of named tuples become their names."""
    if isinstance(template, (dict, list, tuple)) and levels == 0:
        raise NotPlain(
            f"preprocess returned a nest of more than {_MAX_LEVELS} levels. Return an array, or a dict of arrays; "
            "make an array of a list of numbers: numpy.asarray(...)."
        )
    if isinstance(template, dict):
        return {"dict": [[_key(key), _template_tree(part, levels - 1)] for key, part in template.items()]}
    if isinstance(template, (list, tuple)):
        parts = [_template_tree(part, levels - 1) for part in template]
        kind = type(template)
        if kind in (list, tuple):
            return parts if kind is list else {"tuple": parts}
        fields = list(getattr(kind, "_fields", ())) or None
        return {"class": [kind.__module__, kind.__qualname__, issubclass(kind, list), fields, parts]}
    return int(template)


def _key(key: Any) -> Any:
    if isinstance(key, str):
        key = str.__str__(key)  # the text of a StrEnum, too
    elif isinstance(key, int) and not isinstance(key, bool):
        key = int(key)
    try:
        return to_json(key, Room(sys.maxsize))
    except NotPlain:
        raise NotPlain(
            f"preprocess returned a mapping with the key {key!r:.80}, a {type(key).__name__}; use the names of the "
            "model's inputs as keys."
        ) from None


# ---- In the predictor's process ----------------------------------------------------------------------


def decode_message(body: bytes | memoryview) -> WorkerMessage:
    """Return the message that `encode_message` wrote; raises `NotPlain` for other bytes."""
    try:
        ((key, content),) = loads(body).items()
        if key == "ready":
            return Ready()
        if key == "loading_failed":
            what, text = content
            if what in _LOADED:
                return LoadingFailed(what, _text(text))
        elif key == "probe":
            number, tree = content
            ((kind, result),) = tree.items()
            if type(number) is int and kind in ("sample", "failure"):
                return ProbeResult(number, _sample(result) if kind == "sample" else _failure(result))
    except DAMAGE as error:
        raise NotPlain(f"no message: {error}") from None
    raise NotPlain("no message")


def decode_failure(body: bytes | memoryview) -> Failure:
    """Return the failure that `encode_failure` wrote; raises `NotPlain` for other bytes."""
    try:
        return _failure(loads(body))
    except DAMAGE as error:
        raise NotPlain(f"no failure: {error}") from None


def _failure(tree: dict[str, Any]) -> Failure:
    kind, recipe, sample = _text(tree["kind"]), tree.get("recipe"), tree.get("sample")
    if kind not in _KINDS or not (recipe is None or isinstance(recipe, dict)):
        raise NotPlain("no failure")
    found = None if sample is None else _sample(sample)
    return Failure(kind, _text(tree["text"]), _text(tree["type"]), recipe, found)


def _sample(tree: dict[str, Any]) -> Sample:
    leaves = [leaf if isinstance(leaf, str) else _shape_and_dtype(*leaf) for leaf in tree["leaves"]]
    numbers: list[int] = []
    template = from_json(_checked_template(tree["template"], numbers), _nest_of_class)
    if not leaves or sorted(numbers) != list(range(len(leaves))):
        raise NotPlain("a template without its leaves")
    return Sample(template, leaves)


def _shape_and_dtype(shape: Any, dtype: Any) -> tuple[tuple[int, ...], str]:
    if not all(type(length) is int and 0 <= length < 1 << 62 for length in shape):
        raise NotPlain("no shape")
    return tuple(shape), as_dtype(_text(dtype)).name


def _checked_template(tree: Any, numbers: list[int]) -> Any:
    """Collect the numbers of a template, which may hold nothing else."""
    if type(tree) is int:
        numbers.append(tree)
    elif isinstance(tree, list):
        for part in tree:
            _checked_template(part, numbers)
    else:
        ((key, content),) = tree.items()
        if key not in ("dict", "tuple", "class"):
            raise NotPlain("no template")
        for part in [pair[1] for pair in content] if key == "dict" else content[4] if key == "class" else content:
            _checked_template(part, numbers)
    return tree


def _nest_of_class(key: str, content: Any) -> Any:
    """Make a tuple or list of the class of that name if this process has imported it, else of a similar class."""
    if key != "class":
        raise NotPlain(f"{key!r:.40} is unknown")
    module, name, is_list, fields, parts = content
    values = [from_json(part, _nest_of_class) for part in parts]
    if fields is None:
        return values if is_list else tuple(values)
    names = tuple(_text(field) for field in fields)
    if len(names) != len(values) or len(names) > _MAX_PARTS:
        raise NotPlain("a named tuple of another length")
    return _named_tuple(_text(module), _text(name), names)._make(values)


@functools.lru_cache(maxsize=64)
def _named_tuple(module: str, name: str, fields: tuple[str, ...]) -> Any:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    if isinstance(found, type) and issubclass(found, tuple) and getattr(found, "_fields", None) == fields:
        return found
    simple = name.rpartition(".")[2]
    if not simple.isidentifier() or keyword.iskeyword(simple):
        raise NotPlain("no class name")
    return collections.namedtuple(simple, fields)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise NotPlain("a text is missing")
    return value
