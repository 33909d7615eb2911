"""Make the report of a result: `python -m report RESULTS.json OUT_FOLDER`, with benchmarks/ on the path.

Writes report.md, the pictures and the published form of the result into the folder, and prints the tables. If the
folder has a why.md about missed targets, the report includes it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from report.grids import Picture, as_markdown, as_text
from report.results import Results, load, write
from report.tables import blocks, terminal_blocks


def make(results_path: Path, out: Path) -> str:
    """Write the report into the folder `out`; return it as text for a terminal."""
    results = load(results_path)
    out.mkdir(parents=True, exist_ok=True)
    why = out / "why.md"
    words = why.read_text(encoding="utf-8").strip() if why.exists() else ""
    report = out / "report.md"
    report.write_text(as_markdown(blocks(results, draw(results, out), words)), encoding="utf-8")
    published = out / "results.json"
    if published.resolve() != results_path.resolve():
        write(results, published)
    return as_text(terminal_blocks(results, str(report)))


def draw(results: Results, out: Path) -> Mapping[str, Sequence[Picture]]:
    """Draw the pictures that have data; without matplotlib, none."""
    if importlib.util.find_spec("matplotlib") is None:
        return {}
    from report.plots import draw_all

    return draw_all(results, out)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m report", description="Make the report of a result.")
    parser.add_argument("results", type=Path, help="the file of --benchmark-json, or a published results.json")
    parser.add_argument("out", type=Path, help="the folder for report.md and its pictures")
    arguments = parser.parse_args()
    try:
        print(make(arguments.results, arguments.out), end="")
    except (FileNotFoundError, json.JSONDecodeError):
        parser.error(f"{arguments.results} holds no results: the run that was to write them ended before it did")


if __name__ == "__main__":
    main()
