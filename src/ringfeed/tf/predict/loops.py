"""The loop of a predictor: through workers and rings, or in the caller's process.

It may not know items, nor what becomes of the results.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from ...workers.identity import WorkerInfo, working_as
from ...workers.in_process_loop import InProcessLoop
from ...workers.layout_trials import LayoutTrials
from ...workers.pool import WorkerPool
from ...workers.predict_loop import PredictLoop
from ...workers.sample_spec import InputSpec
from ...workers.user_functions import fills_slot, takes_info
from ..models.row_mixing_guard import RowMixingGuard
from ..models.runner import ModelRunner
from .model_call import ModelCall, input_spec_of

Loop = PredictLoop | InProcessLoop


def make_loop(
    runner: ModelRunner,
    pool: WorkerPool | None,
    preprocess: Callable[..., Any] | None,
    initializer: Callable[..., Any] | None,
    spec: InputSpec | None,
    batch_size: int,
    slots: int | None,
    partition: str,
    on_error: str,
) -> tuple[Loop | None, LayoutTrials]:
    """Return the loop of a predictor, and its trials; there is no loop without `preprocess`.

    Parameters
    ----------
    runner : ModelRunner
    pool : WorkerPool or None
        None for a loop in this process.
    spec : InputSpec or None
        The user's; by default the inputs that the model gives.
    preprocess, initializer, batch_size, slots, partition, on_error
        As for `Predictor`, checked.
    """
    call = ModelCall(runner)
    spec = input_spec_of(runner) if spec is None else spec
    trials = LayoutTrials(call.try_row, spec, raises=on_error == "raise")
    if pool is not None:
        guard = RowMixingGuard(call, call.trial, partition)
        return PredictLoop(pool, call, spec, batch_size, slots, partition != "dynamic", trials, guard), trials
    if preprocess is None:
        return None, trials
    info = WorkerInfo(0, 1, secrets.randbits(64))
    if initializer is not None:
        with working_as(info):
            initializer(*[info] * takes_info(initializer))
    return InProcessLoop(preprocess, fills_slot(preprocess), call, spec, trials, info), trials
