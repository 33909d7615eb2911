"""Matching the arrays of a sample with the inputs of the model: by name if both have names, else by position.

It may not know dtypes, rings or TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..nest import flatten
from .sample_spec import InputSpec, SpecLeaf, spec_leaves
from .samples import Sample, Unfit


@dataclass(frozen=True)
class Match:
    """Which array of a sample is which input.

    Attributes
    ----------
    template : nest of int
        The structure that the model gets: the number of the field in place of each input.
    numbers : list of int
        For each field the number of its array in the sample.
    inputs : list of ((shape, dtype) or None)
        What the model takes in each field; None if it does not say.
    """

    template: Any
    numbers: list[int]
    inputs: Sequence[SpecLeaf | None]


def match_inputs(spec: InputSpec, sample: Sample, when: str = " for the first item") -> Match:
    """Match the arrays of a sample with a spec that gives the inputs.

    Raises
    ------
    Unfit
        They do not match; `when` says of which item the message speaks.
    """
    input_template, inputs = spec_leaves(spec.specs)
    given, named = sample.template, named_parts(sample.template)
    has_keys = isinstance(given, dict)
    names = _names_by_number(spec, input_template)
    if named is not None:
        numbers = _by_key(input_template, named) if isinstance(input_template, dict) else _by_name(names, named)
        if numbers is not None:
            return Match(input_template, numbers, inputs)
    if len(sample.leaves) == len(inputs):
        if len(inputs) == 1:
            is_in_dict = has_keys or isinstance(input_template, dict)
            return Match(input_template if is_in_dict or spec.is_binding else given, [0], inputs)
        if not has_keys:  # as in Keras, for which the inputs of a dict are in the order of their keys
            ordered = [inputs[number] for number in _flattened(input_template)]
            return Match(given, flatten(given)[1], ordered)
        if not any(names) or (spec.are_lost and list(given) == sorted(given, key=str)):
            return Match(given, flatten(given)[1], inputs)
    raise _mismatch(sample, input_template, len(inputs), names, when)


def _mismatch(sample: Sample, input_template: Any, inputs: int, names: list[str | None], when: str) -> Unfit:
    given = sample.template
    has_keys = isinstance(given, dict)
    if has_keys and (same := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]):
        return Unfit(
            f"the model has several inputs of the name {', '.join(map(repr, same))}, so a mapping does not say which "
            "is which. Return a tuple of the inputs in their order."
        )
    for leaf in sample.leaves:
        if isinstance(leaf, str):  # it says more than that there are too many or too few
            return Unfit(leaf)
    spelled = _spelled(input_template) if isinstance(input_template, dict) else [name for name in names if name]
    keys = _spelled(given) if has_keys else []
    return Unfit(
        f"the model has {inputs} inputs{in_brackets(spelled)}; preprocess returned {len(sample.leaves)} arrays"
        f"{in_brackets(keys)}{when}. Return one array for each input, under its name."
    )


def match_arguments(spec: InputSpec, sample: Sample) -> Match:
    """Match the arrays of a sample with a model that gives no shapes: all arrays, or those named like its arguments.

    Raises
    ------
    Unfit
        The sample has another number of values than the model has arguments.
    """
    given = named_parts(sample.template)
    known = set(spec.arguments)
    by_name = isinstance(sample.template, dict) or len(known) > 1  # a single argument may be meant to be a named tuple
    if known and by_name and given is not None and known <= set(given):
        known |= set(spec.options)
        template, numbers = flatten({key: part for key, part in given.items() if key in known})
        return Match(template, numbers, [None] * len(numbers))
    is_nest = isinstance(sample.template, (dict, list, tuple))
    if len(known) > 1 and (given is not None or not is_nest or len(sample.template) != len(known)):
        names = in_brackets(list(map(str, given))) if given is not None else ""
        raise Unfit(
            f"the model takes the arguments {', '.join(spec.arguments)}; preprocess returned "
            f"{len(sample.template) if is_nest else 1} values{names} for the first item. Return a dict of these "
            "names, or a tuple of as many in their order."
        )
    return Match(sample.template, list(range(len(sample.leaves))), [None] * len(sample.leaves))


def named_parts(template: Any) -> dict[Any, Any] | None:
    """Return the parts of a mapping or a named tuple by their names; None for another nest."""
    if isinstance(template, tuple) and hasattr(template, "_fields"):
        return dict(zip(template._fields, template, strict=True))
    return template if isinstance(template, dict) else None


def in_brackets(names: Sequence[str]) -> str:
    """Return names in brackets, behind a space; nothing if there are none."""
    return f" ({', '.join(names)})" if names else ""


def _flattened(template: Any) -> list[int]:
    """Return the numbers of a template in the order of ``tf.nest.flatten``: dicts by their sorted keys."""
    if isinstance(template, dict):
        return [number for key in sorted(template) for number in _flattened(template[key])]
    if isinstance(template, (list, tuple)):
        return [number for part in template for number in _flattened(part)]
    return [template]


def _names_by_number(spec: InputSpec, input_template: Any) -> list[str | None]:
    order = _flattened(input_template)
    names: list[str | None] = [None] * len(order)
    if spec.names is not None and len(spec.names) == len(order):
        for number, name in zip(order, spec.names, strict=True):
            names[number] = name
    return names


def _by_key(inputs: dict[Any, Any], given: dict[Any, Any]) -> list[int] | None:
    """Return the number of each input's array, if the sample has every key of the model's inputs."""
    numbers: dict[int, int] = {}

    def walk(want: Any, have: Any) -> bool:
        if isinstance(want, dict):
            return (
                isinstance(have, Mapping) and want.keys() <= have.keys() and all(walk(want[k], have[k]) for k in want)
            )
        if isinstance(want, (list, tuple)):
            return isinstance(have, (list, tuple)) and len(want) == len(have) and all(map(walk, want, have))
        if isinstance(have, (dict, list, tuple)):
            return False
        numbers[want] = have
        return True

    return [numbers[place] for place in range(len(numbers))] if walk(inputs, given) else None


def _by_name(names: list[str | None], given: dict[Any, Any]) -> list[int] | None:
    """Return the number of each input's array, if the sample has an array under the name of every input."""
    if (
        not names
        or len(set(names)) < len(names)
        or any(name is None or not isinstance(given.get(name), int) for name in names)
    ):
        return None
    return [given[name] for name in names]


def _spelled(template: Any) -> list[str]:
    """Return the path of each array of a nest, such as ``q[0]`` for the first of several arrays under ``"q"``."""
    if isinstance(template, (list, tuple)) and len(template) == 1:
        return _spelled(template[0])  # "q" says as much as "q[0]"
    if isinstance(template, dict):
        parts = {str(key): part for key, part in template.items()}
    elif isinstance(template, (list, tuple)):
        parts = {f"[{number}]": part for number, part in enumerate(template)}
    else:
        return [""]
    return [
        f"{name}{'' if not rest or rest.startswith('[') else '.'}{rest}"
        for name, part in parts.items()
        for rest in _spelled(part)
    ]
