"""The public names: what `dir` shows, what messages point to, and how times are passed."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import ringfeed

PACKAGE = Path(ringfeed.__file__).parent
TIMES = {"timeout", "linger", "grace_seconds"}
MODULES = [ringfeed, ringfeed.tf, ringfeed.testing]
NO_NAMES = {"ringfeed.workers.main"}  # the module in the command line of a worker


def public_functions():
    for module in MODULES:
        for name in dir(module):
            value = getattr(module, name)
            if inspect.isclass(value):
                for method in [each for each in dir(value) if not each.startswith("_")] + ["__init__", "__call__"]:
                    if callable(function := getattr(value, method, None)):
                        yield f"{name}.{method}", function
            elif inspect.isfunction(value):
                yield name, value


def messages():
    """Yield where each text of the package is that users see: messages, and the docstrings of public names."""
    for path in sorted(PACKAGE.rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                yield str(path.relative_to(PACKAGE)), node.value
    for module in MODULES:
        for name in dir(module):
            yield name, inspect.getdoc(getattr(module, name)) or ""
    for name, function in public_functions():
        yield name, inspect.getdoc(function) or ""


def names_in_messages():
    """Yield each dotted name of the package in texts of several words, and where it stands."""
    for place, text in messages():
        if " " in text:
            for name in re.findall(r"(?<![\w/.])ringfeed(?:\.[A-Za-z_]\w*)+", text):
                yield place, name


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_dir_shows_public_names_only(module):
    assert sorted(dir(module)) == sorted(module.__all__)
    assert not [name for name in dir(module) if name.startswith("_")]
    assert all(hasattr(module, name) for name in dir(module))


def test_every_name_that_a_text_points_to_is_public():
    missing = []
    for place, name in names_in_messages():
        value = ringfeed
        for part in [] if name in NO_NAMES else name.split(".")[1:]:
            if part not in dir(value):
                missing.append(f"{place}: {name}")
                break
            value = getattr(value, part)
    assert not missing


def test_times_are_passed_by_keyword_only():
    found = {}
    for name, function in public_functions():
        try:
            parameters = inspect.signature(function).parameters
        except ValueError:  # compiled, without a signature
            continue
        found |= {f"{name}({each})": parameters[each].kind for each in TIMES & set(parameters)}
    assert {"Client.predict(timeout)", "Engine.stop(timeout)", "dataset(linger)", "Ring.put(timeout)"} <= set(found)
    found.pop("Batching.__init__(linger)")  # a field of a dataclass: one of the sizes and times that make the policy
    assert {name for name, kind in found.items() if kind is not inspect.Parameter.KEYWORD_ONLY} == set()
