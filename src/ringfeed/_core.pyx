# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, embedsignature=True
# cython: nonecheck=True, auto_pickle=False, freethreading_compatible=False
"""The binding of the C core: claims, batches and the ring's hot path, as NumPy sees them.

It may not know how a segment is named or opened (ring.py), nor TensorFlow. The one place where a
C status becomes an exception is `RingBase._fail`.
"""

from cpython.dict cimport PyDict_GetItemWithError
from cpython.exc cimport PyErr_CheckSignals
from cpython.number cimport PyNumber_Index
from cpython.ref cimport Py_INCREF, PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New
from libc.errno cimport errno
from libc.stdint cimport INT64_MAX
from libc.stdlib cimport calloc, free
from libc.string cimport memset, strncpy

cimport cython
cimport numpy as cnp

from . import errors
from .record_spec import Field, RecordSpec, dtype_from_code

import os
from collections.abc import Mapping

import numpy as np

cnp.import_array()

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject *)
    int64_t PyLong_AsLongLongAndOverflow(object value, int *overflow) except? -1

cdef extern from "numpy/arrayobject.h":
    object PyArray_NewFromDescr(
        type subtype, cnp.dtype descr, int nd, const cnp.npy_intp *dims, const cnp.npy_intp *strides, void *data,
        int flags, object obj)
    int PyArray_ISCARRAY_RO(cnp.ndarray)

# NumPy's kinds of numbers: each can hold what those of a lower rank are.
cdef dict NUMBER_RANKS = {"b": 0, "i": 1, "u": 1, "f": 2, "c": 3}

# A copy of at least this many bytes is worth letting other Python threads run.
cdef enum:
    COPY_WITHOUT_GIL_BYTES = 65536

RECORD_DTYPE = np.dtype(
    [
        ("tag", np.uint64),
        ("claimed_ns", np.int64),
        ("published_ns", np.int64),
        ("taken_ns", np.int64),
        ("released_ns", np.int64),
        ("producer", np.uint32),
        ("deliveries", np.uint32),
    ]
)


# ---- Arguments -----------------------------------------------------------------------------------


cdef int64_t whole(object value, str ring_name, str what, int64_t least, int64_t most) except -1:
    """`value` as a whole number from `least` (not below 0) to `most`."""
    cdef int overflow = 0
    cdef int64_t number = 0
    cdef bint is_whole = True
    try:
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
    except TypeError:
        is_whole = False
    if overflow:
        number = INT64_MAX if overflow > 0 else -1
    if not is_whole or not least <= number <= most:
        bounds = f"of at least {least}" if most == INT64_MAX else f"from {least} to {most}"
        raise (ValueError if is_whole else TypeError)(
            f"ring {ring_name!r}: {what} {value!r:.80}: give a whole number {bounds}.")
    return number


cdef uint64_t tag_bits(object value, str ring_name) except? 0:
    cdef bint is_whole = True
    if value is 0:  # the default, in the hottest path
        return 0
    try:
        return PyNumber_Index(value)
    except TypeError:
        is_whole = False
    except OverflowError:
        pass
    raise (ValueError if is_whole else TypeError)(
        f"ring {ring_name!r}: tag {value!r:.80}: give a whole number of 64 bits, from 0 to 2**64 - 1.")


cdef double seconds_from(object value, str ring_name, str what) except -1:
    cdef double seconds = -1
    cdef bint is_number = True
    try:
        seconds = value
    except TypeError:
        is_number = False
    except OverflowError:
        pass
    if not seconds >= 0:  # NaN is not, either
        forever = ", or None to wait for ever" if what == "timeout" else ""
        raise (ValueError if is_number else TypeError)(
            f"ring {ring_name!r}: {what} {value!r:.80}: give seconds, 0 or more{forever}.")
    return seconds


cdef int64_t deadline_ns(object timeout, str ring_name) except -1:
    """CLOCK_MONOTONIC time at which `timeout` seconds are over; 0 does not wait."""
    cdef double seconds
    if timeout is None:
        return RF_FOREVER
    seconds = seconds_from(timeout, ring_name, "timeout")
    if seconds == 0:
        return 0
    return RF_FOREVER if seconds > 9e9 else rf_now_ns() + <int64_t>(seconds * 1e9)


# ---- Slots that are held, and arrays over them ---------------------------------------------------


@cython.final
@cython.internal
cdef class _Hold:
    """A reference to a lease. Arrays over the lease's slots have it as their base."""

    cdef rf_lease *lease

    def __dealloc__(self):
        if self.lease != NULL:
            rf_lease_drop(self.lease)


