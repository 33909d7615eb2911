"""How an engine ends: drained, stopped, with its ring, in the foreground, or by an error of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest
import tensorflow as tf
from serving import first_number, rows_of, wait_until_free, x_of

import ringfeed
from ringfeed.client.reply_pool import PoolSettings, ReplyPool
from ringfeed.testing import ManualPolicy
from support import segments

FOREVER = 1e6


def test_draining_answers_what_waits_also_for_a_larger_batch_or_a_command_then_stops(make_ring, serve, make_client):
    for options in ({"linger": FOREVER, "batch_size": 8}, {"policy": ManualPolicy(8)}):
        ring = make_ring(slots=16)
        engine = serve(ring, **options)
        client = make_client(ring.name)
        futures = [client.submit(x_of(number)) for number in range(5)]
        assert engine.drain()
        assert [future.result() for future in futures] == list(range(5))
        assert not engine.running
        assert engine.wait(timeout=0)


def test_draining_gives_up_waiting_and_goes_on_draining(ring, serve, make_client):
    may_end = tf.Variable(False)

    def model(x):
        tf.while_loop(lambda n: tf.logical_not(may_end) & (x[0, 0] > 0), lambda n: n + 1, [0])
        return x[:, 0]

    engine = serve(ring, model, batch_size=1)
    client = make_client(ring.name)
    futures = [client.submit(x_of(number)) for number in range(1, 4)]
    assert not engine.drain(timeout=0.01)
    may_end.assign(True)
    assert [future.result() for future in futures] == [1, 2, 3]
    assert engine.drain()


def test_stopping_leaves_what_waits_to_other_engines(ring, serve, make_client):
    engine = serve(ring, policy=ManualPolicy(8))
    client = make_client(ring.name, if_engine_dies="wait")
    futures = [client.submit(x_of(number)) for number in range(5)]
    engine.stop()
    engine.stop()
    assert ring.ready == 5
    serve(ring)
    assert [future.result() for future in futures] == list(range(5))
    wait_until_free(ring, client._session.pool)


def test_as_a_context_manager_it_serves_within_the_block(ring, make_client):
    with ringfeed.Engine(ring, first_number) as engine:
        assert engine.running
        assert make_client(ring.name).predict(x_of(1)) == 1
    assert not engine.running
    with pytest.raises(ringfeed.RingFeedError, match="started or stopped before"):
        engine.start()


def test_it_ends_with_a_finished_ring_and_answers_all_of_it(ring, serve, make_client):
    engine = serve(ring, linger=FOREVER, batch_size=8)
    client = make_client(ring.name)
    futures = [client.submit(x_of(number)) for number in range(5)]
    ring.finish()
    assert engine.wait()
    assert [future.result() for future in futures] == list(range(5))
    with pytest.raises(ringfeed.RingFinished):
        client.predict(x_of(1))


def test_it_ends_with_a_closed_ring_and_says_so_to_clients(make_ring, serve, make_client):
    ring = make_ring()
    engine = serve(ring)
    client = make_client(ring.name)
    assert client.predict(x_of(1)) == 1
    ring.close()
    assert engine.wait()
    for ask in (client.predict, client.submit):
        with pytest.raises(ringfeed.RingClosed, match=ring.name):
            ask(x_of(1))
    engine.stop()
    assert ring.name in str(engine.stats())


SERVER = """
    import logging, sys
    import ringfeed
    logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
    with ringfeed.Ring.create(sys.argv[1], {"x": ((512,), "int64")}, slots=8) as ring:
        engine = ringfeed.Engine(ring, lambda x: x[:, 0], linger=0.0)
        try:
            engine.run()
        except KeyboardInterrupt:
            print("interrupted", flush=True)
"""


@pytest.mark.parametrize("way", ["Ctrl-C", "finish"])
def test_in_the_foreground_it_serves_until_ctrl_c_or_the_ring_is_finished(ring_name, make_client, way):
    command = [sys.executable, "-c", textwrap.dedent(SERVER), ring_name]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    server = subprocess.Popen(command, env=environment, **pipes)
    try:
        client = make_client(ring_name, timeout=None)
        assert client.predict(rows_of(range(20))).tolist() == list(range(20))
        said = server.stdout.readline()
        if way == "Ctrl-C":
            server.send_signal(signal.SIGINT)
        else:
            client._session.ring.finish()
        rest, errors = server.communicate()
        said += rest
    finally:
        server.kill()
        server.wait()
    assert server.returncode == 0, errors
    assert "Traceback" not in errors
    assert ("interrupted" in said) == (way == "Ctrl-C")
    assert f"ring '{ring_name}': serving model" in said
    assert f"ring '{ring_name}': stopped: " in said
    assert not [name for name in segments() if ring_name in name]


def test_an_engine_whose_replies_were_replaced_ends_and_says_so(ring, serve, caplog):
    engine = serve(ring)
    engine._pool.serve(None)  # another engine may now replace the replies, as if this one were dead
    other = ReplyPool.make(ring, {"z": ((3,), "int64")}, 16, 8, PoolSettings())
    engine.wait()
    assert not engine.running
    assert "another engine has made the replies anew" in caplog.text
    other.close()


def test_a_policy_that_keeps_failing_ends_the_engine_and_run_says_why(ring):
    class Broken(ManualPolicy):
        def take(self, *_):
            raise OSError("broken")

    with pytest.raises(ringfeed.RingFeedError, match="16 batches in a row could not be served"):
        ringfeed.Engine(ring, first_number, policy=Broken(8)).run()
