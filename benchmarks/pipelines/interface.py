"""What every pipeline of the comparison gets and owes. Knows no TensorFlow, no pipeline and no data set.

One adapter per file stands beside this one and `PIPELINES` names them. To add a peer: write a class with
`predict` and `close`, and add a line there. Each peer is written the way its own documentation recommends. Where a
module has a function `missing(workload)`, that says why it can not run here, or None.
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
    """What a pipeline is given: the same for every one of them, but for a model of its own.

    Attributes
    ----------
    model : keras.Model
        One input of shape (rows, *sample_shape), one output. Each pipeline gets its own copy with the same
        weights, so that each pays for its own tracing.
    preprocess : callable
        Path -> array of `sample_shape` and `sample_dtype`. Its module imports no TensorFlow.
    worker_count : int
        Processes, or threads where a pipeline has threads, that preprocess.
    batch_size : int
        Most rows in one call of the model.
    in_tensorflow : callable, optional
        `preprocess` said in TensorFlow's operations: a path as a tensor -> a tensor.
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
    """Real data, a model and how to run them.

    Attributes
    ----------
    name : str
        Heading of its table, for example "Digits".
    unit : str
        What one item is, in the plural.
    items : sequence of str
        Paths, one per item.
    build_model : callable
        Builds the model with fixed random weights. Importable by name: it is also run in another process.
    weights : list of arrays, optional
        Put into every copy of the model.
    in_tensorflow : callable, optional
        As in `Job`.
    not_in_tensorflow : str
        Why there is none.
    tolerances : dict
        Name of a pipeline -> how far its outputs may be from the others', where its preprocessing is not the same to
        the last bit.
    holds_gil : bool
        Whether `preprocess` is Python that holds the interpreter's lock, and that no library does in its stead.
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
    """One way from files to predictions. The constructor starts what it needs, `close` ends all of it."""

    def __init__(self, job: Job) -> None: ...

    def predict(self, items: Sequence[str]) -> np.ndarray:
        """Return the model's outputs in the order of `items`: an array of shape (len(items), *output shape)."""
        ...

    def close(self) -> None:
        """End every process and thread that was started. Called once, also after an exception."""
        ...


@dataclass(frozen=True)
class Entry:
    """Where to find a pipeline. Imported only when used: its library need not be installed.

    `apart` says that it has processes that are busy while nobody asks them: it runs when all others have ended.
    `in_demo` says that it is among the few that the demo shows.
    """

    label: str
    module: str
    class_name: str
    apart: bool = False
    in_demo: bool = False

    def missing(self, workload: Workload) -> str | None:
        """Why this pipeline can not run here, or not this workload; None where it can."""
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