cdef class _Layout:
    """One field as the hot paths need it."""

    cdef readonly object field
    cdef readonly str name
    cdef cnp.dtype dtype
    cdef int number_rank
    cdef uint32_t index
    cdef int rank
    cdef int64_t stride_bytes
    # Axis 0 is the batch's.
    cdef cnp.npy_intp shape[RF_MAX_RANK + 1]
    cdef cnp.npy_intp strides[RF_MAX_RANK + 1]

    cdef object view(self, _Hold hold, rf_view kind):
        cdef cnp.npy_intp shape[RF_MAX_RANK + 1]
        cdef cnp.npy_intp strides[2]
        cdef void *data = rf_lease_data(hold.lease, self.index)
        cdef object array
        cdef int axis
        Py_INCREF(self.dtype)  # NewFromDescr takes a reference over
        if kind == RF_VIEW_SAMPLE:
            array = PyArray_NewFromDescr(
                cnp.ndarray, self.dtype, self.rank, &self.shape[1], &self.strides[1], data,
                cnp.NPY_ARRAY_WRITEABLE, None)
        elif kind == RF_VIEW_PADDED:
            shape[0] = rf_lease_rows(hold.lease)
            shape[1] = self.stride_bytes // self.dtype.itemsize
            strides[0] = self.stride_bytes
            strides[1] = self.dtype.itemsize
            array = PyArray_NewFromDescr(
                cnp.ndarray, self.dtype, 2, shape, strides, data, cnp.NPY_ARRAY_WRITEABLE, None)
        else:
            for axis in range(self.rank + 1):
                shape[axis] = self.shape[axis]
            shape[0] = rf_lease_rows(hold.lease)
            array = PyArray_NewFromDescr(
                cnp.ndarray, self.dtype, self.rank + 1, shape, self.strides, data, cnp.NPY_ARRAY_WRITEABLE, None)
        cnp.set_array_base(array, hold)
        return array

    cdef bint fits(self, cnp.ndarray array) noexcept:
        """Is it one sample, of the very dtype, dense?"""
        cdef int axis
        if cnp.PyArray_NDIM(array) != self.rank:
            return False
        for axis in range(self.rank):
            if cnp.PyArray_DIM(array, axis) != self.shape[axis + 1]:
                return False
        return <void *>cnp.PyArray_DESCR(array) == <void *>self.dtype and PyArray_ISCARRAY_RO(array)

    cdef cnp.ndarray convert(self, object value, str ring_name):
        """Bring a sample into the one form that can be copied, or say what does not fit."""
        cdef str where = f"ring {ring_name!r}, field {self.name!r}"
        cdef object array, plain
        cdef bint is_array = isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "__array__")
        try:
            array = np.asarray(value)
            if not is_array and NUMBER_RANKS.get(array.dtype.kind, 9) <= self.number_rank:
                # Python's own numbers have no size: they take the field's, where they stay what they are.
                plain, array = array, np.asarray(value, dtype=self.dtype)
                if self.number_rank <= 1 and not (array == plain).all():  # NumPy 1 wraps around
                    raise OverflowError("out of its bounds")
        except (TypeError, ValueError, OverflowError) as error:
            raise errors.RecordMismatch(f"{where}: {value!r:.80} is no {self.dtype.name}: {error}") from None
        if array.dtype != self.dtype:
            if not is_array:
                raise errors.RecordMismatch(
                    f"{where}: the ring holds {self.dtype.name}, and {value!r:.80} is {array.dtype.name}. "
                    f"Convert it with numpy.asarray(value, {self.dtype.name!r}).")
            raise errors.RecordMismatch(
                f"{where}: the ring holds {self.dtype.name}, the value is "
                f"{array.dtype.name if array.dtype.isnative else array.dtype.str}. "
                f"Convert it with .astype({self.dtype.name!r}).")
        if array.shape != self.field.shape:
            raise errors.RecordMismatch(
                f"{where}: the ring holds samples of shape {self.field.shape}, the value has shape {array.shape}. "
                "Reshape it, or create the ring for that shape.")
        return np.require(array, dtype=self.dtype, requirements=["C", "A"])


cdef _Layout make_layout(rf_field *described, uint32_t index):
    cdef _Layout layout = _Layout.__new__(_Layout)
    cdef int axis
    layout.index = index
    layout.name = described.name.decode("utf-8", "replace")
    layout.dtype = dtype_from_code(described.dtype)
    layout.number_rank = NUMBER_RANKS.get((<object>layout.dtype).kind, 2)  # bfloat16 is no kind of its own
    layout.rank = described.rank
    layout.stride_bytes = described.stride_bytes
    layout.strides[0] = described.stride_bytes
    cdef cnp.npy_intp step = layout.dtype.itemsize
    for axis in range(layout.rank, 0, -1):
        layout.shape[axis] = described.shape[axis - 1]
        layout.strides[axis] = step
        step *= layout.shape[axis]
    layout.field = Field(layout.name, tuple([layout.shape[axis + 1] for axis in range(layout.rank)]), layout.dtype)
    return layout


# ---- DLPack --------------------------------------------------------------------------------------


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


# ---- Leases in Python ----------------------------------------------------------------------------


