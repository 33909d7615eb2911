"""Both ways in which a dataset takes its batches: by the native op, and by Python code in its place."""

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
    """Run a test twice: how datasets take their batches, here and in processes that the test starts."""
    return _choose(request, monkeypatch)


@pytest.fixture(params=["native", pytest.param("python", marks=pytest.mark.slow)])
def way_of_long_tests(request, monkeypatch):
    """Do the same, but leave the second to `make test-slow`."""
    return _choose(request, monkeypatch)
