# Page-locking a ring's memory with a GPU's driver. page_locking.py knows the reasons, and what a refusal means.

def pin_ring(RingBase ring not None, driver, unsigned flags):
    """Register the ring's payload; `driver` is a `page_locking.Driver`.

    Returns
    -------
    (int, int)
        How it is registered (``rf_pin_way``), and the driver's error number if it refused a better way.
    """
    cdef rf_ring *handle = ring.in_use()
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
    ring.inside += 1
    with nogil:  # it may take seconds
        report = rf_ring_pin(handle, &functions, flags)
    ring.left()
    return <int>report.way, report.refusal


def unpin_ring(RingBase ring not None):
    """Undo one `pin_ring`, and unregister with the last. Returns 0, or the driver's error number."""
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