cdef class _Rows:
    """What claims and batches have in common: fields by name, over slots that are held."""

    cdef readonly RingBase ring
    cdef _Hold hold
    cdef rf_view kind

    cdef _Hold held(self):
        if self.hold is None:
            raise errors.RingFeedError(f"ring {self.ring.name!r}: {self._gone()}")
        return self.hold

    def _gone(self):
        raise NotImplementedError

    def __init__(self):
        raise TypeError(f"{type(self).__name__} objects are made by Ring.claim, Ring.take and Ring.batches.")

    def __reduce__(self):
        raise TypeError(
            f"a {type(self).__name__} is memory that this process holds and goes nowhere else; send copies of its "
            "arrays, or the ring, which arrives attached.")

    def __repr__(self):
        what = "ended" if self.hold is None else f"{len(self)} rows"
        where = "no ring" if self.ring is None else f"ring {self.ring.name!r}"
        return f"<{type(self).__name__} of {where}, {what}>"

    def __len__(self):
        return rf_lease_rows(self.held().lease)

    def __iter__(self):
        return iter(self.ring._by_name)

    def __contains__(self, name):
        return name in self.ring._by_name

    def keys(self):
        """Return the names of the fields."""
        return self.ring._by_name.keys()

    def padded(self, name):
        """Return the field as a dense array that includes the padding behind each sample.

        Parameters
        ----------
        name : str
            A field.

        Returns
        -------
        numpy.ndarray
            Of shape (rows, stride in elements): C-contiguous and starting on 64 bytes whatever the
            sample's shape. The sample is ``padded[:, :size].reshape(rows, *shape)``.
        """
        return self.ring.layout(name).view(self.held(), RF_VIEW_PADDED)

    def dlpack(self, name, *, padded=False):
        """Return a DLPack exporter of a field over the ring's own memory.

        Parameters
        ----------
        name : str
            A field.
        padded : bool
            As `padded`: dense, with the padding, for libraries that take no strides (TensorFlow).

        Returns
        -------
        DLPackView
            An object with ``__dlpack__``.
        """
        return make_dlpack_view(self.held(), self.ring.layout(name), RF_VIEW_PADDED if padded else self.kind)

    cdef _Layout only_field(self):
        if len(self.ring.layouts) != 1:
            raise BufferError(
                f"ring {self.ring.name!r} has the fields {', '.join(self.ring._by_name)}: "
                "export one of them, as in batch.dlpack(name).")
        return self.ring.layouts[0]

    def __dlpack__(self, **options):
        """Export the only field of the record; see `DLPackView`."""
        return make_dlpack_view(self.held(), self.only_field(), self.kind).__dlpack__(**options)

    def __dlpack_device__(self):
        """Return (1, 0): the CPU."""
        return (1, 0)

    @property
    def records(self):
        """What each slot knows: a structured array of tag, producer, deliveries and the times.

        Times are CLOCK_MONOTONIC nanoseconds (``time.monotonic_ns``). `deliveries` above 1 tells
        that a taker died over the record before; `released_ns` is when the slot was given back
        before this record was written, 0 for a slot used the first time.
        """
        cdef _Hold hold = self.held()
        cdef cnp.ndarray records = np.empty(rf_lease_rows(hold.lease), RECORD_DTYPE)
        rf_lease_records(hold.lease, <rf_record *>cnp.PyArray_DATA(records))
        return records


