"""Split each batch of a model over the replicas of a `tf.distribute.Strategy`.

This file may not know rings or engines.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import tensorflow as tf

from .adapted_model import AdaptedModel
from .output_spec import rows_of_each


def mirror_model(adapted: AdaptedModel, strategy: Any) -> AdaptedModel:
    """Adapt a model so that each replica of a strategy runs a part of each batch.

    Parameters
    ----------
    adapted : AdaptedModel
        A model that was made under ``strategy.scope()``.
    strategy : tf.distribute.Strategy
        A strategy whose replicas are in this process: MirroredStrategy or OneDeviceStrategy.

    Returns
    -------
    AdaptedModel
        Its outputs are those of the whole batch, in the order of the rows.

    Raises
    ------
    TypeError
        `strategy` is not a tf.distribute.Strategy.
    """
    if not hasattr(strategy, "experimental_local_results"):
        raise TypeError(
            f"strategy {strategy!r:.80}: give a tf.distribute.Strategy, such as tf.distribute.MirroredStrategy()."
        )
    parts = int(strategy.num_replicas_in_sync)

    def run_part(data: Any) -> Any:
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        rows = tf.shape(tf.nest.flatten(data)[0])[0]
        start, stop = rows * number // parts, rows * (number + 1) // parts
        # Some models fail on zero rows. A replica without rows runs one row, and its output is dropped.
        first = tf.minimum(start, rows - 1)
        end = tf.maximum(stop, first + 1)
        part = tf.nest.map_structure(lambda whole: whole[first:end], data)
        outputs = rows_of_each(
            adapted.step(part), end - first, adapted.name
        )  # else rows of others would be taken for them
        return tf.nest.map_structure(lambda output: output[: stop - start], outputs)

    def step(data: Any) -> Any:
        of_replicas = strategy.run(run_part, args=(data,))

        def joined(output: Any) -> Any:
            return tf.concat(strategy.experimental_local_results(output), axis=0)

        first = strategy.experimental_local_results(of_replicas)
        if parts == 1:
            return first[0]
        return tf.nest.map_structure(joined, of_replicas)

    return replace(adapted, step=step, eager_step=None)
