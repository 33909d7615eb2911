"""What every pipeline of the comparison gets and owes. Knows no TensorFlow, no pipeline and no data set.

One adapter per file stands beside this one and `PIPELINES` names them. To add a peer: write a class with
`predict` and `close`, and add a line there. Each peer is written the way its own documentation recommends.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    """

    model: Any
    preprocess: Preprocess
    sample_shape: tuple[int, ...]
    sample_dtype: str
    worker_count: int
    batch_size: int


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

    def new_job(self) -> Job:
        """A job with a freshly built model."""
        model = self.build_model()
        if self.weights is not None:
            model.set_weights(self.weights)
        return Job(model, self.preprocess, self.sample_shape, self.sample_dtype, self.worker_count, self.batch_size)


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
    """Where to find a pipeline. Imported only when used: its library need not be installed."""

    label: str
    module: str
    class_name: str

    def load(self) -> type[Pipeline]:
        """Import the adapter; ImportError when its library is not installed here."""
        pipeline: type[Pipeline] = getattr(importlib.import_module(self.module), self.class_name)
        return pipeline


REFERENCE = "ringfeed"
PIPELINES: dict[str, Entry] = {
    REFERENCE: Entry("RingFeed", "pipelines.ringfeed_predictor", "RingFeedPredictor"),
    "queue": Entry("multiprocessing.Queue", "pipelines.mp_queue", "MultiprocessingQueue"),
    "tf_data": Entry("tf.data numpy_function", "pipelines.tf_data_numpy_function", "TfDataNumpyFunction"),
    "keras": Entry("Keras predict, in process", "pipelines.keras_inprocess", "KerasInProcess"),
}
