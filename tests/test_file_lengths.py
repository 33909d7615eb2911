"""No source file has more than 400 lines, so that a reader can hold it in mind."""

import pytest

from source_tree import ROOT

MAX_LINES = 400

# Files that are still longer. Remove a line when its file is split; add none.
KNOWN_LONG: set[str] = set()

FOLDERS = ("src", "csrc", "tests", "benchmarks", "examples")
SUFFIXES = {".py", ".pyx", ".pxd", ".pxi", ".pyi", ".c", ".h", ".pml", ".sh"}
PATHS = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
LENGTHS = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sorted(PATHS)}


@pytest.mark.parametrize("name", LENGTHS)
def test_a_source_file_has_at_most_400_lines(name):
    assert LENGTHS[name] <= MAX_LINES or name in KNOWN_LONG, f"{LENGTHS[name]} lines: split it by meaning"


def test_the_list_of_long_files_names_only_files_that_are_long():
    assert not {name for name in KNOWN_LONG if LENGTHS.get(name, 0) <= MAX_LINES}
