# A ring that is open in this process.

cdef class RingBase:
    """A ring that is open in this process; `ringfeed.Ring` adds names and opening."""

    cdef rf_ring *handle
    cdef readonly str name
    cdef list layouts
    cdef list dead_letter_handlers  # of engines; None: there is none
    cdef readonly dict _by_name
    cdef object _spec  # of the layouts, once asked for
    cdef uint64_t copy_bytes
    cdef bint is_nameless_
    cdef int inside  # threads that are in an operation on the handle without the GIL

    def __dealloc__(self):
        if self.handle != NULL:
            with nogil:  # a GPU's driver may take its time to let go of pinned memory
                rf_ring_close(self.handle)
                rf_ring_drop(self.handle)

    # -- opening -----------------------------------------------------------------------------------

    def _create(self, name, int fd, spec, slots, participants, redeliver, huge_pages, numa_node, producers=0, max_deliveries=0,
                ring_inode=0, user_data=0):
        """Make a ring of the empty object `fd` and take the descriptor over."""
        cdef rf_options options
        cdef rf_geometry *geometry = <rf_geometry *>calloc(1, sizeof(rf_geometry))
        cdef rf_status status
        cdef bint nameless = rf_segment_free_bytes(fd) == INT64_MAX
        if geometry == NULL:
            close(fd)
            raise MemoryError()
        try:
            self.name = name
            options.slots = slots
            options.participants = participants
            options.redeliver = redeliver
            options.ring_inode = ring_inode
            options.user_data = user_data
            options.producers = producers
            options.max_deliveries = max_deliveries
            options.huge_pages = huge_pages
            options.numa_node = -1 if numa_node is None else numa_node
            fill_geometry(geometry, spec)
            status = rf_plan(&options, geometry)
            if status == RF_OK:
                check_for_memory(self, fd, geometry, slots, spec)
                with nogil:
                    if options.ring_inode != 0:
                        status = rf_pool_create(fd, &options, geometry, &self.handle)
                    else:
                        status = rf_ring_create(fd, &options, geometry, &self.handle)
                fd = -1
            if status != RF_OK:
                fail_to_create(self, status, geometry, slots, spec, nameless)
        finally:
            free(geometry)
            if fd >= 0:
                close(fd)
        self._learn()

    def _attach(self, name, int fd, bint pool=False):
        """Map an existing segment and take the descriptor over. False while it is not whole yet."""
        cdef uint32_t version = rf_segment_version(fd)
        cdef rf_status status = rf_pool_attach(fd, &self.handle) if pool else rf_ring_attach(fd, &self.handle)
        self.name = name
        if status == RF_UNFINISHED:
            return False
        if status == RF_WRONG_VERSION:
            raise errors.LayoutMismatch(
                f"ring {name!r} has layout version {version}; this RingFeed reads version {RF_READS_VERSION}. "
                "Run the same version of RingFeed in every process.")
        if status == RF_OTHER_KIND:
            raise errors.LayoutMismatch(
                f"ring {name!r} is no pool of replies." if pool else
                f"ring {name!r} is damaged, or a pool of replies. Attach to the ring whose requests they answer.")
        if status != RF_OK:
            fail(self, status, 0, None)
        self._learn()
        return True

    cdef _learn(self):
        cdef rf_geometry *geometry = <rf_geometry *>rf_ring_geometry(self.handle)
        cdef uint32_t index
        self.layouts = [make_layout(&geometry.field[index], index) for index in range(geometry.fields)]
        self._by_name = {(<_Layout>layout).name: layout for layout in self.layouts}
        self.is_nameless_ = rf_segment_is_nameless(rf_ring_descriptor(self.handle)) == 1
        self.copy_bytes = 0
        for index in range(geometry.fields):
            self.copy_bytes += geometry.field[index].sample_bytes

    cdef rf_ring *opened(self) except NULL:
        if self.handle == NULL:
            raise errors.RingClosed("this ring was never opened; use Ring.create or Ring.attach.")
        return self.handle

    cdef void left(self) noexcept:
        """A thread is out of an operation without the GIL; `inside` was raised before it."""
        self.inside -= 1
        self.retire_if_idle()

    cdef void retire_if_idle(self) noexcept:
        """Of a closed handle give back entry and memory, unless a thread is inside; it comes back here."""
        if self.inside == 0 and self.handle != NULL:
            rf_ring_retire(self.handle)

    cdef _Layout layout(self, name):
        cdef object layout = self._by_name.get(name)
        if layout is None:
            raise KeyError(f"ring {self.name!r} has no field {name!r}; its fields are {', '.join(self._by_name)}.")
        return <_Layout>layout

    # -- producing ---------------------------------------------------------------------------------

    def claim(self, rows=None, *, timeout=None, zero=False):
        """Claim free slots, to be written in place.

        A slot holds whatever an older record left there: write all of it, or ask for `zero`. Write a whole field by
        ``slot["x"] = value``, which checks dtype and shape. ``slot["x"][...] = value`` is NumPy's own assignment: it
        casts and broadcasts, so that 300 becomes 44 in a field of uint8, and nobody can see it.

        Parameters
        ----------
        rows : int, optional
            Claim up to so many contiguous slots: at least one, as many as lie free in a row. The
            arrays then have a leading axis of rows. By default one slot, without that axis.
        timeout : float, optional
            Seconds to wait for a free slot; 0 does not wait, None waits for ever.
        zero : bool
            Hand the slots out full of zeros, padding included. It costs one memset: 7 us for 600 kB, 0.1 us at least.

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

        Warns
        -----
        StalledRingWarning
            The wait lasts, and every slot is held, some by this process.
        """
        cdef rf_ring *handle = self.opened()
        cdef uint32_t count = 1
        cdef int64_t deadline
        cdef bint is_zeroed = bool_argument(zero, self.name, "zero")
        cdef rf_status status
        cdef Claim claim = Claim.__new__(Claim)
        cdef _Hold hold = _Hold.__new__(_Hold)
        if rows is not None:
            count = int_argument(rows, self.name, "rows", 1, rf_ring_geometry(handle).slots)
        deadline = deadline_ns(timeout, self.name)
        status = rf_claim(handle, count, 0, &hold.lease)
        if (status == RF_FULL and deadline != 0) or status == RF_AGAIN:
            status = <rf_status>self.wait_to_claim(count, deadline, hold)
        if status != RF_OK:
            fail(self, status, 1, timeout)
        if is_zeroed:
            self.fill_with_zeros(hold)
        hold.is_claim = True
        claim.hold = hold
        claim.ring = self
        claim.kind = RF_VIEW_SAMPLE if rows is None else RF_VIEW_ROWS
        return claim

    cdef int wait_to_claim(self, uint32_t count, int64_t deadline, _Hold hold) except -1:
        """Wait for a slot, slice by slice. Returns a status."""
        cdef rf_ring *handle = self.handle
        cdef rf_status status = RF_AGAIN
        cdef _Wait wait = None
        while status == RF_AGAIN:
            PyErr_CheckSignals()
            self.inside += 1
            with nogil:
                status = rf_claim(handle, count, deadline, &hold.lease)
            self.left()
            if status == RF_AGAIN:
                wait = noting_stalls(wait, (self,), WAITS_TO_CLAIM, "a claim")
        return status

    cdef int fill_with_zeros(self, _Hold hold) except -1:
        if self.copy_bytes * rf_lease_rows(hold.lease) < COPY_WITHOUT_GIL_BYTES:
            rf_claim_zero(hold.lease)
        else:
            with nogil:
                rf_claim_zero(hold.lease)
        return 0

    def put(self, record, tag=0, *, timeout=None):
        """Copy one record into the ring: claim, copy, publish.

        Parameters
        ----------
        record : dict of str to array_like
            One sample per field. Arrays must have the field's very shape and dtype. Python's own numbers, in lists or
            alone, are taken where they stay what they are; a number with a point is rounded to the field's precision.
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
        cdef uint64_t bits = tag_argument(tag, self.name)
        cdef int64_t deadline = deadline_ns(timeout, self.name)
        cdef rf_status status
        cdef object kept = self.sources_of(record, sources, VERY_DTYPE)  # alive until it is copied
        if self.copy_bytes < COPY_WITHOUT_GIL_BYTES:
            status = rf_put(handle, sources, bits, 0)
        else:
            self.inside += 1
            with nogil:
                status = rf_put(handle, sources, bits, 0)
            self.left()
        if (status == RF_FULL and deadline != 0) or status == RF_AGAIN:
            status = <rf_status>self.wait_to_put(sources, bits, deadline)
        if status != RF_OK:
            fail(self, status, 1, timeout)

    cdef int wait_to_put(self, const void **sources, uint64_t bits, int64_t deadline) except -1:
        """Put once there is room, slice by slice. Returns a status."""
        cdef rf_ring *handle = self.handle
        cdef rf_status status = RF_AGAIN
        cdef _Wait wait = None
        while status == RF_AGAIN:
            PyErr_CheckSignals()
            self.inside += 1
            with nogil:
                status = rf_put(handle, sources, bits, deadline)
            self.left()
            if status == RF_AGAIN:
                wait = noting_stalls(wait, (self,), WAITS_TO_CLAIM, "a put")
        return status

    cdef object sources_of(self, record, const void **sources, _Strictness strictness):
        """Find one sample per field, checked.

        Returns what they live by, whatever other threads do to the record.
        """
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
                value = one_sample(layout, value, self.name, strictness)
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
        missing = [name for name in self._by_name if name not in record]
        unknown = [str(name) for name in record if name not in self._by_name]
        raise errors.RecordMismatch(
            f"ring {self.name!r}: the record has the fields {', '.join(map(str, record)) or 'none'}; the ring holds "
            f"{', '.join(self._by_name)}. Give each of them once"
            f"{': missing ' + ', '.join(missing) if missing else ''}{'; unknown ' + ', '.join(unknown) if unknown else ''}.")

    def _rows_of(self, name, value):
        """Return rows of a field, given as an array or in lists, as an array that `PoolBase.ask_rows` takes."""
        return sample_rows(self.layout(name), value, self.name)

    # -- taking ------------------------------------------------------------------------------------

    def take(self, max_rows, *, min_rows=1, timeout=None, linger=0.0, on_error="give_back", while_waiting=None):
        """Take the oldest published records as one batch.

        Parameters
        ----------
        max_rows : int
            Most rows in the batch; at most the ring's slots.
        min_rows : int
            Wait for so many published records. The batch is shorter only when no more can come (the
            ring was finished, or no slot is free to publish in), when a slot amid the records has
            been held by a producer for longer than `linger` (at least 5 ms), when another taker
            took the records next to it, or where a record comes alone (see Notes).
        timeout : float, optional
            Seconds to wait; 0 does not wait, None waits for ever.
        linger : float
            Seconds to wait for `max_rows` once `min_rows` are there.
        on_error : "give_back" or "release"
            What becomes of the records when an exception ends the ``with`` block of the batch. By default they are
            there again, for whoever takes next, as a message that nobody acknowledged; see Notes. "release": they
            are gone.
        while_waiting : callable, optional
            Called about every 50 ms of waiting; it ends the wait with `RingEmpty` by returning
            true, or with an exception. For threads in which no signal handler of Python's runs.

        Warns
        -----
        StalledRingWarning
            The wait lasts, and every slot is held by batches, arrays or views, some of them this process's.

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
        ProducerFailed
            The same, and a producer raised in ``with ring.producing():``; the text is that of the first.
        RingClosed
            The ring was closed here, or by its owner, and every record has been taken.

        Notes
        -----
        A record that comes again, because its taker died over it or an `Exception` ended its ``with`` block, comes
        alone, in a batch of one row: what fails over it takes no other record along. (Not so where `min_rows` is more
        than 1: who insists on rows gets them together, and fails over all of them.) When that has happened
        ``max_deliveries`` times (`Ring.create`), the record is a dead letter: no taker gets it any more. The take that
        finds it logs its tag and its producer's process (logger "ringfeed"), and `stats` counts it; an `Engine`
        answers its client with an error. What is given back otherwise is not counted: by `Batch.give_back`, by an
        engine that stops, by KeyboardInterrupt, SystemExit or the cancellation of a task. A process that dies has failed
        over every batch that it holds. A ring made with ``redeliver=False`` drops records instead.
        """
        cdef rf_ring *handle = self.opened()
        cdef rf_take_request request
        cdef rf_status status = RF_AGAIN
        cdef bint releases = releases_on_error(on_error, self.name)
        cdef int64_t deadline = deadline_ns(timeout, self.name)
        cdef int64_t slots = rf_ring_geometry(handle).slots
        cdef Batch batch = Batch.__new__(Batch)
        cdef _Hold hold = _Hold.__new__(_Hold)
        memset(&request, 0, sizeof(request))
        request.max_rows = min(int_argument(max_rows, self.name, "max_rows", 1, INT64_MAX), slots)
        request.min_rows = int_argument(min_rows, self.name, "min_rows", 1, request.max_rows)
        request.linger_ns = nanoseconds_argument(linger, self.name, "linger")
        request.dead_letters = 1
        request.unseen = self.dead_letter_handlers is not None
        while True:
            request.deadline_ns = 0
            if request.linger_ns == 0:
                status = rf_take(handle, &request, &hold.lease)
            request.deadline_ns = deadline
            if (status == RF_EMPTY and deadline != 0) or status == RF_AGAIN:
                request.patient = while_waiting is None
                status = <rf_status>self.wait_to_take(&request, hold, while_waiting)
            if status != RF_OK:
                fail(self, status, request.min_rows, timeout)
            if not rf_lease_is_dead_letter(hold.lease):
                break
            self.set_aside(hold)
            hold = _Hold.__new__(_Hold)
            status = RF_AGAIN
        batch.hold = hold
        batch.ring = self
        batch.kind = RF_VIEW_ROWS
        batch.releases = releases
        return batch

    cdef int set_aside(self, _Hold hold) except -1:
        """Have a dead letter answered or logged, and release it; it is there again where that fails."""
        cdef Batch batch = Batch.__new__(Batch)
        batch.hold = hold
        batch.ring = self
        batch.kind = RF_VIEW_ROWS
        try:
            if self.dead_letter_handlers:
                self.dead_letter_handlers[len(self.dead_letter_handlers) - 1](batch)
            else:
                self._log_dead_letter(batch.records[0], False)
        except BaseException:
            rf_lease_give_back(hold.lease)
            raise
        finally:
            batch.release()
        return 0

    def _log_dead_letter(self, record, answered):
        pid = rf_participant_pid(self.opened(), record["producer"])
        dead_letters.log(
            self.name, int(record["tag"]), pid, int(record["failures"]), rf_ring_max_deliveries(self.handle), answered)

    def _log_letters(self):
        """Log the dead letters that takers without Python have set aside through this handle."""
        cdef rf_dead_letter letter
        while rf_next_dead_letter(self.opened(), &letter):
            dead_letters.log(
                self.name, letter.tag, rf_participant_pid(self.handle, letter.producer), letter.failures,
                rf_ring_max_deliveries(self.handle), False, letter.unsaid)

    def _handle_dead_letters(self, handler):
        """From now on dead letters go to that callable, each as a batch, which is released behind it."""
        if self.dead_letter_handlers is None:
            self.dead_letter_handlers = []
        self.dead_letter_handlers.append(handler)

    def _handle_dead_letters_no_more(self, handler):
        if self.dead_letter_handlers is not None and handler in self.dead_letter_handlers:
            self.dead_letter_handlers.remove(handler)
        if not self.dead_letter_handlers:
            self.dead_letter_handlers = None

    cdef int wait_to_take(self, rf_take_request *request, _Hold hold, while_waiting) except -1:
        """Wait for records, slice by slice. Returns a status."""
        cdef rf_ring *handle = self.handle
        cdef rf_status status = RF_AGAIN
        cdef _Wait wait = None
        cdef bint is_minded = minds_stalls(while_waiting)
        while status == RF_AGAIN:
            PyErr_CheckSignals()
            self.inside += 1
            with nogil:
                status = rf_take(handle, request, &hold.lease)
            self.left()
            if status == RF_AGAIN and not is_minded:
                wait = noting_stalls(wait, (self,), WAITS_TO_TAKE, "a take")
            if status == RF_AGAIN and while_waiting is not None and while_waiting():
                return RF_EMPTY
        return status

    # -- the whole ring ----------------------------------------------------------------------------

    def finish(self):
        """Say that no more records come: takers drain what is there, then get `RingFinished`.

        Claims under way may still be published. Any participant may say it, for all producers.
        """
        cdef rf_ring *handle = self.opened()
        if rf_ring_is_retired(handle):
            fail(self, RF_CLOSED, 0, None)
        rf_finish(handle)

    def recover(self):
        """Give back what dead participants held; waiting does so by itself.

        Returns
        -------
        int
            How many participants were found dead.
        """
        cdef rf_ring *handle = self.opened()
        cdef uint32_t found
        self.inside += 1
        with nogil:
            found = rf_recover(handle)
        self.left()
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
            ``slots`` and their states ``free``, ``claimed``, ``ready``, ``taken``, ``kept`` (one
            after the other, not at one instant); ``participants``; since the ring was made
            ``published``, ``discarded``, ``taken_total``, ``released``, ``batches``, ``redelivered``,
            ``dropped``, ``reclaimed``, ``dead_letters`` (records over which ``max_deliveries`` takers failed); and how
            long producers and takers waited, summed over them: ``claim_wait_ns``, ``take_wait_ns``.
        """
        cdef rf_ring *handle = self.opened()
        cdef rf_stats stats
        self._log_letters()
        rf_ring_stats(handle, &stats)
        return {
            "slots": rf_ring_geometry(handle).slots,
            "free": stats.free,
            "claimed": stats.claimed,
            "ready": stats.ready,
            "taken": stats.taken,
            "kept": stats.kept,
            "participants": stats.participants,
            "published": stats.counts.published,
            "discarded": stats.counts.discarded,
            "taken_total": stats.counts.taken,
            "released": stats.counts.released,
            "batches": stats.counts.batches,
            "redelivered": stats.counts.redelivered,
            "dropped": stats.counts.dropped,
            "reclaimed": stats.counts.reclaimed,
            "dead_letters": stats.counts.dead_letters,
            "claim_wait_ns": stats.counts.claim_wait_ns,
            "take_wait_ns": stats.counts.take_wait_ns,
        }

    def _holdings(self):
        """Return who holds slots: a list of `ringfeed.stall.Holding`, one for each participant that holds some."""
        cdef rf_ring *handle = self.opened()
        cdef uint32_t index, participants = rf_ring_geometry(handle).participants
        cdef rf_holding *found = <rf_holding *>calloc(participants, sizeof(rf_holding))
        if found == NULL:
            raise MemoryError()
        try:
            rf_ring_holdings(handle, found)
            return [
                stall.Holding(found[index].pid, found[index].ours != 0, found[index].claimed, found[index].held)
                for index in range(participants) if found[index].claimed or found[index].held
            ]
        finally:
            free(found)

    def close(self):
        """Close this handle; closing it twice does no harm.

        Threads that wait on it get `RingClosed`. Batches and arrays that are alive stay valid: entry and memory are
        given back now, or with the last of them. When the owner closes, the ring is closed for everyone.
        """
        if self.handle != NULL:
            rf_ring_close(self.handle)
            self.retire_if_idle()

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
        """Number of slots; `Ring.create` may have rounded up what it was asked for."""
        return rf_ring_geometry(self.opened()).slots

    @property
    def mirrored(self):
        """May a batch or claim pass the ring's end? Not where the slots for that would have taken much memory."""
        return rf_ring_is_mirrored(self.opened()) != 0

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
    def max_deliveries(self):
        """How many takers may fail over a record before it is set aside; None: as many as come."""
        return rf_ring_max_deliveries(self.opened()) or None

    @property
    def descriptor(self):
        """The segment's file descriptor; `Ring.send` gives another process a copy of it.

        Closing a copy of it does no harm. Where other code has closed the number itself (``os.closerange``), the ring
        goes on, and this opens it anew; of a ring without a name few users may do that, and it raises `RingFeedError`.
        """
        cdef rf_ring *handle = self.opened()
        if rf_ring_is_retired(handle):
            raise errors.RingClosed(f"ring {self.name!r} is closed, and has no descriptor any more. Attach it anew.")
        cdef int fd = rf_ring_descriptor(handle)
        if fd < 0:
            raise errors.RingFeedError(
                f"ring {self.name!r}: other code of this process has closed its descriptor (os.closerange?), and nothing "
                "is left to open it by. The ring goes on working here. Send it to others before that is closed.")
        return fd

    def _look(self):
        """As `recover`, of those who hold something, at most once in 50 ms whoever calls."""
        cdef rf_ring *handle = self.opened()
        self.inside += 1
        with nogil:
            rf_reap(handle)
        self.left()

    def _has_owner(self):
        """Does a living process own the segment?"""
        return rf_ring_has_owner(self.opened()) != 0

    # -- memory ------------------------------------------------------------------------------------

    def _use_huge_pages(self):
        cdef rf_ring *handle = self.opened()
        cdef int refused
        self.inside += 1
        with nogil:
            refused = rf_ring_use_huge_pages(handle)
        self.left()
        return refused

    def _lock_memory(self):
        cdef rf_ring *handle = self.opened()
        cdef int refused
        self.inside += 1
        with nogil:
            refused = rf_ring_lock_memory(handle)
        self.left()
        return refused

    def _identity(self):
        """Device and inode; also of a closed ring."""
        return rf_ring_device(self.opened()), rf_ring_inode(self.opened())

    def _has_no_name(self):
        return self.is_nameless_ != 0

    def _inode(self):
        return rf_ring_inode(self.opened())

    def _ring_inode(self):
        return rf_pool_ring_inode(self.opened())

    def _user_data(self):
        return rf_ring_user_data(self.opened())

    def _numa_errno(self):
        return rf_ring_numa_errno(self.opened())

    def _region_address(self, name):
        return <size_t>rf_ring_region(self.opened(), self.layout(name).index)


