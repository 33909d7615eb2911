"""RingFeed for TensorFlow: a ring as a `tf.data.Dataset`, and batches as tensors.

This folder is the lowest layer that imports TensorFlow. It may not know the engine or the predictor.
"""

from .feed.dataset import NativeOpWarning, dataset
from .feed.fused import FusedModel, fuse
from .feed.generator import element_spec, generator
from .feed.op import why_not_native
from .feed.take import take
from .feed.waiting import StalledFeedWarning
from .models.devices import grow_memory
from .tensors.elements import TAGS, cut_padding, tensors

__all__ = [
    "TAGS",
    "FusedModel",
    "NativeOpWarning",
    "StalledFeedWarning",
    "cut_padding",
    "dataset",
    "element_spec",
    "fuse",
    "generator",
    "grow_memory",
    "take",
    "tensors",
    "why_not_native",
]


def __dir__() -> list[str]:
    return __all__
