# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, embedsignature=True
# cython: nonecheck=True, auto_pickle=False, freethreading_compatible=False
"""The binding of the C core: claims, batches and the ring's hot path, as NumPy sees them.

It may not know how a segment is named or opened (ring.py), nor TensorFlow. Its parts stand in
binding/, each included below; the one place where a C status becomes an exception is failures.pxi.
"""

from cpython.dict cimport PyDict_GetItemWithError
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetInterrupt
from cpython.number cimport PyNumber_Index
from cpython.ref cimport Py_INCREF, PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New
from libc.errno cimport errno
from libc.stdint cimport INT64_MAX
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strncpy

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

include "binding/arguments.pxi"
include "binding/layouts.pxi"
include "binding/dlpack.pxi"
include "binding/leases.pxi"
include "binding/failures.pxi"
include "binding/segments.pxi"
include "binding/ring.pxi"
include "binding/pins.pxi"
include "binding/interrupts.pxi"
include "binding/feeds.pxi"
include "binding/replies.pxi"
include "binding/meters.pxi"
