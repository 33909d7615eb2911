"""Wrong arguments of engines, clients and requests are errors that name the argument and the remedy."""

from __future__ import annotations

import re

import pytest
import tensorflow as tf
from serving import first_number, rows_of, wait_until_free, x_of

import ringfeed
from ringfeed.testing import ManualPolicy
from support import states


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
def test_wrong_arguments_of_an_engine_are_named(ring, options, message):
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
def test_wrong_arguments_of_a_client_are_named(ring, serve, options, message):
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
def test_wrong_requests_are_named_and_hold_no_slot(ring, serve, make_client, inputs, options, message):
    serve(ring)
    client = make_client(ring.name)
    pattern = message if "|" in message else re.escape(message)
    for ask in (client.predict, client.submit):
        with pytest.raises((ringfeed.RecordMismatch, ValueError, TypeError), match=pattern):
            ask(inputs, **options)
    wait_until_free(ring, client._session.pool)


def test_an_error_says_that_a_ring_has_no_engine(ring):
    with pytest.raises(ringfeed.RingNotFound, match=r"no engine has served it yet.*Engine"):
        ringfeed.Client(ring.name, timeout=0)
    with pytest.raises(ringfeed.RingNotFound):
        ringfeed.Client("no-such-ring", timeout=0)


def test_a_ring_without_a_name_cannot_be_served(make_ring, serve):
    ring = make_ring()
    ring.unlink()
    with pytest.raises(ringfeed.RingNotFound, match="has lost its name"):
        serve(ring)
