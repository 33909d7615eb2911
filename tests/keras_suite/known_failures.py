"""The known failures among Keras's tests, with reasons. If a listed test passes, the run fails."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """The reason for the failure of a test, and its modes of prediction: plain, memory, workers."""

    reason: str
    ways: tuple[str, ...] = ("memory", "workers")


_HISTOGRAM = Known(
    "the model returns 5 and 6 numbers for a batch of one row; with workers, an output has a row for each item",
    ("workers",),
)

FAILURES: dict[str, Known] = {
    "ops/numpy_test.py::HistogramTest::test_histogram_predict_jit_compile_false": _HISTOGRAM,
    "ops/numpy_test.py::HistogramTest::test_histogram_predict_jit_compile_true": _HISTOGRAM,
}
"""By file below keras/src, class and name."""

NEEDS = {
    "layers/preprocessing/discretization_test.py": "grain",
    "trainers/data_adapters/grain_dataset_adapter_test.py": "grain",
    "trainers/trainer_test.py::TestTrainer::test_fit_with_data_adapter_grain": "grain",
}
"""The package that a file or a test (the beginning of its name) needs although Keras does not require it."""
