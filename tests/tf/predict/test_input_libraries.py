"""Arrays of every library that Keras accepts: alone, in mappings, in iterators of batches; and changing dtypes."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from model_zoo import Echo, X, assert_same

from ringfeed.tf.models.runner import ModelRunner
from ringfeed.tf.predict.in_memory import predict_in_memory

pytestmark = pytest.mark.filterwarnings("ignore:Your input ran out of data")

ZEROS = X * (X > 0.5)


class Given(keras.Model):
    """A model that returns its input unchanged, without a layer's cast."""

    def predict_step(self, data: Any) -> Any:
        return tf.nest.map_structure(tf.identity, data[0] if isinstance(data, tuple) else data)


@pytest.fixture(scope="module")
def given() -> tuple[Any, ModelRunner]:
    model = Given()
    return model, ModelRunner(model)


def dense(output: Any) -> np.ndarray:
    return tf.sparse.to_dense(output).numpy() if isinstance(output, tf.SparseTensor) else np.asarray(output)


def ten_by_ten(function: Callable[[slice], Any]) -> Iterator[Any]:
    """Yield seven batches, each made by a function from ten rows."""
    return ((function(slice(start, start + 10)),) for start in range(0, 70, 10))


class TenByTen(keras.utils.PyDataset):
    def __init__(self, function: Callable[[slice], Any]) -> None:
        super().__init__()
        self.function = function

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> Any:
        return (self.function(slice(10 * index, 10 * index + 10)),)


# ---- Sparse arrays -----------------------------------------------------------------------------------

FORMATS = ["bsr", "coo", "csc", "csr", "dia", "dok", "lil"]