cdef class Claim(_Rows):
    """Slots that this process is writing.

    ``claim["image"]`` is a view of the slot itself: of the sample's shape, or with a leading axis
    of rows when rows were asked for. As a context manager it publishes at the end and discards on
    an exception. Arrays got from it become read-only when it is published.
    """

    cdef cnp.ndarray tag_array
    cdef uint64_t single_tag
    cdef list given
    cdef str outcome

    def _gone(self):
        return f"this claim was {self.outcome} and can not be written any more; claim a new one."

    cdef cnp.ndarray array(self, name, rf_view kind):
        """The one array of a field: asked for a million times in a loop, it is made once."""
        cdef _Hold hold = self.held()
        cdef _Layout layout = self.ring.layout(name)
        cdef Py_ssize_t place = 2 * layout.index + (kind == RF_VIEW_PADDED)
        if self.given is None:
            self.given = [None] * (2 * len(self.ring.layouts))
        cdef object made = self.given[place]
        if made is None:
            made = layout.view(hold, kind)
            self.given[place] = made
        return made

    def __getitem__(self, name):
        return self.array(name, self.kind)

    def __setitem__(self, name, value):
        self.array(name, self.kind)[...] = value

    def padded(self, name):
        """As `Batch.padded`, to be written; a claim of one slot has one row."""
        return self.array(name, RF_VIEW_PADDED)

    @property
    def rows(self):
        """Rows claimed: at least 1, at most as many as were asked for."""
        return len(self)

    @property
    def tag(self):
        """The 64-bit tag that travels with the record; that of the first row for several."""
        return self.single_tag if self.tag_array is None else int(self.tag_array[0])

    @tag.setter
    def tag(self, value):
        self.held()
        self.single_tag = tag_bits(value, self.ring.name)
        if self.tag_array is not None:
            self.tag_array[:] = self.single_tag

    @property
    def tags(self):
        """The tags of the rows: a writable array of shape (rows,), dtype uint64."""
        if self.tag_array is None:
            self.tag_array = np.full(len(self), self.single_tag, np.uint64)
        return self.tag_array

    @tags.setter
    def tags(self, values):
        self.tags[:] = values

    cdef bint end(self, _Hold hold, str outcome) except -1:
        """Give the slots up, once. Returns whether someone else still looks at them."""
        cdef object array
        if self.hold is not hold:
            self.held()  # ended meanwhile, by another thread or a signal handler: says so
        self.hold = None
        self.outcome = outcome
        if self.given is not None:
            for array in self.given:
                if array is not None:
                    cnp.PyArray_CLEARFLAGS(<cnp.ndarray>array, cnp.NPY_ARRAY_WRITEABLE)
            array = self.given = None
        return Py_REFCNT(<PyObject *>hold) > 1  # the caller's own reference is the one

    def publish(self, rows=None):
        """Hand the records to takers, in order.

        Parameters
        ----------
        rows : int, optional
            Only the first so many; the others are discarded. All by default.

        Raises
        ------
        SlotLost
            The claim was taken back, because this process had been found dead.
        RingFeedError
            The claim was published or discarded before.
        """
        cdef _Hold hold = self.held()
        cdef uint32_t claimed = rf_lease_rows(hold.lease), count = claimed
        cdef uint64_t *tags = &self.single_tag
        cdef rf_status status
        cdef bint seen
        if rows is not None:
            count = whole(rows, self.ring.name, "rows to publish", 0, claimed)
        if self.tag_array is None and claimed > 1:
            if self.single_tag == 0:
                tags = NULL
            else:
                self.tags
        seen = self.end(hold, "published")
        if self.tag_array is not None:
            if cnp.PyArray_NBYTES(self.tag_array) < claimed * <Py_ssize_t>sizeof(uint64_t):
                raise ValueError(f"ring {self.ring.name!r}: the claim's tags were resized; leave them {claimed} long.")
            tags = <uint64_t *>cnp.PyArray_DATA(self.tag_array)
        status = rf_publish(hold.lease, count, tags, seen)
        if status != RF_OK:
            self.outcome = "lost"
            self.ring._fail(status, 0, None)

    def discard(self):
        """Give the slots back unpublished. Does nothing when that, or publishing, was done before."""
        if self.hold is not None:
            self.end(self.hold, "discarded")

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if self.hold is None:
            return
        if kind is None:
            self.publish()
        else:
            self.discard()


cdef class Batch(_Rows):
    """A run of records that this process holds, as one contiguous view per field.

    ``batch["image"]`` has shape (rows, \\*field shape), over the ring's own memory. The arrays keep
    the slots: they are recycled when the batch was released *and* the last array over them is gone.
    As a context manager it releases at the end.
    """

    cdef bint freed

    def _gone(self):
        return "this batch was released; take a new one."

    def __getitem__(self, name):
        return self.ring.layout(name).view(self.held(), self.kind)

    @property
    def tags(self):
        """The tags of the records: an array of shape (rows,), dtype uint64, of its own memory."""
        cdef _Hold hold = self.held()
        cdef cnp.ndarray tags = np.empty(rf_lease_rows(hold.lease), np.uint64)
        rf_lease_tags(hold.lease, <uint64_t *>cnp.PyArray_DATA(tags))
        return tags

    def release(self):
        """Let go of the slots. They are recycled at once, or with the last array over them.

        Returns
        -------
        bool
            True when they were recycled now; False when arrays over them are still alive.
        """
        cdef _Hold hold = self.hold
        if hold is None:
            return self.freed
        self.hold = None
        # The last reference is our own, and DLPack tensors, which have theirs in C, are gone.
        self.freed = Py_REFCNT(<PyObject *>hold) == 1 and rf_lease_references(hold.lease) == 1
        return self.freed

    @property
    def released(self):
        """Was `release` called (or the ``with`` block left)?"""
        return self.hold is None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.release()


# ---- The ring ------------------------------------------------------------------------------------


def segment_is_owned(int fd):
    """Does a living process own the segment?"""
    cdef int owned = rf_segment_has_owner(fd)
    if owned < 0:
        raise OSError(errno, os.strerror(errno))
    return owned == 1


def condemn_segment(int fd):
    """Take the right to unlink an ownerless segment; False when another process has it."""
    cdef rf_status status = rf_segment_condemn(fd)
    if status == RF_SYSTEM:
        raise OSError(errno, os.strerror(errno))
    return status == RF_OK


