# A ring's memory and a GPU's driver. Why memory is pinned, and what a refusal means, is pinning.py's business.

def pin_ring(RingBase ring not None, driver, unsigned flags):
    """Register the ring's payload; `driver` is a `pinning.Driver`.

    Returns
    -------
    (int, int)
        How it is registered (``rf_pin_way``), and the driver's number for why it is not more.
    """
    cdef rf_ring *handle = ring.opened()
    cdef rf_pin_driver functions
    cdef rf_pin_report report
    functions.context = <void *><size_t>driver.context
    functions.push = <void *><size_t>driver.push
    functions.pop = <void *><size_t>driver.pop
    functions.host_register = <void *><size_t>driver.host_register
    functions.host_unregister = <void *><size_t>driver.host_unregister
    functions.allocate = <void *><size_t>driver.allocate
    functions.copy = <void *><size_t>driver.copy
    functions.release = <void *><size_t>driver.release
    if rf_ring_is_retired(handle):
        fail(ring, RF_CLOSED, 0, None)
    ring.inside += 1
    with nogil:  # it may take seconds
        report = rf_ring_pin(handle, &functions, flags)
    ring.left()
    return <int>report.way, report.refusal


def unpin_ring(RingBase ring not None):
    """Count down, and unregister at 0. Returns 0, or the driver's number for why it did not."""
    cdef rf_ring *handle = ring.opened()
    cdef int refused
    ring.inside += 1
    with nogil:
        refused = rf_ring_unpin(handle)
    ring.left()
    return refused


def ring_is_pinned(RingBase ring not None):
    cdef rf_ring *handle = ring.opened()
    cdef int pinned
    ring.inside += 1
    with nogil:
        pinned = rf_ring_is_pinned(handle)
    ring.left()
    return pinned != 0
