"""What a new ring is asked to be: its arguments, checked.

It may not know how a ring is made.
"""

from __future__ import annotations

import os
from typing import Any

from . import segment
from .arguments import check_bool, check_int
from .record_spec import FieldsLike, RecordSpec

MAX_SLOTS = 2**24
MAX_PARTICIPANTS = 4095
MAX_PRODUCERS = 2**31 - 1
MOST_DELIVERIES = 255


def made_up_name(kind: str) -> str:
    """Return a name that no other ring has."""
    return f"{kind}-{os.getpid()}-{os.urandom(6).hex()}"


def checked_options(
    name: str,
    fields: FieldsLike,
    slots: int,
    participants: int,
    redeliver: bool,
    huge_pages: bool,
    numa_node: int | None,
    producers: int | None,
    max_deliveries: int | None,
) -> tuple[Any, ...]:
    """Return the arguments of a new ring as `RingBase._create` takes them."""
    segment.check_name(name)
    try:
        spec = RecordSpec(fields)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"ring {name!r}: {error}") from None
    slots = check_int(slots, f"ring {name!r}: slots", 1, MAX_SLOTS)
    participants = check_int(participants, f"ring {name!r}: participants", 1, MAX_PARTICIPANTS)
    if numa_node is not None:
        numa_node = check_int(numa_node, f"ring {name!r}: numa_node", 0, 1023)
    if producers is not None:
        producers = check_int(producers, f"ring {name!r}: producers", 1, MAX_PRODUCERS)
    if max_deliveries is not None:
        max_deliveries = check_int(max_deliveries, f"ring {name!r}: max_deliveries", 1, MOST_DELIVERIES)
    return (
        spec,
        slots,
        participants,
        check_bool(redeliver, f"ring {name!r}: redeliver"),
        check_bool(huge_pages, f"ring {name!r}: huge_pages"),
        numa_node,
        producers or 0,
        max_deliveries or 0,
    )
