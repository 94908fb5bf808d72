# What takes the place of the GIL on free-threaded builds; on all others it compiles to nothing.

# === Holding ====================================================================================
#
# Each graph is held by one thread at a time, from one of the doors of the core to the way out:
# whatever reads or changes its tables, in C, runs while it is held.  It is let go of before a hook
# of the user is called.  What belongs to no graph, the default graph say, is held as COMMON, and a
# scope's settings as the scope itself.
#
# To hold is to be in a critical section of CPython.  That is what the GIL was: a thread which has
# to wait, whatever for, lets go of all it holds until it goes on.  So no order of locks can make
# two threads wait for each other, not even where letting go of an object runs somebody's code.
# And like the GIL it promises nothing across a call that may wait; no step which has to be one
# step has such a call in it.  To hold twice what is held is allowed but lets others in between:
# doors hold, and what stands behind them is called by doors.

cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    #define VARSCOPE_FREE_THREADED 1
    #ifdef _MSC_VER
    #define VARSCOPE_OF_THREAD __declspec(thread)
    #else
    #define VARSCOPE_OF_THREAD _Thread_local
    #endif
    typedef PyCriticalSection varscope_held;
    #define varscope_hold(held, object) PyCriticalSection_Begin(held, object)
    #define varscope_release(held) PyCriticalSection_End(held)
    #define varscope_let_all(object) _Py_atomic_store_uint8(&(object)->ob_mutex._bits, 0)
    #define varscope_load(number) _Py_atomic_load_uint64_relaxed(&(number))
    #define varscope_number_in(place) _Py_atomic_load_int_relaxed(&(place))
    #define varscope_set_number(place, value) _Py_atomic_store_int_relaxed(&(place), value)
    #define varscope_store(number, value) _Py_atomic_store_uint64_relaxed(&(number), value)
    #else
    #define VARSCOPE_FREE_THREADED 0
    #define VARSCOPE_OF_THREAD
    typedef char varscope_held;
    #define varscope_hold(held, object) ((void)(held), (void)(object))
    #define varscope_release(held) ((void)(held))
    #define varscope_let_all(object) ((void)(object))
    #define varscope_load(number) (number)
    #define varscope_store(number, value) ((number) = (value))
    #define varscope_number_in(place) (place)
    #define varscope_set_number(place, value) ((place) = (value))
    #endif

    /* Rows do not own their handles.  To own one that another thread may be letting go of is to
       raise its count unless that is 0, which takes that the object was marked when it was new:
       otherwise the thread that made it may let it go without looking again. */
    #if !defined(Py_GIL_DISABLED)
    #define varscope_mark(object) ((void)(object))
    static inline int varscope_try_own(PyObject *object) {
        if (Py_REFCNT(object) <= 0) return 0;
        Py_INCREF(object);
        return 1;
    }
    #elif PY_VERSION_HEX >= 0x030E0000
    #define varscope_mark(object) PyUnstable_EnableTryIncRef(object)
    #define varscope_try_own(object) PyUnstable_TryIncRef(object)
    #else
    /* The same for CPython 3.13, which has it for itself alone. */
    static inline void varscope_mark(PyObject *object) {
        Py_ssize_t shared = _Py_atomic_load_ssize_relaxed(&object->ob_ref_shared);
        while ((shared & _Py_REF_SHARED_FLAG_MASK) == 0
               && !_Py_atomic_compare_exchange_ssize(
                   &object->ob_ref_shared, &shared, shared | _Py_REF_MAYBE_WEAKREF)) { }
    }
    static inline int varscope_try_own(PyObject *object) {
        Py_ssize_t shared;
        if (_Py_IsOwnedByCurrentThread(object)) {      /* then the count is not 0 */
            Py_INCREF(object);
            return 1;
        }
        shared = _Py_atomic_load_ssize_relaxed(&object->ob_ref_shared);
        do {
            if (shared == 0 || shared == _Py_REF_MERGED) return 0;
        } while (!_Py_atomic_compare_exchange_ssize(
            &object->ob_ref_shared, &shared, shared + (1 << _Py_REF_SHARED_SHIFT)));
        return 1;
    }
    #endif

    /* Whether the caller's reference is the only one. */
    static inline int varscope_sole(PyObject *object) {
    #ifndef Py_GIL_DISABLED
        return Py_REFCNT(object) == 1;
    #else
        Py_ssize_t shared = _Py_atomic_load_ssize_acquire(&object->ob_ref_shared);
        if (_Py_IsOwnedByCurrentThread(object))
            return _Py_atomic_load_uint32_relaxed(&object->ob_ref_local) == 1 && shared == 0;
        return shared == ((1 << _Py_REF_SHARED_SHIFT) | _Py_REF_MERGED);
    #endif
    }
    """
    ctypedef struct Held "varscope_held":
        pass
    void hold "varscope_hold"(Held *held, PyObject *object) noexcept
    void release "varscope_release"(Held *held) noexcept
    void let_all "varscope_let_all"(PyObject *object) noexcept
    uint64_t load "varscope_load"(uint64_t number) noexcept
    int number_in "varscope_number_in"(int place) noexcept
    void set_number "varscope_set_number"(int place, int value) noexcept
    void store "varscope_store"(uint64_t number, uint64_t value) noexcept
    void mark "varscope_mark"(PyObject *object) noexcept
    bint try_own "varscope_try_own"(PyObject *object) noexcept
    bint is_sole "varscope_sole"(PyObject *object) noexcept
    bint free_threaded "VARSCOPE_FREE_THREADED"


@cython.final
cdef class Common:
    """What belongs to no graph."""

cdef Common COMMON = Common()


# A thread that waits for a graph when another one forks may just have been given it, and in the
# child there is no such thread.  There all graphs are free, once the fork is through.
cdef object graphs_alive = weakref.WeakSet()


def free_graphs():
    """Let go of all graphs, in a child in which no other thread is there to do it."""
    let_all(<PyObject *>COMMON)
    for graph in list(graphs_alive):
        let_all(<PyObject *>graph)


if free_threaded and hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=free_graphs)
