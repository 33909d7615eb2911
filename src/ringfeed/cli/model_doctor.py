"""Checks of a model: its inputs and outputs, and whether an engine can serve it, one line for each.

It may not serve anything. It imports TensorFlow only when it checks a model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..record_spec import RecordSpec
from .finding import Finding

if TYPE_CHECKING:
    from ..tf.models.adapted_model import AdaptedModel

_FREE_LENGTHS = (32, 224, 4)
"""The lengths to try in turn for an axis without a fixed length."""
_ROWS = 4


def model_findings(
    path: str, signature: str | None = None, tags: list[str] | None = None, warm_up: str | None = None
) -> Iterator[Finding]:
    """Check a model.

    Parameters
    ----------
    path : str
        A file or a folder, as `Engine` takes it.
    signature : str, optional
    tags : list of str, optional
    warm_up : str, optional
        A file of rows to run the model on: ``.npz`` with the names of its inputs, or ``.npy``. By default zeros.

    Yields
    ------
    Finding
        A vital finding that is not well means that the model cannot be served.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        from ..tf.models.adapt_model import adapt_model
    except ImportError as error:
        yield _no("TensorFlow", f"{error}; pip install 'ringfeed[tf]'")
        return
    try:
        rows = None if warm_up is None else _read_rows(warm_up)
        adapted = adapt_model(path, signature, tags or None)
    except Exception as error:  # a layer may raise any exception
        yield _no(f"model {Path(path).name}", _text(error))
        return
    yield Finding(f"model {adapted.name}", adapted.origin)
    yield from _saved(adapted, path)
    yield from _tried(adapted, rows)


def _no(subject: str, fact: str) -> Finding:
    return Finding(subject, fact, is_well=False, is_vital=True)


def _text(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())


def _read_rows(path: str) -> Any:
    loaded = np.load(path)
    return dict(loaded) if isinstance(loaded, Mapping) else loaded


def _saved(adapted: AdaptedModel, path: str) -> Iterator[Finding]:
    from ..tf.models.adapt_model import signatures_of
    from ..tf.models.loading import is_saved_model, tags_of

    if not is_saved_model(path):
        return
    _, restored = adapted.owner
    listed = ", ".join(map(repr, sorted(signatures_of(restored)))) or "none"
    yield Finding("signatures", f"{listed}; signature= chooses one")
    yield Finding("tags", "; ".join(", ".join(map(repr, tags)) or "none" for tags in tags_of(path)))


def _tried(adapted: AdaptedModel, rows: Any) -> Iterator[Finding]:
    from ..tf.models.record_inputs import field_names

    if adapted.inputs is None or adapted.input_specs is None:
        yield Finding(
            "inputs",
            "it does not declare its inputs, so it cannot be run here; an engine runs it on the record of its ring",
            is_well=False,
        )
        return
    names = [own or other for own, other in zip(adapted.inputs.names, field_names(adapted.inputs), strict=True)]
    specs = dict(zip(names, adapted.inputs.specs, strict=True))
    yield Finding("inputs", _listed(specs))
    try:
        fields = [RecordSpec(each) for each in _sizes(specs, rows)]
    except (TypeError, ValueError) as error:
        yield _no("record", f"{_text(error)} Convert it to numbers before the ring, by preprocess=")
        return
    yield from _run(adapted, fields, rows)


def _listed(specs: Mapping[str, Any]) -> str:
    lengths = {name: ", ".join(["rows", *map(str, shape)]) for name, (shape, _) in specs.items()}
    return ", ".join(f"{name!r}: {dtype}[{lengths[name]}]" for name, (_, dtype) in specs.items())


def _sizes(specs: Mapping[str, Any], rows: Any) -> Iterator[dict[str, Any]]:
    """Yield the records to try: that of the given rows or, for axes without a fixed length, several lengths."""
    if isinstance(rows, Mapping) and set(specs) <= set(rows):
        yield {name: (rows[name].shape[1:], dtype) for name, (_, dtype) in specs.items()}
        return
    if rows is not None and len(specs) == 1:
        array = next(iter(rows.values())) if isinstance(rows, Mapping) else rows
        yield {name: (array.shape[1:], dtype) for name, (_, dtype) in specs.items()}
        return
    is_free = any(None in shape for shape, _ in specs.values())
    for length in _FREE_LENGTHS if is_free else _FREE_LENGTHS[:1]:
        yield {
            name: ([length if each is None else each for each in shape], dtype)
            for name, (shape, dtype) in specs.items()
        }


def _run(adapted: AdaptedModel, fields: list[RecordSpec], rows: Any) -> Iterator[Finding]:
    """Run the model on the first record that it accepts, and report its outputs."""
    from ..tf.models.dry_run import DryRun

    failure: Exception | None = None
    for spec in fields:
        try:
            dry_run = DryRun(adapted, spec, rows)
            outputs = dry_run.outputs(1, _ROWS)
            break
        except Exception as error:  # the model may raise any exception
            failure = error
    else:
        yield _no("rows" if rows is None else "rows of warm_up", _text(failure or ValueError("there are none")))
        return
    what = "of zeros" if rows is None else "that were given"
    tried = _listed({name: (field.shape, field.dtype.name) for name, field in spec.items()})
    yield Finding("rows", f"it runs on rows {what}" + (f", tried as {tried}" if len(fields) > 1 else ""))
    yield Finding("outputs", ", ".join(map(str, outputs.fields.values())))
    reason = dry_run.why_rows_are_mixed(_ROWS)
    if reason is None:
        yield Finding("mixing", "a row's result does not depend on others, so batches may be padded")
    else:
        yield Finding("mixing", f"{reason}; it is served, but batches are not padded", is_well=False)
