# A pool of reply cells that is open in this process: which engines serve it, and the waits for answers and for room.

TEXT_BYTES = 1024

cdef enum:
    MOST_SLICES_UNCHECKED = 4

cdef int64_t ENGINE_CHECK_NS = 25_000_000  # between two checks whether an engine lives; a large process takes long to die


cdef int64_t next_check(const rf_ring *pool) noexcept nogil:
    """When a client checks for a living engine: later where many wait, because a dead engine's reaper wakes all of them."""
    cdef int64_t now = rf_now_ns()
    cdef int64_t until = rf_patience_until(pool)
    return until if until > now + 2 * ENGINE_CHECK_NS + 1_000_000 else now + ENGINE_CHECK_NS


ctypedef rf_status (*_Sleep)(rf_ring *pool, uint32_t key, int64_t until_ns) noexcept nogil


cdef class PoolBase:
    """A pool of reply cells that is open in this process; `ringfeed.client.reply_pool.ReplyPool` adds names and opening.

    The fields of its cells are the outputs; the last field is the text of an error.
    """

    cdef readonly RingBase cells
    cdef readonly bint single_output
    cdef readonly uint64_t withdrawn
    cdef readonly uint64_t expired

    def _open(self, RingBase cells not None, bint single_output):
        """Own the opened segment from now on. With `single_output` an answer is its only output, else a dict of all."""
        self.cells = cells
        self.single_output = single_output

    # -- engines -----------------------------------------------------------------------------------

    def engines(self):
        """Return how many living engines answer here: of a pipeline, those of the stage that has the fewest.

        What dead engines held is given back.
        """
        cdef rf_ring *pool = self.cells.opened()
        cdef uint32_t living
        self.cells.inside += 1
        with nogil:
            living = rf_pool_engines(pool)
        self.cells.left()
        return living

    def serve(self, RingBase ring, RingBase output=None, *, model=0, name="", bint same_model=False):
        """Say that this participant takes requests from a ring and answers them; with None, that it no longer does.

        Parameters
        ----------
        ring : Ring or None
            The pool's own ring, or the ring of a later stage.
        output : Ring, optional
            The ring of the next stage, to which it hands requests on instead of answering them.
        model : int
            64 bits, equal for engines of the same model.
        name : str
            The model's name, for messages.
        same_model : bool
            Refuse to serve beside an engine of another model.

        Returns
        -------
        tuple of (str, int) or None
            The engine of another model: its model's name and its process. This participant then does not serve.
        """
        cdef rf_ring *pool = self.cells.opened()
        cdef rf_service service
        cdef uint32_t pid = 0
        cdef char there[RF_NAME_ROOM]
        cdef bytes text = name.encode("utf-8", "replace")[:RF_NAME_ROOM]
        if ring is None:
            rf_pool_serve_as(pool, NULL)
            return None
        memset(&service, 0, sizeof(service))
        service.from_ = place_in(pool, ring)
        service.onward = 0 if output is None else place_of(output)
        service.model = model
        if same_model and rf_pool_has_other_model(pool, &service, &pid):
            return there[:rf_pool_name(pool, service.from_, there)].decode("utf-8", "replace"), pid
        service.name = text
        service.name_bytes = len(text)
        rf_pool_serve_as(pool, &service)
        if same_model and rf_pool_has_other_model(pool, &service, &pid):  # an engine that came in the same moment
            rf_pool_serve_as(pool, NULL)
            return there[:rf_pool_name(pool, service.from_, there)].decode("utf-8", "replace"), pid
        return None

    def peers(self, RingBase ring not None):
        """Return how many other living engines take from a ring."""
        cdef rf_ring *pool = self.cells.opened()
        cdef uint32_t place = place_in(pool, ring), living
        self.cells.inside += 1
        with nogil:
            living = rf_pool_peers(pool, place)
        self.cells.left()
        return living

    def any_engines(self):
        """Return how many living engines serve here, of all stages together."""
        cdef rf_ring *pool = self.cells.opened()
        cdef uint32_t living
        self.cells.inside += 1
        with nogil:
            living = rf_pool_all_engines(pool)
        self.cells.left()
        return living

    def is_lost(self):
        """Tell whether no engine can ever come back to these cells."""
        return False

    def no_engine_left(self, bint wait_for_engine):
        """Tell whether no engine is left; with `wait_for_engine`, whether none can come back either."""
        return not self.engines() and (not wait_for_engine or self.is_lost())

    cdef int require_engine(self, RingBase ring, bint wait_for_engine) except -1:
        """Raise when no engine is left that could make room for a request to a ring."""
        if self.no_engine_left(wait_for_engine):
            raise errors.EngineDied(
                f"ring {ring.name!r}: there is no room for the request, and no engine is left that could make some. "
                "Start an engine and ask again, or make the client with if_engine_dies='wait'.")
        return 0

    # -- asking and answering ----------------------------------------------------------------------

    def ask(self, RingBase ring not None, record, tag, answer_by, timeout, bint notify, bint wait_for_engine):
        """Claim a cell, put one record as a request, and return the `Reply` to come.

        Parameters
        ----------
        record, tag
            As for `Ring.put`; arrays may have either byte order.
        answer_by : int
            CLOCK_MONOTONIC nanoseconds. After them the model need not begin with the request.
        timeout : float or None
            Seconds to wait for a free cell and a free slot.
        notify : bool
            Whether the answer ends `sleep`; else it ends `Reply.wait`.
        wait_for_engine : bool
            Wait for room even if no engine lives that could make some.

        Raises
        ------
        EngineDied
            No engine lives, and there is no room.
        """
        return ask_record(self, ring, record, tag, answer_by, timeout, notify, wait_for_engine)

    def ask_rows(
            self, RingBase ring not None, arrays, uint32_t start, uint32_t stop, tag, answer_by, timeout, bint notify,
            bint wait_for_engine):
        """As `ask`, for rows of arrays: as many as cells and slots lie free in a row, and at least one.

        Parameters
        ----------
        arrays : list of numpy.ndarray
            For each field of the ring, of shape (rows, *field shape), its dtype, rows dense.
        start, stop : int
            The rows to ask for.
        """
        return ask_for_rows(self, ring, arrays, start, stop, tag, answer_by, timeout, notify, wait_for_engine)

    def hold(self, Batch batch not None):
        """Take the requests of a batch in hand, without those that were withdrawn or have expired.

        Returns
        -------
        list of Requests
            Runs of rows for the model: one run, unless rows amid the batch were left out. The batch belongs to them.
        """
        return hold_requests(self, batch)

    # -- waiting for answers and for room ------------------------------------------------------------

    def prepare(self):
        """Announce that this thread waits for any answer. Check the replies next, then `sleep` on the key."""
        return rf_answers_prepare(self.cells.opened())

    def sleep(self, uint32_t key, seconds):
        """Sleep until an answer, `wake`, a signal, or the end of these seconds; at most 50 ms, or longer where many wait."""
        self.sleep_by(rf_answers_sleep, key, seconds)

    def seconds_to_check(self):
        """Return how many seconds a waiting client may sleep before it checks whether an engine lives."""
        return max(next_check(self.cells.opened()) - rf_now_ns(), 0) / 1e9

    def wake(self):
        """Wake the thread that sleeps."""
        rf_answers_wake(self.cells.opened())

    def prepare_for_room(self):
        """Announce that this thread waits for engines to take requests. Check next, then `sleep_for_room` on the key."""
        return rf_room_prepare(self.cells.opened())

    def sleep_for_room(self, uint32_t key, seconds):
        """Sleep until an engine takes requests, a signal, or the end of these seconds; at most 50 ms."""
        self.sleep_by(rf_room_sleep, key, seconds)

    cdef int sleep_by(self, _Sleep sleep, uint32_t key, seconds) except -1:
        cdef rf_ring *pool = self.cells.opened()
        cdef int64_t until = rf_now_ns() + <int64_t>(seconds * 1e9)
        cdef rf_status status
        self.cells.inside += 1
        with nogil:
            status = sleep(pool, key, until)
        self.cells.left()
        if status != RF_OK and status != RF_AGAIN:
            fail(self.cells, status, 1, None)
        return 0


cdef uint32_t place_of(RingBase ring) except 0:
    """Return the number of a stage's ring among the rings of its model, in 30 bits."""
    cdef uint32_t place = <uint32_t>(rf_ring_inode(ring.opened()) & RF_FROM_FIRST)
    return 1 if place == 0 or place == RF_FROM_FIRST else place


cdef uint32_t place_in(rf_ring *pool, RingBase ring) except 0:
    return RF_FROM_FIRST if rf_ring_inode(ring.opened()) == rf_pool_ring_inode(pool) else place_of(ring)
