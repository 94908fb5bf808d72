# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, wraparound=False, cdivision=True
"""Names, scopes and the variable table of varscope.  The design is in _scopecore.pxd."""

cimport cython
from cpython.buffer cimport PyObject_GetBuffer
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject, PyObject_Hash, PyTypeObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

import contextvars
import gc
import weakref

from varscope import errors

cdef extern from *:
    """
    /* The front doors.  A call with one or two positional arguments, the most frequent ones by
       far, is answered before twelve are unpacked: unpacking takes longer than the look-up.
       Everything else goes to the function that Cython made. */
    typedef PyObject *(*varscope_quick)(PyObject *, PyObject *);
    typedef struct { varscope_quick quick; PyObject *full; PyMethodDef method; } varscope_door;
    static varscope_door varscope_doors[2];

    static PyObject *varscope_enter(varscope_door *door, PyObject *const *args,
                                    Py_ssize_t nargs, PyObject *kwnames) {
        if ((nargs == 1 || nargs == 2) && kwnames == NULL) {
            PyObject *found = door->quick(args[0], nargs == 2 ? args[1] : NULL);
            if (found != NULL || PyErr_Occurred()) return found;
        }
        return PyObject_Vectorcall(door->full, args, (size_t)nargs, kwnames);
    }
    static PyObject *varscope_door0(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                                    PyObject *kwnames) {
        (void)module;
        return varscope_enter(&varscope_doors[0], args, nargs, kwnames);
    }
    static PyObject *varscope_door1(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                                    PyObject *kwnames) {
        (void)module;
        return varscope_enter(&varscope_doors[1], args, nargs, kwnames);
    }
    static PyObject *varscope_make_door(int which, varscope_quick quick, PyObject *full,
                                        const char *name, const char *doc, PyObject *module) {
        varscope_door *door = &varscope_doors[which];
        door->quick = quick;
        door->full = Py_NewRef(full);
        door->method.ml_name = name;
        door->method.ml_meth = (PyCFunction)(void (*)(void))
            (which ? varscope_door1 : varscope_door0);
        door->method.ml_flags = METH_FASTCALL | METH_KEYWORDS;
        door->method.ml_doc = doc;
        return PyCFunction_NewEx(&door->method, NULL, module);
    }
    """
    ctypedef PyObject *(*varscope_quick)(PyObject *, PyObject *) except? NULL
    object varscope_make_door(int which, varscope_quick quick, object full, const char *name,
                              const char *doc, object module)

cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    #define VARSCOPE_FREE_THREADED 1
    #else
    #define VARSCOPE_FREE_THREADED 0
    #endif
    """
    bint free_threaded "VARSCOPE_FREE_THREADED"
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
    PyObject *PyEval_GetFrame() noexcept
    object PyFrame_GetCode(PyObject *frame)
    int PyFrame_GetLasti(PyObject *frame) noexcept
    bint PyUnicode_CheckExact(object text) noexcept
    object PyUnicode_FromObject(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject *text) noexcept
    bint PyUnicode_IS_ASCII(PyObject *text) noexcept
    void *PyUnicode_DATA(PyObject *text) noexcept
    bint PyLong_CheckExact(object value) noexcept
    int64_t PyLong_AsLongLongAndOverflow(object value, int *overflow) except? -1
    bint PyTuple_CheckExact(object value) noexcept
    bint PyList_CheckExact(object value) noexcept
    Py_ssize_t PyTuple_GET_SIZE(object value) noexcept
    Py_ssize_t PyList_GET_SIZE(object value) noexcept
    PyObject *PyTuple_GET_ITEM(object value, Py_ssize_t i) noexcept
    PyObject *PyList_GET_ITEM(object value, Py_ssize_t i) noexcept
    Py_ssize_t Py_REFCNT(PyObject *value) noexcept


# === IdMap ======================================================================================

cdef inline size_t mixed(uint32_t a, uint32_t b) noexcept nogil:
    # Both keys are spread over all 64 bits and folded.  The two lowest bits of b are left out of
    # that and added at the end: four names in a row below one node lie side by side, and a loop
    # over the variables of a scope finds three of four in a cache line that is there already.
    cdef uint64_t x = (<uint64_t>a * <uint64_t>0x9E3779B97F4A7C15ULL
                       ^ <uint64_t>(b >> 2) * <uint64_t>0xBF58476D1CE4E5B9ULL)
    x = (x ^ (x >> 32)) * <uint64_t>0x94D049BB133111EBULL
    return <size_t>(((x ^ (x >> 32)) << 2) + (b & 3))


cdef inline Slot *idmap_slot(const IdMap *self, uint32_t a, uint32_t b) noexcept nogil:
    """The slot that holds the key, or the empty one where it would go."""
    cdef size_t i = mixed(a, b) & self.mask
    cdef Slot *slot = &self.slots[i]
    while slot.value != NONE and (slot.a != a or slot.b != b):
        i = (i + 1) & self.mask
        slot = &self.slots[i]
    return slot


cdef inline uint32_t idmap_get(const IdMap *self, uint32_t a, uint32_t b) noexcept nogil:
    if self.slots == NULL:
        return NONE
    return idmap_slot(self, a, b).value


cdef int idmap_reserve(IdMap *self) except -1:
    cdef IdMap grown
    cdef size_t i, size
    if self.slots != NULL and (self.used + 1) * 4 <= (self.mask + 1) * 3:
        return 0
    # Small tables grow fast, and so seldom: to rehash is as much work as to insert.
    size = 16 if self.slots == NULL else (self.mask + 1) * (4 if self.mask < 8191 else 2)
    grown.slots = <Slot *>PyMem_Malloc(size * sizeof(Slot))
    if grown.slots == NULL:
        raise MemoryError()
    memset(grown.slots, 0xFF, size * sizeof(Slot))      # every value is NONE
    grown.mask = size - 1
    grown.used = self.used
    if self.slots != NULL:
        for i in range(self.mask + 1):
            if self.slots[i].value != NONE:
                idmap_slot(&grown, self.slots[i].a, self.slots[i].b)[0] = self.slots[i]
    PyMem_Free(self.slots)
    self[0] = grown
    return 0


cdef void idmap_put(IdMap *self, uint32_t a, uint32_t b, uint32_t value) noexcept nogil:
    cdef Slot *slot = idmap_slot(self, a, b)
    if slot.value == NONE:
        self.used += 1
    slot.a, slot.b, slot.value = a, b, value


cdef void idmap_remove(IdMap *self, uint32_t a, uint32_t b) noexcept nogil:
    """Take a key out and close the gap: later slots of the run move up, no tombstone stays."""
    cdef Slot *slot = idmap_slot(self, a, b)
    cdef size_t gap = slot - self.slots, i = gap, home
    if slot.value == NONE:
        return
    self.used -= 1
    while True:
        i = (i + 1) & self.mask
        if self.slots[i].value == NONE:
            break
        home = mixed(self.slots[i].a, self.slots[i].b) & self.mask
        if ((i - home) & self.mask) >= ((i - gap) & self.mask):
            self.slots[gap] = self.slots[i]
            gap = i
    self.slots[gap].value = NONE


cdef void idmap_free(IdMap *self) noexcept:
    PyMem_Free(self.slots)
    self.slots = NULL
    self.used = 0


cdef inline uint32_t room(uint32_t count) except 0:
    """The capacity to grow to: twice, and a quarter more from 16 thousand on.

    So little lies idle at ten million rows.
    """
    cdef uint32_t more = (count if count < 16384 else count >> 2) + 8
    if count >= NONE - 1 - more:
        raise MemoryError("a graph holds at most 3.4 billion names, scopes or variables")
    return count + more


# === Names ======================================================================================

cdef enum:
    INSIDE = 1                 # may stand in a component
    FIRST = 2                  # may be the first character of a path

cdef unsigned char CHARACTER[128]
memset(CHARACTER, 0, sizeof(CHARACTER))
for _c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.":
    CHARACTER[<Py_UCS4>_c] = INSIDE | FIRST
for _c in "_-":
    CHARACTER[<Py_UCS4>_c] = INSIDE


cdef inline bint same_text(PyObject *a, PyObject *b) noexcept:
    # b comes from the table, which holds ASCII only: equal length and bytes are equal text,
    # and no comparison written in Python can run.
    cdef Py_ssize_t length = PyUnicode_GET_LENGTH(a)
    return (length == PyUnicode_GET_LENGTH(b) and PyUnicode_IS_ASCII(a)
            and memcmp(PyUnicode_DATA(a), PyUnicode_DATA(b), length) == 0)


@cython.final
cdef class NameTable:
    """Path components: exact ASCII strings and their ids.

    The slots hold ids only; a name's text and the upper half of its hash lie in an array by id.
    Python's string hash is seeded, so nobody can prepare names that collide.
    """

    def __cinit__(self):
        self.mask = 0

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.count):
            Py_XDECREF(self.names[i].text)
        PyMem_Free(self.names)
        PyMem_Free(self.slots)

    cdef inline uint32_t find(self, PyObject *text) noexcept:
        """The id of an exact str, or NONE; hashing one cannot fail and runs no other code."""
        cdef uint64_t hash = <uint64_t>PyObject_Hash(<object>text)
        cdef size_t i = hash & self.mask
        cdef uint32_t id
        if self.slots == NULL:
            return NONE
        while True:
            id = self.slots[i]
            if id == NONE:
                return NONE
            if self.names[id].text == text or (
                    self.names[id].hash == <uint32_t>(hash >> 32)
                    and same_text(text, self.names[id].text)):
                return id
            i = (i + 1) & self.mask

    cdef int grow(self) except -1:
        cdef uint32_t capacity, i
        cdef size_t size, at
        cdef Name *names
        cdef uint32_t *slots
        if self.count == self.capacity:
            capacity = room(self.count)
            names = <Name *>PyMem_Realloc(self.names, capacity * sizeof(Name))
            if names == NULL:
                raise MemoryError()
            self.names, self.capacity = names, capacity
        if self.slots == NULL or (<size_t>self.count + 1) * 4 > (self.mask + 1) * 3:
            size = 32 if self.slots == NULL else (self.mask + 1) * 2
            slots = <uint32_t *>PyMem_Malloc(size * sizeof(uint32_t))
            if slots == NULL:
                raise MemoryError()
            memset(slots, 0xFF, size * sizeof(uint32_t))
            for i in range(self.count):
                at = <size_t>PyObject_Hash(<object>self.names[i].text) & (size - 1)
                while slots[at] != NONE:
                    at = (at + 1) & (size - 1)
                slots[at] = i
            PyMem_Free(self.slots)
            self.slots, self.mask = slots, size - 1
        return 0

    cdef uint32_t intern(self, str component) except NONE:
        """The id of a component that `components` has passed, made when it is new."""
        cdef PyObject *text = <PyObject *>component
        cdef uint32_t id = self.find(text)
        cdef uint64_t hash
        cdef size_t at
        if id != NONE:
            return id
        self.grow()
        hash = <uint64_t>PyObject_Hash(component)
        at = hash & self.mask
        while self.slots[at] != NONE:
            at = (at + 1) & self.mask
        id = self.count
        Py_INCREF(component)
        self.names[id].text = text
        self.names[id].hash = <uint32_t>(hash >> 32)
        self.names[id].starts_path = (CHARACTER[component[0]] & FIRST) != 0
        self.names[id].suffix = trailing_number(text)
        self.names[id].numbered = self.names[id].named_op = False
        self.slots[at] = id
        self.count += 1
        if self.names[id].suffix:
            self.note_base(component)
        return id

    cdef int note_base(self, str component) except -1:
        """Note on `base` that `base_N` exists: whoever makes a name unique has to look for it."""
        cdef uint32_t id
        if len(component) > 255:           # a_1_1_1...: not one name for each of its suffixes
            self.long_numbered = True
            return 0
        base = component[:component.rindex("_")]
        id = self.intern(base)
        self.names[id].numbered = True
        return 0

    cdef inline str text(self, uint32_t id):
        return <str>self.names[id].text


cdef uint32_t trailing_number(PyObject *text) noexcept:
    """N where an ASCII text reads base_N with a plain decimal N from 1 to 999,999,999, else 0."""
    cdef const unsigned char *data = <const unsigned char *>PyUnicode_DATA(text)
    cdef Py_ssize_t length = PyUnicode_GET_LENGTH(text), at = length
    cdef uint32_t value = 0, place = 1
    while at > 0 and c'0' <= data[at - 1] <= c'9' and length - at < 9:
        at -= 1
        value += place * (data[at] - c'0')
        place *= 10
    if at == length or at < 2 or data[at - 1] != c'_' or data[at] == c'0':
        return 0
    return value


cdef int check_component(str name, Py_ssize_t start, Py_ssize_t stop, bint at_root) except -1:
    cdef Py_ssize_t i
    if start == stop:
        raise errors.InvalidNameError.empty_component(name)
    for i in range(start, stop):
        if name[i] >= 128 or not CHARACTER[name[i]] & INSIDE:
            raise errors.InvalidNameError.bad_character(name, i)
    if at_root and not CHARACTER[name[start]] & FIRST:
        raise errors.InvalidNameError.bad_start(name)
    return 0


cdef bint is_component(str name, bint at_root) noexcept:
    """Whether the name is one good component: what `components` would take without complaint."""
    cdef PyObject *text = <PyObject *>name
    cdef Py_ssize_t i, length = PyUnicode_GET_LENGTH(text)
    cdef const unsigned char *data
    if length == 0 or not PyUnicode_IS_ASCII(text):
        return False
    data = <const unsigned char *>PyUnicode_DATA(text)
    for i in range(length):
        if not CHARACTER[data[i]] & INSIDE:
            return False
    return not at_root or CHARACTER[data[0]] & FIRST != 0


cdef list components(str name, bint at_root):
    """The components of a path below the root or another scope; every one is checked."""
    cdef Py_ssize_t i, start = 0
    cdef list parts = []
    for i in range(len(name) + 1):
        if i == len(name) or name[i] == u"/":
            check_component(name, start, i, at_root and start == 0)
            parts.append(name[start:i])
            start = i + 1
    return parts


cdef inline str exact(object name, str what):
    """The name as an exact str, so that no method of a subclass ever runs in a probe."""
    if PyUnicode_CheckExact(name):
        return <str>name
    if isinstance(name, str):
        return PyUnicode_FromObject(name)
    raise errors.ArgumentTypeError.of(what, "a str", name)


# === Scopes as nodes, variables as rows =========================================================

@cython.final
cdef class ScopeTree:
    """Paths: a node is a name below a parent node.  Node 0 is the root, the empty path."""

    def __cinit__(self):
        self.nodes = <Node *>PyMem_Malloc(8 * sizeof(Node))
        if self.nodes == NULL:
            raise MemoryError()
        self.nodes[0].parent = self.nodes[0].name = NONE
        self.count, self.capacity = 1, 8

    def __dealloc__(self):
        PyMem_Free(self.nodes)
        idmap_free(&self.children)

    cdef inline uint32_t find(self, uint32_t parent, uint32_t name) noexcept:
        return idmap_get(&self.children, parent, name)

    cdef uint32_t child(self, uint32_t parent, uint32_t name) except NONE:
        cdef uint32_t node = self.find(parent, name)
        cdef uint32_t capacity
        cdef Node *nodes
        if node != NONE:
            return node
        if self.count == self.capacity:
            capacity = room(self.count)
            nodes = <Node *>PyMem_Realloc(self.nodes, capacity * sizeof(Node))
            if nodes == NULL:
                raise MemoryError()
            self.nodes, self.capacity = nodes, capacity
        idmap_reserve(&self.children)
        node = self.count
        self.nodes[node].parent, self.nodes[node].name = parent, name
        idmap_put(&self.children, parent, name, node)
        self.count += 1
        return node


@cython.final
cdef class VariableTable:
    """The variables of a graph, one row each, in the order in which they were created."""

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.count):
            Py_XDECREF(self.rows[i].content)
        PyMem_Free(self.rows)
        idmap_free(&self.index)

    cdef inline uint32_t find(self, uint32_t node, uint32_t name) noexcept:
        return idmap_get(&self.index, node, name)

    cdef int reserve(self) except -1:
        cdef uint32_t capacity
        cdef Row *rows
        if self.count == self.capacity:
            capacity = room(self.count)
            rows = <Row *>PyMem_Realloc(self.rows, <size_t>capacity * sizeof(Row))
            if rows == NULL:
                raise MemoryError()
            self.rows, self.capacity = rows, capacity
        idmap_reserve(&self.index)
        return 0

    cdef uint32_t add(self, uint32_t node, uint32_t name, uint32_t spec,
                      uint32_t site) noexcept:
        cdef Row *row = &self.rows[self.count]
        row.node, row.name, row.spec, row.site = node, name, spec, site
        row.handle = row.content = NULL
        idmap_put(&self.index, node, name, self.count)
        self.count += 1
        return self.count - 1


    cdef void remove(self, uint32_t row) noexcept:
        """Take a row out, as if it had never been; the rows behind it move up.

        What the row owns was taken over before.
        """
        cdef uint32_t i
        idmap_remove(&self.index, self.rows[row].node, self.rows[row].name)
        for i in range(row + 1, self.count):
            self.rows[i - 1] = self.rows[i]
            idmap_put(&self.index, self.rows[i].node, self.rows[i].name, i - 1)
            if self.rows[i].handle != NULL:
                (<Handle>self.rows[i].handle).row = i - 1
        self.count -= 1


@cython.final
cdef class Spec:
    """What a variable is, apart from its name and its values; shared by variables that are alike.

    `creation` makes specs; the core only compares and keeps them.
    """

    def __init__(self, shape, dtype, initializer, regularizer, trainable, tuple collections,
                 caching_device, constraint, validate_shape, repeatable):
        self.shape = shape
        self.dtype = dtype
        self.initializer = initializer
        self.regularizer = regularizer
        self.trainable = trainable
        self.collections = collections
        self.caching_device = caching_device
        self.constraint = constraint
        self.validate_shape = validate_shape
        self.repeatable = repeatable
        self.itemsize = dtype.itemsize
        self.size = self.rank = -1
        if shape is None or None in shape:
            return
        self.size = 1
        for dim in shape:
            self.size *= <int64_t>dim           # `shapes` has refused what would overflow
        if len(shape) <= MAX_DIMS:
            self.rank = len(shape)
            for i, dim in enumerate(shape):
                self.dims[i] = dim

    def resolved(self, shape):
        """The same with the shape that an initializer decided."""
        return Spec(shape, self.dtype, self.initializer, self.regularizer, self.trainable,
                    self.collections, self.caching_device, self.constraint,
                    self.validate_shape, False)

    def __reduce__(self):
        return Spec, (self.shape, self.dtype, self.initializer, self.regularizer, self.trainable,
                      self.collections, self.caching_device, self.constraint,
                      self.validate_shape, self.repeatable)

    cdef tuple key(self):
        # Hooks count by identity: equality of arbitrary objects may be anything, and slow.
        return (self.shape, self.dtype, id(self.initializer), id(self.regularizer),
                self.trainable, self.collections, id(self.caching_device), id(self.constraint),
                self.validate_shape, self.repeatable)


# === Requests seen before =======================================================================

cdef inline size_t request_hash(const Request *request) noexcept:
    cdef uint64_t x = <uint64_t>request.defaults >> 4
    cdef int i
    for i in range(8):
        x = (x ^ (<uint64_t>request.parts[i] >> 4)) * <uint64_t>0x9E3779B97F4A7C15ULL
    for i in range(request.rank):
        x = (x ^ <uint64_t>request.dims[i]) * <uint64_t>0xBF58476D1CE4E5B9ULL
    return <size_t>(x ^ (x >> 32))


cdef inline bint same_request(const Request *a, const Request *b) noexcept:
    return (a.defaults == b.defaults and a.rank == b.rank
            and memcmp(a.parts, b.parts, sizeof(a.parts)) == 0
            and (a.rank <= 0 or memcmp(a.dims, b.dims, a.rank * sizeof(int64_t)) == 0))


@cython.final
@cython.no_gc_clear        # the slots borrow from `owned`; emptying it alone would let them dangle
cdef class RequestCache:

    def __dealloc__(self):
        PyMem_Free(self.slots)

    cdef inline uint32_t find(self, const Request *request) noexcept:
        cdef Request *slot
        if self.slots == NULL:
            return NONE
        if same_request(self.recent, request):
            return self.recent.spec
        slot = &self.slots[request_hash(request) & self.mask]
        if not same_request(slot, request):
            return NONE
        self.recent = slot
        return slot.spec

    cdef int put(self, const Request *request) except -1:
        cdef size_t at
        cdef int i
        cdef list keys = [<object>request.defaults]
        for i in range(8):
            keys.append(<object>request.parts[i])
        if self.slots == NULL:
            self.resize(64)
        while True:
            at = request_hash(request) & self.mask
            if self.slots[at].defaults == NULL or self.mask + 1 >= 4096:
                break
            self.resize((self.mask + 1) * 2)
        self.slots[at] = request[0]
        old = self.owned[at]               # let go of last, when the slot no longer borrows
        self.owned[at] = keys
        return 0

    cdef int resize(self, size_t size) except -1:
        cdef Request *old = self.slots
        cdef list owned = [None] * size
        cdef size_t i, at, old_size = 0 if old == NULL else self.mask + 1
        cdef Request *slots = <Request *>PyMem_Calloc(size, sizeof(Request))
        if slots == NULL:
            raise MemoryError()
        for i in range(old_size):
            if old[i].defaults != NULL:
                at = request_hash(&old[i]) & (size - 1)
                slots[at] = old[i]
                owned[at] = self.owned[i]
        self.slots = self.recent = slots
        self.mask, self.owned = size - 1, owned
        PyMem_Free(old)
        return 0


# === Marks for default names ====================================================================

@cython.final
cdef class Marks:
    """A log of "this scope was opened" and "everything below this one is forgotten".

    The newest event of a key decides.  Up to eight events are searched in line; a hash map from
    key to newest event is made for the ninth.  A log with many more events than keys (a loop that
    marks and forgets the same scopes) is written anew with what still counts.
    """

    def __cinit__(self):
        self.events = self.inline_events
        self.capacity = 8
        self.last_deep = NONE

    def __dealloc__(self):
        if self.events != self.inline_events:
            PyMem_Free(self.events)
        idmap_free(&self.latest)
        idmap_free(&self.suffixes)

    cdef uint32_t next_suffix(self, uint32_t parent, uint32_t name) noexcept:
        """The first suffix of a default name that was not tried yet."""
        cdef uint32_t suffix = idmap_get(&self.suffixes, parent, name)
        return 1 if suffix == NONE else suffix

    cdef int note_suffix(self, uint32_t parent, uint32_t name, uint32_t suffix) except -1:
        idmap_reserve(&self.suffixes)
        idmap_put(&self.suffixes, parent, name, suffix)
        return 0

    cdef uint32_t newest(self, uint32_t node, bint forget, uint32_t length) noexcept:
        """The newest event of this key among the first `length` ones, or NONE."""
        cdef uint32_t i
        if self.latest.slots == NULL:
            i = self.count
            while i > 0:
                i -= 1
                if self.events[i].node == node and self.events[i].forget == forget:
                    break
            else:
                return NONE
        else:
            i = idmap_get(&self.latest, node, forget)
        while i != NONE and i >= length:
            i = self.events[i].older
        return i

    cdef int append(self, uint32_t node, bint forget, bint deep) except -1:
        cdef uint32_t i, capacity, older = self.newest(node, forget, self.count)
        cdef Mark *events
        if self.count == self.capacity:
            capacity = self.capacity * 2
            events = <Mark *>PyMem_Malloc(capacity * sizeof(Mark))
            if events == NULL:
                raise MemoryError()
            memcpy(events, self.events, self.count * sizeof(Mark))
            if self.events != self.inline_events:
                PyMem_Free(self.events)
            self.events, self.capacity = events, capacity
        if self.count >= 8:
            if self.latest.slots == NULL:
                self.index_events()
            idmap_reserve(&self.latest)
            idmap_put(&self.latest, node, forget, self.count)
        self.events[self.count].node = node
        self.events[self.count].older = older
        self.events[self.count].forget = forget
        if deep and not forget:
            self.last_deep = self.count
        if forget:
            self.has_forgets = True
            idmap_free(&self.suffixes)          # forgotten suffixes are free again
        self.distinct += older == NONE
        self.count += 1
        return 0

    cdef int index_events(self) except -1:
        cdef IdMap latest
        cdef uint32_t i
        memset(&latest, 0, sizeof(IdMap))
        try:
            for i in range(self.count):
                idmap_reserve(&latest)
                idmap_put(&latest, self.events[i].node, self.events[i].forget, i)
        except MemoryError:
            idmap_free(&latest)
            raise
        self.latest = latest
        return 0

    cdef Marks copied(self, uint32_t length):
        """The first `length` events, without those that a newer one of the same key replaced."""
        cdef Marks new = Marks()
        cdef uint32_t i
        for i in range(length):
            if self.newest(self.events[i].node, self.events[i].forget, length) == i:
                new.append(self.events[i].node, self.events[i].forget,
                           self.last_deep != NONE and i <= self.last_deep)
        return new


# === The graph's tables together ================================================================

cdef uint64_t next_serial = 1

@cython.no_gc_clear        # handles write to its tables to the end; its lists and dicts are cleared
cdef class Registry:
    """The names of one graph: variables by path, and which op names are taken.

    `varscope.Graph` is the class to use; this one knows no policy.
    """

    def __cinit__(self, *args, **kwargs):
        global next_serial
        self.names = NameTable()
        self.tree = ScopeTree()
        self.table = VariableTable()
        self.requests = RequestCache()
        self.specs, self.spec_ids = [], {}
        self.sites, self.site_ids = [], {}
        self.renamed = {}
        self.serial = next_serial
        next_serial += 1

    def __dealloc__(self):
        idmap_free(&self.op_names)

    # --- text to numbers and back
    @cython.final
    cdef uint32_t seek(self, uint32_t node, str path) except? NONE:
        """The node of any path below `node`, or NONE; a text that is no path is not there."""
        cdef uint32_t name
        for part in path.split("/"):
            name = self.names.find(<PyObject *>part)
            node = NONE if name == NONE else self.tree.find(node, name)
            if node == NONE:
                break
        return node

    @cython.final
    cdef inline uint32_t open_path(self, uint32_t node, str path) except NONE:
        """The node of a scope that is being opened, made when it is new."""
        cdef uint32_t name = self.locate(&node, path)
        return self.tree.child(node, name)

    @cython.final
    cdef uint32_t locate(self, uint32_t *node, str path) except NONE:
        """The id of a path's last component; `node` moves to what it lies below.  Makes both."""
        cdef uint32_t name = self.names.find(<PyObject *>path)
        cdef list parts
        if name != NONE and (node[0] != ROOT or self.names.names[name].starts_path):
            return name
        if is_component(path, node[0] == ROOT):
            return self.names.intern(path)
        parts = components(path, node[0] == ROOT)
        leaf = parts.pop()
        for part in parts:
            node[0] = self.tree.child(node[0], self.names.intern(part))
        return self.names.intern(leaf)

    @cython.final
    cdef str path(self, uint32_t node):
        cdef list parts = []
        while node != ROOT:
            parts.append(self.names.text(self.tree.nodes[node].name))
            node = self.tree.nodes[node].parent
        parts.reverse()
        return "/".join(parts)

    @cython.final
    cdef str join(self, uint32_t node, uint32_t name):
        cdef str leaf = self.names.text(name)
        return leaf if node == ROOT else f"{self.path(node)}/{leaf}"

    @cython.final
    cdef str row_path(self, uint32_t row):
        return self.join(self.table.rows[row].node, self.table.rows[row].name)

    @cython.final
    cdef str op_name(self, uint32_t row):
        """The path, made unique among the op names of the graph."""
        cdef str path = self.row_path(row)
        return suffixed(path, self.renamed[row]) if row in self.renamed else path

    @cython.final
    cdef uint32_t find_row(self, uint32_t node, str name) except? NONE:
        """The row of a variable whose name may have slashes; never makes anything."""
        cdef uint32_t id = self.names.find(<PyObject *>name)
        cdef Py_ssize_t at
        if id == NONE:
            at = name.rfind("/")
            if at <= 0 or at + 1 == len(name):
                return NONE
            node = self.seek(node, name[:at])
            if node == NONE:
                return NONE
            leaf = name[at + 1:]
            id = self.names.find(<PyObject *>leaf)
            if id == NONE:
                return NONE
        return self.table.find(node, id)

    # --- variables
    @cython.final
    cdef inline object handle(self, uint32_t row):
        """The one live handle of a row, made when nobody holds one."""
        cdef Row *r = &self.table.rows[row]
        cdef Handle new
        # Nobody owns a handle whose weak references are just being told that it dies.
        if r.handle != NULL and Py_REFCNT(r.handle) > 0:
            return <object>r.handle
        new = new_handle()
        new.graph, new.row = self, row
        # A new object may have started a collection, which may have made the handle.
        r = &self.table.rows[row]
        if r.handle != NULL and Py_REFCNT(r.handle) > 0:
            new.graph = None
            return <object>r.handle
        r.handle = <PyObject *>new
        return new

    @cython.final
    cdef uint32_t spec_id(self, Spec spec) except NONE:
        key = spec.key()
        found = self.spec_ids.get(key)
        if found is not None:
            return found
        if len(self.specs) >= <Py_ssize_t>NONE:
            raise MemoryError()
        self.specs.append(spec)
        try:
            self.spec_ids[key] = len(self.specs) - 1
        except BaseException:
            self.specs.pop()
            raise
        return <uint32_t>(len(self.specs) - 1)

    @cython.final
    cdef object commit(self, uint32_t node, uint32_t name, uint32_t spec, uint32_t site,
                       uint32_t missed_at):
        """One more variable, or None where the name is there.

        `missed_at` is how many there were when it was looked up in vain, NONE if it was not.
        All that can fail happens before the row is added.
        """
        cdef Handle new
        cdef Creation creation = None
        cdef uint32_t suffix = 0
        if journals:
            creation = noted(idmap_get(&self.op_names, node, name))
        if self.finalized:
            raise errors.FinalizedGraphError.variable(self.join(node, name))
        new = new_handle()
        # Making it may have started a collection, and that somebody's code.  From here on nothing
        # can: a graph that has not grown since still lacks the name.
        if self.table.count != missed_at and self.table.find(node, name) != NONE:
            return None
        self.table.reserve()
        if self.op_name_taken(node, name):
            suffix = self.claim(node, name, True)
            self.renamed[self.table.count] = suffix
        new.row = self.table.add(node, name, spec, site)
        new.graph = self
        self.table.rows[new.row].handle = <PyObject *>new
        if creation is not None:
            creation.handle = new
        return new

    @cython.final
    cdef inline bint op_name_taken(self, uint32_t node, uint32_t name) except -1:
        """For a name that no variable has; most have never been an op's, which is a bit to read."""
        cdef Name *n = &self.names.names[name]
        return (n.named_op or n.suffix) and self.taken(node, name) != 0

    @cython.final
    cdef int withdraw(self, Creation creation) except -1:
        """Take out a variable whose creation turned out to be part of something that failed."""
        cdef uint32_t row = creation.handle.row, node, name
        cdef PyObject *content
        if row == NONE:
            return 0
        node, name = self.table.rows[row].node, self.table.rows[row].name
        content = self.table.rows[row].content
        if row in self.renamed:
            if creation.op_counter == NONE:
                idmap_remove(&self.op_names, node, name)
            else:
                idmap_put(&self.op_names, node, name, creation.op_counter)
        self.renamed = {key - (key > row): suffix for key, suffix in self.renamed.items()
                        if key != row}
        self.table.remove(row)
        creation.handle.row = NONE
        Py_XDECREF(content)
        return 0

    def _find(self, str op_name):
        """The variable of this full name, or None."""
        cdef uint32_t row = self.find_row(ROOT, exact(op_name, "name"))
        return None if row == NONE else self.handle(row)

    def _add(self, str op_name, Spec spec):
        """Register a variable; returns None when the name was taken meanwhile."""
        cdef uint32_t node = ROOT, site, id
        cdef uint32_t name = self.locate(&node, exact(op_name, "name"))
        id = self.spec_id(spec)
        site = current_site(self)
        return self.commit(node, name, id, site, NONE)

    def _load(self, str path, Spec spec, suffix, site):
        """Register a variable as it was elsewhere: op name and creation site are given."""
        cdef uint32_t node = ROOT
        cdef uint32_t name = self.locate(&node, path)
        if self.table.find(node, name) != NONE:
            raise ValueError(f"variable {path!r} is there already")
        self.table.reserve()
        id = self.spec_id(spec)
        number = self.site_ids.setdefault(site, len(self.sites))
        if number == len(self.sites):
            self.sites.append(site)
        if suffix:
            self.renamed[self.table.count] = suffix
        self.table.add(node, name, id, number)

    def _op_state(self):
        """The op names that have an entry: [(path, next suffix), ...]."""
        cdef size_t i
        cdef Slot *slot
        cdef list state = []
        if self.op_names.slots != NULL:
            for i in range(self.op_names.mask + 1):
                slot = &self.op_names.slots[i]
                if slot.value != NONE:
                    state.append((self.join(slot.a, slot.b), slot.value))
        return state

    def _load_op_state(self, state):
        cdef uint32_t node
        for path, next_suffix in state:
            node = self.open_path(ROOT, path)
            self.use(self.tree.nodes[node].parent, self.tree.nodes[node].name, next_suffix)

    def _suffix(self, Py_ssize_t row):
        return self.renamed.get(row, 0)

    def _renamed_row(self, str op_name):
        """The variable whose op name differs from its path, or -1."""
        for row in self.renamed:
            if self.op_name(row) == op_name:
                return row
        return -1

    def finalize(self):
        """Refuse new variables and op names from now on; existing ones can be used and set."""
        self.finalized = True

    # --- bulk access for the layers above; rows are in the order of creation
    def _count(self):
        return self.table.count

    def _handle(self, Py_ssize_t row):
        if not 0 <= row < self.table.count:
            raise IndexError(row)
        return self.handle(<uint32_t>row)

    def _row(self, str op_name):
        """The number of a variable in the order of creation, or -1."""
        cdef uint32_t row = self.find_row(ROOT, exact(op_name, "name"))
        return -1 if row == NONE else row

    def _spec(self, Py_ssize_t row):
        if not 0 <= row < self.table.count:
            raise IndexError(row)
        return self.specs[self.table.rows[row].spec]

    def _op_names(self, Py_ssize_t start=0):
        """All full names from a row on, as a list; a scope's text is made once a run of rows."""
        cdef Py_ssize_t row
        cdef uint32_t node = NONE
        cdef str prefix = ""
        cdef Row *r
        cdef list names = []
        for row in range(start, self.table.count):
            r = &self.table.rows[row]
            if r.node != node:
                node = r.node
                prefix = "" if node == ROOT else self.path(node) + "/"
            names.append(prefix + self.names.text(r.name))
        for row, suffix in self.renamed.items():
            if row >= start:
                names[row - start] = suffixed(names[row - start], suffix)
        return names

    def _rows_in(self, key, str scope=None):
        """The rows of a collection, those of one scope only where one is given."""
        cdef uint32_t row
        cdef list chosen = [key in (<Spec>spec).collections for spec in self.specs]
        cdef list rows = []
        cdef uint32_t node = ROOT
        if scope:
            node = self.seek(ROOT, scope)
            leaf = self._row(scope)
        for row in range(self.table.count):
            if chosen[self.table.rows[row].spec] and (
                    not scope or row == leaf
                    or node != NONE and self.below(self.table.rows[row].node, node)):
                rows.append(row)
        return rows

    @cython.final
    cdef bint below(self, uint32_t node, uint32_t ancestor) noexcept:
        while node != ancestor and node != ROOT:
            node = self.tree.nodes[node].parent
        return node == ancestor

    def _leaves_like(self, str scope, str leaf, Py_ssize_t limit):
        """Full names that somebody may have meant: the same leaf anywhere, or the same scope."""
        cdef uint32_t row, node = self.seek(ROOT, scope) if scope else ROOT
        cdef uint32_t name = self.names.find(<PyObject *>leaf)
        cdef list names = []
        for row in range(self.table.count):
            if self.table.rows[row].name == name or self.table.rows[row].node == node:
                names.append(self.row_path(row))
                if len(names) == limit:
                    break
        return names

    def _totals(self):
        """(elements, bytes) of all variables whose shape is known."""
        cdef uint32_t row
        cdef Spec spec
        cdef list uses = [0] * len(self.specs)
        for row in range(self.table.count):
            uses[self.table.rows[row].spec] += 1
        size = nbytes = 0
        for spec, n in zip(self.specs, uses):
            if spec.size >= 0:
                size += n * spec.size
                nbytes += n * spec.size * spec.itemsize
        return size, nbytes


    # --- op names
    @cython.final
    cdef uint32_t taken(self, uint32_t node, uint32_t name) except? 0:
        """How the op name is used: 0 free, else the next suffix to try behind it.

        Most names that are taken need no entry: a variable takes its own, and `base_7` is taken
        once `base` has handed out more than seven suffixes.
        """
        cdef Name *n = &self.names.names[name]
        cdef uint32_t used, base
        if n.named_op:
            used = idmap_get(&self.op_names, node, name)
            if used != NONE:
                return used
        if self.table.find(node, name) != NONE:
            return 1
        if n.suffix:
            text = self.names.text(name)
            text = text[:text.rindex("_")]
            base = self.names.find(<PyObject *>text)
            if base != NONE:
                used = idmap_get(&self.op_names, node, base)
                if used != NONE and n.suffix < used:
                    return 1
        return 0

    @cython.final
    cdef uint32_t claim(self, uint32_t node, uint32_t name, bint mark) except NONE:
        """The suffix that makes the op name unique below the node; 0 is the bare name."""
        cdef uint32_t used = self.taken(node, name)
        if used:
            return self.raise_counter(node, name, used, mark)
        if mark:
            self.use(node, name, 1)
        return 0

    @cython.final
    cdef uint32_t raise_counter(self, uint32_t node, uint32_t name, uint32_t used,
                                bint mark) except NONE:
        """The next free suffix of a name that is taken.

        The counter has not come further than `used`, so only an op name with an entry of its
        own, or a variable, can stand in the way, and only where such a name is in the table.
        """
        cdef uint32_t id
        while self.names.names[name].numbered or self.names.long_numbered:
            text = suffixed(self.names.text(name), used)
            id = self.names.find(<PyObject *>text)
            if id == NONE or (idmap_get(&self.op_names, node, id) == NONE
                              and self.table.find(node, id) == NONE):
                break
            used += 1
        if mark:
            self.use(node, name, used + 1)
        return used

    @cython.final
    cdef int use(self, uint32_t node, uint32_t name, uint32_t next_suffix) except -1:
        idmap_reserve(&self.op_names)
        idmap_put(&self.op_names, node, name, next_suffix)
        self.names.names[name].named_op = True
        return 0

    @cython.final
    cdef int unique(self, NameScopeRef *scope, str name, bint mark) except -1:
        """Turn a name scope into the unique form of a path below it; makes no node for that."""
        cdef uint32_t node = scope.node if scope.base == NONE else self.name_scope_node(scope[0])
        cdef uint32_t id = self.locate(&node, name)
        scope.suffix = self.claim(node, id, mark)
        scope.node, scope.base = node, id
        return 0

    @cython.final
    cdef uint32_t name_scope_node(self, NameScopeRef ref) except NONE:
        cdef uint32_t name = ref.base
        if name == NONE:
            return ref.node
        if ref.suffix:
            name = self.names.intern(suffixed(self.names.text(name), ref.suffix))
        return self.tree.child(ref.node, name)

    @cython.final
    cdef str name_scope_path(self, NameScopeRef ref):
        cdef str path = self.path(ref.node)
        if ref.base == NONE:
            return path
        leaf = self.names.text(ref.base)
        if ref.suffix:
            leaf = suffixed(leaf, ref.suffix)
        return f"{path}/{leaf}" if path else leaf

    def unique_name(self, name, mark_as_used=True):
        """A name for an op: `name`, or `name_1`, `name_2`, ..., below the current name scope.

        Parameters
        ----------
        name : str
            What the op would like to be called; may have several components.
        mark_as_used : bool
            False only looks: the same name is handed out again.

        Returns
        -------
        str
            The full name, name scope included.

        >>> import varscope as vs
        >>> g = vs.Graph()
        >>> g.unique_name("conv"), g.unique_name("conv")
        ('conv', 'conv_1')
        """
        cdef NameScopeRef scope = name_scope_of(self)
        self.unique(&scope, exact(name, "name"), bool(mark_as_used))
        return self.name_scope_path(scope)

    def get_name_scope(self):
        """The current name scope of this graph, without a trailing slash; '' at the root."""
        return self.name_scope_path(name_scope_of(self))


