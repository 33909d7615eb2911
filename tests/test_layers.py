"""Imports and includes point down only (ARCHITECTURE.md, "The layers").

    python tests/test_layers.py --draw     print which folder imports or includes which, with counts

It reads the source files, and may not know what they do. A new module gets its place in LAYERS, a new folder of csrc/
in C_LAYERS.
"""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from source_tree import (
    C_FILES,
    CSRC,
    CYTHON_FILES,
    PACKAGE,
    PYTHON_FILES,
    calls,
    circle_in,
    imports,
    includes,
    module_name,
    own_header,
    reachable_headers,
    relative,
)

# Lowest first: folders, and the modules beside them. Each imports from layers below its own, or from its own layer
# without a circle. A new module beside the folders gets its place here.
LAYERS = [
    {"version", "errors", "nest", "arguments", "turns", "progress", "torch_arrays", "failure_text", "record_spec"},
    {"dead_letters", "stall"},
    {"machine", "sharing", "page_locking"},
    {"_core"},
    {"segment", "ctrl_c", "terminations", "ring_options"},
    {"ring", "ring_handover", "ring_levels", "ring_memory", "inventory"},
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

# A producer must not pay the time and memory that these cost the model process.
HEAVY = {"tensorflow", "keras", "torch", "jax", "scipy", "sklearn", "skimage", "PIL"}

# ---- csrc/ -----------------------------------------------------------------------------------------------------------

# Lowest first. A file includes headers of its own folder, of folders below, and of include/. tf_op/ is another shared
# object, which is linked with none of them.
C_LAYERS = ["segment", "ring", "replies", "feed"]
C_FOLDERS = ["include", *C_LAYERS, "tf_op"]

# The public headers of replies and of feeds are not for every folder. All may know ringfeed.h and its parts.
SPECIAL_HEADERS = {"replies.h", "meter.h", "feed.h"}
KNOWN_SPECIAL_HEADERS = {
    "include": {"replies.h"},
    "segment": set(),
    "ring": set(),
    "replies": {"replies.h", "meter.h"},
    "feed": {"feed.h"},
    "tf_op": {"feed.h"},
}

# Headers that the files of a folder, or one file, may not include, even through others.
# A name with a slash at its end is a folder.
UNKNOWN_HEADERS = {
    # Feeds may not know the slot protocol: only numbers about slots, the life of a handle, and atomics.
    "feed": ("segment/", "ring/"),
    "feed/interrupt": ("ringfeed.h",),
    "feed/messages": ("segment/", "ring/"),
    "feed/wait_hook": ("segment/", "ring/"),
    "feed/op_table": ("segment/", "ring/"),
    # Reply cells may not know how a request travels.
    "replies": (
        *("ring/claim.h", "ring/find.h", "ring/due.h", "ring/order.h", "ring/window.h", "ring/streaming.h"),
        *("ring/dead_letters.h", "ring/producers.h", "segment/process_mark.h", "segment/page_lock.h"),
    ),
}
EXCEPTIONS = {"feed": {"ring/census.h", "segment/handle_lifetime.h", "segment/atomics.h"}}

FACADE = PACKAGE / "__init__.py"  # stands above all layers
SOURCE_FILES = [*PYTHON_FILES, *CYTHON_FILES]


def layer_of(module: str) -> str:
    """Return the longest part of a module's name that has a place in LAYERS; the package itself has none."""
    parts = module.split(".")[1:]
    names = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return next((name for name in names if name in LEVELS), ".".join(parts[:1]))


# ---- Python ----------------------------------------------------------------------------------------------------------


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
    assert not circle_in(graph)


@pytest.mark.parametrize("path", SOURCE_FILES, ids=relative)
def test_only_the_tf_folder_and_above_import_a_heavy_framework(path):
    if LEVELS.get(layer_of(module_name(path)), -1) < LEVELS[FIRST_LAYER_WITH_TENSORFLOW]:
        assert not {name.split(".")[0] for name in imports(path)} & HEAVY


def test_importing_ringfeed_imports_no_heavy_framework():
    program = "import ringfeed, sys; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert "ringfeed" in loaded
    assert not set(loaded) & (HEAVY | {"ml_dtypes", "cuda"})


# ---- C ---------------------------------------------------------------------------------------------------------------


def folders_below(folder: str) -> set[str]:
    """Return the folders of csrc/ whose headers a file of `folder` may include, itself among them."""
    below = C_LAYERS[: C_LAYERS.index(folder)] if folder in C_LAYERS else []
    return {folder, "include", *below}


def is_unknown(header: str, owner: str) -> bool:
    """Tell whether UNKNOWN_HEADERS keeps a header from a folder, or from one file."""
    matches = any(header.startswith(name) if name.endswith("/") else header == name for name in UNKNOWN_HEADERS[owner])
    return matches and header not in EXCEPTIONS.get(owner, ())


@pytest.mark.parametrize("path", C_FILES, ids=relative)
def test_a_c_file_includes_headers_of_its_own_folder_and_below(path):
    assert path.parent.name in C_FOLDERS, f"give csrc/{path.parent.name}/ its place in C_LAYERS"
    headers = {header for header in map(own_header, includes(path)) if header is not None}
    assert {header.parent.name for header in headers} <= folders_below(path.parent.name)


@pytest.mark.parametrize("path", C_FILES, ids=relative)
def test_a_c_file_reaches_no_header_that_it_may_not_know(path):
    reached = reachable_headers(path)
    special = SPECIAL_HEADERS & {header.name for header in reached if header.parent.name == "include"}
    assert special <= KNOWN_SPECIAL_HEADERS[path.parent.name] | {path.name}
    names = {str(header.relative_to(CSRC)).removeprefix("include/") for header in reached}
    for owner in UNKNOWN_HEADERS.keys() & {path.parent.name, str(path.relative_to(CSRC).with_suffix(""))}:
        assert not {name for name in names if is_unknown(name, owner)}, f"{owner} may not know these headers"


@pytest.mark.parametrize("path", C_FILES, ids=relative)
def test_a_c_file_includes_no_header_of_python_or_tensorflow(path):
    assert not [name for name in includes(path) if re.match(r"Python\.h|numpy/|tensorflow/|absl/|tsl/|xla/", name)]


def test_a_c_file_calls_only_functions_of_its_own_folder_and_below():
    for path, used in calls().items():
        above = {relative(other) for other in used if other.parent.name not in folders_below(path.parent.name)}
        assert not above, f"{relative(path)} calls functions of a layer above"


def test_no_c_files_call_each_other_in_a_circle():
    assert not circle_in({relative(path): map(relative, used) for path, used in calls().items()})


def test_every_public_declaration_stands_in_the_include_folder():
    marked = {path.parent.name for path in C_FILES if re.search(r"^RF_API\b", path.read_text(), flags=re.MULTILINE)}
    assert marked == {"include"}


# ---- The picture -----------------------------------------------------------------------------------------------------


def python_arrows() -> Iterator[tuple[str, str]]:
    """Yield (importing layer, imported layer) for each import between two parts of the package."""
    for path in SOURCE_FILES:
        source = "(ringfeed)" if path == FACADE else layer_of(module_name(path))
        for name in imports(path):
            if name.split(".")[0] == "ringfeed" and layer_of(name) not in (source, ""):
                yield source, layer_of(name)


def c_arrows() -> Iterator[tuple[str, str]]:
    """Yield (including folder, included folder) for each include between two folders of csrc/."""
    for path in C_FILES:
        for header in filter(None, map(own_header, includes(path))):
            if header.parent != path.parent:
                yield path.parent.name, header.parent.name


def drawing(title: str, arrows: Iterator[tuple[str, str]], order: list[str]) -> Iterator[str]:
    """Yield the lines of a picture: the highest layer first, and each with its imports and their counts."""
    counts = Counter(arrows)
    place = {name: number for number, name in enumerate(order)}
    names = sorted({name for arrow in counts for name in arrow}, key=lambda name: -place.get(name, len(order)))
    width = max(map(len, names))
    graph = {name: {to for source, to in counts if source == name} for name in names}
    yield f"{title}: {sum(counts.values())} arrows between {len(names)} parts"
    for name in names:
        targets = [f"{to} {counts[name, to]}" for to in names if to in graph[name]]
        yield f"  {name:{width}}  {'-> ' + ', '.join(targets) if targets else '-'}"
    circle = circle_in(graph)
    yield f"  circles: {' -> '.join(circle) if circle else 'none'}"


def main() -> None:
    """Print the picture of the imports and includes."""
    python_order = [name for layer in LAYERS for name in sorted(layer)]
    print(*drawing("Python (imports)", python_arrows(), python_order), sep="\n", end="\n\n")
    print(*drawing("C (includes)", c_arrows(), C_FOLDERS), sep="\n")


if __name__ == "__main__":
    if sys.argv[1:] != ["--draw"]:
        sys.exit("usage: python tests/test_layers.py --draw")
    main()
