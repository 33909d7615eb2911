"""What a slot of the predictor's ring holds: chosen from what the model takes and the first sample.

A spec here is a nest, as the model nests its inputs, of (shape without the batch axis, dtype); None in a
shape is an axis that the model leaves free. It may not know TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..nest import flatten, unflatten
from ..record_spec import MAX_FIELDS, Field, RecordSpec, as_dtype
from .samples import DROPPED, RowLayout, Sample, Unfit, has_structure, is_exact, is_float, row_of, sample_of

_Leaf = tuple[tuple[int | None, ...], str]


@dataclass(frozen=True)
class Wanted:
    """What the model takes, as far as it or the user says so.

    Attributes
    ----------
    specs : nest of (shape, dtype), or None
        None where nobody says.
    names : sequence of (str or None), or None
        For each leaf of `specs`, in the order of ``tf.nest.flatten`` (dicts by their sorted keys): the name under
        which the model knows it, also one that Keras or TensorFlow made up.
    is_binding : bool
        The user gave it (``sample_spec=``): each sample becomes of these very dtypes.
    arguments : sequence of str
        Where nobody says `specs`: the arguments of a Python function, which takes of a mapping what they are called.
        One that has a single argument takes the whole of a mapping without its name.
    options : sequence of str
        Further arguments, which may be left out.
    are_lost : bool
        The names stand for others that are not known, in whose order the inputs are: a mapping in the order of its keys
        counts as one of these.
    floatx : str, optional
        Where nobody says `specs`: what floats become, as Keras casts them before any model of its own.
    """

    specs: Any
    names: Sequence[str | None] | None = None
    is_binding: bool = False
    arguments: Sequence[str] = ()
    options: Sequence[str] = ()
    are_lost: bool = False
    floatx: str | None = None

    @classmethod
    def bound_to(cls, sample_spec: Any) -> Wanted:
        """Return what the user wants, in plain data.

        Raises
        ------
        TypeError
            Something in it is no (shape, dtype), or a dtype that a ring cannot hold.
        """
        template, leaves = spec_leaves(sample_spec)
        return cls(unflatten(template, [(shape, as_dtype(dtype).name) for shape, dtype in leaves]), None, True)

    @property
    def settles_all(self) -> bool:
        """Whether no sample is needed to know what a row is and what the model is given of it.

        Of several inputs the sample's own structure says which array is which, and what the model is given may be in
        that structure.
        """
        return self.is_binding and self.says_all_shapes and len(spec_leaves(self.specs)[1]) == 1

    @property
    def says_all_shapes(self) -> bool:
        """Whether the shape of each input is known, with all its axes."""
        return self.specs is not None and all(None not in shape for shape, _ in spec_leaves(self.specs)[1])


def choose_layout(wanted: Wanted, sample: Sample | None) -> RowLayout:
    """Choose the fields of a row.

    Parameters
    ----------
    wanted : Wanted
    sample : Sample or None
        What the first item came out as; None for a function that fills the slot itself.

    Returns
    -------
    RowLayout
        Its fields are named by their numbers.

    Raises
    ------
    Unfit
        The sample is not what the model takes.
    ValueError
        There is no sample, and the model leaves shapes open.
    """
    if sample is None:
        template, leaves = (None, []) if wanted.specs is None else spec_leaves(wanted.specs)
        fields = _fields_of_model(leaves)
        return RowLayout(template, template, fields, tuple(is_float(field.dtype) for field in fields))
    if wanted.specs is None:
        return _layout_for_arguments(wanted, sample)
    asked_template, asked = spec_leaves(wanted.specs)
    match = _matched(asked_template, asked, wanted, sample)
    picked = _picked(sample, match.numbers)
    chosen = Sample(None, [sample.leaves[number] for number in match.numbers])
    return _layout(match.template, picked, chosen, match.asked, wanted)


def row_as_wanted(result: Any, layout: RowLayout, wanted: Wanted) -> list[np.ndarray[Any, Any]]:
    """Return the arrays of a result, one for each field, of its shape and dtype.

    Where the user's spec settles all, or the model says its only input, an item may have another structure than that
    from which the layout was chosen, which may be one of an earlier call.

    Raises
    ------
    Unfit
        The result has another structure that is not wanted, another shape, or numbers that the fields cannot hold.
    """
    is_settled = wanted.settles_all or (wanted.specs is not None and len(layout.fields) == 1)
    if is_settled and not has_structure(result, layout):
        sample = sample_of(result)
        match = _matched(*spec_leaves(wanted.specs), wanted, sample, when="")
        picked = _picked(sample, match.numbers)
        layout = replace(layout, picked=picked)
    return row_of(result, layout)


def _layout_for_arguments(wanted: Wanted, sample: Sample) -> RowLayout:
    """Choose the fields of what a model takes that says no shapes: all, or what its arguments are called."""
    given = _named_parts(sample.template)
    known = set(wanted.arguments)
    by_name = isinstance(sample.template, dict) or len(known) > 1  # one argument may be meant to be a named tuple
    if known and by_name and given is not None and known <= set(given):
        known |= set(wanted.options)
        template, numbers = flatten({key: part for key, part in given.items() if key in known})
        picked = _picked(sample, numbers)
        chosen = Sample(None, [sample.leaves[number] for number in numbers])
        return _layout(template, picked, chosen, [None] * len(numbers), wanted)
    is_nest = isinstance(sample.template, (dict, list, tuple))
    if len(known) > 1 and (given is not None or not is_nest or len(sample.template) != len(known)):
        listed = _listed(list(map(str, given))) if given is not None else ""
        raise Unfit(
            f"the model takes the arguments {', '.join(wanted.arguments)}; preprocess returned "
            f"{len(sample.template) if is_nest else 1} values{listed} for the first item. Return a dict of these "
            "names, or a tuple of as many in their order."
        )
    return _layout(sample.template, sample.template, sample, [None] * len(sample.leaves), wanted)


def _named_parts(template: Any) -> dict[Any, Any] | None:
    """Return the parts of a nest that has names for them: a mapping or a named tuple."""
    if isinstance(template, tuple) and hasattr(template, "_fields"):
        return dict(zip(template._fields, template, strict=True))
    return template if isinstance(template, dict) else None


def fields_spec(layout: RowLayout) -> RecordSpec:
    """Return the fields of a layout as the record of a ring."""
    return RecordSpec.of(layout.fields)


def taken_of(sample: Sample, layout: RowLayout) -> Sample:
    """Return what a layout takes of a sample that it was chosen for: of that it is chosen again, and it is never much.

    Of what the model does not take there may be any number of names and lists.
    """
    leaves: list[tuple[tuple[int, ...], str] | str] = []

    def walk(picked: Any, template: Any) -> Any:
        if isinstance(picked, dict):
            return {key: walk(part, template[key]) for key, part in picked.items()}
        if isinstance(picked, (list, tuple)):
            return _like(picked, map(walk, picked, template))
        leaves.append("The model does not take this." if picked == DROPPED else sample.leaves[template])
        return len(leaves) - 1

    return Sample(walk(layout.picked, sample.template), leaves)


def _picked(sample: Sample, numbers: list[int]) -> Any:
    """Return what `RowLayout.picked` is where these arrays of a sample become fields, in this order.

    What else the sample has decides nothing, and differs from item to item: of mappings it is left out, and of a nest
    that the model does not take there is one `DROPPED`.
    """
    places = [DROPPED] * len(sample.leaves)
    for place, number in enumerate(numbers):
        places[number] = place
    return _without_dropped(unflatten(sample.template, places))


def _without_dropped(picked: Any) -> Any:
    if isinstance(picked, dict):
        return {key: _without_dropped(part) for key, part in picked.items() if not _is_dropped(part)}
    if isinstance(picked, (list, tuple)):
        return _like(picked, (DROPPED if _is_dropped(part) else _without_dropped(part) for part in picked))
    return picked


def _is_dropped(picked: Any) -> bool:
    leaves = flatten(picked)[1]
    return bool(leaves) and all(number == DROPPED for number in leaves)


def _like(nest: Any, parts: Iterable[Any]) -> Any:
    """Return a list or tuple of the same class, with other parts."""
    return type(nest)(*parts) if hasattr(nest, "_fields") else type(nest)(parts)


@dataclass(frozen=True)
class _Match:
    """Which array of a sample is which input.

    Attributes
    ----------
    template : nest of int
        What the model is given: the number of the field in the place of each input.
    numbers : list of int
        For each field the number of its array.
    asked : list of (shape, dtype)
        What the model wants in each field.
    """

    template: Any
    numbers: list[int]
    asked: list[_Leaf]


def _matched(
    asked_template: Any, asked: list[_Leaf], wanted: Wanted, sample: Sample, when: str = " for the first item"
) -> _Match:
    """Match the arrays of a sample with the model's inputs: by name where both have names, else by position."""
    given, named = sample.template, _named_parts(sample.template)
    has_keys = isinstance(given, dict)
    names = _names_by_number(wanted, asked_template)
    if named is not None:
        numbers = _by_key(asked_template, named) if isinstance(asked_template, dict) else _by_name(names, named)
        if numbers is not None:
            return _Match(asked_template, numbers, asked)
    if len(sample.leaves) == len(asked):
        if len(asked) == 1:
            is_in_dict = has_keys or isinstance(asked_template, dict)
            return _Match(asked_template if is_in_dict or wanted.is_binding else given, [0], asked)
        if not has_keys:  # as Keras takes it, for which the inputs of a dict are in the order of their keys
            ordered = [asked[number] for number in _flattened(asked_template)]
            return _Match(given, flatten(given)[1], ordered)
        if not any(names) or (wanted.are_lost and list(given) == sorted(given, key=str)):
            return _Match(given, flatten(given)[1], asked)
    if has_keys and (same := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]):
        raise Unfit(
            f"the model has several inputs of the name {', '.join(map(repr, same))}, so a mapping does not say which "
            "is which. Return a tuple of the inputs in their order."
        )
    for leaf in sample.leaves:
        if isinstance(leaf, str):  # says more than that there are too many or too few
            raise Unfit(leaf)
    listed = _spelled(asked_template) if isinstance(asked_template, dict) else [n for n in names if n]
    keys = _spelled(given) if has_keys else []
    raise Unfit(
        f"the model has {len(asked)} inputs{_listed(listed)}; preprocess returned {len(sample.leaves)} arrays"
        f"{_listed(keys)}{when}. Return one array for each input, under its name."
    )


