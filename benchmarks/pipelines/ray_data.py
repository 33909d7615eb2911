"""Ray Data: items -> `map` in tasks of other processes -> `iter_batches` into the model, which stays warm here.

Ray's guide to offline batch inference has the model in an actor (`map_batches` with a class). Actors live as long as
one execution of a data set, so each run would import TensorFlow and trace the model again, which takes seconds.
`iter_batches`, as the guide to feeding a training loop has it, spares Ray that.

What else its documentation asks for: as many tasks at a time as there are workers (`TaskPoolStrategy`), blocks of
about a batch (`override_num_blocks`; by default there would be 200 for any number of items, each a task), an object
store that holds a run, and no order kept (`preserve_order` is off): results are put into order here, by their number.

Ray's processes are busy while nobody asks, so `interface.PIPELINES` has it `apart`; several races share one Ray where
someone holds `cluster()` around them.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from measuring.machine import core_count
from pipelines.interface import Job, Workload
from pipelines.mp_queue import traced

OBJECT_STORE_BYTES = 256 * 2**20
LEAST_BLOCKS_PER_WORKER = 2
QUIET = {
    "RAY_AUTH_MODE": "disabled",  # or it writes a token into the home folder
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def missing(_: Workload | None = None) -> str | None:
    absent = [name for name in ("ray", "pyarrow", "pandas") if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} not installed: pip install '.[peers]'" if absent else None


@contextmanager
def cluster() -> Iterator[None]:
    """Start Ray where it does not run yet, and end what was started."""
    os.environ.update(QUIET)
    import ray
    import ray.data

    if ray.is_initialized():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="ringfeed-ray-", ignore_cleanup_errors=True) as folder:
        try:
            ray.init(
                num_cpus=core_count(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
                runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}},
                _temp_dir=folder,  # its logs, which it would leave behind
            )
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = False
            yield
        finally:
            ray.shutdown()


class RayData:
    """Tasks preprocess, this process runs the model."""

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
