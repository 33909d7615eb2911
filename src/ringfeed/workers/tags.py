"""The tags of tasks and rows: they name an item and its call, and mark failed rows.

    bit 63        `FAILED`: the row holds no sample; the failures ring has the reason
    bits 48 - 62  the number of the call, so that a row left by an abandoned call is recognised
    bit 47        `FIRST`: the first item of a call, which decides the layout of a row
    bits 0 - 46   the index of the item

It may not know workers, rings or items.
"""

from __future__ import annotations

FAILED = 1 << 63
"""In a row's tag: the row holds no sample; the failures ring has the reason."""

CALL_SHIFT = 48
CALLS = 1 << 15
"""Call numbers repeat after this many calls."""

FIRST = 1 << 47
"""In the tag of a task and of its row: the first item of a call. If its sample does not fit the layout of the rings,
its failure describes the sample."""

INDEX_MASK = FIRST - 1

PROBE_TAG = (1 << 64) - 2
"""The tag of a probed item, which has no index."""
