"""`ringfeed.tf.take`: the native op in a user's graphs, in loops, datasets, Keras and strategies."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from feeding import address, fill, first_numbers, produce, random_samples, same_bits, slot_of

import ringfeed
from ringfeed.tf import TAGS, take
from support import DTYPES, in_thread, run_program, states, wait_until_waited

pytestmark = [
    pytest.mark.usefixtures("quick_collection"),
    pytest.mark.skipif(ringfeed.tf.why_not_native() is not None, reason=f"no op: {ringfeed.tf.why_not_native()}"),
]


def taken_in_a_graph(ring, *arguments, **options):
    return tf.function(lambda: take(ring, *arguments, **options))()


# ---- Results -----   -----------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [take, taken_in_a_graph], ids=["eager", "graph"])
def test_it_gives_the_rings_own_memory_which_goes_back_with_the_last_tensor(ring, run):
    fill(ring, range(3))
    batch = run(ring, 4, "x")
    assert first_numbers(batch) == [0, 1, 2]
    assert slot_of(ring, "x", address(batch)) == 0
    part = batch[1:]
    del batch
    assert ring.stats()["taken"] == 3
    del part
    assert states(ring) == {"free": 8}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_arrives_bit_by_bit(make_ring, dtype):
    ring = make_ring({"x": ((3, 5), dtype)})
    samples = random_samples(ring.spec["x"], 4, np.random.default_rng(1))
    for sample in samples:
        ring.put({"x": sample})
    batch = taken_in_a_graph(ring, 4, "x")
    assert batch.shape == (4, 3, 5)
    assert same_bits(batch.numpy(), samples)


def test_fields_tags_and_structures_come_as_they_were_asked_for(make_ring):
    ring = make_ring({"x": ((512,), "int64"), "y": ((), "float32")})
    fill(ring, range(5))
    x, (tags, rest) = taken_in_a_graph(ring, 8, ("x", (TAGS, {"y": "y"})))
    assert first_numbers(x) == list(range(5))
    assert tags.dtype == tf.uint64
    assert tags.numpy().tolist() == list(range(5))
    assert rest["y"].numpy().tolist() == list(range(5))


def test_a_graph_knows_the_shapes(make_ring):
    ring = make_ring({"x": ((7, 3), "uint8"), "y": ((512,), "int64")})
    seen = {}

    @tf.function
    def look():
        seen.update({name: tensor.shape.as_list() for name, tensor in take(ring, 4).items()})

    look.get_concrete_function()
    assert seen == {"x": [None, 7, 3], "y": [None, 512]}


def test_a_run_over_the_rings_end_is_one_batch(ring):
    step = tf.function(lambda: take(ring, 3, "x"))
    for start in (0, 3, 6):
        fill(ring, range(start, start + 3))
        batch = step()
        assert first_numbers(batch) == [start, start + 1, start + 2]
        assert slot_of(ring, "x", address(batch)) == start
        del batch


# ---- Places to use it  ----------------------------------------------------------------------------------


def test_each_run_of_a_loop_takes_a_batch_and_frees_it(ring, start):
    @tf.function
    def total(batches):
        total = tf.constant(0, tf.int64)
        for _ in tf.range(batches):
            total += tf.reduce_sum(take(ring, 1, "x")[:, 0])
        return total

    producer = start(produce, ring.name, 50)
    assert total(tf.constant(50)).numpy() == sum(range(50))
    producer.result()
    assert states(ring) == {"free": 8}


def test_two_takes_in_one_graph_are_two_batches(ring):
    fill(ring, range(4))
    first, second = tf.function(lambda: (take(ring, 2, "x"), take(ring, 2, "x")))()
    assert sorted(first_numbers(first) + first_numbers(second)) == [0, 1, 2, 3]


def test_interleaved_datasets_over_one_ring_share_its_records(make_ring, start):
    ring = make_ring(slots=64)  # a parallel interleave buffers elements
    producer = start(produce, ring.name, 60)
    elements = tf.data.Dataset.range(3).interleave(
        lambda _: ringfeed.tf.dataset(ring, 2, structure="x", native=True), cycle_length=3, num_parallel_calls=3
    )
    seen = []
    for element in elements:
        seen += first_numbers(element)
        del element
    assert sorted(seen) == list(range(60))
    producer.result()


def test_it_stands_behind_a_map_of_a_dataset(ring):
    fill(ring, range(6))
    elements = tf.data.Dataset.range(3).map(lambda _: take(ring, 2, "x"))
    assert [first_numbers(element) for element in elements] == [[0, 1], [2, 3], [4, 5]]


def test_a_keras_model_takes_its_own_batches(ring):
    class Fed(keras.Model):
        def predict_step(self, data):
            return tf.reduce_sum(take(ring, 2, "x"), axis=1)

    fill(ring, range(4))
    sums = Fed().predict(np.zeros((2, 1)), batch_size=1, verbose=0)
    assert sums.tolist() == [512 * number for number in range(4)]


@pytest.mark.slow
def test_each_replica_of_a_strategy_takes_its_own(tmp_path):
    program = tmp_path / "strategy.py"  # in a file, because autograph reads a function's source
    program.write_text(
        textwrap.dedent("""
        import tensorflow as tf
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
        import ringfeed

        with ringfeed.Ring.create(None, {"x": ((512,), "int64")}, slots=8) as ring:
            strategy = tf.distribute.MirroredStrategy(["/CPU:0", "/CPU:1"])

            @tf.function
            def step():
                return strategy.run(lambda: tf.reduce_max(ringfeed.tf.take(ring, 2, "x")))

            seen = []
            for number in range(0, 16, 4):
                for more in range(4):
                    with ring.claim() as slot:
                        slot["x"] = number + more
                seen += [int(value) for value in strategy.experimental_local_results(step())]
            print(sorted(seen))
    """)
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert done.stdout == f"{[1, 3, 5, 7, 9, 11, 13, 15]}\n", done.stderr


# ---- Endings ---- -------------------------------------------------------------------------------------


def test_the_end_of_the_data_is_out_of_range(ring):
    step = tf.function(lambda: take(ring, 2, "x"))
    fill(ring, range(1))
    ring.finish()
    assert first_numbers(step()) == [0]
    for _ in range(2):
        with pytest.raises(tf.errors.OutOfRangeError, match=f"ring '{ring.name}' was finished"):
            step()


def test_a_timeout_is_an_error_that_names_it(ring):
    fill(ring, range(1))
    with pytest.raises(
        tf.errors.UnknownError, match=rf"RingEmpty: ring '{ring.name}': 1 of 2 records ready after 0.1 s"
    ):
        taken_in_a_graph(ring, 2, "x", min_rows=2, timeout=0.1)


def test_closing_the_ring_ends_a_wait(ring):
    step = tf.function(lambda: take(ring, 2, "x"))
    with in_thread(step) as result:
        wait_until_waited(ring, "take")
        ring.close()
        with pytest.raises(tf.errors.UnknownError, match=f"RingClosed: ring '{ring.name}' is closed"):
            result.result()


def test_a_function_that_outlives_its_ring_is_an_error(make_ring):
    owner = make_ring()
    ring = ringfeed.Ring.attach(owner.name)
    step = tf.function(lambda ring=ring: take(ring, 2, "x")).get_concrete_function()
    del ring
    gc.collect()
    with pytest.raises(tf.errors.UnknownError, match=f"RingClosed: ring '{owner.name}': it was dropped"):
        step()


def test_ctrl_c_ends_a_wait_in_a_graph(ring):
    """The handler may run while TensorFlow creates its exception; then an error names KeyboardInterrupt."""
    program = f"""
        import ringfeed
        import tensorflow as tf
        ring = ringfeed.Ring.attach({ring.name!r})
        step = tf.function(lambda: ringfeed.tf.take(ring, 2, "x"), autograph=False)
        try:
            step()
        except BaseException as error:
            print("KeyboardInterrupt" in repr(error))
    """
    waiter = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    try:
        wait_until_waited(ring, "take")
        waiter.send_signal(signal.SIGINT)
        assert waiter.communicate() == ("True\n", None)
    finally:
        waiter.kill()
        waiter.wait()


def test_an_idle_wait_uses_no_processor_time(ring):
    _, printed, errors = run_program(f"""
        import time, resource
        import tensorflow as tf
        ring = ringfeed.Ring.attach({ring.name!r})
        step = tf.function(lambda: ringfeed.tf.take(ring, 2, "x", timeout=2.0), autograph=False).get_concrete_function()
        before = time.process_time()
        try:
            step()
        except tf.errors.UnknownError:
            print(time.process_time() - before < 0.2)
    """)
    assert printed == "True\n", errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, "x"), "max_rows"), ((2, "y"), "'y' is no field"), ((2, "x", "more"), "positional")],
)
@pytest.mark.parametrize("run", [take, taken_in_a_graph], ids=["eager", "graph"])
def test_invalid_options_are_named(ring, run, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        run(ring, *arguments)


def test_functions_and_datasets_of_one_plan_share_a_feed(ring):
    from ringfeed.tf.feed.op_feed import _shared

    for _ in range(20):
        tf.function(lambda: take(ring, 2, "x", timeout=1.0)).get_concrete_function()
        ringfeed.tf.dataset(ring, 2, structure="x", native=True)
    assert len(_shared[ring]) == 2
