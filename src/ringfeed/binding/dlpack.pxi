# Held slots as DLPack capsules.

cdef void drop_capsule(object capsule) noexcept:
    """Delete the tensor, if no library has consumed the capsule."""
    if PyCapsule_IsValid(capsule, b"dltensor"):
        rf_export_delete(PyCapsule_GetPointer(capsule, b"dltensor"), 0)
    elif PyCapsule_IsValid(capsule, b"dltensor_versioned"):
        rf_export_delete(PyCapsule_GetPointer(capsule, b"dltensor_versioned"), 1)
    elif PyCapsule_IsValid(capsule, b"ended_dltensor"):
        rf_export_delete(PyCapsule_GetPointer(capsule, b"ended_dltensor"), 0)


cdef int note_capsule(_Hold hold, capsule) except -1:
    """Remember a capsule that must not be written through once the claim has ended."""
    if hold.capsules is None:
        hold.capsules = []
    elif len(hold.capsules) >= 16:
        hold.capsules = [known for known in hold.capsules if is_waiting(known)]
    hold.capsules.append(capsule)
    return 0


cdef bint is_waiting(capsule):
    """Can a library still consume the capsule?"""
    return PyCapsule_IsValid(capsule, b"dltensor") or PyCapsule_IsValid(capsule, b"dltensor_versioned")


cdef Py_ssize_t make_read_only(_Hold hold) except -1:
    """The claim ends: make capsules that no library has consumed read-only, or unusable.

    Returns how many of them still refer to the lease.
    """
    cdef list capsules = hold.capsules
    cdef Py_ssize_t left = 0
    hold.is_read_only = True
    hold.capsules = None
    if capsules is None:
        return 0
    while capsules:
        capsule = capsules.pop()
        if Py_REFCNT(<PyObject *>capsule) == 1:
            pass  # only we refer to it: it is deleted, with its tensor
        elif PyCapsule_IsValid(capsule, b"dltensor_versioned"):
            rf_export_make_read_only(PyCapsule_GetPointer(capsule, b"dltensor_versioned"))
            left += 1
        elif PyCapsule_IsValid(capsule, b"dltensor"):
            PyCapsule_SetName(capsule, b"ended_dltensor")  # no library consumes it any more; it keeps its slot
            left += 1
    return left


cdef bint speaks_versions(max_version) except -1:
    """Does the caller know DLPack 1.0?"""
    if max_version is None:
        return False
    try:
        version = [PyNumber_Index(part) for part in max_version]
    except TypeError:
        raise TypeError(f"max_version {max_version!r:.80}: give (major, minor), such as (1, 0), or None.") from None
    return version >= [1, 0]


@cython.final
cdef class DLPackView:
    """A field of a batch or slot for any library that knows DLPack.

    ``torch.from_dlpack(view)``, ``jax.dlpack.from_dlpack(view)``, ``numpy.from_dlpack(view)`` and
    ``tf.experimental.dlpack.from_dlpack(view.__dlpack__())`` see the ring's own memory. The slots
    stay taken until the library has deleted every tensor made this way; it may do so in any thread. With ``copy=True``
    the tensor has its own memory and keeps no slot.

    The memory is writable, except a claim's after its end: from then on the view's tensors are read-only, and so are
    capsules that no library has consumed. A tensor that a library made before stays writable, because DLPack cannot
    revoke it: while one is alive, the record is published as a copy (`Claim`). Source: https://data-apis.org/array-api/latest/API_specification/generated/array_api.array.__dlpack__.html
    """

    cdef _Hold hold
    cdef _Layout layout
    cdef rf_view kind

    def __init__(self):
        raise TypeError("DLPack views are made by Batch.dlpack and Claim.dlpack.")

    def __dealloc__(self):
        if self.hold is not None:
            self.hold.exporters -= 1

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        """Return a capsule. Each call makes a new one.

        Parameters
        ----------
        stream
            None: the CPU has no streams.
        max_version : tuple of int, optional
            The newest DLPack version that the caller knows. From (1, 0) on, the tensor says whether it is read-only.
        dl_device : tuple of int, optional
            (1, 0), the CPU.
        copy : bool, optional
            True for its own, writable memory, which holds no slot. By default, and with False, it is the ring's.

        Raises
        ------
        BufferError
            A stream or another device was asked for. Or the claim has ended, so that the memory is read-only, and DLPack
            before 1.0 cannot say so.
        """
        cdef rf_export_form form
        cdef void *tensor
        if stream is not None and stream != -1:
            raise BufferError(f"stream {stream!r}: the ring's memory is on the CPU and has no streams; pass None.")
        if dl_device is not None and tuple(dl_device) != (1, 0):
            raise BufferError(f"device {dl_device!r}: the ring's memory is on the CPU (1, 0); move the tensor afterwards.")
        form.versioned = speaks_versions(max_version)
        form.copied = bool(copy)
        form.read_only = self.hold.is_read_only
        if form.read_only and not form.versioned and not form.copied:
            raise BufferError(
                f"field {self.layout.name!r}: the claim has ended, so that its memory is read-only, and DLPack before 1.0 "
                "cannot say so. Ask for max_version=(1, 0), or copy=True.")
        if form.copied and self.layout.stride_bytes * rf_lease_rows(self.hold.lease) >= COPY_WITHOUT_GIL_BYTES:
            with nogil:
                tensor = rf_lease_export(self.hold.lease, self.layout.index, self.kind, &form)
        else:
            tensor = rf_lease_export(self.hold.lease, self.layout.index, self.kind, &form)
        if tensor == NULL:
            raise MemoryError()
        capsule = PyCapsule_New(tensor, b"dltensor_versioned" if form.versioned else b"dltensor", drop_capsule)
        if self.hold.is_claim and not form.copied:
            note_capsule(self.hold, capsule)
        return capsule

    def __dlpack_device__(self):
        """Return (1, 0): the CPU."""
        return (1, 0)


cdef DLPackView make_dlpack_view(_Hold hold, _Layout layout, rf_view kind):
    cdef DLPackView view = DLPackView.__new__(DLPackView)
    view.hold = hold
    hold.exporters += 1
    view.layout = layout
    view.kind = kind
    return view
