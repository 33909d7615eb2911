"""Collections of items of every kind, and collections whose items are unclear."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas
import pytest
from preprocessing import given

import ringfeed

tf = pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def doubling() -> Iterator[ringfeed.Predictor]:
    with ringfeed.Predictor(lambda x: x * 2, preprocess=given, workers=2, batch_size=4) as predictor:
        yield predictor


class Indexed:
    """Like a dataset of PyTorch: a length and items, no iterator."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> np.ndarray:
        return np.full(2, index)


class Counted:
    """An iterator that knows the number of its remaining items."""

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
    """Like the result of numpy.load for an .npz file, or an h5py.File."""

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
def test_an_ambiguous_collection_of_items_is_refused_by_name(doubling, tmp_path, make, said: str) -> None:
    for ask in (doubling.predict, doubling.stream):
        with pytest.raises(TypeError, match=said):
            ask(make(tmp_path))


def test_a_collection_that_lacks_an_item_names_it(doubling) -> None:
    class Short(Indexed):
        def __getitem__(self, index: int) -> np.ndarray:
            return {0: np.zeros(2), 1: np.ones(2)}[index]

    with pytest.raises(ringfeed.RingFeedError, match="Short claim a length of 6, but have no item 2"):
        doubling.predict(Short())


def test_labels_cover_all_items_even_if_steps_end_earlier(doubling) -> None:
    with ringfeed.Predictor(
        lambda x: x * 2, preprocess=given, workers=2, batch_size=4, partition="stratified"
    ) as predictor:
        assert predictor.predict(ROWS, steps=1, labels=[0, 1] * 3).tolist() == (ROWS[:4] * 2).tolist()
