"""RingFeed: tensors from many processes into one model, without a copy, a pickle or a lock.

`Ring` is the ring in shared memory, for any loop of your own. `ringfeed.tf` feeds TensorFlow from
it, `Predictor` is a drop-in for ``keras.Model.predict`` with worker processes. Importing this
package does not import TensorFlow; `ringfeed.tf` and `Predictor` do when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._core import Batch, Claim, DLPackView
from .errors import (
    DeadlineExceeded,
    EngineDied,
    ItemError,
    LayoutMismatch,
    ModelError,
    NoSpace,
    PreprocessError,
    RecordMismatch,
    RingClosed,
    RingEmpty,
    RingExists,
    RingFeedError,
    RingFinished,
    RingFull,
    RingNotFound,
    SlotLost,
    WorkerCrashed,
)
from .inventory import SegmentInfo, clean, list_segments
from .record_spec import Field, RecordSpec
from .ring import MemoryOptionWarning, Ring
from .version import VERSION

if TYPE_CHECKING:
    from . import tf as tf
    from .predictor import Predictor as Predictor

__version__ = VERSION

__all__ = [
    "Batch",
    "Claim",
    "DLPackView",
    "DeadlineExceeded",
    "EngineDied",
    "Field",
    "ItemError",
    "LayoutMismatch",
    "MemoryOptionWarning",
    "ModelError",
    "NoSpace",
    "Predictor",
    "PreprocessError",
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
    "SegmentInfo",
    "SlotLost",
    "WorkerCrashed",
    "clean",
    "list_segments",
    "tf",
]

# Modules that import TensorFlow are imported when first asked for: it costs 2 s and 600 MB.
_LAZY = {
    "Client": (".client", "Client"),
    "Engine": (".tf.engine", "Engine"),
    "Predictor": (".predictor", "Predictor"),
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
    return sorted(set(globals()) | set(__all__))
