# Claims: slots that this process writes, and publishes or discards.

# How long a publish waits for free slots, when it copies records that a view could still change.
cdef int64_t MOST_WAIT_TO_COPY_NS = 10_000_000_000


cdef class Claim(_Rows):
    """Slots that this process writes.

    ``claim["image"]`` is a view of the slot itself: of the sample's shape, or with a leading axis of rows if the claim
    was made with `rows`. As a context manager it publishes at the end, and discards on an exception. Its arrays become
    read-only when it is published.

    ``claim["image"] = pixels`` checks before it copies. It accepts an array of the view's exact shape, or one number for
    all of it. The dtype is the field's, or one that NumPy casts "safe". Python's own numbers are accepted if the field
    holds them unchanged. Anything else is a `RecordMismatch`. ``claim["image"][...] = pixels`` is NumPy's own assignment
    to a view: it casts 300 to 44 and repeats a row to fill the shape, without an error. Use the former.

    A slot still holds the bytes of an older record: write all of it, or claim it by ``ring.claim(zero=True)``.

    Notes
    -----
    NumPy cannot revoke an object derived from the claim's arrays: a slice, a reshape, another dtype, a row of
    ``for row in claim["x"]``, a tensor that another library made by DLPack. Each could still write into the slot while a
    taker reads it. If one is alive when the claim is published, the record is copied into another slot and published
    there. The claim's own slot is kept for the view, and no other process sees it. This costs the copy, and a wait while
    no slot is free: drop such views first where that matters. The claim's own arrays cost nothing.

    Some objects refer to such an array itself: ``memoryview(claim["x"])``, ``torch.from_numpy(claim["x"])``, a writable
    view by ``numpy.lib.stride_tricks`` or of a subclass. They look the same as a variable that keeps the array. Do not
    write through them after the claim was published.
    """

    cdef cnp.ndarray tag_array
    cdef uint64_t single_tag
    cdef list given
    cdef str outcome
    cdef bint is_writable_by_views  # an array or tensor is alive that could not be made read-only

    def _gone(self):
        return f"this claim was {self.outcome} and cannot be written any more; claim a new one."

    cdef cnp.ndarray array(self, name, rf_view kind):
        """The one array of a field. It is made once, even if a loop asks for it a million times."""
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
            if value is not target:  # `slot["x"] += 1` assigns the target itself
                cnp.PyArray_CopyInto(target, <cnp.ndarray>value)
        else:
            assign(destination_of(layout, self.ring.name), target, value)

    def padded(self, name):
        """As `Batch.padded`, but writable; a claim of one slot has one row."""
        return self.array(name, RF_VIEW_PADDED)

    @property
    def tag(self):
        """The 64-bit tag that travels with the record; with several rows, that of the first."""
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

        ``claim.tags = numbers`` accepts integers from 0 to 2**64 - 1: one for each row, or one for all.
        """
        if self.tag_array is None:
            self.tag_array = np.full(len(self), self.single_tag, np.uint64)
        return self.tag_array

    @tags.setter
    def tags(self, values):
        assign_tags(self.tags, values, self.ring.name)

    cdef bint end(self, _Hold hold, str outcome) except -1:
        """End the claim, once. Returns whether another object still refers to the slots."""
        cdef object array
        cdef Py_ssize_t place, places, derived
        cdef cnp.ndarray base
        cdef Py_ssize_t others = Py_REFCNT(<PyObject *>hold) - 2 - hold.exporters  # not counting ours and the caller's
        if self.hold is not hold:
            self.held()  # raises: another thread or a signal handler has ended the claim
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
                    derived = Py_REFCNT(<PyObject *>base) - 3  # not counting the list's, the array's and ours
                    others += derived - 1  # the base's own is known
                    if (derived == 0 and Py_REFCNT(<PyObject *>array) == 2 and place % 2 == 0
                            and self.kind == RF_VIEW_SAMPLE):
                        (<_Layout>self.ring.layouts[place // 2]).keep_spare(hold, base, <cnp.ndarray>array)
            array = base = self.given = None
        cdef Py_ssize_t waiting = make_read_only(hold)  # first: it drops capsules that only we refer to
        others += rf_lease_references(hold.lease) - 1 - waiting
        self.is_writable_by_views = others > 0
        return Py_REFCNT(<PyObject *>hold) > 1  # one is the caller's

    def publish(self, rows=None):
        """Hand the records to takers, in order.

        Parameters
        ----------
        rows : int, optional
            Publish only this many, from the first row on, and discard the others. By default all.

        Raises
        ------
        SlotLost
            The claim was taken back, because another process had found this one dead.
        RingFull
            A view derived from the claim's arrays is alive (see Notes of `Claim`), and no slot became free for the copy
            within 10 s. The rest of the claim is discarded. The error's `resource` is ``"slots"``.
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
        if self.is_writable_by_views and count:
            try:
                status = <rf_status>self.publish_copy(hold, count, tags)
            except BaseException:
                self.outcome = "discarded"
                rf_set_apart(hold.lease)  # a view keeps the slots, and takers must not wait for them
                raise
        else:
            status = rf_publish(hold.lease, count, tags, seen)
        if status != RF_OK:
            self.outcome = "lost"
            fail(self.ring, status, 0, None)

    cdef int publish_copy(self, _Hold hold, uint32_t count, uint64_t *tags) except -1:
        """Publish copies of the records, because a view could still change these slots. Returns a status."""
        cdef rf_lease *copy = NULL
        cdef rf_status status = RF_OK
        cdef uint32_t row = 0, rows
        cdef _StallWatch watch = None
        cdef bint is_all = rf_lease_rows(hold.lease) == rf_ring_geometry(self.ring.handle).slots
        cdef int64_t until = 0 if is_all else rf_now_ns() + MOST_WAIT_TO_COPY_NS
        while row < count:
            status = rf_claim_copy(hold.lease, row, count - row, &copy)
            if status == RF_FULL and rf_now_ns() >= until:
                raise errors.RingFull(
                    f"ring {self.ring.name!r}: a slice, or another array or tensor made of the claim's arrays, is alive "
                    f"and could still write into the slots, and no slot was free for a copy{'' if is_all else ' for 10 s'}: "
                    f"{row} of {count} rows were published. Drop such views before you publish, or add slots.",
                    resource="slots")
            if status == RF_FULL:
                PyErr_CheckSignals()
                if watch is None:
                    watch = new_stall_watch((self.ring,), WAITS_TO_CLAIM, "a publish beside a view that is alive")
                watch.check()
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
        """Give the slots back unpublished. Does nothing after the claim was published or discarded."""
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
