"""The commands of a pool to its workers. The workers' messages to the pool: messages.py.

It may not know how a command is sent, nor how either side acts on it.
"""

from __future__ import annotations

from dataclasses import dataclass

from .identity import WorkerInfo
from .sample_spec import InputSpec
from .samples import RowLayout


@dataclass(frozen=True)
class Setup:
    """The first message to a worker.

    Two descriptors come with it: a file with the pickle of the function and the initializer, and, if there is an
    `item_timeout`, the page of item status.
    """

    fills_slot: bool
    info: WorkerInfo
    item_timeout: float | None


@dataclass(frozen=True)
class Probe:
    """Preprocess one item and describe its sample. The item comes in a file, in the format of a task."""

    number: int


@dataclass(frozen=True)
class OpenRings:
    """Work on these rings; their descriptors (tasks, rows, failures, spill file) come with the command."""

    layout: RowLayout
    spec: InputSpec  # the layout was chosen by it, and so is that of the first item of a later call
