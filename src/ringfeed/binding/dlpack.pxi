# Slots that are held, as DLPack capsules.

cdef void drop_capsule(object capsule) noexcept:
    """Nobody took the tensor over: delete it ourselves."""
    if PyCapsule_IsValid(capsule, b"dltensor"):
        rf_export_delete(PyCapsule_GetPointer(capsule, b"dltensor"), 0)
    elif PyCapsule_IsValid(capsule, b"dltensor_versioned"):
        rf_export_delete(PyCapsule_GetPointer(capsule, b"dltensor_versioned"), 1)


@cython.final
cdef class DLPackView:
    """A field of a batch or slot for any library that speaks DLPack.

    ``torch.from_dlpack(view)``, ``jax.dlpack.from_dlpack(view)``, ``numpy.from_dlpack(view)`` and
    ``tf.experimental.dlpack.from_dlpack(view.__dlpack__())`` see the ring's own memory. The slots
    stay taken until the library has let go of every tensor made this way; it may do so from any
    thread. Source: https://data-apis.org/array-api/latest/API_specification/generated/array_api.array.__dlpack__.html
    """

    cdef _Hold hold
    cdef _Layout layout
    cdef rf_view kind

    def __init__(self):
        raise TypeError("DLPack views are made by Batch.dlpack and Claim.dlpack.")

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        """Return a capsule; each call makes a new one.

        Raises
        ------
        BufferError
            A copy, a stream or another device was asked for; this memory is on the CPU.
        """
        cdef bint versioned = max_version is not None and tuple(max_version) >= (1, 0)
        cdef void *tensor
        if stream is not None and stream != -1:
            raise BufferError(f"stream {stream!r}: the ring's memory is on the CPU and has no streams; pass None.")
        if dl_device is not None and tuple(dl_device) != (1, 0):
            raise BufferError(f"device {dl_device!r}: the ring's memory is on the CPU (1, 0); move the tensor afterwards.")
        if copy:
            raise BufferError("copy=True: a ring shares its memory; copy the tensor afterwards.")
        tensor = rf_lease_export(self.hold.lease, self.layout.index, self.kind, versioned)
        if tensor == NULL:
            raise MemoryError()
        return PyCapsule_New(tensor, b"dltensor_versioned" if versioned else b"dltensor", drop_capsule)

    def __dlpack_device__(self):
        """Return (1, 0): the CPU."""
        return (1, 0)


cdef DLPackView make_dlpack_view(_Hold hold, _Layout layout, rf_view kind):
    cdef DLPackView view = DLPackView.__new__(DLPackView)
    view.hold = hold
    view.layout = layout
    view.kind = kind
    return view
