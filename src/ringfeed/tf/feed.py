"""A ring as a `tf.data.Dataset`: contiguous runs of records, handed to TensorFlow without a copy.

It may not know of models. How it works:

`Dataset.range` drives a function that takes the next run of records and exports it through DLPack, so
that what flows through the dataset is the ring's own memory. The slots' lease is in the tensor:
whoever drops the last reference, in whatever thread, gives the slots back at that moment, without
Python. (`Dataset.from_generator` passes NumPy arrays, whose references TensorFlow keeps in a list
until some later call into Python: with a small ring a deadlock, and never exact.)

    range(forever) .take_while(goes on)              one element per turn
        .flat_map(range(forever) .map(next) .take_while(has rows))      a turn: batches until it was idle

While nothing comes, a turn ends every quarter of a second with a batch of no rows, which no one
sees. In between TensorFlow notices that the iterator is gone; otherwise dropping an iterator with a
prefetch in it would hang until the next record. All of it runs in a thread pool of its own: a wait
that occupies one of TensorFlow's own threads would keep the model from finishing the very batch
whose slots are waited for.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from ..errors import RingClosed, RingEmpty, RingFinished
from ..record_spec import RecordSpec
from ..ring import Ring
from .elements import TAGS, Element
from .handover import aligned_copy
from .structure import lists_to_tuples
from .waiting import Wait, check_ending, inside_python

_TURN_SECONDS = 0.25
"""How long a turn may be idle: the longest that dropping an iterator takes."""

_FOREVER = 1 << 62

# A wait of one iterator should not hold up a second one over the same dataset, except under many.
_THREADS = 2
