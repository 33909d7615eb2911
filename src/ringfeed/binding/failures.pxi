# The one place where a C status becomes an exception.

# A smaller segment is like any other allocation, and not worth reading files of the kernel.
cdef enum:
    SMALL_SEGMENT_BYTES = 1048576


cdef int check_for_memory(RingHandle ring, int fd, rf_geometry *geometry, slots, spec) except -1:
    """Refuse a segment that passes a memory limit: the kernel would kill the process that reserves it."""
    cdef uint64_t needed = geometry.segment_bytes
    cdef int64_t free_bytes = rf_segment_free_bytes(fd)
    if needed < SMALL_SEGMENT_BYTES or (free_bytes >= 0 and <uint64_t>free_bytes < needed):
        return 0  # rf_ring_create reports the file system's limit
    room = memory_limits.room(with_swap=True)
    if room.bytes < needed:
        fail_for_memory(ring, geometry, slots, spec, room)
    return 0


cdef asked_for(rf_geometry *geometry, slots, spec):
    """Describe the slots that were asked for, how they were rounded and why, and the memory that they need."""
    cdef uint32_t i
    cdef uint64_t payload = 0
    rounded = ""
    if geometry.slots != <uint64_t>slots:
        rounded = (
            f" (rounded up to {geometry.slots} slots, with which every field fills whole pages of {geometry.page_bytes} "
            "bytes, so that a batch may pass the ring's end)")
    for i in range(geometry.fields):
        payload += geometry.field[i].region_bytes
    if payload > <uint64_t>geometry.slots * spec.record_bytes:
        rounded = f" (each field padded to whole pages of {geometry.page_bytes} bytes)"
    return f"{slots} slots of {spec.record_bytes} bytes{rounded} need {geometry.segment_bytes} bytes"


cdef int fail_for_memory(RingHandle ring, rf_geometry *geometry, slots, spec, room) except -1:
    raise errors.NoSpace(
        f"ring {ring.name!r}: {asked_for(geometry, slots, spec)} of memory, {room.limit} "
        f"has {room.bytes} left. Ask for fewer slots, end other programs that use memory, or raise the limit: "
        "docker run --memory=..., resources.limits.memory in Kubernetes.")


cdef int fail_to_create(RingHandle ring, rf_status status, rf_geometry *geometry, slots, spec, bint nameless) except -1:
    cdef int code = errno
    if status == RF_NO_SPACE and (nameless or code == ENOMEM):
        fail_for_memory(ring, geometry, slots, spec, memory_limits.room(with_swap=True))
    if status == RF_NO_SPACE:
        free_bytes = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize
        raise errors.NoSpace(
            f"ring {ring.name!r}: {asked_for(geometry, slots, spec)} of shared memory, "
            f"/dev/shm has {free_bytes} free. Ask for fewer slots, remove old files from /dev/shm, or make it "
            "larger: docker run --shm-size=..., an emptyDir volume with medium: Memory in Kubernetes, "
            "mount -o remount,size=... /dev/shm elsewhere.")
    if status == RF_TOO_LARGE:
        raise ValueError(
            f"ring {ring.name!r}: {slots} slots of {spec!r} pass a limit: {RF_MAX_SLOTS} slots, 2**63 bytes.")
    if status == RF_INVALID:
        raise ValueError(f"ring {ring.name!r}: invalid ring layout: {slots} slots of {spec!r}. Give other fields, or fewer slots.")
    if status == RF_SYSTEM and code not in (EMFILE, ENFILE):
        raise OSError(code, f"ring {ring.name!r}: could not be created: {os.strerror(code)}")
    fail(ring, status, 0, None)


cdef int fail(RingHandle ring, rf_status status, int wanted, timeout) except -1:
    """Raise the error of a status. `wanted`: how many rows the caller waited for."""
    cdef int code = errno
    waited = f" after {float(timeout):g} s" if timeout else ""
    if status == RF_FULL:
        raise errors.RingFull(f"ring {ring.name!r}: {why_full(ring, waited)}", resource="slots")
    if status == RF_EMPTY:
        raise errors.RingEmpty(f"ring {ring.name!r}: {why_empty(ring, wanted, waited)}")
    if status == RF_PRODUCER_FAILED:
        fail_for_producer(ring)
    if status == RF_FINISHED:
        raise errors.RingFinished(f"ring {ring.name!r} was finished: no more records come or are accepted. Create a new ring to go on.")
    if status == RF_CLOSED:
        raise errors.RingClosed(
            f"ring {ring.name!r} is closed: by close() here, or its owner closed it or died. Create or attach it anew.")
    if status == RF_SLOT_LOST:
        raise errors.SlotLost(
            f"ring {ring.name!r}: the claim was taken back before it was published (another process had found this one "
            "dead, or it was forked since). The record is not in the ring: claim and write it again.")
    if status == RF_NOT_A_RING:
        raise errors.LayoutMismatch(
            f"ring {ring.name!r}: the file of this name in /dev/shm is no RingFeed ring. Remove it, or choose another name.")
    if status == RF_DAMAGED:
        raise errors.LayoutMismatch(f"ring {ring.name!r} is damaged: its header contradicts its size. Remove and create it anew.")
    if status == RF_CROWDED:
        raise errors.RingFeedError(
            f"ring {ring.name!r}: every participant entry is in use. Create it with a larger participants=.")
    if status == RF_NO_MEMORY:
        raise MemoryError()
    if status == RF_NO_DESCRIPTOR:
        raise errors.RingFeedError(
            f"ring {ring.name!r}: its segment cannot be opened again for this process's lock: /proc is not mounted, or other code of "
            "this process has closed the descriptor (os.closerange?). Mount /proc, or attach the ring after that code.")
    if status == RF_SYSTEM and code in (EMFILE, ENFILE):
        raise errors.RingFeedError(
            f"ring {ring.name!r}: no descriptor is left: this process may have "
            f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]} open. Close some, or raise the limit (ulimit -n).")
    if status == RF_SYSTEM:
        raise OSError(code, f"ring {ring.name!r}: {os.strerror(code)}")
    raise errors.RingFeedError(f"ring {ring.name!r}: status {<int>status}")


cdef why_full(RingHandle ring, waited):
    stats = ring.stats()
    slots = f"{stats['free']} of {stats['slots']} slots free{waited}; "
    if stats["taken"] + stats["kept"] > stats["ready"] and stats["taken"] + stats["kept"] > stats["claimed"]:
        return slots + (
            f"{stats['taken'] + stats['kept']} are held by batches or arrays that are alive. Release batches and "
            f"drop their arrays, or add slots. Held are {stall.who_holds(ring._holdings())}.")
    if stats["claimed"] > stats["ready"]:
        return slots + (
            f"{stats['claimed']} are claimed and not published yet. Publish or discard them, or add slots. Held are "
            f"{stall.who_holds(ring._holdings())}.")
    return slots + "the model is slower than the producers. Take larger batches or add slots."


cdef why_empty(RingHandle ring, int wanted, waited):
    stats = ring.stats()
    ready = f"{stats['ready']} of {wanted} records ready{waited}; "
    if stats["free"] + stats["claimed"] + stats["ready"] == 0:
        return ready + f"all {stats['slots']} slots are held: {stall.who_holds(ring._holdings())}. {stall.REMEDY}"
    return ready + f"the producers are slower than the taker. Wait longer, or add producers.{missing_producers(ring)}"
