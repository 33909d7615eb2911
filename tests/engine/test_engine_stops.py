"""An engine that is told to stop: by `stop` while its model hangs, by SIGTERM, as process 1 of a container."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import tensorflow as tf
from serving import first_number, x_of

import ringfeed
from support import in_thread, segments, wait_until

HUNG = 13
HUNG_AND_TOLD_BY_ANOTHER_THREAD = 14


class Hangs:
    """A model that does not return over 13 until it may."""

    def __init__(self):
        self.entered, self.may_go_on = threading.Event(), threading.Event()

    def __call__(self, x):
        def look(numbers):
            if HUNG in numbers.numpy():
                self.entered.set()
                self.may_go_on.wait()
            return numbers

        return tf.ensure_shape(tf.py_function(look, [x[:, 0]], tf.int64), (None,))


@pytest.fixture
def hung(ring, serve, make_client):
    model = Hangs()
    engine, client = serve(ring, model, batch_size=4), make_client(ring)
    future = client.submit(x_of(HUNG))
    model.entered.wait()
    yield engine, client, future, model
    model.may_go_on.set()


def test_stop_returns_after_its_timeout_and_says_where_the_model_hangs(ring, hung):
    engine, client, future, model = hung
    with pytest.raises(ringfeed.EngineHung, match=r"Hangs.*not stopped after 0.1 s.*CPU:0 runs it over 1 row since"):
        engine.stop(timeout=0.1)
    with pytest.raises(TimeoutError):
        engine.stop(timeout=0)
    with pytest.raises(ringfeed.EngineDied):
        future.result(timeout=30)
    with pytest.raises(ringfeed.EngineDied):
        client.predict(x_of(1), timeout=30)
    model.may_go_on.set()
    engine.stop()
    engine.stop(timeout=1)
    assert not engine.running


def test_draining_returns_after_its_timeout_while_the_model_hangs(hung):
    engine, _, future, model = hung
    assert not engine.drain(timeout=0.1)
    model.may_go_on.set()
    assert engine.drain(timeout=30)
    assert int(future.result(timeout=30)) == HUNG


def test_one_ctrl_c_ends_a_block_whose_model_hangs(ring, make_client, monkeypatch, caplog):
    monkeypatch.setattr("ringfeed.engine.lifecycle.INTERRUPT_SECONDS", 0.1)
    model = Hangs()
    engine = ringfeed.Engine(ring, model, linger=0.0)
    futures = []

    def serve_until_ctrl_c():
        with engine:
            futures.append(make_client(ring).submit(x_of(HUNG)))
            model.entered.wait()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serve_until_ctrl_c()
    assert "not stopped after 0.1 s" in caplog.text
    model.may_go_on.set()
    engine.stop()
    assert type(futures[0].exception(timeout=30)) in (ringfeed.EngineDied, type(None))  # or just before that


@pytest.mark.parametrize("timeout", [-1, float("nan"), "3"])
def test_a_timeout_that_is_none_is_named(ring, timeout):
    engine = ringfeed.Engine(ring, first_number)
    with pytest.raises((ValueError, TypeError), match="timeout"):
        engine.stop(timeout=timeout)
    with pytest.raises((ValueError, TypeError), match="grace_seconds"):
        engine.run(grace_seconds=timeout)


def test_what_an_engine_that_fails_to_start_late_said_it_says_no_more(ring, make_client):
    class Fails(ringfeed.Ring):
        def pin(self):
            raise MemoryError("as if the driver had none")

    attached = Fails.attach(ring.name)
    engine = ringfeed.Engine(attached, first_number, pin_memory=True)
    with pytest.raises(MemoryError):
        engine.start()
    with pytest.raises(ringfeed.EngineDied):
        make_client(ring).predict(x_of(1), timeout=60)
    engine.stop()
    attached.close()


# ---- Signals -------------------------------------------------------------------------------------------

SERVER = """
    import logging, signal, sys, threading, time
    import ringfeed, tensorflow as tf
    logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
    name, seconds, grace = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    def look(numbers):
        if numbers[0] in (13, 14):
            print("entered", flush=True)
            if numbers[0] == 14:  # in this thread: the main one sleeps on, as where it was just about to fall asleep
                while not engine._lifecycle.terminations._waits_for_events:
                    time.sleep(0.01)
                signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
                while not engine._lifecycle.is_draining:
                    time.sleep(0.01)
                signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            threading.Event().wait()
        if numbers[0]:
            time.sleep(seconds)
        return numbers
    def model(x):
        return tf.ensure_shape(tf.py_function(look, [x[:, 0]], tf.int64), (None,))
    with ringfeed.Ring.create(name, {"x": ((512,), "int64")}, slots=32) as ring:
        engine = ringfeed.Engine(ring, model, batch_size=1, linger=0.0)
        try:
            engine.run(grace_seconds=grace)
        finally:
            print("handler is default:", signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, flush=True)
    print("left the block", flush=True)
