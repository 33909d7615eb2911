"""What tells the model of one engine from that of another on the same ring.

It may not know of rings or engines.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from .forms import ModelForm
from .output_spec import OutputSpec
from .tuning_memory import architecture, fingerprint

_MOST_BYTES = 64 * 2**20
_SAMPLED_VALUES = 1024


def identity_of(form: ModelForm, outputs: OutputSpec, inputs: Any) -> int:
    """Return 64 bits, not 0, that are the same for engines of the same model.

    The model's name, its architecture or code, what it takes and returns, and the values of a Keras model's weights
    count: of weights of more than 64 MiB altogether, some values of each.

    Parameters
    ----------
    form : ModelForm
    outputs : OutputSpec
    inputs : object
        What it takes of a record; its text counts.
    """
    digest = hashlib.blake2b(digest_size=8)
    model = form.keras_model
    made_of = fingerprint(form) if model is None else _architecture_of(model)
    for text in (form.name, made_of, repr(outputs.fields), repr(inputs)):
        digest.update(text.encode())
    weights = list(getattr(model, "weights", None) or ())
    whole = sum(int(np.prod(weight.shape)) for weight in weights) * 4 <= _MOST_BYTES
    for weight in weights:
        values = np.ravel(np.asarray(weight))
        step = 1 if whole else max(len(values) // _SAMPLED_VALUES, 1)
        digest.update(np.ascontiguousarray(values[::step]).tobytes())
    return int.from_bytes(digest.digest(), "little") or 1


def _architecture_of(model: Any) -> str:
    """Return it without the names of layers: Keras numbers them, in each process anew."""
    text = json.dumps(architecture(model), sort_keys=True, default=lambda value: type(value).__qualname__)
    layers = getattr(model, "_flatten_layers", lambda: ())()
    for number, name in enumerate(dict.fromkeys(str(layer.name) for layer in layers)):
        text = text.replace(json.dumps(name), json.dumps(f"layer {number}"))
    return text
