"""Detects that names in /dev/shm were unlinked while an engine serves, and logs it once.

It may not know which process unlinked them, nor how an engine works.
"""

from __future__ import annotations

import logging

from ..client.reply_pool import ReplyPool
from ..ring import Ring

_log = logging.getLogger("ringfeed.engine")


class UnlinkedNames:
    """Watches the names of a ring and of its reply pool.

    Parameters
    ----------
    ring : Ring
    pool : ReplyPool
    """

    def __init__(self, ring: Ring, pool: ReplyPool) -> None:
        self._ring = ring
        self._pool = pool
        self._missing: list[str] = []
        self._is_logged = False

    def check(self) -> None:
        """Log once that names are gone. Clients that have the ring open are still answered."""
        if self._is_logged or self._pool.ring_is_gone():
            return
        # The names must be missing in two checks: an owner unlinks them just before it closes the ring.
        missing, self._missing = self._missing, self._pool.lost_names()
        if missing and missing == self._missing:
            self._is_logged = True
            _log.error(
                "ring %r: %s was removed from /dev/shm while the engine serves it. Clients that have the ring open are "
                "answered; new clients do not find it. Create the ring anew. The name was removed by hand, or by "
                "systemd at the end of the user's last session (RemoveIPC=yes): `ringfeed doctor` tells.",
                self._ring.name,
                " and ".join(missing),
            )
