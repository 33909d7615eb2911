"""Compares the pipelines over one workload. Knows no particular pipeline.

- Each pipeline starts once, with a separate model. Start-up lasts until a first predict has returned: it covers the
  processes' start, tracing, and a few batches of every size that the timed runs will have.
- Rounds follow (`measuring.rounds`). In every round each pipeline predicts the same items once, in an order that
  rotates, while the others are idle. The limit is measured in the same rounds.
- A pipeline that cannot be idle is marked `apart` in `interface.PIPELINES`. It starts when the others have ended, and
  has the same number of rounds.
- A timed run is one call from a list of paths to an array of outputs in order, without any exclusion.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import astuple, dataclass

import numpy as np

from measuring.machine import core_count
from measuring.rounds import Sample, Way, Work
from pipelines.interface import PIPELINES, REFERENCE, Pipeline, Workload
from pipelines.item_cost import Cost, CostMeter

LIMIT = "limit: cores / CPU time of an item"
LIMIT_ONE_THREAD = "limit: the same, TensorFlow on one thread"
WARM_UP_BATCHES = 2
LARGEST_DIFFERENCE_ALLOWED = 1e-4


@dataclass
class Answers:
    """The outputs of the pipelines, compared with those of the first one.

    Attributes
    ----------
    outputs : array
        The first pipeline's outputs; all others were within their tolerances.
    largest_difference, same_classes
        For the pipelines whose preprocessing is bit-identical.
    """

    outputs: np.ndarray | None = None
    largest_difference: float = 0.0
    same_classes: bool = True

    def compare(self, label: str, outputs: np.ndarray, tolerance: float | None) -> None:
        """Check one pipeline's outputs; RuntimeError if they differ by more than rounding or the tolerance."""
        if self.outputs is None:
            self.outputs = outputs
            return
        difference = float(np.abs(outputs - self.outputs).max())
        allowed = LARGEST_DIFFERENCE_ALLOWED if tolerance is None else tolerance
        if not difference <= allowed:
            raise RuntimeError(f"{label} gives other predictions: difference {difference:.2g}, allowed {allowed:.2g}")
        if tolerance is None:
            self.largest_difference = max(self.largest_difference, difference)
            self.same_classes &= bool((outputs.argmax(axis=-1) == self.outputs.argmax(axis=-1)).all())


class PipelineComparison:
    """The measurements of one workload.

    Parameters
    ----------
    names : iterable of str
        Of `interface.PIPELINES`.
    cost_samples : int
        The items over which each round measures the preprocess time.
    say : callable
        Called with a line of progress.

    Attributes
    ----------
    work : Work
        Its values are seconds per item; `notes` has the seconds of each start-up.
    costs : list of Cost
        One measurement per round.
    """

    def __init__(
        self,
        workload: Workload,
        cost_meter: CostMeter,
        *,
        names: Iterable[str] = tuple(PIPELINES),
        cost_samples: int = 256,
        say: Callable[[str], None] = print,
    ) -> None:
        self.workload, self.answers, self.costs = workload, Answers(), list[Cost]()
        self.names = [name for name in names if not PIPELINES[name].apart]
        self.names_apart = [name for name in names if PIPELINES[name].apart]
        self._cost_meter, self._cost_samples, self._say = cost_meter, cost_samples, say
        workers = workload.worker_count
        self.work = Work(
            title=f"{workload.name.lower()} to predictions, {workers} worker{'s' if workers > 1 else ''}",
            figure="predict",
            axes={
                "workload": workload.name.lower(),
                "workers": workers,
                "holds_gil": "yes" if workload.holds_gil else "no",
            },
            quantity="time per item",
        )

    def run(self, rounds: int, *, budget_seconds: float | None = None) -> PipelineComparison:
        """Start every pipeline that can run beside others, and run the rounds."""
        with ExitStack() as running:
            ways = [way for name in self.names if (way := self._start(name, running))]
            ways.append(Way(LIMIT, "limit", self._measure_limit))
            self.work.measure(ways, rounds, warm_up=0, budget_seconds=budget_seconds, say=self._say_round)
        return self

    def run_apart(self) -> PipelineComparison:
        """Start the pipelines marked `apart` one after the other, and run as many rounds of each."""
        rounds = len(self.work.samples[LIMIT])
        for name in self.names_apart:
            with ExitStack() as running:
                way = self._start(name, running)
                # Not by `measure`: the load of other programs is unknown while such a pipeline runs.
                for _ in range(rounds if way else 0):
                    assert way is not None
                    self.work.add(way.name, way.role, way.measure())
                    self._say(f"  {way.name} {1 / self.work.samples[way.name][-1].value:,.0f}/s")
        return self

    @property
    def median_cost(self) -> Cost:
        """Median times over the rounds."""
        return Cost(*(statistics.median(times) for times in zip(*map(astuple, self.costs), strict=True)))

    def _start(self, name: str, running: ExitStack) -> Way | None:
        entry, workload = PIPELINES[name], self.workload
        reason = entry.missing(workload)
        if reason is not None:
            self.work.missing[entry.label] = reason
            self._say(f"  {entry.label}: missing ({reason})")
            return None
        job = workload.new_job()
        before = time.perf_counter()
        pipeline = running.enter_context(closing(entry.load()(job)))
        batch_size = workload.batch_size
        pipeline.predict(workload.items[: WARM_UP_BATCHES * batch_size + len(workload.items) % batch_size])
        seconds = time.perf_counter() - before
        self.work.notes[entry.label] = {"start-up s": seconds}
        self._say(f"  started {entry.label} in {seconds:.1f} s")
        role = "ringfeed" if name == REFERENCE else "peer"
        return Way(entry.label, role, lambda: self._measure(name, pipeline))

    def _measure(self, name: str, pipeline: Pipeline) -> Sample:
        items = self.workload.items
        before = time.perf_counter()
        outputs = pipeline.predict(items)
        seconds = time.perf_counter() - before
        self.answers.compare(PIPELINES[name].label, outputs, self.workload.tolerances.get(name))
        return Sample(seconds / len(items), seconds)

    def _measure_limit(self) -> Sample:
        before = time.perf_counter()
        self.costs.append(self._cost_meter.measure(self.workload, self._cost_samples))
        seconds = time.perf_counter() - before
        limits = self.costs[-1].limits(core_count(), self.workload.worker_count)
        self.work.add(LIMIT_ONE_THREAD, "limit", Sample(1 / limits.one_thread, seconds))
        return Sample(1 / limits.usual_threads, seconds)

    def _say_round(self, _: str) -> None:
        shown = {label: samples for label, samples in self.work.samples.items() if label != LIMIT_ONE_THREAD}
        rates = [f"{label} {1 / samples[-1].value:,.0f}/s" for label, samples in shown.items()]
        self._say(f"  round {len(self.costs)}  " + "  ".join(rates))
