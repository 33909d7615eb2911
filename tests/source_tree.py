"""The source files of the repository: where they are, what they import, include and call.

It may not know the layers (test_layers.py).
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "ringfeed"
CSRC = ROOT / "csrc"

PYTHON_FILES = sorted(PACKAGE.rglob("*.py"))
CYTHON_FILES = sorted(path for suffix in ("pyx", "pxd", "pxi") for path in PACKAGE.rglob(f"*.{suffix}"))
C_FILES = sorted(path for path in CSRC.rglob("*.[ch]") if path.parent.name != "model")


def relative(path: Path) -> str:
    """Return a file's path within the repository."""
    return str(path.relative_to(ROOT))


# ---- Python ----------------------------------------------------------------------------------------------------------


def module_name(path: Path) -> str:
    """Return the dotted name of a source file, such as `ringfeed.tf.feed`; `_core` includes the .pxi files."""
    if path.suffix == ".pxi":
        return "ringfeed._core"
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    """Tell whether a dotted name is a module or a folder of the package."""
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
            elif match := re.match(r"\s*c?import\s+([\w.]+)\s*(?:as\s+\w+\s*)?(?:#.*)?$", line):
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


# ---- C ---------------------------------------------------------------------------------------------------------------


def includes(path: Path) -> set[str]:
    """Return the names that a C file includes, as written."""
    return set(re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)', path.read_text(), flags=re.MULTILINE))


def own_header(name: str) -> Path | None:
    """Return the header of csrc/ that an include names; None for one of the system."""
    return next((path for path in (CSRC / "include" / name, CSRC / name) if path.exists()), None)


def reachable_headers(path: Path) -> set[Path]:
    """Return the headers of csrc/ that a file includes, itself or through other headers."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        for header in filter(None, map(own_header, includes(waiting.pop()))):
            if header not in found:
                found.add(header)
                waiting.append(header)
    return found


def defined_names(path: Path) -> set[str]:
    """Return the functions and variables that a C file defines for other files."""
    at_line_start = r"^(?!static|typedef|extern|return|#|/|\s)[\w \*]*[ \*]"
    text = path.read_text()
    functions = re.findall(at_line_start + r"(rf_\w+)\([^;{]*\)\s*\{", text, flags=re.MULTILINE)
    variables = re.findall(at_line_start + r"(rf_\w+)(?: = [^;]*)?;", text, flags=re.MULTILINE)
    return {*functions, *variables}


def calls(files: Iterable[Path] = C_FILES) -> dict[Path, set[Path]]:
    """Return for each C file the files whose functions or variables it uses."""
    sources = [path for path in files if path.suffix == ".c"]
    defined_in = {name: path for path in sources for name in defined_names(path)}
    graph = {}
    for path in sources:
        code = re.sub(r'/\*.*?\*/|"[^"\n]*"', "", path.read_text(), flags=re.DOTALL)
        used = {defined_in[name] for name in re.findall(r"\brf_\w+", code) if name in defined_in}
        graph[path] = used - {path}
    return graph


# ---- Both ------------------------------------------------------------------------------------------------------------


def circle_in(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the names on a circle of a graph; an empty list: there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []
