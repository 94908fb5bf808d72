# Restoring: values from elsewhere become those of many variables, of all of them or of none.

def spec_numbers(Registry graph not None):
    """The spec ids of all rows, as bytes that hold a uint32 each."""
    cdef Held held
    cdef uint32_t row, count
    hold(&held, <PyObject *>graph)
    count = graph.table.count
    release(&held)
    answer = PyBytes_FromStringAndSize(NULL, 4 * <Py_ssize_t>count)
    cdef uint32_t *numbers = <uint32_t *>PyBytes_AS_STRING(answer)
    hold(&held, <PyObject *>graph)
    for row in range(count):
        # Rows may have been taken out meanwhile: nobody will find a handle of those.
        numbers[row] = graph.table.rows[row].spec if row < graph.table.count else NONE
    release(&held)
    return answer


def put_in_places(Registry graph not None, list handles not None, buffer, offsets):
    """Write values to the places of small variables, which stay declared: commit_values is next.

    The values of variable i lie in `buffer` from `offsets[i]` on; `offsets` is a contiguous buffer
    of int64.  Returns the numbers of those that have no place for them: there are values already.
    No other thread writes first values in between, as it does that while it holds the graph too.
    """
    cdef Py_buffer view, begins
    cdef list others = []
    get_numbers(offsets, &begins)
    try:
        PyObject_GetBuffer(buffer, &view, PyBUF_C_CONTIGUOUS)
        try:
            if begins.len != 8 * len(handles):
                raise ValueError(f"{begins.len // 8} offsets for {len(handles)} variables")
            put_each(graph, handles, &view, <const int64_t *>begins.buf, others)
        finally:
            PyBuffer_Release(&view)
    finally:
        PyBuffer_Release(&begins)
    return others


cdef int put_each(Registry graph, list handles, const Py_buffer *view, const int64_t *offsets,
                  list others) except -1:
    cdef Py_ssize_t i
    cdef Handle handle
    cdef int64_t nbytes
    cdef Row *row
    cdef Held held
    hold(&held, <PyObject *>graph)
    try:
        for i in range(len(handles)):
            handle = <Handle?>handles[i]
            row = NULL if handle.row == NONE else &graph.table.rows[handle.row]
            if row == NULL or not is_tag(row.content) or is_filled(row.content):
                others.append(i)
                continue
            nbytes = graph.slabs.fits[row.spec].nbytes
            if nbytes:
                # From here on nobody relies on zero bytes there.
                row.content = <PyObject *>(<size_t>row.content | DIRTY)
                memcpy(in_slab(graph, row), part_of(view, offsets[i], nbytes), <size_t>nbytes)
        return 0
    finally:
        release(&held)


cdef inline char *in_slab(Registry graph, const Row *row) noexcept:
    """Where the values of a row with a tag lie."""
    return <char *>graph.slabs.items[graph.slabs.fits[row.spec].slab].memory.buf + place_of(
        row.content)


# === All or nothing =============================================================================

cdef enum:
    SKIPS                      # the variable was withdrawn
    SETTLES                    # a Content, of a variable that is only declared
    STAYS                      # the values lie in their place in a slab already
    MOVES_IN                   # they are copied there
    OVERWRITES                 # they are copied over others

# What is to become of one variable.  All pointers are borrowed from the lists that were given.
cdef struct Entry:
    int kind
    PyObject *content
    PyObject *claim
    unsigned char *source
    unsigned char *to
    size_t nbytes


def commit_values(Registry graph not None, list handles not None, list contents not None,
                  list values not None):
    """Make what was prepared the values of variables: of all of them, or of none.

    By variable, `contents` and `values` hold

    ============  ========  ===================================================================
    a `Content`   None      it becomes what the variable has; the variable is only declared
    a `Content`   an array  the variable has it; its values are overwritten, and that counts
    None          None      the values lie in its place in a slab
    None          Filling   the same of a large one, in whose place nobody else has written
    None          an array  is copied to its place in a slab
    ============  ========  ===================================================================

    Returns the numbers of variables that got values from elsewhere meanwhile: where there are any,
    nothing was done.  What can fail comes first; from then on nothing allocates, and no signal or
    other thread comes in between until no variable is only declared any more.
    """
    cdef Py_ssize_t i, count = len(handles), missed = 0
    cdef Entry *entries
    cdef uint32_t *late
    cdef list versions = [None] * count, numbers = []  # made here, where memory may still be short
    cdef Held held
    if len(contents) != count or len(values) != count:
        raise ValueError("there is not one entry a variable")
    entries = <Entry *>PyMem_Calloc(count + 1, sizeof(Entry))
    late = <uint32_t *>PyMem_Calloc(count + 1, sizeof(uint32_t))
    try:
        if entries == NULL or late == NULL:
            raise MemoryError()
        for i in range(count):
            read_entry(handles[i], contents[i], values[i], &entries[i])
            if entries[i].kind == OVERWRITES:
                versions[i] = contents[i].version + 1
        hold(&held, <PyObject *>graph)
        missed = find_late(graph, handles, entries, count, late)
        if missed == 0:
            settle_all(graph, handles, entries, count)
        release(&held)
        if missed == 0:
            with nogil:
                for i in range(count):
                    if entries[i].kind == OVERWRITES:
                        memcpy(entries[i].to, entries[i].source, entries[i].nbytes)
            for i in range(count):
                if entries[i].kind == OVERWRITES:
                    count_surely(contents[i], versions[i])
        for i in range(missed):
            numbers.append(late[i])
        return numbers
    finally:
        PyMem_Free(entries)
        PyMem_Free(late)


