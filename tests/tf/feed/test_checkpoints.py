"""Checkpoints: an iterator over a ring refuses to be saved and restored, also while a thread waits for records."""

from __future__ import annotations

import pytest
import tensorflow as tf

import ringfeed
from support import in_thread, record, wait_until_waited

KINDS = {
    "native": lambda ring: ringfeed.tf.dataset(ring, batch_size=2, structure="x", native=True),
    "by a generator": lambda ring: ringfeed.tf.dataset(ring, batch_size=2, structure="x", native=False),
    "taken ahead": lambda ring: ringfeed.tf.dataset(ring, batch_size=2, structure="x", prefetch=2),
    "from_generator": lambda ring: tf.data.Dataset.from_generator(
        ringfeed.tf.generator(ring, 2), output_signature=ringfeed.tf.element_spec(ring)
    ),
    "with steps behind": lambda ring: ringfeed.tf.dataset(ring, batch_size=2, structure="x").prefetch(1).map(tf.abs),
    "zipped": lambda ring: tf.data.Dataset.zip(
        (tf.data.Dataset.range(9), ringfeed.tf.dataset(ring, batch_size=2, structure="x"))
    ),
}


@pytest.fixture(params=KINDS)
def dataset(request, ring):
    return KINDS[request.param](ring)


def refused(ring):
    return pytest.raises(
        ringfeed.RingFeedError, match=rf"ring '{ring.name}': an iterator over it can be neither saved nor restored"
    )


def test_an_iterator_refuses_to_be_saved_and_restored_and_continues(ring, dataset, tmp_path):
    for number in range(4):
        ring.put(record(number))
    iterator = iter(dataset)
    next(iterator)
    checkpoint = tf.train.Checkpoint(iterator=iterator)
    with refused(ring):
        checkpoint.save(tmp_path / "x")
    other = tf.train.Checkpoint(iterator=iter(tf.data.Dataset.range(9))).save(tmp_path / "other")
    with refused(ring):
        checkpoint.restore(other)
    assert next(iterator) is not None
    ring.finish()


def test_also_while_a_thread_waits_for_a_record_of_an_idle_ring(ring, tmp_path):
    iterator = iter(ringfeed.tf.dataset(ring, batch_size=2, structure="x").prefetch(1))
    with in_thread(next, iterator) as waiting:
        wait_until_waited(ring, "take")
        with refused(ring):
            tf.train.Checkpoint(iterator=iterator).save(tmp_path / "x")
        ring.put(record(3))
        assert waiting.result()[0, 0] == 3
    ring.finish()


def test_a_dataset_with_ignored_state_is_refused_too(ring, tmp_path):
    options = tf.data.Options()
    options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
    iterator = iter(ringfeed.tf.dataset(ring, batch_size=2, structure="x").with_options(options))
    with refused(ring):
        tf.train.Checkpoint(iterator=iterator).save(tmp_path / "x")


def test_other_iterators_are_saved_and_restored_as_usual(ring, tmp_path):
    KINDS["native"](ring)
    iterator = iter(tf.data.Dataset.range(9).prefetch(2))
    next(iterator)
    checkpoint = tf.train.Checkpoint(iterator=iterator)
    path = checkpoint.save(tmp_path / "x")
    assert [int(next(iterator)) for _ in range(3)] == [1, 2, 3]
    checkpoint.restore(path)
    assert [int(next(iterator)) for _ in range(3)] == [1, 2, 3]
