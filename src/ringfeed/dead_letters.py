"""Messages about dead letters: records over which too many takers died or failed.

It may not know rings, nor the code that makes a record a dead letter.
"""

from __future__ import annotations

import logging

_log = logging.getLogger("ringfeed")


def log(
    ring: str, tag: int, pid: int, failures: int, max_deliveries: int, answered: bool, unsaid_before: int = 0
) -> None:
    """Log that a record has become a dead letter.

    Parameters
    ----------
    ring : str
        The name of the ring.
    tag : int
        The tag of the record.
    pid : int
        The process id of its producer; 0 if the producer has left.
    failures : int
        The number of takers that failed over the record.
    max_deliveries : int
        The ring's limit.
    answered : bool
        Whether a client got an error.
    unsaid_before : int
        The number of earlier dead letters that were not logged.
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
    """Return the error message for the client of such a request."""
    return (
        f"ring {ring!r}: the request with tag {tag} was given up: {failures} engines died or failed over it, one after "
        "the other, and it is not tried again (max_deliveries). Find in the engine's log and exit status what "
        "this input causes (a crash in native code, memory), and fix that or the input. Ring.create(..., "
        "max_deliveries=n) allows more tries."
    )
