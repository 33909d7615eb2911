"""Calls of one Predictor: by threads, in forked children, for collections of every kind, and without workers."""

from __future__ import annotations

import collections
import contextlib
import contextvars
import os
import random
import signal
import textwrap
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas
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


# ---- threads -----------------------------------------------------------------------------------------


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
    """It has the context of a turn that is over."""
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


# ---- forked children ---------------------------------------------------------------------------------

FORKED = """
    import gc, time

    predictor = ringfeed.Predictor(lambda x: x * 2, preprocess=lambda item: np.full(2, item), workers=2)
    before = sorted(predictor.worker_process_ids)
    PREDICT
    said = []
    for _ in range(2):
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            os.close(ours)
            for ask in (lambda: predictor.predict([1, 2]), lambda: next(predictor.stream([1, 2]))):
                try:
                    ask()
                    os.write(theirs, b"answered ")
                except ringfeed.RingFeedError as error:
                    os.write(theirs, f"{error}\\n".encode())
            predictor.close()
            END
        os.close(theirs)
        text = b""
        while part := os.read(ours, 4096):
            text += part
        os.close(ours)
        os.waitpid(child, 0)
        said.append(text.decode())
    for text in said:
        assert text.count(f"made in process {os.getpid()}") == 2, text
        assert text.count("make one in each process, or one Engine, and a Client in each") == 2, text
    assert predictor.predict([3, 4]).tolist() == [[6, 6], [8, 8]]
    assert sorted(predictor.worker_process_ids) == before
    predictor.close()
    print("good")
"""


@pytest.mark.parametrize(
    ("used", "end"),
    [
        (True, "os._exit(0)"),
        pytest.param(False, "sys.exit()", marks=pytest.mark.slow),
        pytest.param(True, "del predictor; gc.collect(); os._exit(0)", marks=pytest.mark.slow),
    ],
)
def test_a_forked_child_is_refused_and_does_the_parent_no_harm(used: bool, end: str) -> None:
    predict = "predictor.predict([5])" if used else ""
    source = textwrap.dedent(FORKED.replace("PREDICT", predict).replace("END", end))
    status, output, errors = run_program(source)
    assert (status, output) == (0, "good\n"), errors


@pytest.mark.parametrize("end", ["sys.exit()", pytest.param("stream.close(); os._exit(0)", marks=pytest.mark.slow)])
def test_a_child_forked_amid_a_stream_does_the_parent_no_harm(end: str) -> None:
    status, output, errors = run_program(
        textwrap.dedent("""
        double = lambda x: x * 2
        predictor = ringfeed.Predictor(double, preprocess=lambda item: np.float32(item), workers=2, batch_size=2)
        def main():
            stream = predictor.stream(range(400))
            for index, result in stream:
                assert result == 2 * index
                if index == 3 and not (child := os.fork()):
                    END
                if index == 3:
                    os.waitpid(child, 0)
            print("streamed", index)
        main()
        """).replace("END", end)
    )
    assert (status, output) == (0, "streamed 399\n"), errors


def test_a_child_that_goes_on_with_its_parents_stream_is_refused_and_the_parent_gets_all() -> None:
    status, output, errors = run_program(
        textwrap.dedent("""
        predictor = ringfeed.Predictor(lambda x: x * 2, preprocess=lambda item: np.full(2, item), workers=1)
        stream = predictor.stream(range(100))
        assert next(stream)[0] == 0
        child = os.fork()
        if not child:
            try:
                list(stream)
            except ringfeed.RingFeedError as error:
                os._exit(0 if "forked" in str(error) else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert [int(row[0]) for _, row in stream] == [2 * item for item in range(1, 100)]
        predictor.close()
        print("good")
        """)
    )
    assert (status, output) == (0, "good\n"), errors


