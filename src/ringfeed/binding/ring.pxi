# The records of a ring that is open in this process: claiming and putting, taking, dead letters.

cdef class RingBase(RingHandle):
    """A ring that is open in this process; `ringfeed.Ring` adds names and opening."""

    # -- producing ---------------------------------------------------------------------------------

    def claim(self, rows=None, *, timeout=None, zero=False):
        """Claim free slots, to write records in place.

        A slot still holds the bytes of an older record: write all of it, or ask for `zero`. Write a whole field by
        ``slot["x"] = value``, which checks dtype and shape. ``slot["x"][...] = value`` is NumPy's own assignment: it
        casts and broadcasts, so that 300 becomes 44 in a field of uint8 without an error.

        Parameters
        ----------
        rows : int, optional
            Claim up to this many contiguous slots: at least one, and as many as lie free in a row. The
            arrays then have a leading axis of rows. By default one slot, without that axis.
        timeout : float, optional
            Seconds to wait for a free slot; 0 does not wait, None waits for ever.
        zero : bool
            Fill the slots with zeros first, padding included. It costs one memset: 7 us for 600 kB, 0.1 us at least.

        Returns
        -------
        Claim
            A context manager: publishes at the end of the block, discards on an exception.

        Raises
        ------
        RingFull
            No slot became free within `timeout` seconds; its `resource` is ``"slots"``.
        RingFinished, RingClosed
            The ring accepts no more records.

        Warns
        -----
        StalledRingWarning
            The wait lasts, every slot is held, and this process holds some of them.
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
        if must_wait(status, deadline):
            status = <rf_status>claim_by(wait_on(self, WAITS_TO_CLAIM, "a claim"), count, deadline, hold)
        if status != RF_OK:
            fail(self, status, 1, timeout)
        if is_zeroed:
            self.fill_with_zeros(hold)
        hold.is_claim = True
        claim.hold = hold
        claim.ring = self
        claim.kind = RF_VIEW_SAMPLE if rows is None else RF_VIEW_ROWS
        return claim

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
            One sample per field. Arrays must have the field's exact shape and dtype. Python's own numbers, in lists or
            alone, are accepted if the field holds them unchanged; a float is rounded to the field's precision.
        tag : int
            64 bits of your own that travel with the record, as an integer from 0 to 2**64 - 1.
        timeout : float, optional
            Seconds to wait for a free slot; 0 does not wait, None waits for ever.

        Raises
        ------
        RecordMismatch
            A field is missing, unknown, or of another shape or dtype; nothing was put.
        RingFull, RingFinished, RingClosed
            As for `claim`.
        """
        cdef const void *sources[RF_MAX_FIELDS]
        cdef rf_status status
        cdef _Call call
        memset(&call, 0, sizeof(call))
        call.attempt = attempt_put
        call.ring = self.opened()
        call.tag = tag_argument(tag, self.name)
        call.sources = sources
        cdef int64_t deadline = deadline_ns(timeout, self.name)
        cdef object kept = self.sources_of(record, sources, EXACT_DTYPE)  # alive until the record is copied
        status = self.attempt_without_wait(&call)
        if must_wait(status, deadline):
            call.deadline_ns = deadline
            status = <rf_status>wait_on(self, WAITS_TO_CLAIM, "a put").run(&call)
        if status != RF_OK:
            fail(self, status, 1, timeout)

    cdef rf_status attempt_without_wait(self, _Call *call) noexcept:
        """Attempt a call that copies a record, without the GIL where the record is large."""
        cdef rf_status status
        if self.copy_bytes < COPY_WITHOUT_GIL_BYTES:
            return call.attempt(call)
        self.inside += 1
        with nogil:
            status = call.attempt(call)
        self.left()
        return status

    cdef object sources_of(self, record, const void **sources, _Strictness strictness):
        """Find one sample per field and check it.

        Returns the objects that keep the samples alive, even if another thread changes the record.
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
        return dict(record)  # a mapping may make its values on request

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
            Wait for this many published records. The batch is shorter only in four cases: no more records can come
            (the ring was finished, or no slot is free to publish in); a producer has held a slot amid the records for
            longer than `linger` (at least 5 ms); another taker took the records next to it; or a record comes alone
            (see Notes).
        timeout : float, optional
            Seconds to wait; 0 does not wait, None waits for ever.
        linger : float
            Seconds to wait for `max_rows` once `min_rows` are there.
        on_error : "give_back" or "release"
            What happens to the records when an exception ends the ``with`` block of the batch. By default the next
            taker gets them, as with a message that was not acknowledged; see Notes. "release" drops them.
        while_waiting : callable, optional
            Called about every 50 ms during the wait. The wait ends with `RingEmpty` if it returns true, or with the
            exception that it raises. For threads in which Python runs no signal handlers.

        Warns
        -----
        StalledRingWarning
            The wait lasts, batches, arrays or views hold every slot, and this process holds some of them.

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
            As `RingFinished`, and a producer raised in ``with ring.producing():``. The text is that of the first one.
        RingClosed
            The ring was closed here, or by its owner, and every record has been taken.

        Notes
        -----
        A record is redelivered when its taker died over it, or when an `Exception` ended its ``with`` block. It then
        comes alone, in a batch of one row, so that a record that makes takers fail affects no other record. (With
        `min_rows` above 1 records come together all the same, and the taker fails over all of them.)

        After ``max_deliveries`` failures (`Ring.create`) the record is a dead letter: no taker gets it any more. The
        take that finds it logs its tag and its producer's process (logger "ringfeed"), and `stats` counts it. An
        `Engine` answers its client with an error.

        Other redeliveries are not counted as failures: by `Batch.give_back`, by an engine that stops, by
        KeyboardInterrupt, SystemExit or the cancellation of a task. A process that dies has failed over every batch that
        it holds. A ring made with ``redeliver=False`` drops records instead.
        """
        cdef rf_ring *handle = self.opened()
        cdef rf_take_request request
        cdef rf_status status
        cdef bint releases = releases_on_error(on_error, self.name)
        cdef int64_t deadline = deadline_ns(timeout, self.name)
        cdef _Hold hold
        fill_take_request(&request, self, max_rows, min_rows, linger)
        while True:
            status = RF_AGAIN
            hold = _Hold.__new__(_Hold)
            request.deadline_ns = 0
            if request.linger_ns == 0:
                status = rf_take(handle, &request, &hold.lease)
            request.deadline_ns = deadline
            if (status == RF_EMPTY and deadline != 0) or status == RF_AGAIN:
                status = <rf_status>self.take_by(wait_to_take(self, None, while_waiting), &request, hold)
            if status != RF_OK:
                fail(self, status, request.min_rows, timeout)
            if not rf_lease_is_dead_letter(hold.lease):
                return batch_of(self, hold, releases)
            self.set_aside(hold)

    cdef int take_by(self, _Wait wait, rf_take_request *request, _Hold hold) except -1:
        """Take with a wait. Returns a status."""
        cdef _Call call
        memset(&call, 0, sizeof(call))
        call.attempt = attempt_take
        call.ring = self.handle
        call.request = request
        call.lease = &hold.lease
        request.patient = wait.while_waiting is None
        return wait.run(&call)

    # -- dead letters ------------------------------------------------------------------------------

    cdef int set_aside(self, _Hold hold) except -1:
        """Let an engine answer a dead letter, or log it, and release it. Where that fails, the record is READY again."""
        cdef Batch batch = batch_of(self, hold, False)
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
        """Give dead letters to a callable from now on: each as a batch, which is released afterwards."""
        if self.dead_letter_handlers is None:
            self.dead_letter_handlers = []
        self.dead_letter_handlers.append(handler)

    def _handle_dead_letters_no_more(self, handler):
        if self.dead_letter_handlers is not None and handler in self.dead_letter_handlers:
            self.dead_letter_handlers.remove(handler)
        if not self.dead_letter_handlers:
            self.dead_letter_handlers = None

    # -- the whole ring ----------------------------------------------------------------------------

    def finish(self):
        """Say that no more records come: takers drain the ring, then get `RingFinished`.

        Claims under way may still be published. Any participant may finish the ring, for all producers.
        """
        rf_finish(self.in_use())

    @property
    def ready(self):
        """How many records wait to be taken."""
        return rf_ring_ready(self.opened())

    def stats(self):
        """Return the state of the slots, and counts since the ring was made.

        Returns
        -------
        dict of str to int
            ``slots``, and how many are in each state: ``free``, ``claimed``, ``ready``, ``taken``, ``kept`` (read one
            after the other, not at one instant). ``participants``. Since the ring was made: ``published``,
            ``discarded``, ``taken_total``, ``released``, ``batches``, ``redelivered``, ``dropped``, ``reclaimed``, and
            ``dead_letters`` (records over which ``max_deliveries`` takers failed). How long producers and takers have
            waited, summed over all of them: ``claim_wait_ns``, ``take_wait_ns``.
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
