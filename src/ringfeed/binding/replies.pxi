# Reply cells: a client's questions and their answers, and the requests in an engine's hands.

cdef extern from "replies.h" nogil:
    ctypedef enum rf_outcome:
        RF_PENDING
        RF_OUTPUTS
        RF_FAILED
        RF_LATE
        RF_STOPPED
        RF_ENGINE_DIED

    ctypedef enum rf_waiter:
        RF_WAITER_NONE
        RF_WAITER_CLIENT

    ctypedef struct rf_reply:
        rf_outcome outcome
        uint32_t held
        uint32_t text_bytes
        int64_t asked_ns, held_ns, answered_ns

    uint64_t rf_cell_ask(rf_lease *cells, uint32_t row, int64_t answer_by_ns, rf_waiter waiter)
    void rf_cells_keep(rf_lease *cells, uint32_t rows)
    rf_status rf_cell_inspect(const rf_lease *cells, uint32_t row, rf_reply *reply)
    rf_status rf_cell_wait(rf_lease *cells, uint32_t row, int64_t deadline_ns)
    uint32_t rf_answers_prepare(rf_ring *pool)
    rf_status rf_answers_sleep(rf_ring *pool, uint32_t key, int64_t until_ns)
    void rf_answers_wake(rf_ring *pool)
    uint32_t rf_room_prepare(rf_ring *pool)
    rf_status rf_room_sleep(rf_ring *pool, uint32_t key, int64_t until_ns)
    uint32_t rf_pool_engines(rf_ring *pool)
    uint32_t rf_pool_all_engines(rf_ring *pool)
    uint32_t rf_pool_peers(rf_ring *pool, uint32_t from_)

    ctypedef struct rf_service:
        uint32_t from_ "from"
        uint32_t onward
        uint64_t model
        const char *name
        uint32_t name_bytes

    enum:
        RF_FROM_FIRST
        RF_NAME_ROOM

    void rf_pool_serve_as(rf_ring *pool, const rf_service *service)
    int rf_pool_has_other_model(rf_ring *pool, const rf_service *service, uint32_t *pid)
    uint32_t rf_pool_name(rf_ring *pool, uint32_t from_, char *name)
    int rf_record_is_gone(const rf_ring *ring, uint64_t link)

    ctypedef enum rf_verdict:
        RF_RUNNABLE
        RF_WITHDRAWN
        RF_EXPIRED

    ctypedef struct rf_held:
        uint64_t word
        uint32_t cell
        uint32_t verdict

    uint32_t rf_hold(rf_ring *pool, const rf_lease *batch, rf_held *held)
    uint32_t rf_answer_rows(
        rf_ring *pool, const rf_held *held, uint32_t rows, const void *const *outputs, const uint64_t *strides)
    uint32_t rf_answer_without(
        rf_ring *pool, const rf_held *held, uint32_t rows, rf_outcome outcome, const char *text, uint32_t text_bytes)
    uint64_t rf_held_link(const rf_held *held)
    void rf_let_go(rf_ring *pool, const rf_held *held, uint32_t rows)

PENDING, OUTPUTS, FAILED, LATE, STOPPED, ENGINE_DIED = (
    RF_PENDING, RF_OUTPUTS, RF_FAILED, RF_LATE, RF_STOPPED, RF_ENGINE_DIED)

TEXT_BYTES = 1024

cdef enum:
    MOST_TURNS_UNSEEN = 4

cdef int64_t LIFE_NS = 25_000_000  # between two looks whether an engine lives; a large process takes long to die


cdef int64_t next_look(const rf_ring *pool) noexcept nogil:
    """When a client looks again: later where many wait, for they are woken when an engine is found dead."""
    cdef int64_t now = rf_now_ns()
    cdef int64_t until = rf_patience_until(pool)
    return until if until > now + 2 * LIFE_NS + 1_000_000 else now + LIFE_NS