def test_a_child_that_an_items_iterator_forks_feeds_nothing() -> None:
    status, output, errors = run_program(
        textwrap.dedent("""
        children = []
        def items():
            for item in range(100):
                if item == 10:
                    children.append(os.fork())
                    if not children[0]:
                        item = -1000  # nobody may get it
                yield item
        predictor = ringfeed.Predictor(lambda x: x * 2, preprocess=lambda item: np.full(2, item), workers=1)
        assert predictor.predict(items())[:, 0].tolist() == [2 * item for item in range(100)]
        os.waitpid(children[0], 0)
        predictor.close()
        print("good")
        """)
    )
    assert (status, output) == (0, "good\n"), errors


def test_workers_end_with_their_predictor_though_a_forked_child_lives_on() -> None:
    _, output, errors = run_program(
        textwrap.dedent("""
        import pathlib, signal, time
        predictor = ringfeed.Predictor(lambda x: x, preprocess=lambda item: np.full(2, item), workers=2)
        predictor.predict([1])
        workers = predictor.worker_process_ids

        def lives(pid):
            try:
                return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
            except OSError:
                return False

        child = os.fork()
        if not child:
            parent = os.getppid()
            os.kill(parent, signal.SIGKILL)
            while any(map(lives, workers)):
                time.sleep(0.01)
            print("good", flush=True)
            os._exit(0)
        signal.pause()
        """)
    )
    assert output == "good\n", errors


# ---- what an item is ---------------------------------------------------------------------------------


