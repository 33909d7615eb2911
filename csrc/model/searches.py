"""The kinds of searches that check.py runs. It may not know any configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Search:
    """A search: its name, its settings of the model, and whether the smoke run or only the long run has it."""

    name: str
    sets: dict[str, int]
    smoke: bool = False
    long: bool = False
    model: str = "ring.pml"


class Configuration(Search):
    """A search that must reach its end without an error."""


class Symmetry(Search):
    """A search with and without symmetry.c: the stored states must stand for exactly the states found without it."""


@dataclass(frozen=True)
class Bitstate(Search):
    """A search too large to reach its end: an error counts, its absence proves nothing."""

    long: bool = True


@dataclass(frozen=True)
class Mutation:
    """A mistake in the protocol: the #ifdef that makes it, and the configuration in which spin finds it."""

    name: str
    what: str
    sets: dict[str, int]
    smoke: bool = False
    long: bool = False
    model: str = "ring.pml"
    backwards: bool = False  # try the last of several steps first: spin reaches this mistake sooner
