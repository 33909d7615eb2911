"""Match inputs to the arguments of a Python function that does not declare its inputs.

This file may not know models or rings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class CallArguments:
    """The arguments of a function.

    Attributes
    ----------
    positional : tuple of str
        Required arguments that can be given by position.
    keywords : tuple of str
        Required arguments that must be given by keyword.
    optional : tuple of str
        Arguments with a default, except `training`.
    only_keywords : bool
        The function takes keywords of any name, and no positional argument.
    only_positions : bool
        The function takes any number of positional arguments without names: ``def model(*inputs)``.
    """

    positional: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    only_keywords: bool = False
    only_positions: bool = False

    @classmethod
    def of(cls, function: Any) -> CallArguments:
        """Read the arguments of a function; a function written in C has none."""
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            return cls()
        needed = [item for item in parameters if item.default is item.empty]
        kinds = {item.kind for item in parameters}
        return cls(
            tuple(item.name for item in needed if item.kind in _BY_POSITION),
            tuple(item.name for item in needed if item.kind is item.KEYWORD_ONLY),
            tuple(
                item.name
                for item in parameters
                if item.default is not item.empty
                and item.kind is not item.POSITIONAL_ONLY
                and item.name not in ("training", "self")
            ),
            kinds == {inspect.Parameter.VAR_KEYWORD},
            kinds == {inspect.Parameter.VAR_POSITIONAL},
        )

    @property
    def required(self) -> tuple[str, ...]:
        """Names of all required arguments, in their order."""
        return self.positional + self.keywords

    def call(self, target: Callable[..., Any], inputs: Any, owner: str) -> Any:
        """Call a function: pass a mapping's values to the arguments of the same names, and a tuple's by position.

        A named tuple that has all names counts as a mapping. If there is only one argument, it receives the whole nest,
        unless the nest is a mapping with the argument's name as a key.

        Raises
        ------
        ValueError
            The inputs do not match the arguments; the message lists both.
        """
        if hasattr(inputs, "_fields") and len(self.required) > 1 and set(self.required) <= set(inputs._fields):
            inputs = inputs._asdict()  # a named tuple has names, too
        if isinstance(inputs, Mapping):
            if self.required and set(self.required) <= set(inputs):
                options = {name: inputs[name] for name in (*self.keywords, *self.optional) if name in inputs}
                return target(*(inputs[name] for name in self.positional), **options)
            if not self.required and self.only_keywords:
                return target(**inputs)
        if self.only_positions and isinstance(inputs, (Mapping, tuple)):
            return target(*(inputs.values() if isinstance(inputs, Mapping) else inputs))
        if len(self.required) < 2:
            return target(**{self.keywords[0]: inputs}) if self.keywords else target(inputs)
        if not isinstance(inputs, tuple) or len(inputs) != len(self.required):
            given = list(inputs) if isinstance(inputs, Mapping) else len(inputs) if isinstance(inputs, tuple) else 1
            raise ValueError(
                f"{owner} takes the arguments {', '.join(map(repr, self.required))}, but was given {given!r} inputs. "
                "Give a dict of these names, or a tuple of the arguments in their order."
            )
        by_keyword = dict(zip(self.keywords, inputs[len(self.positional) :], strict=True))
        return target(*inputs[: len(self.positional)], **by_keyword)