@pytest.mark.parametrize("kind", ["matrix", "array"])
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_of_scipy_is_taken(given: Any, form: str, kind: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    model, runner = given
    matrix = getattr(sparse, f"{form}_{kind}")(ZEROS)
    outputs = predict_in_memory(runner, matrix)
    np.testing.assert_array_equal(dense(outputs), ZEROS)
    assert (outputs.dtype, outputs.shape.as_list()) == (tf.float32, [70, 7])
    if form != "csc":  # Keras needs the values in the order of rows
        assert_same(outputs, model.predict(matrix, verbose=0))


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_of_scipy_may_stand_in_nests_and_batches(given: Any, form: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    make = getattr(sparse, f"{form}_array")
    nest = predict_in_memory(given[1], {"a": make(ZEROS), "b": (make(ZEROS * 2), X)})
    np.testing.assert_array_equal(dense(nest["a"]), ZEROS)
    np.testing.assert_array_equal(dense(nest["b"][0]), ZEROS * 2)
    np.testing.assert_array_equal(nest["b"][1], X)
    np.testing.assert_array_equal(dense(predict_in_memory(given[1], ten_by_ten(lambda rows: make(ZEROS[rows])))), ZEROS)
    np.testing.assert_array_equal(dense(predict_in_memory(given[1], TenByTen(lambda rows: make(ZEROS[rows])))), ZEROS)


def test_sparse_arrays_of_other_dtypes_ranks_and_with_two_values_at_one_place(given: Any) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    runner = given[1]
    assert predict_in_memory(runner, sparse.dok_array(ZEROS.astype(np.float64))).dtype == tf.float32
    assert predict_in_memory(runner, sparse.lil_array((ZEROS * 9).astype(np.int16))).dtype == tf.int16
    twice = sparse.coo_array((np.ones(3, np.float32), ([5, 0, 0], [1, 2, 2])), shape=(6, 4))
    before = twice.nnz
    outputs = predict_in_memory(runner, iter([(twice,)]))
    assert dense(outputs)[[0, 5], [2, 1]].tolist() == [2, 1]
    assert twice.nnz == before  # the user's own matrix is unchanged
    line = sparse.coo_array(np.arange(40.0) % 3)
    np.testing.assert_array_equal(dense(predict_in_memory(runner, line)), np.arange(40.0) % 3)


def test_a_model_for_sparse_inputs_takes_dok_matrices() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    model = keras.Sequential([keras.Input((7,), sparse=True), keras.layers.Dense(3)])
    matrix = sparse.dok_matrix(ZEROS)
    assert_same(predict_in_memory(ModelRunner(model), matrix), model.predict(matrix, verbose=0))


def test_sparse_arrays_of_jax_are_taken(given: Any) -> None:
    pytest.importorskip("jax")
    scipy_sparse = pytest.importorskip("scipy.sparse")
    from jax import numpy as jnp
    from jax.experimental import sparse

    def bcoo(rows: np.ndarray, extra: int = 0) -> Any:  # JAX compiles `fromdense` again for each shape
        places, values = np.argwhere(rows), rows[rows != 0]
        outside = np.full((extra, 2), rows.shape)
        return sparse.BCOO((np.append(values, [9] * extra), np.concatenate([places, outside])), shape=rows.shape)

    model, runner = given
    assert_same(predict_in_memory(runner, bcoo(ZEROS)), model.predict(bcoo(ZEROS), verbose=0))
    csr = scipy_sparse.csr_array(ZEROS)
    columns, shape = np.broadcast_to(np.arange(7)[:, None], (70, 7, 1)), ZEROS.shape
    for array in (
        bcoo(ZEROS, extra=5),  # padded to a length, with indices outside the shape
        sparse.BCOO((jnp.asarray(ZEROS), jnp.asarray(columns)), shape=shape),  # rows are batch dimensions
        sparse.BCOO((jnp.asarray(ZEROS), jnp.arange(70)[:, None]), shape=shape),  # columns are dense dimensions
        sparse.BCSR((csr.data, csr.indices, csr.indptr), shape=shape),
        sparse.CSR((jnp.asarray(csr.data), jnp.asarray(csr.indices), jnp.asarray(csr.indptr)), shape=shape),
    ):
        np.testing.assert_array_equal(dense(predict_in_memory(runner, {"x": array})["x"]), ZEROS)
    out_of_order = sparse.BCOO((jnp.ones(3), jnp.array([[5, 1], [0, 2], [0, 2]])), shape=(6, 4))
    assert dense(predict_in_memory(runner, out_of_order))[[0, 5], [2, 1]].tolist() == [2, 1]
    np.testing.assert_array_equal(dense(predict_in_memory(runner, ten_by_ten(lambda rows: bcoo(ZEROS[rows])))), ZEROS)


# ---- PyTorch and pandas ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float64", "int64", "bool"])
def test_torch_tensors_of_every_dtype_are_taken(given: Any, name: str) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(X).to(getattr(torch, name))
    outputs = predict_in_memory(given[1], tensor)
    if name in ("int64", "bool"):  # for a cast, Keras loads its PyTorch backend, which takes seconds
        assert_same(outputs, given[0].predict(tensor, verbose=0))
    else:
        assert_same(outputs, tensor.to(torch.float32).numpy())


def test_torch_bfloat16_keeps_its_dtype_where_keras_casts_none(given: Any) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(X).bfloat16()
    expected = tf.cast(X, tf.bfloat16).numpy()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(tensor), batch_size=16)
    for x in (ten_by_ten(lambda rows: tensor[rows]), loader):
        assert_same(predict_in_memory(given[1], x), expected)
    assert_same(predict_in_memory(ModelRunner(lambda x: x), tensor.T.contiguous().T), expected)


def test_torch_tensors_that_numpy_refuses_are_taken(given: Any) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(X)
    for x in (torch.nn.Parameter(tensor), tensor.to_sparse(), torch.complex(tensor, -tensor).conj().imag):
        np.testing.assert_array_equal(predict_in_memory(given[1], x), X)


def test_series_are_columns_in_arrays_and_rows_of_numbers_in_batches(given: Any) -> None:
    pandas = pytest.importorskip("pandas")
    model, runner = given
    series = pandas.Series(X[:, 0].astype(np.float64))
    for x in (series, {"a": series, "b": X}):
        assert_same(predict_in_memory(runner, x, 16), model.predict(x, 16, verbose=0))
    for make in (
        lambda: ten_by_ten(lambda rows: series[rows]),
        lambda: TenByTen(lambda rows: series[rows]),
        lambda: ten_by_ten(lambda rows: {"a": series[rows], "b": X[rows]}),
        lambda: ((series[:5], series[:5]) for _ in range(2)),
    ):
        assert_same(predict_in_memory(runner, make()), model.predict(make(), verbose=0))
    assert predict_in_memory(runner, ten_by_ten(lambda rows: series[rows])).shape == (70,)


def test_frames_are_taken_in_batches_too(given: Any) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": X[:, 0], "b": X[:, 1]})
    for x in (ten_by_ten(lambda rows: frame[rows]), TenByTen(lambda rows: frame[rows])):
        np.testing.assert_array_equal(predict_in_memory(given[1], x), X[:, :2])


# ---- Mappings ----------------------------------------------------------------------------------------


class BatchEncoding(collections.UserDict):
    """A mapping that is not a dict and has attributes, like the result of a tokenizer."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(name) from None


def two_inputs() -> Any:
    mask, ids = keras.Input((7,), name="mask"), keras.Input((7,), name="ids")
    return keras.Model([mask, ids], keras.ops.concatenate([mask, ids * 10], axis=-1))


def npz(arrays: dict[str, Any], folder: Any) -> Any:
    np.savez(folder / "arrays.npz", **arrays)
    return np.load(folder / "arrays.npz")


@pytest.mark.parametrize(
    "make",
    [BatchEncoding, collections.OrderedDict, lambda d: collections.ChainMap({}, d), dict, npz],
    ids=["UserDict", "OrderedDict", "ChainMap", "dict", "npz"],
)
@pytest.mark.parametrize("names", [["ids", "mask"], ["mask", "ids"], ["types", "mask", "a", "ids", "z"]])
@pytest.mark.filterwarnings("ignore:The structure of `inputs` doesn't match")
def test_mappings_are_read_by_name_in_any_order_with_more_keys(make: Any, names: list[str], tmp_path: Any) -> None:
    arrays = {name: X * number for number, name in enumerate(names, 2)}
    runner = ModelRunner(two_inputs())
    expected = np.concatenate([arrays["mask"], arrays["ids"] * 10], axis=1)
    whole = make(arrays, tmp_path) if make is npz else make(arrays)
    np.testing.assert_array_equal(predict_in_memory(runner, whole, 16), expected)
    if make is not npz:
        batches = ten_by_ten(lambda rows: make({name: array[rows] for name, array in arrays.items()}))
        np.testing.assert_array_equal(predict_in_memory(runner, batches), expected)


def test_mappings_may_be_nested(given: Any) -> None:
    x = BatchEncoding(a=[X, BatchEncoding(c=X * 2)], b=collections.deque([X]))
    outputs = predict_in_memory(given[1], x)
    assert list(outputs) == ["a", "b"]
    np.testing.assert_array_equal(outputs["a"][1]["c"], X * 2)
    np.testing.assert_array_equal(outputs["b"][0], X)


class Items(collections.abc.Sequence):
    """An indexed dataset of single items."""

    def __len__(self) -> int:
        return 70

    def __getitem__(self, index: int) -> Any:
        return X[index]


@pytest.mark.parametrize("x", [Items(), {"a": Items()}, BatchEncoding(ids=[[1, 2], [3]]), {}, [], collections.deque()])
def test_an_input_without_arrays_is_named(given: Any, x: Any) -> None:
    with pytest.raises(TypeError, match=f"{type(x).__name__!r} cannot be split into batches: give arrays"):
        predict_in_memory(given[1], x, steps=2)


# ---- Dtypes that change between batches --------------------------------------------------------------


def changing(first: Any, later: Any) -> Callable[[], Iterator[Any]]:
    return lambda: ((later(X[start : start + 10]) if start else first(X[:10]),) for start in range(0, 70, 10))


def to(dtype: str, scale: float = 1) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: (x * scale).astype(dtype)


KEPT = {
    "float32 to float64": changing(to("float32"), to("float64")),
    "float64 to float32": changing(to("float64"), to("float32")),
    "float32 to float16": changing(to("float32"), to("float16")),
    "float32 to int32": changing(to("float32", 9), to("int32", 9)),
    "int32 to int64 of small numbers": changing(to("int32", 9), to("int64", 9)),
    "int64 to uint8": changing(to("int64", 9), to("uint8", 9)),
    "int64 to whole float64": changing(to("int64", 9), lambda x: (x * 9).astype(int).astype(float)),
    "arrays to tensors of float64": changing(to("float32"), lambda x: tf.cast(x, tf.float64)),
    "complex64 to complex128": changing(to("complex64"), to("complex128")),
}


@pytest.mark.parametrize("name", KEPT)
def test_later_batches_get_the_first_ones_dtype_as_in_keras(given: Any, name: str) -> None:
    model, runner = given
    outputs = predict_in_memory(runner, KEPT[name]())
    np.testing.assert_array_equal(outputs, model.predict(KEPT[name](), verbose=0))
    assert outputs.dtype == model.predict(KEPT[name](), verbose=0).dtype


def test_not_a_number_and_infinity_survive_a_cast(given: Any) -> None:
    batches = [np.float32([0.5, 1]), np.float64([np.nan, np.inf])]
    outputs = predict_in_memory(given[1], iter(batches))
    np.testing.assert_array_equal(outputs, np.float32([0.5, 1, np.nan, np.inf]))


CHANGED = {
    "uint8 to uint16": (changing(to("uint8", 255), to("uint16", 60000)), "uint16", "uint8"),
    "int32 to int64": (changing(to("int32"), lambda x: (x * 9).astype("int64") + 2**40), "int64", "int32"),
    "int64 to uint64": (changing(to("int64"), lambda x: np.full(3, 2**63, np.uint64)), "uint64", "int64"),
    "uint64 to int64": (changing(to("uint64"), lambda x: np.full(3, -1)), "int64", "uint64"),
    "int32 to float32": (changing(to("int32", 9), to("float32", 9)), "float32", "int32"),
    "bool to int32": (changing(to("bool"), to("int32", 9)), "int32", "bool"),
    "float16 to float32": (changing(to("float16"), to("float32")), "float32", "float16"),
    "float32 to what is infinite there": (changing(to("float32"), lambda x: x.astype(float) * 1e300), "float64", ""),
    "float32 to int64 beyond its digits": (changing(to("float32"), lambda x: np.full(3, 2**24 + 1)), "int64", "float"),
    "int64 to not-a-number": (changing(to("int64"), lambda x: np.full(3, np.nan)), "float64", "int64"),
    "float32 to complex64": (changing(to("float32"), lambda x: x + 1j), "complex64", "float32"),
    "float32 to text": (changing(to("float32"), lambda x: np.array(["a"] * 10)), "string", "float32"),
    "tensors of int32 to int64": (
        changing(lambda x: tf.cast(x, tf.int32), lambda x: tf.cast(x, tf.int64) + 2**40),
        "int64",
        "int32",
    ),
    "ragged of int32 to int64": (
        changing(
            lambda x: tf.RaggedTensor.from_tensor(tf.cast(x, tf.int32)),
            lambda x: tf.RaggedTensor.from_tensor(tf.cast(x, tf.int64) + 2**40),
        ),
        "int64",
        "int32",
    ),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_cast_that_would_change_values_is_an_error_that_names_the_batch_and_both_dtypes(
    given: Any, name: str
) -> None:
    make, later, first = CHANGED[name]
    with pytest.raises(ValueError, match=f"^batch 2 of x is of {later}, but the first batch was of {first}"):
        predict_in_memory(given[1], make())


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_of_a_pydataset_are_not_narrowed_either(given: Any, workers: int) -> None:
    dataset = TenByTen(lambda rows: (X[rows] * 60000).astype("uint8" if rows.start == 0 else "uint16"))
    dataset.workers = workers
    with pytest.raises(ValueError, match="batch 2 of x is of uint16, but the first batch was of uint8"):
        predict_in_memory(given[1], dataset)


def test_an_optional_input_may_be_left_out_in_some_batches() -> None:
    model = ModelRunner(lambda x: x["a"] if x["b"] is None else x["a"] + x["b"])
    batches = ({"a": X[:10], "b": None if number % 2 else X[:10]} for number in range(4))
    np.testing.assert_array_equal(predict_in_memory(model, batches), np.concatenate([X[:10] * 2, X[:10]] * 2))


def test_scalars_of_any_type_in_a_batch_are_refused(given: Any) -> None:
    for scalar in (1.0, np.array(1.0), tf.constant(1.0)):
        with pytest.raises(ValueError, match="has no axis for the rows"):
            predict_in_memory(given[1], iter([(scalar,)]))
    with pytest.raises(ValueError, match="has no axis for the rows"):
        predict_in_memory(given[1], np.nditer(X))


def test_echo_models_see_the_inputs_that_keras_passes() -> None:
    model = Echo()
    for make in (KEPT["float32 to float64"], KEPT["int32 to int64 of small numbers"]):
        assert_same(predict_in_memory(ModelRunner(model), make()), model.predict(make(), verbose=0))
