"""Registers an engine with the clients of its ring, and takes the registration back.

It may not know how the engine serves. While an engine is registered, clients wait for its answers.
"""

from __future__ import annotations

import threading

from ..client.reply_pool import ReplyPool
from ..errors import LayoutMismatch
from ..ring import Ring


class ServiceRegistration:
    """The registration of one engine in the reply pool of its ring.

    Parameters
    ----------
    ring : Ring
        The ring that the engine takes batches from.
    next_ring : Ring or None
        The ring to which it hands requests on, instead of answering them.
    pool : ReplyPool
    model_name : str
    model_digest : int
        64 bits that are the same for engines of the same model.
    same_model : bool
        Refuse to serve beside an engine of another model.
    """

    def __init__(
        self,
        ring: Ring,
        next_ring: Ring | None,
        pool: ReplyPool,
        model_name: str,
        model_digest: int,
        same_model: bool,
    ) -> None:
        self._ring, self._next_ring, self._pool = ring, next_ring, pool
        self._model_name, self._model_digest, self._same_model = model_name, model_digest, same_model
        self._lock = threading.Lock()
        self._is_away = False

    def register(self) -> None:
        """Tell clients that this engine serves.

        Raises
        ------
        LayoutMismatch
            An engine of another model serves the ring.
        """
        other = self._pool.serve(
            self._ring, self._next_ring, model=self._model_digest, name=self._model_name, same_model=self._same_model
        )
        if other is not None:
            name, pid = other
            raise LayoutMismatch(
                f"ring {self._ring.name!r}: an engine of model {name!r} (pid {pid}) serves it, and this one is of "
                f"model {self._model_name!r}. Their names, inputs, outputs or weights differ, so clients would get "
                "answers of both at random. Stop that engine first, serve this model from a ring of its own, or pass "
                "same_model=False."
            )

    def deregister(self) -> None:
        """Tell clients that this engine serves no more."""
        self._pool.serve(None)

    def leave_to_others(self) -> bool:
        """Deregister, unless no other engine serves the ring. Returns whether others serve it."""
        with self._lock:
            if not self._is_away and self._pool.peers(self._ring):
                self.deregister()
                self._is_away = True
            return self._stay_away()

    def return_if_alone(self) -> bool:
        """Register again if no other engine serves the ring any more. Returns whether this one stays away."""
        with self._lock:
            return self._stay_away()

    def return_to_service(self) -> None:
        """Register again if this engine had left."""
        if not self._is_away:
            return
        with self._lock:
            if self._is_away:
                self.register()
                self._is_away = False

    def _stay_away(self) -> bool:
        if self._is_away and not self._pool.peers(self._ring):
            self.register()
            self._is_away = False
        return self._is_away
