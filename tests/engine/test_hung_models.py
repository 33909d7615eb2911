"""An engine whose model does not return: `stop`, `drain` and Ctrl-C end in time, and the error says where it hangs."""

from __future__ import annotations

import threading

import pytest
import tensorflow as tf
from serving import first_number, x_of

import ringfeed

HUNG = 13


class Hangs:
    """A model that returns from a batch with the number 13 only after `may_go_on` is set."""

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
    # None if the model returned just before the stop.
    assert type(futures[0].exception(timeout=30)) in (
        ringfeed.EngineDied,
        type(None),
    )


@pytest.mark.parametrize("timeout", [-1, float("nan"), "3"])
def test_a_wrong_timeout_is_named(ring, timeout):
    engine = ringfeed.Engine(ring, first_number)
    with pytest.raises((ValueError, TypeError), match="timeout"):
        engine.stop(timeout=timeout)
    with pytest.raises((ValueError, TypeError), match="grace_seconds"):
        engine.run(grace_seconds=timeout)


def test_an_engine_that_fails_late_in_start_is_registered_no_more(ring, make_client):
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
