"""The stub file of the extension names exactly the extension's public members."""

import ast
import inspect
from pathlib import Path

import pytest

import ringfeed
from ringfeed import _core

STUBS = ast.parse(Path(_core.__file__).with_name("_core.pyi").read_text())
CLASSES = {node.name: node for node in STUBS.body if isinstance(node, ast.ClassDef)}
# Members of every class. Cython adds __delitem__ to each class that has __setitem__.
EVERYWHERE = {*dir(object), "__delitem__", "__module__", "__pyx_vtable__"}


def stubbed(nodes):
    names = set()
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign):
            names.add(node.target.id)
    return names


def public(names):
    private = {name for name in names if name.startswith("_") and not name.endswith("__")}
    return set(names) - private - EVERYWHERE


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_the_members_that_its_stub_has(name):
    assert public(stubbed(CLASSES[name].body)) == public(vars(getattr(_core, name)))


def test_the_module_has_the_public_names_that_its_stub_has():
    runtime = {
        name
        for name, value in vars(_core).items()
        if not name.startswith("_") and getattr(value, "__module__", _core.__name__) == _core.__name__
    }
    runtime -= {name for name, value in vars(_core).items() if inspect.ismodule(value)}
    assert {name for name in stubbed(STUBS.body) if not name.startswith("_")} == runtime


@pytest.mark.parametrize("name", sorted({"Batch", "Claim", "DLPackView", "Ring"}))
def test_everything_public_has_a_docstring(name):
    assert inspect.getdoc(getattr(ringfeed, name))
    for member, value in inspect.getmembers(getattr(ringfeed, name)):
        if member in ("name", "ring"):  # plain attributes cannot have a docstring
            continue
        if not member.startswith("_") and (callable(value) or inspect.isdatadescriptor(value)):
            assert inspect.getdoc(value), f"{name}.{member} has no docstring"