cdef inline str suffixed(str base, uint32_t suffix):
    return f"{base}_{suffix}"


# === Where a variable was created ===============================================================

cdef struct RecentSite:
    PyObject *code             # borrowed: compared only with a code object that is running
    int instruction
    uint64_t graph
    uint32_t site

cdef RecentSite recent_sites[64]
memset(recent_sites, 0, sizeof(recent_sites))
cdef str package_folder = __file__.rpartition("_scopecore")[0]


cdef uint32_t current_site(Registry graph) except NONE:
    """The running line of Python code, as a number; no text is made before somebody asks."""
    cdef PyObject *frame = PyEval_GetFrame()
    cdef PyObject *code
    cdef int instruction
    cdef RecentSite *recent
    cdef uint32_t site
    if frame == NULL:
        return intern_site(graph, None, -1)
    found = PyFrame_GetCode(frame)
    code = <PyObject *>found
    instruction = PyFrame_GetLasti(frame)
    recent = &recent_sites[(<size_t>code >> 5 ^ <size_t>instruction) & 63]
    if (recent.code == code and recent.instruction == instruction
            and recent.graph == graph.serial):
        # The graph holds the code object, so no other one can have its address.
        return recent.site
    if found.co_filename.startswith(package_folder):
        return outer_site(graph, <object>frame)
    site = intern_site(graph, found, instruction)
    recent.code, recent.instruction = code, instruction
    recent.graph, recent.site = graph.serial, site
    return site


