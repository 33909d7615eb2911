# Claims and batches: leases as Python sees them.

cdef class _Rows:
    """What claims and batches have in common: fields by name, over slots that are held."""

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
            f"a {type(self).__name__} is memory that this process holds and goes nowhere else; send copies of its "
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

    def padded(self, name):
        """Return the field as a dense array that includes the padding behind each sample.

        Parameters
        ----------
        name : str
            A field.

        Returns
        -------
        numpy.ndarray
            Of shape (rows, stride in elements): C-contiguous and starting on 64 bytes whatever the
            sample's shape. The sample is ``padded[:, :size].reshape(rows, *shape)``.
        """
        return self.ring.layout(name).view(self.held(), RF_VIEW_PADDED)

    def dlpack(self, name, *, padded=False):
        """Return a DLPack exporter of a field over the ring's own memory.

        Parameters
        ----------
        name : str
            A field.
        padded : bool
            As `padded`: dense, with the padding, for libraries that take no strides (TensorFlow).

        Returns
        -------
        DLPackView
            An object with ``__dlpack__``.
        """
        return make_dlpack_view(self.held(), self.ring.layout(name), RF_VIEW_PADDED if padded else self.kind)

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
        """What each slot knows: a structured array of tag, producer, deliveries and the times.

        Times are CLOCK_MONOTONIC nanoseconds (``time.monotonic_ns``). `deliveries` above 1 tells
        that a taker died over the record before, or gave it back unseen; `released_ns` is when the slot was given back
        before this record was written, 0 for a slot used the first time.
        """
        cdef _Hold hold = self.held()
        cdef cnp.ndarray records = np.empty(rf_lease_rows(hold.lease), RECORD_DTYPE)
        rf_lease_records(hold.lease, <rf_record *>cnp.PyArray_DATA(records))
        return records


cdef class Claim(_Rows):
    """Slots that this process is writing.

    ``claim["image"]`` is a view of the slot itself: of the sample's shape, or with a leading axis
    of rows when rows were asked for. As a context manager it publishes at the end and discards on
    an exception. Arrays got from it become read-only when it is published.
    """

    cdef cnp.ndarray tag_array
    cdef uint64_t single_tag
    cdef list given
    cdef str outcome

    def _gone(self):
        return f"this claim was {self.outcome} and can not be written any more; claim a new one."

    cdef cnp.ndarray array(self, name, rf_view kind):
        """The one array of a field: asked for a million times in a loop, it is made once."""
        cdef _Hold hold = self.held()
        cdef _Layout layout = self.ring.layout(name)
        cdef Py_ssize_t place = 2 * layout.index + (kind == RF_VIEW_PADDED)
        if self.given is None:
            self.given = [None] * (2 * len(self.ring.layouts))
        cdef object made = self.given[place]
        if made is None:
            made = layout.view(hold, kind)
            self.given[place] = made
        return made

    def __getitem__(self, name):
        return self.array(name, self.kind)

    def __setitem__(self, name, value):
        self.array(name, self.kind)[...] = value

    def padded(self, name):
        """As `Batch.padded`, to be written; a claim of one slot has one row."""
        return self.array(name, RF_VIEW_PADDED)

    @property
    def rows(self):
        """Rows claimed: at least 1, at most as many as were asked for."""
        return len(self)

    @property
    def tag(self):
        """The 64-bit tag that travels with the record; that of the first row for several."""
        return self.single_tag if self.tag_array is None else int(self.tag_array[0])

    @tag.setter
    def tag(self, value):
        self.held()
        self.single_tag = tag_bits(value, self.ring.name)
        if self.tag_array is not None:
            self.tag_array[:] = self.single_tag

    @property
    def tags(self):
        """The tags of the rows: a writable array of shape (rows,), dtype uint64."""
        if self.tag_array is None:
            self.tag_array = np.full(len(self), self.single_tag, np.uint64)
        return self.tag_array

    @tags.setter
    def tags(self, values):
        self.tags[:] = values

    cdef bint end(self, _Hold hold, str outcome) except -1:
        """Give the slots up, once. Returns whether someone else still looks at them."""
        cdef object array
        if self.hold is not hold:
            self.held()  # ended meanwhile, by another thread or a signal handler: says so
        self.hold = None
        self.outcome = outcome
        if self.given is not None:
            for array in self.given:
                if array is not None:
                    cnp.PyArray_CLEARFLAGS(<cnp.ndarray>array, cnp.NPY_ARRAY_WRITEABLE)
            array = self.given = None
        return Py_REFCNT(<PyObject *>hold) > 1  # the caller's own reference is the one

    def publish(self, rows=None):
        """Hand the records to takers, in order.

        Parameters
        ----------
        rows : int, optional
            Only the first so many; the others are discarded. All by default.

        Raises
        ------
        SlotLost
            The claim was taken back, because this process had been found dead.
        RingFeedError
            The claim was published or discarded before.
        """
        cdef _Hold hold = self.held()
        cdef uint32_t claimed = rf_lease_rows(hold.lease), count = claimed
        cdef uint64_t *tags = &self.single_tag
        cdef rf_status status
        cdef bint seen
        if rows is not None:
            count = whole(rows, self.ring.name, "rows to publish", 0, claimed)
        if self.tag_array is None and claimed > 1:
            if self.single_tag == 0:
                tags = NULL
            else:
                self.tags
        seen = self.end(hold, "published")
        if self.tag_array is not None:
            if cnp.PyArray_NBYTES(self.tag_array) < claimed * <Py_ssize_t>sizeof(uint64_t):
                raise ValueError(f"ring {self.ring.name!r}: the claim's tags were resized; leave them {claimed} long.")
            tags = <uint64_t *>cnp.PyArray_DATA(self.tag_array)
        status = rf_publish(hold.lease, count, tags, seen)
        if status != RF_OK:
            self.outcome = "lost"
            fail(self.ring, status, 0, None)

    def discard(self):
        """Give the slots back unpublished. Does nothing when that, or publishing, was done before."""
        if self.hold is not None:
            self.end(self.hold, "discarded")

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if self.hold is None:
            return
        if kind is None:
            self.publish()
        else:
            self.discard()


