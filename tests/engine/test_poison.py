"""A request that kills its engine is tried again alone, then answered with an error; all others are answered."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading
from typing import Any

import pytest
from serving import EngineProcess, first_number, wait_until_free, x_of

import ringfeed
from support import states, wait_until


class Fatal:
    """A model that ends its process, in one of three ways, when it is given one of some numbers."""

    def __init__(self, poison: list[int], way: str) -> None:
        self.poison = poison
        self.way = way

    def __call__(self, x: Any) -> Any:
        import tensorflow as tf

        def look(numbers: Any) -> Any:
            if set(numbers.numpy().tolist()) & set(self.poison):
                if self.way == "abort":
                    os.abort()
                if self.way == "segfault":
                    ctypes.string_at(0)
                os.kill(os.getpid(), signal.SIGKILL)
            return numbers

        return tf.ensure_shape(tf.py_function(look, [x[:, 0]], tf.int64), (None,))


class Supervisor:
    """Keeps a number of engines running, each in a process of its own, and counts those that die."""

    def __init__(self, ring: ringfeed.Ring, model: Any, count: int, deaths: int, **options: Any) -> None:
        self.deaths = 0
        self._ring, self._model, self._options = ring, model, options
        self._all = [EngineProcess() for _ in range(count + deaths)]
        self._spare = list(self._all)
        self._engines = [self._start() for _ in range(count)]
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _start(self) -> EngineProcess:
        return self._spare.pop().serve(self._ring, self._model, **self._options)

    def _watch(self) -> None:
        while not self._ends.wait(0.005):
            for place, engine in enumerate(self._engines):
                if engine.child.process.poll() is not None:
                    self.deaths += 1
                    self._engines[place] = self._start()

    def end(self) -> None:
        self._ends.set()
        self._thread.join()
        for engine in self._all:
            engine.child.end()


@pytest.fixture
def supervise(make_ring):
    made = []

    def start(*arguments, **options):
        made.append(Supervisor(*arguments, **options))
        return made[-1]

    yield start
    for each in made:
        each.end()


def ask(client, poison, innocents):
    """Ask for all numbers at once; check the answers of the harmless ones and the errors of the poison."""
    futures = {}
    for number in innocents:
        futures[number] = client.submit(x_of(number), tag=number)
        if number == innocents[len(innocents) // 2]:
            futures.update((bad, client.submit(x_of(bad), tag=bad)) for bad in poison)
    answers = {number: futures[number].result(120) for number in innocents}
    return answers, {bad: futures[bad].exception(120) for bad in poison}


@pytest.mark.slow
def test_a_poison_request_kills_two_engines_at_most_and_28_others_are_answered(make_ring, supervise, make_client):
    ring = make_ring(slots=64)
    engines = supervise(ring, Fatal([13], "kill"), 3, 2, batch_size=8)
    client = make_client(ring.name)
    innocents = range(100, 128)
    answers, errors = ask(client, [13], innocents)
    assert answers == {number: number for number in innocents}
    assert isinstance(errors[13], ringfeed.ModelError)
    assert all(part in str(errors[13]) for part in ("tag 13", "2 engines died", "max_deliveries"))
    assert client.predict(x_of(7), timeout=60) == 7
    wait_until_free(ring, client._session.pool)
    wait_until(lambda: engines.deaths == 2)
    assert ring.stats()["dead_letters"] == 1


@pytest.mark.slow
def test_two_poison_requests_in_a_batch_of_32_get_an_error_each(make_ring, supervise, make_client):
    ring = make_ring(slots=64)
    engines = supervise(ring, Fatal([13, 14], "abort"), 1, 3, batch_size=64, linger=0.05)
    client = make_client(ring.name, if_engine_dies="wait")
    innocents = range(100, 130)
    answers, errors = ask(client, [13, 14], innocents)
    assert answers == {number: number for number in innocents}
    assert all(isinstance(errors[bad], ringfeed.ModelError) and f"tag {bad}" in str(errors[bad]) for bad in (13, 14))
    wait_until_free(ring, client._session.pool)
    assert engines.deaths <= 3  # one for both together, then one for each alone
    assert ring.stats()["dead_letters"] == 2


@pytest.mark.slow
def test_no_harmless_row_is_given_up_with_padded_batches_and_two_devices(make_ring, supervise, make_client):
    ring = make_ring(slots=64)
    devices = {"devices": ["CPU:0", "CPU:0"], "allowed_batch_sizes": [8]}
    engines = supervise(ring, Fatal([13], "segfault"), 1, 2, batch_size=8, **devices)
    client = make_client(ring.name, if_engine_dies="wait")
    innocents = range(100, 128)
    answers, errors = ask(client, [13], innocents)
    assert answers == {number: number for number in innocents}
    assert isinstance(errors[13], ringfeed.ModelError)
    wait_until(lambda: engines.deaths == 2)


def test_a_poison_record_without_a_client_is_counted_by_the_engine_that_finds_it(make_ring, supervise):
    ring = make_ring(slots=64, max_deliveries=1)
    engines = supervise(ring, Fatal([13], "kill"), 1, 1, batch_size=4)
    ring.put({"x": x_of(13)}, tag=77)
    wait_until(lambda: ring.stats()["dead_letters"] == 1)
    assert engines.deaths == 1
    wait_until(lambda: states(ring) == {"free": ring.slots})


def test_a_stop_counts_as_no_failure_of_a_record(make_ring, manual_engine_of, make_client):
    ring = make_ring(slots=64, max_deliveries=1)
    futures = []
    for _ in range(3):
        engine, client = manual_engine_of(ring)
        futures.append(client.submit(x_of(5)))
        engine.stop()
    with ring.take(8, timeout=10) as batch:
        assert batch.failures == 0
    del futures


@pytest.fixture
def manual_engine_of(serve, make_client):
    def start(ring):
        from ringfeed.testing import ManualPolicy

        engine = serve(ring, first_number, policy=ManualPolicy(8))
        return engine, make_client(ring.name, if_engine_dies="wait")

    return start


def test_the_log_names_the_record_and_its_producer(make_ring, serve, make_client, caplog):
    ring = make_ring(slots=64, max_deliveries=1)
    ring.put({"x": x_of(1)}, tag=4321)
    ring.take(1).give_back(failed=True)
    with caplog.at_level(logging.ERROR, "ringfeed"):
        engine = serve(ring)
        wait_until(lambda: ring.stats()["dead_letters"] == 1)
    assert all(part in caplog.text for part in ("4321", str(os.getpid()), ring.name))
    assert engine.stats().dead_letters == 1