cdef uint32_t outer_site(Registry graph, object frame) except NONE:
    """The nearest line outside this package."""
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package_folder):
        frame = frame.f_back
    return intern_site(graph, frame.f_code, frame.f_lasti)


cdef uint32_t intern_site(Registry graph, object code, int instruction) except NONE:
    key = (id(code), instruction)
    found = graph.site_ids.get(key)
    if found is None:
        found = len(graph.sites)
        graph.sites.append((code, instruction))
        graph.site_ids[key] = found
    return found


cdef tuple origin_here(str path):
    """(scope, code, instruction) of whoever switches reuse on now."""
    frame = <object>PyEval_GetFrame() if PyEval_GetFrame() != NULL else None
    while (frame is not None and frame.f_back is not None
           and frame.f_code.co_filename.startswith(package_folder)):
        frame = frame.f_back
    if frame is None:
        return path, None, -1
    return path, frame.f_code, frame.f_lasti


# === Journals ===================================================================================

# Threads in which a custom getter runs, and what was created in them since.
cdef dict journals = {}


@cython.final
cdef class Creation:
    pass


cdef inline Creation noted(uint32_t op_counter):
    cdef list journal = journals.get(PyThread_get_thread_ident())
    cdef Creation creation
    if journal is None:
        return None
    creation = Creation()
    creation.op_counter = op_counter
    journal.append(creation)
    return creation


def all_or_nothing(function, /, *args, **kwargs):
    """Call a function; what it created in this thread is withdrawn where it raises."""
    cdef unsigned long thread = PyThread_get_thread_ident()
    cdef list outer = journals.get(thread), journal = []
    cdef Creation creation
    journals[thread] = journal
    try:
        result = function(*args, **kwargs)
    except BaseException:
        for creation in reversed(journal):
            if creation.handle is not None:
                creation.handle.graph.withdraw(creation)
        raise
    finally:
        if outer is None:
            del journals[thread]
        else:
            journals[thread] = outer
    if outer is not None:
        outer.extend(journal)
    return result


# === Handles ====================================================================================

cdef type handle_type = Handle


cdef tuple NOTHING = ()

cdef inline Handle new_handle():
    # The slot itself: a call of the type would look for __init__ and build arguments.
    return <Handle>(<PyTypeObject *>handle_type).tp_new(
        handle_type, <PyObject *>NOTHING, NULL)


cdef extern from *:
    """
    /* Most handles live for a moment: get_variable makes one that the caller does not keep.
       Cython's free lists serve the class they are declared on only, not a subclass written in
       Python, so the one subclass that is used gets a small store of its own. */
    #define VARSCOPE_STORE 64
    static PyTypeObject *varscope_stored_type;
    static PyObject *varscope_store[VARSCOPE_STORE];
    static int varscope_stored = 0;

    static PyObject *varscope_alloc(PyTypeObject *type, Py_ssize_t items) {
        PyObject *object;
        if (type != varscope_stored_type || varscope_stored == 0)
            return PyType_GenericAlloc(type, items);
        object = varscope_store[--varscope_stored];
        memset((char *)object + sizeof(PyObject), 0,
               (size_t)type->tp_basicsize - sizeof(PyObject));
        PyObject_Init(object, type);
        PyObject_GC_Track(object);
        return object;
    }
    static void varscope_free(void *object) {
        /* Untracked by now, and of no use to anybody. */
        if (Py_TYPE((PyObject *)object) == varscope_stored_type
                && varscope_stored < VARSCOPE_STORE)
            varscope_store[varscope_stored++] = (PyObject *)object;
        else
            PyObject_GC_Del(object);
    }
    static void varscope_keep_store(PyTypeObject *type) {
    #ifndef Py_GIL_DISABLED
        varscope_stored_type = type;
        type->tp_alloc = varscope_alloc;
        type->tp_free = varscope_free;
    #else
        (void)type;
    #endif
    }
    """
    void varscope_keep_store(PyTypeObject *type)


cdef object create_or_share = None         # creation's function, see register


@cython.no_gc_clear        # the graph must outlive the handle: __dealloc__ writes to its row
@cython.freelist(64)
cdef class Handle:
    """What Python code holds of a variable: the graph and a row of it.

    While somebody holds it, it is the only one of its row, so `is` compares variables.  The row's
    pointer to it is borrowed: it is set when the handle is made and cleared before it goes, and
    the handle keeps the graph, and so the row, alive.
    """

    def __dealloc__(self):
        if (self.graph is not None and self.row != NONE
                and self.graph.table.rows[self.row].handle == <PyObject *>self):
            self.graph.table.rows[self.row].handle = NULL

    cdef int check(self) except -1:
        if self.row == NONE:
            raise errors.WithdrawnError(
                "this variable was withdrawn: the custom getter that created it raised")
        return 0

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        # In Python code only since 3.12; the array is the owner of the buffer.
        PyObject_GetBuffer(self.array, buffer, flags)

    @property
    def path(self):
        """The full name by which `get_variable` finds it: scope path, slash, name."""
        self.check()
        return self.graph.row_path(self.row)

    @property
    def op_name(self):
        """The name as an op: the path, with a suffix where another op had that name first."""
        self.check()
        return self.graph.op_name(self.row)

    @property
    def name(self):
        """The op name followed by the output's number, always `:0`."""
        self.check()
        return self.graph.op_name(self.row) + ":0"

    @property
    def _index(self):
        return self.row

    @property
    def _spec(self):
        self.check()
        return <Spec>self.graph.specs[self.graph.table.rows[self.row].spec]

    @_spec.setter
    def _spec(self, Spec spec):
        self.check()
        self.graph.table.rows[self.row].spec = self.graph.spec_id(spec)

    @property
    def _content(self):
        cdef PyObject *content
        self.check()
        content = self.graph.table.rows[self.row].content
        return None if content == NULL else <object>content

    @_content.setter
    def _content(self, content):
        cdef PyObject *old
        self.check()
        old = self.graph.table.rows[self.row].content
        if content is None:
            self.graph.table.rows[self.row].content = NULL
        else:
            Py_INCREF(content)
            self.graph.table.rows[self.row].content = <PyObject *>content
        Py_XDECREF(old)

    @property
    def creation_site(self):
        """`(file, line, function)` of the call that created the variable."""
        self.check()
        return site_text(self.graph.sites[self.graph.table.rows[self.row].site])


def site_text(tuple site):
    """`(file, line, function)` of a place in code that the core has noted."""
    if len(site) == 3:
        return site                        # of a graph that was pickled: only the text is left
    code, instruction = site
    if code is None:
        return "<unknown>", 0, "<unknown>"
    line = code.co_firstlineno
    for start, stop, number in code.co_lines():
        if start <= instruction < stop and number is not None:
            line = number
            break
    return code.co_filename, line, code.co_qualname


# === Defaults ===================================================================================

cdef tuple FIELDS = ("initializer", "regularizer", "caching_device", "partitioner",
                     "custom_getter", "dtype", "constraint")
cdef object float32 = None                  # numpy.dtype("float32"), set by register
cdef object as_dtype = None                 # shapes.as_dtype, likewise


@cython.final
cdef class ComposedGetter:
    """Two custom getters as one: the inner runs first, and its `getter` is the outer one."""
    cdef readonly object inner, outer

    def __init__(self, inner, outer):
        self.inner, self.outer = inner, outer

    def __call__(self, getter, *args, **kwargs):
        return self.inner(BoundGetter(self.outer, getter), *args, **kwargs)

    def __repr__(self):
        return f"{self.inner!r} inside {self.outer!r}"

    def __reduce__(self):
        return ComposedGetter, (self.inner, self.outer)


@cython.final
cdef class BoundGetter:
    cdef readonly object custom, getter

    def __init__(self, custom, getter):
        self.custom, self.getter = custom, getter

    def __call__(self, *args, **kwargs):
        # Another getter may swallow what this one raises; what it created goes all the same.
        return all_or_nothing(self.custom, self.getter, *args, **kwargs)


@cython.final
cdef class Defaults:
    """What `get_variable` uses where its caller gives nothing.  Immutable, and merged only here."""

    cdef Defaults replaced(self, int field, object value):
        cdef Defaults new = Defaults.__new__(Defaults)
        cdef list values = [self.initializer, self.regularizer, self.caching_device,
                            self.partitioner, self.custom_getter, self.dtype, self.constraint]
        values[field] = value
        (new.initializer, new.regularizer, new.caching_device, new.partitioner,
         new.custom_getter, new.dtype, new.constraint) = values
        return new

    cdef Defaults derive(self, tuple overrides):
        """These with what is not None in `overrides` in its place.

        Equal requests give the identical object: a program that opens `dtype="bfloat16"` in
        every layer derives once, and the requests inside hit their cache.
        """
        cdef Defaults new = self
        cdef int field
        if self.derived is None:
            self.derived = {}
        key = tuple([id(value) for value in overrides])
        found = self.derived.get(key)
        if found is not None:
            return found[0]
        for field in range(7):
            value = overrides[field]
            if value is not None:
                new = new.replaced(field, self.checked(field, value))
        if len(self.derived) >= 64:
            self.derived.clear()
        self.derived[key] = new, overrides          # keeps the objects, and so their ids
        return new

    cdef object checked(self, int field, object value):
        if field == 5:
            return as_dtype(value)
        if field == 4:
            check_getter(value)
            if self.custom_getter is not None:
                return ComposedGetter(value, self.custom_getter)
        return value


cdef int check_getter(object value) except -1:
    if not callable(value):
        raise errors.NotCallableError.custom_getter(value)
    return 0


cdef Defaults PLAIN = Defaults.__new__(Defaults)


# === The stack of a thread or task ==============================================================

cdef enum:
    SHARE = 1                  # reuse=True
    AUTO = 2

cdef enum:
    OPENED = 0                 # a variable scope that prolongs the path
    JUMPED = 1                 # a captured variable scope
    NAMING = 2                 # a name scope: the variable scope goes on
    BOTTOM = 3                 # the root, once somebody has asked for its scope


@cython.final
@cython.freelist(128)
cdef class Frame:
    """One open scope.  Immutable: to change one is to build the frames above it anew."""

    def __dealloc__(self):
        # A chain of a million frames is let go of in a loop: each would otherwise drop the next
        # inside its own deallocation and overflow the C stack.
        cdef PyObject *below = <PyObject *>self.below
        cdef Frame frame
        if self.below is None or Py_REFCNT(below) > 1:
            return
        chain = [self.below]
        self.below = None
        while chain:
            frame = chain.pop()
            # Two: the variable and nothing else but the list that has just let go.
            if frame.below is not None and Py_REFCNT(<PyObject *>frame) == 1:
                chain.append(frame.below)
                frame.below = None

    cdef Frame copied(self, Frame below):
        cdef Frame new = Frame.__new__(Frame)
        new.graph, new.below, new.entry, new.scope = self.graph, below, self.entry, self.scope
        new.defaults, new.node, new.mode, new.kind = (
            self.defaults, self.node, self.mode, self.kind)
        new.name_scope = self.name_scope
        new.marks_below, new.length_below = self.marks_below, self.length_below
        new.looks_below, new.look = self.looks_below, self.look
        new.settle()
        return new

    cdef inline int settle(self) except -1:
        """Whether what is asked for here can be answered without asking getters."""
        self.quick = (self.kind != BOTTOM and self.defaults.custom_getter is None
                      and self.defaults.partitioner is None)
        return 0


@cython.final
cdef class GraphSwitch:
    """The state of the graph that `as_default` put aside; a linked stack of its own."""
    cdef GraphSwitch below
    cdef object entry
    cdef Registry graph                # None: the default graph
    cdef uint64_t serial
    cdef Frame top, inside             # of the graph put aside; of the new one at its entry
    cdef Marks marks
    cdef uint32_t length


@cython.final
cdef class RootState:
    """What a thread set on the root of a graph that is not current; does not keep the graph."""
    cdef object graph                  # weak reference
    cdef Defaults defaults
    cdef int mode
    cdef object reuse_origin
    cdef Marks marks
    cdef uint32_t length


@cython.final
cdef class Stack:
    """What the context variable holds: changed only while nobody else can have seen it."""