cdef class Batch(_Rows):
    """A run of records that this process holds, as one contiguous view per field.

    ``batch["image"]`` has shape (rows, \\*field shape), over the ring's own memory. The arrays keep
    the slots: they are recycled when the batch was released *and* the last array over them is gone.
    As a context manager it releases at the end.
    """

    cdef bint freed

    def _gone(self):
        return "this batch was released; take a new one."

    def __getitem__(self, name):
        return self.ring.layout(name).view(self.held(), self.kind)

    @property
    def tags(self):
        """The tags of the records: an array of shape (rows,), dtype uint64, of its own memory."""
        cdef _Hold hold = self.held()
        cdef cnp.ndarray tags = np.empty(rf_lease_rows(hold.lease), np.uint64)
        rf_lease_tags(hold.lease, <uint64_t *>cnp.PyArray_DATA(tags))
        return tags

    def only_record(self):
        """Return what the slot of a batch of one record knows that one asks for each time: (tag, deliveries).

        As in `records`, without an array made for it.

        Raises
        ------
        RingFeedError
            The batch has more records.
        """
        cdef _Hold hold = self.held()
        cdef rf_record record
        if rf_lease_rows(hold.lease) != 1:
            raise errors.RingFeedError(
                f"ring {self.ring.name!r}: a batch of {rf_lease_rows(hold.lease)} records has no only one. Use records.")
        rf_lease_records(hold.lease, &record)
        return record.tag, record.deliveries

    def split(self, rows):
        """Cut the batch in two, before anyone has looked at it: it keeps its first rows, the others are returned.

        Parameters
        ----------
        rows : int
            That it keeps: at least 1, less than it has.

        Raises
        ------
        RingFeedError
            An array over the batch is alive.
        """
        cdef _Hold hold = self.held()
        cdef _Hold rest = _Hold.__new__(_Hold)
        cdef Batch batch = Batch.__new__(Batch)
        cdef uint32_t kept = whole(rows, self.ring.name, "rows to keep", 1, rf_lease_rows(hold.lease) - 1)
        if Py_REFCNT(<PyObject *>hold) <= 2:  # the batch's own and this one
            rest.lease = rf_lease_split(hold.lease, kept)
        if rest.lease == NULL:
            raise errors.RingFeedError(
                f"ring {self.ring.name!r}: a batch can not be split while arrays over it are alive. Split it first.")
        batch.hold = rest
        batch.ring = self.ring
        batch.kind = self.kind
        return batch

    def window(self, name, start, rows):
        """Return a dense view of rows from one of the batch's on, which may pass its end.

        What lies behind the batch's last row may be half-written, or of other records. It is for models that want a
        certain number of rows: the results of those behind are dropped.

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
        cdef uint32_t first = whole(start, self.ring.name, "start", 0, rf_lease_rows(hold.lease) - 1)
        cdef uint32_t slots = rf_ring_geometry(self.ring.handle).slots
        return layout.window(hold, self.ring.handle, first, whole(rows, self.ring.name, "rows", 1, slots))

    def release(self):
        """Let go of the slots. They are recycled at once, or with the last array over them.

        Returns
        -------
        bool
            True when they were recycled now; False when arrays over them are still alive.
        """
        cdef _Hold hold = self.hold
        if hold is None:
            return self.freed
        self.hold = None
        # The last reference is our own, and DLPack tensors, which have theirs in C, are gone.
        self.freed = Py_REFCNT(<PyObject *>hold) == 1 and rf_lease_references(hold.lease) == 1
        return self.freed

    @property
    def released(self):
        """Was `release` called (or the ``with`` block left)?"""
        return self.hold is None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.release()
