"""RingFeed compared with other pipelines on real pictures: handwritten digits and photographs.

Run it with `make demo`, or `python examples/demo.py [--quick] [--json FILE]`. It takes about two minutes on two
cores, downloads nothing, and writes only to a temporary folder (and FILE). benchmarks/pipelines/comparison.py and
item_cost.py describe the measurements.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))  # the worker processes inherit it

from demo_data import Digits
from demo_models import import_keras, train_digits_model
from demo_stop import Stopping

from measuring.machine import surroundings
from pipelines import workloads
from pipelines.comparison import PipelineComparison
from pipelines.interface import DEMO, Workload
from pipelines.item_cost import CostMeter
from pipelines.report import as_json, table

STARTED = time.monotonic()
STOPPING = Stopping()


def main() -> int:
    """Run both comparisons and print their tables."""
    options = parse_options()
    core_count = len(os.sched_getaffinity(0))
    say(f"RingFeed demo on {core_count} cores. Importing TensorFlow ...")
    results = None
    try:
        STOPPING.at_once()
        with CostMeter(prepare=import_keras) as cost_meter:
            import_keras()
            with tempfile.TemporaryDirectory(prefix="ringfeed-demo-") as folder:
                STOPPING.by_exception()
                try:
                    results = run_all(cost_meter, Path(folder), options)
                finally:
                    STOPPING.not_any_more()
    except BaseException:
        if not STOPPING.requested:
            raise
    if results is None:
        STOPPING.leave()
    seconds_total = time.monotonic() - STARTED
    if options.json:
        figures = {**surroundings(), "seconds_total": round(seconds_total, 1), "workloads": results}
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    say(f"Done in {seconds_total:.0f} s.")
    return 0


def run_all(cost_meter: CostMeter, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Both comparisons, one after the other."""
    return [digits(cost_meter, folder, options), photographs_of_the_packages(cost_meter, options)]


def digits(cost_meter: CostMeter, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train on scikit-learn's digits and predict the test digits from PNG files."""
    say("\nDigits: training a small CNN on scikit-learn's handwritten digits ...")
    data = Digits.load()
    model = train_digits_model(data, epochs=3 if options.quick else 12)
    paths = data.write_test_files(folder)
    times = 2 if options.quick else 24
    say(f"Digits: predicting {len(paths)} test digits from PNG files, each {times} times per run")
    workload = workloads.digits(paths, times, options.workers, model.get_weights())
    comparison = run(workload, cost_meter, options, budget_seconds=28.0, cost_samples=2000)
    label_of = dict(zip(paths, data.test_labels, strict=True))
    assert comparison.answers.outputs is not None
    answered = zip(workload.items, comparison.answers.outputs, strict=True)
    correct = [label_of[item] == row.argmax() for item, row in answered]
    accuracy = sum(correct) / len(correct)
    say(f"  accuracy on the test digits: {accuracy:.1%}")
    return {**as_json(comparison), "accuracy": accuracy}


def photographs_of_the_packages(cost_meter: CostMeter, options: argparse.Namespace) -> dict[str, Any]:
    """Decode and resize scikit-image's and scikit-learn's photographs and run a small MobileNet on them."""
    workload = workloads.photographs(4 if options.quick else 27, options.workers)
    different = len(set(workload.items))
    say(f"\nPhotographs: {different} JPEG and PNG files of scikit-image and scikit-learn, resized to 224x224x3")
    return as_json(run(workload, cost_meter, options, budget_seconds=85.0, cost_samples=5 * different))


def run(
    workload: Workload,
    cost_meter: CostMeter,
    options: argparse.Namespace,
    *,
    budget_seconds: float,
    cost_samples: int,
) -> PipelineComparison:
    """Compare the pipelines over one workload and print the table."""
    comparison = PipelineComparison(workload, cost_meter, names=DEMO, cost_samples=cost_samples, say=say)
    comparison.run(1 if options.quick else 7, budget_seconds=budget_seconds)
    say("\n" + table(comparison))
    answers = comparison.answers
    same = "the same class for every item" if answers.same_classes else "classes that differ where two are equal"
    say(f"  all pipelines agree: {same}, largest difference {answers.largest_difference:.1g}")
    return comparison


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="RingFeed compared with other pipelines on real pictures.")
    parser.add_argument(
        "--quick", action="store_true", help="one short run of each pipeline; the figures are imprecise"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure, with machine and versions")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=int, default=cores, help="preprocessing workers (default: one per core)")
    return parser.parse_args()


def say(line: str) -> None:
    """Print a line of progress at once."""
    STOPPING.raise_if_requested()
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
