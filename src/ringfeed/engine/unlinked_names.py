"""Names in /dev/shm that are removed while an engine serves: noticed, and said once.

It may not know who removes them, nor what an engine does.
"""

from __future__ import annotations

import logging

from ..client.reply_pool import ReplyPool
from ..ring import Ring

_log = logging.getLogger("ringfeed.engine")


class LostNames:
    """Watches the names of a ring and of its replies.

    Parameters
    ----------
    ring : Ring
    pool : ReplyPool
    """

    def __init__(self, ring: Ring, pool: ReplyPool) -> None:
        self._ring = ring
        self._pool = pool
        self._missing: list[str] = []
        self._said = False

    def look(self) -> None:
        """Say once that names were removed; who has the ring open is served all the same."""
        if self._said or self._pool.ring_is_gone():
            return
        # Twice: an owner removes the names before it closes the ring.
        missing, self._missing = self._missing, self._pool.lost_names()
        if missing and missing == self._missing:
            self._said = True
            _log.error(
                "ring %r: %s was removed from /dev/shm while the engine serves it: clients that have the ring open are "
                "answered, new ones do not find it. Create the ring anew. Somebody removed it by hand, or systemd did, "
                "at the end of the user's last session (RemoveIPC=yes): `ringfeed doctor` tells.",
                self._ring.name,
                " and ".join(missing),
            )
