"""What is said of a record over which too many takers failed.

It may not know rings, nor who set it aside.
"""

from __future__ import annotations

import logging

_log = logging.getLogger("ringfeed")


def log(
    ring: str, tag: int, pid: int, failures: int, max_deliveries: int, answered: bool, unsaid_before: int = 0
) -> None:
    """Log that a record is set aside.

    Parameters
    ----------
    ring : str
    tag : int
        Of the record.
    pid : int
        Of its producer; 0 where that has left.
    failures : int
        How many takers failed over it.
    max_deliveries : int
        Of the ring.
    answered : bool
        A client was told.
    unsaid_before : int
        How many went before of which nothing is known.
    """
    producer = f"process {pid}" if pid else "a process that has left"
    more = f" (and {unsaid_before} before it, unnamed)" if unsaid_before else ""
    _log.error(
        "ring %r: the record with tag %d of %s%s is set aside: %d takers died or failed over it (max_deliveries=%d). "
        "%s Find out what it does to them, or create the ring with a larger max_deliveries.",
        ring,
        tag,
        producer,
        more,
        failures,
        max_deliveries,
        "Its client was told." if answered else "No taker gets it any more.",
    )


def answer(ring: str, tag: int, failures: int) -> str:
    """Return what the client of such a request is told."""
    return (
        f"ring {ring!r}: the request with tag {tag} was given up: {failures} engines died or failed over it, one after "
        "the other, and it is not tried again (max_deliveries). Look into the engine's log and exit status for what "
        "this input does to it (a crash in native code, memory), and mend that or the input. Ring.create(..., "
        "max_deliveries=n) allows more tries."
    )
