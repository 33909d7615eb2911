# Rows of slots that this process holds: what claims and batches have in common.

cdef class _Rows:
    """Fields by name, over slots that this process holds."""

    cdef readonly RingBase ring
    cdef _Hold hold
    cdef rf_view kind

    cdef _Hold held(self):
        if self.hold is None:
            raise errors.RingFeedError(f"ring {self.ring.name!r}: {self._gone()}")
        return self.hold

    def _gone(self):
        raise NotImplementedError

    def __init__(self):
        raise TypeError(f"{type(self).__name__} objects are made by Ring.claim, Ring.take and Ring.batches.")

    def __reduce__(self):
        raise TypeError(
            f"a {type(self).__name__} is memory that this process holds, and cannot be pickled. Send copies of its "
            "arrays, or the ring, which arrives attached.")

    def __repr__(self):
        what = "ended" if self.hold is None else f"{len(self)} rows"
        where = "no ring" if self.ring is None else f"ring {self.ring.name!r}"
        return f"<{type(self).__name__} of {where}, {what}>"

    def __len__(self):
        return rf_lease_rows(self.held().lease)

    def __iter__(self):
        return iter(self.ring._by_name)

    def __contains__(self, name):
        return name in self.ring._by_name

    def keys(self):
        """Return the names of the fields."""
        return self.ring._by_name.keys()

    def values(self):
        """Return an iterator over the arrays of the fields; it makes each array when it reaches the field."""
        self.held()
        return map(self.__getitem__, self.ring._by_name)

    def items(self):
        """Return an iterator over the pairs of a field's name and its array."""
        self.held()
        return zip(self.ring._by_name, self.values())

    @property
    def rows(self):
        """Number of rows, as ``len`` returns it. A claim has at most as many as `Ring.claim` was asked for.

        Iterating gives the names of the fields, as with a dict.
        """
        return rf_lease_rows(self.held().lease)

    def padded(self, name):
        """Return the field as a dense array that includes the padding behind each sample.

        Parameters
        ----------
        name : str
            A field.

        Returns
        -------
        numpy.ndarray
            Of shape (rows, stride in elements): C-contiguous, and on a boundary of 64 bytes for every
            sample shape. The sample is ``padded[:, :size].reshape(rows, *shape)``.
        """
        return self.ring.layout(name).view(self.held(), RF_VIEW_PADDED)

    def dlpack(self, name, *, padded=False):
        """Return a DLPack exporter of a field over the ring's own memory.

        Parameters
        ----------
        name : str
            A field.
        padded : bool
            As `padded`: dense, with the padding, for libraries without strides (TensorFlow).

        Returns
        -------
        DLPackView
            An object with ``__dlpack__``.
        """
        return make_dlpack_view(self.held(), self.ring.layout(name), RF_VIEW_PADDED if bool_argument(padded, self.ring.name, "padded") else self.kind)

    cdef _Layout only_field(self):
        if len(self.ring.layouts) != 1:
            raise BufferError(
                f"ring {self.ring.name!r} has the fields {', '.join(self.ring._by_name)}: "
                "export one of them, as in batch.dlpack(name).")
        return self.ring.layouts[0]

    def __dlpack__(self, **options):
        """Export the only field of the record; see `DLPackView`."""
        return make_dlpack_view(self.held(), self.only_field(), self.kind).__dlpack__(**options)

    def __dlpack_device__(self):
        """Return (1, 0): the CPU."""
        return (1, 0)

    @property
    def records(self):
        """What each slot says of its record: a structured array of tag, producer, deliveries, failures and the times.

        Times are CLOCK_MONOTONIC nanoseconds (``time.monotonic_ns``). `deliveries` (up to 255) is above 1 if an earlier
        taker died over the record or gave it back. `failures` counts the takers that died over it, or left the ``with``
        block of their batch by an exception. `released_ns` is when the slot was released before this record was
        written; it is 0 for a slot in its first use.
        """
        cdef _Hold hold = self.held()
        cdef cnp.ndarray records = np.empty(rf_lease_rows(hold.lease), RECORD_DTYPE)
        rf_lease_records(hold.lease, <rf_record *>cnp.PyArray_DATA(records))
        return records