cdef object stack_variable = PyContextVar_New("varscope_stack", NULL)
cdef Stack PRISTINE = Stack.__new__(Stack) # of a thread or task that has opened nothing yet
PRISTINE.others = ()
cdef Registry default_graph = None

# The stack that was read last, of which thread and in which context.  The context is owned, so
# that no other one can have its address; the thread is told by a number that is never used again.
cdef uint64_t recent_thread = 0
cdef object recent_context = None
cdef PyObject *recent_context_address = NULL
cdef Stack recent_stack = PRISTINE


cdef inline Stack current_stack():
    cdef PyThreadState *thread = PyThreadState_Get()
    if thread.id == recent_thread and thread.context == recent_context_address:
        return recent_stack
    return read_stack(thread)


# A garbage collection may close generators, and so leave the scopes that they are suspended in.
# Until CPython 3.12 any allocation could start one: not between reading the stack and replacing it.

cdef inline bint hold_collector() noexcept:
    return collects_anywhere and PyGC_Disable()


cdef inline void release_collector(bint was_enabled) noexcept:
    if was_enabled:
        PyGC_Enable()


cdef Stack read_stack(PyThreadState *thread):
    cdef PyObject *value
    cdef Stack stack
    while True:
        value = NULL
        stack = PRISTINE
        PyContextVar_Get(stack_variable, NULL, &value)
        if value != NULL:
            stack = <Stack>value
            Py_XDECREF(value)
            if stack.thread != thread.id:
                stack = PRISTINE       # the context was copied into a thread: it starts anew
        remember(thread, stack)
        if recent_stack is stack:      # otherwise what was let go of has closed a scope
            return stack


cdef int remember(PyThreadState *thread, Stack stack) except -1:
    global recent_thread, recent_context, recent_context_address, recent_stack
    # Letting go of the old ones may run other code, which may come here: last of all, then.
    old_context, old_stack = recent_context, recent_stack
    recent_context = <object>thread.context if thread.context != NULL else None
    recent_stack = stack
    recent_context_address = thread.context
    recent_thread = thread.id
    return 0


cdef inline int put_stack(Stack old, Frame top, Marks marks, uint32_t length) except -1:
    """The same graph with another innermost scope; `old` is the current stack."""
    cdef Stack new
    cdef bint collecting
    if in_place(old):
        old.top, old.marks, old.length = top, marks, length
        return 0
    collecting = hold_collector()
    try:
        new = Stack.__new__(Stack)
        new.graph, new.switches, new.others = old.graph, old.switches, old.others
        new.top, new.marks, new.length = top, marks, length
        new.serial = graph_of(old).serial
        return publish(new)
    finally:
        release_collector(collecting)


cdef int publish(Stack new) except -1:
    """Put a stack that nobody else has seen into the context variable."""
    cdef PyThreadState *thread = PyThreadState_Get()
    cdef bint collecting = hold_collector()
    new.thread = thread.id
    try:
        PyContextVar_Set(stack_variable, new)
    finally:
        release_collector(collecting)
    new.context, new.variables, new.standing = thread.context, NULL, 0
    if variables_offset:
        new.variables = variables_of(thread.context)
    return remember(thread, new)


# --- changing a stack in place
#
# Setting a context variable takes as long as all the rest of opening a scope.  It has to be done
# because a context may be copied at any time, by a new task say, and the copy must keep the stack
# that was current then.  While no copy exists, the stack can just as well be changed in place.
#
# A context holds its variables in a persistent map, and a copy shares the map: the reference
# count of the map tells.  A copy that has set another variable since has a map of its own, of
# which other parts may be shared; but where the stack lies in the root of the map, and setting a
# variable always makes a new root, that one owns a reference to the stack, which tells as well.
# That the stack lies in the root is tried out, once for each map (`try_out`).  What all this takes
# for granted of CPython is tried out at import (`find_variables`); where it does not hold, and on
# free-threaded builds, where reference counts say less, every change is a new stack.

cdef enum:
    UNTRIED = 0
    MUST_SET = 1
    IN_PLACE = 2

cdef size_t variables_offset = 0           # of the map in a context object; 0: leave it alone
cdef object witness = None                 # a context variable that is only set to try out


cdef inline PyObject *variables_of(PyObject *context) noexcept:
    return (<PyObject **>(<char *>context + variables_offset))[0]


cdef inline bint in_place(Stack stack) except -1:
    """Whether nobody but this context can see the stack.

    Three references are known: the context's, the one of `recent_stack`, and the caller's.
    """
    cdef PyObject *context
    if stack.standing == MUST_SET or stack.variables == NULL:
        return False
    context = PyThreadState_Get().context
    if stack.context != context or stack.variables != variables_of(context):
        return False                       # inherited, or another variable was set since
    if Py_REFCNT(stack.variables) != 1 or Py_REFCNT(<PyObject *>stack) != 3:
        return False
    return stack.standing == IN_PLACE or try_out(stack)


cdef bint try_out(Stack stack) except -1:
    """Set another variable in a copy of the context: does its map own the stack once more?"""
    cdef Py_ssize_t before = Py_REFCNT(<PyObject *>stack)
    cdef bint collecting = hold_collector()
    try:
        context = PyContext_CopyCurrent()
        PyContext_Enter(context)
        try:
            PyContextVar_Set(witness, None)
            stack.standing = (
                IN_PLACE if Py_REFCNT(<PyObject *>stack) == before + 1 else MUST_SET)
        finally:
            PyContext_Exit(context)
    finally:
        release_collector(collecting)
    return stack.standing == IN_PLACE


def find_variables():
    """Find where a context keeps its map, and see that copies share it; returns success."""
    global variables_offset, witness
    cdef size_t offset, size
    cdef PyObject *held
    if free_threaded:
        return False
    # The witness must not share the stack's place in the root: the places go by five bits of it.
    while witness is None or place_in_root(witness) == place_in_root(stack_variable):
        witness = PyContextVar_New("varscope_witness", NULL)
    context = contextvars.Context()
    context.run(witness.set, None)
    size = type(context).__basicsize__
    maps = [held_map for held_map in gc.get_referents(context)
            if type(held_map).__name__ == "hamt"]
    if len(maps) != 1:
        return False
    offset = sizeof(PyObject)
    while offset + sizeof(PyObject *) <= size:
        held = (<PyObject **>(<char *><PyObject *>context + offset))[0]
        if held == <PyObject *>maps[0] and copies_share(context, offset):
            variables_offset = offset
            return True
        offset += sizeof(PyObject *)
    return False


cdef bint copies_share(object context, size_t offset) except -1:
    cdef PyObject *held = (<PyObject **>(<char *><PyObject *>context + offset))[0]
    cdef Py_ssize_t before = Py_REFCNT(held)
    copy = context.copy()
    if ((<PyObject **>(<char *><PyObject *>copy + offset))[0] != held
            or Py_REFCNT(held) != before + 1):
        return False
    copy.run(witness.set, 1)
    return ((<PyObject **>(<char *><PyObject *>copy + offset))[0] != held
            and Py_REFCNT(held) == before)


cdef uint32_t place_in_root(object variable) except? NONE:
    cdef uint64_t hash = <uint64_t>PyObject_Hash(variable)
    return (<uint32_t>hash ^ <uint32_t>(hash >> 32)) & 31


cdef inline Registry graph_of(Stack stack):
    if stack.top is not None and not stale(stack):
        return stack.top.graph
    return default_graph if stack.graph is None else stack.graph


cdef inline bint stale(Stack stack) noexcept:
    """Whether what the stack says of the default graph is about one that was reset since."""
    return stack.graph is None and stack.serial != default_graph.serial and (
        stack.top is None or stack.top.kind == BOTTOM)


cdef inline Frame top_of(Stack stack):
    return None if stale(stack) else stack.top


cdef inline Marks marks_of(Stack stack):
    return None if stale(stack) else stack.marks


cdef NameScopeRef name_scope_of(Registry graph) except *:
    """The current name scope of a graph: where it is not current, that of where it was left."""
    cdef Stack stack = current_stack()
    cdef GraphSwitch switch = stack.switches
    cdef Frame top = top_of(stack)
    cdef NameScopeRef root
    root.node, root.base, root.suffix = ROOT, NONE, 0
    if graph_of(stack) is not graph:
        top = None
        while switch is not None:
            if switch.top is not None and switch.top.graph is graph:
                top = switch.top
                break
            switch = switch.below
    return root if top is None else top.name_scope


# --- marks: what was opened below the current scope

cdef bint is_marked(Stack stack, Registry graph, uint32_t node) noexcept:
    """Whether the scope was opened here and not forgotten since."""
    cdef int verdict = judged(marks_of(stack), stack.length, graph, node)
    cdef Frame frame = top_of(stack)
    cdef bint all_frames = False
    while verdict < 0 and frame is not None:
        if frame.looks_below or all_frames:
            verdict = judged(frame.marks_below, frame.length_below, graph, node)
        # Below a jump lies another path, of which nothing was left out on the way up.
        all_frames = all_frames or frame.kind == JUMPED
        frame = frame.below if all_frames else frame.look
    return verdict > 0


cdef int judged(Marks marks, uint32_t length, Registry graph, uint32_t node) noexcept:
    """1 marked, 0 forgotten, -1 not mentioned in this log."""
    cdef uint32_t marked, forgotten, ancestor
    if marks is None or length == 0:
        return -1
    marked = marks.newest(node, False, length)
    if marks.has_forgets:
        ancestor = node
        while ancestor != ROOT:
            ancestor = graph.tree.nodes[ancestor].parent
            forgotten = marks.newest(ancestor, True, length)
            if forgotten != NONE and (marked == NONE or forgotten > marked):
                return 0
    return -1 if marked == NONE else 1


cdef Marks own_marks(Marks marks, uint32_t length):
    """A log that may be appended to: the newest version, or a copy of an older one."""
    cdef bint collecting
    if marks is not None and marks.count == length and marks.count <= 4 * marks.distinct + 32:
        return marks
    collecting = hold_collector()
    try:
        # Somebody else went on from here, and it is left to them; or most events are superseded.
        return Marks() if marks is None else marks.copied(length)
    finally:
        release_collector(collecting)


# === Variable scopes ============================================================================

@cython.final
cdef class AutoReuse:
    """The type of `AUTO_REUSE`: create what is missing, return what is there."""

    def __repr__(self):
        return "AUTO_REUSE"

    def __reduce__(self):
        return "AUTO_REUSE"

AUTO_REUSE = AutoReuse()


cdef int mode_of(object reuse) except -1:
    """SHARE, AUTO, or 0 for None: what is passed as `reuse`."""
    if reuse is None:
        return 0
    if reuse is True:
        return SHARE
    if reuse is AUTO_REUSE:
        return AUTO
    raise errors.ReuseError.unusable(reuse)


@cython.final
@cython.freelist(128)
cdef class VariableScope:
    """A path and the defaults that `get_variable` uses below it.

    Made by opening a scope: `with vs.variable_scope("foo") as scope`.  May be kept, opened again
    later from anywhere, compared (same graph and path) and pickled.  What is set on it holds for
    this object: while it is open, and whenever this object is opened again.

    >>> import varscope as vs
    >>> with vs.variable_scope("encoder", dtype="float16") as scope:
    ...     pass
    >>> scope.name, scope.dtype, scope.reuse
    ('encoder', dtype('float16'), False)
    """

    def __init__(self):
        raise errors.ArgumentTypeError(
            "a VariableScope is made by opening one: with varscope.variable_scope(name) as scope")

    @property
    def name(self):
        """The path, '' for the root."""
        return self.graph.path(self.node)

    @property
    def original_name_scope(self):
        """The name scope of the first opening, with a trailing slash; '' at the root."""
        path = self.graph.name_scope_path(self.opened_as)
        return path + "/" if path else ""

    @property
    def reuse(self):
        """False, True or AUTO_REUSE."""
        return (False, True, AUTO_REUSE)[self.mode]

    @property
    def initializer(self):
        return self.defaults.initializer

    @property
    def regularizer(self):
        return self.defaults.regularizer

    @property
    def caching_device(self):
        return self.defaults.caching_device

    @property
    def partitioner(self):
        return self.defaults.partitioner

    @property
    def custom_getter(self):
        return self.defaults.custom_getter

    @property
    def dtype(self):
        """The default dtype, a `numpy.dtype`."""
        return self.defaults.dtype

    @property
    def constraint(self):
        return self.defaults.constraint

    def reuse_variables(self):
        """Return existing variables from here on; there is no way back in this scope."""
        self.mode = SHARE
        self.reuse_origin = origin_here(self.name)
        scope_changed(self)

    def set_initializer(self, initializer):
        self.set_default(0, initializer)

    def set_regularizer(self, regularizer):
        self.set_default(1, regularizer)

    def set_caching_device(self, caching_device):
        self.set_default(2, caching_device)

    def set_partitioner(self, partitioner):
        self.set_default(3, partitioner)

    def set_custom_getter(self, custom_getter):
        if custom_getter is not None:
            check_getter(custom_getter)
        self.set_default(4, custom_getter)

    def set_dtype(self, dtype):
        self.set_default(5, float32 if dtype is None else as_dtype(dtype))

    def set_constraint(self, constraint):
        self.set_default(6, constraint)

    cdef int set_default(self, int field, object value) except -1:
        self.defaults = self.defaults.replaced(field, value)
        scope_changed(self)
        return 0

    def get_variable(self, name, shape=None, dtype=None, initializer=None, regularizer=None,
                     trainable=True, collections=None, caching_device=None, partitioner=None,
                     validate_shape=True, custom_getter=None, *, constraint=None):
        """`varscope.get_variable` in this scope, whether it is open or not."""
        return get_in(self.graph, self.node, self.defaults, self.mode, self.reuse_origin,
                      name, shape, dtype, initializer, regularizer, trainable, collections,
                      caching_device, partitioner, validate_shape, custom_getter, constraint)

    def get_collection(self, key):
        """The entries of a collection that belong to this scope, as a list."""
        return self.graph.get_collection(key, self.name)

    def global_variables(self):
        """The global variables below this scope, in the order of creation."""
        return self.graph.global_variables(self.name)

    def trainable_variables(self):
        """The trainable variables below this scope, in the order of creation."""
        return self.graph.trainable_variables(self.name)

    def local_variables(self):
        """The local variables below this scope, in the order of creation."""
        return self.graph.local_variables(self.name)

    def __eq__(self, other):
        if not isinstance(other, VariableScope):
            return NotImplemented
        return (self.graph is (<VariableScope>other).graph
                and self.node == (<VariableScope>other).node)

    def __hash__(self):
        return hash((id(self.graph), self.node))

    def __repr__(self):
        return f"<VariableScope {self.name!r} reuse={self.reuse!r} dtype={self.dtype}>"

    def __reduce__(self):
        d = self.defaults
        return restored_scope, (self.name, self.original_name_scope, self.reuse,
                                d.initializer, d.regularizer, d.caching_device, d.partitioner,
                                d.custom_getter, d.dtype, d.constraint)

    def __copy__(self):
        return copied_scope(self, self.graph)

    def __deepcopy__(self, memo):
        return copied_scope(self, memo.get(id(self.graph), self.graph))


