"""`Engine.run` and SIGTERM: it drains, ends with the right status, also as process 1 of a container."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from serving import first_number, x_of

import ringfeed
from namespaces import PID_NAMESPACE, require_pid_namespaces
from support import in_thread, segments, wait_until

HUNG = 13


HUNG_AND_SIGNALLED_IN_ANOTHER_THREAD = 14


SERVER = """
    import logging, signal, sys, threading, time
    import ringfeed, tensorflow as tf
    logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
    name, seconds, grace = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    def look(numbers):
        if numbers[0] in (13, 14):
            print("entered", flush=True)
            if numbers[0] == 14:  # the main thread sleeps on, as if it had just fallen asleep
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
    """Return a function that starts a server process; it is killed at the end."""
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
        assert line, process.communicate()  # no line: the process has ended


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
    future = make_client(ring_name, timeout=None).submit(x_of(HUNG_AND_SIGNALLED_IN_ANOTHER_THREAD))
    said, errors = process.communicate()
    assert process.returncode == 143, errors
    assert "SIGTERM: answering what waits" in said
    with pytest.raises((ringfeed.EngineDied, ringfeed.RingClosed)):
        future.result(timeout=60)


@pytest.mark.parametrize("way", ["SIGTERM suffices", "SIGKILL follows"])
def test_as_process_1_it_ends_as_kubernetes_wants_it(ring_name, server, make_client, way):
    require_pid_namespaces()
    process = server(seconds=0.05, grace=1000.0, prefix=PID_NAMESPACE)
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


def test_a_handler_of_the_program_itself_stays(ring):
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
