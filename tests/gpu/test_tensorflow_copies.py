"""Datasets over pinned memory copy the right values to TensorFlow's GPU and release every slot."""

import numpy as np
import pytest
from on_gpu import cuda_driver, fill

from support import in_thread, states, wait_until

pytestmark = pytest.mark.gpu

FIELDS = {"x": ((256, 1024), "float32")}  # 1 MiB
BATCHES = 300


@pytest.fixture(scope="module")
def tf():
    cuda_driver()
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        pytest.skip("this TensorFlow has no GPU; it may lack CUDA's libraries")
    for gpu in gpus:  # leaves memory for PyTorch's tests
        tf.config.experimental.set_memory_growth(gpu, True)
    return tf


@pytest.fixture
def feed(tf, make_ring):
    """Return a function that makes a dataset over a pinned ring; a thread puts BATCHES x 4 records into the ring."""
    import ringfeed.tf

    ring = make_ring(FIELDS, slots=16, pin_memory=True)
    assert ring.pinned, ring.memory

    def produce():
        fill(ring, 0, 4 * BATCHES)
        ring.finish()

    with in_thread(produce):
        yield ring, ringfeed.tf.dataset(ring, batch_size=4, structure="x")


def expect_all(seen):
    assert np.concatenate(seen).tolist() == list(range(4 * BATCHES))


def test_batches_of_a_pinned_ring_reach_the_gpu_unharmed_and_their_slots_come_back(tf, feed):
    ring, dataset = feed
    seen = []
    for batch in dataset:
        with tf.device("/GPU:0"):
            on_gpu = tf.identity(batch)
        del batch  # the copy may still run; the producer waits for these slots
        rows = on_gpu.numpy().reshape(-1, 256 * 1024)
        assert (rows == rows[:, :1]).all(), "overwritten before it was copied"
        seen.append(rows[:, 0].copy())
    expect_all(seen)
    wait_until(lambda: states(ring) == {"free": ring.slots})


def test_a_function_on_the_gpu_takes_them_as_they_are(tf, feed):
    ring, dataset = feed

    @tf.function(input_signature=[tf.TensorSpec([None, 256, 1024])])
    def means(batch):
        with tf.device("/GPU:0"):
            return tf.reduce_mean(tf.cast(batch, tf.float64), axis=(1, 2))

    expect_all([means(batch).numpy() for batch in dataset])
    wait_until(lambda: states(ring) == {"free": ring.slots})


def test_batches_may_be_fetched_ahead_to_the_gpu(tf, feed):
    ring, dataset = feed
    ahead = dataset.apply(tf.data.experimental.prefetch_to_device("/GPU:0", buffer_size=2))
    seen = []
    for batch in ahead:
        assert "GPU" in batch.device
        seen.append(batch[:, 0, 0].numpy())
        del batch
    expect_all(seen)
    wait_until(lambda: states(ring) == {"free": ring.slots})
