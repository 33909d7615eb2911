"""Run the tests in Keras's own wheel, with every `Model.predict` sent through a `ringfeed.Predictor`.

    python tests/keras_suite/run.py [--workers | --plain] [--smoke] [arguments of pytest]

With `--workers` a worker process hands over each row (see `through_ringfeed.py`). With `--plain` `Model.predict` stays
unchanged, which shows the failures without RingFeed. `--smoke` runs one file. Nothing of Keras is copied: the runner
finds the tests in the installed package.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path

from known_failures import NEEDS

HERE = Path(__file__).parent

SMOKE = ("trainers/trainer_test.py", "predict")
"""The only file of the short run, and a text that the names of its tests contain."""


def keras_sources() -> Path:
    """Return the folder keras/src of the installed Keras, without importing it."""
    spec = importlib.util.find_spec("keras")
    if spec is None or spec.origin is None:
        raise SystemExit("test-keras: Keras is not installed.")
    return Path(spec.origin).parent / "src"


def files_with_tests(sources: Path) -> list[str]:
    """Return the test files that call `predict`, and every test file of `trainers`."""
    files = [str(path) for path in sorted(sources.rglob("*_test.py")) if _is_of_use(path)]
    for name, package in NEEDS.items():
        if "::" not in name and importlib.util.find_spec(package) is None:
            print(f"test-keras: {name} is left out, because {package} is not installed.")
            files.remove(str(sources / name))
    return files


def _is_of_use(path: Path) -> bool:
    return "trainers" in path.parts or ".predict(" in path.read_text()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--workers", dest="way", action="store_const", const="workers", default="memory")
    way.add_argument("--plain", dest="way", action="store_const", const="plain")
    parser.add_argument("--smoke", action="store_true")
    options, rest = parser.parse_known_args()

    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("SKIP_APPLICATIONS_TESTS", "1")  # a switch of Keras: these tests download gigabytes
    import pytest

    sources = keras_sources()
    selected = [str(sources / SMOKE[0]), "-k", SMOKE[1]] if options.smoke else files_with_tests(sources)
    settings = ["-c", str(HERE / "pytest.ini"), "--rootdir", str(sources), "-p", "through_ringfeed"]
    return int(pytest.main([*settings, "--predict-way", options.way, *rest, *selected]))


if __name__ == "__main__":
    raise SystemExit(main())
