"""Imports point one way only (ARCHITECTURE.md, "The layers").

Reads the source files; knows nothing of what they do. A new module gets its place in LAYERS.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "ringfeed"

# Lowest first: folders, and the modules that stand beside them. Each imports from layers below its own, or from its own
# where that closes no circle. A new module beside the folders gets its place here.
LAYERS = [
    {"version", "errors", "nest", "arguments", "turns", "progress", "torch_arrays", "failure_text", "record_spec"},
    {"dead_letters", "stall"},
    {"machine", "sharing", "page_locking"},
    {"_core"},
    {"segment", "ctrl_c", "terminations", "ring_options"},
    {"ring", "inventory"},
    {"workers"},
    {"client"},
    {"tf.tensors"},
    {"tf.models"},
    {"tf.feed"},
    {"tf.predict"},
    {"tf"},
    {"engine"},
    {"predictor", "testing"},
    {"server"},
    {"cli"},
    {"__main__"},
]
FIRST_LAYER_WITH_TENSORFLOW = "tf.tensors"
LEVELS = {name: level for level, layer in enumerate(LAYERS) for name in layer}

# Each costs a producer time and memory that only the model process should pay.
HEAVY = {"tensorflow", "keras", "torch", "jax", "scipy", "sklearn", "skimage", "PIL"}

FACADE = PACKAGE / "__init__.py"  # stands above all layers
PYTHON_FILES = sorted(PACKAGE.rglob("*.py"))
CYTHON_FILES = sorted([*PACKAGE.rglob("*.pyx"), *PACKAGE.rglob("*.pxd")])
SOURCE_FILES = [*PYTHON_FILES, *CYTHON_FILES]
C_FILES = sorted([*(ROOT / "csrc").rglob("*.c"), *(ROOT / "csrc").rglob("*.h")])


def module_name(path: Path) -> str:
    """Return the dotted name of a source file, such as `ringfeed.tf.feed`."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> str:
    """Return the longest part of a module's name that has a place in LAYERS; the package itself has none."""
    parts = module.split(".")[1:]
    names = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return next((name for name in names if name in LEVELS), ".".join(parts[:1]))


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or any(path.with_suffix(suffix).exists() for suffix in (".py", ".pyx"))


def import_statements(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each import of a file, wherever it stands, as (module, names); leading dots stay, names may be empty."""
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((alias.name, []) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield "." * node.level + (node.module or ""), [alias.name for alias in node.names]
    else:  # Cython, which Python cannot parse
        for line in path.read_text().splitlines():
            if match := re.match(r"\s*from\s+([\w.]+)\s+c?import\s+\(?([\w, ]*)", line):
                yield match[1], re.findall(r"\w+", match[2])
            elif match := re.match(r"\s*c?import\s+([\w.]+)", line):
                yield match[1], []


def imports(path: Path) -> set[str]:
    """Return the full names of the modules that a file imports."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    found = set()
    for module, names in import_statements(path):
        level = len(module) - len(module.lstrip("."))
        parents = package[: len(package) - level + 1] if level else []
        source = ".".join([*parents, *filter(None, [module.lstrip(".")])])
        if names and source.split(".")[0] == "ringfeed":
            found |= {f"{source}.{name}" if is_module(f"{source}.{name}") else source for name in names}
        else:
            found.add(source)
    return found


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [path for path in SOURCE_FILES if path != FACADE], ids=relative)
def test_a_module_imports_only_from_its_own_layer_and_below(path):
    layer = layer_of(module_name(path))
    assert layer in LEVELS, f"give {relative(path)} its place in LAYERS"
    for imported in imports(path):
        if imported.split(".")[0] == "ringfeed":
            below = layer_of(imported)
            assert below in LEVELS, f"{relative(path)}: import from the module that defines it, not from {imported}"
            assert LEVELS[below] <= LEVELS[layer], f"{relative(path)}: {imported} is in a layer above"


def test_no_modules_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {}
    for path in SOURCE_FILES:
        name = module_name(path)
        graph[name] = graph.get(name, set()) | imports(path) - {name}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", SOURCE_FILES, ids=relative)
def test_only_the_tf_folder_and_above_import_a_heavy_framework(path):
    if LEVELS.get(layer_of(module_name(path)), -1) < LEVELS[FIRST_LAYER_WITH_TENSORFLOW]:
        assert not {name.split(".")[0] for name in imports(path)} & HEAVY


@pytest.mark.parametrize("path", C_FILES, ids=relative)
def test_the_c_core_includes_no_header_of_python_or_tensorflow(path):
    includes = re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)', path.read_text(), flags=re.MULTILINE)
    assert not [name for name in includes if re.match(r"Python\.h|numpy/|tensorflow/|absl/|tsl/|xla/", name)]


def test_importing_ringfeed_imports_no_heavy_framework():
    program = "import ringfeed, sys; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert "ringfeed" in loaded
    assert not set(loaded) & (HEAVY | {"ml_dtypes", "cuda"})
