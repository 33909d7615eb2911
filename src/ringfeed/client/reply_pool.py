"""The pool of reply cells that belongs to a ring: made by its first engine, opened by clients and later engines.

It may not know models, nor TensorFlow. The pool is a segment of its own, ``NAME.replies``, whose cells hold the outputs
of one row each; it says which ring it is for, so that what an earlier ring of that name left is not mistaken for it.
"""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import dataclass

from .. import _core, segment
from ..errors import AccessRefused, LayoutMismatch, RingClosed, RingExists, RingNotFound
from ..record_spec import FieldsLike, RecordSpec
from ..ring import Ring

TEXT_FIELD = "__error__"
"""The last field of a pool: the text of an error. It has another name where an output has this one."""


@dataclass(frozen=True)
class PoolSettings:
    """What an engine lets its clients know.

    Attributes
    ----------
    bare : bool
        An answer is its only output, not a dict of outputs.
    max_queue_size : int
        Most requests that wait at a time; 0 for as many as the ring has slots.
    rejects : bool
        Whether more are rejected, or wait for room.
    """

    bare: bool = False
    max_queue_size: int = 0
    rejects: bool = False

    @property
    def user_data(self) -> int:
        """The 64 bits in which they travel with the pool."""
        return self.bare | self.rejects << 1 | self.max_queue_size << 32

    @classmethod
    def of(cls, user_data: int) -> PoolSettings:
        """Read them."""
        return cls(bool(user_data & 1), user_data >> 32, bool(user_data & 2))