cdef rf_status wait_for_cell(rf_lease *cells, uint32_t row, const rf_ring *pool, int64_t until, int64_t *look) noexcept nogil:
    """As `rf_cell_wait`, until the caller has to look itself: for a few turns it need not, while another one does."""
    cdef int turn
    cdef rf_status status = RF_EMPTY
    for turn in range(MOST_TURNS_UNSEEN):
        look[0] = next_look(pool)
        status = rf_cell_wait(cells, row, min(until, look[0]))
        if status != RF_EMPTY or until <= look[0] or not rf_another_reaps(pool):
            break
    return status


cdef class PoolBase:
    """A pool of reply cells that is open in this process; `ringfeed.replies.ReplyPool` adds names and opening.

    The fields of its cells are the outputs, and last the text of an error.
    """

    cdef readonly RingBase cells
    cdef readonly bint bare
    cdef readonly uint64_t withdrawn
    cdef readonly uint64_t expired

    def _open(self, RingBase cells not None, bint bare):
        """Take the opened segment over. With `bare` an answer is its only output, else a dict of all."""
        self.cells = cells
        self.bare = bare

    def engines(self):
        """Return how many engines live that answer here, or of the stage that has the fewest; what dead ones held goes back."""
        cdef rf_ring *pool = self.cells.opened()
        cdef uint32_t living
        self.cells.inside += 1
        with nogil:
            living = rf_pool_engines(pool)
        self.cells.left()
        return living

    def serve(self, RingBase ring, RingBase output=None, *, model=0, name="", bint same_model=False):
        """Say that this participant takes requests from a ring and answers them, or no longer (None).

        Parameters
        ----------
        ring : Ring or None
            The pool's own, or that of a later stage.
        output : Ring, optional
            Of the next stage, to which it hands requests on in place of answering.
        model : int
            64 bits that are the same for engines of the same model.
        name : str
            The model's, for messages.
        same_model : bool
            Do not serve beside an engine of another model.

        Returns
        -------
        tuple of (str, int) or None
            Such an engine, by the name of its model and its process: this one does not serve then.
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
        if same_model and rf_pool_has_other_model(pool, &service, &pid):  # it came in the same moment
            rf_pool_serve_as(pool, NULL)
            return there[:rf_pool_name(pool, service.from_, there)].decode("utf-8", "replace"), pid
        return None

    def peers(self, RingBase ring not None):
        """Return how many other engines live that take from a ring."""
        cdef rf_ring *pool = self.cells.opened()
        cdef uint32_t place = place_in(pool, ring), living
        self.cells.inside += 1
        with nogil:
            living = rf_pool_peers(pool, place)
        self.cells.left()
        return living

    def any_engines(self):
        """Return how many engines live that serve here, of all stages together."""
        cdef rf_ring *pool = self.cells.opened()
        cdef uint32_t living
        self.cells.inside += 1
        with nogil:
            living = rf_pool_all_engines(pool)
        self.cells.left()
        return living

    # -- the client's side -------------------------------------------------------------------------

    def ask(self, RingBase ring not None, record, tag, answer_by, timeout, bint told, bint patient):
        """Claim a cell, put one record as a request, and return the `Reply` to come.

        Parameters
        ----------
        record, tag
            As for `Ring.put`; arrays may have either byte order.
        answer_by : int
            CLOCK_MONOTONIC nanoseconds at which the model need not begin with it any more.
        timeout : float or None
            Seconds to wait for a free cell and a free slot.
        told : bool
            Whether `sleep` wakes up by the answer; else `Reply.wait` does.
        patient : bool
            Wait for room also while no engine lives that could make some.

        Raises
        ------
        EngineDied
            No engine lives, and there is no room.
        """
        cdef rf_ring *pool = self.cells.opened()
        cdef rf_ring *handle = ring.opened()
        cdef const void *sources[RF_MAX_FIELDS]
        cdef uint64_t bits = tag_argument(tag, ring.name)
        cdef int64_t deadline = deadline_ns(timeout, ring.name)
        cdef int64_t by = answer_by
        cdef object kept = ring.sources_of(record, sources, SAME_DTYPE)  # alive until it is copied
        cdef Reply reply = self.new_reply(ring, 1, deadline, timeout, patient)
        cdef uint64_t cell
        cdef rf_status status
        cell = rf_cell_ask(reply.hold.lease, 0, by, RF_WAITER_CLIENT if told else RF_WAITER_NONE)
        if ring.copy_bytes < COPY_WITHOUT_GIL_BYTES:
            status = rf_put_request(handle, sources, bits, cell, 0, &reply.links[0])
        else:
            ring.inside += 1
            with nogil:
                status = rf_put_request(handle, sources, bits, cell, 0, &reply.links[0])
            ring.left()
        while (status == RF_FULL and deadline != 0) or status == RF_AGAIN:
            PyErr_CheckSignals()
            ring.inside += 1
            with nogil:
                status = rf_put_request(handle, sources, bits, cell, deadline, &reply.links[0])
            ring.left()
            if status == RF_FULL:
                break
            if status == RF_AGAIN:
                self.look_for_engines(ring, patient)
        if status != RF_OK:
            fail(ring, status, 1, timeout)
        return reply

    def ask_rows(
            self, RingBase ring not None, arrays, uint32_t start, uint32_t stop, tag, answer_by, timeout, bint told,
            bint patient):
        """As `ask`, for rows of arrays, as many as cells and slots lie free in a row: at least one.

        Parameters
        ----------
        arrays : list of numpy.ndarray
            For each field of the ring, of shape (rows, *field shape), its dtype, rows dense.
        start, stop : int
            The rows to ask for.
        """
        cdef int64_t deadline = deadline_ns(timeout, ring.name)
        cdef int64_t by = answer_by
        cdef Reply reply = self.new_reply(ring, stop - start, deadline, timeout, patient)
        cdef Claim claim
        cdef _Hold slots
        cdef uint32_t rows, row
        cdef uint64_t[::1] tags
        cdef rf_status status
        cdef uint64_t *cells = <uint64_t *>calloc(reply.rows, sizeof(uint64_t))
        if cells == NULL:
            raise MemoryError()
        try:
            for row in range(reply.rows):  # from here on they wait for slots
                cells[row] = rf_cell_ask(reply.hold.lease, row, by, RF_WAITER_CLIENT if told else RF_WAITER_NONE)
            claim = self.claim_slots(ring, reply.rows, deadline, timeout, patient)
            slots = claim.held()
            rows = rf_lease_rows(slots.lease)
            if rows < reply.rows:
                reply.keep_rows(rows)
            for i in range(len(ring.layouts)):
                claim.array((<_Layout>ring.layouts[i]).name, RF_VIEW_ROWS)[...] = arrays[i][start:start + rows]
            for row in range(rows):
                reply.links[row] = rf_lease_link(slots.lease, row)
            tags = np.full(rows, tag_argument(tag, ring.name), np.uint64)
            claim.end(slots, "published")
            status = rf_publish_requests(slots.lease, rows, &tags[0], cells, False)
        finally:
            free(cells)
        if status != RF_OK:
            fail(ring, status, 1, timeout)
        return reply

    cdef int look_for_engines(self, RingBase ring, bint patient) except -1:
        """Raise when nobody will make room."""
        if self.is_hopeless(patient):
            raise errors.EngineDied(
                f"ring {ring.name!r}: there is no room for the request, and no engine is left that could make some. "
                "Start an engine and ask again, or make the client with if_engine_dies='wait'.")
        return 0

    cdef bint is_hopeless(self, bint patient) except -1:
        """Is no engine left and, for the patient, will none come?"""
        cdef rf_ring *pool = self.cells.opened()
        cdef uint32_t engines
        self.cells.inside += 1
        with nogil:
            engines = rf_pool_engines(pool)
        self.cells.left()
        return engines == 0 and (not patient or self.is_lost())

    def is_lost(self):
        """Tell whether no engine can ever come back to these cells."""
        return False

    def has_died(self, bint patient):
        """Tell whether no engine is left; for the `patient`, only where none can come back."""
        return self.is_hopeless(patient)

    cdef Claim claim_slots(self, RingBase ring, uint32_t rows, int64_t deadline, timeout, bint patient):
        """As `Ring.claim`, but as long as an engine lives."""
        cdef rf_ring *handle = ring.opened()
        cdef Claim claim = Claim.__new__(Claim)
        cdef _Hold hold = _Hold.__new__(_Hold)
        cdef rf_status status = rf_claim(handle, rows, 0, &hold.lease)
        while (status == RF_FULL and deadline != 0) or status == RF_AGAIN:
            PyErr_CheckSignals()
            ring.inside += 1
            with nogil:
                status = rf_claim(handle, rows, deadline, &hold.lease)
            ring.left()
            if status == RF_FULL:
                break
            if status == RF_AGAIN:
                self.look_for_engines(ring, patient)
        if status != RF_OK:
            fail(ring, status, 1, timeout)
        hold.is_claim = True
        claim.hold = hold
        claim.ring = ring
        claim.kind = RF_VIEW_ROWS
        return claim

    cdef Reply new_reply(self, RingBase ring, uint32_t rows, int64_t deadline, timeout, bint patient):
        cdef rf_ring *pool = self.cells.opened()
        cdef Reply reply = Reply.__new__(Reply)
        cdef _Hold hold = _Hold.__new__(_Hold)
        cdef rf_status status = rf_claim(pool, rows, 0, &hold.lease)
        cdef _Wait wait = None
        while (status == RF_FULL and deadline != 0) or status == RF_AGAIN:
            PyErr_CheckSignals()
            self.cells.inside += 1
            with nogil:
                status = rf_claim(pool, rows, deadline, &hold.lease)
            self.cells.left()
            if status == RF_FULL:
                break
            if status == RF_AGAIN:
                self.look_for_engines(ring, patient)
                wait = noting_stalls(wait, (self.cells,), WAITS_TO_CLAIM, "a request")
        if status == RF_FULL:
            raise errors.RingFull(
                f"ring {ring.name!r}: {'every' if timeout == 0 else f'after {timeout:g} s every'} one of its "
                f"{rf_ring_geometry(pool).slots} reply cells is in use. Let go of answers that are views, wait for "
                "those under way, or start the engine with more reply_cells.")
        if status != RF_OK:
            fail(self.cells, status, 1, timeout)
        reply.hold = hold
        reply.pool = self
        reply.ring = ring
        reply.rows = rf_lease_rows(hold.lease)
        reply.links = <uint64_t *>calloc(reply.rows, sizeof(uint64_t))
        if reply.links == NULL:
            raise MemoryError()
        return reply

    def prepare(self):
        """Leave word that this thread waits for any answer. Look at the replies, then `sleep` on the key."""
        return rf_answers_prepare(self.cells.opened())

    def sleep(self, uint32_t key, seconds):
        """Sleep until an answer comes, `wake`, a signal, or for so many seconds; at most 50 ms, but where many wait."""
        cdef rf_ring *pool = self.cells.opened()
        cdef int64_t until = rf_now_ns() + <int64_t>(seconds * 1e9)
        cdef rf_status status
        self.cells.inside += 1
        with nogil:
            status = rf_answers_sleep(pool, key, until)
        self.cells.left()
        if status != RF_OK and status != RF_AGAIN:
            fail(self.cells, status, 1, None)

    def seconds_to_look(self):
        """For so long may who waits for answers sleep before it looks whether an engine lives."""
        return max(next_look(self.cells.opened()) - rf_now_ns(), 0) / 1e9

    def wake(self):
        """Wake the thread that sleeps."""
        rf_answers_wake(self.cells.opened())

    def prepare_for_room(self):
        """Leave word that this thread waits for engines to take requests. Look, then `sleep_for_room` on the key."""
        return rf_room_prepare(self.cells.opened())

    def sleep_for_room(self, uint32_t key, seconds):
        """Sleep until an engine takes requests, a signal comes, or for so many seconds; at most 50 ms."""
        cdef rf_ring *pool = self.cells.opened()
        cdef int64_t until = rf_now_ns() + <int64_t>(seconds * 1e9)
        cdef rf_status status
        self.cells.inside += 1
        with nogil:
            status = rf_room_sleep(pool, key, until)
        self.cells.left()
        if status != RF_OK and status != RF_AGAIN:
            fail(self.cells, status, 1, None)

    # -- the engine's side -------------------------------------------------------------------------

    def hold(self, Batch batch not None):
        """Take the requests of a batch in hand; those that nobody waits for any more, or whose time is over, go.

        Returns
        -------
        list of Requests
            Runs of rows that the model is to see: one, unless rows amid the batch went. The batch is theirs.
        """
        cdef rf_ring *pool = self.cells.opened()
        cdef _Hold whole_batch = batch.held()
        cdef rf_lease *lease = whole_batch.lease
        cdef uint32_t rows = rf_lease_rows(lease), first = 0, end, row, running
        cdef rf_held *held = <rf_held *>calloc(rows, sizeof(rf_held))
        cdef Requests requests
        cdef list found = []
        if held == NULL or rf_ring_is_closed(pool):
            free(held)
            rf_lease_give_back(lease)
            if held == NULL:
                raise MemoryError()
            raise errors.RingClosed(f"ring {batch.ring.name!r}: this engine's replies were closed.")
        self.cells.inside += 1
        with nogil:  # a record that comes again may have to wait until its dying engine is dead
            running = rf_hold(pool, lease, held)
        self.cells.left()
        if running == rows:
            found.append(make_requests(self, batch, held))
            return found
        whole_batch = None  # a batch that someone looks at can not be split
        try:
            while first < rows:
                end = first + 1
                while end < rows and (held[end].verdict == RF_RUNNABLE) == (held[first].verdict == RF_RUNNABLE):
                    end += 1
                rest = batch.split(end - first) if end < rows else None
                if held[first].verdict != RF_RUNNABLE:
                    for row in range(first, end):
                        self.expired += held[row].verdict == RF_EXPIRED
                        self.withdrawn += held[row].verdict == RF_WITHDRAWN
                if held[first].verdict == RF_RUNNABLE:
                    found.append(make_requests(self, batch, copy_of(held + first, end - first)))
                else:
                    batch.release()
                batch, first = rest, end
        except BaseException:
            for requests in found:
                requests.refuse_rest(RF_FAILED, "the engine failed")
            rf_answer_without(pool, held + first, rows - first, RF_FAILED, b"the engine failed", 17)
            raise
        finally:
            free(held)
        return found


cdef uint32_t place_of(RingBase ring) except 0:
    """Return how a stage's ring is named among those of its model, in 30 bits."""
    cdef uint32_t place = <uint32_t>(rf_ring_inode(ring.opened()) & RF_FROM_FIRST)
    return 1 if place == 0 or place == RF_FROM_FIRST else place


