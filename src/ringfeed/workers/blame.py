"""Which rows tell whether a failure is of all rows: looking for single ones would then call the model for each.

It is a guess, which an engine makes to stay alive for others; who is told of it is told so.

It may not know of models, nor how rows are run.
"""

from __future__ import annotations

from collections.abc import Sequence

LEAST_ROWS = 8
"""With fewer rows, looking for the one to blame costs no more."""


def telling_rows(rows: int) -> list[int]:
    """Return some rows, spread over all: if each fails alone with the same words, all of them are taken to fail.

    There are log2(rows) + 3 of them: 9 of 64.
    """
    count = min(rows.bit_length() + 2, rows)
    return [number * (rows - 1) // (count - 1) for number in range(count)] if count > 1 else [0]


def are_alike(errors: Sequence[BaseException]) -> bool:
    """Tell whether errors say the same."""
    return len({(type(error), str(error)) for error in errors}) <= 1