cdef VariableScope copied_scope(VariableScope scope, Registry graph):
    cdef VariableScope new = VariableScope.__new__(VariableScope)
    new.graph, new.defaults, new.mode = graph, scope.defaults, scope.mode
    new.reuse_origin = scope.reuse_origin
    new.node, new.opened_as = scope.node, scope.opened_as
    if graph is not scope.graph:
        new.node = graph.open_path(ROOT, scope.name) if scope.node != ROOT else ROOT
        new.opened_as = path_ref(graph, scope.graph.name_scope_path(scope.opened_as))
    return new


cdef NameScopeRef path_ref(Registry graph, str path) except *:
    cdef NameScopeRef ref
    ref.base, ref.suffix = NONE, 0
    ref.node = graph.open_path(ROOT, path) if path else ROOT
    return ref


def restored_scope(name, original_name_scope, reuse, *defaults):
    """A pickled scope, in the graph that is current where it is unpickled."""
    cdef VariableScope scope = VariableScope.__new__(VariableScope)
    cdef Defaults restored = PLAIN
    cdef int field
    for field in range(7):
        if defaults[field] is not None:
            restored = restored.replaced(field, defaults[field])
    scope.graph = graph_of(current_stack())
    scope.defaults = restored
    scope.node = scope.graph.open_path(ROOT, name) if name else ROOT
    scope.mode = 0 if reuse is False else mode_of(reuse)
    scope.opened_as = path_ref(scope.graph, original_name_scope.rstrip("/"))
    return scope


cdef int scope_changed(VariableScope scope) except -1:
    cdef bint collecting = hold_collector()
    try:
        rebuild(scope)
    finally:
        release_collector(collecting)
    return 0


cdef int rebuild(VariableScope scope) except -1:
    """Carry what was set on an open scope into the stack of this thread or task.

    Frames are immutable, so those from the scope up are built anew; a task that was started
    meanwhile keeps the old ones.
    """
    cdef Stack stack = current_stack()
    cdef Frame frame = top_of(stack), new
    cdef list above = []
    cdef Py_ssize_t lowest = -1
    while frame is not None:
        if frame.scope is scope:
            lowest = len(above)
        above.append(frame)
        frame = frame.below
    if lowest < 0:
        return 0
    new = (<Frame>above[lowest]).below
    for frame in reversed(above[:lowest + 1]):
        new = frame.copied(new)
        if new.scope is scope:
            new.defaults, new.mode = scope.defaults, scope.mode
            new.settle()
    return put_stack(stack, new, stack.marks, stack.length)


cdef VariableScope scope_at(Registry graph, uint32_t node, Defaults defaults, int mode,
                            object origin, NameScopeRef opened_as):
    cdef VariableScope scope = VariableScope.__new__(VariableScope)
    scope.graph, scope.node, scope.defaults, scope.mode = graph, node, defaults, mode
    scope.reuse_origin, scope.opened_as = origin, opened_as
    return scope


def get_variable_scope():
    """The current scope of the current graph; with none open, the graph's root.

    What is set on the root stays for this thread.

    >>> import varscope as vs
    >>> with vs.variable_scope("decoder"):
    ...     vs.get_variable_scope().name
    'decoder'
    """
    cdef bint collecting = hold_collector()
    try:
        return current_scope()
    finally:
        release_collector(collecting)


cdef VariableScope current_scope():
    cdef Stack stack = current_stack()
    cdef Frame frame = top_of(stack)
    if frame is None:
        frame = bottom_frame(graph_of(stack), PLAIN, 0, None)
        put_stack(stack, frame, marks_of(stack), stack.length)
    elif stack.context != PyThreadState_Get().context or differs(frame):
        # This task inherited the scope object.  What it sets must not reach the task that
        # opened it, nor the other way round: it goes on with an object of its own.
        frame = frame.copied(frame.below)
        frame.scope = scope_at(frame.graph, frame.node, frame.defaults, frame.mode,
                               frame.scope.reuse_origin, frame.scope.opened_as)
        put_stack(stack, frame, stack.marks, stack.length)
    return frame.scope


cdef Frame bottom_frame(Registry graph, Defaults defaults, int mode, object origin):
    cdef Frame frame = Frame.__new__(Frame)
    frame.graph, frame.kind, frame.defaults, frame.mode = graph, BOTTOM, defaults, mode
    frame.name_scope.base = NONE
    frame.scope = scope_at(graph, ROOT, defaults, mode, origin, frame.name_scope)
    return frame


cdef inline bint differs(Frame frame) noexcept:
    return frame.scope.defaults is not frame.defaults or frame.scope.mode != frame.mode


# --- opening and closing

@cython.final
@cython.freelist(64)
cdef class ScopeEntry:
    """The context manager that `variable_scope` returns; can be entered again, also while open."""
    cdef object name_or_scope          # exact str or VariableScope; None: default_name
    cdef str default_name
    cdef tuple overrides               # in the order of FIELDS; None where nothing was passed
    cdef int mode                      # what was passed as reuse
    cdef bint named                    # opens a name scope
    cdef bint plain                    # nothing but a name was given
    cdef object switch                 # to the graph of `values`

    def __enter__(self):
        cdef bint collecting
        if self.plain and graph_of(current_stack()).names.find(
                <PyObject *>self.name_or_scope) != NONE:
            return enter_scope(self)       # makes nothing that could start a collection
        if self.switch is not None:
            self.switch.__enter__()
        collecting = hold_collector()
        try:
            return enter_scope(self)
        except BaseException:
            if self.switch is not None:
                self.switch.__exit__(None, None, None)
            raise
        finally:
            release_collector(collecting)

    def __exit__(self, exception_type, exception, traceback):
        if self.switch is None:
            leave(self)
            return
        try:
            leave(self)
        finally:
            self.switch.__exit__(None, None, None)

    def described(self):
        if isinstance(self.name_or_scope, VariableScope):
            return f"variable_scope({self.name_or_scope.name!r})"
        if self.name_or_scope is None:
            return f"variable_scope(None, {self.default_name!r})"
        return f"variable_scope({self.name_or_scope!r})"


# A default name that is being opened: which suffix it got, below which node.
cdef struct Sibling:
    uint32_t parent
    uint32_t name
    uint32_t suffix


cdef VariableScope enter_scope(ScopeEntry entry):
    """Push a frame.  A new op name is taken only when nothing else can be refused any more."""
    cdef Frame frame = Frame.__new__(Frame)
    cdef VariableScope scope = VariableScope.__new__(VariableScope)
    cdef Stack stack = current_stack()     # read last: making an object may close a scope
    cdef VariableScope captured = None
    cdef Marks marks = marks_of(stack)
    cdef uint32_t length = 0 if marks is None else stack.length
    cdef Sibling sibling
    cdef object origin = None
    cdef str name = None
    sibling.suffix = 0
    frame.entry = entry
    prolong(frame, stack)
    if frame.below is not None:
        origin = frame.below.scope.reuse_origin
    if entry.name_or_scope is None:
        name = entry.default_name
        frame.node = open_default(stack, frame, name, &sibling)
    elif PyUnicode_CheckExact(entry.name_or_scope):
        name = <str>entry.name_or_scope
        if PyUnicode_GET_LENGTH(<PyObject *>name):
            frame.node = frame.graph.open_path(frame.node, name)
    else:
        captured = <VariableScope>entry.name_or_scope
        origin = captured.reuse_origin
        name = jump(frame, captured)
    if entry.mode:
        frame.mode = entry.mode
        origin = origin_here(frame.graph.path(frame.node))
    if entry.overrides is not None:
        frame.defaults = frame.defaults.derive(entry.overrides)
    if entry.named and name:
        frame.graph.unique(&frame.name_scope, name, True)
    scope.graph, scope.node, scope.defaults = frame.graph, frame.node, frame.defaults
    scope.mode, scope.reuse_origin, scope.opened_as = frame.mode, origin, frame.name_scope
    frame.scope = scope
    if captured is not None:
        frame.scope.opened_as = captured.opened_as
        if captured.graph is not frame.graph:
            frame.scope.opened_as = path_ref(
                frame.graph, captured.graph.name_scope_path(captured.opened_as))
    if name and not is_marked(stack, frame.graph, frame.node):
        marks = own_marks(marks, length)
        marks.append(frame.node, False, captured is not None or "/" in name)
        length = marks.count
        if sibling.suffix:
            marks.note_suffix(sibling.parent, sibling.name, sibling.suffix + 1)
    link(frame, marks, length, not name)
    frame.settle()
    put_stack(stack, frame, None, 0)
    return frame.scope


cdef inline int prolong(Frame frame, Stack stack) except -1:
    """What a frame takes over from the one below, or from the bare root."""
    cdef Frame top = top_of(stack)
    if top is None:
        frame.graph = graph_of(stack)
        frame.defaults = PLAIN
        frame.name_scope.base = NONE
    else:
        frame.below = top
        frame.graph = top.graph
        frame.node, frame.mode, frame.defaults = top.node, top.mode, top.defaults
        frame.name_scope = top.name_scope
    return 0


cdef str jump(Frame frame, VariableScope captured):
    """Point the frame at a captured scope; returns its last component, '' for the root."""
    frame.kind = JUMPED
    frame.defaults, frame.mode, frame.node = captured.defaults, captured.mode, captured.node
    if captured.graph is not frame.graph:
        path = captured.name
        frame.node = frame.graph.open_path(ROOT, path) if path else ROOT
    if frame.node == ROOT:
        return ""
    return frame.graph.names.text(frame.graph.tree.nodes[frame.node].name)


cdef uint32_t open_default(Stack stack, Frame frame, str name, Sibling *sibling) except NONE:
    """The node of a default name with the first suffix, 0 for none, that is not marked here."""
    cdef Registry graph = frame.graph
    cdef Marks marks = marks_of(stack)
    cdef uint32_t parent = frame.node, id, node
    sibling.name = graph.locate(&parent, name)
    sibling.parent, sibling.suffix = parent, 0
    node = graph.tree.find(parent, sibling.name)
    if node == NONE or not is_marked(stack, graph, node):
        return graph.tree.child(parent, sibling.name)
    sibling.suffix = 1
    if marks is not None and marks.count == stack.length:
        sibling.suffix = marks.next_suffix(parent, sibling.name)
    leaf = name.rpartition("/")[2]
    while True:
        text = suffixed(leaf, sibling.suffix)
        id = graph.names.find(<PyObject *>text)
        node = NONE if id == NONE else graph.tree.find(parent, id)
        if node == NONE or not is_marked(stack, graph, node):
            return graph.tree.child(parent, graph.names.intern(text))
        sibling.suffix += 1


cdef inline int link(Frame frame, Marks marks, uint32_t length, bint same_path) except -1:
    """Put the marks of the frame below away, and note whether they can matter above.

    They can where a mark lies deeper than the children of the path it was made at, or where the
    new frame is not below that path.
    """
    cdef Frame top = frame.below
    frame.marks_below, frame.length_below = marks, length
    frame.looks_below = marks is not None and (
        frame.kind == JUMPED or same_path or marks.has_forgets or marks.last_deep != NONE)
    if top is not None:
        frame.look = top if top.looks_below or top.kind == JUMPED else top.look
    return 0


cdef int leave(object entry) except -1:
    """Take the frame of this entry off the stack."""
    cdef Stack stack = current_stack()
    cdef Frame top = top_of(stack)
    cdef bint collecting
    cdef Marks marks
    cdef uint32_t length
    if top is None or top.entry is not entry:
        collecting = hold_collector()
        try:
            return leave_out_of_order(stack, entry)
        finally:
            release_collector(collecting)
    if top.kind == NAMING:
        return put_stack(stack, top.below, stack.marks, stack.length)
    marks, length = top.marks_below, top.length_below
    if top.kind == OPENED:
        if top.looks_below or top.look is not None:
            marks = forget_below(top, marks, &length)
        if stack.marks is not None and stack.marks.last_deep != NONE:
            marks = keep_jumps(top, stack.marks, stack.length, marks, &length)
    return put_stack(stack, top.below, marks, length)


cdef Marks forget_below(Frame top, Marks marks, uint32_t *length):
    """Forget what was marked below a closed scope from further out, where that can be."""
    cdef uint32_t newest = NONE
    if marks is not None:
        newest = marks.newest(top.node, True, length[0])
        if newest != NONE and (newest == length[0] - 1 or (
                below_is_child(top) and (marks.last_deep == NONE or marks.last_deep < newest))):
            return marks                   # forgotten before, and nothing marked there since
    marks = own_marks(marks, length[0])
    marks.append(top.node, True, False)
    length[0] = marks.count
    return marks


