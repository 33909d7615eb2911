# Batches: records that this process took, and releases or gives back.

cdef class Batch(_Rows):
    """A run of records that this process holds, as one contiguous view per field.

    ``batch["image"]`` has shape (rows, \\*field shape), over the ring's own memory. The arrays keep the slots, which
    are recycled when the batch was released *and* the last array over them is gone. As a context manager it releases at
    the end. If an exception ends the block, the next taker gets the records (`Ring.take` with ``on_error``).
    """

    cdef bint freed
    cdef bint releases  # even if an exception ends the block

    def _gone(self):
        return "this batch was released; take a new one."

    def __getitem__(self, name):
        return self.ring.layout(name).view(self.held(), self.kind)

    @property
    def tags(self):
        """The tags of the records: an array of shape (rows,), dtype uint64, in its own memory."""
        cdef _Hold hold = self.held()
        cdef cnp.ndarray tags = np.empty(rf_lease_rows(hold.lease), np.uint64)
        rf_lease_tags(hold.lease, <uint64_t *>cnp.PyArray_DATA(tags))
        return tags

    def only_record(self):
        """Return (tag, deliveries) of the only record of a batch.

        The values are those of `records`; this method makes no array.

        Raises
        ------
        RingFeedError
            The batch has more records.
        """
        cdef _Hold hold = self.held()
        cdef rf_record record
        if rf_lease_rows(hold.lease) != 1:
            raise errors.RingFeedError(
                f"ring {self.ring.name!r}: the batch has {rf_lease_rows(hold.lease)} records, not one. Use records.")
        rf_lease_records(hold.lease, &record)
        return record.tag, record.deliveries

    def split(self, rows):
        """Split the batch in two, before any array over it exists. It keeps its first rows; the rest is returned.

        Parameters
        ----------
        rows : int
            How many it keeps: at least 1, and less than it has.

        Raises
        ------
        RingFeedError
            An array over the batch is alive.
        """
        cdef _Hold hold = self.held()
        cdef _Hold rest = _Hold.__new__(_Hold)
        cdef uint32_t kept = int_argument(rows, self.ring.name, "rows to keep", 1, rf_lease_rows(hold.lease) - 1)
        if Py_REFCNT(<PyObject *>hold) <= 2:  # the batch's own and this one
            rest.lease = rf_lease_split(hold.lease, kept)
        if rest.lease == NULL:
            raise errors.RingFeedError(
                f"ring {self.ring.name!r}: a batch cannot be split while arrays over it are alive. Split it first.")
        return batch_of(self.ring, rest, self.releases)

    def window(self, name, start, rows):
        """Return a dense view of rows that begins at a row of the batch and may pass its end.

        Rows behind the batch's end may be half-written, or belong to other records. The view is for models that need a
        fixed number of rows; the caller drops the results of the rows behind the end.

        Parameters
        ----------
        name : str
            A field.
        start : int
            A row of the batch.
        rows : int
            At most the ring's slots.

        Returns
        -------
        numpy.ndarray
            Of shape (rows, *field shape), or (rows, stride in elements) where samples are padded.
        """
        cdef _Hold hold = self.held()
        cdef _Layout layout = self.ring.layout(name)
        cdef uint32_t first = int_argument(start, self.ring.name, "start", 0, rf_lease_rows(hold.lease) - 1)
        cdef uint32_t slots = rf_ring_geometry(rf_lease_ring(hold.lease)).slots
        return layout.window(hold, rf_lease_ring(hold.lease), first, int_argument(rows, self.ring.name, "rows", 1, slots))

    def release(self):
        """Release the slots. They are recycled at once, or with the last array over them.

        Returns
        -------
        bool
            True when they were recycled now; False when arrays over them are still alive.
        """
        cdef _Hold hold = self.hold
        if hold is None:
            return self.freed
        self.hold = None
        # The only reference is ours, and no DLPack tensor, which has its reference in C, is alive.
        self.freed = Py_REFCNT(<PyObject *>hold) == 1 and rf_lease_references(hold.lease) == 1
        return self.freed

    def give_back(self, *, failed=False):
        """Give the records to the next taker: in their order, as if this process had not taken them.

        Arrays over them stay valid; the records are READY again when the last array is gone.

        Parameters
        ----------
        failed : bool
            Count a failure of each record, as if the process had died: from then on each comes alone, and is set aside
            after ``max_deliveries`` failures (`Ring.create`).

        Returns
        -------
        bool
            True when they are READY again now; False when arrays over them are still alive.

        Raises
        ------
        RingFeedError
            The batch was released before.
        """
        cdef _Hold hold = self.held()
        if bool_argument(failed, self.ring.name, "failed"):
            rf_lease_fail(hold.lease)
        else:
            rf_lease_give_back(hold.lease)
        hold = None
        return self.release()

    def _show(self, shown):
        """Count, from now on or no longer, a failure of the record if this process dies."""
        rf_lease_show(self.held().lease, bool(shown))

    @property
    def deliveries(self):
        """How often each record was delivered to a taker, this time included: an array of shape (rows,), dtype uint32.

        More than 1 if an earlier taker died, failed or gave it back; at most 255.
        """
        return self.records["deliveries"].copy()

    @property
    def failures(self):
        """How many takers have failed over the record before; of several records, the largest count."""
        return rf_lease_failures(self.held().lease)

    @property
    def released(self):
        """Was the batch released, by `release` or by the end of its ``with`` block?"""
        return self.hold is None

    cdef int end_with(self, kind) except -1:
        """The work on the batch has ended: by an exception of this kind, or without one (None)."""
        # GeneratorExit is no failure: a generator that is closed after it yielded the batch has delivered it.
        if kind is not None and self.hold is not None and not self.releases and not issubclass(kind, GeneratorExit):
            # An exception that ends a program or a task is no failure of the record.
            self.give_back(failed=issubclass(kind, Exception))
        self.release()
        return 0

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.end_with(kind)


cdef Batch batch_of(RingBase ring, _Hold hold, bint releases):
    cdef Batch batch = Batch.__new__(Batch)
    batch.hold = hold
    batch.ring = ring
    batch.kind = RF_VIEW_ROWS
    batch.releases = releases
    return batch
