"""RingFeed beside what people use today, on real pictures: handwritten digits and photographs.

Run it with `make demo`, or `python examples/demo.py [--quick] [--json FILE]`. It takes about two minutes on two
cores, downloads nothing, and writes only to a temporary folder (and FILE). What is measured, and how, is said in
benchmarks/pipelines/race.py and yardstick.py.
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

from demo_data import Digits, decode_digit, decode_photograph, photographs, repeated
from demo_models import build_digits_model, build_photographs_model, import_keras, train_digits_model
from demo_stop import Stopping

from measuring.machine import surroundings
from pipelines.interface import Workload
from pipelines.race import Outcome, race
from pipelines.report import as_json, table
from pipelines.yardstick import Yardstick

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
        with Yardstick(prepare=import_keras) as yardstick:
            import_keras()
            with tempfile.TemporaryDirectory(prefix="ringfeed-demo-") as folder:
                STOPPING.by_exception()
                try:
                    results = run_all(yardstick, core_count, Path(folder), options)
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


def run_all(yardstick: Yardstick, core_count: int, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Both comparisons, one after the other."""
    return [
        digits(yardstick, core_count, folder, options),
        photographs_of_the_packages(yardstick, core_count, options),
    ]


def digits(yardstick: Yardstick, core_count: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train on scikit-learn's digits and predict the test digits from PNG files."""
    say("\nDigits: training a small CNN on scikit-learn's handwritten digits ...")
    data = Digits.load()
    model = train_digits_model(data, epochs=3 if options.quick else 12)
    paths = data.write_test_files(folder)
    items = repeated(paths, 2 if options.quick else 24)
    say(f"Digits: predicting {len(paths)} test digits from PNG files, each {len(items) // len(paths)} times per run")
    workload = Workload(
        name="Digits",
        unit="digits",
        items=items,
        preprocess=decode_digit,
        sample_shape=(8, 8, 1),
        sample_dtype="uint8",
        batch_size=256,
        worker_count=options.workers,
        build_model=build_digits_model,
        weights=model.get_weights(),
    )
    outcome = run(workload, yardstick, core_count, options, budget_seconds=28.0, cost_samples=2000)
    label_of = dict(zip(paths, data.test_labels, strict=True))
    assert outcome.outputs is not None
    correct = [label_of[item] == row.argmax() for item, row in zip(items, outcome.outputs, strict=True)]
    accuracy = sum(correct) / len(correct)
    say(f"  accuracy on the test digits: {accuracy:.1%}")
    return {**as_json(outcome), "accuracy": accuracy}


def photographs_of_the_packages(yardstick: Yardstick, core_count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Decode and resize scikit-image's and scikit-learn's photographs and run a small MobileNet on them."""
    paths = photographs()
    items = repeated(paths, 4 if options.quick else 27)
    say(f"\nPhotographs: {len(paths)} JPEG and PNG files of scikit-image and scikit-learn, resized to 224x224x3")
    workload = Workload(
        name="Photographs",
        unit="pictures",
        items=items,
        preprocess=decode_photograph,
        sample_shape=(224, 224, 3),
        sample_dtype="uint8",
        batch_size=32,
        worker_count=options.workers,
        build_model=build_photographs_model,
    )
    outcome = run(workload, yardstick, core_count, options, budget_seconds=85.0, cost_samples=5 * len(paths))
    return as_json(outcome)


def run(
    workload: Workload,
    yardstick: Yardstick,
    core_count: int,
    options: argparse.Namespace,
    *,
    budget_seconds: float,
    cost_samples: int,
) -> Outcome:
    """Race the pipelines over one workload and print the table."""
    outcome = race(
        workload,
        yardstick,
        core_count,
        least_rounds=1 if options.quick else 2,
        most_rounds=1 if options.quick else 7,
        budget_seconds=budget_seconds,
        cost_samples=cost_samples,
        say=say,
    )
    say("\n" + table(outcome))
    same = "the same class for every item" if outcome.same_classes else "classes that differ where two are equal"
    say(f"  all pipelines agree: {same}, largest difference {outcome.largest_difference:.1g}")
    return outcome


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="RingFeed beside what people use today, on real pictures.")
    parser.add_argument("--quick", action="store_true", help="one short run of each; the figures mean little")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure, with machine and versions")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=int, default=cores, help="preprocessing workers (default: one per core)")
    return parser.parse_args()


def say(line: str) -> None:
    """Print at once, so that progress is seen."""
    STOPPING.raise_if_requested()
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
