"""Every example runs, and every example in the README is one of them."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
README = (ROOT / "README.md").read_text()

pytest.importorskip("tensorflow")


def run(program: Path, *arguments: str) -> str:
    """Run a program as a user would, from another folder; return what it printed."""
    completed = subprocess.run(
        [sys.executable, str(program), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


@pytest.mark.parametrize("name", ["predictor.py", "custom_loop.py"])
def test_examples_print_the_mean_colour_of_each_picture(name: str) -> None:
    lines = run(EXAMPLES / name).splitlines()
    assert any(line.startswith("astronaut.png") for line in lines)
    assert len(lines) > 5


def test_the_tf_data_example_recognises_digits() -> None:
    output = run(EXAMPLES / "tf_data.py")
    match = re.fullmatch(r"accuracy (0\.\d+) on 1797 digits\n", output)
    assert match, output
    assert float(match[1]) > 0.85


def test_the_fused_example_sees_every_digit() -> None:
    output = run(EXAMPLES / "fused.py")
    assert re.fullmatch(r"mean line of the ink: 3\.\d\d of 0 to 7, on 1797 digits\n", output), output


SAYS = {
    "custom_serving_loop.py": r"1797 requests of 2 clients answered as by direct calls; accuracy 0\.9\d+",
    "many_clients.py": r"engine of model 'digits' .* 1797 rows .*the model .*\n1797 requests of 6 clients answered",
    "data_parallel.py": r"CPU:0 ran \d+ rows, .*CPU:1 ran \d+ rows, .*\n1797 rows answered as by direct calls",
    "mirrored_strategy.py": r"\d+ batches, each split over 2 replicas\n1797 rows answered as by direct calls",
    "model_in_two.py": r"two devices of one process, .*: as the whole model, .*\ntwo processes: as the whole model",
    "fit.py": r"trained on 5760 pictures from the ring: accuracy 0\.\d+; on arrays 0\.\d+",
    "gradient_accumulation.py": r"224 batches, 56 steps: the weights of large batches; accuracy 0\.[89]\d+",
    "imbalanced_shards.py": r"contiguous .*\nstratified .*\ndynamic ",
    "int8.py": r"accuracy in float32 0\.9\d+, in int8 0\.9\d+\nMeasured on 256 rows: ",
}


# Two at a time: half of their time is TensorFlow's import, which keeps one core busy.
TOGETHER = [
    ["many_clients.py"],
    ["custom_serving_loop.py", "int8.py"],
    ["data_parallel.py", "mirrored_strategy.py"],
    ["model_in_two.py", "imbalanced_shards.py"],
    ["fit.py", "gradient_accumulation.py"],
]


@pytest.mark.parametrize("examples", TOGETHER, ids=" ".join)
def test_examples_give_what_direct_calls_give(examples: list[str]) -> None:
    with ThreadPoolExecutor(len(examples)) as threads:
        printed = threads.map(run, (EXAMPLES / example for example in examples))
        for example, output in zip(examples, printed, strict=True):
            assert re.search(SAYS[example], output, re.DOTALL), output


def test_every_example_runs_in_a_test() -> None:
    tested = {"predictor.py", "custom_loop.py", "tf_data.py", "fused.py", "demo.py", *itertools.chain(*TOGETHER)}
    parts = {"demo_data.py", "demo_models.py", "demo_stop.py", "digits.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested | parts


def test_the_demo_runs_all_pipelines_and_they_agree(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    output = run(EXAMPLES / "demo.py", "--quick", "--json", str(figures))
    assert output.count("all pipelines agree") == 2
    assert re.search(r"accuracy on the test digits: 9\d\.\d%", output)
    assert "RingFeed" in json.dumps(json.loads(figures.read_text()))


def test_every_example_of_the_readme_stands_in_a_file() -> None:
    files = {path.name: path.read_text() for path in EXAMPLES.glob("*.py")}
    blocks = re.findall(r"\(\[?examples/(\w+\.py)\]?\(?[^\n]*\n\n```python\n(.*?)```", README, re.DOTALL)
    shown = {"predictor.py", "custom_loop.py", "tf_data.py", "fused.py", "many_clients.py"}
    assert {name for name, _ in blocks} == shown
    assert README.count("```python") == len(blocks)
    for name, block in blocks:
        assert block in files[name], f"the README's example is not what {name} says"
