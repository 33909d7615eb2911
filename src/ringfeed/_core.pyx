# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, embedsignature=True
# cython: nonecheck=True, auto_pickle=False, freethreading_compatible=False
"""The binding of the C core: claims, batches and the ring's hot path, as NumPy sees them.

It may not know how a segment is named or opened (ring.py), nor TensorFlow. Its parts stand in
binding/, each included below. Only failures.pxi turns a C status into an exception.
"""

from cpython.buffer cimport PyObject_CheckBuffer
from cpython.dict cimport PyDict_GetItemWithError
from cpython.exc cimport PyErr_CheckSignals, PyErr_Fetch, PyErr_Restore, PyErr_SetInterrupt
from cpython.number cimport PyNumber_Index
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from cpython.pycapsule cimport (
    PyCapsule_GetPointer,
    PyCapsule_IsValid,
    PyCapsule_New,
    PyCapsule_SetContext,
    PyCapsule_SetName,
)
from cpython.sequence cimport PySequence_Check
from libc.errno cimport EMFILE, ENFILE, ENOMEM, errno
from libc.stdint cimport INT64_MAX
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strncpy
from posix.unistd cimport close, usleep

cimport cython
cimport numpy as cnp

from . import arguments, dead_letters, errors, stall
from .failure_text import failure_text
from .machine import memory_limits
from .record_spec import Field, RecordSpec, dtype_from_code

import os
import resource
import sys
from collections.abc import Mapping

import numpy as np

cnp.import_array()

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident()
    Py_ssize_t Py_REFCNT(PyObject *)
    int64_t PyLong_AsLongLongAndOverflow(object value, int *overflow) except? -1

cdef extern from "numpy/arrayobject.h":
    object PyArray_NewFromDescr(
        type subtype, cnp.dtype descr, int nd, const cnp.npy_intp *dims, const cnp.npy_intp *strides, void *data,
        int flags, object obj)
    int PyArray_ISCARRAY_RO(cnp.ndarray)
    object array_view "PyArray_View" (cnp.ndarray array, PyObject *dtype, PyObject *type)

    ctypedef struct PyArrayObject_fields:
        char *data
        PyObject *base
        PyObject *weakreflist

# NumPy's kinds of numbers: each holds the numbers of a lower rank.
cdef dict NUMBER_RANKS = {"b": 0, "i": 1, "u": 1, "f": 2, "c": 3}

# Floats: the largest finite number, and the bound up to which every integer is one of them.
cdef dict FLOAT_BOUNDS = {
    "float16": (65504.0, 1 << 11),
    "bfloat16": (float.fromhex("0x1.fep127"), 1 << 8),
    "float32": (float.fromhex("0x1.fffffep127"), 1 << 24),
    "complex64": (float.fromhex("0x1.fffffep127"), 1 << 24),
    "float64": (float.fromhex("0x1.fffffffffffffp1023"), 1 << 53),
}

# A copy of at least this many bytes releases the GIL.
cdef enum:
    COPY_WITHOUT_GIL_BYTES = 65536

cdef object MAX_TAG = (1 << 64) - 1

RECORD_DTYPE = np.dtype(
    [
        ("tag", np.uint64),
        ("claimed_ns", np.int64),
        ("published_ns", np.int64),
        ("taken_ns", np.int64),
        ("released_ns", np.int64),
        ("producer", np.uint32),
        ("deliveries", np.uint32),
        ("failures", np.uint32),
    ],
    align=True,
)

include "binding/arguments.pxi"
include "binding/layouts.pxi"
include "binding/values.pxi"
include "binding/dlpack.pxi"
include "binding/rows.pxi"
include "binding/claims.pxi"
include "binding/batches.pxi"
include "binding/batch_loop.pxi"
include "binding/failures.pxi"
include "binding/segments.pxi"
include "binding/stalls.pxi"
include "binding/waits.pxi"
include "binding/ring_handle.pxi"
include "binding/ring.pxi"
include "binding/take_levels.pxi"
include "binding/producing.pxi"
include "binding/page_locking.pxi"
include "binding/interrupts.pxi"
include "binding/feeds.pxi"
include "binding/replies_h.pxi"
include "binding/pool.pxi"
include "binding/asking.pxi"
include "binding/requests.pxi"
include "binding/reply.pxi"
include "binding/meters.pxi"
