"""The progress bar of long work: its rate, the fill of the ring, and whether the model or the workers wait.

It may not know the work. It is silent if the output goes to no terminal or notebook. Keras's switch for its own bars
applies here, too, and is read without importing Keras.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

_REFRESH_SECONDS = 0.25


def is_wanted(verbose: str | int | bool) -> bool:
    """Return whether a value of Keras's `verbose` means a bar or a line.

    ``"auto"`` means a bar in a notebook and on a terminal. It means none if the output goes to a file or a pipe, or
    after ``keras.utils.disable_interactive_logging()``.
    """
    if verbose != "auto":
        return bool(verbose)
    return _is_interactive() and (_is_terminal(sys.stderr) or _in_notebook())


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except Exception:  # a daemon has no stream, the stream may be closed, or a custom stream may raise any exception
        return False


def _in_notebook() -> bool:
    """Return whether this is an IPython kernel, whose output goes to a front end and not to a terminal."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = get_shell() if callable(get_shell) else None
    return getattr(shell, "kernel", None) is not None or "IPKernelApp" in (getattr(shell, "config", None) or {})


def _is_interactive() -> bool:
    """Return whether Keras, if the program uses it, prints to the console and not to the log of absl."""
    config = getattr(sys.modules.get("keras"), "config", None)
    return bool(getattr(config, "is_interactive_logging_enabled", lambda: True)())


def _counted(count: float, unit: str, number: str) -> str:
    plural = "" if count == 1 else "es" if unit.endswith(("ch", "s", "x")) else "s"
    return f"{number} {unit}{plural}"


class Progress:
    """A bar on standard error.

    Parameters
    ----------
    total : int or None
        The number of items; None if it is unknown or unlimited.
    verbose : {"auto", 0, 1, 2}
        As in Keras: silent, a bar, or one line at the end; "auto" is a bar in a notebook and on a terminal. After
        ``keras.utils.disable_interactive_logging()`` the bar becomes a line in the log of absl.
    unit : str
        The name of an item, in the singular.
    """

    def __init__(self, total: int | None, verbose: str | int = "auto", unit: str = "item") -> None:
        self._bar: Any = None
        self._line = verbose != "auto" and is_wanted(verbose) and (verbose == 2 or not _is_interactive())
        self._count = 0
        self._unit = unit
        self._started = self._refreshed = time.monotonic()
        self._waits: tuple[int, int] | None = None
        if is_wanted(verbose) and not self._line and sys.stderr is not None:
            self._bar = _bar_class()(total=total, unit=unit, dynamic_ncols=True, mininterval=_REFRESH_SECONDS)

    def advance(self, count: int) -> None:
        """Report that `count` more items are done."""
        self._count += count
        if self._bar is not None:
            self._bar.update(count)

    def show_ring(self, read_stats: Callable[[], dict[str, int]], producers: int) -> None:
        """Show the fill of the ring, and the share of the time that the model or the workers have waited.

        Parameters
        ----------
        read_stats : callable
            The `Ring.stats` of the ring; called only if the bar is updated.
        producers : int
            The number of processes that write into the ring.
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
        waiting = (
            f"model waits {min(model_share, 1):.0%}"
            if model_share >= producer_share
            else f"workers wait {min(producer_share, 1):.0%}"
        )
        self._bar.set_postfix_str(f"ring {fill:.0%} full, {waiting}", refresh=False)

    def close(self) -> None:
        """End the bar, or print the line."""
        if self._bar is not None:
            self._bar.close()
        elif self._line:
            seconds = time.monotonic() - self._started
            rate = self._count / seconds if seconds else 0.0
            done, speed = _counted(self._count, self._unit, str(self._count)), _counted(0, self._unit, f"{rate:.1f}")
            line = f"{done} in {seconds:.1f} s, {speed}/s"
            if not _is_interactive():
                logging.getLogger("absl").info(line)
            elif sys.stderr is not None:
                sys.stderr.write(line + "\n")


def _bar_class() -> Any:
    """Return the class of the bar: a widget in a notebook with widgets, else text."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # a notebook without widgets gets text
        from tqdm.auto import tqdm  # 30 ms that only a bar costs
    return tqdm
