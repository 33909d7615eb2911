"""Producers that fail in a `producing` block, and the error that takers then get."""

import pytest

import ringfeed
from support import record


class Bad(Exception):
    pass


def produce(ring: ringfeed.Ring, *records: int, error: BaseException | None = None) -> None:
    """Put records in a `producing` block; raise `error` inside the block if one is given."""
    with ring.producing():
        for number in records:
            ring.put(record(number))
        if error is not None:
            raise error


def fail(ring: ringfeed.Ring, error: BaseException | None = None, *records: int) -> None:
    """Raise in a `producing` block after publishing the given records."""
    error = Bad("no picture") if error is None else error
    with pytest.raises(type(error)):
        produce(ring, *records, error=error)


def said_by(ring: ringfeed.Ring) -> str:
    with pytest.raises(ringfeed.ProducerFailed) as raised:
        ring.take(1)
    return str(raised.value)
