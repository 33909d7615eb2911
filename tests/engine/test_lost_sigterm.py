"""A second SIGTERM whose exit was lost on its way, as in a destructor, ends the wait all the same."""

import os
import signal
import sys
import time

import pytest

from ringfeed.terminations import Terminations, wait_in_slices


class SendsSigterm:
    """The exit that its destructor raises is only reported, never raised further."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)  # the handler runs here


def test_the_exit_of_a_second_sigterm_that_a_destructor_swallowed_comes_with_the_next_slice(monkeypatch):
    swallowed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: swallowed.append(report.exc_type))
    with Terminations() as terminations:
        terminations.end()
        assert not terminations.wait()  # from here on the first SIGTERM is an event
        os.kill(os.getpid(), signal.SIGTERM)
        assert terminations.wait()
        value = SendsSigterm()
        del value
        assert swallowed == [SystemExit]
        with pytest.raises(SystemExit) as caught:
            wait_in_slices(30.0, lambda seconds: bool(time.sleep(seconds)))
        assert caught.value.code == 143
        assert not wait_in_slices(0.0, lambda seconds: False)  # it comes once
