"""What an engine learns from its model before it serves: its outputs, whether it mixes rows, whether memory suffices.

It may not know of rings, requests or answers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import tensorflow as tf

from ..tf.models.output_spec import OutputSpec
from ..tf.models.row_mixing import refuse_mixed_rows
from ..tf.models.warm_up_rows import WarmUpRows
from .batching import BatchPolicy
from .replica import Replica

_log = logging.getLogger("ringfeed.engine")


def common_output_spec(replicas: Sequence[Replica]) -> OutputSpec:
    """Learn what the model returns, and check that it is the same on every device.

    Raises
    ------
    ValueError
        The outputs differ, or are not rows of fixed shapes, or the model fails on the rows that it is tried on.
    """
    first = replicas[0]
    outputs = first.output_spec()
    for replica in replicas[1:]:
        if (other := replica.output_spec()) != outputs:
            raise ValueError(
                f"{first.device} and {replica.device}: the models return {outputs.fields!r} and {other.fields!r}. "
                "Give one engine models that return the same."
            )
    return outputs


def refuse_row_mixing_if_padded(replica: Replica, policy: BatchPolicy, warm_up_rows: WarmUpRows) -> None:
    """Raise ValueError if batches are padded and the model mixes their rows."""
    sizes = {rows: policy.padded_size(rows) for rows in range(1, policy.batch_size + 1)}
    padded = max((size for rows, size in sizes.items() if size != rows), default=0)
    if padded:
        refuse_mixed_rows(replica.adapted, replica.adapted.step, warm_up_rows, padded, "allowed_batch_sizes")


def try_batch_sizes(replicas: Iterable[Replica], sizes: Sequence[int], ring_name: str) -> None:
    """Run each replica on batches of these sizes; lower its memory limit if its device has no memory for them.

    Raises
    ------
    ValueError
        The model fails on them, or its outputs differ in kind from those for one row.
    """
    for replica in replicas:
        for rows in sizes:
            try:
                replica.run_warm_up(rows)
            except tf.errors.ResourceExhaustedError:
                replica.memory_limit.record_out_of_memory(rows)
                _log.warning("ring %r: %s has no memory for %d rows", ring_name, replica.device, rows)