cdef inline bint below_is_child(Frame top) noexcept:
    return top.below is None or top.below.node != top.node


cdef Marks keep_jumps(Frame top, Marks inner, uint32_t inner_length, Marks marks,
                      uint32_t *length):
    """Carry over the marks of scopes that were jumped to and lie elsewhere."""
    cdef uint32_t i, node
    for i in range(inner_length):
        node = inner.events[i].node
        if not inner.events[i].forget and not top.graph.below(node, top.node):
            marks = own_marks(marks, length[0])
            marks.append(node, False, True)
            length[0] = marks.count
    return marks


cdef int leave_out_of_order(Stack stack, object entry) except -1:
    """Report it, and take the frame out all the same, so that the others close as they should."""
    cdef Frame top = top_of(stack), frame = top, new
    cdef list above = []
    while frame is not None and frame.entry is not entry:
        above.append(frame)
        frame = frame.below
    if frame is None:
        leave_put_aside(stack, entry)
        raise errors.ScopeOrderError.not_open(entry.described(), described(top))
    if above:
        put_stack(stack, without(frame, above), stack.marks, stack.length)
    raise errors.ScopeOrderError.still_open(described(frame), described(top))


cdef Frame without(Frame frame, list above):
    """The frames above one that is taken out, linked to what was below it."""
    cdef Frame new = frame.below
    for i, copy in enumerate(reversed(above)):
        new = (<Frame>copy).copied(new)
        if i == 0:
            link(new, frame.marks_below, frame.length_below, True)
        else:
            link(new, new.marks_below, new.length_below, True)
    return new


cdef int leave_put_aside(Stack stack, object entry) except -1:
    """The same in a graph that is not current: there the scope is closed, and that is reported."""
    cdef GraphSwitch switch = stack.switches, changed
    cdef Stack new = Stack.__new__(Stack)
    cdef list inner = [], above = []
    cdef Frame frame
    while switch is not None:
        frame = switch.top
        above = []
        while frame is not None and frame.entry is not entry:
            above.append(frame)
            frame = frame.below
        if frame is not None:
            break
        inner.append(switch)
        switch = switch.below
    if switch is None:
        return 0
    changed = copied_switch(switch, switch.below)
    if above:
        changed.top = without(frame, above)
    else:
        changed.top, changed.marks, changed.length = (
            frame.below, frame.marks_below, frame.length_below)
    for switch in reversed(inner):
        changed = copied_switch(switch, changed)
    new.graph, new.serial, new.top = stack.graph, stack.serial, stack.top
    new.marks, new.length, new.others = stack.marks, stack.length, stack.others
    new.switches = changed
    publish(new)
    raise errors.ScopeOrderError.still_open(described(frame), describe_switch(stack.switches))


cdef str described(Frame frame):
    """A frame as a message names it."""
    if frame is None or frame.entry is None:
        return "the root scope"
    if frame.kind == NAMING:
        return f"name scope {frame.graph.name_scope_path(frame.name_scope)!r}"
    return f"scope {frame.scope.name!r}" if frame.node != ROOT else "the root scope"


def variable_scope(name_or_scope, default_name=None, values=None, initializer=None,
                   regularizer=None, caching_device=None, partitioner=None, custom_getter=None,
                   reuse=None, dtype=None, *, constraint=None, auxiliary_name_scope=True):
    """Open a scope: a context manager that yields a `VariableScope`.

    Inside, `get_variable` puts the scope's path before the name, and takes from the scope what
    its caller leaves out.  What is not given here is inherited from the surrounding scope.

    Parameters
    ----------
    name_or_scope : str, VariableScope or None
        A str is appended to the current path (`"a/b"` opens `b` inside `a`; `""` stays where it
        is).  A VariableScope jumps to its path, with its defaults and its reuse.
    default_name : str, optional
        Used where `name_or_scope` is None, made unique with `_1`, `_2`, ... among the scopes
        opened in the same scope.
    values : iterable, optional
        Objects whose `graph` attributes must be one graph; it is the default graph inside.
    initializer, regularizer, caching_device, partitioner, custom_getter, dtype, constraint
        Defaults of `get_variable` inside.  Custom getters compose: this one runs first.
    reuse : None, True or AUTO_REUSE
        None inherits; True returns existing variables only; AUTO_REUSE creates missing ones.
    auxiliary_name_scope : bool
        False opens no name scope.

    Raises
    ------
    TypeError
        No name at all, or a name, scope or dtype of another type.
    ValueError
        A bad name, a `reuse` other than the three, reuse with a default name only, or values of
        different graphs.

    >>> import varscope as vs
    >>> with vs.variable_scope("foo", initializer=vs.zeros):
    ...     with vs.variable_scope("bar"):
    ...         v = vs.get_variable("v", [1])
    >>> v.name
    'foo/bar/v:0'
    """
    cdef ScopeEntry entry = ScopeEntry.__new__(ScopeEntry)
    entry.named = True if auxiliary_name_scope is True else bool(auxiliary_name_scope)
    if PyUnicode_CheckExact(name_or_scope) or type(name_or_scope) is VariableScope:
        entry.name_or_scope = name_or_scope
    elif name_or_scope is None:
        if default_name is None:
            raise errors.ArgumentTypeError.no_name()
        entry.default_name = exact(default_name, "default_name")
        if not entry.default_name:
            raise errors.InvalidNameError.empty_component("")
        if reuse is not None:
            mode_of(reuse)
            raise errors.ReuseError.default_name(entry.default_name, reuse)
    else:
        entry.name_or_scope = exact(name_or_scope, "name_or_scope, where it is no VariableScope,")
    if default_name is not None and not isinstance(default_name, str):
        raise errors.ArgumentTypeError.of("default_name", "a str", default_name)
    if reuse is not None:
        entry.mode = mode_of(reuse)
    if custom_getter is not None:
        check_getter(custom_getter)
    if not (initializer is None and regularizer is None and caching_device is None
            and partitioner is None and custom_getter is None and dtype is None
            and constraint is None):
        if dtype is not None:
            as_dtype(dtype)
        entry.overrides = (initializer, regularizer, caching_device, partitioner, custom_getter,
                           dtype, constraint)
    if values is not None:
        graph = graph_of_values(values)
        if graph is not None:
            entry.switch = GraphEntry(graph)
    return entry


# --- graphs as the default

cdef object attached_graph = None           # graph's function: foreign graph -> Graph or None


def graph_of_values(values):
    """The one graph that the objects belong to, or None where none of them has one."""
    first = first_value = None
    for value in values:
        graph = getattr(value, "graph", None)
        if graph is None:
            continue
        if not isinstance(graph, Registry):
            found = attached_graph(graph)
            if found is None:
                raise errors.ArgumentTypeError.foreign_graph(value, graph)
            graph = found
        if first is None:
            first, first_value = graph, value
        elif graph is not first:
            raise errors.GraphMismatchError.of(first_value, value)
    return first


@cython.final
cdef class GraphEntry:
    """What `Graph.as_default` returns; can be entered again, also while open."""
    cdef Registry graph

    def __init__(self, Registry graph not None):
        self.graph = graph

    def described(self):
        return f"{self.graph!r}.as_default()"

    def __enter__(self):
        cdef bint collecting = hold_collector()
        try:
            return self.enter()
        finally:
            release_collector(collecting)

    def __exit__(self, exception_type, exception, traceback):
        cdef bint collecting = hold_collector()
        try:
            self.leave()
        finally:
            release_collector(collecting)

    cdef Registry enter(self):
        cdef Stack stack = current_stack(), new = Stack.__new__(Stack)
        cdef GraphSwitch switch = GraphSwitch.__new__(GraphSwitch)
        switch.below, switch.entry = stack.switches, self
        switch.graph, switch.serial = stack.graph, stack.serial
        switch.top, switch.marks, switch.length = stack.top, stack.marks, stack.length
        new.graph, new.serial, new.switches = self.graph, self.graph.serial, switch
        new.others = stack.others
        resume(new, stack)
        switch.inside = new.top
        publish(new)
        return self.graph

    cdef int leave(self) except -1:
        cdef Stack stack = current_stack(), new
        cdef GraphSwitch switch = stack.switches
        cdef Frame open = top_of(stack)
        if switch is None or switch.entry is not self:
            leave_graph_out_of_order(stack, self)
        new = Stack.__new__(Stack)
        new.graph, new.serial, new.switches = switch.graph, switch.serial, switch.below
        new.top, new.marks, new.length = switch.top, switch.marks, switch.length
        new.others = stack.others
        put_aside(new, stack)
        publish(new)
        if not same_opening(open, switch.inside):
            raise errors.ScopeOrderError.still_open(self.described(), described(open))
        return 0


cdef bint same_opening(Frame a, Frame b):
    if a is not None and a.kind == BOTTOM:
        a = None
    if b is not None and b.kind == BOTTOM:
        b = None
    return (a is None) == (b is None) and (a is None or a.entry is b.entry)


cdef int resume(Stack new, Stack old) except -1:
    """Where this thread or task left the graph: further out, or earlier; else its bare root."""
    cdef GraphSwitch switch = old.switches
    cdef RootState state
    if graph_of(old) is new.graph:
        new.top, new.marks, new.length = top_of(old), marks_of(old), old.length
        return 0
    while switch is not None:
        if switched_from(switch) is new.graph:
            new.top, new.marks, new.length = switch.top, switch.marks, switch.length
            return 0
        switch = switch.below
    for state in old.others:
        if state.graph() is new.graph:
            new.marks, new.length = state.marks, state.length
            if state.mode or state.defaults is not PLAIN:
                new.top = bottom_frame(new.graph, state.defaults, state.mode, state.reuse_origin)
    return 0


cdef Registry switched_from(GraphSwitch switch):
    if switch.top is not None:
        return switch.top.graph
    if switch.graph is None:
        return default_graph if switch.serial == default_graph.serial else None
    return switch.graph


cdef int put_aside(Stack new, Stack old) except -1:
    """Keep what happened in the graph that is being left, for when it is current again."""
    cdef Registry graph = graph_of(old)
    cdef Frame top = old.top
    cdef RootState state
    if graph_of(new) is graph:
        new.top, new.marks, new.length = old.top, old.marks, old.length
        return 0
    new.switches = carried(new.switches, graph, old)
    if new.switches is not (<GraphSwitch>old.switches).below:
        return 0
    while top is not None and top.below is not None:
        top = top.below
    others = [state for state in old.others
              if state.graph() is not None and state.graph() is not graph]
    if old.marks is not None or (top is not None and top.kind == BOTTOM):
        state = RootState()
        state.graph = weakref.ref(graph)
        state.defaults, state.mode = PLAIN, 0
        if top is not None and top.kind == BOTTOM:
            state.defaults, state.mode = top.defaults, top.mode
            state.reuse_origin = top.scope.reuse_origin
        state.marks, state.length = old.marks, old.length
        others.append(state)
    new.others = tuple(others)
    return 0


cdef GraphSwitch carried(GraphSwitch switch, Registry graph, Stack old):
    """The switches, with the graph's state in place of the one that was put aside earlier."""
    cdef GraphSwitch new
    if switch is None:
        return None
    if switched_from(switch) is graph:
        new = copied_switch(switch, switch.below)
        new.top, new.marks, new.length = old.top, old.marks, old.length
        return new
    below = carried(switch.below, graph, old)
    return switch if below is switch.below else copied_switch(switch, below)


cdef GraphSwitch copied_switch(GraphSwitch switch, GraphSwitch below):
    cdef GraphSwitch new = GraphSwitch.__new__(GraphSwitch)
    new.below, new.entry, new.graph, new.serial = (
        below, switch.entry, switch.graph, switch.serial)
    new.top, new.inside = switch.top, switch.inside
    new.marks, new.length = switch.marks, switch.length
    return new


cdef int leave_graph_out_of_order(Stack stack, GraphEntry entry) except -1:
    cdef GraphSwitch switch = stack.switches
    cdef Stack new = Stack.__new__(Stack)
    cdef list above = []
    inner = "the outermost graph" if switch is None else describe_switch(switch)
    while switch is not None and switch.entry is not entry:
        above.append(switch)
        switch = switch.below
    if switch is None:
        raise errors.ScopeOrderError.not_open(entry.described(), inner)
    new.switches = switch.below
    for i, copy in enumerate(reversed(above)):
        new.switches = copied_switch(copy, new.switches)
        if i == 0:                              # it returns to where the one taken out would have
            (<GraphSwitch>new.switches).graph = switch.graph
            (<GraphSwitch>new.switches).serial = switch.serial
            (<GraphSwitch>new.switches).top = switch.top
            (<GraphSwitch>new.switches).marks = switch.marks
            (<GraphSwitch>new.switches).length = switch.length
    new.graph, new.serial, new.top = stack.graph, stack.serial, stack.top
    new.marks, new.length, new.others = stack.marks, stack.length, stack.others
    publish(new)
    raise errors.ScopeOrderError.still_open(entry.described(), inner)


cdef str describe_switch(GraphSwitch switch):
    return (<GraphEntry>switch.entry).described()


def get_default_graph():
    """The current graph: the innermost one entered by `as_default`, else the default one."""
    return graph_of(current_stack())


def replace_default_graph(Registry graph not None):
    """Make another graph the default one of the process."""
    cdef bint collecting = hold_collector()
    try:
        replace(graph)
    finally:
        release_collector(collecting)


