"""The result of one check of the doctor.

It may not know the checks.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes
    ----------
    subject, fact : str
        The object of the check, and its result with the remedy.
    is_well : bool
        Whether it works.
    is_vital : bool
        Whether rings cannot work, or the model cannot be served, without it.
    """

    subject: str
    fact: str
    is_well: bool = True
    is_vital: bool = False
