"""The progress bar of long work: rate, ring fill, and who waits for whom.

It may not know what the work is; it is quiet when nobody looks.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

_REFRESH_SECONDS = 0.25


def is_wanted(verbose: str | int | bool) -> bool:
    """Tell whether Keras's `verbose` asks for a bar; ``"auto"`` does on a terminal."""
    if verbose == "auto":
        return sys.stderr.isatty()
    return bool(verbose)


class Progress:
    """A bar on standard error.

    Parameters
    ----------
    total : int or None
        Items in all; None for an unknown or endless number.
    verbose : {"auto", 0, 1, 2}
        As in Keras: silent, a bar, one line at the end; "auto" is a bar on a terminal.
    """

    def __init__(self, total: int | None, verbose: str | int = "auto", unit: str = "item") -> None:
        self._bar: Any = None
        self._line = verbose == 2
        self._count = 0
        self._unit = unit
        self._started = self._refreshed = time.monotonic()
        self._waits: tuple[int, int] | None = None
        if is_wanted(verbose) and not self._line:
            from tqdm.auto import tqdm  # 30 ms that only a bar costs

            self._bar = tqdm(total=total, unit=unit, dynamic_ncols=True, mininterval=_REFRESH_SECONDS)

    def advance(self, count: int) -> None:
        """Say that `count` more items are done."""
        self._count += count
        if self._bar is not None:
            self._bar.update(count)

    def show_ring(self, read_stats: Callable[[], dict[str, int]], producers: int) -> None:
        """Show how full the ring is and who waits for whom since the last time.

        Parameters
        ----------
        read_stats : callable
            The ring's `Ring.stats`, called where there is something to show.
        producers : int
            Processes that write into it.
        """
        if self._bar is None or (now := time.monotonic()) - self._refreshed < _REFRESH_SECONDS:
            return
        stats = read_stats()
        seconds, self._refreshed = now - self._refreshed, now
        waits = (stats["claim_wait_ns"], stats["take_wait_ns"])
        before, self._waits = self._waits or (0, 0), waits
        producer_share = (waits[0] - before[0]) / 1e9 / seconds / max(producers, 1)
        model_share = (waits[1] - before[1]) / 1e9 / seconds
        fill = 1 - stats["free"] / stats["slots"]
        who = (
            f"model waits {min(model_share, 1):.0%}"
            if model_share >= producer_share
            else f"workers wait {min(producer_share, 1):.0%}"
        )
        self._bar.set_postfix_str(f"ring {fill:.0%} full, {who}", refresh=False)

    def close(self) -> None:
        """End the bar, or print the one line."""
        if self._bar is not None:
            self._bar.close()
        elif self._line:
            seconds = time.monotonic() - self._started
            rate = self._count / seconds if seconds else 0.0
            sys.stderr.write(f"{self._count} {self._unit}s in {seconds:.1f} s, {rate:.1f} {self._unit}s/s\n")