def _flattened(template: Any) -> list[int]:
    """Return the numbers of a template in the order of ``tf.nest.flatten``: dicts by their sorted keys."""
    if isinstance(template, dict):
        return [number for key in sorted(template) for number in _flattened(template[key])]
    if isinstance(template, (list, tuple)):
        return [number for part in template for number in _flattened(part)]
    return [template]


def _names_by_number(wanted: Wanted, asked_template: Any) -> list[str | None]:
    order = _flattened(asked_template)
    names: list[str | None] = [None] * len(order)
    if wanted.names is not None and len(wanted.names) == len(order):
        for number, name in zip(order, wanted.names, strict=True):
            names[number] = name
    return names


def _by_key(asked: dict[Any, Any], given: dict[Any, Any]) -> list[int] | None:
    """Return the array of each input, where every key of the model's inputs is in the sample."""
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

    return [numbers[place] for place in range(len(numbers))] if walk(asked, given) else None


def _by_name(names: list[str | None], given: dict[Any, Any]) -> list[int] | None:
    """Return the array of each input, where the sample has one under the name of every input."""
    if (
        not names
        or len(set(names)) < len(names)
        or any(name is None or not isinstance(given.get(name), int) for name in names)
    ):
        return None
    return [given[name] for name in names]


def _spelled(template: Any) -> list[str]:
    """Return for each array of a nest how it is reached, such as ``q[0]`` for the first of several under ``"q"``."""
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


