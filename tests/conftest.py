"""Fixtures of all tests: rings and processes that end with the test, and a check that nothing is left."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

import ringfeed
from support import Child, segment_path, segments

# A background process of a shell ignores Ctrl-C, and its child processes inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_OURS = f"test-{os.getpid()}-"
_numbers = itertools.count(1)


def _children() -> dict[int, str]:
    """Return the living child processes of this one, without Python's resource tracker, which lives as long."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            command = " ".join(process.cmdline())
            if "multiprocessing.resource_tracker" not in command:
                found[process.pid] = f"{process.pid} ({process.status()}): {command[:200]}"
    return found


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail a test that leaves a segment or a process; clean up, so that no later test fails for it."""
    children_before = _children()
    segments_before = segments()

    def segments_left() -> list[str]:
        return [name for name in segments() if name not in segments_before and f"-{os.getpid()}-" in name]

    yield
    if segments_left():
        gc.collect()  # a ring in a reference cycle, which a traceback makes, is no leak
    left = segments_left()
    for name in left:
        segment_path(name).unlink(missing_ok=True)
    children = {pid: command for pid, command in _children().items() if pid not in children_before}
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, f"segments left behind: {left}"
    assert not children, f"processes left behind: {list(children.values())}"


@pytest.fixture(scope="module")
def quick_collection() -> Iterator[None]:
    """Make `gc.collect` fast for a module that calls it often: exclude all existing objects.

    After an import of TensorFlow a full collection takes half a second.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def ring_name(leaves_nothing_behind: None) -> str:
    """Return a name that no other test and no other run uses."""
    return f"{_OURS}{next(_numbers)}-{os.urandom(3).hex()}"


@pytest.fixture
def make_ring(leaves_nothing_behind: None) -> Iterator[Callable[..., ringfeed.Ring]]:
    """Return a function that creates rings; the fixture closes and unlinks them at the end.

    The default record is one number, ``{"x": ((512,), "int64")}``. It fills a page, so that a ring has exactly the
    requested slots.
    """
    made: list[ringfeed.Ring] = []

    def make(fields: Any = None, slots: int = 8, **options: Any) -> ringfeed.Ring:
        name = f"{_OURS}{next(_numbers)}-{os.urandom(3).hex()}"
        made.append(ringfeed.Ring.create(name, fields or {"x": ((512,), "int64")}, slots=slots, **options))
        return made[-1]

    yield make
    for ring in made:
        ring.close()
        ring.unlink()


@pytest.fixture
def ring(make_ring: Callable[..., ringfeed.Ring]) -> ringfeed.Ring:
    """Return a ring of 8 slots; its records fill one page: ``{"x": ((512,), "int64")}``."""
    return make_ring()


@pytest.fixture
def start(leaves_nothing_behind: None) -> Iterator[Callable[..., Child]]:
    """Return a function that starts another function in a new process; the fixture ends the process."""
    started: list[Child] = []

    def start_child(function: Callable[..., Any], *arguments: Any, **options: Any) -> Child:
        started.append(Child(function, *arguments, **options))
        return started[-1]

    yield start_child
    for child in started:
        child.end()


# ---- Once more ---------------------------------------------------------------------------------------

_MOST_FAILED = 5
_passed: set[str] = set()
_failed: set[str] = set()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option for machines with an uncontrolled load: a fault that also shows alone is not caused by the load."""
    parser.addoption(
        "--once-more",
        action="store_true",
        help=f"run the tests that did not pass in the last run, if at most {_MOST_FAILED} failed",
    )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed.add(report.nodeid)
    elif report.skipped or report.when == "call":
        _passed.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput") and session.config.cache is not None:
        session.config.cache.set("ringfeed/passed", sorted(_passed - _failed))
        session.config.cache.set("ringfeed/failed", sorted(_failed))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--once-more") or config.cache is None:
        return
    failed, passed = config.cache.get("ringfeed/failed", []), set(config.cache.get("ringfeed/passed", []))
    if len(failed) > _MOST_FAILED or not passed:
        pytest.exit(f"{len(failed)} tests failed and {len(passed)} passed: a repetition would show nothing", 1)
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
    items[:] = [item for item in items if item.nodeid not in passed]
    print("failed in the parallel run, now run alone:", *failed or ["(none)"], sep="\n  ")
