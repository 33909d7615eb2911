"""A pipeline without TensorFlow: its model is a function of the batch's arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ringfeed.errors import ItemError
from ringfeed.nest import put_together
from ringfeed.pipeline import Pipeline, Source
from ringfeed.progress import Progress
from ringfeed.record_spec import Field, RecordSpec, as_dtype
from ringfeed.worker_main import Sample
from ringfeed.workers import WorkerPool


def spec_of(sample: Sample | None) -> tuple[Any, RecordSpec]:
    assert sample is not None
    fields = (Field(str(i), tuple(shape), as_dtype(dtype)) for i, (shape, dtype) in enumerate(sample.leaves))
    return sample.template, RecordSpec.of(fields)


def copy_rows(batch: Any, template: Any) -> Any:
    return put_together(template, [np.array(batch[name]) for name in batch])


class Run:
    """A pool and a pipeline, and what a call through them brought."""

    def __init__(self, function: Callable[..., Any], workers: int = 2, **options: Any) -> None:
        self.pool = WorkerPool(function, workers)
        self.partition = options.pop("partition", "dynamic")
        self.pipeline = Pipeline(
            self.pool,
            options.pop("model", copy_rows),
            options.pop("choose_spec", spec_of),
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
