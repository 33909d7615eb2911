"""What was asked of a feed, checked.

It may not know how batches are taken, nor `tf.data`'s datasets.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...arguments import check_bool, check_int, check_seconds, check_timeout
from ...ring import Ring


@dataclass(frozen=True)
class FeedOptions:
    """What was asked of a dataset, checked.

    Attributes
    ----------
    most, least : int
        Rows of an element.
    linger : float
        Seconds.
    timeout : float or None
        Seconds.
    prefetch : int
        Batches.
    exact : int or None
        Rows of every element, where all are to have the same.
    copy : bool
        Elements are copies, which hold no slots.
    """

    most: int
    least: int
    linger: float
    timeout: float | None
    prefetch: int
    exact: int | None
    copy: bool = False

    @classmethod
    def of(
        cls,
        ring: Ring,
        batch_size: int,
        min_rows: int,
        linger: float,
        timeout: float | None,
        prefetch: int,
        drop_remainder: bool,
        copy: bool = False,
    ) -> FeedOptions:
        """Check what was asked, as `dataset` describes it.

        Raises
        ------
        ValueError, TypeError
            It makes no sense, or not with this ring.
        """
        batch_size, min_rows = check_int(batch_size, "batch_size", 1), check_int(min_rows, "min_rows", 1)
        prefetch = check_int(prefetch, "prefetch", 0)
        most, share = (ring.slots, "all") if copy else ((ring.slots + 1) // 2, "half")
        most = min(batch_size, most)
        if batch_size > ring.slots:
            raise ValueError(
                f"batch_size {batch_size}: ring {ring.name!r} has only {ring.slots} slots, and an element is at most "
                f"{share} of them. Create it with slots={(prefetch + 2) * batch_size}, or ask for batches of up to "
                f"{most}."
            )
        if min_rows > most and not drop_remainder:
            raise ValueError(
                f"min_rows {min_rows}: an element of this dataset has at most {most} rows (batch_size {batch_size}, "
                f"{share} of the {ring.slots} slots of ring {ring.name!r}). Ask for fewer, or add slots."
            )
        timeout = None if timeout is None else check_timeout(timeout, "timeout")
        exact = batch_size if drop_remainder else None
        return cls(most, min_rows, check_seconds(linger, "linger"), timeout, prefetch, exact, check_bool(copy, "copy"))
