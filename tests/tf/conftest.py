"""Fixtures for the two ways in which a dataset takes its batches: the native op, and Python code."""

import pytest

from ringfeed.tf.feed.op import SWITCH, why_not_native


def _choose(request, monkeypatch):
    if request.param == "python":
        monkeypatch.setenv(SWITCH, "0")
        monkeypatch.setattr("ringfeed.tf.feed.dataset._is_native", bool)
    elif reason := why_not_native():
        pytest.skip(f"no native op: {reason}")
    return request.param


@pytest.fixture(params=["native", "python"])
def way(request, monkeypatch):
    """Run a test twice, with each way in which datasets take batches, in this process and in those that it starts."""
    return _choose(request, monkeypatch)


@pytest.fixture(params=["native", pytest.param("python", marks=pytest.mark.slow)])
def way_of_long_tests(request, monkeypatch):
    """Do the same, but run the second way only in `make test-slow`."""
    return _choose(request, monkeypatch)
