"""The reply pool of a ring: its first engine creates it, and clients and later engines open it.

It may not know models, nor TensorFlow. The pool is a segment of its own, ``NAME.replies``, whose cells each hold the
outputs of one row. It names its ring by the inode, so that the pool of an earlier ring of that name is recognized.
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
"""The last field of a pool: the text of an error. It gets another name if an output has this name."""


@dataclass(frozen=True)
class PoolSettings:
    """The settings that the engines of a ring share with its clients.

    Attributes
    ----------
    single_output : bool
        An answer is the only output, not a dict of outputs.
    max_queue_size : int
        The most requests that wait in the ring; 0 for as many as the ring has slots.
    rejects : bool
        Whether further requests are rejected; otherwise they wait for room.
    """

    single_output: bool = False
    max_queue_size: int = 0
    rejects: bool = False

    @property
    def user_data(self) -> int:
        """The settings as the 64 bits of the pool's user data."""
        return self.single_output | self.rejects << 1 | self.max_queue_size << 32

    @classmethod
    def of(cls, user_data: int) -> PoolSettings:
        """Return the settings in a pool's user data."""
        return cls(bool(user_data & 1), user_data >> 32, bool(user_data & 2))


class ReplyPool(_core.PoolBase):
    """The reply cells of one ring, open in this process.

    Attributes
    ----------
    outputs : RecordSpec
        The fields of an answer.
    settings : PoolSettings
    """

    outputs: RecordSpec
    settings: PoolSettings
    _ring: Ring

    @classmethod
    def join(cls, ring: Ring) -> ReplyPool | None:
        """Open the ring's pool; None if the ring has none (yet)."""
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
                return None  # not initialized, or of an earlier ring of that name
        except RingClosed:
            return None
        return cls._of(cells, ring)

    @classmethod
    def wait_for(cls, ring: Ring, wait_seconds: float) -> ReplyPool:
        """Open the ring's pool, and wait until an engine has created it.

        Raises
        ------
        RingNotFound
            No engine created it within `wait_seconds`.
        RingClosed
            The ring is closed.
        """
        deadline = time.monotonic() + wait_seconds
        while (pool := cls.join(ring)) is None:
            if ring.closed:
                raise RingClosed(f"ring {ring.name!r} is closed: by close() here, or its owner closed it or died.")
            if time.monotonic() >= deadline:
                raise RingNotFound(
                    f"ring {ring.name!r} is there, but no engine has served it yet (its last stage, where it has "
                    "several). Start one: ringfeed.Engine(ring, model).start(); or wait longer."
                )
            time.sleep(0.002)
        return pool

    @classmethod
    def make(cls, ring: Ring, outputs: FieldsLike, cells: int, participants: int, settings: PoolSettings) -> ReplyPool:
        """Create the ring's pool, or open the pool that another engine created.

        Parameters
        ----------
        ring : Ring
            It must still have its name.
        outputs : mapping of str to (shape, dtype)
            The fields of an answer, without the axis of rows.
        cells : int
            The least number of cells; it is rounded up to whole pages.
        participants : int
            The most engines and clients at a time.
        settings : PoolSettings
            All engines of a ring have the same settings.

        Raises
        ------
        LayoutMismatch
            A living engine answers with other outputs, or has other settings.
        RingNotFound
            The ring's name was removed.
        AccessRefused
            The file of the pool's name is another user's, or is not shared with the ring's group alone.
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
                    f"ring {ring.name!r}: its replies {name!r} stay uninitialized. Remove them: ringfeed.clean()."
                )
            time.sleep(0.002)

    @classmethod
    def _create(
        cls, ring: Ring, name: str, outputs: RecordSpec, cells: int, participants: int, settings: PoolSettings
    ) -> ReplyPool | None:
        """Create the pool; None if another process is faster."""
        try:
            descriptor = segment.open_new(name)
        except RingExists:
            _remove_of_earlier_ring(ring, name)
            return None
        except AccessRefused:
            if ring.group is None:
                raise
            return None  # perhaps an engine of another user in the group created it: `join` finds out
        which = segment.identity(descriptor)
        fields = {field.name: (field.shape, field.dtype) for field in outputs.values()}
        text = next(each for number in itertools.count() if (each := f"{TEXT_FIELD}{'_' * number}") not in fields)
        spec = RecordSpec({**fields, text: ((_core.TEXT_BYTES,), "uint8")})
        created = _core.RingBase.__new__(_core.RingBase)
        try:
            segment.share(descriptor, ring.group, name)
            options = (spec, cells, participants, ring.redelivers, False, None)
            created._create(name, descriptor, *options, ring_inode=ring._inode(), user_data=settings.user_data)
            if segment.is_being_removed(name, created.descriptor):
                created.close()
                return None
        except BaseException:
            segment.remove(name, which)
            raise
        return cls._of(created, ring)

    @classmethod
    def _of(cls, cells: _core.RingBase, ring: Ring) -> ReplyPool:
        pool = cls.__new__(cls)
        pool._ring = ring
        fields = list(cells.spec.values())[:-1]
        pool.settings = PoolSettings.of(cells._user_data())
        pool._open(cells, pool.settings.single_output)
        pool.outputs = RecordSpec.of(fields)
        return pool

    def fits(self, outputs: RecordSpec, settings: PoolSettings) -> bool:
        """Return whether the pool has these outputs and settings."""
        return list(self.outputs.values()) == list(outputs.values()) and self.settings == settings

    def is_current(self) -> bool:
        """Return whether the ring's name still leads to this pool."""
        return segment.identity_of(segment.replies_name(self._ring.name)) == self.cells._identity()

    def was_replaced(self) -> bool:
        """Return whether the ring's name leads to another pool. A pool that only lost its name is not replaced."""
        current = segment.identity_of(segment.replies_name(self._ring.name))
        return current is not None and current != self.cells._identity()

    def lost_names(self) -> list[str]:
        """Return which of the two names in /dev/shm, the ring's and the pool's, were removed: new clients need both."""
        names = {self._ring.name: self._ring._identity(), segment.replies_name(self._ring.name): self.cells._identity()}
        return [name for name in names if segment.identity_of(name) is None]

    def ring_is_gone(self) -> bool:
        """Return whether the ring's owner closed it or died."""
        try:
            return self._ring.closed or not self._ring._has_owner()
        except RingClosed:  # another thread closed it between the two checks
            return True

    def is_lost(self) -> bool:
        """Return whether no engine can serve this pool again: its ring is gone, or another pool replaced it."""
        return self.ring_is_gone() or not self.is_current()

    def close(self) -> None:
        """Close this handle. Answers that are views stay valid."""
        self.cells.close()


def _remove_of_earlier_ring(ring: Ring, name: str) -> None:
    """Remove the pool of an earlier ring of that name; its creator may still be alive."""
    descriptor = segment.open_existing(name, ring.group)
    if descriptor is None:
        return
    try:
        contents = _core.inspect_segment(descriptor)[1]
        if contents is not None and contents[-1] not in (0, ring._inode()):
            segment.remove(name, segment.identity(descriptor))
    finally:
        os.close(descriptor)
