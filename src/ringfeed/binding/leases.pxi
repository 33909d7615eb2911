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

    def values(self):
        """Return an iterator over the arrays of the fields, each as by ``[name]``, made as it is asked for."""
        self.held()
        return map(self.__getitem__, self.ring._by_name)

    def items(self):
        """Return an iterator over the pairs of a field's name and its array."""
        self.held()
        return zip(self.ring._by_name, self.values())

    @property
    def rows(self):
        """How many rows it has, as ``len`` says: of a claim at most as many as were asked for.

        Iterating gives the names of the fields, as of a dict.
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
        """What each slot knows: a structured array of tag, producer, deliveries, failures and the times.

        Times are CLOCK_MONOTONIC nanoseconds (``time.monotonic_ns``). `deliveries` (up to 255) above 1 tells
        that a taker died over the record before, or gave it back; `failures` how many died over it, or left the ``with``
        block of their batch by an exception; `released_ns` is when the slot was given back
        before this record was written, 0 for a slot used the first time.
        """
        cdef _Hold hold = self.held()
        cdef cnp.ndarray records = np.empty(rf_lease_rows(hold.lease), RECORD_DTYPE)
        rf_lease_records(hold.lease, <rf_record *>cnp.PyArray_DATA(records))
        return records


# How long a publish waits for slots to which it can copy what somebody may still write into.
cdef int64_t MOST_WAIT_TO_COPY_NS = 10_000_000_000


cdef class Claim(_Rows):
    """Slots that this process is writing.

    ``claim["image"]`` is a view of the slot itself: of the sample's shape, or with a leading axis
    of rows when rows were asked for. As a context manager it publishes at the end and discards on
    an exception. Arrays got from it become read-only when it is published.

    ``claim["image"] = pixels`` checks before it copies. It takes an array of the view's very shape, or one number for
    all of it; of the field's dtype, or one that NumPy casts "safe"; and Python's own numbers where they stay what they
    are. Anything else is a `RecordMismatch`. ``claim["image"][...] = pixels`` is NumPy's own assignment to a view: it
    casts 300 to 44 and repeats a row to fill the shape, and nobody can tell. Use the former.

    A slot holds whatever an older record left there: write all of it, or claim it by ``ring.claim(zero=True)``.

    Notes
    -----
    NumPy cannot revoke what was derived from the claim's arrays: a slice, a reshape, another dtype, a row of
    ``for row in claim["x"]``, a tensor that another library made by DLPack. Each could still write into the slot when a
    taker reads it. So where one lives when the claim is published, the record is copied into another slot and published
    from there; the claim's own slot is kept for the view, and nobody else gets to see what is written there. It costs the
    copy, and a wait while no slot is free: drop such views first where that matters. The claim's own arrays cost nothing.
    What is made of such an array as it is, as ``memoryview(claim["x"])``, ``torch.from_numpy(claim["x"])``, a writable view by
    ``numpy.lib.stride_tricks`` or one of a subclass, cannot be told from a variable that keeps the array: write no more through it.
    """

    cdef cnp.ndarray tag_array
    cdef uint64_t single_tag
    cdef list given
    cdef str outcome
    cdef bint is_written_through  # by an array or tensor that lives, and that nobody could make read-only

    def _gone(self):
        return f"this claim was {self.outcome} and can not be written any more; claim a new one."

    cdef cnp.ndarray array(self, name, rf_view kind):
        """The one array of a field: asked for a million times in a loop, it is made once."""
        cdef _Hold hold = self.held()
        cdef _Layout layout = self.ring.layout(name)
        cdef Py_ssize_t place = 2 * layout.index + (kind == RF_VIEW_PADDED)
        cdef Py_ssize_t places = 2 * len(self.ring.layouts)
        if self.given is None:
            self.given = [None] * (2 * places)
        cdef object made = self.given[place]
        cdef bint is_spare
        cdef cnp.ndarray base
        if made is None:
            base = layout.base_for(hold, kind, &is_spare)
            if is_spare:
                made = layout.spare_array
                layout.spare_array = None
                (<PyArrayObject_fields *>made).data = (<PyArrayObject_fields *>base).data
                cnp.PyArray_ENABLEFLAGS(<cnp.ndarray>made, cnp.NPY_ARRAY_WRITEABLE)
            else:
                made = array_view(base, NULL, NULL)
            self.given[places + place] = base
            self.given[place] = made
        return made

    def __getitem__(self, name):
        return self.array(name, self.kind)

    def __setitem__(self, name, value):
        cdef cnp.ndarray target = self.array(name, self.kind)
        cdef _Layout layout = self.ring.layout(name)
        if type(value) is cnp.ndarray and layout.is_for(<cnp.ndarray>value, target):
            if value is not target:  # as behind `slot["x"] += 1`
                cnp.PyArray_CopyInto(target, <cnp.ndarray>value)
        else:
            assign(destination_of(layout, self.ring.name), target, value)

    def padded(self, name):
        """As `Batch.padded`, to be written; a claim of one slot has one row."""
        return self.array(name, RF_VIEW_PADDED)

    @property
    def tag(self):
        """The 64-bit tag that travels with the record; that of the first row for several."""
        return self.single_tag if self.tag_array is None else int(self.tag_array[0])

    @tag.setter
    def tag(self, value):
        self.held()
        self.single_tag = tag_argument(value, self.ring.name)
        if self.tag_array is not None:
            self.tag_array[:] = self.single_tag

    @property
    def tags(self):
        """The tags of the rows: a writable array of shape (rows,), dtype uint64.

        ``claim.tags = numbers`` takes whole numbers from 0 to 2**64 - 1, one for each row or one for all.
        """
        if self.tag_array is None:
            self.tag_array = np.full(len(self), self.single_tag, np.uint64)
        return self.tag_array

    @tags.setter
    def tags(self, values):
        assign_tags(self.tags, values, self.ring.name)

    cdef bint end(self, _Hold hold, str outcome) except -1:
        """Give the slots up, once. Returns whether someone else still looks at them."""
        cdef object array
        cdef Py_ssize_t place, places, derived
        cdef cnp.ndarray base
        cdef Py_ssize_t others = Py_REFCNT(<PyObject *>hold) - 2 - hold.exporters  # but for ours, and the caller's
        if self.hold is not hold:
            self.held()  # ended meanwhile, by another thread or a signal handler: says so
        self.hold = None
        self.outcome = outcome
        if self.given is not None:
            places = len(self.given) // 2
            for place in range(places):
                array = self.given[place]
                if array is not None:
                    base = self.given[places + place]
                    cnp.PyArray_CLEARFLAGS(<cnp.ndarray>array, cnp.NPY_ARRAY_WRITEABLE)
                    cnp.PyArray_CLEARFLAGS(base, cnp.NPY_ARRAY_WRITEABLE)
                    derived = Py_REFCNT(<PyObject *>base) - 3  # but for the list's, the array's and ours
                    others += derived - 1  # that of the base is known
                    if (derived == 0 and Py_REFCNT(<PyObject *>array) == 2 and place % 2 == 0
                            and self.kind == RF_VIEW_SAMPLE):
                        (<_Layout>self.ring.layouts[place // 2]).keep_spare(hold, base, <cnp.ndarray>array)
            array = base = self.given = None
        cdef Py_ssize_t waiting = make_read_only(hold)  # first: capsules that nobody else has go, with their references
        others += rf_lease_references(hold.lease) - 1 - waiting
        self.is_written_through = others > 0
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
        RingFull
            A view derived from the claim's arrays lives (see Notes of `Claim`), and no slot was free for the copy for
            10 s; the rest of the claim is discarded.
        RingFeedError
            The claim was published or discarded before.
        """
        cdef _Hold hold = self.held()
        cdef uint32_t claimed = rf_lease_rows(hold.lease), count = claimed
        cdef uint64_t *tags = &self.single_tag
        cdef rf_status status
        cdef bint seen
        if rows is not None:
            count = int_argument(rows, self.ring.name, "rows to publish", 0, claimed)
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
        if self.is_written_through and count:
            try:
                status = <rf_status>self.publish_copy(hold, count, tags)
            except BaseException:
                self.outcome = "discarded"
                rf_set_apart(hold.lease)  # takers must not wait for it, though a view keeps the slots
                raise
        else:
            status = rf_publish(hold.lease, count, tags, seen)
        if status != RF_OK:
            self.outcome = "lost"
            fail(self.ring, status, 0, None)

    cdef int publish_copy(self, _Hold hold, uint32_t count, uint64_t *tags) except -1:
        """Publish the records from other slots, for somebody may still write into these. Returns a status."""
        cdef rf_lease *copy = NULL
        cdef rf_status status = RF_OK
        cdef uint32_t row = 0, rows
        cdef _Wait wait = None
        cdef bint is_all = rf_lease_rows(hold.lease) == rf_ring_geometry(self.ring.handle).slots
        cdef int64_t until = 0 if is_all else rf_now_ns() + MOST_WAIT_TO_COPY_NS
        while row < count:
            status = rf_claim_copy(hold.lease, row, count - row, &copy)
            if status == RF_FULL and rf_now_ns() >= until:
                raise errors.RingFull(
                    f"ring {self.ring.name!r}: a slice, or another array or tensor made of the claim's arrays, is alive "
                    f"and could still write into the slots, and no slot was free for a copy{'' if is_all else ' for 10 s'}: "
                    f"{row} of {count} rows were published. Drop such views before you publish, or add slots.")
            if status == RF_FULL:
                PyErr_CheckSignals()
                wait = noting_stalls(wait, (self.ring,), WAITS_TO_CLAIM, "a publish beside a view that is alive")
                with nogil:
                    rf_recover(self.ring.handle)
                    usleep(1000)
                continue
            if status != RF_OK:
                return status
            rows = rf_lease_rows(copy)
            status = rf_publish(copy, rows, NULL if tags == NULL else tags + row, False)
            rf_lease_drop(copy)
            if status != RF_OK:
                return status
            row += rows
        rf_set_apart(hold.lease)
        return RF_OK

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
    As a context manager it releases at the end. Where an exception ends the block, the records are there again for
    whoever takes next (`Ring.take` with ``on_error``).
    """

    cdef bint freed
    cdef bint releases  # also where an exception ends the block

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
        cdef uint32_t kept = int_argument(rows, self.ring.name, "rows to keep", 1, rf_lease_rows(hold.lease) - 1)
        if Py_REFCNT(<PyObject *>hold) <= 2:  # the batch's own and this one
            rest.lease = rf_lease_split(hold.lease, kept)
        if rest.lease == NULL:
            raise errors.RingFeedError(
                f"ring {self.ring.name!r}: a batch can not be split while arrays over it are alive. Split it first.")
        batch.hold = rest
        batch.ring = self.ring
        batch.kind = self.kind
        batch.releases = self.releases
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
        cdef uint32_t first = int_argument(start, self.ring.name, "start", 0, rf_lease_rows(hold.lease) - 1)
        cdef uint32_t slots = rf_ring_geometry(rf_lease_ring(hold.lease)).slots
        return layout.window(hold, rf_lease_ring(hold.lease), first, int_argument(rows, self.ring.name, "rows", 1, slots))

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

    def give_back(self, *, failed=False):
        """Let go of the records, for whoever takes next: in their order, as if this process had not taken them.

        Arrays over them stay valid; with the last of them the records are there again.

        Parameters
        ----------
        failed : bool
            Count them as failed over, as when the process had died: from then on each comes alone, and is set aside
            after ``max_deliveries`` of that (`Ring.create`).

        Returns
        -------
        bool
            True when they are there again now; False when arrays over them are still alive.

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
        """Say that from now on, or no longer, this process fails over the record by dying."""
        rf_lease_show(self.held().lease, bool(shown))

    @property
    def deliveries(self):
        """How often each record was handed to a taker, this time included: an array of shape (rows,), dtype uint32.

        More than 1 where an earlier taker died, failed or gave it back; at most 255.
        """
        return self.records["deliveries"].copy()

    @property
    def failures(self):
        """How many takers have failed over its record before; of several records, the most of any."""
        return rf_lease_failures(self.held().lease)

    @property
    def released(self):
        """Was `release` called (or the ``with`` block left)?"""
        return self.hold is None

    cdef int end_with(self, kind) except -1:
        """The work on it is over, by an exception of that kind or without one."""
        # A generator that is closed after it has yielded the batch has delivered it, as the body of a loop that breaks.
        if kind is not None and self.hold is not None and not self.releases and not issubclass(kind, GeneratorExit):
            # What ends a program or a task is no fault of the record.
            self.give_back(failed=issubclass(kind, Exception))
        self.release()
        return 0

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.end_with(kind)