def take_first(rings, max_rows, min_rows, timeout, linger, on_error, while_waiting):
    """Take from the first of several rings that has records; arguments and errors as for `RingBase.take`."""
    cdef rf_ring *handles[RF_MOST_LEVELS]
    cdef RingBase ring, first = rings[0]
    cdef uint32_t count = 0, i
    cdef rf_take_request request
    cdef rf_status status = RF_AGAIN
    cdef Batch batch = Batch.__new__(Batch)
    cdef _Hold hold = _Hold.__new__(_Hold)
    cdef _Wait wait = None
    cdef bint releases = releases_on_error(on_error, first.name)
    for ring in rings:
        handles[count] = ring.opened()
        count += 1
    memset(&request, 0, sizeof(request))
    request.max_rows = min(
        int_argument(max_rows, first.name, "max_rows", 1, INT64_MAX), <int64_t>rf_ring_geometry(handles[0]).slots)
    request.min_rows = int_argument(min_rows, first.name, "min_rows", 1, request.max_rows)
    request.linger_ns = nanoseconds_argument(linger, first.name, "linger")
    request.deadline_ns = deadline_ns(timeout, first.name)
    request.dead_letters = 1
    request.unseen = first.dead_letter_handlers is not None
    while status == RF_AGAIN:
        PyErr_CheckSignals()
        for ring in rings:
            ring.inside += 1
        with nogil:
            status = rf_take_first(handles, count, &request, &hold.lease)
        for ring in rings:
            ring.left()
        if status == RF_OK and rf_lease_is_dead_letter(hold.lease):
            for i in range(count):
                if rf_lease_ring(hold.lease) == handles[i]:
                    ring = rings[i]
            ring.set_aside(hold)
            hold = _Hold.__new__(_Hold)
            status = RF_AGAIN
            continue
        if status == RF_AGAIN and not minds_stalls(while_waiting):
            wait = noting_stalls(wait, tuple(rings), WAITS_TO_TAKE, "a take")
        if status == RF_AGAIN and while_waiting is not None and while_waiting():
            status = RF_EMPTY
    if status == RF_PRODUCER_FAILED:
        for ring in rings:
            if rf_ring_has_failed(ring.handle):
                fail(ring, status, 0, None)
    if status != RF_OK:
        fail(first, status, request.min_rows, timeout)
    for i in range(count):
        if rf_lease_ring(hold.lease) == handles[i]:
            batch.ring = rings[i]
    batch.hold = hold
    batch.kind = RF_VIEW_ROWS
    batch.releases = releases
    return batch
