"""A pytest plugin that sends `keras.Model.predict` through a `ringfeed.Predictor`; known failures must fail.

It may change nothing else: Keras's tests, `fit` and `evaluate` stay as they are.
"""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from known_failures import FAILURES, NEEDS

import ringfeed
from ringfeed.tf.tensors.arrays import holds_arrays

_calls: Counter[str] = Counter()
_gone: list[str] = []


def rows_of(x: Any) -> list[Any] | None:
    """Return the rows of arrays, each nested like the arrays; None if `x` is not a nest of dense arrays."""
    if not holds_arrays(x):
        return None
    leaves = tf.nest.flatten(x)
    if not all(isinstance(leaf, (np.ndarray, tf.Tensor)) and leaf.ndim for leaf in leaves):
        return None
    arrays = [np.asarray(leaf) for leaf in leaves]
    if len({len(array) for array in arrays}) != 1:
        return None
    return [tf.nest.pack_sequence_as(x, list(row)) for row in zip(*arrays, strict=True)]


def predict_in_memory(model: Any, x: Any, *arguments: Any, **options: Any) -> Any:
    """Predict like a user of Predictor without `preprocess`."""
    _calls["without workers"] += 1
    with ringfeed.Predictor(model) as predictor:
        return predictor.predict(x, *arguments, **options)


def predict_with_workers(model: Any, x: Any, *arguments: Any, **options: Any) -> Any:
    """Predict through a worker, with one row per item; inputs without rows go through `predict_in_memory`."""
    items = rows_of(x)
    if not items:
        return predict_in_memory(model, x, *arguments, **options)
    _calls["with workers"] += 1
    # The identity, pickled by value: a function of this module would make the worker import TensorFlow.
    with ringfeed.Predictor(model, lambda row: row, workers=1) as predictor:
        return predictor.predict(items, *arguments, **options)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--predict-way", choices=["memory", "workers", "plain"], default="memory")


@pytest.fixture(autouse=True)
def _predict(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    way = request.config.getoption("--predict-way")
    if way != "plain":
        trainer = next(kind for kind in keras.Model.__mro__ if "predict" in vars(kind))
        monkeypatch.setattr(trainer, "predict", predict_with_workers if way == "workers" else predict_in_memory)


# ---- Which tests run ---------------------------------------------------------------------------------


@cache
def _predicting(path: Path) -> tuple[str, ...]:
    """Return the names of the functions of a file that call `predict`, directly or through each other.

    The search goes by name alone: two functions of one name count as one, so that no test is missed.
    """
    called: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            called[node.name] = called.get(node.name, set()) | _names_called(node)
    reaching = {"predict"}
    while more := {name for name, names in called.items() if names & reaching} - reaching:
        reaching |= more
    return tuple(name for name in reaching if name.startswith("test"))


def _names_called(function: ast.AST) -> set[str]:
    called = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
    return {part.attr if isinstance(part, ast.Attribute) else getattr(part, "id", "") for part in called}


def _is_wanted(item: pytest.Item) -> bool:
    """Tell whether a test calls `predict`; absl appends the case of a parametrised test to its name."""
    return "trainers" in item.path.parts or item.name.startswith(_predicting(item.path))


def _source(path: Path) -> str:
    return path.resolve().relative_to((Path(keras.__file__).parent / "src").resolve()).as_posix()


def _key_of(item: pytest.Item) -> str:
    """Return a test's name in the table of failures: its file below keras/src, its class and its name."""
    return "::".join([_source(item.path), item.parent.name if item.parent else "", item.name])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    way = config.getoption("--predict-way")
    config.hook.pytest_deselected(items=[item for item in items if not _is_wanted(item)])
    items[:] = [item for item in items if _is_wanted(item)]
    files, keys = {_source(item.path) for item in items}, set(map(_key_of, items))
    _gone.extend(key for key in FAILURES if key.partition("::")[0] in files and key not in keys)
    for item in items:
        key = _key_of(item)
        for start, package in NEEDS.items():
            if key.startswith(start) and find_spec(package) is None:
                item.add_marker(pytest.mark.skip(reason=f"needs {package}"))
        known = FAILURES.get(key)
        if known is not None and way in known.ways:
            item.add_marker(pytest.mark.xfail(reason=known.reason, strict=True))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.section("Model.predict through ringfeed.Predictor")
    for way in ("without workers", "with workers"):
        terminalreporter.line(f"{_calls[way]:5} calls of predict {way}")
    for key in _gone:
        terminalreporter.line(f"      known_failures.py lists a test that this Keras does not have: {key}")
