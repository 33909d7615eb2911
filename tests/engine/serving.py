"""What the tests of engine and client share: models, and what runs in processes of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

import ringfeed
from support import states, wait_until


def first_number(x: Any) -> Any:
    """Return the number that a record says: a model for the rings of the fixtures."""
    return x[:, 0]


def x_of(number: int) -> np.ndarray:
    """Return what the only field of a record holds that says a number."""
    return np.full(512, number, np.int64)


def rows_of(numbers: Any) -> np.ndarray:
    """Return the same for rows."""
    return np.repeat(np.asarray(list(numbers), np.int64)[:, None], 512, axis=1)


def all_is_free(ring: ringfeed.Ring, pool: Any) -> bool:
    """Tell whether every slot and every reply cell is free."""
    pool.cells.recover()
    ring.recover()
    return states(ring) == {"free": ring.slots} and states(pool.cells) == {"free": pool.cells.slots}


def wait_until_free(ring: ringfeed.Ring, pool: Any) -> None:
    wait_until(lambda: all_is_free(ring, pool))
