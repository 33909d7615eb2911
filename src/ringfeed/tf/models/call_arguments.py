"""Which input is which argument of a Python function that does not declare its inputs.

It may not know of models or rings.
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
        Those that must be given, and can be by position.
    keywords : tuple of str
        Those that must be given by keyword.
    optional : tuple of str
        Those that have a default; not `training`.
    only_keywords : bool
        It takes keywords of any name, and nothing by position.
    only_positions : bool
        It takes as many as there are by position, and has names for none: ``def model(*inputs)``.
    """

    positional: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    only_keywords: bool = False
    only_positions: bool = False

    @classmethod
    def of(cls, function: Any) -> CallArguments:
        """Read them from the function; none of one that is built into C."""
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
        """Names of all that must be given, in their order."""
        return self.positional + self.keywords

    def call(self, target: Callable[..., Any], inputs: Any, owner: str) -> Any:
        """Call a function: a mapping's values go to the arguments of their names, a tuple's by position.

        So do those of a named tuple that has all the names. An only argument is given the whole nest, unless it is a
        mapping that has the argument's name.

        Raises
        ------
        ValueError
            The inputs do not match the arguments; both are named.
        """
        if hasattr(inputs, "_fields") and len(self.required) > 1 and set(self.required) <= set(inputs._fields):
            inputs = inputs._asdict()  # a named tuple has names as well
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
                f"{owner} takes the arguments {', '.join(map(repr, self.required))}; given were {given!r} inputs. "
                "Give a dict of these names, or a tuple of as many in their order."
            )
        by_keyword = dict(zip(self.keywords, inputs[len(self.positional) :], strict=True))
        return target(*inputs[: len(self.positional)], **by_keyword)
