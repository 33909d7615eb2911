"""A predict loop without TensorFlow: its model is a function of the batch's arrays."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ringfeed.errors import ItemError
from ringfeed.nest import unflatten
from ringfeed.workers.item_source import ItemSource
from ringfeed.workers.pool import WorkerPool
from ringfeed.workers.predict_loop import PredictLoop
from ringfeed.workers.sample_spec import InputSpec


def as_row(item: int) -> np.ndarray:
    """Return a row of 16 floats that hold the item."""
    return np.full(16, item, np.float32)


def wait_for(path: pathlib.Path) -> None:
    """Wait until a file exists."""
    while not path.exists():
        time.sleep(0.001)


def spec_of(shape: tuple[int, ...], dtype: str = "float32") -> InputSpec:
    """Return the input that a model of one input takes, for samples of any structure."""
    return InputSpec((shape, dtype), is_binding=True)


def copy_rows(rows: Any, template: Any) -> Any:
    return unflatten(template, [np.array(rows[name]) for name in rows])


class Run:
    """A pool and a predict loop over it, which runs one call after the other."""

    def __init__(self, function: Callable[..., Any], workers: int = 2, **options: Any) -> None:
        of_workers = {name: options.pop(name) for name in ("initializer", "item_timeout") if name in options}
        self.pool = WorkerPool(function, workers, **of_workers)
        self.partition = options.pop("partition", "dynamic")
        self.loop = PredictLoop(
            self.pool,
            options.pop("model", copy_rows),
            options.pop("spec", InputSpec(None)),
            options.pop("batch_size", 16),
            options.pop("slots", None),
            self.partition != "dynamic",
        )

    def __call__(self, items: Any, labels: Any = None, **options: Any) -> tuple[dict[int, Any], list[ItemError]]:
        """Return the first output of each item by index, and the failures."""
        results: dict[int, Any] = {}
        failures: list[ItemError] = []
        for chunk in self.chunks(items, labels, **options):
            failures += chunk.failures
            for index, row in zip(chunk.indices.tolist(), chunk.outputs if len(chunk.indices) else (), strict=True):
                assert index not in results
                results[index] = row
        return results, failures

    def chunks(self, items: Any, labels: Any = None, **options: Any) -> Any:
        source = ItemSource(items, self.partition, labels, len(self.pool))
        defaults = {"batch_size": 16, "linger": None, "window": None}
        return self.loop.run(source, **(defaults | options))

    def close(self) -> None:
        self.loop.close()
        self.pool.close()


@contextmanager
def running(function: Callable[..., Any], workers: int = 2, **options: Any) -> Iterator[Run]:
    run = Run(function, workers, **options)
    try:
        yield run
    finally:
        run.close()
