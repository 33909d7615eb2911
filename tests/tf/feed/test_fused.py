"""`ringfeed.tf.fuse`: a ring and a model as one function."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import textwrap
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from feeding import address_in_graph, fill, produce, slot_of

import ringfeed
from ringfeed.tf import TAGS, fuse
from support import in_thread, states, wait_until_waited

pytestmark = [
    pytest.mark.usefixtures("quick_collection"),
    pytest.mark.skipif(ringfeed.tf.why_not_native() is not None, reason=f"no op: {ringfeed.tf.why_not_native()}"),
]


def first_number(x):
    return x[:, 0]


# ---- Results -----   -----------------------------------------------------------------------------------


def test_a_call_takes_a_batch_runs_the_model_and_frees_the_slots(ring):
    fused = fuse(ring, first_number, 4)
    for start in range(0, 12, 3):
        fill(ring, range(start, start + 3))
        assert fused().numpy().tolist() == [start, start + 1, start + 2]
        assert states(ring) == {"free": 8}


def test_the_model_reads_the_slots_themselves(ring):
    fused = fuse(ring, lambda x: tf.repeat(address_in_graph(x), tf.shape(x)[0]), 3)
    for start in (0, 3, 6):  # the last batch passes the ring's end
        fill(ring, range(3))
        assert [slot_of(ring, "x", where) for where in fused().numpy()] == [start] * 3


def test_iterating_ends_with_the_ring_and_misses_nothing(ring, start):
    producer = start(produce, ring.name, 100)
    seen = [number for outputs in fuse(ring, first_number, 4) for number in outputs.numpy().tolist()]
    assert seen == list(range(100))
    producer.result()


@pytest.mark.parametrize("pad", [None, "ring"])
def test_tags_come_with_the_outputs(ring, pad):
    fill(ring, range(3))
    outputs, tags = fuse(ring, first_number, 4, with_tags=True, pad=pad)()
    assert tags.dtype == np.uint64
    assert outputs.numpy().tolist() == tags.tolist() == [0, 1, 2]


@pytest.mark.parametrize("options", [{}, {"pad": "ring"}, {"pad": "ring", "jit_compile": True}], ids=str)
def test_a_keras_model_returns_the_outputs_of_predict(make_ring, options):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.GlobalMaxPooling2D()])
    ring = make_ring({"image": ((8, 8, 3), "float32")}, slots=32)
    images = np.random.default_rng(2).random((20, 8, 8, 3), np.float32)
    for image in images:
        ring.put({"image": image})
    ring.finish()
    outputs = np.concatenate([outputs.numpy() for outputs in fuse(ring, model, 6, **options)])
    np.testing.assert_allclose(outputs, model.predict(images, verbose=0), rtol=1e-4, atol=1e-5)


def test_models_of_several_inputs_are_given_the_fields_by_name(make_ring):
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    model = keras.Model({"a": a, "b": b}, {"sum": a + b, "difference": a - b})
    ring = make_ring({"b": ((4,), "float32"), "extra": ((), "int64"), "a": ((4,), "float32")}, slots=8)
    ring.put({"a": np.full(4, 5, np.float32), "b": np.full(4, 2, np.float32), "extra": 1})
    outputs = fuse(ring, model, 4)()
    assert outputs["sum"].numpy().tolist() == [[7.0] * 4]
    assert outputs["difference"].numpy().tolist() == [[3.0] * 4]


def test_a_structure_of_ones_own_goes_to_the_model(make_ring):
    ring = make_ring({"x": ((512,), "int64"), "y": ((), "int64")})
    fill(ring, range(3))
    outputs = fuse(ring, lambda given: (given["tag"], given["number"] * 2), 4, structure={"tag": TAGS, "number": "y"})()
    assert [output.numpy().tolist() for output in outputs] == [[0, 1, 2], [0, 2, 4]]


def test_padded_fields_are_cut_to_shape(make_ring):
    ring = make_ring({"x": ((5, 3), "uint8")})
    sample = np.arange(15, dtype=np.uint8).reshape(5, 3)
    ring.put({"x": sample})
    assert (fuse(ring, lambda x: x + 1, 4)().numpy() == sample[None] + 1).all()


def test_outputs_may_be_the_inputs_and_keep_their_slots(ring):
    fill(ring, range(2))
    outputs = fuse(ring, tf.identity, 4)()
    assert ring.stats()["taken"] == 2
    assert outputs.numpy()[:, 0].tolist() == [0, 1]
    del outputs
    assert states(ring) == {"free": 8}


# ---- Batches of one shape ----------------------------------------------------------------------------


@pytest.mark.parametrize("jit_compile", [False, True])
def test_with_pad_the_model_sees_one_shape_and_the_results_have_as_many_rows_as_there_were(make_ring, jit_compile):
    ring = make_ring({"x": ((16,), "float32")}, slots=16)
    traced = []

    def model(x):
        traced.append(x.shape.as_list())
        return tf.reduce_sum(x * 2, axis=1)

    fused = fuse(ring, model, 6, pad="ring", jit_compile=jit_compile)
    number = 0
    for rows in (1, 6, 2, 5, 3, 4, 6, 1):
        fill(ring, range(number, number + rows))
        assert fused().numpy().tolist() == [32.0 * each for each in range(number, number + rows)]
        number += rows
    assert {tuple(shape) for shape in traced} == {(6, 16)}
    assert states(ring) == {"free": ring.slots}


def test_a_model_of_a_fixed_batch_size_is_fed_by_pad(ring):
    model = tf.function(lambda x: x[:, 0] + 1, input_signature=[tf.TensorSpec((4, 512), tf.int64)])
    fill(ring, range(3))
    assert fuse(ring, model, 4, pad="ring")().numpy().tolist() == [1, 2, 3]


def test_padding_shows_the_neighbouring_slots_without_a_copy(ring):
    """The view extends over slots that other batches hold, also past the ring's end."""
    fused = fuse(ring, lambda x: (tf.repeat(address_in_graph(x), 8), x[:, 0]), 8, pad="ring", allow_row_mixing=True)
    for start in (0, 3, 6):
        fill(ring, range(start, start + 3))
        where, numbers = fused()
        assert [slot_of(ring, "x", address) for address in where.numpy()] == [start] * 3
        assert numbers.numpy().tolist() == [start, start + 1, start + 2]


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (lambda x: x - tf.reduce_mean(x, axis=0), "changes with the rows behind them"),
        (lambda x: tf.reduce_sum(x, axis=0), "returns an output of shape"),
        (lambda x: tf.cumsum(x, axis=0, reverse=True), "changes with the rows behind them"),
        (lambda x: tf.nn.softmax(x, axis=0), "changes with the rows behind them"),
    ],
)
def test_a_model_that_mixes_rows_is_not_padded_unless_asked(make_ring, model, why):
    ring = make_ring({"x": ((16,), "float32")}, slots=16)
    with pytest.raises(ValueError, match=f"mixes rows: .*{why}.*allow_row_mixing=True"):
        fuse(ring, model, 4, pad="ring")
    if "shape" not in why:
        fill(ring, range(4))
        assert len(fuse(ring, model, 4, pad="ring", allow_row_mixing=True)()) == 4