class ReplyPool(_core.PoolBase):
    """The reply cells of one ring, open in this process.

    Attributes
    ----------
    outputs : RecordSpec
        The fields of an answer.
    settings : PoolSettings
        What its engines told.
    """

    outputs: RecordSpec
    settings: PoolSettings
    _ring: Ring

    @classmethod
    def join(cls, ring: Ring) -> ReplyPool | None:
        """Open the ring's pool; None where it has none (yet)."""
        name = segment.replies_name(ring.name)
        try:
            descriptor = segment.open_existing(name, ring.group)
        except AccessRefused:
            if ring.group is None or not segment.name_may_be_in_creation(name):
                raise
            return None
        if descriptor is None:
            return None
        cells = _core.RingBase.__new__(_core.RingBase)
        try:
            if not cells._attach(name, descriptor, True) or cells._ring_inode() != ring._inode():
                return None  # in the making, or left by an earlier ring of that name
        except RingClosed:
            return None
        return cls._of(cells, ring)

    @classmethod
    def wait_for(cls, ring: Ring, wait_seconds: float) -> ReplyPool:
        """Open the ring's pool, as soon as its engine has made it.

        Raises
        ------
        RingNotFound
            That has not happened within so many seconds.
        RingClosed
            The ring is closed.
        """
        until = time.monotonic() + wait_seconds
        while (pool := cls.join(ring)) is None:
            if ring.closed:
                raise RingClosed(f"ring {ring.name!r} is closed: by close() here, or its owner closed it or died.")
            if time.monotonic() >= until:
                raise RingNotFound(
                    f"ring {ring.name!r} is there, but no engine has served it yet (its last stage, where it has "
                    "several). Start one: ringfeed.Engine(ring, model).start(); or wait longer."
                )
            time.sleep(0.002)
        return pool

    @classmethod
    def make(cls, ring: Ring, outputs: FieldsLike, cells: int, participants: int, settings: PoolSettings) -> ReplyPool:
        """Make the ring's pool, or open the one that another engine made.

        Parameters
        ----------
        ring : Ring
            It must have its name still.
        outputs : mapping of str to (shape, dtype)
            The fields of an answer, without the rows.
        cells : int
            At least so many; rounded up to whole pages.
        participants : int
            Engines and clients at a time.
        settings : PoolSettings
            Those of all engines of a ring are the same.

        Raises
        ------
        LayoutMismatch
            Another engine lives that answers with other outputs, or has other settings.
        RingNotFound
            The ring's name was removed.
        AccessRefused
            What has the pool's name is another user's, or not shared with the ring's group alone.
        NoSpace
            /dev/shm is too small or too full.
        """
        wanted = RecordSpec(outputs)
        name = segment.replies_name(ring.name)
        deadline = time.monotonic() + 2 * segment.CREATION_SECONDS
        while True:
            if segment.identity_of(ring.name) != ring._identity():
                if ring.is_nameless:
                    raise RingNotFound(
                        f"ring {ring.name!r} has no name by which clients would find its engine. Use Ring.create."
                    )
                raise RingNotFound(
                    f"ring {ring.name!r} has lost its name, by which clients would find its engine. Start the engine "
                    "before the ring is unlinked."
                )
            pool = cls.join(ring)
            if pool is not None and pool.fits(wanted, settings):
                return pool
            if pool is not None and pool.any_engines():
                raise LayoutMismatch(
                    f"ring {ring.name!r}: a living engine answers with {pool.outputs!r} ({pool.settings}), this one "
                    f"would with {wanted!r} ({settings}). "
                    "Stop that engine first, or serve this model from a ring of its own."
                )
            if pool is not None:
                segment.remove(name, pool.cells._identity())
                pool.close()
            created = cls._create(ring, name, wanted, cells, participants, settings)
            if created is not None:
                return created
            if time.monotonic() > deadline:
                raise RingExists(
                    f"ring {ring.name!r}: its replies {name!r} stay half made. Remove them: ringfeed.clean()."
                )
            time.sleep(0.002)

    @classmethod
    def _create(
        cls, ring: Ring, name: str, outputs: RecordSpec, cells: int, participants: int, settings: PoolSettings
    ) -> ReplyPool | None:
        """Create the pool; None when another process is faster."""
        try:
            descriptor = segment.open_new(name)
        except RingExists:
            _remove_if_of_another(ring, name)
            return None
        except AccessRefused:
            if ring.group is None:
                raise
            return None  # perhaps another user's engine, with which the group shares: joining tells
        which = segment.identity(descriptor)
        fields = {field.name: (field.shape, field.dtype) for field in outputs.values()}
        text = next(each for number in itertools.count() if (each := f"{TEXT_FIELD}{'_' * number}") not in fields)
        spec = RecordSpec({**fields, text: ((_core.TEXT_BYTES,), "uint8")})
        made = _core.RingBase.__new__(_core.RingBase)
        try:
            segment.share(descriptor, ring.group, name)
            options = (spec, cells, participants, ring.redelivers, False, None)
            made._create(name, descriptor, *options, answers=ring._inode(), user_data=settings.user_data)
            if segment.is_being_removed(name, made.descriptor):
                made.close()
                return None
        except BaseException:
            segment.remove(name, which)
            raise
        return cls._of(made, ring)

    @classmethod
    def _of(cls, cells: _core.RingBase, ring: Ring) -> ReplyPool:
        pool = cls.__new__(cls)
        pool._ring = ring
        fields = list(cells.spec.values())[:-1]
        pool.settings = PoolSettings.of(cells._user_data())
        pool._open(cells, pool.settings.bare)
        pool.outputs = RecordSpec.of(fields)
        return pool

    def fits(self, outputs: RecordSpec, settings: PoolSettings) -> bool:
        """Tell whether its cells hold these outputs."""
        return list(self.outputs.values()) == list(outputs.values()) and self.settings == settings

    def is_current(self) -> bool:
        """Tell whether it is still the one that the ring's name leads to."""
        return segment.identity_of(segment.replies_name(self._ring.name)) == self.cells._identity()

    def was_replaced(self) -> bool:
        """Tell whether the ring's name leads to another pool; one whose name was only removed goes on."""
        there = segment.identity_of(segment.replies_name(self._ring.name))
        return there is not None and there != self.cells._identity()

    def lost_names(self) -> list[str]:
        """Return which names in /dev/shm were removed, of the ring and of these cells: no other client finds them."""
        names = {self._ring.name: self._ring._identity(), segment.replies_name(self._ring.name): self.cells._identity()}
        return [name for name in names if segment.identity_of(name) is None]

    def ring_is_gone(self) -> bool:
        """Tell whether the ring was closed by its owner, or lost it."""
        try:
            return self._ring.closed or not self._ring._has_owner()
        except RingClosed:  # by another thread, between the two
            return True

    def is_lost(self) -> bool:
        """Tell whether no engine can come back to these cells: the ring is gone, or others took their place."""
        return self.ring_is_gone() or not self.is_current()

    def close(self) -> None:
        """Close this handle; answers that are views stay valid."""
        self.cells.close()


def _remove_if_of_another(ring: Ring, name: str) -> None:
    """Remove a pool that an earlier ring of that name left; its maker may still be alive."""
    descriptor = segment.open_existing(name, ring.group)
    if descriptor is None:
        return
    try:
        told = _core.inspect_segment(descriptor)[1]
        if told is not None and told[-1] not in (0, ring._inode()):
            segment.remove(name, segment.identity(descriptor))
    finally:
        os.close(descriptor)
