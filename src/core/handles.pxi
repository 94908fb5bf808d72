# What Python code holds of a variable.

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
    static PyTypeObject *varscope_stored_type;
    #ifndef Py_GIL_DISABLED
    #define VARSCOPE_STORE 64
    static PyObject *varscope_store[VARSCOPE_STORE];
    static int varscope_stored = 0;

    static PyObject *varscope_alloc(PyTypeObject *type, Py_ssize_t items) {
        PyObject *object;
        if (type != varscope_stored_type || varscope_stored == 0) {
    #if PY_VERSION_HEX < 0x030C0000
            /* No collection: its code may withdraw a variable, and the row that the handle is
               for would be another one's. */
            int collecting = PyGC_Disable();
            object = PyType_GenericAlloc(type, items);
            if (collecting) PyGC_Enable();
            return object;
    #else
            return PyType_GenericAlloc(type, items);
    #endif
        }
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
    #else
    /* Threads would be in each other's way, and the allocator has a store a thread. */
    #define varscope_free PyObject_GC_Del
    #endif
    static void (*varscope_let_go)(PyObject *);
    static destructor varscope_dealloc_base;

    static void varscope_dealloc(PyObject *object) {
        PyTypeObject *type = Py_TYPE(object);
        if (type != varscope_stored_type) {          /* of a subclass, which does the rest */
            varscope_dealloc_base(object);
            return;
        }
        PyObject_GC_UnTrack(object);
    #ifndef Py_GIL_DISABLED
        if (*(PyObject **)((char *)object + type->tp_weaklistoffset) != NULL)
    #endif
            PyObject_ClearWeakRefs(object);
        varscope_let_go(object);
        varscope_free(object);
        Py_DECREF(type);
    }
    static void varscope_keep_store(PyTypeObject *type, PyTypeObject *base,
                                    void (*let_go)(PyObject *)) {
        varscope_stored_type = type;
        varscope_let_go = let_go;
        varscope_dealloc_base = base->tp_dealloc;
        type->tp_dealloc = varscope_dealloc;
    #ifndef Py_GIL_DISABLED
        type->tp_alloc = varscope_alloc;
        type->tp_free = varscope_free;
    #endif
    }
    """
    void varscope_keep_store(PyTypeObject *type, PyTypeObject *base,
                             void (*let_go)(PyObject *) noexcept)


cdef void let_go(PyObject *dying) noexcept:
    """What deallocating a handle means; it is never owned here, or it would be let go of twice."""
    cdef PyObject *graph = <PyObject *>(<Handle>dying).graph
    cdef Row *row
    cdef Held held
    if graph != <PyObject *>None:
        hold(&held, graph)                     # from here on no other thread looks at it
        if (<Handle>dying).row != NONE:
            row = &(<Registry>graph).table.rows[(<Handle>dying).row]
            if row.handle == dying:
                row.handle = NULL
        release(&held)
    Py_XDECREF(graph)


cdef inline void give_up_none() noexcept:
    """Before a buffer is filled in by somebody else.

    Cython puts a reference to None there, over which is then written.
    """
    Py_XDECREF(<PyObject *>None)


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

    cdef inline int made(self) except -1:
        """Refuse one that no graph has made; there is nothing to hold."""
        if self.graph is None:
            raise errors.ArgumentTypeError(
                "a Variable is made by varscope.get_variable; write get_variable('v', [3, 4])")
        return 0

    cdef int check(self) except -1:
        self.made()
        if self.row == NONE:
            raise errors.WithdrawnError.of(None)
        return 0

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        # In Python code only since 3.12; the array is the owner of the buffer.
        array = self.array
        give_up_none()
        PyObject_GetBuffer(array, buffer, flags)

    @property
    def path(self):
        """The full name by which `get_variable` finds it: scope path, slash, name."""
        cdef Held held
        self.made()
        hold(&held, <PyObject *>self.graph)
        try:
            self.check()
            return self.graph.row_path(self.row)
        finally:
            release(&held)

    @property
    def op_name(self):
        """The name as an op: the path, with a suffix where another op had that name first."""
        return self.op_text()

    @property
    def name(self):
        """The op name followed by the output's number, always `:0`."""
        return self.op_text() + ":0"

    @cython.final
    cdef inline str op_text(self):
        cdef Held held
        self.made()
        hold(&held, <PyObject *>self.graph)
        try:
            self.check()
            return self.graph.op_name(self.row)
        finally:
            release(&held)

    @property
    def _index(self):
        return self.number()

    @property
    def _withdrawn(self):
        return self.number() == NONE

    @cython.final
    cdef inline uint32_t number(self) noexcept:
        """The row's number, which moves up where one before it is withdrawn."""
        cdef uint32_t row
        cdef Held held
        if self.graph is None:
            return self.row
        hold(&held, <PyObject *>self.graph)
        row = self.row
        release(&held)
        return row

    @property
    def _spec(self):
        return self.spec_now()

    @cython.final
    cdef Spec spec_now(self):
        cdef Held held
        self.made()
        hold(&held, <PyObject *>self.graph)
        try:
            self.check()
            return <Spec>self.graph.specs[self.graph.table.rows[self.row].spec]
        finally:
            release(&held)

    @_spec.setter
    def _spec(self, Spec spec not None):
        """Nothing where another thread has settled another shape meanwhile: that one counts."""
        cdef Held held
        self.made()
        hold(&held, <PyObject *>self.graph)
        try:
            self.settle_spec(spec)
        finally:
            release(&held)

    @cython.final
    cdef int settle_spec(self, Spec spec) except -1:
        cdef Spec now
        cdef uint32_t number = self.graph.spec_id(spec)
        if self.graph.slabs is not None:
            # The row may have its place already, and who has a place is known to have a fit.
            self.graph.slabs.look_up(number)
        self.check()
        now = self.graph.specs[self.graph.table.rows[self.row].spec]
        if now.size < 0 or now.shape == spec.shape:
            self.graph.table.rows[self.row].spec = number
        return 0

    @property
    def _whole(self):
        """What is kept of the variable that was made in parts and may have this one as a part."""
        cdef Node *node
        cdef Held held
        self.made()
        hold(&held, <PyObject *>self.graph)
        try:
            self.check()
            node = &self.graph.tree.nodes[self.graph.table.rows[self.row].node]
            if node.parent == NONE or not self.graph.names.names[node.name].of_partition:
                return None
            return self.graph.partition(node.parent, node.name)
        finally:
            release(&held)

    @property
    def _spec_number(self):
        return self.row_now().spec

    @cython.final
    cdef inline Row row_now(self) except *:
        """The row as it is.  What it points to may go at any time, but tags and numbers stay."""
        cdef Row row
        cdef Held held
        self.made()
        hold(&held, <PyObject *>self.graph)
        try:
            self.check()
            row = self.graph.table.rows[self.row]
        finally:
            release(&held)
        return row

    @property
    def _filled(self):
        """Whether there is a content; asking makes none."""
        return is_filled(self.row_now().content)

    @property
    def _content(self):
        cdef PyObject *tag = NULL
        cdef Held held
        self.made()
        hold(&held, <PyObject *>self.graph)
        try:
            self.check()
            content = self.content_now(&tag)
        finally:
            release(&held)
        return self.promoted(tag) if tag != NULL else content

    @cython.final
    cdef inline object content_now(self, PyObject **tag):
        """The content, None where there is none, or the tag that stands in its place."""
        cdef PyObject *content = self.graph.table.rows[self.row].content
        if not is_filled(content):
            return None
        if is_tag(content):
            tag[0] = content
            return None
        return <object>content

    @cython.final
    cdef object promoted(self, PyObject *tag):
        """The object that takes the place of a tag."""
        cdef Row *row
        cdef Held held
        made = self._content_at(place_of(tag))
        hold(&held, <PyObject *>self.graph)
        try:
            self.check()                       # making it may have run any code
            row = &self.graph.table.rows[self.row]
            if is_tag(row.content):
                Py_INCREF(made)
                row.content = <PyObject *>made
            return <object>row.content         # maybe another thread was quicker
        finally:
            release(&held)

    def _settle(self, content):
        """Make this what was materialised, unless another thread was quicker; what counts now."""
        cdef Row *row
        cdef PyObject *tag = NULL
        cdef Held held
        self.made()
        hold(&held, <PyObject *>self.graph)
        try:
            self.check()
            row = &self.graph.table.rows[self.row]
            if not is_filled(row.content):
                Py_INCREF(content)
                row.content = <PyObject *>content
            content = self.content_now(&tag)
        finally:
            release(&held)
        return self.promoted(tag) if tag != NULL else content

    # --- of a graph that keeps its variables in slabs
    @property
    def _filled_place(self):
        """The byte of its slab where its values begin, while there is no object for them."""
        cdef PyObject *content = self.row_now().content
        return place_of(content) if is_tag(content) and is_filled(content) else None

    def _place(self):
        """The byte of its slab from which on the values are to go.

        None where they are there already, and where only the heap will do: for elements of no
        bytes.  All variables that were created earlier get their places first.
        """
        cdef Held held
        self.made()
        hold(&held, <PyObject *>self.graph)
        try:
            self.check()
            return self.placed()
        finally:
            release(&held)

    @cython.final
    cdef object placed(self):
        cdef PyObject *content
        cdef uint32_t spec
        while self.graph.table.rows[self.row].content == NULL:
            spec = self.graph.table.rows[self.row].spec
            self.graph.slabs.look_up(spec)
            if self.graph.slabs.fits[spec].slab == NONE:
                return None
            # What is earlier in the order goes first; a shape that was open fixed this one late.
            self.graph.slabs.place(self.row + 1)
            self.check()
            self.graph.slabs.place_row(self.row)
            self.check()
        content = self.graph.table.rows[self.row].content
        return None if is_filled(content) else place_of(content)

    def _copy_in(self, values):
        """Put values in their place at once, before any other thread runs; False if some are."""
        cdef Py_buffer view
        cdef Held held
        self.made()
        PyObject_GetBuffer(values, &view, PyBUF_C_CONTIGUOUS)
        hold(&held, <PyObject *>self.graph)
        try:
            self.check()
            return self.copied_in(&view)
        finally:
            release(&held)
            PyBuffer_Release(&view)

    @cython.final
    cdef bint copied_in(self, Py_buffer *view) except -1:
        cdef Row *row = &self.graph.table.rows[self.row]
        cdef Slab *slab
        cdef Spec spec
        cdef bint first
        spec = <Spec>self.graph.specs[row.spec]
        first = (is_tag(row.content) and not is_filled(row.content)
                 and view.len == spec.size * spec.itemsize)
        if first:
            slab = &self.graph.slabs.items[self.graph.slabs.fits[row.spec].slab]
            memcpy(<char *>slab.memory.buf + place_of(row.content), view.buf, view.len)
            row.content = <PyObject *>(<size_t>row.content | FILLED)
        return first

    def _mark(self, bint filled):
        """Note that the values are being written in place (False), or that they are there now."""
        cdef Row *row
        cdef Held held
        self.made()
        hold(&held, <PyObject *>self.graph)
        try:
            self.check()
            row = &self.graph.table.rows[self.row]
            if is_tag(row.content):
                row.content = <PyObject *>(<size_t>row.content | (FILLED if filled else DIRTY))
        finally:
            release(&held)

    @property
    def creation_site(self):
        """`(file, line, function)` of the call that created the variable."""
        return site_text(self.graph.site(self.row_now().site))


cdef extern from *:
    """
    /* Takes no memory; the iterator of `co_lines` hands out broken tuples where there is none. */
    static inline int varscope_line(PyObject *code, int instruction) {
        return PyCode_Addr2Line((PyCodeObject *)code, instruction);
    }
    """
    int line_of "varscope_line"(PyObject *code, int instruction) noexcept


def site_text(tuple site):
    """`(file, line, function)` of a place in code that the core has noted."""
    if len(site) == 3:
        return site                        # of a graph that was pickled: only the text is left
    code, instruction = site
    if code is None:
        return "<unknown>", 0, "<unknown>"
    line = line_of(<PyObject *>code, instruction)
    return code.co_filename, code.co_firstlineno if line < 0 else line, code.co_qualname
