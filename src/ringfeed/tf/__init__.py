"""RingFeed for TensorFlow: a ring as a `tf.data.Dataset`, and batches as tensors.

The first folder that imports TensorFlow.
"""

from .elements import TAGS, cut_padding, tensors
from .feed import dataset
from .waiting import StalledFeedWarning

__all__ = ["TAGS", "StalledFeedWarning", "cut_padding", "dataset", "tensors"]
