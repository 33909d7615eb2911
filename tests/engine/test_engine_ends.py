"""How engines and clients end: drained, stopped, by Ctrl-C, with their ring; and what is said of arguments."""

from __future__ import annotations

import os
import re
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
from support import in_thread, record, segments, states, wait_until

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


def test_a_closed_client_says_so_and_fails_what_was_under_way(ring, serve, make_client):
    serve(ring, policy=ManualPolicy(8))
    client = make_client(ring.name)
    with in_thread(client.predict, x_of(1)) as waiting:
        future = client.submit(x_of(2))
        rows = client.submit(rows_of([3, 4]))
        wait_until(lambda: ring.ready == 4)
        client.close()
        client.close()
        for each in (future, rows, waiting):
            with pytest.raises(ringfeed.RingClosed, match="clos"):
                each.result()
    for ask in (client.predict, client.submit):
        with pytest.raises(ringfeed.RingClosed, match="this client was closed"):
            ask(x_of(1))
    assert "closed Client" in repr(client)


def test_a_client_that_was_given_a_ring_leaves_it_open(ring, serve, make_client):
    serve(ring)
    with make_client(ring) as client:
        assert client.predict(x_of(1)) == 1
    ring.put(record(1))


def test_a_client_works_on_in_a_forked_child_beside_its_parent(ring, serve, make_client):
    serve(ring)
    client = make_client(ring.name, max_in_flight=2)
    under_way = [client.submit(x_of(number)) for number in range(2)]
    inside, outside = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answers = [client.predict(x_of(7)), *client.predict(rows_of([8, 9]))]
            answers += [future.result() for future in [client.submit(x_of(number)) for number in range(10)]]
            os.write(outside, " ".join(map(str, answers)).encode())
        finally:
            os._exit(0)
    os.close(outside)
    answers = [int(word) for word in os.read(inside, 1000).split()]
    os.waitpid(child, 0)
    os.close(inside)
    assert answers == [7, 8, 9, *range(10)]
    assert [future.result() for future in under_way] == [0, 1]
    assert client.predict(rows_of(range(20))).tolist() == list(range(20))
    wait_until_free(ring, client._session.pool)


# ---- In the foreground -------------------------------------------------------------------------------

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


# ---- Arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ring": "cams"}, "ring 'cams': give a ringfeed.Ring. Ring.attach(name) opens one"),
        ({"model": 3}, "a model cannot be made of 'int'"),
        ({"batch_size": 0}, "batch_size 0: give an integer from 1"),
        ({"batch_size": 9}, "batch_size 9: ring 'NAME' has only 8 slots"),
        ({"linger": -1}, "linger -1: give seconds, 0 or more"),
        ({"allowed_batch_sizes": [16]}, "allowed_batch_sizes 16: ring 'NAME' has only 8 slots"),
        ({"allowed_batch_sizes": []}, "allowed_batch_sizes []: give one integer or more"),
        ({"batch_size": 8, "allowed_batch_sizes": [4]}, "more than the largest of allowed_batch_sizes"),
        ({"policy": ManualPolicy(8), "batch_size": 4}, "policy is given, and batch sizes or linger beside it"),
        ({"policy": ManualPolicy(16)}, "policy: batches of up to 16 rows: ring 'NAME' has only 8 slots"),
        ({"when_full": "drop"}, 'when_full \'drop\': give "block" or "reject"'),
        ({"max_queue_size": -1}, "max_queue_size -1: give an integer, 1 or more"),
        ({"reply_cells": 0}, "reply_cells 0: give an integer, 1 or more"),
        ({"participants": 1}, "participants 1: give an integer, 2 or more"),
        ({"structure": "y"}, "'y' is no field of ring 'NAME'"),
        ({"devices": "GPU:7"}, "device 'GPU:7': there is no such device. TensorFlow has CPU:0"),
        ({"devices": "CPU:0", "strategy": object()}, "devices and strategy: give one of them"),
        ({"strategy": object()}, "give a tf.distribute.Strategy"),
        ({"model": lambda x: x[0]}, "has shape (512,) for 1 rows; a reply is one row"),
        ({"model": lambda x: tf.strings.as_string(x)}, "output 'output'"),
        ({"model": lambda x: tf.sparse.from_dense(x)}, "is a SparseTensor; a reply holds dense tensors"),
    ],
)
def test_what_makes_no_engine_is_named(ring, options, message):
    options = {"ring": ring, "model": first_number} | options
    with pytest.raises((ValueError, TypeError), match=re.escape(message.replace("NAME", ring.name))):
        ringfeed.Engine(**options).start()
    assert states(ring) == {"free": 8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ring": 3}, "ring 3: give a ring's name, or a ringfeed.Ring"),
        ({"max_in_flight": 0}, "max_in_flight 0: give an integer"),
        ({"max_in_flight": 2.5}, "max_in_flight 2.5: give an integer"),
        ({"max_in_flight": "2"}, "max_in_flight '2': give an integer"),
        ({"max_in_flight": 2j}, "give an integer, 1 or more"),
        ({"timeout": "3"}, "timeout '3': give seconds"),
        ({"timeout": float("nan")}, "timeout nan: give seconds"),
        ({"if_engine_dies": "retry"}, 'if_engine_dies \'retry\': give "fail" or "wait"'),
        ({"timeout": -1}, "timeout -1: give seconds"),
    ],
)
def test_what_makes_no_client_is_named(ring, serve, options, message):
    serve(ring)
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        ringfeed.Client(**({"ring": ring.name} | options))


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ({"y": x_of(1)}, {}, "the record has the fields y; the ring holds x"),
        ({"x": x_of(1).astype("int32")}, {}, "int32"),
        ({"x": rows_of([1]).astype("int32")}, {}, "int32[1, 512] are no 1 rows of"),
        (x_of(1)[:-1], {}, "511"),
        (rows_of([]), {}, "are no|0 rows"),
        (x_of(1), {"timeout": -1}, "timeout -1: give seconds"),
        (x_of(1), {"tag": -1}, "tag -1"),
        (x_of(1), {"priority": 1}, "priority 1: give an integer from 0 to 0. Create the ring with more priorities"),
        (x_of(1), {"priority": "high"}, "priority 'high': give an integer from 0 to 0"),
    ],
)
def test_what_can_not_be_asked_is_named_and_costs_nothing(ring, serve, make_client, inputs, options, message):
    serve(ring)
    client = make_client(ring.name)
    pattern = message if "|" in message else re.escape(message)
    for ask in (client.predict, client.submit):
        with pytest.raises((ringfeed.RecordMismatch, ValueError, TypeError), match=pattern):
            ask(inputs, **options)
    wait_until_free(ring, client._session.pool)


def test_a_ring_without_an_engine_is_said_to_have_none(ring):
    with pytest.raises(ringfeed.RingNotFound, match=r"no engine has served it yet.*Engine"):
        ringfeed.Client(ring.name, timeout=0)
    with pytest.raises(ringfeed.RingNotFound):
        ringfeed.Client("no-such-ring", timeout=0)


def test_a_ring_without_a_name_can_not_be_served(make_ring, serve):
    ring = make_ring()
    ring.unlink()
    with pytest.raises(ringfeed.RingNotFound, match="has lost its name"):
        serve(ring)


def test_an_engine_whose_replies_were_replaced_ends_and_says_so(ring, serve, caplog):
    engine = serve(ring)
    engine._pool.serve(None)  # as if it were dead, to who makes others
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