cdef uint32_t place_in(rf_ring *pool, RingBase ring) except 0:
    return RF_FROM_FIRST if rf_ring_inode(ring.opened()) == rf_pool_ring_inode(pool) else place_of(ring)


cdef rf_held *copy_of(rf_held *held, uint32_t rows) except NULL:
    cdef rf_held *copy = <rf_held *>calloc(rows, sizeof(rf_held))
    if copy == NULL:
        raise MemoryError()
    memcpy(copy, held, rows * sizeof(rf_held))
    return copy


cdef Requests make_requests(PoolBase pool, Batch batch, rf_held *held):
    cdef Requests requests = Requests.__new__(Requests)
    requests.pool = pool
    requests.batch = batch
    requests.held = held
    requests.rows = rf_lease_rows(batch.held().lease)
    requests.left = requests.rows
    return requests


@cython.final
@cython.no_gc_clear  # its end needs the pool and the batch
cdef class Requests:
    """Rows in an engine's hands: a batch, and the cells that wait for answers.

    Whoever drops it unanswered gives the cells back: they wait for another engine.
    """

    cdef PoolBase pool
    cdef readonly Batch batch
    cdef rf_held *held
    cdef readonly uint32_t rows
    cdef uint32_t left

    def __init__(self):
        raise TypeError("Requests are made by ReplyPool.hold.")

    def __dealloc__(self):
        if self.held != NULL:
            if self.left:
                rf_let_go(self.pool.cells.handle, self.held, self.rows)
                self.pool.cells.retire_if_idle()
                if self.batch is not None and self.batch.hold is not None:
                    rf_lease_give_back(self.batch.hold.lease)
            free(self.held)

    def __len__(self):
        return self.rows

    cdef int check(self, uint32_t start, uint32_t stop) except -1:
        if start >= stop or stop > self.rows:
            raise IndexError(f"rows {start} to {stop} of {self.rows}")
        return 0

    cdef int settle(self, uint32_t start, uint32_t stop) except -1:
        memset(self.held + start, 0, (stop - start) * sizeof(rf_held))
        self.left -= min(stop - start, self.left)
        if self.left == 0:
            self.pool.cells.retire_if_idle()  # a pool that was closed waited for what was in hand
        return 0

    def answer(self, outputs, uint32_t start, uint32_t stop):
        """Write outputs into the cells of rows `start` to `stop`, and wake who waits.

        Parameters
        ----------
        outputs : list of numpy.ndarray
            One for each output field, of shape (stop - start or more, *shape) and its dtype.

        Returns
        -------
        int
            How many were answered: the others were withdrawn meanwhile, or want none.

        Raises
        ------
        RecordMismatch
            An output has not the shape or dtype of its field; nothing was answered.
        """
        cdef const void *sources[RF_MAX_FIELDS]
        cdef uint64_t strides[RF_MAX_FIELDS]
        cdef rf_ring *pool = self.pool.cells.opened()
        cdef rf_held *held = self.held + start
        cdef Py_ssize_t i, fields = len(self.pool.cells.layouts) - 1
        cdef uint32_t rows = stop - start, answered
        cdef _Layout layout
        cdef cnp.ndarray array
        self.check(start, stop)
        if len(outputs) != fields:
            raise errors.RecordMismatch(f"{len(outputs)} outputs were given for {fields} fields.")
        for i in range(fields):
            layout = <_Layout>self.pool.cells.layouts[i]
            array = outputs[i]
            if not layout.fits_rows(array, rows):
                raise errors.RecordMismatch(
                    f"output {layout.name!r} is {array.dtype.name}{list(cnp_shape(array))} for {rows} rows; its replies "
                    f"hold {layout.dtype.name}{[rows, *layout.field.shape]}.")
            sources[i] = cnp.PyArray_DATA(array)
            strides[i] = cnp.PyArray_STRIDE(array, 0)
        if self.pool.cells.copy_bytes * rows < COPY_WITHOUT_GIL_BYTES:
            answered = rf_answer_rows(pool, held, rows, sources, strides)
        else:
            self.pool.cells.inside += 1
            with nogil:
                answered = rf_answer_rows(pool, held, rows, sources, strides)
            self.pool.cells.left()
        self.settle(start, stop)
        return answered

    def refuse(self, rf_outcome outcome, str text, uint32_t start, uint32_t stop):
        """Answer rows `start` to `stop` without outputs: with `FAILED` or `STOPPED`, and a text."""
        cdef bytes encoded = text.encode("utf-8", "replace")
        cdef const char *characters = encoded
        cdef uint32_t answered
        self.check(start, stop)
        answered = rf_answer_without(
            self.pool.cells.opened(), self.held + start, stop - start, outcome, characters, len(encoded))
        self.settle(start, stop)
        return answered

    def refuse_rest(self, rf_outcome outcome, text):
        """Answer whatever was not answered yet without outputs."""
        if self.left:
            self.refuse(outcome, text, 0, self.rows)
            self.left = 0

    def hand_on(self, Claim claim not None, uint32_t start):
        """Publish a claim on another ring as the same requests, from row `start` on: whoever takes it answers them.

        The cells are let go first. Killed behind that, this engine leaves the requests in both rings; they are
        answered once.
        """
        cdef _Hold slots = claim.held()
        cdef rf_lease *batch = self.batch.held().lease
        cdef uint32_t rows = rf_lease_rows(slots.lease), row
        cdef uint64_t *links
        cdef uint64_t *tags
        cdef rf_status status
        self.check(start, start + rows)
        links = <uint64_t *>calloc(self.rows + rows, sizeof(uint64_t))
        if links == NULL:
            raise MemoryError()
        try:
            tags = links + rows
            rf_lease_tags(batch, tags)
            for row in range(rows):
                links[row] = rf_held_link(&self.held[start + row])
            rf_let_go(self.pool.cells.opened(), self.held + start, rows)
            claim.end(slots, "published")
            status = rf_publish_requests(slots.lease, rows, tags + start, links, False)
        finally:
            free(links)
        self.settle(start, start + rows)
        if status != RF_OK:
            fail(claim.ring, status, 0, None)

    def give_back(self):
        """Give what was not answered back to the ring, for other engines; the batch's end does it."""
        self.let_go()
        rf_lease_give_back(self.batch.held().lease)

    def let_go(self):
        """Let go of the cells that were not answered: they wait for whoever takes their records next."""
        rf_let_go(self.pool.cells.opened(), self.held, self.rows)
        self.settle(0, self.rows)


