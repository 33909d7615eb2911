"""Engines on several devices, with a strategy, in another precision; each test configures TensorFlow in a process."""

from __future__ import annotations

import numpy as np
import pytest
from serving import wait_until_free

import ringfeed
from support import wait_until
from two_devices import on_two_cpus, two_cpus  # noqa: F401 - a fixture

FIELDS = {"x": ((16,), "float32")}
ROWS = np.random.default_rng(3).random((200, 16), np.float32)


def dense_model():
    import keras

    keras.utils.set_random_seed(3)
    return keras.Sequential([keras.Input((16,)), keras.layers.Dense(4, activation="tanh")], name="dense_model")


def answers_equal(engine, model, tolerance=1e-5):
    """Ask for many rows, compare the answers with the model's own, and return the engine's statistics."""
    client = ringfeed.Client(engine.ring.name)
    answers = client.predict(ROWS)
    np.testing.assert_allclose(answers, model(ROWS), rtol=tolerance, atol=tolerance)
    wait_until(lambda: engine.stats().rows == len(ROWS))
    wait_until_free(engine.ring, client._session.pool)
    client.close()
    return engine.stats()


@on_two_cpus
def test_two_replicas_share_the_work():
    with ringfeed.Ring.create(None, FIELDS, slots=64) as ring:
        model = dense_model()
        with ringfeed.Engine(ring, model, batch_size=4, linger=0.0, devices=["CPU:0", "CPU:1"]) as engine:
            stats = answers_equal(engine, model)
            client = ringfeed.Client(ring)
            for _ in range(1000):
                if all(replica.batch_sizes for replica in engine._replicas):
                    break
                client.predict(ROWS)  # one thread got no core
            client.close()
        assert stats.devices == ("CPU:0", "CPU:1")
        assert all(replica.batch_sizes for replica in engine._replicas), "one had all the work"


@on_two_cpus
def test_a_strategy_splits_each_batch_over_its_replicas_also_odd_ones_and_single_rows():
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = dense_model()
    with ringfeed.Ring.create(None, FIELDS, slots=64) as ring:
        with ringfeed.Engine(ring, model, batch_size=7, linger=0.0, strategy=strategy) as engine:
            answers_equal(engine, model)
            client = ringfeed.Client(ring)
            np.testing.assert_allclose(client.predict(ROWS[0]), model(ROWS[:1])[0], rtol=1e-5, atol=1e-6)
            client.close()
        assert engine.stats().devices == ("MirroredStrategy",)


@on_two_cpus
def test_a_strategy_may_return_several_outputs():
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with (
        ringfeed.Ring.create(None, FIELDS, slots=64) as ring,
        ringfeed.Engine(ring, lambda x: {"a": x[:, 0], "b": x * 2}, batch_size=8, strategy=strategy),
        ringfeed.Client(ring) as client,
    ):
        answers = client.predict(ROWS)
        assert (answers["a"] == ROWS[:, 0]).all()
        assert (answers["b"] == 2 * ROWS).all()


@on_two_cpus
def test_a_strategys_replica_that_returns_rows_too_many_or_too_few_is_an_error_and_never_cut():
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    models = {
        "twice": lambda x: tf.repeat(x, 2, axis=0),
        "one": lambda x: tf.reduce_mean(x, axis=0, keepdims=True),
        "scalar": tf.reduce_sum,
    }
    for model in models.values():
        with (
            ringfeed.Ring.create(None, FIELDS, slots=64) as ring,
            pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="row for each row"),
        ):
            ringfeed.Engine(ring, model, batch_size=8, strategy=strategy).start()


@on_two_cpus
def test_a_device_that_does_not_exist_is_named_with_those_that_do():
    with (
        ringfeed.Ring.create(None, FIELDS, slots=64) as ring,
        pytest.raises(ValueError, match=r"device 'GPU:0': there is no such device. TensorFlow has CPU:0, CPU:1"),
    ):
        ringfeed.Engine(ring, dense_model(), devices=["CPU:0", "GPU:0"])


@on_two_cpus
def test_xla_compiles_every_allowed_size_ahead_on_each_device():
    with ringfeed.Ring.create(None, FIELDS, slots=64) as ring:
        model = dense_model()
        options = {"devices": ["CPU:0", "CPU:1"], "jit_compile": True, "allowed_batch_sizes": [1, 8]}
        with ringfeed.Engine(ring, model, linger=0.0, **options) as engine:
            answers_equal(engine, model)


@on_two_cpus
def test_a_model_of_less_precision_answers_nearly_the_same_and_says_how_nearly():
    with ringfeed.Ring.create(None, FIELDS, slots=64) as ring:
        model = dense_model()
        with ringfeed.Engine(ring, model, precision="bfloat16", samples=ROWS[:32], linger=0.0) as engine:
            answers_equal(engine, model, tolerance=0.03)
        assert "bfloat16" in str(engine.precision_report) or engine.precision_report is not None


# ---- Memory that is really short ---------------------------------------------------------------------


def _serve_with_little_memory(pipe):
    """Serve a model that needs 64 MB for each row on a device with memory for a few rows."""
    import resource
    from pathlib import Path

    import tensorflow as tf

    def hungry(x):
        large = tf.fill((tf.shape(x)[0], 16 << 20), x[0, 0])
        return x[:, 0] + 0 * tf.reduce_max(large, axis=1)

    with ringfeed.Ring.create(None, FIELDS, slots=64) as ring:
        engine = ringfeed.Engine(ring, hungry, batch_size=16, linger=0.05)
        engine._replicas[0].run_warm_up(1)
        lines = Path("/proc/self/status").read_text().splitlines()
        taken = int(next(line for line in lines if line.startswith("VmSize")).split()[1]) << 10
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (taken + (600 << 20), limits[1]))
        with engine, ringfeed.Client(ring) as client:
            answers = client.predict(ROWS[:16])
            stats = engine.stats()
        resource.setrlimit(resource.RLIMIT_AS, limits)
        pipe.tell((np.array_equal(answers, ROWS[:16, 0]), stats.memory_limit_rows, stats.out_of_memory, stats.failed))


@pytest.mark.slow  # TensorFlow waits ten seconds before it reports that there is no memory
def test_a_batch_that_memory_does_not_suffice_for_is_split_until_it_does(start):
    child = start(_serve_with_little_memory)
    right, memory_limit, out_of_memory, failed = child.told()
    child.result()
    assert right
    assert failed == 0
    assert 1 <= memory_limit <= 8
    assert out_of_memory >= 1
