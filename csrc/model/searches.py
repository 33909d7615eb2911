"""The kinds of searches that check.py runs. It knows no configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Search:
    """What is set in segment.pml, a name for the table, and whether the smoke or the long run has it."""

    name: str
    sets: dict[str, int]
    smoke: bool = False
    long: bool = False
    model: str = "ring.pml"


class Configuration(Search):
    """Searched to its end."""


class Symmetry(Search):
    """Searched with symmetry.c and without: its states must stand for exactly those found without."""


@dataclass(frozen=True)
class Bitstate(Search):
    """Too large to be searched to the end: errors count, their absence proves nothing."""

    long: bool = True


@dataclass(frozen=True)
class Mutation:
    """A mistake in the protocol: the #ifdef that makes it, and in which configuration spin finds it."""

    name: str
    what: str
    sets: dict[str, int]
    smoke: bool = False
    long: bool = False
    model: str = "ring.pml"
    backwards: bool = False  # of several steps the last first: spin comes to this mistake sooner