cdef extern from "Python.h":
    # As cpython.pycapsule has it, but without a look for errors: one may be on its way.
    void *context_of "PyCapsule_GetContext" (object capsule) noexcept


cdef void end_of_loop(object witness) noexcept:
    """A loop over batches has ended: by an exception where one is on its way, which only a destructor in C sees."""
    cdef PyObject *kind
    cdef PyObject *error
    cdef PyObject *traceback
    cdef PyObject *context = <PyObject *>context_of(witness)
    cdef Batch batch
    if context == NULL:
        return
    PyErr_Fetch(&kind, &error, &traceback)
    batch = <Batch>context
    Py_DECREF(batch)  # the witness's own
    batch.end_with(<object>kind if kind != NULL else None)
    batch = None
    PyErr_Restore(kind, error, traceback)


@cython.final
cdef class Batches:
    """An iterator over the batches of a ring, as `Ring.batches` makes it."""

    cdef object take  # None: it is over
    cdef object witness  # of the batch that the loop has: see end_of_loop

    def __init__(self, take):
        self.take = take
        self.witness = PyCapsule_New(<void *>self, b"ringfeed.loop", end_of_loop)

    def __iter__(self):
        return self

    def __next__(self):
        cdef Batch batch
        self.done()
        if self.take is None:
            raise StopIteration
        try:
            batch = self.take()
        except errors.RingFinished:
            self.take = None
            raise StopIteration from None
        Py_INCREF(batch)
        PyCapsule_SetContext(self.witness, <void *>batch)
        return batch

    cdef int done(self) except -1:
        """The loop came back for more: what it had is done with."""
        cdef void *context = context_of(self.witness)
        cdef Batch batch
        if context != NULL:
            PyCapsule_SetContext(self.witness, NULL)
            batch = <Batch>context
            Py_DECREF(batch)
            batch.release()
        return 0

    def close(self):
        """Release the batch that the loop has, and end."""
        self.take = None
        self.done()
