"""What the doctor says of one thing.

It may not know what was looked at.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes
    ----------
    subject, fact : str
        What was looked at, and what was found, with its mend.
    is_well : bool
        It works.
    is_vital : bool
        Without it there are no rings, or a model cannot be served.
    """

    subject: str
    fact: str
    is_well: bool = True
    is_vital: bool = False
