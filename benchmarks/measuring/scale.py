"""The scale of a run: a smoke test, five minutes, or everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

Anything = TypeVar("Anything")


@dataclass(frozen=True)
class Scale:
    """The scale of a run: "smoke", "quick" (the default) or "full"."""

    name: str

    def of(self, smoke: Anything, quick: Anything, full: Anything) -> Anything:
        """Return the value for this scale."""
        return {"smoke": smoke, "quick": quick, "full": full}[self.name]


def scale_of(config: Any) -> Scale:
    """Read pytest's command line: `--benchmark-disable` is for smoke, `--full` for all."""
    if config.getoption("benchmark_disable"):
        return Scale("smoke")
    return Scale("full" if config.getoption("full") else "quick")