def test_an_embedding_can_be_padded(make_ring):
    """Large random indices would be out of the table's bounds."""
    ring = make_ring({"word": ((3,), "int32")}, slots=16)
    table = tf.constant([[1.0], [2.0]])
    fill(ring, [0, 1, 1])
    with tf.device("/CPU:0"):
        outputs = fuse(ring, lambda words: tf.gather(table, words)[:, 0, 0], 4, pad="ring")()
    assert outputs.numpy().tolist() == [1.0, 2.0, 2.0]


# ---- Waiting and ending ------------------------------------------------------------------------------


def test_errors_are_those_of_take_and_cost_no_record(ring):
    fused = fuse(ring, first_number, 4, min_rows=2, timeout=0.0)
    fill(ring, range(1))
    with pytest.raises(ringfeed.RingEmpty, match=f"ring '{ring.name}': 1 of 2 records"):
        fused()
    fill(ring, range(1, 2))
    assert fused(timeout=5.0).numpy().tolist() == [0, 1]
    ring.finish()
    with pytest.raises(ringfeed.RingFinished):
        fused()
    ring.close()
    with pytest.raises(ringfeed.RingClosed):
        fused()


def test_a_model_that_fails_gives_its_slots_back(ring):
    def model(x):
        with tf.control_dependencies([tf.debugging.assert_less(x[:, 0], tf.constant(2, tf.int64))]):
            return tf.identity(x[:, 0])

    fused = fuse(ring, model, 2)
    fill(ring, range(6))
    assert fused().numpy().tolist() == [0, 1]
    with pytest.raises(tf.errors.InvalidArgumentError):
        fused()
    gc.collect()
    assert ring.stats()["taken"] == 0
    fill(ring, [0])
    with pytest.raises(tf.errors.InvalidArgumentError):
        fused()
    assert fused().numpy().tolist() == [0]


