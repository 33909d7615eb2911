"""The items of a call: what counts as one item, the number of items, and their shares.

It may not know workers, rings or models.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import RingFeedError
from ..torch_arrays import array_from_torch, is_torch_tensor

_ONE_ITEM = (str, bytes, bytearray, memoryview)


def as_items(x: Any) -> Any:
    """Return a sequence of single items that is indexed from 0, or an iterator.

    Parameters
    ----------
    x : sequence, array, tensor, tf.data.Dataset, pandas object or iterable
        - A sequence, also a range, a deque or an object with ``__len__`` and ``__getitem__`` that counts from 0
          (a dataset of PyTorch, an h5py.Dataset): each element is an item.
        - An array, a tensor or a pandas Series: each row, along axis 0.
        - A pandas DataFrame whose columns have one dtype: each row, as an array of its values.
        - A tf.data.Dataset: each element, as arrays.
        - Any other iterable, of any length: the objects that it yields. An iterator is read to its end, regardless of
          the length that it claims.

    Raises
    ------
    TypeError
        It is one item rather than a collection, or its items are unclear. The message names the remedy.
    """
    if isinstance(x, _ONE_ITEM):
        raise TypeError(f"items {x!r:.60}: this is one item; pass a list of items.")
    if hasattr(x, "as_numpy_iterator"):
        return x.as_numpy_iterator()
    if isinstance(x, Iterator):
        return x
    _refuse_unclear(x)
    if hasattr(x, "iloc"):
        return _rows_of_pandas(x)
    if hasattr(x, "shape") and not isinstance(x, np.ndarray):
        x = _rows_of_tensor(x)
    if getattr(x, "shape", None) == ():
        raise TypeError(f"items: a {type(x).__name__} without an axis is one item; pass a list of items.")
    if isinstance(x, (Sequence, np.ndarray)) or (_has_length(x) and _counts_from_zero(x)):
        return x
    try:
        return iter(x)
    except TypeError as error:
        raise TypeError(
            f"items are a {type(x).__name__}, which is no collection of items ({error}); pass a list of items."
        ) from None


def _refuse_unclear(x: Any) -> None:
    kind = type(x).__name__
    if hasattr(x, "tocsr"):
        raise TypeError(
            f"items are a {kind}: it is unclear whether a row stays sparse. Pass x.toarray(), or "
            "[x[i] for i in range(x.shape[0])]."
        )
    if hasattr(x, "dense_shape"):
        raise TypeError(
            f"items are a {kind}: it is unclear whether a row stays sparse. Pass tf.sparse.to_dense(x), or a list of "
            "its rows."
        )
    if is_torch_tensor(x) and str(x.layout) != "torch.strided":
        raise TypeError(
            f"items are a {kind} of layout {x.layout}: it is unclear whether a row stays sparse. Pass x.to_dense(), "
            "or a list of its rows."
        )
    if isinstance(x, dict):
        raise TypeError("items are a dict: with preprocess= pass a sequence of single items, such as list(x.items()).")
    has_keys = callable(getattr(x, "keys", None)) and hasattr(x, "__getitem__") and not hasattr(x, "iloc")
    if isinstance(x, Mapping) or has_keys:
        raise TypeError(
            f"items are a {kind}, which maps names to values: pass one of its values, such as x[name], or "
            "list(x.items())."
        )
    is_table = hasattr(x, "columns") or hasattr(x, "column_names")
    if is_table and not hasattr(x, "iloc"):
        raise TypeError(f"items are a table ({kind}): pass a list of its rows.")


def _rows_of_pandas(x: Any) -> Any:
    dtypes = set(getattr(x, "dtypes", ())) if x.ndim == 2 else set()
    if len(dtypes) > 1:
        names = ", ".join(sorted(str(dtype) for dtype in dtypes))
        raise TypeError(
            f"items are a {type(x).__name__} whose columns have several dtypes ({names}); an array of a row would "
            "change numbers. Pass list(x.itertuples(index=False)), or x.to_numpy(dtype) of a dtype that holds them all."
        )
    return x.to_numpy()


def _rows_of_tensor(x: Any) -> Any:
    """Return the array of a tensor; another object with a shape, such as an h5py.Dataset, is returned unchanged."""
    if is_torch_tensor(x):
        return array_from_torch(x)
    return x.numpy() if callable(getattr(x, "numpy", None)) else x


def _has_length(x: Any) -> bool:
    if not hasattr(x, "__len__") or not hasattr(x, "__getitem__"):
        return False
    with contextlib.suppress(TypeError):
        return len(x) >= 0
    return False  # it has the method, but no length


def _counts_from_zero(x: Any) -> bool:
    """Tell whether ``x[0]`` is its first item: a groupby of pandas has a length, but is indexed by names."""
    if hasattr(x, "ngroups"):
        return False  # a groupby of pandas: if columns are numbered, x[0] is a column
    if not hasattr(x, "__iter__"):
        return True  # Python itself would iterate over it by index
    if len(x) == 0:
        return True
    try:
        x[0]
    except Exception:  # any class: an IterableDataset of PyTorch that has a length raises NotImplementedError
        return False
    return True


class ItemSource:
    """The items of a call, and their shares.

    Parameters
    ----------
    items : sequence or iterable
        As `as_items` returns them.
    partition : {"dynamic", "contiguous", "stratified"}
    labels : sequence, optional
        For "stratified": the stratum of each item.
    share_count : int
        Number of shares if the partition is not dynamic.
    limit : int, optional
        Stop after this many items.

    Attributes
    ----------
    count : int or None
        Number of items, if it is known.
    pushed_back : list of (int, object)
        Items of an iterator that were read and will be read again.

    Raises
    ------
    TypeError, ValueError
        The partition needs a sequence, or as many labels as items.
    """

    def __init__(self, items: Any, partition: str, labels: Any, share_count: int, limit: int | None = None) -> None:
        self.count: int | None = None
        if not isinstance(items, Iterator) and _has_length(items):
            self.count = len(items) if limit is None else min(len(items), limit)
        self._items = items
        self._shares: list[list[int]] | None = None
        if partition != "dynamic":
            self._shares = self._split(partition, labels, share_count)
        stream: Iterator[Any] = iter(items) if self.count is None else iter(())
        self._numbered = enumerate(stream if limit is None else itertools.islice(stream, limit))
        self.pushed_back: list[tuple[int, Any]] = []

    def _split(self, partition: str, labels: Any, share_count: int) -> list[list[int]]:
        if self.count is None:
            raise TypeError(f"partition {partition!r} needs a sequence of items; an iterator has no length.")
        if partition == "contiguous":
            return contiguous_shares(self.count, share_count)
        if labels is None or len(labels) != len(self._items):
            given = "none were given" if labels is None else f"{len(labels)} were given"
            raise ValueError(f"partition 'stratified' needs a label for each of the {len(self._items)} items; {given}.")
        return stratified_shares(labels[: self.count], share_count)

    def first_items(self) -> Iterator[tuple[int, Any]]:
        """Iterate over the items in order from the first; items of an iterator are consumed unless pushed back."""
        if self.count is not None:
            return ((index, self._item(index)) for index in range(self.count))
        return self._numbered

    def shares(self, skip: set[int]) -> list[Iterator[tuple[int, Any]]]:
        """Return each share as an iterator of (index, item), without the indices in `skip`."""
        if self._shares is not None:
            return [self._select(share, skip) for share in self._shares]
        if self.count is not None:
            return [self._select(range(self.count), skip)]
        return [itertools.chain(self.pushed_back, self._numbered)]

    def _select(self, indices: Iterable[int], skip: set[int]) -> Iterator[tuple[int, Any]]:
        return ((index, self._item(index)) for index in indices if index not in skip)

    def _item(self, index: int) -> Any:
        try:
            return self._items[index]
        except (IndexError, KeyError) as error:
            raise RingFeedError(
                f"items of type {type(self._items).__name__} claim a length of {len(self._items)}, but have no item "
                f"{index} ({type(error).__name__}: {error}). Pass a list of the items."
            ) from error


def contiguous_shares(count: int, share_count: int) -> list[list[int]]:
    """Split the positions from 0 to `count` into blocks whose lengths differ by at most one."""
    bounds = [count * share // share_count for share in range(share_count + 1)]
    return [list(range(start, end)) for start, end in itertools.pairwise(bounds)]


def stratified_shares(labels: Sequence[Any] | np.ndarray[Any, Any], share_count: int) -> list[list[int]]:
    """Split the positions so that shares differ by at most one in the number of positions of each label.

    Parameters
    ----------
    labels : sequence of hashable, shape (count,)
        The stratum of each position.
    """
    strata: dict[Any, list[int]] = {}
    for position, label in enumerate(np.asarray(labels).tolist()):
        strata.setdefault(label, []).append(position)
    shares: list[list[int]] = [[] for _ in range(share_count)]
    turn = 0
    for positions in strata.values():
        for position in positions:
            # The turn continues from stratum to stratum, so that the lengths of the shares stay even, too.
            shares[turn % share_count].append(position)
            turn += 1
    return [sorted(share) for share in shares]
