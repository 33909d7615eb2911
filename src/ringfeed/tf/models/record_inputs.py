"""Match the fields of a record to the inputs of a model, and build the call that passes them.

This file may not know how records are taken or how a model runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ...nest import map_leaves
from ..tensors.elements import Element
from ..tensors.structure import is_generated, natural_key, pack_inputs, repeated_names
from .adapted_model import AdaptedModel, ModelInputs


def structure_for(fields: Iterable[str], adapted: AdaptedModel, ring_name: str, *, by_order: bool = False) -> Any:
    """Match a record's fields to a model's inputs by default, when the user gave no structure.

    Parameters
    ----------
    fields : iterable of str
        Names of a record's fields, in the order of the record.
    adapted : AdaptedModel
        The model.
    ring_name : str
        The ring's name, for messages.
    by_order : bool
        The record holds outputs that another model returned as a list, so fields may match by position.

    Returns
    -------
    nest of str
        Names of fields in the structure of the model's inputs, by these rules:

        - Inputs with names get the fields of the same names; further fields are left out.
        - If there is one field and one input, they match regardless of their names.
        - Inputs without names, or with names that Keras or TensorFlow generated, get the fields in the record's order,
          if the numbers agree. Inputs with names are matched first. This rule has two exceptions: a field has a
          generated name and not every input finds its field, or numbered fields ("input_2", "input_1") are in another
          order.
        - A function of one argument, or a subclassed Keras model, gets the field of the argument's name, else a dict of
          all fields. An argument with a default is passed if a field has its name.

    Raises
    ------
    ValueError
        Names and fields do not match; the message lists both. Or several inputs share a name.
    """
    there = list(fields)
    inputs = adapted.inputs
    if inputs is None or (inputs.takes_dict and inputs.names[0] not in there):
        return there[0] if len(there) == 1 else {name: name for name in there}
    if same := repeated_names(inputs.names):
        example = _example(inputs.names, there)
        raise ValueError(f"{_of_one_name(adapted, same)} Give structure=, a nest of fields such as {example!r}.")
    matched = _matched(inputs.names, there, by_order)
    if matched is None:
        raise ValueError(_mismatch(inputs.names, there, adapted.name, ring_name))
    further = [name for name in inputs.optional if name in there and name not in matched]
    if further and list(inputs.names) == matched:
        return {name: name for name in (*matched, *further)}
    return map_leaves(matched.__getitem__, inputs.template)


def _matched(names: Sequence[str | None], there: list[str], by_order: bool) -> list[str] | None:
    """Return the field of each input; None if the match is ambiguous."""
    if set(names) <= set(there):
        return [str(name) for name in names]
    named = {name for name in names if name is not None}
    sure = named if named <= set(there) else {name for name in named if not is_generated(name)}
    if len(names) > 1 and _contradict(named - sure, there):
        return None
    if len(names) == len(there) and (len(names) == 1 or not sure or (by_order and not named & set(there))):
        return there
    rest = [name for name in there if name not in sure]
    if not sure or not sure <= set(there) or len(rest) != len(names) - len(sure):
        return None
    unnamed = iter(rest)
    return [str(name) if name in sure else next(unnamed) for name in names]


def _contradict(generated: set[str], there: list[str]) -> bool:
    """Tell whether the order of the fields contradicts the order of inputs with generated names."""
    return bool(generated & set(there)) or (all(map(is_generated, there)) and there != sorted(there, key=natural_key))


def _mismatch(names: Sequence[str | None], there: list[str], model_name: str, ring_name: str) -> str:
    takes = ", ".join("one without a name" if name is None else repr(name) for name in names)
    return (
        f"model {model_name!r} takes the input{'s' if len(names) > 1 else ''} {takes}, and the record of ring "
        f"{ring_name!r} has the field{'s' if len(there) > 1 else ''} {', '.join(map(repr, there))}: they cannot be "
        "matched. Give the fields the names of the inputs, or give structure=, a nest of fields such as "
        f"{_example(names, there)!r}."
    )


def _of_one_name(adapted: AdaptedModel, names: list[str]) -> str:
    listed = ", ".join(map(repr, names))
    return f"model {adapted.name!r} has several inputs of the name {listed}, so names do not identify them."


def _example(names: Sequence[str | None], there: list[str]) -> Any:
    chosen = [there[number % len(there)] for number in range(len(names))]
    if len(names) == 1:
        return chosen[0]
    return tuple(chosen) if None in names or repeated_names(names) else dict(zip(names, chosen, strict=True))


def fields_for(adapted: AdaptedModel) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the fields of the record that a model takes; a field has the name of its input, if the input has one.

    Raises
    ------
    ValueError
        The model does not declare its inputs, leaves the length of an axis open, or has inputs that share a name.
    """
    if adapted.input_specs is None or adapted.inputs is None:
        raise ValueError(
            f"model {adapted.name!r} does not declare its inputs: create a ring for them and give it as ring=."
        )
    if same := repeated_names(adapted.inputs.names):
        raise ValueError(
            f"{_of_one_name(adapted, same)} Create a ring for its inputs, give it as ring=, and match its fields to "
            "the inputs by structure=."
        )
    fields: dict[str, tuple[tuple[int, ...], str]] = {}
    for field, (shape, dtype) in zip(field_names(adapted.inputs), adapted.inputs.specs, strict=True):
        if None in shape:
            raise ValueError(
                f"model {adapted.name!r}: input {field!r} has shape {shape}, and the length of an axis is open. Create "
                "a ring for your shape and give it as ring=."
            )
        fields[field] = shape, dtype
    return fields


def field_names(inputs: ModelInputs) -> list[str]:
    """Return a field name for each input: the input's own name, else one generated from its position."""
    generated = ["input"] if len(inputs.names) == 1 else [f"input_{number}" for number in range(len(inputs.names))]
    taken = set(inputs.names)
    return [
        name if name is not None else other if other not in taken else f"{other}_without_name"
        for name, other in zip(inputs.names, generated, strict=True)
    ]


def model_call(step: Callable[[Any], Any], element: Element) -> Callable[..., Any]:
    """Return a function from the tensors of `Element.tensors` to a model's outputs for them.

    All fields are inputs: a tuple of two is never taken for ``(x, y)``, as a dataset's element would be.
    """
    return lambda *tensors: step(pack_inputs(element.pack(tensors, cut=True)))
