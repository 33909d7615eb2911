"""A pipeline without TensorFlow: its model is a function of the batch's arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ringfeed.errors import ItemError
from ringfeed.nest import unflatten
from ringfeed.progress import Progress
from ringfeed.workers.pool import WorkerPool
from ringfeed.workers.predict_loop import Pipeline
from ringfeed.workers.sample_spec import Wanted
from ringfeed.workers.source import Source


def wanted_of(shape: tuple[int, ...], dtype: str = "float32") -> Wanted:
    """Return what a model of one input takes, whatever the samples are."""
    return Wanted((shape, dtype), is_binding=True)


def copy_rows(rows: Any, template: Any) -> Any:
    return unflatten(template, [np.array(rows[name]) for name in rows])


class Run:
    """A pool and a pipeline, and what a call through them brought."""

    def __init__(self, function: Callable[..., Any], workers: int = 2, **options: Any) -> None:
        of_workers = {name: options.pop(name) for name in ("initializer", "item_timeout") if name in options}
        self.pool = WorkerPool(function, workers, **of_workers)
        self.partition = options.pop("partition", "dynamic")
        self.pipeline = Pipeline(
            self.pool,
            options.pop("model", copy_rows),
            options.pop("wanted", Wanted(None)),
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
        source = Source(items, self.partition, labels, len(self.pool))
        defaults = {"batch_size": 16, "linger": None, "window": None, "progress": Progress(None, 0)}
        return self.pipeline.run(source, **(defaults | options))

    def close(self) -> None:
        self.pipeline.close()
        self.pool.close()


@contextmanager
def running(function: Callable[..., Any], workers: int = 2, **options: Any) -> Iterator[Run]:
    run = Run(function, workers, **options)
    try:
        yield run
    finally:
        run.close()
