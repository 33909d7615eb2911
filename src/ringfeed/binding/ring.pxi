# A ring that is open in this process.

cdef class RingBase:
    """A ring that is open in this process; `ringfeed.Ring` adds names and opening."""

    cdef rf_ring *handle
    cdef readonly str name
    cdef list layouts
    cdef readonly dict _by_name
    cdef object _spec  # of the layouts, once asked for
    cdef uint64_t copy_bytes

    def __dealloc__(self):
        if self.handle != NULL:
            with nogil:  # a GPU's driver may take its time to let go of pinned memory
                rf_ring_close(self.handle)
                rf_ring_drop(self.handle)

    # -- opening -----------------------------------------------------------------------------------

    def _create(self, name, int fd, spec, slots, participants, redeliver, huge_pages, numa_node, answers=0, note=0):
        """Make a ring of the empty object `fd` and take the descriptor over."""
        cdef rf_options options
        cdef rf_geometry *geometry = <rf_geometry *>calloc(1, sizeof(rf_geometry))
        cdef rf_status status
        if geometry == NULL:
            rf_segment_discard(fd)
            raise MemoryError()
        try:
            self.name = name
            options.slots = slots
            options.participants = participants
            options.redeliver = redeliver
            options.answers = answers
            options.note = note
            options.huge_pages = huge_pages
            options.numa_node = -1 if numa_node is None else numa_node
            fill_geometry(geometry, spec)
            status = rf_plan(&options, geometry)
            if status == RF_OK:
                with nogil:
                    status = rf_ring_create(fd, &options, geometry, &self.handle)
                fd = -1
            if status != RF_OK:
                fail_to_create(self, status, geometry.segment_bytes, slots, spec)
        finally:
            free(geometry)
            if fd >= 0:
                rf_segment_discard(fd)
        self._learn()

    def _attach(self, name, int fd, bint pool=False):
        """Map an existing segment and take the descriptor over. False while it is not whole yet."""
        cdef uint32_t version = rf_segment_version(fd)
        cdef rf_status status = rf_ring_attach(fd, &self.handle)
        self.name = name
        if status == RF_UNFINISHED:
            return False
        if status == RF_WRONG_VERSION:
            raise errors.LayoutMismatch(
                f"ring {name!r} has layout version {version}; this RingFeed reads version {RF_READS_VERSION}. "
                "Run the same version of RingFeed in every process.")
        if status != RF_OK:
            fail(self, status, 0, None)
        if (rf_ring_answers(self.handle) != 0) != pool:
            raise errors.LayoutMismatch(
                f"ring {name!r} is no pool of replies." if pool else
                f"ring {name!r} is damaged, or a pool of replies. Attach to the ring whose requests they answer.")
        self._learn()
        return True

    cdef _learn(self):
        cdef rf_geometry *geometry = <rf_geometry *>rf_ring_geometry(self.handle)
        cdef uint32_t index
        self.layouts = [make_layout(&geometry.field[index], index) for index in range(geometry.fields)]
        self._by_name = {(<_Layout>layout).name: layout for layout in self.layouts}
        self.copy_bytes = 0
        for index in range(geometry.fields):
            self.copy_bytes += geometry.field[index].sample_bytes

    cdef rf_ring *opened(self) except NULL:
        if self.handle == NULL:
            raise errors.RingClosed("this ring was never opened; use Ring.create or Ring.attach.")
        return self.handle

    cdef _Layout layout(self, name):
        cdef object layout = self._by_name.get(name)
        if layout is None:
            raise KeyError(f"ring {self.name!r} has no field {name!r}; its fields are {', '.join(self._by_name)}.")
        return <_Layout>layout

    # -- producing ---------------------------------------------------------------------------------

    def claim(self, rows=None, *, timeout=None):
        """Claim free slots, to be written in place.

        Parameters
        ----------
        rows : int, optional
            Claim up to so many contiguous slots: at least one, as many as lie free in a row. The
            arrays then have a leading axis of rows. By default one slot, without that axis.
        timeout : float, optional
            Seconds to wait for a free slot; 0 does not wait, None waits for ever.

        Returns
        -------
        Claim
            A context manager: publishes at the end of the block, discards on an exception.

        Raises
        ------
        RingFull
            No slot became free within `timeout` seconds.
        RingFinished, RingClosed
            The ring takes no more records.
        """
        cdef rf_ring *handle = self.opened()
        cdef uint32_t count = 1
        cdef int64_t deadline
        cdef rf_status status
        cdef Claim claim = Claim.__new__(Claim)
        cdef _Hold hold = _Hold.__new__(_Hold)
        if rows is not None:
            count = whole(rows, self.name, "rows", 1, rf_ring_geometry(handle).slots)
        deadline = deadline_ns(timeout, self.name)
        status = rf_claim(handle, count, 0, &hold.lease)
        while (status == RF_FULL and deadline != 0) or status == RF_AGAIN:
            PyErr_CheckSignals()
            with nogil:
                status = rf_claim(handle, count, deadline, &hold.lease)
            if status == RF_FULL:
                break
        if status != RF_OK:
            fail(self, status, 1, timeout)
        claim.hold = hold
        claim.ring = self
        claim.kind = RF_VIEW_SAMPLE if rows is None else RF_VIEW_ROWS
        return claim

    def put(self, record, tag=0, timeout=None):
        """Copy one record into the ring: claim, copy, publish.

        Parameters
        ----------
        record : dict of str to array_like
            One sample per field. Arrays must have the field's very shape and dtype.
        tag : int
            64 bits of your own that travel with the record.
        timeout : float, optional
            Seconds to wait for a free slot; 0 does not wait, None waits for ever.

        Raises
        ------
        RecordMismatch
            A field is missing, unknown, or of another shape or dtype; nothing was put.
        RingFull, RingFinished, RingClosed
            As for `claim`.
        """
        cdef rf_ring *handle = self.opened()
        cdef const void *sources[RF_MAX_FIELDS]
        cdef uint64_t bits = tag_bits(tag, self.name)
        cdef int64_t deadline = deadline_ns(timeout, self.name)
        cdef rf_status status
        cdef object kept = self.sources_of(record, sources)  # alive until it is copied
        if self.copy_bytes < COPY_WITHOUT_GIL_BYTES:
            status = rf_put(handle, sources, bits, 0)
        else:
            with nogil:
                status = rf_put(handle, sources, bits, 0)
        while (status == RF_FULL and deadline != 0) or status == RF_AGAIN:
            PyErr_CheckSignals()
            with nogil:
                status = rf_put(handle, sources, bits, deadline)
            if status == RF_FULL:
                break
        if status != RF_OK:
            fail(self, status, 1, timeout)

    cdef object sources_of(self, record, const void **sources):
        """Find one sample per field, checked. Returns what they live by, whatever other threads do to the record."""
        cdef _Layout layout
        cdef object value = None
        cdef list kept = None
        cdef Py_ssize_t i, count = len(self.layouts)
        cdef PyObject *found
        if type(record) is not dict:
            record = self.as_dict(record)
        if len(<dict>record) != count:
            self._wrong_fields(record)
        for i in range(count):
            layout = <_Layout>self.layouts[i]
            found = PyDict_GetItemWithError(record, layout.name)
            if found == NULL:
                self._wrong_fields(record)
            value = <object>found
            if not (type(value) is cnp.ndarray and layout.fits(<cnp.ndarray>value)):
                value = layout.convert(value, self.name)
            if count > 1:
                if kept is None:
                    kept = []
                kept.append(value)
            sources[i] = cnp.PyArray_DATA(<cnp.ndarray>value)
        return value if kept is None else kept

    cdef dict as_dict(self, record):
        if not isinstance(record, Mapping):
            raise errors.RecordMismatch(
                f"ring {self.name!r}: a record is a dict of field to value, not {type(record).__name__}. Give "
                f"{{{', '.join(f'{name!r}: ...' for name in self._by_name)}}}.")
        return dict(record)  # which may make its values as they are asked for

    def _wrong_fields(self, record):
        raise errors.RecordMismatch(
            f"ring {self.name!r}: the record has the fields {', '.join(map(str, record)) or 'none'}; the ring holds "
            f"{', '.join(self._by_name)}. Give each of them once.")

    # -- taking ------------------------------------------------------------------------------------

    def take(self, max_rows, *, min_rows=1, timeout=None, linger=0.0, while_waiting=None):
        """Take the oldest published records as one batch.

        Parameters
        ----------
        max_rows : int
            Most rows in the batch; at most the ring's slots.
        min_rows : int
            Wait for so many published records. The batch is shorter only when no more can come (the
            ring was finished, or no slot is free to publish in), when a slot amid the records has
            been held by a producer for longer than `linger` (at least 5 ms), or when another taker
            took the records next to it.
        timeout : float, optional
            Seconds to wait; 0 does not wait, None waits for ever.
        linger : float
            Seconds to wait for `max_rows` once `min_rows` are there.
        while_waiting : callable, optional
            Called about every 50 ms of waiting; it ends the wait with `RingEmpty` by returning
            true, or with an exception. For threads in which no signal handler of Python's runs.

        Returns
        -------
        Batch
            For each field one array of shape (rows, *field shape) over the ring's own memory.

        Raises
        ------
        RingEmpty
            Fewer than `min_rows` were published within `timeout` seconds.
        RingFinished
            The ring was finished and every record has been taken.
        RingClosed
            The ring was closed here, or by its owner, and every record has been taken.
        """
        cdef rf_ring *handle = self.opened()
        cdef rf_take_request request
        cdef rf_status status = RF_AGAIN
        cdef int64_t deadline = deadline_ns(timeout, self.name)
        cdef int64_t slots = rf_ring_geometry(handle).slots
        cdef Batch batch = Batch.__new__(Batch)
        cdef _Hold hold = _Hold.__new__(_Hold)
        memset(&request, 0, sizeof(request))
        request.max_rows = min(whole(max_rows, self.name, "max_rows", 1, INT64_MAX), slots)
        request.min_rows = whole(min_rows, self.name, "min_rows", 1, request.max_rows)
        request.linger_ns = <int64_t>(min(seconds_from(linger, self.name, "linger"), 1e9) * 1e9)
        if request.linger_ns == 0:
            status = rf_take(handle, &request, &hold.lease)
        request.deadline_ns = deadline
        while (status == RF_EMPTY and deadline != 0) or status == RF_AGAIN:
            PyErr_CheckSignals()
            with nogil:
                status = rf_take(handle, &request, &hold.lease)
            if status == RF_EMPTY:
                break
            if status == RF_AGAIN and while_waiting is not None and while_waiting():
                status = RF_EMPTY
                break
        if status != RF_OK:
            fail(self, status, request.min_rows, timeout)
        batch.hold = hold
        batch.ring = self
        batch.kind = RF_VIEW_ROWS
        return batch

    # -- the whole ring ----------------------------------------------------------------------------

    def finish(self):
        """Say that no more records come: takers drain what is there, then get `RingFinished`.

        Claims under way may still be published. Any participant may say it, for all producers.
        """
        rf_finish(self.opened())

    def recover(self):
        """Give back what dead participants held; waiting does so by itself.

        Returns
        -------
        int
            How many participants were found dead.
        """
        cdef rf_ring *handle = self.opened()
        cdef uint32_t found
        with nogil:
            found = rf_recover(handle)
        return found

    @property
    def ready(self):
        """How many records wait to be taken."""
        return rf_ring_ready(self.opened())

    def stats(self):
        """Return what is in the ring and what went through it.

        Returns
        -------
        dict of str to int
            ``slots`` and their states ``free``, ``claimed``, ``ready``, ``taken``, ``pinned`` (one
            after the other, not at one instant); ``participants``; since the ring was made
            ``published``, ``discarded``, ``taken_total``, ``released``, ``batches``, ``redelivered``,
            ``dropped``, ``reclaimed``; and how long producers and takers waited, summed over them:
            ``claim_wait_ns``, ``take_wait_ns``.
        """
        cdef rf_ring *handle = self.opened()
        cdef rf_stats stats
        rf_ring_stats(handle, &stats)
        return {
            "slots": rf_ring_geometry(handle).slots,
            "free": stats.free,
            "claimed": stats.claimed,
            "ready": stats.ready,
            "taken": stats.taken,
            "pinned": stats.pinned,
            "participants": stats.participants,
            "published": stats.counts.published,
            "discarded": stats.counts.discarded,
            "taken_total": stats.counts.taken,
            "released": stats.counts.released,
            "batches": stats.counts.batches,
            "redelivered": stats.counts.redelivered,
            "dropped": stats.counts.dropped,
            "reclaimed": stats.counts.reclaimed,
            "claim_wait_ns": stats.counts.claim_wait_ns,
            "take_wait_ns": stats.counts.take_wait_ns,
        }

    def close(self):
        """Close this handle; closing it twice does no harm.

        Threads that wait on it get `RingClosed`. Batches and arrays that are alive stay valid: the
        memory goes with the last of them. When the owner closes, the ring is closed for everyone.
        """
        if self.handle != NULL:
            rf_ring_close(self.handle)

    @property
    def closed(self):
        """Was this handle closed, or the ring by its owner?"""
        return self.handle == NULL or rf_ring_is_closed(self.handle) != 0

    @property
    def finished(self):
        """Was the ring finished? Records may still be in it."""
        return rf_ring_is_finished(self.opened()) != 0

    @property
    def is_owner(self):
        """Did this process create the ring?"""
        return self.handle != NULL and rf_ring_is_owner(self.handle) != 0

    @property
    def slots(self):
        """Number of slots; create rounds up so that every field fills whole pages."""
        return rf_ring_geometry(self.opened()).slots

    @property
    def segment_bytes(self):
        """Size of the shared-memory segment in bytes."""
        return rf_ring_geometry(self.opened()).segment_bytes

    @property
    def spec(self):
        """The fields of a record: a `RecordSpec`."""
        self.opened()
        if self._spec is None:
            self._spec = RecordSpec.of([(<_Layout>layout).field for layout in self.layouts])
        return self._spec

    @property
    def redelivers(self):
        """Do rows that a dead taker held become READY again?"""
        return rf_ring_redelivers(self.opened()) != 0

    @property
    def descriptor(self):
        """The segment's file descriptor: sent to another process, `Ring.attach_descriptor` takes it."""
        return rf_ring_descriptor(self.opened())

    # -- memory ------------------------------------------------------------------------------------

    def _use_huge_pages(self):
        cdef rf_ring *handle = self.opened()
        cdef int refused
        with nogil:
            refused = rf_ring_use_huge_pages(handle)
        return refused

    def _lock_memory(self):
        cdef rf_ring *handle = self.opened()
        cdef int refused
        with nogil:
            refused = rf_ring_lock_memory(handle)
        return refused

    def _inode(self):
        return rf_ring_inode(self.opened())

    def _answers(self):
        return rf_ring_answers(self.opened())

    def _note(self):
        return rf_ring_note(self.opened())

    def _numa_errno(self):
        return rf_ring_numa_errno(self.opened())

    def _region_address(self, name):
        return <size_t>rf_ring_region(self.opened(), self.layout(name).index)