@cython.final
cdef class Reply:
    """The answers to come to requests that were made together; dropping it withdraws what is not answered."""

    cdef _Hold hold
    cdef readonly PoolBase pool
    cdef readonly RingBase ring
    cdef readonly uint32_t rows
    cdef uint64_t *links

    def __init__(self):
        raise TypeError("Replies are made by ReplyPool.ask.")

    def __dealloc__(self):
        free(self.links)

    cdef _Hold held(self):
        if self.hold is None:
            raise errors.RingFeedError(f"ring {self.ring.name!r}: this request was withdrawn, or its answer was read.")
        return self.hold

    cdef int keep_rows(self, uint32_t rows) except -1:
        """Give cells back that nothing was asked with."""
        rf_cells_keep(self.hold.lease, rows)
        self.rows = rows
        return 0

    def withdraw(self):
        """Say that nobody waits for it any more, or that it was read. Views of outputs stay valid."""
        self.hold = None

    cdef int look(self, uint32_t row, rf_reply *reply) except -1:
        cdef rf_status status = rf_cell_inspect(self.held().lease, row, reply)
        if status != RF_OK:
            fail(self.ring, status, 0, None)
        return 0

    def done(self):
        """Is every row answered, in whatever way?"""
        cdef rf_reply reply
        cdef uint32_t row
        for row in range(self.rows):
            self.look(row, &reply)
            if reply.outcome == RF_PENDING:
                return False
        return True

    def started(self):
        """Does an engine hold a row of it, or has one answered?"""
        cdef rf_reply reply
        cdef uint32_t row
        for row in range(self.rows):
            self.look(row, &reply)
            if reply.held or reply.outcome != RF_PENDING:
                return True
        return False

    def wait(self, int64_t until, bint patient):
        """Wait until every row is answered.

        Parameters
        ----------
        until : int
            CLOCK_MONOTONIC nanoseconds.
        patient : bool
            Wait also while no engine lives: one may come.

        Returns
        -------
        bool
            False when the time was over before.

        Raises
        ------
        EngineDied
            No engine lives, and one that lived would be needed.
        """
        cdef _Hold hold = self.held()
        cdef rf_status status
        cdef int64_t look
        cdef uint32_t row = self.rows
        while row > 0:  # the last first: the others are then answered, mostly
            with nogil:
                status = wait_for_cell(hold.lease, row - 1, self.pool.cells.handle, until, &look)
            if status == RF_OK:
                row -= 1
            elif status == RF_EMPTY and until <= look:
                return False
            elif status == RF_AGAIN or status == RF_EMPTY:
                PyErr_CheckSignals()
                self.check_for_life(patient)
            else:
                fail(self.ring, status, 0, None)
        return True

    def check_for_life(self, bint patient):
        """Give back what the dead held. Raise when nobody will answer.

        Raises
        ------
        EngineDied
            No engine lives (unless `patient`), or the request was dropped with the engine that had taken it.
        """
        cdef rf_ring *ring = self.ring.opened()
        cdef bint hopeless = self.pool.is_hopeless(patient)
        self.ring.inside += 1
        with nogil:
            rf_reap(ring)
        self.ring.left()
        if hopeless:
            self.give_up()
        self.check_if_dropped()

    def give_up(self):
        """Raise `EngineDied` where rows are not answered: no engine is left."""
        if not self.done():
            raise errors.EngineDied(
                f"ring {self.ring.name!r}: no engine is left that could answer: it died or was stopped. The request is "
                "withdrawn. Start an engine and ask again, or make the client with if_engine_dies='wait'.")

    def check_if_dropped(self):
        """Raise `EngineDied` where a row was dropped with the engine that had taken it (redeliver=False)."""
        cdef rf_ring *ring = self.ring.opened()
        cdef rf_reply reply
        cdef uint32_t row
        cdef bint gone
        if rf_ring_redelivers(ring):
            return
        for row in range(self.rows):
            gone = self.links[row] != 0 and rf_record_is_gone(ring, self.links[row])
            self.look(row, &reply)  # behind the look at the record: an engine holds the cell before it releases that
            if gone and reply.outcome == RF_PENDING and not reply.held:
                raise errors.EngineDied(
                    f"ring {self.ring.name!r}: the engine that had taken the request died, and the ring drops what the "
                    "dead had taken (redeliver=False). Ask again.")

    def outcome(self, uint32_t row):
        """Return what became of a row, and the text of an error."""
        cdef rf_reply reply
        cdef _Layout layout = <_Layout>self.pool.cells.layouts[len(self.pool.cells.layouts) - 1]
        cdef const char *characters
        if row >= self.rows:
            raise IndexError(f"row {row} of {self.rows}")
        self.look(row, &reply)
        characters = <const char *>rf_lease_data(self.hold.lease, layout.index) + row * layout.stride_bytes
        return reply.outcome, characters[:reply.text_bytes].decode("utf-8", "replace")

    def outputs(self, bint copy, bint with_rows):
        """Return the outputs: arrays of their own memory, or views of the cells, which they keep.

        Of shape (rows, *shape) or, without rows, of the only one's shape.
        """
        cdef _Hold hold = self.held()
        cdef list layouts = self.pool.cells.layouts
        cdef Py_ssize_t i
        cdef rf_view kind = RF_VIEW_ROWS if with_rows else RF_VIEW_SAMPLE
        cdef _Layout layout
        if self.pool.bare:
            return output_of(<_Layout>layouts[0], hold, kind, copy)
        return {
            (<_Layout>layouts[i]).name: output_of(<_Layout>layouts[i], hold, kind, copy)
            for i in range(len(layouts) - 1)
        }


cdef object output_of(_Layout layout, _Hold hold, rf_view kind, bint copy):
    cdef object view = layout.view(hold, kind)
    return cnp.PyArray_NewCopy(view, cnp.NPY_CORDER) if copy else view


cdef tuple cnp_shape(cnp.ndarray array):
    return tuple([cnp.PyArray_DIM(array, axis) for axis in range(cnp.PyArray_NDIM(array))])
