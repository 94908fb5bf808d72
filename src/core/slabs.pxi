# Slabs: the memory of graphs that keep their variables together.

# === Memory that nobody can pull away ===========================================================

@cython.final
cdef class Memory:
    """The bytes of a writable buffer, an mmap's say, and no way to close it: the base of arrays.

    With `read_only` these arrays cannot be written to, and not be made to.
    """
    cdef Py_buffer source
    cdef bint read_only

    def __init__(self, source, *, bint read_only=False):
        if self.source.buf != NULL:
            raise TypeError("a Memory is made once")
        PyObject_GetBuffer(source, &self.source, PyBUF_WRITABLE)
        self.read_only = read_only

    def __dealloc__(self):
        PyBuffer_Release(&self.source)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        give_up_none()
        PyBuffer_FillInfo(buffer, self, self.source.buf, self.source.len, self.read_only, flags)


# === Slabs ======================================================================================

@cython.final
@cython.no_gc_clear        # rows lead into the memory to the end
cdef class Slabs:
    """The slabs of a graph: one a dtype, each variable behind the one that was created before it.

    The memory comes from `storage`, which knows where from: `storage.reserve(dtype, nbytes)`
    returns a buffer, the range of addresses in which a slab will grow from its start, and is told
    how much will be used for what is declared now; `storage.back(dtype, nbytes)` is called before
    that much of it is used, and returns how much can be.
    """

    def __init__(self, Registry graph not None, storage not None):
        self.table, self.specs, self.storage = graph.table, graph.specs, storage
        self.ids, self.dtypes = {}, []

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.count):
            PyBuffer_Release(&self.items[i].memory)
        PyMem_Free(self.items)
        PyMem_Free(self.fits)

    cdef int look_up(self, uint32_t number) except -1:
        """Fill in a spec's fit, with a slab that is made where it is new."""
        cdef Fit *fits
        cdef Spec spec = self.specs[number]
        cdef uint32_t i, length, slab
        if number >= self.fit_count:
            length = room(number)
            fits = <Fit *>PyMem_Realloc(self.fits, <size_t>length * sizeof(Fit))
            if fits == NULL:
                raise MemoryError()
            for i in range(self.fit_count, length):
                fits[i].slab = UNKNOWN
            self.fits, self.fit_count = fits, length
        if self.fits[number].slab == UNKNOWN:
            slab = self.find_slab(spec.dtype)
            self.fits[number].nbytes = -1 if spec.size < 0 else spec.size * spec.itemsize
            self.fits[number].slab = slab
        return 0

    cdef uint32_t find_slab(self, object dtype) except? NONE:
        cdef Slab *items
        cdef Py_buffer memory
        cdef uint32_t capacity
        if dtype.itemsize == 0:
            return NONE
        found = self.ids.get(dtype)
        if found is not None:
            return found
        buffer = self.storage.reserve(dtype, self.wanted(dtype))
        found = self.ids.get(dtype)
        if found is not None:
            return found                       # another thread was quicker
        if self.count == self.capacity:
            capacity = room(self.count)
            items = <Slab *>PyMem_Realloc(self.items, capacity * sizeof(Slab))
            if items == NULL:
                raise MemoryError()
            self.items, self.capacity = items, capacity
        PyObject_GetBuffer(buffer, &memory, PyBUF_WRITABLE)
        try:
            self.dtypes.append(dtype)
            self.ids[dtype] = self.count
        except BaseException:
            del self.dtypes[self.count:]
            PyBuffer_Release(&memory)
            raise
        self.items[self.count].memory = memory
        self.items[self.count].used = self.items[self.count].backed = 0
        self.count += 1
        return self.count - 1

    cdef object wanted(self, object dtype):
        """The bytes of all variables of a dtype, as far as their shapes are known."""
        cdef Spec spec
        nbytes = 0
        for number, uses in spec_uses(self.table, len(self.specs)):
            spec = self.specs[number]
            if spec.size > 0 and spec.dtype == dtype:
                nbytes += uses * <object>spec.size * spec.itemsize
        return nbytes

    cdef int place(self, uint32_t upto) except -1:
        """Give the rows before `upto` their places, in the order in which they were created.

        So a place does not depend on who is read first.  What is left without one: a row whose
        shape only its initializer knows, what has its values elsewhere, and what there is no room
        for.  That is said when the row itself is wanted; others must not suffer for it.
        """
        cdef uint32_t row
        while self.placed < upto and self.placed < self.table.count:
            row = self.placed
            try:
                # May run other code, which may place rows too: then the next turn sees it.
                if self.place_row(row):
                    self.placed += 1
            except (MemoryError, OSError):
                if self.placed == row:
                    self.placed += 1
        return 0

    cdef int place_row(self, uint32_t number) except -1:
        """Give one row its place, where it needs one; 0 asks to be called again."""
        cdef Row *row = &self.table.rows[number]
        cdef Fit *fit
        cdef Slab *slab
        if row.content != NULL:
            return 1
        if row.spec >= self.fit_count or self.fits[row.spec].slab == UNKNOWN:
            self.look_up(row.spec)
            return 0
        fit = &self.fits[row.spec]
        if fit.slab == NONE or fit.nbytes < 0:
            return 1
        slab = &self.items[fit.slab]
        if fit.nbytes > slab.backed - slab.used:
            self.back(fit.slab, fit.nbytes)
            return 0
        row.content = tag_of(slab.used)
        slab.used += fit.nbytes
        return 1

    cdef int back(self, uint32_t slab, int64_t nbytes) except -1:
        """Ask for so much more; the storage raises where it has no more."""
        cdef object needed = self.items[slab].used + <object>nbytes
        cdef int64_t backed = self.storage.back(self.dtypes[slab], needed)
        if backed < needed or backed > self.items[slab].memory.len:
            raise MemoryError(f"slab {slab} has {backed:,} bytes where {needed:,} are needed")
        self.items[slab].backed = max(backed, self.items[slab].backed)
        return 0


cdef list spec_uses(VariableTable table, Py_ssize_t specs):
    """[(spec id, how many variables)] of those that have any."""
    cdef uint32_t row
    cdef Py_ssize_t number
    cdef list found = []
    cdef uint64_t *uses = <uint64_t *>PyMem_Calloc(specs + 1, sizeof(uint64_t))
    if uses == NULL:
        raise MemoryError()
    try:
        for row in range(table.count):
            if table.rows[row].spec < specs:
                uses[table.rows[row].spec] += 1
        for number in range(specs):
            if uses[number]:
                found.append((number, uses[number]))
        return found
    finally:
        PyMem_Free(uses)