cdef int replace(Registry graph) except -1:
    global default_graph
    cdef Stack stack = current_stack()
    cdef Frame top = top_of(stack)
    if default_graph is not None:
        if top is not None and top.kind != BOTTOM:
            raise errors.OpenScopeError.reset(described(top))
        if stack.switches is not None:
            raise errors.OpenScopeError.reset(describe_switch(stack.switches))
        default_graph = graph
        publish(emptied(stack))
    default_graph = graph


cdef Stack emptied(Stack stack):
    cdef Stack new = Stack.__new__(Stack)
    new.others, new.serial = stack.others, default_graph.serial
    return new


# --- name scopes

@cython.final
cdef class NameScopeEntry:
    """The context manager that `name_scope` returns; can be entered again, also while open."""
    cdef object name                    # None and "" return to the root

    def described(self):
        return f"name_scope({self.name!r})"

    def __enter__(self):
        cdef bint collecting = hold_collector()
        try:
            return self.enter()
        finally:
            release_collector(collecting)

    def __exit__(self, exception_type, exception, traceback):
        leave(self)

    cdef str enter(self):
        cdef Stack stack = current_stack()
        cdef Frame frame = Frame.__new__(Frame)
        frame.entry, frame.kind = self, NAMING
        prolong(frame, stack)
        name = self.name
        if not name:
            frame.name_scope.node, frame.name_scope.base = ROOT, NONE
        elif name.endswith("/"):
            frame.name_scope = path_ref(frame.graph, name.removesuffix("/"))
            if len(name) == 1:
                raise errors.InvalidNameError.empty_component(name)
        else:
            frame.graph.unique(&frame.name_scope, name, True)
        if frame.below is None:
            # Every frame has a scope: here that of the bare root.
            frame.below = bottom_frame(frame.graph, PLAIN, 0, None)
        frame.scope = frame.below.scope
        frame.look = (frame.below if frame.below.looks_below or frame.below.kind == JUMPED
                      else frame.below.look)
        path = frame.graph.name_scope_path(frame.name_scope)
        if path:
            path += "/"
        frame.settle()
        put_stack(stack, frame, marks_of(stack), stack.length)
        return path


def name_scope(name):
    """Open a name scope: a prefix for op names, made unique at each opening.

    It changes what `Graph.unique_name` returns, and never the names of variables.

    Parameters
    ----------
    name : str or None
        `"foo"` opens `foo`, `foo_1`, ... below the current one; `"foo/"` returns to exactly that
        scope; None and `""` return to the root.

    Returns
    -------
    context manager that yields the name scope with a trailing slash, '' at the root.

    >>> import varscope as vs
    >>> with vs.name_scope("op") as first, vs.Graph().as_default():
    ...     first
    'op/'
    """
    cdef NameScopeEntry entry = NameScopeEntry()
    entry.name = None if name is None else exact(name, "name")
    return entry


# === get_variable ===============================================================================

cdef bint dims_of(object shape, Request *request) noexcept:
    """Read a shape of a few plain ints; False leaves the judgement to `shapes`."""
    cdef Py_ssize_t i, n
    cdef int overflow = 0
    cdef object dim
    cdef bint is_list
    if shape is None:
        request.rank = -1
        return True
    if PyLong_CheckExact(shape):
        request.rank = 1
        request.dims[0] = PyLong_AsLongLongAndOverflow(shape, &overflow)
        return overflow == 0
    is_list = PyList_CheckExact(shape)
    if not is_list and not PyTuple_CheckExact(shape):
        return False
    n = PyList_GET_SIZE(shape) if is_list else PyTuple_GET_SIZE(shape)
    if n > MAX_DIMS:
        return False
    for i in range(n):
        dim = <object>(PyList_GET_ITEM(shape, i) if is_list else PyTuple_GET_ITEM(shape, i))
        if not PyLong_CheckExact(dim):
            return False
        request.dims[i] = PyLong_AsLongLongAndOverflow(dim, &overflow)
        if overflow:
            return False
    request.rank = <int>n
    return True


cdef inline bint same_dims(const Request *request, Spec spec) noexcept:
    return request.rank < 0 or (
        request.rank == spec.rank
        and memcmp(request.dims, spec.dims, request.rank * sizeof(int64_t)) == 0)


cdef inline void fill_request(Request *request, Defaults defaults, object dtype,
                              object initializer, object regularizer, object trainable,
                              object collections, object caching_device, object validate_shape,
                              object constraint) noexcept:
    """All but the shape; the pointers are borrowed for as long as the call lasts."""
    request.defaults = <PyObject *>defaults
    request.parts[0], request.parts[1] = <PyObject *>dtype, <PyObject *>initializer
    request.parts[2], request.parts[3] = <PyObject *>regularizer, <PyObject *>trainable
    request.parts[4], request.parts[5] = <PyObject *>collections, <PyObject *>caching_device
    request.parts[6], request.parts[7] = <PyObject *>validate_shape, <PyObject *>constraint


cdef object get_in(Registry graph, uint32_t node, Defaults defaults, int mode, object origin,
                   object name, object shape, object dtype, object initializer,
                   object regularizer, object trainable, object collections,
                   object caching_device, object partitioner, object validate_shape,
                   object custom_getter, object constraint):
    """Find or create.  What was asked for before is answered here; the rest by `creation`."""
    cdef Request request
    cdef uint32_t row = NONE, spec
    cdef bint known = (defaults.custom_getter is None and defaults.partitioner is None
                       and custom_getter is None and partitioner is None
                       and PyUnicode_CheckExact(name) and dims_of(shape, &request))
    if known:
        row = graph.find_row(node, <str>name)
        if row != NONE and mode and initializer is None:
            if same_dims(&request, <Spec>graph.specs[graph.table.rows[row].spec]):
                if (defaults.dtype if dtype is None else dtype) is (
                        <Spec>graph.specs[graph.table.rows[row].spec]).dtype:
                    return graph.handle(row)
        fill_request(&request, defaults, dtype, initializer, regularizer, trainable, collections,
                     caching_device, validate_shape, constraint)
        spec = graph.requests.find(&request)
        if spec != NONE:
            if row == NONE and mode != SHARE:
                made = create(graph, node, <str>name, spec)
                if made is not None:
                    return made
            elif row != NONE and mode and graph.table.rows[row].spec == spec:
                return graph.handle(row)
    made = create_or_share(graph, graph.path(node), defaults, mode, origin, name, shape, dtype,
                           initializer, regularizer, trainable, collections, caching_device,
                           partitioner, validate_shape, custom_getter, constraint)
    if known and row == NONE and isinstance(made, Handle):
        remember_request(graph, node, <str>name, &request, collections)
    return made


cdef object create(Registry graph, uint32_t node, str name, uint32_t spec):
    cdef uint32_t id = graph.locate(&node, name)
    return graph.commit(node, id, spec, current_site(graph), NONE)


cdef int remember_request(Registry graph, uint32_t node, str name, Request *request,
                          object collections) except -1:
    """The next request like this one needs no Python.

    Not where the answer may change: an array that somebody can write to, a list of collections.
    """
    cdef uint32_t row = graph.find_row(node, name)
    cdef Spec spec
    if row == NONE or not (collections is None or PyTuple_CheckExact(collections)):
        return 0
    spec = <Spec>graph.specs[graph.table.rows[row].spec]
    if spec.repeatable:
        request.spec = graph.table.rows[row].spec
        graph.requests.put(request)
    return 0


def get_variable(name, shape=None, dtype=None, initializer=None, regularizer=None,
                 trainable=True, collections=None, caching_device=None, partitioner=None,
                 validate_shape=True, custom_getter=None, *, constraint=None):
    """The variable of this name in the current scope: found or created, as its reuse says.

    Parameters
    ----------
    name : str
        Appended to the scope's path; may itself have components (`"a/w"`).
    shape : int, sequence of int, or None
        Fully known for a new variable, unless an array or number is the initializer.  For an
        existing one it may be None or have None dimensions, and must be compatible.
    dtype : dtype-like, optional
        Anything that `numpy.dtype` takes; default: the scope's, float32 at the root.
    initializer : callable, array or number, optional
        `(shape, dtype)` to an array; an array or number fixes shape and dtype.  Default: the
        scope's; without one Glorot uniform for floats and zeros for integers and bool.
    regularizer, caching_device, partitioner, constraint : optional
        None means the scope's.
    trainable : bool
        Whether it is in `TRAINABLE_VARIABLES`.
    collections : iterable of hashable, optional
        Default `[GraphKeys.GLOBAL_VARIABLES]`.
    validate_shape : bool
        False lets a new variable's shape be decided by its initializer.
    custom_getter : callable, optional
        `custom_getter(getter, full_name, **arguments)` decides what is returned; it runs before
        those of the scopes.

    Returns
    -------
    Variable
        Only declared: its values are made when they are first read.

    Raises
    ------
    VariableExistsError, VariableMissingError, ShapeMismatchError, DTypeMismatchError : ValueError
        The name is there in a scope that does not reuse, or is not there in one that does, or the
        variable that is there is not what was asked for.
    InvalidNameError, InvalidShapeError : ValueError
        A name or shape that no variable can have.

    >>> import varscope as vs
    >>> with vs.variable_scope("layer"):
    ...     w = vs.get_variable("w", [3, 4], initializer=vs.ones)
    >>> with vs.variable_scope("layer", reuse=True):
    ...     vs.get_variable("w") is w
    True
    """
    cdef Stack stack = current_stack()
    cdef Frame top = stack.top
    if top is None or stale(stack):
        return get_in(graph_of(stack), ROOT, PLAIN, 0, None, name, shape, dtype, initializer,
                      regularizer, trainable, collections, caching_device, partitioner,
                      validate_shape, custom_getter, constraint)
    return get_in(top.graph, top.node, top.defaults, top.mode, top.scope.reuse_origin, name,
                  shape, dtype, initializer, regularizer, trainable, collections, caching_device,
                  partitioner, validate_shape, custom_getter, constraint)


# === The one arrow upwards ======================================================================

def register(*, handle, create_or_share_with, dtype_from, default_dtype, attached):
    """Tell the core what only the layers above can know; called once, at import."""
    global handle_type, create_or_share, as_dtype, float32, attached_graph
    if handle is not None:
        handle_type = handle
        varscope_keep_store(<PyTypeObject *>handle)
    if create_or_share_with is not None:
        create_or_share = create_or_share_with
    if dtype_from is not None:
        as_dtype, float32 = dtype_from, default_dtype
        PLAIN.dtype = default_dtype
    if attached is not None:
        attached_graph = attached


# === The front doors ============================================================================

cdef PyObject *quick_get(PyObject *name, PyObject *shape) except? NULL:
    """`get_variable(name)` or `get_variable(name, shape)` as a new reference.

    NULL without an exception leaves it to the full function.
    """
    cdef PyThreadState *thread = PyThreadState_Get()
    cdef PyObject *handle
    cdef Request request
    cdef Row *row
    cdef uint32_t id, number
    if (thread.id != recent_thread or thread.context != recent_context_address
            or recent_stack.top is None or not PyUnicode_CheckExact(<object>name)):
        return NULL
    request.rank = -1
    if shape != NULL and not dims_of(<object>shape, &request):
        return NULL
    # Borrowed from the stack, for as long as no other code can run: until something is made.
    frame = <PyObject *>recent_stack.top
    if not (<Frame>frame).quick:
        return NULL
    id = (<Frame>frame).graph.names.find(name)
    if id == NONE:
        return NULL
    number = (<Frame>frame).graph.table.find((<Frame>frame).node, id)
    if number == NONE:
        return quick_create(<Frame>frame, id, &request)
    row = &(<Frame>frame).graph.table.rows[number]
    if (<Frame>frame).mode == 0 or not agrees(
            <Spec>(<Frame>frame).graph.specs[row.spec], (<Frame>frame).defaults, &request):
        return NULL
    handle = row.handle
    if handle != NULL and Py_REFCNT(handle) > 0:
        Py_INCREF(<object>handle)
        return handle
    made = (<Frame>frame).graph.handle(number)
    Py_INCREF(made)
    return <PyObject *>made


cdef inline bint agrees(Spec spec, Defaults defaults, const Request *request) noexcept:
    return spec.dtype is defaults.dtype and same_dims(request, spec)


cdef PyObject *quick_create(Frame frame, uint32_t name, Request *request) except? NULL:
    """A new variable, where the like of it was asked for before."""
    cdef uint32_t count = frame.graph.table.count, spec
    if frame.mode == SHARE or (
            frame.node == ROOT and not frame.graph.names.names[name].starts_path):
        return NULL
    fill_request(request, frame.defaults, None, None, None, True, None, None, True, None)
    spec = frame.graph.requests.find(request)
    if spec == NONE:
        return NULL
    graph = frame.graph
    made = graph.commit(frame.node, name, spec, current_site(graph), count)
    if made is None:
        return NULL
    Py_INCREF(made)
    return <PyObject *>made


cdef PyObject *quick_entry(PyObject *name, PyObject *default_name) except? NULL:
    """`variable_scope(name)` as a new reference; NULL leaves it to the full function."""
    cdef ScopeEntry entry
    if default_name != NULL or not PyUnicode_CheckExact(<object>name):
        return NULL
    entry = ScopeEntry.__new__(ScopeEntry)
    entry.name_or_scope = <object>name
    entry.named = entry.plain = True
    Py_INCREF(entry)
    return <PyObject *>entry


cdef object door(int which, varscope_quick quick, object full):
    """The full function, with a quick answer before it; name, signature and text are its own."""
    cdef bytes name = full.__name__.encode()
    cdef bytes doc = f"{full.__name__}{full.__text_signature__}\n--\n\n{full.__doc__}".encode()
    kept_alive.extend((name, doc))
    return varscope_make_door(which, quick, full, name, doc, "varscope._scopecore")

cdef list kept_alive = []
get_variable = door(0, quick_get, get_variable)
variable_scope = door(1, quick_entry, variable_scope)
find_variables()
