"""From files to predictions: RingFeed compared with other pipelines and with the machine's limit.

One table for each workload and number of workers. The pipelines are in `pipelines/`, one adapter per file; their
answers are compared. Ray's rounds come last, when the others have ended, because its processes are never idle.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "examples"))  # the worker processes inherit it

from demo_data import Digits
from demo_models import import_keras

from measuring.rounds import Work
from pipelines import ray_data, workloads
from pipelines.comparison import LIMIT, LIMIT_ONE_THREAD, PipelineComparison
from pipelines.interface import PIPELINES, Workload
from pipelines.item_cost import CostMeter

SCALES = ("smoke", "quick", "full")
# (workload, workers) -> the least scale at which it is measured.
TABLES = {
    ("digits", 2): "smoke",
    ("dithered", 2): "smoke",
    ("photographs", 2): "quick",
    **{(name, workers): "full" for name in ("digits", "dithered", "photographs") for workers in (1, 4)},
}
OF_THE_TARGETS = 2  # workers: the tables of the targets get more time than the others
APART_IN_SMOKE = ("digits", 2)  # starting them takes seconds
COST_SAMPLES = {"digits": 6000, "dithered": 540, "photographs": 108}  # most of a second

BESIDE = [entry.label for entry in PIPELINES.values() if not entry.apart]
APART = [entry.label for entry in PIPELINES.values() if entry.apart]


class PredictTables:
    """Runs the comparison of each table at its first use."""

    def __init__(self, scale: Any, cost_meter: CostMeter, folder: Path, say: Callable[[str], None]) -> None:
        self._scale, self._cost_meter, self._folder, self._say = scale, cost_meter, folder, say
        self._digits = Digits.load().write_test_files(folder)
        self._comparisons: dict[tuple[str, int], PipelineComparison] = {}
        self._ran_apart: set[tuple[str, int]] = set()

    def beside(self, name: str, workers: int) -> Work:
        """Return the table of the pipelines that run beside others."""
        if (name, workers) not in self._comparisons:
            samples = self._scale.of(1, COST_SAMPLES[name] // 3, COST_SAMPLES[name])
            comparison = PipelineComparison(
                self._workload(name, workers), self._cost_meter, cost_samples=samples, say=self._say
            )
            self._say(comparison.work.title)
            seconds = self._scale.of(None, 12.0, 120.0 if workers == OF_THE_TARGETS else 24.0)
            self._comparisons[name, workers] = comparison.run(self._scale.of(1, 3, 7), budget_seconds=seconds)
        return self._comparisons[name, workers].work

    def apart(self, name: str, workers: int) -> Work:
        """Return the table including the pipelines that must run alone."""
        work = self.beside(name, workers)
        if (name, workers) not in self._ran_apart:
            self._say(work.title)
            self._comparisons[name, workers].run_apart()
            self._ran_apart.add((name, workers))
        return work

    def _workload(self, name: str, workers: int) -> Workload:
        if name == "digits":
            return workloads.digits(self._digits, self._scale.of(1, 12, 24), workers)
        if name == "dithered":
            return workloads.dithered(self._folder, self._scale.of(2, 20, 60), workers)
        return workloads.photographs(self._scale.of(2, 6, 20), workers)


@pytest.fixture(scope="module")
def comparison(
    scale: Any, say: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PredictTables]:
    with CostMeter(prepare=import_keras) as cost_meter:
        import_keras()
        yield PredictTables(scale, cost_meter, tmp_path_factory.mktemp("predict"), say)


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """Start Ray once for all tables, at its first use."""
    with nullcontext() if ray_data.missing() else ray_data.cluster():
        yield


def skip_if_not_meant(scale: Any, name: str, workers: int) -> None:
    least = TABLES[name, workers]
    if SCALES.index(scale.name) < SCALES.index(least):
        pytest.skip(f"only where it is measured{' with --full' if least == 'full' else ''}")


@pytest.mark.parametrize("way", [*BESIDE, LIMIT, LIMIT_ONE_THREAD])
@pytest.mark.parametrize(("name", "workers"), TABLES)
def bench_predict(
    tell: Callable[[Work, str], None], scale: Any, comparison: PredictTables, name: str, workers: int, way: str
) -> None:
    skip_if_not_meant(scale, name, workers)
    tell(comparison.beside(name, workers), way)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
@pytest.mark.parametrize("way", APART)
@pytest.mark.parametrize(("name", "workers"), TABLES)
def bench_predict_apart(
    tell: Callable[[Work, str], None],
    scale: Any,
    comparison: PredictTables,
    one_ray: None,
    name: str,
    workers: int,
    way: str,
) -> None:
    skip_if_not_meant(scale, name, workers)
    if scale.name == "smoke" and (name, workers) != APART_IN_SMOKE:
        pytest.skip("only where it is measured")
    tell(comparison.apart(name, workers), way)
