"""RingFeed for TensorFlow: a ring as a `tf.data.Dataset`, and batches as tensors.

The first folder that imports TensorFlow.
"""

from .feed import NativeOpWarning, dataset
from .fused import FusedModel, fuse
from .generator import element_spec, generator
from .op import why_not_native
from .take import take
from .tensors.elements import TAGS, cut_padding, tensors
from .waiting import StalledFeedWarning

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
    "take",
    "tensors",
    "why_not_native",
]