"""


@pytest.fixture
def server(ring_name):
    """Return a function that starts a server; its status is asked for at the end."""
    started = []

    def start(seconds=0.0, grace=30.0, prefix=()):
        command = [*prefix, sys.executable, "-c", textwrap.dedent(SERVER), ring_name, str(seconds), str(grace)]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for_line(process, words):
    while words not in (line := process.stdout.readline()):
        assert line, process.communicate()  # it has ended


def test_sigterm_answers_what_waits_and_leaves_with_status_0(ring_name, server, make_client):
    process = server(seconds=0.05)
    client = make_client(ring_name, timeout=None)
    futures = [client.submit(x_of(number)) for number in range(20, 40)]
    assert int(futures[0].result()) == 20
    process.send_signal(signal.SIGTERM)
    assert [int(future.result(timeout=60)) for future in futures] == list(range(20, 40))
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "SIGTERM: answering what waits" in said
    assert "handler is default: True" in said
    assert "left the block" in said
    assert not [name for name in segments() if ring_name in name]


@pytest.mark.parametrize("way", ["grace", "twice", "Ctrl-C"])
def test_a_hung_model_ends_with_the_grace_or_the_second_signal_and_the_status_says_so(
    ring_name, server, make_client, way
):
    process = server(grace=0.2 if way == "grace" else 1000.0)
    client = make_client(ring_name, timeout=None)
    assert int(client.predict(x_of(1), timeout=60)) == 1
    future = client.submit(x_of(HUNG))
    wait_for_line(process, "entered")
    process.send_signal(signal.SIGINT if way == "Ctrl-C" else signal.SIGTERM)
    if way == "twice":
        wait_for_line(process, "SIGTERM")
        process.send_signal(signal.SIGTERM)
    said, errors = process.communicate()
    assert process.returncode == (-signal.SIGINT if way == "Ctrl-C" else 143), errors
    assert "runs it over 1 row" in said
    assert "handler is default: True" in said
    assert not [name for name in segments() if ring_name in name]
    with pytest.raises((ringfeed.EngineDied, ringfeed.RingClosed)):
        future.result(timeout=60)


def test_signals_that_do_not_wake_the_main_thread_are_heard(ring_name, server, make_client):
    process = server(grace=1000.0)
    future = make_client(ring_name, timeout=None).submit(x_of(HUNG_AND_TOLD_BY_ANOTHER_THREAD))
    said, errors = process.communicate()
    assert process.returncode == 143, errors
    assert "SIGTERM: answering what waits" in said
    with pytest.raises((ringfeed.EngineDied, ringfeed.RingClosed)):
        future.result(timeout=60)


def _unshare():
    command = [shutil.which("unshare") or "", "--pid", "--fork", "--mount-proc"]
    if not command[0] or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a PID namespace of our own is not permitted here")
    return command


@pytest.mark.parametrize("way", ["SIGTERM suffices", "SIGKILL follows"])
def test_as_process_1_it_ends_as_kubernetes_wants_it(ring_name, server, make_client, way):
    process = server(seconds=0.05, grace=1000.0, prefix=_unshare())
    client = make_client(ring_name, timeout=None)
    assert int(client.predict(x_of(1), timeout=60)) == 1
    (inside,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    if way == "SIGTERM suffices":
        futures = [client.submit(x_of(number)) for number in range(20, 30)]
        os.kill(inside, signal.SIGTERM)
        assert [int(future.result(timeout=60)) for future in futures] == list(range(20, 30))
        said, errors = process.communicate()
        assert process.returncode == 0, errors
        assert "left the block" in said
        assert not [name for name in segments() if ring_name in name]
        return
    future = client.submit(x_of(HUNG))
    wait_for_line(process, "entered")
    os.kill(inside, signal.SIGTERM)
    wait_for_line(process, "SIGTERM")
    os.kill(inside, signal.SIGKILL)
    process.communicate()
    with pytest.raises((ringfeed.EngineDied, ringfeed.RingClosed)):
        future.result(timeout=60)
    client.close()
    ringfeed.clean()
    assert not [name for name in segments() if ring_name in name]


def test_a_handler_of_the_programs_own_stays(ring):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        engine = ringfeed.Engine(ring, first_number, linger=0.0)

        def terminate():
            wait_until(lambda: engine.running)
            os.kill(os.getpid(), signal.SIGTERM)
            wait_until(lambda: heard)
            ring.finish()

        with in_thread(terminate):
            engine.run()
        assert heard == [1]
    finally:
        signal.signal(signal.SIGTERM, before)
