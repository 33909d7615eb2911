"""The blocks of a report and their two forms, Markdown and terminal text. Knows no results."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

TERMINAL_COLUMNS = 120


@dataclass(frozen=True)
class Heading:
    """A title; `depth` 1 is the title of the report."""

    text: str
    depth: int


@dataclass(frozen=True)
class Paragraph:
    """A few sentences; `warning` emphasizes them."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Listing:
    """A list of short lines."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Picture:
    """A file beside the report. A terminal shows its name."""

    file_name: str
    words: str


@dataclass(frozen=True)
class Grid:
    """Cells below a header. The first column is text, the others are right-aligned; `strong` rows are bold."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: frozenset[int] = field(default_factory=frozenset)
    left: frozenset[int] = frozenset({0})

    def without_empty_columns(self) -> Grid:
        """Leave out the columns without any text."""
        kept = [column for column in range(len(self.header)) if any(row[column] for row in self.rows)]
        left = frozenset(new for new, old in enumerate(kept) if old in self.left)
        rows = [[row[column] for column in kept] for row in self.rows]
        return Grid([self.header[column] for column in kept], rows, self.strong, left)


Block = Heading | Paragraph | Listing | Picture | Grid


def as_markdown(blocks: Iterable[Block]) -> str:
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, depth):
            return f"{'#' * depth} {text}"
        case Paragraph(text, warning):
            return f"> **{text}**" if warning else text
        case Listing(lines):
            return "\n".join(f"- {line}" for line in lines)
        case Picture(file_name, words):
            return f"![{words}]({file_name})"
        case Grid():
            return _markdown_grid(block)


def _markdown_grid(grid: Grid) -> str:
    rules = [":--" if column in grid.left else "--:" for column in range(len(grid.header))]
    lines = [grid.header, rules]
    for number, row in enumerate(grid.rows):
        cells = [cell.replace("|", r"\|") for cell in row]
        lines.append([f"**{cell}**" if cell and number in grid.strong else cell for cell in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_text(blocks: Iterable[Block]) -> str:
    return "\n\n".join(_text(block) for block in blocks) + "\n"


def _wrapped(text: str, first: str, others: str) -> str:
    return textwrap.fill(text, TERMINAL_COLUMNS, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)


def _text(block: Block) -> str:
    match block:
        case Heading(text, depth):
            return f"{text}\n{'=-'[depth > 1] * len(text)}" if depth < 3 else text
        case Paragraph(text, warning):
            return _wrapped(text, "!! " if warning else "", "")
        case Listing(lines):
            return "\n".join(_wrapped(line, "  - ", "    ") for line in lines)
        case Picture(file_name, words):
            return f"({words}: {file_name})"
        case Grid():
            return _text_grid(block)


def _text_grid(grid: Grid) -> str:
    """Align the columns. A star marks the rows that are bold in Markdown."""
    marked = [[f"{'*' if number in grid.strong else ' '} {row[0]}", *row[1:]] for number, row in enumerate(grid.rows)]
    header = [f"  {grid.header[0]}", *grid.header[1:]]
    widths = [max(len(line[column]) for line in [header, *marked]) for column in range(len(header))]
    lines = [header, ["  " + "-" * (widths[0] - 2), *("-" * width for width in widths[1:])], *marked]
    return "\n".join(_aligned(line, widths, grid.left) for line in lines)


def _aligned(line: Sequence[str], widths: Sequence[int], left: frozenset[int]) -> str:
    cells = zip(line, widths, strict=True)
    aligned = [cell.ljust(width) if column in left else cell.rjust(width) for column, (cell, width) in enumerate(cells)]
    return "  ".join(aligned).rstrip()