cdef int read_entry(handle, content, value, Entry *entry) except -1:
    cdef Place place
    if not isinstance(handle, Handle):
        raise TypeError("handles are of variables")
    if isinstance(value, Filling):
        entry.claim = <PyObject *>value
    elif value is not None:
        find_place(value, &place, False)
        entry.source, entry.nbytes = place.data, place.nbytes
    if content is None:
        entry.kind = STAYS if entry.source == NULL else MOVES_IN
    elif value is None:
        entry.kind, entry.content = SETTLES, <PyObject *>content
    else:
        # Nobody can have the array moved while the content refers to it.
        find_place(content.array, &place, True)
        if place.nbytes != entry.nbytes:
            raise ValueError(f"{entry.nbytes} bytes for a variable of {place.nbytes}")
        entry.kind, entry.to = OVERWRITES, place.data
    return 0


cdef Py_ssize_t find_late(Registry graph, list handles, Entry *entries, Py_ssize_t count,
                          uint32_t *late) noexcept:
    """Note which variables are not as they were expected to be."""
    cdef Py_ssize_t i, missed = 0
    cdef PyObject *content
    cdef Row *row
    cdef Entry *entry
    for i in range(count):
        entry = &entries[i]
        if (<Handle>handles[i]).row == NONE:
            entry.kind = SKIPS
            continue
        row = &graph.table.rows[(<Handle>handles[i]).row]
        content = row.content
        if entry.kind == SETTLES and content == NULL or entry.kind == OVERWRITES:
            continue
        if entry.kind != SETTLES and is_tag(content) and not is_filled(content) and (
                entry.claim == NULL or not (<Filling>entry.claim).gone) and (
                entry.kind != MOVES_IN
                or graph.slabs.fits[row.spec].nbytes == <int64_t>entry.nbytes):
            continue
        late[missed] = <uint32_t>i
        missed += 1
    return missed


cdef void settle_all(Registry graph, list handles, const Entry *entries,
                     Py_ssize_t count) noexcept:
    cdef Py_ssize_t i
    cdef Row *row
    for i in range(count):
        if entries[i].kind == SKIPS or entries[i].kind == OVERWRITES:
            continue
        row = &graph.table.rows[(<Handle>handles[i]).row]
        if entries[i].kind == SETTLES:
            Py_INCREF(<object>entries[i].content)
            row.content = entries[i].content
            continue
        if entries[i].kind == MOVES_IN and entries[i].nbytes:
            memcpy(in_slab(graph, row), entries[i].source, entries[i].nbytes)
        row.content = <PyObject *>(<size_t>row.content | FILLED)


cdef int count_surely(content, version) except -1:
    try:
        count_write(content)
    except MemoryError:                        # for the number: there is one already
        content.version = version
    return 0


def reopen(Handle handle not None, Spec spec not None):
    """Take back the shape that was settled for a variable that has no values after all.

    `spec` is what it was.  A place that it got is free again, unless others lie behind it by now.
    """
    cdef Row *row
    cdef Slab *slab
    cdef Held held
    cdef uint32_t number
    hold(&held, <PyObject *>handle.graph)
    try:
        number = handle.graph.spec_id(spec)
        if handle.row == NONE or is_filled(handle.graph.table.rows[handle.row].content):
            return
        row = &handle.graph.table.rows[handle.row]
        if is_tag(row.content):
            slab = &handle.graph.slabs.items[handle.graph.slabs.fits[row.spec].slab]
            if place_of(row.content) + handle.graph.slabs.fits[row.spec].nbytes == slab.used:
                slab.used = place_of(row.content)
            row.content = NULL
        row.spec = number
    finally:
        release(&held)
