"""Runs the pipelines against each other, fairly on a noisy machine. Knows no pipeline in particular.

- Each pipeline starts once, with a model of its own. Start-up is everything until a first predict has returned:
  starting processes, tracing, a few batches of every size that the timed runs will have.
- Then come rounds. In every round each pipeline predicts the same items once, in an order that rotates, while the
  others stand idle; the limit is measured between them. The figures are medians over the rounds.
- A timed run is one call from a list of paths to an array of outputs in order; nothing of it is left out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

import numpy as np

from measuring.other_load import OtherLoad
from pipelines.interface import PIPELINES, Pipeline, Workload
from pipelines.yardstick import Cost, Yardstick

WARM_UP_BATCHES = 2
LARGEST_DIFFERENCE_ALLOWED = 1e-4


@dataclass
class Entrant:
    """One pipeline's figures."""

    name: str
    label: str
    start_up_seconds: float = float("nan")
    items_per_second: list[float] = field(default_factory=list)
    missing: str | None = None

    @property
    def median_items_per_second(self) -> float:
        """Median over the rounds, NaN before the first."""
        return statistics.median(self.items_per_second) if self.items_per_second else float("nan")


@dataclass
class Outcome:
    """The figures of one race, and what the pipelines answered.

    Attributes
    ----------
    outputs : array
        The first pipeline's answer; every other was within `largest_difference` of it.
    costs : list of Cost
        One measurement per round.
    other_load_cores : list of float
        Cores that other programs kept busy, per round.
    """

    workload: Workload
    entrants: list[Entrant]
    core_count: int
    costs: list[Cost] = field(default_factory=list)
    other_load_cores: list[float] = field(default_factory=list)
    outputs: np.ndarray | None = None
    largest_difference: float = 0.0
    same_classes: bool = True

    @property
    def median_cost(self) -> Cost:
        """Median preprocess and model time over the rounds."""
        return Cost(
            statistics.median(cost.preprocess_seconds for cost in self.costs),
            statistics.median(cost.model_seconds for cost in self.costs),
        )

    def compare(self, label: str, outputs: np.ndarray) -> None:
        """Hold an answer against the first one; RuntimeError where they differ by more than rounding."""
        if self.outputs is None:
            self.outputs = outputs
            return
        difference = float(np.abs(outputs - self.outputs).max())
        if not difference <= LARGEST_DIFFERENCE_ALLOWED:
            raise RuntimeError(f"{label} gives other predictions: largest difference {difference:.2g}")
        self.largest_difference = max(self.largest_difference, difference)
        self.same_classes &= bool((outputs.argmax(axis=-1) == self.outputs.argmax(axis=-1)).all())


def race(
    workload: Workload,
    yardstick: Yardstick,
    core_count: int,
    *,
    names: Iterable[str] = tuple(PIPELINES),
    least_rounds: int = 2,
    most_rounds: int = 5,
    budget_seconds: float = 70.0,
    cost_samples: int = 256,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Start every pipeline, run the rounds and return the figures.

    Parameters
    ----------
    budget_seconds : float
        Once there were `least_rounds`, no round starts that would end after this time if it took as long as the last.
    cost_samples : int
        Items over which the preprocess time is measured, in each round.
    say : callable
        Called with a line of progress.
    """
    outcome = Outcome(workload, [Entrant(name, PIPELINES[name].label) for name in names], core_count)
    with ExitStack() as running:
        pipelines = _start(outcome, running, say)
        started = round_started = time.monotonic()
        for number in range(most_rounds):
            last_round_seconds = time.monotonic() - round_started
            round_started = time.monotonic()
            if number >= least_rounds and round_started - started + last_round_seconds > budget_seconds:
                break
            other_load = OtherLoad()
            outcome.costs.append(yardstick.measure(workload, cost_samples))
            figures = _run_round(outcome, pipelines, number)
            outcome.other_load_cores.append(other_load.cores())
            say(f"  round {number + 1}  " + "  ".join(figures))
    return outcome


def _start(outcome: Outcome, running: ExitStack, say: Callable[[str], None]) -> list[tuple[Entrant, Pipeline]]:
    workload = outcome.workload
    warm_up_rows = WARM_UP_BATCHES * workload.batch_size + len(workload.items) % workload.batch_size
    pipelines = []
    for entrant in outcome.entrants:
        try:
            pipeline_class = PIPELINES[entrant.name].load()
        except ImportError as error:
            entrant.missing = str(error)
            say(f"  {entrant.label}: not here ({error})")
            continue
        job = workload.new_job()
        before = time.perf_counter()
        pipeline = running.enter_context(closing(pipeline_class(job)))
        pipeline.predict(workload.items[:warm_up_rows])
        entrant.start_up_seconds = time.perf_counter() - before
        say(f"  started {entrant.label} in {entrant.start_up_seconds:.1f} s")
        pipelines.append((entrant, pipeline))
    return pipelines


def _run_round(outcome: Outcome, pipelines: list[tuple[Entrant, Pipeline]], number: int) -> list[str]:
    first = number % len(pipelines)
    figures = {}
    for entrant, pipeline in pipelines[first:] + pipelines[:first]:
        before = time.perf_counter()
        outputs = pipeline.predict(outcome.workload.items)
        rate = len(outcome.workload.items) / (time.perf_counter() - before)
        entrant.items_per_second.append(rate)
        figures[entrant.name] = f"{entrant.label} {rate:,.0f}/s"
        outcome.compare(entrant.label, outputs)
    return [figures[entrant.name] for entrant, _ in pipelines]