def segment_is_condemned(int fd):
    """Has another process the right to unlink the segment?"""
    cdef int condemned = rf_segment_is_condemned(fd)
    if condemned < 0:
        raise OSError(errno, os.strerror(errno))
    return condemned == 1


def discard_segment(int fd):
    """Let go of a descriptor of a segment that no ring took over."""
    rf_segment_discard(fd)


cdef class RingBase:
    """A ring that is open in this process; `ringfeed.Ring` adds names and opening."""

    cdef rf_ring *handle
    cdef readonly str name
    cdef list layouts
    cdef readonly dict _by_name
    cdef uint64_t copy_bytes

    def __dealloc__(self):
        if self.handle != NULL:
            rf_ring_close(self.handle)
            rf_ring_drop(self.handle)

    # -- opening -----------------------------------------------------------------------------------

    def _create(self, name, int fd, spec, slots, participants, redeliver, huge_pages, numa_node):
        """Make a ring of the empty object `fd` and take the descriptor over."""
        cdef rf_options options
        cdef rf_geometry *geometry = <rf_geometry *>calloc(1, sizeof(rf_geometry))
        cdef rf_status status
        if geometry == NULL:
            rf_segment_discard(fd)
            raise MemoryError()
        try:
            self.name = name
            options.slots = slots
            options.participants = participants
            options.redeliver = redeliver
            options.huge_pages = huge_pages
            options.numa_node = -1 if numa_node is None else numa_node
            fill_geometry(geometry, spec)
            status = rf_plan(&options, geometry)
            if status == RF_OK:
                with nogil:
                    status = rf_ring_create(fd, &options, geometry, &self.handle)
                fd = -1
            if status != RF_OK:
                self._fail_to_create(status, geometry.segment_bytes, slots, spec)
        finally:
            free(geometry)
            if fd >= 0:
                rf_segment_discard(fd)
        self._learn()

    def _attach(self, name, int fd):
        """Map an existing segment and take the descriptor over. False while it is not whole yet."""
        cdef uint32_t version = rf_segment_version(fd)
        cdef rf_status status = rf_ring_attach(fd, &self.handle)
        self.name = name
        if status == RF_UNFINISHED:
            return False
        if status == RF_WRONG_VERSION:
            raise errors.LayoutMismatch(
                f"ring {name!r} has layout version {version}; this RingFeed reads version 1. "
                "Run the same version of RingFeed in every process.")
        if status != RF_OK:
            self._fail(status, 0, None)
        self._learn()
        return True

    cdef _learn(self):
        cdef rf_geometry *geometry = <rf_geometry *>rf_ring_geometry(self.handle)
        cdef uint32_t index
        self.layouts = [make_layout(&geometry.field[index], index) for index in range(geometry.fields)]
        self._by_name = {(<_Layout>layout).name: layout for layout in self.layouts}
        self.copy_bytes = 0
        for index in range(geometry.fields):
            self.copy_bytes += geometry.field[index].sample_bytes

    def _fail_to_create(self, rf_status status, uint64_t needed, slots, spec):
        cdef int code = errno
        if status == RF_NO_SPACE:
            free_bytes = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize
            raise errors.NoSpace(
                f"ring {self.name!r}: {slots} slots of {spec.record_bytes} bytes need {needed} bytes of shared memory, "
                f"/dev/shm has {free_bytes} free. Ask for fewer slots, remove what is left in /dev/shm, or make it "
                "larger: docker run --shm-size=..., an emptyDir volume with medium: Memory in Kubernetes, "
                "mount -o remount,size=... /dev/shm elsewhere.")
        if status == RF_TOO_LARGE:
            raise ValueError(
                f"ring {self.name!r}: {slots} slots of {spec!r} pass a limit: {RF_MAX_SLOTS} slots, 2**63 bytes.")
        if status == RF_INVALID:
            raise ValueError(f"ring {self.name!r}: {slots} slots of {spec!r} make no ring.")
        if status == RF_SYSTEM:
            raise OSError(code, f"ring {self.name!r}: could not be created: {os.strerror(code)}")
        self._fail(status, 0, None)

    # -- errors ------------------------------------------------------------------------------------

    def _fail(self, rf_status status, int wanted, timeout):
        """Raise what a status means. `wanted`: rows that were waited for."""
        cdef int code = errno
        waited = f" after {float(timeout):g} s" if timeout else ""
        if status == RF_FULL:
            raise errors.RingFull(f"ring {self.name!r}: {self._why_full(waited)}")
        if status == RF_EMPTY:
            raise errors.RingEmpty(
                f"ring {self.name!r}: {self.stats()['ready']} of {wanted} records ready{waited}; the producers are slower "
                "than the taker. Wait longer, or add producers.")
        if status == RF_FINISHED:
            raise errors.RingFinished(f"ring {self.name!r} was finished: no more records come or are accepted.")
        if status == RF_CLOSED:
            raise errors.RingClosed(
                f"ring {self.name!r} is closed: by close() here, or its owner closed it or died. Create or attach it anew.")
        if status == RF_SLOT_LOST:
            raise errors.SlotLost(
                f"ring {self.name!r}: the claim was taken back before it was published (this process had been found "
                "dead, or was forked since). The record is not in the ring: claim and write it again.")
        if status == RF_NOT_A_RING:
            raise errors.LayoutMismatch(
                f"ring {self.name!r}: what has this name in /dev/shm is no RingFeed ring. Remove it, or choose another name.")
        if status == RF_DAMAGED:
            raise errors.LayoutMismatch(f"ring {self.name!r} is damaged: its header contradicts its size. Remove and create it anew.")
        if status == RF_CROWDED:
            raise errors.RingFeedError(
                f"ring {self.name!r}: every participant entry is in use. Create it with a larger participants=.")
        if status == RF_NO_MEMORY:
            raise MemoryError()
        if status == RF_SYSTEM:
            raise OSError(code, f"ring {self.name!r}: {os.strerror(code)}")
        raise errors.RingFeedError(f"ring {self.name!r}: status {<int>status}")

    def _why_full(self, waited):
        stats = self.stats()
        slots = f"{stats['free']} of {stats['slots']} slots free{waited}; "
        if stats["taken"] + stats["pinned"] > stats["ready"] and stats["taken"] + stats["pinned"] > stats["claimed"]:
            return slots + (
                f"{stats['taken'] + stats['pinned']} are held by batches or arrays that are still alive. "
                "Release batches and drop their arrays, or add slots.")
        if stats["claimed"] > stats["ready"]:
            return slots + f"{stats['claimed']} are claimed and not published yet. Publish or discard them, or add slots."
        return slots + "the model is slower than the producers. Take larger batches or add slots."

    cdef rf_ring *opened(self) except NULL:
        if self.handle == NULL:
            raise errors.RingClosed("this ring was never opened; use Ring.create or Ring.attach.")
        return self.handle

    cdef _Layout layout(self, name):
        cdef object layout = self._by_name.get(name)
        if layout is None:
            raise KeyError(f"ring {self.name!r} has no field {name!r}; its fields are {', '.join(self._by_name)}.")
        return <_Layout>layout

    # -- producing ---------------------------------------------------------------------------------

    def claim(self, rows=None, *, timeout=None):
        """Claim free slots, to be written in place.

        Parameters
        ----------
        rows : int, optional
            Claim up to so many contiguous slots: at least one, as many as lie free in a row. The
            arrays then have a leading axis of rows. By default one slot, without that axis.
        timeout : float, optional
            Seconds to wait for a free slot; 0 does not wait, None waits for ever.

        Returns
        -------
        Claim
            A context manager: publishes at the end of the block, discards on an exception.

        Raises
        ------
        RingFull
            No slot became free within `timeout` seconds.
        RingFinished, RingClosed
            The ring takes no more records.
        """
        cdef rf_ring *handle = self.opened()
        cdef uint32_t count = 1
        cdef int64_t deadline
        cdef rf_status status
        cdef Claim claim = Claim.__new__(Claim)
        cdef _Hold hold = _Hold.__new__(_Hold)
        if rows is not None:
            count = whole(rows, self.name, "rows", 1, rf_ring_geometry(handle).slots)
        deadline = deadline_ns(timeout, self.name)
        status = rf_claim(handle, count, 0, &hold.lease)
        while (status == RF_FULL and deadline != 0) or status == RF_AGAIN:
            PyErr_CheckSignals()
            with nogil:
                status = rf_claim(handle, count, deadline, &hold.lease)
            if status == RF_FULL:
                break
        if status != RF_OK:
            self._fail(status, 1, timeout)
        claim.hold = hold
        claim.ring = self
        claim.kind = RF_VIEW_SAMPLE if rows is None else RF_VIEW_ROWS
        return claim

    def put(self, record, tag=0, timeout=None):
        """Copy one record into the ring: claim, copy, publish.

        Parameters
        ----------
        record : dict of str to array_like
            One sample per field. Arrays must have the field's very shape and dtype.
        tag : int
            64 bits of your own that travel with the record.
        timeout : float, optional
            Seconds to wait for a free slot; 0 does not wait, None waits for ever.

        Raises
        ------
        RecordMismatch
            A field is missing, unknown, or of another shape or dtype; nothing was put.
        RingFull, RingFinished, RingClosed
            As for `claim`.
        """
        cdef rf_ring *handle = self.opened()
        cdef const void *sources[RF_MAX_FIELDS]
        cdef uint64_t bits = tag_bits(tag, self.name)
        cdef int64_t deadline = deadline_ns(timeout, self.name)
        cdef rf_status status
        cdef _Layout layout
        cdef object value
        cdef list kept = None
        cdef Py_ssize_t i, count = len(self.layouts)
        cdef PyObject *found
        if type(record) is not dict:
            record = self.as_dict(record)
        if len(<dict>record) != count:
            self._wrong_fields(record)
        for i in range(count):
            layout = <_Layout>self.layouts[i]
            found = PyDict_GetItemWithError(record, layout.name)
            if found == NULL:
                self._wrong_fields(record)
            value = <object>found
            if not (type(value) is cnp.ndarray and layout.fits(<cnp.ndarray>value)):
                value = layout.convert(value, self.name)
            if count > 1:  # it must live until it is copied, whatever other threads do to the dict
                if kept is None:
                    kept = []
                kept.append(value)
            sources[i] = cnp.PyArray_DATA(<cnp.ndarray>value)
        if self.copy_bytes < COPY_WITHOUT_GIL_BYTES:
            status = rf_put(handle, sources, bits, 0)
        else:
            with nogil:
                status = rf_put(handle, sources, bits, 0)
        while (status == RF_FULL and deadline != 0) or status == RF_AGAIN:
            PyErr_CheckSignals()
            with nogil:
                status = rf_put(handle, sources, bits, deadline)
            if status == RF_FULL:
                break
        if status != RF_OK:
            self._fail(status, 1, timeout)

    cdef dict as_dict(self, record):
        if not isinstance(record, Mapping):
            raise errors.RecordMismatch(
                f"ring {self.name!r}: a record is a dict of field to value, not {type(record).__name__}. Give "
                f"{{{', '.join(f'{name!r}: ...' for name in self._by_name)}}}.")
        return dict(record)  # which may make its values as they are asked for

    def _wrong_fields(self, record):
        raise errors.RecordMismatch(
            f"ring {self.name!r}: the record has the fields {', '.join(map(str, record)) or 'none'}; the ring holds "
            f"{', '.join(self._by_name)}. Give each of them once.")

    # -- taking ------------------------------------------------------------------------------------

    def take(self, max_rows, *, min_rows=1, timeout=None, linger=0.0, while_waiting=None):
        """Take the oldest published records as one batch.

        Parameters
        ----------
        max_rows : int
            Most rows in the batch; at most the ring's slots.
        min_rows : int
            Wait for so many published records. The batch is shorter only when no more can come (the
            ring was finished, or no slot is free to publish in), when a slot amid the records has
            been held by a producer for longer than `linger` (at least 5 ms), or when another taker
            took the records next to it.
        timeout : float, optional
            Seconds to wait; 0 does not wait, None waits for ever.
        linger : float
            Seconds to wait for `max_rows` once `min_rows` are there.
        while_waiting : callable, optional
            Called about every 50 ms of waiting; it ends the wait with `RingEmpty` by returning
            true, or with an exception. For threads in which no signal handler of Python's runs.

        Returns
        -------
        Batch
            For each field one array of shape (rows, *field shape) over the ring's own memory.

        Raises
        ------
        RingEmpty
            Fewer than `min_rows` were published within `timeout` seconds.
        RingFinished
            The ring was finished and every record has been taken.
        RingClosed
            The ring was closed here, or by its owner, and every record has been taken.
        """
        cdef rf_ring *handle = self.opened()
        cdef rf_take_request request
        cdef rf_status status = RF_AGAIN
        cdef int64_t deadline = deadline_ns(timeout, self.name)
        cdef int64_t slots = rf_ring_geometry(handle).slots
        cdef Batch batch = Batch.__new__(Batch)
        cdef _Hold hold = _Hold.__new__(_Hold)
        memset(&request, 0, sizeof(request))
        request.max_rows = min(whole(max_rows, self.name, "max_rows", 1, INT64_MAX), slots)
        request.min_rows = whole(min_rows, self.name, "min_rows", 1, request.max_rows)
        request.linger_ns = <int64_t>(min(seconds_from(linger, self.name, "linger"), 1e9) * 1e9)
        if request.linger_ns == 0:
            status = rf_take(handle, &request, &hold.lease)
        request.deadline_ns = deadline
        while (status == RF_EMPTY and deadline != 0) or status == RF_AGAIN:
            PyErr_CheckSignals()
            with nogil:
                status = rf_take(handle, &request, &hold.lease)
            if status == RF_EMPTY:
                break
            if status == RF_AGAIN and while_waiting is not None and while_waiting():
                status = RF_EMPTY
                break
        if status != RF_OK:
            self._fail(status, request.min_rows, timeout)
        batch.hold = hold
        batch.ring = self
        batch.kind = RF_VIEW_ROWS
        return batch

    # -- the whole ring ----------------------------------------------------------------------------

    def finish(self):
        """Say that no more records come: takers drain what is there, then get `RingFinished`.

        Claims under way may still be published. Any participant may say it, for all producers.
        """
        rf_finish(self.opened())

    def recover(self):
        """Give back what dead participants held; waiting does so by itself.

        Returns
        -------
        int
            How many participants were found dead.
        """
        cdef rf_ring *handle = self.opened()
        cdef uint32_t found
        with nogil:
            found = rf_recover(handle)
        return found

    def stats(self):
        """Return what is in the ring and what went through it.

        Returns
        -------
        dict of str to int
            ``slots`` and their states ``free``, ``claimed``, ``ready``, ``taken``, ``pinned`` (one
            after the other, not at one instant); ``participants``; since the ring was made
            ``published``, ``discarded``, ``taken_total``, ``released``, ``batches``, ``redelivered``,
            ``dropped``, ``reclaimed``; and how long producers and takers waited, summed over them:
            ``claim_wait_ns``, ``take_wait_ns``.
        """
        cdef rf_ring *handle = self.opened()
        cdef rf_stats stats
        rf_ring_stats(handle, &stats)
        return {
            "slots": rf_ring_geometry(handle).slots,
            "free": stats.free,
            "claimed": stats.claimed,
            "ready": stats.ready,
            "taken": stats.taken,
            "pinned": stats.pinned,
            "participants": stats.participants,
            "published": stats.counts.published,
            "discarded": stats.counts.discarded,
            "taken_total": stats.counts.taken,
            "released": stats.counts.released,
            "batches": stats.counts.batches,
            "redelivered": stats.counts.redelivered,
            "dropped": stats.counts.dropped,
            "reclaimed": stats.counts.reclaimed,
            "claim_wait_ns": stats.counts.claim_wait_ns,
            "take_wait_ns": stats.counts.take_wait_ns,
        }

    def close(self):
        """Close this handle; closing it twice does no harm.

        Threads that wait on it get `RingClosed`. Batches and arrays that are alive stay valid: the
        memory goes with the last of them. When the owner closes, the ring is closed for everyone.
        """
        if self.handle != NULL:
            rf_ring_close(self.handle)

    @property
    def closed(self):
        """Was this handle closed, or the ring by its owner?"""
        return self.handle == NULL or rf_ring_is_closed(self.handle) != 0

    @property
    def finished(self):
        """Was the ring finished? Records may still be in it."""
        return rf_ring_is_finished(self.opened()) != 0

    @property
    def is_owner(self):
        """Did this process create the ring?"""
        return self.handle != NULL and rf_ring_is_owner(self.handle) != 0

    @property
    def slots(self):
        """Number of slots; create rounds up so that every field fills whole pages."""
        return rf_ring_geometry(self.opened()).slots

    @property
    def segment_bytes(self):
        """Size of the shared-memory segment in bytes."""
        return rf_ring_geometry(self.opened()).segment_bytes

    @property
    def spec(self):
        """The fields of a record: a `RecordSpec`."""
        self.opened()
        return RecordSpec.of([(<_Layout>layout).field for layout in self.layouts])

    @property
    def descriptor(self):
        """The segment's file descriptor: sent to another process, `Ring.attach_descriptor` takes it."""
        return rf_ring_descriptor(self.opened())

    # -- memory ------------------------------------------------------------------------------------

    def _use_huge_pages(self):
        cdef rf_ring *handle = self.opened()
        cdef int refused
        with nogil:
            refused = rf_ring_use_huge_pages(handle)
        return refused

    def _lock_memory(self):
        cdef rf_ring *handle = self.opened()
        cdef int refused
        with nogil:
            refused = rf_ring_lock_memory(handle)
        return refused

    def _numa_errno(self):
        return rf_ring_numa_errno(self.opened())

    def _region_address(self, name):
        return <size_t>rf_ring_region(self.opened(), self.layout(name).index)


cdef fill_geometry(rf_geometry *geometry, spec):
    cdef int index, axis
    geometry.fields = len(spec)
    for index, field in enumerate(spec.values()):
        name = field.name.encode()
        strncpy(geometry.field[index].name, name, RF_NAME_BYTES - 1)
        geometry.field[index].dtype = field.dtype_code
        geometry.field[index].rank = len(field.shape)
        for axis in range(len(field.shape)):
            geometry.field[index].shape[axis] = field.shape[axis]


# ---- Ctrl-C in other threads ---------------------------------------------------------------------


cdef extern from "interrupt.h" nogil:
    void rf_watch_interrupts()
    void rf_unwatch_interrupts()
    uint32_t rf_interrupts()


@cython.final
cdef class InterruptWatch:
    """Counts SIGINT as long as it lives, beside Python's own handler, which runs as ever.

    For threads that wait while the main thread is in foreign code, where no handler can run.
    """

    cdef uint32_t before

    def __cinit__(self):
        rf_watch_interrupts()
        self.before = rf_interrupts()

    def __dealloc__(self):
        rf_unwatch_interrupts()

    @property
    def seen(self):
        """How many came since this watch began."""
        return <uint32_t>(rf_interrupts() - self.before)