class Indexed:
    """As a dataset of PyTorch: a length and items, no iterator."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> np.ndarray:
        return np.full(2, index)


class Counted:
    """An iterator that says how much is left."""

    def __init__(self) -> None:
        self._rest = iter(range(6))

    def __iter__(self) -> Counted:
        return self

    def __next__(self) -> np.ndarray:
        return np.full(2, next(self._rest))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("not to be asked")


ROWS = np.repeat(np.arange(6), 2).reshape(6, 2)

COLLECTIONS = {
    "list": lambda: list(ROWS),
    "tuple": lambda: tuple(ROWS),
    "deque": lambda: collections.deque(ROWS),
    "array": lambda: ROWS,
    "generator": lambda: (row for row in ROWS),
    "map": lambda: map(np.array, ROWS.tolist()),
    "an iterator with a length": Counted,
    "an indexed dataset": Indexed,
    "the values of a dict": lambda: dict(enumerate(ROWS)).values(),
    "a frame": lambda: pandas.DataFrame(ROWS),
    "a tensor": lambda: tf.constant(ROWS),
    "a dataset": lambda: tf.data.Dataset.from_tensor_slices(ROWS),
}


@pytest.mark.parametrize("kind", COLLECTIONS)
def test_each_item_of_a_collection_comes_once_and_in_order(doubling, kind: str) -> None:
    make = COLLECTIONS[kind]
    assert doubling.predict(make()).tolist() == (ROWS * 2).tolist()
    assert doubling.predict(make(), steps=1).tolist() == (ROWS[:4] * 2).tolist()
    assert [index for index, _ in doubling.stream(make())] == list(range(6))


@pytest.mark.parametrize("array", [np.arange(100.0), np.arange(6).reshape(2, 3), np.arange(7, dtype=np.uint8)])
def test_an_nditer_loses_nothing(doubling, array: np.ndarray) -> None:
    assert doubling.predict(np.nditer(array)).tolist() == (array * 2).ravel().tolist()


def test_a_dataset_of_pytorch_that_is_iterated_over_may_have_a_length(doubling) -> None:
    data = pytest.importorskip("torch.utils.data", reason="PyTorch is not installed")

    class Stream(data.IterableDataset):
        def __len__(self) -> int:
            return 3

        def __iter__(self):
            return iter(ROWS)

    assert doubling.predict(Stream()).tolist() == (ROWS * 2).tolist()


def test_a_sparse_tensor_of_pytorch_is_refused_with_the_remedy(doubling) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    with pytest.raises(TypeError, match=r"sparse_coo.*to_dense\(\)"):
        doubling.predict(torch.eye(3).to_sparse())


def test_the_groups_of_a_frame_are_pairs_of_key_and_rows() -> None:
    frame = pandas.DataFrame({"key": list("abcab"), "value": [1.0, 2, 3, 4, 5]})
    with ringfeed.Predictor(lambda x: x, preprocess=lambda pair: pair[1]["value"].sum(), workers=0) as predictor:
        assert predictor.predict(frame.groupby("key")).tolist() == [5, 7, 3]


def test_the_groups_of_a_frame_with_numbered_columns_are_pairs_too() -> None:
    frame = pandas.DataFrame([[1, 2.0], [1, 3.0], [2, 4.0]])
    with ringfeed.Predictor(lambda x: x, preprocess=lambda pair: pair[1][1].sum(), workers=0) as predictor:
        assert predictor.predict(frame.groupby(0)).tolist() == [5, 4]


class Archive(collections.abc.Mapping):
    """As numpy.load of an .npz file, or an h5py.File."""

    def __getitem__(self, name: str) -> np.ndarray:
        return {"a": np.zeros(3)}[name]

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


def npz_file(folder: Any) -> Any:
    np.savez(folder / "a.npz", x=np.zeros(3))
    return np.load(folder / "a.npz")


def h5_file(folder: Any) -> Any:
    h5py = pytest.importorskip("h5py")
    file = h5py.File(folder / f"{len(list(folder.iterdir()))}.h5", "w")
    file["x"] = ROWS
    return file


def test_the_rows_of_an_hdf5_dataset_are_its_items(doubling, tmp_path) -> None:
    with h5_file(tmp_path) as file:
        assert doubling.predict(file["x"]).tolist() == (ROWS * 2).tolist()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (h5_file, r"a File, which maps names to values"),
        (npz_file, "NpzFile.*x\\[name\\]"),
        (lambda _: Archive(), "Archive, which maps names to values"),
        (lambda _: collections.ChainMap({"a": 1}), "ChainMap"),
        (lambda _: {"a": 1}, "dict"),
        (lambda _: pytest.importorskip("scipy.sparse").eye(3).tocsr(), "toarray"),
        (lambda _: pytest.importorskip("scipy.sparse").dok_array((3, 3)), "toarray"),
        (lambda _: pandas.DataFrame({"a": [1], "b": ["x"]}), "itertuples"),
        (lambda _: pandas.DataFrame({"a": [2**53 + 1], "b": [0.5]}), "itertuples"),
        (lambda _: np.array(3), "without an axis is one item"),
        (lambda _: "picture.png", "this is one item"),
        (lambda _: bytearray(b"x"), "this is one item"),
        (lambda _: 7, "items are a int, which is no collection.*pass a list"),
        (lambda _: None, "items are a NoneType, which is no collection.*pass a list"),
        (lambda _: int, "items are a type, which is no collection.*pass a list"),
        (lambda _: tf.sparse.from_dense([[1.0, 0.0]]), "SparseTensor.*tf.sparse.to_dense"),
    ],
)
def test_what_is_no_clear_collection_of_items_is_refused_by_name(doubling, tmp_path, make, said: str) -> None:
    for ask in (doubling.predict, doubling.stream):
        with pytest.raises(TypeError, match=said):
            ask(make(tmp_path))


def test_a_collection_that_lacks_an_item_says_which(doubling) -> None:
    class Short(Indexed):
        def __getitem__(self, index: int) -> np.ndarray:
            return {0: np.zeros(2), 1: np.ones(2)}[index]

    with pytest.raises(ringfeed.RingFeedError, match="Short claim a length of 6, but have no item 2"):
        doubling.predict(Short())


# ---- without workers ---------------------------------------------------------------------------------


def test_without_workers_preprocess_runs_here_and_now() -> None:
    seen: list[tuple[int, int]] = []

    def prepare(item: int) -> np.ndarray:
        seen.append((os.getpid(), threading.get_ident()))
        return np.full(3, item)

    with ringfeed.Predictor(lambda x: x + 1, preprocess=prepare, workers=0, batch_size=4) as predictor:
        assert predictor.worker_process_ids == []
        assert predictor.predict(range(10))[:, 0].tolist() == list(range(1, 11))
        assert [row[0] for _, row in predictor.stream(range(10))] == list(range(1, 11))
    assert set(seen) == {(os.getpid(), threading.get_ident())}
    assert len(seen) == 20


def test_without_workers_an_error_has_the_exception_itself_as_its_cause() -> None:
    def prepare(item: int) -> float:
        return 1 / item

    with ringfeed.Predictor(lambda x: x, preprocess=prepare, workers=0) as predictor:
        with pytest.raises(ringfeed.PreprocessError, match="item 2 ") as caught:
            predictor.predict([1, 2, 0])
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert caught.value.__cause__.__traceback__ is not None
        assert caught.value.exception_type == "ZeroDivisionError"


def test_without_workers_the_initializer_runs_once_and_there_is_no_timeout() -> None:
    info: list[Any] = []
    with ringfeed.Predictor(lambda x: x, preprocess=given, workers=0, initializer=lambda i: info.append(i)) as one:
        assert one.predict([1.5]).tolist() == [1.5]
    assert [each.number for each in info] == [0]
    with pytest.raises(ValueError, match="item_timeout"):
        ringfeed.Predictor(lambda x: x, preprocess=given, workers=0, item_timeout=1.0)


def test_workers_draw_numbers_of_their_own_from_the_seed_that_they_are_given() -> None:
    def seed(info: ringfeed.WorkerInfo) -> None:
        random.seed(info.seed)

    def draw(item: int) -> np.ndarray:
        return np.array([ringfeed.worker_info().number, random.getrandbits(60)], np.int64)

    with ringfeed.Predictor(lambda x: x, preprocess=draw, workers=2, initializer=seed, batch_size=8) as predictor:
        drawn = predictor.predict(range(400))
    assert len(set(drawn[:, 1].tolist())) == 400
    assert set(drawn[:, 0].tolist()) <= {0, 1}


def test_without_workers_a_stream_reads_the_next_item_only_after_a_result() -> None:
    results: list[float] = []

    def items() -> Iterator[float]:
        for number in range(5):
            assert len(results) == number
            yield float(number)

    with ringfeed.Predictor(lambda x: x * 2, preprocess=given, workers=0) as predictor:
        for _, result in predictor.stream(items()):
            results.append(float(result))
    assert results == [0, 2, 4, 6, 8]


def test_labels_are_for_all_items_also_where_steps_end_before(doubling) -> None:
    with ringfeed.Predictor(
        lambda x: x * 2, preprocess=given, workers=2, batch_size=4, partition="stratified"
    ) as predictor:
        assert predictor.predict(ROWS, steps=1, labels=[0, 1] * 3).tolist() == (ROWS[:4] * 2).tolist()


def test_an_initializer_without_preprocess_is_refused() -> None:
    with pytest.raises(ValueError, match="initializer="):
        ringfeed.Predictor(lambda x: x, initializer=print)


def test_without_workers_this_process_is_a_worker_while_it_works_as_one() -> None:
    told: list[Any] = []

    def prepare(item: float) -> np.ndarray:
        told.append(ringfeed.worker_info())
        return np.float32([item])

    with ringfeed.Predictor(
        lambda x: x, preprocess=prepare, workers=0, initializer=lambda: told.append(ringfeed.worker_info())
    ) as one:
        one.predict([1, 2], verbose=0)
    assert ringfeed.worker_info() is None
    assert len(set(told)) == 1
    assert (told[0].number, told[0].count) == (0, 1)


def test_without_workers_what_a_function_keeps_of_its_out_is_its_own() -> None:
    kept: list[np.ndarray] = []

    def fill(item: int, out: np.ndarray) -> None:
        for array in kept:
            array[...] = -1
        out[...] = item
        kept.append(out[:1])

    with ringfeed.Predictor(
        lambda x: x, preprocess=fill, workers=0, sample_spec=((2,), "float32"), batch_size=8
    ) as one:
        assert one.predict(range(5), verbose=0).tolist() == [[i, i] for i in range(5)]


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
