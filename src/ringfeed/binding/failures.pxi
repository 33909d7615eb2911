# The one place where a C status becomes an exception.

cdef int fail_to_create(RingBase ring, rf_status status, uint64_t needed, slots, spec) except -1:
    cdef int code = errno
    if status == RF_NO_SPACE:
        free_bytes = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize
        raise errors.NoSpace(
            f"ring {ring.name!r}: {slots} slots of {spec.record_bytes} bytes need {needed} bytes of shared memory, "
            f"/dev/shm has {free_bytes} free. Ask for fewer slots, remove what is left in /dev/shm, or make it "
            "larger: docker run --shm-size=..., an emptyDir volume with medium: Memory in Kubernetes, "
            "mount -o remount,size=... /dev/shm elsewhere.")
    if status == RF_TOO_LARGE:
        raise ValueError(
            f"ring {ring.name!r}: {slots} slots of {spec!r} pass a limit: {RF_MAX_SLOTS} slots, 2**63 bytes.")
    if status == RF_INVALID:
        raise ValueError(f"ring {ring.name!r}: {slots} slots of {spec!r} make no ring.")
    if status == RF_SYSTEM:
        raise OSError(code, f"ring {ring.name!r}: could not be created: {os.strerror(code)}")
    fail(ring, status, 0, None)


cdef int fail(RingBase ring, rf_status status, int wanted, timeout) except -1:
    """Raise what a status means. `wanted`: rows that were waited for."""
    cdef int code = errno
    waited = f" after {float(timeout):g} s" if timeout else ""
    if status == RF_FULL:
        raise errors.RingFull(f"ring {ring.name!r}: {why_full(ring, waited)}")
    if status == RF_EMPTY:
        raise errors.RingEmpty(
            f"ring {ring.name!r}: {ring.stats()['ready']} of {wanted} records ready{waited}; the producers are slower "
            "than the taker. Wait longer, or add producers.")
    if status == RF_FINISHED:
        raise errors.RingFinished(f"ring {ring.name!r} was finished: no more records come or are accepted.")
    if status == RF_CLOSED:
        raise errors.RingClosed(
            f"ring {ring.name!r} is closed: by close() here, or its owner closed it or died. Create or attach it anew.")
    if status == RF_SLOT_LOST:
        raise errors.SlotLost(
            f"ring {ring.name!r}: the claim was taken back before it was published (this process had been found "
            "dead, or was forked since). The record is not in the ring: claim and write it again.")
    if status == RF_NOT_A_RING:
        raise errors.LayoutMismatch(
            f"ring {ring.name!r}: what has this name in /dev/shm is no RingFeed ring. Remove it, or choose another name.")
    if status == RF_DAMAGED:
        raise errors.LayoutMismatch(f"ring {ring.name!r} is damaged: its header contradicts its size. Remove and create it anew.")
    if status == RF_CROWDED:
        raise errors.RingFeedError(
            f"ring {ring.name!r}: every participant entry is in use. Create it with a larger participants=.")
    if status == RF_NO_MEMORY:
        raise MemoryError()
    if status == RF_SYSTEM:
        raise OSError(code, f"ring {ring.name!r}: {os.strerror(code)}")
    raise errors.RingFeedError(f"ring {ring.name!r}: status {<int>status}")


cdef why_full(RingBase ring, waited):
    stats = ring.stats()
    slots = f"{stats['free']} of {stats['slots']} slots free{waited}; "
    if stats["taken"] + stats["pinned"] > stats["ready"] and stats["taken"] + stats["pinned"] > stats["claimed"]:
        return slots + (
            f"{stats['taken'] + stats['pinned']} are held by batches or arrays that are still alive. "
            "Release batches and drop their arrays, or add slots.")
    if stats["claimed"] > stats["ready"]:
        return slots + f"{stats['claimed']} are claimed and not published yet. Publish or discard them, or add slots."
    return slots + "the model is slower than the producers. Take larger batches or add slots."
