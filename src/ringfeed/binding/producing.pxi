# Producing blocks: `with ring.producing():`.

# How many blocks are open by handle, process, thread and task. A block inside another one is no further producer.
cdef dict open_blocks = {}


cdef object current_task():
    """The number of the asyncio task that runs here; None outside of tasks."""
    cdef object asyncio = sys.modules.get("asyncio")
    cdef object task
    if asyncio is None:
        return None
    try:
        task = asyncio.current_task()
    except (RuntimeError, AttributeError):  # no loop runs in this thread; or asyncio is being imported
        return None
    return None if task is None else id(task)


@cython.final
@cython.no_gc_clear
cdef class Producing:
    """A block in which this process produces; `Ring.producing` makes and describes it."""

    cdef tuple rings
    cdef list keys
    cdef rf_block blocks[RF_MOST_LEVELS]
    cdef int entered  # of the rings

    def __cinit__(self, tuple rings not None):
        self.rings = rings
        self.keys = []

    def __dealloc__(self):
        if self.entered:  # no other object can end it
            self.leave()

    def __enter__(self):
        cdef RingBase ring
        cdef rf_ring *handle
        cdef rf_status status
        cdef tuple place = (os.getpid(), PyThread_get_thread_ident(), current_task())
        cdef object before
        if self.entered:
            raise RuntimeError(
                f"ring {(<RingBase>self.rings[0]).name!r}: this block is already open. Call ring.producing() for each block.")
        for ring in self.rings:
            handle = ring.opened()
            key = (<size_t>handle, *place)
            before = open_blocks.get(key, 0)
            status = rf_producing_begin(handle, before > 0, &self.blocks[self.entered])
            if status != RF_OK:
                self.leave()
                self.refuse(ring, status)
            open_blocks[key] = before + 1
            self.keys.append(key)
            self.entered += 1
        return self.rings[0]

    def __exit__(self, kind, error, traceback):
        try:
            if kind is not None and not self.just_leaves(error):
                self.tell(error)
        finally:
            self.leave()

    cdef int refuse(self, RingBase ring, rf_status status) except -1:
        if status == RF_FINISHED:
            raise errors.RingFinished(
                f"ring {ring.name!r} was finished before this producer came: by finish(), or because all producers "
                "had left. If producers come one after another, say how many: Ring.create(..., producers=n).")
        return fail(ring, status, 0, None)

    cdef bint just_leaves(self, error):
        """Is the error no failure? It is none if the ring has ended, or if the program exits with 0."""
        cdef RingBase ring
        if isinstance(error, SystemExit):
            return error.code is None or (isinstance(error.code, int) and error.code == 0)
        if isinstance(error, (errors.RingFinished, errors.RingClosed)):
            for ring in self.rings:
                if rf_ring_has_ended(ring.handle):
                    return True
        return False

    cdef tell(self, error):
        cdef RingBase ring
        cdef int level
        cdef bytes text = f"In process {os.getpid()}: an exception".encode()  # if Ctrl-C interrupts failure_text
        cdef const char *chars
        try:
            text = failure_text(error, RF_FAILURE_BYTES)
        finally:
            chars = text
            for level in range(self.entered):
                ring = self.rings[level]
                rf_producing_fail(ring.handle, self.blocks[level], chars, len(text))

    cdef void leave(self) noexcept:
        cdef int level
        for level in range(self.entered):
            rf_producing_end((<RingBase>self.rings[level]).handle, self.blocks[level])
            (<RingBase>self.rings[level]).retire_if_idle()
        self.entered = 0
        while self.keys:
            key = self.keys.pop()
            if open_blocks[key] > 1:
                open_blocks[key] -= 1
            else:
                del open_blocks[key]


cdef int fail_for_producer(RingHandle ring) except -1:
    """Raise, in a taker, the error of the ring's producer."""
    cdef char text[RF_FAILURE_BYTES + 1]
    cdef uint32_t count = rf_ring_failure(ring.handle, text)
    raise errors.ProducerFailed(
        f"ring {ring.name!r}: a producer raised, and no more records come. Fix the producer, and create the ring anew. "
        f"{text[:count].decode('utf-8', 'replace')}")


cdef str missing_producers(RingHandle ring):
    """Name the producers that a taker may still wait for; an empty text if all have come."""
    cdef uint64_t wanted = rf_ring_producers_wanted(ring.handle), entered = rf_ring_producers_entered(ring.handle)
    return f" The ring was made for producers={wanted}, and {entered} have come." if entered < wanted else ""
