"""Rows that show whether a failure is common to all rows: bisecting such a failure would call the model for each row.

The result is a guess. An engine makes it to stay responsive for other clients, and the error text says that it is one.

It may not know models, nor how rows are run.
"""

from __future__ import annotations

from collections.abc import Sequence

MIN_ROWS = 8
"""With fewer rows, finding the failing row costs no more."""


def rows_to_probe(rows: int) -> list[int]:
    """Return some rows, spread over all. If each fails alone with the same text, all rows are assumed to fail.

    There are log2(rows) + 3 of them: 9 of 64.
    """
    count = min(rows.bit_length() + 2, rows)
    return [number * (rows - 1) // (count - 1) for number in range(count)] if count > 1 else [0]


def have_same_text(errors: Sequence[BaseException]) -> bool:
    """Tell whether all errors have the same type and text."""
    return len({(type(error), str(error)) for error in errors}) <= 1
