"""`InterruptWatch` counts Ctrl-C beside the program's own handler, and restores that handler."""

import os
import signal

import pytest

from ringfeed._core import InterruptWatch
from support import run_program


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def pythons_own_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_watch_counts_and_the_programs_handler_runs():
    watch = InterruptWatch()
    for count in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            interrupt()
        assert watch.seen == count


def test_each_watch_counts_from_its_own_beginning():
    first = InterruptWatch()
    with pytest.raises(KeyboardInterrupt):
        interrupt()
    second = InterruptWatch()
    assert (first.seen, second.seen) == (1, 0)
    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert (first.seen, second.seen) == (2, 1)


def test_after_the_last_watch_everything_is_as_before():
    """Runs in a fresh process: in this one, a feed that another test dropped during a wait may still watch."""
    status, _, errors = run_program(
        """
        import ctypes, signal
        from ringfeed._core import InterruptWatch

        libc = ctypes.CDLL(None)

        def handler_of_the_process():
            action = ctypes.create_string_buffer(256)  # a struct sigaction begins with it
            assert libc.sigaction(signal.SIGINT, None, action) == 0
            return action[:8]

        before = handler_of_the_process()
        first, second = InterruptWatch(), InterruptWatch()
        assert handler_of_the_process() != before
        del first
        assert handler_of_the_process() != before
        del second
        assert handler_of_the_process() == before
        """
    )
    assert status == 0, errors


def test_a_handler_that_the_program_sets_meanwhile_stays():
    caught = []
    watch = InterruptWatch()
    signal.signal(signal.SIGINT, lambda *_: caught.append("new"))
    interrupt()
    assert (caught, watch.seen) == (["new"], 0)  # it has replaced the watch's handler
    other = InterruptWatch()  # the next watch installs its handler again
    interrupt()
    assert (caught, watch.seen, other.seen) == (["new"] * 2, 1, 1)
    del watch, other
    interrupt()
    assert caught == ["new"] * 3


@pytest.mark.parametrize(("handler", "status"), [("SIG_DFL", -signal.SIGINT), ("SIG_IGN", 0)])
def test_a_ctrl_c_that_ends_the_process_or_is_ignored_does_so_still(handler, status):
    program = f"""
        import signal
        from ringfeed._core import InterruptWatch

        signal.signal(signal.SIGINT, signal.{handler})
        watch = InterruptWatch()
        os.kill(os.getpid(), signal.SIGINT)
        assert watch.seen == 0
    """
    assert run_program(program)[0] == status


def test_a_handler_that_calls_the_watch_is_not_called_by_it():
    """Another library's handler may call ours; if ours then called that one, the two would recurse without end."""
    status, _, errors = run_program(
        """
        import faulthandler, signal, tempfile
        from ringfeed._core import InterruptWatch

        first = InterruptWatch()
        # Put something else in front, as another library would; it happens to be what faulthandler has.
        faulthandler.register(signal.SIGINT, file=tempfile.TemporaryFile(), chain=True)
        second = InterruptWatch()
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            pass
        assert (first.seen, second.seen) == (1, 1), (first.seen, second.seen)
        """
    )
    assert status == 0, errors
