"""The interface of all pipelines of the comparison, and their list. Knows no TensorFlow, pipeline or data set.

Each pipeline has an adapter in a file beside this one, and `PIPELINES` names it. To add a peer, write a class with
`predict` and `close`, as the peer's own documentation recommends, and add a line there. A module's function
`missing(workload)`, if it exists, returns why the pipeline cannot run here, or None.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

import numpy as np

Preprocess = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Job:
    """The arguments of a pipeline. They are the same for all pipelines, except that each gets a separate model.

    Attributes
    ----------
    model : keras.Model
        One input of shape (rows, *sample_shape), one output. Each pipeline gets a separate copy with the same
        weights, so that each traces its model itself.
    preprocess : callable
        Path -> array of `sample_shape` and `sample_dtype`. Its module imports no TensorFlow.
    worker_count : int
        The processes, or threads, that preprocess.
    batch_size : int
        Most rows in one call of the model.
    in_tensorflow : callable, optional
        `preprocess` in TensorFlow's operations: a path as a tensor -> a tensor.
    """

    model: Any
    preprocess: Preprocess
    sample_shape: tuple[int, ...]
    sample_dtype: str
    worker_count: int
    batch_size: int
    in_tensorflow: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Workload:
    """Real data, a model, and the parameters of a run.

    Attributes
    ----------
    name : str
        The heading of its table, for example "Digits".
    unit : str
        The word for the items, in the plural.
    items : sequence of str
        Paths, one per item.
    build_model : callable
        Builds the model with fixed random weights. Importable by name, because another process also runs it.
    weights : list of arrays, optional
        The weights of every copy of the model.
    in_tensorflow : callable, optional
        As in `Job`.
    not_in_tensorflow : str
        The reason if `in_tensorflow` is None.
    tolerances : dict
        Name of a pipeline -> the largest difference of its outputs from the others'. For pipelines whose preprocessing
        is not bit-identical.
    holds_gil : bool
        Whether `preprocess` is Python code that holds the GIL, and that no library can replace.
    """

    name: str
    unit: str
    items: Sequence[str]
    preprocess: Preprocess
    sample_shape: tuple[int, ...]
    sample_dtype: str
    batch_size: int
    worker_count: int
    build_model: Callable[[], Any]
    weights: list[np.ndarray] | None = None
    in_tensorflow: Callable[[Any], Any] | None = None
    not_in_tensorflow: str = ""
    tolerances: Mapping[str, float] = field(default_factory=dict)
    holds_gil: bool = False

    def new_job(self) -> Job:
        """A job with a freshly built model."""
        model = self.build_model()
        if self.weights is not None:
            model.set_weights(self.weights)
        return Job(
            model=model,
            preprocess=self.preprocess,
            sample_shape=self.sample_shape,
            sample_dtype=self.sample_dtype,
            worker_count=self.worker_count,
            batch_size=self.batch_size,
            in_tensorflow=self.in_tensorflow,
        )


class Pipeline(Protocol):
    """One way from files to predictions. The constructor starts its processes and threads, and `close` ends them."""

    def __init__(self, job: Job) -> None: ...

    def predict(self, items: Sequence[str]) -> np.ndarray:
        """Return the model's outputs in the order of `items`: an array of shape (len(items), *output shape)."""
        ...

    def close(self) -> None:
        """End every started process and thread. Called once, also after an exception."""
        ...


@dataclass(frozen=True)
class Entry:
    """The module of a pipeline. It is imported only at its use, because its library may be missing.

    `apart` marks a pipeline whose processes are busy even without requests; it runs when all others have ended.
    `in_demo` marks the few pipelines that the demo shows.
    """

    label: str
    module: str
    class_name: str
    apart: bool = False
    in_demo: bool = False

    def missing(self, workload: Workload) -> str | None:
        """Return why this pipeline cannot run here, or not with this workload; None if it can."""
        try:
            module = self._imported()
        except ImportError as error:
            return str(error)
        reason: str | None = module.missing(workload) if hasattr(module, "missing") else None
        return reason

    def load(self) -> type[Pipeline]:
        """Import the adapter."""
        pipeline: type[Pipeline] = getattr(self._imported(), self.class_name)
        return pipeline

    def _imported(self) -> ModuleType:
        return importlib.import_module(self.module)


REFERENCE = "ringfeed"
PIPELINES: dict[str, Entry] = {
    REFERENCE: Entry("RingFeed", "pipelines.ringfeed_predictor", "RingFeedPredictor", in_demo=True),
    "queue": Entry("multiprocessing.Queue", "pipelines.mp_queue", "MultiprocessingQueue", in_demo=True),
    "tf_data": Entry("tf.data numpy_function", "pipelines.tf_data_numpy_function", "TfDataNumpyFunction", in_demo=True),
    "tf_data_native": Entry("tf.data, decoding in TensorFlow", "pipelines.tf_data_native", "TfDataNative"),
    "keras": Entry("Keras predict, in process", "pipelines.keras_inprocess", "KerasInProcess", in_demo=True),
    "py_dataset": Entry("Keras PyDataset, processes", "pipelines.keras_py_dataset", "KerasPyDataset"),
    "ray": Entry("Ray Data", "pipelines.ray_data", "RayData", apart=True),
}
DEMO = tuple(name for name, entry in PIPELINES.items() if entry.in_demo)
