"""Ray Data: items -> `map` in tasks of other processes -> `iter_batches` into the warm model of this process.

Ray's guide to offline batch inference puts the model into an actor (`map_batches` with a class). An actor lives for one
execution of a data set, so each run would import TensorFlow and trace the model again, which takes seconds.
`iter_batches`, from Ray's guide to training loops, avoids that.

Further recommendations of the documentation: at most one task per worker at a time (`TaskPoolStrategy`), blocks of
about a batch (`override_num_blocks`; the default is 200 blocks, each a task, for any number of items), and an object
store that holds a run. The order is not preserved (`preserve_order` is off); this pipeline sorts the results by number.

Ray's processes are busy even without requests, so `interface.PIPELINES` marks it `apart`. Several comparisons share one
Ray if the caller holds `cluster()` around them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from measuring import ray_cluster
from pipelines.interface import Job, Workload
from pipelines.mp_queue import traced

LEAST_BLOCKS_PER_WORKER = 2


def missing(_: Workload | None = None) -> str | None:
    return ray_cluster.missing("pyarrow", "pandas")


@contextmanager
def cluster() -> Iterator[None]:
    """Ray without the progress bars of its data sets."""
    with ray_cluster.cluster():
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield


class RayData:
    """Ray's tasks preprocess, and this process runs the model."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._running = ExitStack()
        self._running.enter_context(cluster())
        self._call_model = traced(job)

    def predict(self, items: Sequence[str]) -> np.ndarray:
        import ray.data

        job = self._job
        preprocess = job.preprocess

        def load(row: dict[str, Any]) -> dict[str, Any]:
            return {"number": row["number"], "sample": preprocess(row["path"])}

        blocks = max(LEAST_BLOCKS_PER_WORKER * job.worker_count, len(items) // job.batch_size)
        rows = [{"number": number, "path": path} for number, path in enumerate(items)]
        dataset = ray.data.from_items(rows, override_num_blocks=min(blocks, len(items)))
        order: list[np.ndarray] = []
        outputs: list[np.ndarray] = []
        samples = dataset.map(load, compute=ray.data.TaskPoolStrategy(size=job.worker_count))
        for batch in samples.iter_batches(batch_size=job.batch_size):
            outputs.append(self._call_model(batch["sample"]))
            order.append(batch["number"])
        in_order = np.concatenate(outputs)
        in_order[np.concatenate(order)] = in_order.copy()
        return in_order

    def close(self) -> None:
        self._running.close()
