# Meters: where the time goes.

cdef extern from "meter.h" nogil:
    ctypedef enum rf_phase:
        RF_PHASE_SLOT
        RF_PHASE_PREPROCESS
        RF_PHASE_QUEUE
        RF_PHASE_COPY
        RF_PHASE_COMPUTE
        RF_PHASE_REPLY
        RF_PHASE_TOTAL
        RF_PHASES

    ctypedef enum rf_idle:
        RF_IDLE_STARVED
        RF_IDLE_BATCHING

    enum:
        RF_METER_BUCKETS

    ctypedef struct rf_meter:
        pass

    ctypedef struct rf_reading:
        uint64_t count
        uint64_t sum_ns
        uint64_t buckets[168]

    rf_meter *rf_meter_new()
    void rf_meter_free(rf_meter *meter)
    void rf_meter_batch(
        rf_meter *meter, const rf_lease *batch, const rf_ring *pool, const rf_held *held, int64_t idle_since_ns)
    void rf_meter_answers(rf_meter *meter, const rf_ring *pool, const rf_held *held, uint32_t rows, int64_t now_ns)
    void rf_meter_add(rf_meter *meter, rf_phase phase, int64_t ns)
    void rf_meter_read(rf_meter *meter, rf_phase phase, rf_reading *reading)
    uint64_t rf_meter_idle_ns(rf_meter *meter, rf_idle cause)
    uint32_t rf_meter_producers(rf_meter *meter)
    uint64_t rf_bucket_end_ns(uint32_t bucket)

COPY, COMPUTE, REPLY = RF_PHASE_COPY, RF_PHASE_COMPUTE, RF_PHASE_REPLY

cdef dict PHASES = {
    "slot": RF_PHASE_SLOT,
    "preprocess": RF_PHASE_PREPROCESS,
    "queue": RF_PHASE_QUEUE,
    "copy": RF_PHASE_COPY,
    "compute": RF_PHASE_COMPUTE,
    "reply": RF_PHASE_REPLY,
    "total": RF_PHASE_TOTAL,
}

BUCKET_ENDS_NS = [rf_bucket_end_ns(bucket) for bucket in range(RF_METER_BUCKETS)]


@cython.final
cdef class Meter:
    """Histograms of the phases that records go through, and what devices waited for. Threads may share it."""

    cdef rf_meter *meter

    def __cinit__(self):
        self.meter = rf_meter_new()
        if self.meter == NULL:
            raise MemoryError()

    def __dealloc__(self):
        rf_meter_free(self.meter)

    def begin(self, Requests requests not None, int64_t idle_since, bint asked_here):
        """Count what the slots of a batch tell, and why its device was idle since then (nanoseconds).

        With `asked_here` its ring is the one that clients put their requests into: then their waits for a slot count.
        """
        rf_meter_batch(
            self.meter, requests.batch.held().lease, requests.pool.cells.handle,
            requests.held if asked_here else NULL, idle_since)

    def answered(self, Requests requests not None, uint32_t start, uint32_t stop):
        """Count how long requests took; before they are answered, since then the cells are their clients'."""
        requests.check(start, stop)
        rf_meter_answers(self.meter, requests.pool.cells.handle, requests.held + start, stop - start, rf_now_ns())

    def add(self, rf_phase phase, int64_t nanoseconds):
        """Count one time of `COPY`, `COMPUTE` or `REPLY`."""
        rf_meter_add(self.meter, phase, nanoseconds)

    def read(self):
        """Return for each phase (count, sum in nanoseconds, list of counts for each of `BUCKET_ENDS_NS`)."""
        cdef rf_reading reading
        cdef dict found = {}
        for name, phase in PHASES.items():
            rf_meter_read(self.meter, phase, &reading)
            found[name] = (reading.count, reading.sum_ns, [reading.buckets[i] for i in range(RF_METER_BUCKETS)])
        return found

    def idle(self):
        """Return how many nanoseconds devices were starved, and how many they waited for larger batches."""
        return rf_meter_idle_ns(self.meter, RF_IDLE_STARVED), rf_meter_idle_ns(self.meter, RF_IDLE_BATCHING)

    def producers(self):
        """Return how many producers records came from."""
        return rf_meter_producers(self.meter)
