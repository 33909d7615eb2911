"""Every example runs, and each example in the README and in docs/usage.md is the text of one of them.

`make test` runs an example of each kind, and checks in all of them the names that they use. `make test-slow` runs all.
"""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ringfeed

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

pytest.importorskip("ringfeed.tf", reason="TensorFlow is not installed", exc_type=ImportError)


def completed(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program from another folder, as a user may."""
    return subprocess.run(
        [sys.executable, str(program), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )


def run(program: Path, *arguments: str) -> str:
    """Run a program that succeeds; return its output."""
    done = completed(program, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
    "from_generator.py": r"accuracy 0\.9\d+ on 1797 digits",
    "fit.py": r"trained on 5760 pictures from the ring: accuracy 0\.\d+; on arrays 0\.\d+",
    "gradient_accumulation.py": r"224 batches, 56 steps: the weights of large batches; accuracy 0\.[89]\d+",
    "imbalanced_shards.py": r"contiguous .*\nstratified .*\ndynamic ",
    "int8.py": r"accuracy in float32 0\.9\d+, in int8 0\.9\d+\nMeasured on 256 rows: ",
}


# Two at a time, because half of their time is TensorFlow's import, which keeps one core busy.
TOGETHER = [
    ["many_clients.py", "from_generator.py"],
    ["custom_serving_loop.py", "int8.py"],
    ["data_parallel.py", "mirrored_strategy.py"],
    ["model_in_two.py", "imbalanced_shards.py"],
    ["fit.py", "gradient_accumulation.py"],
]


@pytest.mark.parametrize(
    "examples",
    [each if "many_clients.py" in each else pytest.param(each, marks=pytest.mark.slow) for each in TOGETHER],
    ids=lambda each: " ".join(each),
)
def test_examples_give_what_direct_calls_give(examples: list[str]) -> None:
    with ThreadPoolExecutor(len(examples)) as threads:
        printed = threads.map(run, (EXAMPLES / example for example in examples))
        for example, output in zip(examples, printed, strict=True):
            assert re.search(SAYS[example], output, re.DOTALL), output


# The line before which each producer raises, and the condition.
RAISES = {
    "custom_loop.py": ("            with ring.claim() as slot:", "number > 4"),
    "tf_data.py": ("            ring.put({", "picture is digits.images[-1] or picture.sum() > 400"),
    "fused.py": ("            ring.put({", "number > 700"),
    "fit.py": ("                with ring.claim() as slot:", "seed == 1 and number > 600"),
    "gradient_accumulation.py": ("                ring.put({", "label == 9"),
    "custom_serving_loop.py": ("                requests.put({", "client == 1 and number > 500"),
}


RAISE_TOGETHER = [
    ("custom_loop.py", "tf_data.py"),
    pytest.param(("fused.py", "fit.py"), marks=pytest.mark.slow),
    pytest.param(("gradient_accumulation.py", "custom_serving_loop.py"), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("examples", RAISE_TOGETHER, ids=" ".join)
def test_an_example_whose_producer_raises_ends_with_its_error(examples: tuple[str, ...], tmp_path: Path) -> None:
    for name in ("digits.py", *examples):
        shutil.copy(EXAMPLES / name, tmp_path)
    for name in examples:
        line, when = RAISES[name]
        before, found, behind = (tmp_path / name).read_text().partition(f"\n{line}")
        assert found, f"{name} has no line {line!r}"
        indent = line[: len(line) - len(line.lstrip())]
        raises = f"\n{indent}if {when}:\n{indent}    raise ValueError('made to fail')"
        (tmp_path / name).write_text(before + raises + found + behind)
    with ThreadPoolExecutor(len(examples)) as threads:
        for name, done in zip(examples, threads.map(completed, (tmp_path / name for name in examples)), strict=True):
            assert done.returncode == 1, name
            last = done.stderr[done.stderr.rindex("ProducerFailed") :]
            assert re.match(r"ProducerFailed: ring '.*': a producer raised.*ValueError: made to fail", last), last


def test_every_example_runs_in_a_test() -> None:
    tested = {"predictor.py", "custom_loop.py", "tf_data.py", "fused.py", "demo.py", *itertools.chain(*TOGETHER)}
    parts = {"demo_data.py", "demo_models.py", "demo_stop.py", "digits.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested | parts


def used_names(tree: ast.AST) -> set[str]:
    """Return the dotted names that begin with `ringfeed` and that a program reads."""
    return {
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.fullmatch(r"ringfeed(\.\w+)+", ast.unparse(node))
    }


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_uses_public_names_that_exist(name: str) -> None:
    for dotted in used_names(ast.parse((EXAMPLES / name).read_text())):
        found: object = ringfeed
        for part in dotted.split(".")[1:]:
            assert not part.startswith("_"), f"{dotted} is private"
            assert hasattr(found, part), f"there is no {dotted}"
            found = getattr(found, part)


def test_the_demo_starts_and_shows_its_options() -> None:
    assert "--quick" in run(EXAMPLES / "demo.py", "--help")


@pytest.mark.slow  # 40 seconds; `make test-bench` runs the same pipelines once each
def test_the_demo_runs_all_pipelines_and_they_agree(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    output = run(EXAMPLES / "demo.py", "--quick", "--json", str(figures))
    assert output.count("all pipelines agree") == 2
    assert re.search(r"accuracy on the test digits: 9\d\.\d%", output)
    assert "RingFeed" in json.dumps(json.loads(figures.read_text()))


def python_blocks(page: str) -> list[tuple[str, str]]:
    """Return each example of a page, with the file that it names."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"\(\[?(?:\.\./)?examples/(\w+\.py)\]?\(?[^\n]*\n\n```python\n(.*?)```", text, re.DOTALL)
    assert text.count("```python") == len(blocks)
    return blocks


def test_every_example_of_the_documentation_stands_in_a_file() -> None:
    files = {path.name: path.read_text() for path in EXAMPLES.glob("*.py")}
    readme, usage = python_blocks("README.md"), python_blocks("docs/usage.md")
    assert [name for name, _ in readme] == ["predictor.py"]
    assert {name for name, _ in usage} == {
        "predictor.py",
        "custom_loop.py",
        "tf_data.py",
        "fused.py",
        "many_clients.py",
    }
    for name, block in [*readme, *usage]:
        assert block in files[name], f"the example is not what {name} says"


def test_the_picture_of_the_readme_is_the_one_that_its_program_draws(tmp_path: Path) -> None:
    (tmp_path / "draw_path.py").write_text((ROOT / "docs" / "draw_path.py").read_text())
    subprocess.run([sys.executable, str(tmp_path / "draw_path.py")], check=True)
    assert (tmp_path / "path.svg").read_text() == (ROOT / "docs" / "path.svg").read_text()


def test_every_link_between_pages_leads_to_a_file() -> None:
    pages = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
    for page in [*pages, *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} points to {target}"