def take_first(rings, max_rows, min_rows, timeout, linger, while_waiting):
    """Take from the first of several rings that has records; arguments and errors as for `RingBase.take`."""
    cdef rf_ring *handles[RF_MOST_LEVELS]
    cdef RingBase ring, first = rings[0]
    cdef uint32_t count = 0, i
    cdef rf_take_request request
    cdef rf_status status = RF_AGAIN
    cdef Batch batch = Batch.__new__(Batch)
    cdef _Hold hold = _Hold.__new__(_Hold)
    for ring in rings:
        handles[count] = ring.opened()
        count += 1
    memset(&request, 0, sizeof(request))
    request.max_rows = min(
        whole(max_rows, first.name, "max_rows", 1, INT64_MAX), <int64_t>rf_ring_geometry(handles[0]).slots)
    request.min_rows = whole(min_rows, first.name, "min_rows", 1, request.max_rows)
    request.linger_ns = <int64_t>(min(seconds_from(linger, first.name, "linger"), 1e9) * 1e9)
    request.deadline_ns = deadline_ns(timeout, first.name)
    while status == RF_AGAIN:
        PyErr_CheckSignals()
        with nogil:
            status = rf_take_first(handles, count, &request, &hold.lease)
        if status == RF_AGAIN and while_waiting is not None and while_waiting():
            status = RF_EMPTY
    if status != RF_OK:
        fail(first, status, request.min_rows, timeout)
    for i in range(count):
        if rf_lease_ring(hold.lease) == handles[i]:
            batch.ring = rings[i]
    batch.hold = hold
    batch.kind = RF_VIEW_ROWS
    return batch
