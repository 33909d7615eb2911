"""Threads that call one Predictor take turns; a call that would wait for itself is refused."""

from __future__ import annotations

import contextlib
import contextvars
import random
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from preprocessing import given

import ringfeed
from ringfeed.turns import Turns
from support import run_program

tf = pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def doubling() -> Iterator[ringfeed.Predictor]:
    with ringfeed.Predictor(lambda x: x * 2, preprocess=given, workers=2, batch_size=4) as predictor:
        yield predictor


@pytest.mark.parametrize("workers", [None, 0, 2])
def test_threads_take_turns_and_each_gets_its_own_results(doubling, workers) -> None:
    predictor = {
        None: lambda: ringfeed.Predictor(lambda x: x * 2),
        0: lambda: ringfeed.Predictor(lambda x: x * 2, preprocess=given, workers=0),
        2: lambda: doubling,
    }[workers]()
    wrong: list[Any] = []

    def ask(thread: int) -> None:
        for call in range(20):
            rows = np.full((1 + call % 7, 3), 100 * thread + call, np.int64)
            try:
                outputs = predictor.predict(rows, verbose=0)
                if outputs.tolist() != (rows * 2).tolist():
                    wrong.append((rows, outputs))
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_stream_that_is_open_is_named_and_not_waited_for(doubling) -> None:
    stream = doubling.stream(iter(np.ones((50, 1))))
    next(stream)
    for ask in (lambda: doubling.predict(np.ones((2, 1))), lambda: next(doubling.stream(np.ones((2, 1))))):
        with pytest.raises(ringfeed.RingFeedError, match=r"stream open.*finish or close its stream"):
            ask()
    stream.close()
    assert len(doubling.predict(np.ones((2, 1)))) == 2


def test_a_call_from_within_a_call_is_refused_instead_of_waiting_for_itself(doubling) -> None:
    def items() -> Iterator[Any]:
        yield np.ones(1)

    keras = pytest.importorskip("keras")

    class Asks(keras.callbacks.Callback):
        def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
            doubling.predict([np.ones(1)])

    with pytest.raises(ringfeed.RingFeedError, match="in this very thread already"):
        doubling.predict(items(), callbacks=[Asks()])
    assert len(doubling.predict(items())) == 1


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_items_that_ask_the_predictor_that_they_feed_are_refused(workers: int) -> None:
    refusals: list[ringfeed.RingFeedError] = []

    def items(ask: Any) -> Iterator[Any]:
        for number in range(6):
            if number >= 3:
                try:
                    ask()
                except ringfeed.RingFeedError as error:
                    refusals.append(error)
            yield np.ones(1)

    with (
        ringfeed.Predictor(lambda x: x * 2, preprocess=given, workers=workers, batch_size=2) as predictor,
        ringfeed.Predictor(lambda x: x * 3, preprocess=given, workers=0) as other,
    ):

        def ask_itself() -> None:
            predictor.predict([np.ones(1)], verbose=0)

        def ask_by_way_of_another() -> None:
            other.predict(items(ask_itself), verbose=0)

        assert len(predictor.predict(items(ask_itself), verbose=0)) == 6
        assert len(refusals) == 3
        assert len(predictor.predict(items(ask_by_way_of_another), verbose=0)) == 6
        assert len(refusals) == 3 + 3 * 3
        assert all("predicting" in str(error) and "Make another one" in str(error) for error in refusals)
        assert len(predictor.predict([np.ones(1)] * 3, verbose=0)) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_a_tf_data_thread_that_waits_for_the_call_that_it_feeds_is_warned_of(workers: int) -> None:
    program = """
    import threading, time, warnings
    import tensorflow as tf
    import ringfeed.turns

    ringfeed.turns._PATIENCE_SECONDS = 0.0
    predictor = ringfeed.Predictor(lambda x: x * 2, preprocess=lambda x: x, workers=WORKERS)

    def rows():
        yield np.ones(1, np.float32)
        yield predictor.predict([np.ones(1, np.float32)], verbose=0)[0]

    dataset = tf.data.Dataset.from_generator(rows, output_signature=tf.TensorSpec((1,), tf.float32))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        threading.Thread(target=predictor.predict, args=(dataset,), daemon=True).start()
        while not [each for each in said if "for its turn" in str(each.message)]:
            time.sleep(0.01)
    print([str(each.message) for each in said if "for its turn" in str(each.message)][0], flush=True)
    os._exit(0)
    """
    status, out, err = run_program(program.replace("WORKERS", str(workers)))
    assert status == 0, err
    assert "both wait for ever: make another one" in out


def test_a_thread_that_was_started_within_a_call_may_wait_for_its_turn_later() -> None:
    """The thread has the context of a turn that is over."""
    contexts: list[contextvars.Context] = []
    waits, outputs = threading.Event(), []

    def starting() -> Iterator[Any]:
        contexts.append(contextvars.copy_context())
        yield np.ones(1)

    with ringfeed.Predictor(lambda x: x * 2, preprocess=given, workers=1) as predictor:

        def later() -> None:
            waits.set()
            outputs.append(predictor.predict([np.ones(1)], verbose=0))

        def slow() -> Iterator[Any]:
            thread.start()
            waits.wait()
            yield np.ones(1)

        predictor.predict(starting(), verbose=0)
        thread = threading.Thread(target=contexts[0].run, args=(later,))
        predictor.predict(slow(), verbose=0)
        thread.join()
    assert len(outputs) == 1


def test_a_dataset_read_by_threads_that_asks_its_own_predictor_is_refused() -> None:
    keras = pytest.importorskip("keras")

    class Asks(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            return (predictor.predict(np.ones((2, 1), np.float32), verbose=0),)

    with (
        ringfeed.Predictor(lambda x: x * 2) as predictor,
        pytest.raises(ringfeed.RingFeedError, match="Make another one"),
    ):
        predictor.predict(Asks(workers=2), verbose=0)


def test_in_memory_a_generator_may_ask_the_predictor_that_it_feeds() -> None:
    predictor = ringfeed.Predictor(lambda x: x * 2)

    def batches() -> Iterator[Any]:
        for number in range(3):
            yield (predictor.predict(np.full((2, 1), number, np.float32), verbose=0),)

    assert predictor.predict(batches(), verbose=0)[:, 0].tolist() == [0, 0, 4, 4, 8, 8]
    predictor.close()


def test_a_turn_is_over_wherever_a_signal_handler_raises() -> None:
    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    turns = Turns("this thing", "make another one.")
    chance = random.Random(20261128)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(5000):
            with contextlib.suppress(Interrupted):
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 4e-5))
                for _ in range(20):
                    with turns.turn("predict"):
                        pass
            with contextlib.suppress(Interrupted):
                signal.setitimer(signal.ITIMER_REAL, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            with turns.turn("predict"):
                pass
    finally:
        signal.signal(signal.SIGALRM, before)