def _listed(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _layout(template: Any, picked: Any, sample: Sample, asked: Sequence[_Leaf | None], wanted: Wanted) -> RowLayout:
    fields, rounds = [], []
    if len(sample.leaves) > MAX_FIELDS:
        raise Unfit(
            f"preprocess returned {len(sample.leaves)} arrays or numbers; a sample has at most {MAX_FIELDS}. Make an "
            "array of a list of numbers: numpy.asarray(...)."
        )
    for number, (given, leaf) in enumerate(zip(sample.leaves, asked, strict=True)):
        if isinstance(given, str):
            raise Unfit(given)
        shape, dtype = given
        if leaf is not None:
            _check_shape(number, shape, leaf[0], wanted.is_binding)
        given_dtype = as_dtype(dtype)
        asked_dtype = _floatx(given_dtype, wanted) if leaf is None else as_dtype(leaf[1])
        stored, rounded = _storage(given_dtype, asked_dtype, wanted.is_binding)
        fields.append(Field(str(number), tuple(shape), stored))
        rounds.append(rounded)
    return RowLayout(template, picked, tuple(fields), tuple(rounds))


def _floatx(sample: np.dtype[Any], wanted: Wanted) -> np.dtype[Any] | None:
    """Return the dtype for an input of which the model does not say one."""
    return as_dtype(wanted.floatx) if wanted.floatx is not None and is_float(sample) else None


def _storage(sample: np.dtype[Any], asked: np.dtype[Any] | None, is_binding: bool) -> tuple[np.dtype[Any], bool]:
    """Return the dtype of a field, and whether floats are rounded to it.

    What the user names binds. Floats are stored as the model takes them: NumPy makes float64 unasked. Integers keep
    their own dtype where the model's holds all of them, so that a picture travels in bytes and is cast on the device;
    and where the model casts them to floats itself. Else the model's dtype is the slots', and a worker checks that
    each number stays what it is.
    """
    if asked is None:
        return sample, False
    if is_binding:
        return asked, is_float(asked)
    if is_float(sample) and is_float(asked):
        return asked, True
    casts_itself = sample.kind in "biu" and (is_float(asked) or asked.kind == "c")
    if sample == asked or is_exact(sample, asked) or casts_itself:
        return sample, False
    if sample.kind == "c":
        raise Unfit(
            f"the model takes {asked.name}; preprocess returned {sample.name} for the first item. Convert it, or "
            "change the model's input."
        )
    return asked, False


def spec_leaves(specs: Any) -> tuple[Any, list[_Leaf]]:
    """Take a nest of (shape, dtype) apart; a (shape, dtype) is a leaf.

    Raises
    ------
    TypeError
        Something in it is no (shape, dtype).
    """
    leaves: list[_Leaf] = []

    def walk(nest: Any) -> Any:
        if _is_spec(nest):
            leaves.append((tuple(nest[0]), nest[1]))
            return len(leaves) - 1
        if isinstance(nest, Mapping):
            return {key: walk(value) for key, value in nest.items()}
        if isinstance(nest, tuple) and hasattr(nest, "_fields"):
            return type(nest)(*map(walk, nest))
        if isinstance(nest, (list, tuple)):
            return type(nest)(walk(value) for value in nest)
        raise TypeError(f"sample_spec: {nest!r} is no (shape, dtype), as in ((224, 224, 3), 'uint8').")

    return walk(specs), leaves


def _is_spec(nest: Any) -> bool:
    if not isinstance(nest, (list, tuple)) or len(nest) != 2 or not isinstance(nest[0], (list, tuple)):
        return False
    return all(length is None or isinstance(length, (int, np.integer)) for length in nest[0]) and not isinstance(
        nest[1], (list, dict, tuple)
    )


def _fields_of_model(leaves: list[_Leaf]) -> tuple[Field, ...]:
    if not leaves or any(length is None for shape, _ in leaves for length in shape):
        said = "does not say its inputs" if not leaves else f"leaves them open: {', '.join(str(s) for s, _ in leaves)}"
        raise ValueError(
            "preprocess(item, out) needs the slot's shape beforehand, and the model " + said + ". "
            "Pass sample_spec=, as in ((224, 224, 3), 'uint8')."
        )
    return tuple(
        Field(str(position), tuple(int(length or 0) for length in shape), as_dtype(dtype))
        for position, (shape, dtype) in enumerate(leaves)
    )


def _check_shape(position: int, shape: tuple[int, ...], wanted: tuple[int | None, ...], is_binding: bool) -> None:
    if _fits(shape, wanted):
        return
    # Keras models add a last axis of length 1, and take one away.
    if not is_binding and wanted[-1:] == (1,) and _fits(shape, wanted[:-1]):
        return
    if not is_binding and shape[-1:] == (1,) and _fits(shape[:-1], wanted):
        return
    whose, remedy = ("sample_spec", "sample_spec=") if is_binding else ("the model", "the model's input")
    raise Unfit(
        f"input {position} of {whose} takes samples of shape {wanted}; preprocess returned {shape} for the first "
        f"item. Resize in preprocess, or change {remedy}."
    )


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        length in (None, given) for given, length in zip(shape, wanted, strict=True)
    )
