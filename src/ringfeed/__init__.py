"""RingFeed: tensors from many processes into one model, without a copy, a pickle or a lock.

`Ring` is the ring in shared memory, for any loop of your own. `ringfeed.tf` feeds TensorFlow from it, `Engine` serves a
model to any number of `Client`s, `Pipeline` one that is cut into stages, `Predictor` is a drop-in for
``keras.Model.predict`` with worker processes. Importing this package does not import TensorFlow; `Engine`, `Pipeline`,
`Predictor` and `ringfeed.tf` do when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._core import Batch, Claim, DLPackView
from .engine.batching import Batching, BatchPolicy
from .errors import (
    AccessRefused,
    DeadlineExceeded,
    EngineDied,
    EngineHung,
    ItemError,
    LayoutMismatch,
    ModelError,
    NoSpace,
    PreprocessError,
    ProducerFailed,
    RecordMismatch,
    RingClosed,
    RingEmpty,
    RingExists,
    RingFeedError,
    RingFinished,
    RingFull,
    RingNotFound,
    SampleMismatch,
    SlotLost,
    WorkerCrashed,
)
from .inventory import SegmentInfo, clean, list_segments
from .machine.memory_options import MemoryOptionWarning
from .record_spec import Field, RecordSpec
from .ring import Ring
from .stall import StalledRingWarning
from .version import VERSION
from .workers.identity import WorkerInfo, worker_info

if TYPE_CHECKING:
    from . import testing as testing
    from . import tf as tf
    from .client.client import Client as Client
    from .engine.engine import Engine as Engine
    from .engine.pipeline import Pipeline as Pipeline
    from .engine.stage import StageEngine as StageEngine
    from .predictor import Predictor as Predictor
    from .tf.models.partition import split_model as split_model

__version__ = VERSION

__all__ = [
    "AccessRefused",
    "Batch",
    "BatchPolicy",
    "Batching",
    "Claim",
    "Client",
    "DLPackView",
    "DeadlineExceeded",
    "Engine",
    "EngineDied",
    "EngineHung",
    "Field",
    "ItemError",
    "LayoutMismatch",
    "MemoryOptionWarning",
    "ModelError",
    "NoSpace",
    "Pipeline",
    "Predictor",
    "PreprocessError",
    "ProducerFailed",
    "RecordMismatch",
    "RecordSpec",
    "Ring",
    "RingClosed",
    "RingEmpty",
    "RingExists",
    "RingFeedError",
    "RingFinished",
    "RingFull",
    "RingNotFound",
    "SampleMismatch",
    "SegmentInfo",
    "SlotLost",
    "StageEngine",
    "StalledRingWarning",
    "WorkerCrashed",
    "WorkerInfo",
    "clean",
    "list_segments",
    "split_model",
    "testing",
    "tf",
    "worker_info",
]

# Modules that import TensorFlow are imported when first asked for: it costs 2 s and 600 MB.
_LAZY = {
    "Client": (".client.client", "Client"),
    "Engine": (".engine.engine", "Engine"),
    "Pipeline": (".engine.pipeline", "Pipeline"),
    "StageEngine": (".engine.stage", "StageEngine"),
    "Predictor": (".predictor", "Predictor"),
    "split_model": (".tf.models.partition", "split_model"),
    "testing": (".testing", None),
    "tf": (".tf", None),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module_name, attribute = _LAZY[name]
    module = importlib.import_module(module_name, __name__)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