def test_threads_that_call_at_a_time_have_batches_of_their_own(ring, start):
    fused = fuse(ring, lambda x: (x[:, 0], x[:, 511]), 2, with_tags=True)
    producer = start(produce, ring.name, 400)
    seen, lock = [], threading.Lock()

    def call() -> None:
        for (first, last), tags in fused:
            assert first.numpy().tolist() == last.numpy().tolist() == tags.tolist()
            with lock:
                seen.extend(tags.tolist())

    with in_thread(call) as one, in_thread(call) as two:
        one.result()
        two.result()
    assert sorted(seen) == list(range(400))
    producer.result()


def test_inside_a_tf_function_the_op_waits_and_the_end_is_out_of_range(ring, start):
    fused = fuse(ring, first_number, 1)

    @tf.function
    def total(batches):
        total = tf.constant(0, tf.int64)
        for _ in tf.range(batches):
            total += tf.reduce_sum(fused())
        return total

    producer = start(produce, ring.name, 30)
    assert total(tf.constant(30)).numpy() == sum(range(30))
    with pytest.raises(tf.errors.OutOfRangeError):
        total(tf.constant(1))
    producer.result()


def test_ctrl_c_ends_a_wait_as_a_keyboard_interrupt(ring):
    program = f"""
        import ringfeed
        ring = ringfeed.Ring.attach({ring.name!r})
        try:
            ringfeed.tf.fuse(ring, lambda x: x[:, 0], 2)()
        except KeyboardInterrupt:
            print("interrupted")
    """
    waiter = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    try:
        wait_until_waited(ring, "take")
        waiter.send_signal(signal.SIGINT)
        assert waiter.communicate() == ("interrupted\n", None)
    finally:
        waiter.kill()
        waiter.wait()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"batch_size": 9}, "batch_size 9: ring '.*' has only 8 slots"),
        ({"batch_size": 2.5}, "batch_size 2.5"),
        ({"min_rows": 5}, "min_rows 5"),
        ({"pad": "zeros"}, "pad 'zeros': give \"ring\""),
        ({"structure": "y"}, "'y' is no field"),
        ({"timeout": -1}, "timeout -1"),
        ({"linger": "long"}, "linger 'long'"),
        ({"model": 3}, "a model cannot be made of 'int'"),
        ({"ring": "cams"}, "ring 'cams': give a ringfeed.Ring"),
    ],
)
def test_invalid_options_are_named(ring, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fuse(**({"ring": ring, "model": first_number, "batch_size": 4} | options))
