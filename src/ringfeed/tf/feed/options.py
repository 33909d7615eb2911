"""The checked options of a feed.

This file may not know how batches are taken, nor the datasets of `tf.data`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...arguments import check_bool, check_int, check_seconds, check_timeout
from ...ring import Ring


@dataclass(frozen=True)
class FeedOptions:
    """The checked options of a dataset.

    Attributes
    ----------
    most, least : int
        Maximum and minimum number of rows of an element.
    linger : float
        Seconds to wait for more rows once `least` are ready.
    timeout : float or None
        Seconds to wait for an element; None waits for ever.
    prefetch : int
        Number of batches to take ahead.
    exact : int or None
        Number of rows of every element, if all elements must have the same number.
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
        """Check the options, which `dataset` describes.

        Raises
        ------
        ValueError, TypeError
            An option is invalid, or does not fit the ring.
        """
        batch_size, min_rows = check_int(batch_size, "batch_size", 1), check_int(min_rows, "min_rows", 1)
        prefetch, drop_remainder = check_int(prefetch, "prefetch", 0), check_bool(drop_remainder, "drop_remainder")
        most, share = (ring.slots, "all") if copy else ((ring.slots + 1) // 2, "half")
        most = min(batch_size, most)
        if batch_size > ring.slots:
            raise ValueError(
                f"batch_size {batch_size}: ring {ring.name!r} has only {ring.slots} slots, and an element may hold at "
                f"most {share} of them. Create it with slots={(prefetch + 2) * batch_size}, or ask for batches of up "
                f"to {most}."
            )
        if min_rows > most and not drop_remainder:
            raise ValueError(
                f"min_rows {min_rows}: an element of this dataset has at most {most} rows (batch_size {batch_size}, "
                f"{share} of the {ring.slots} slots of ring {ring.name!r}). Ask for fewer, or add slots."
            )
        timeout = None if timeout is None else check_timeout(timeout, "timeout")
        exact = batch_size if drop_remainder else None
        return cls(most, min_rows, check_seconds(linger, "linger"), timeout, prefetch, exact, check_bool(copy, "copy"))
