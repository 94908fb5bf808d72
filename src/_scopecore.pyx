# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, wraparound=False, cdivision=True
"""Names, scopes and the variable table of varscope.  The design is in _scopecore.pxd."""

cimport cython
from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_SIMPLE, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_FillInfo,
    PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport (
    PyErr_CheckSignals, PyErr_Clear, PyErr_ExceptionMatches, PyErr_Fetch, PyErr_Restore,
)
from cpython.mem cimport (
    PyMem_Calloc, PyMem_Free, PyMem_Malloc, PyMem_RawFree, PyMem_RawMalloc, PyMem_Realloc,
)
from cpython.object cimport PyObject, PyObject_Hash, PyTypeObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset

import contextvars
import gc
import os
import weakref

from varscope import errors

cdef extern from *:
    """
    /* Frames and code have types of their own in the C interface: here they are objects. */
    static inline PyObject *varscope_frame(void) { return (PyObject *)PyEval_GetFrame(); }
    static inline PyObject *varscope_code(PyObject *frame) {
        return (PyObject *)PyFrame_GetCode((PyFrameObject *)frame);
    }
    static inline int varscope_instruction(PyObject *frame) {
        return PyFrame_GetLasti((PyFrameObject *)frame);
    }

    #ifdef _WIN32
    #include <process.h>
    #define varscope_process _getpid
    #else
    #include <unistd.h>
    #define varscope_process getpid
    #endif
    """
    PyObject *PyEval_GetFrame "varscope_frame"() noexcept
    object PyFrame_GetCode "varscope_code"(PyObject *frame)
    int PyFrame_GetLasti "varscope_instruction"(PyObject *frame) noexcept
    int getpid "varscope_process"() noexcept
    bint collects_anywhere "(PY_VERSION_HEX < 0x030C0000)"

cdef extern from "Python.h":
    ctypedef struct PyThreadState:
        PyObject *context
        uint64_t id
    PyThreadState *PyThreadState_Get() noexcept
    unsigned long PyThread_get_thread_ident() noexcept
    int PyGC_Disable() noexcept
    int PyGC_Enable() noexcept
    object PyContextVar_New(const char *name, PyObject *default)
    int PyContextVar_Get(object var, PyObject *default, PyObject **value) except -1
    object PyContextVar_Set(object var, object value)
    object PyContext_CopyCurrent()
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    bint PyUnicode_CheckExact(object text) noexcept
    object PyUnicode_FromObject(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject *text) noexcept
    bint PyUnicode_IS_ASCII(PyObject *text) noexcept
    void *PyUnicode_DATA(PyObject *text) noexcept
    bint PyLong_CheckExact(object value) noexcept
    bint PyTuple_CheckExact(object value) noexcept
    bint PyList_CheckExact(object value) noexcept
    Py_ssize_t PyTuple_GET_SIZE(object value) noexcept
    Py_ssize_t PyList_GET_SIZE(object value) noexcept
    Py_ssize_t Py_REFCNT(PyObject *value) noexcept
    object PyWeakref_NewRef(object target, PyObject *callback)
    ctypedef struct PyWeakReference:
        PyObject *wr_object


# In the order of the pxd: each part uses those before it.
include "core/locks.pxi"
include "core/fills.pxi"
include "core/tables.pxi"
include "core/marks.pxi"
include "core/opnames.pxi"
include "core/registry.pxi"
include "core/slabs.pxi"
include "core/handles.pxi"
include "core/stack.pxi"
include "core/scopes.pxi"
include "core/graphs.pxi"
include "core/excerpts.pxi"
include "core/joining.pxi"
include "core/finding.pxi"
include "core/bulk.pxi"
include "core/filelocks.pxi"
include "core/checksums.pxi"
include "core/transfers.pxi"
include "core/dlpack.pxi"
include "core/headers.pxi"
include "core/nametrees.pxi"
include "core/restoring.pxi"
include "core/doors.pxi"
