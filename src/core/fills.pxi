# Random values into memory: the kernels of kernels.h, for any array.

# === Random values ==============================================================================

cdef extern from "kernels.h" nogil:
    ctypedef struct Law "varscope_law":
        int kind
        int type
        unsigned itemsize
        double a
        double b
        double bottom
        double top
        int64_t low
        uint64_t range
        unsigned char pattern[16]
    ctypedef struct Axis "varscope_axis":
        int64_t count
        int64_t apart
        int64_t step
    enum: VARSCOPE_MAX_AXES
    void varscope_fill_run(const Law *law, const uint64_t *key, uint64_t first, uint64_t count,
                           void *out) noexcept
    void varscope_fill_each(const Law *law, const uint64_t (*keys)[2], size_t n, uint64_t count,
                            unsigned char *const *outs) noexcept
    void varscope_fill_region(const Law *law, const uint64_t *key, uint64_t first, int rank,
                              Axis *axes, void *out) noexcept
    void varscope_words_behind(const uint64_t *key, const uint64_t *counter, uint64_t blocks,
                               uint64_t *out) noexcept
    void varscope_words(const uint64_t *key, uint64_t start, uint64_t count,
                        uint64_t *out) noexcept
    size_t varscope_orthogonalize_room(size_t m, size_t n) noexcept
    void varscope_orthogonalize(double *matrix, size_t m, size_t n, void *room) noexcept
    int varscope_wide
    int varscope_widest() noexcept
    void varscope_path_keys(const unsigned char *const *messages, const size_t *lengths,
                            size_t n, bint padded, uint64_t (*keys)[2]) noexcept


varscope_wide = varscope_widest()


def use_wide(int wide):
    """Which copies of the kernels are to run, as far as the machine can; says which do now.

    0: the plain ones, 1: those for AVX2, 2: with AVX-512.  For tests: no value depends on it.
    """
    global varscope_wide
    varscope_wide = min(wide, varscope_widest())
    return varscope_wide


cdef int read_law(tuple facts, Law *law) except -1:
    """What `randomness.law` returned, for C."""
    cdef bytes pattern
    (law.kind, law.type, law.itemsize, law.a, law.b, law.bottom, law.top, law.low, law.range,
     pattern) = facts
    if len(pattern) > 16:
        raise ValueError(f"a pattern of {len(pattern)} bytes: 16 at most")
    memset(law.pattern, 0, 16)
    memcpy(law.pattern, <const unsigned char *>pattern, len(pattern))
    return 0


cdef int read_key(key, uint64_t *words) except -1:
    """A key of 128 bits as two words, the lower one first."""
    words[0] = key & 0xFFFFFFFFFFFFFFFF
    words[1] = key >> 64
    return 0


def fill(out, tuple law not None, key, uint64_t first, tuple strides not None):
    """Fill a buffer: the element at multi-index i is number first + sum(i * strides) of the stream.

    `law` is what `randomness.law` returns; items of the buffer have its size.  The caller has
    seen to it that no number is below 0 or above 2**63 - 1.
    """
    cdef Law facts
    cdef uint64_t words[2]
    cdef Axis axes[VARSCOPE_MAX_AXES]
    cdef Py_buffer view
    cdef int i
    read_law(law, &facts)
    read_key(key, words)
    PyObject_GetBuffer(out, &view, PyBUF_STRIDES | PyBUF_WRITABLE)
    try:
        if view.itemsize != facts.itemsize or view.ndim != len(strides) or view.ndim > 64:
            raise ValueError("the buffer does not fit the law or the strides")
        for i in range(view.ndim):
            axes[i].count = view.shape[i]
            axes[i].apart = view.strides[i]
            axes[i].step = strides[i]
        with nogil:
            varscope_fill_region(&facts, words, first, view.ndim, axes, view.buf)
    finally:
        PyBuffer_Release(&view)


def fill_each(out, tuple law not None, list keys not None):
    """Fill the rows of a C-contiguous matrix, row i with the first elements of the stream of key i.

    What variables that are alike get, many at a time.
    """
    cdef Law facts
    cdef Py_buffer view
    cdef Py_ssize_t i, count = len(keys)
    cdef uint64_t (*pairs)[2]
    cdef unsigned char **rows = NULL
    pairs = NULL
    read_law(law, &facts)
    PyObject_GetBuffer(out, &view, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
    try:
        if view.ndim != 2 or view.itemsize != facts.itemsize or view.shape[0] != count:
            raise ValueError("the buffer does not fit the law or the keys")
        pairs = <uint64_t (*)[2]>PyMem_Calloc(count, 16)
        rows = <unsigned char **>PyMem_Calloc(count, sizeof(void *))
        if pairs == NULL or rows == NULL:
            raise MemoryError()
        for i in range(count):
            read_key(keys[i], pairs[i])
            rows[i] = <unsigned char *>view.buf + i * view.shape[1] * view.itemsize
        with nogil:
            varscope_fill_each(&facts, pairs, count, view.shape[1], rows)
    finally:
        PyMem_Free(pairs)
        PyMem_Free(rows)
        PyBuffer_Release(&view)


cdef size_t write_message(unsigned char *to, bytes prefix, PyObject *path) noexcept:
    """Write what a key is the digest of, as `randomness.path_message` has it; how long that is."""
    cdef const unsigned char *text = <const unsigned char *>PyUnicode_DATA(path)
    cdef size_t length = <size_t>PyUnicode_GET_LENGTH(path), first = 0, last, i
    cdef size_t end = <size_t>len(prefix)
    memcpy(to, <const unsigned char *>prefix, end)
    while first <= length:
        last = first
        while last < length and text[last] != c"/":
            last += 1
        for i in range(8):
            to[end + i] = <unsigned char>((<uint64_t>(last - first)) >> 8 * i)
        memcpy(to + end + 8, text + first, last - first)
        end += 8 + last - first
        first = last + 1
    return end


def fill_named(out, offsets, tuple law not None, uint64_t count, bytes prefix not None,
               list paths not None):
    """Fill parts of a C-contiguous buffer with first values of variables that are alike.

    From byte offsets[i] on, `count` elements: those with which the variable of paths[i] begins.
    `prefix` is what of a key's message is no path.  Paths are ASCII, as all of ours.
    """
    cdef Law facts
    cdef Py_buffer view, begins
    cdef tuple held = tuple(paths)
    cdef Py_ssize_t i, n = len(held)
    cdef size_t room = 0, used = 0
    cdef unsigned char *text = NULL
    cdef const unsigned char **messages = NULL
    cdef size_t *lengths = NULL
    cdef unsigned char **outs = NULL
    cdef uint64_t (*keys)[2]
    keys = NULL
    read_law(law, &facts)
    if count > <uint64_t>1 << 48:
        raise ValueError("no buffer has as many elements")
    for i in range(n):
        path = held[i]
        if not (PyUnicode_CheckExact(path) and PyUnicode_IS_ASCII(<PyObject *>path)):
            raise ValueError(f"{path!r:.100} is no path")
        # At most one component more than there are characters, each behind eight bytes.
        room += <size_t>len(prefix) + 9 * <size_t>PyUnicode_GET_LENGTH(<PyObject *>path) + 8
    get_numbers(offsets, &begins)
    try:
        PyObject_GetBuffer(out, &view, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
        try:
            if begins.len != 8 * n:
                raise ValueError(f"{begins.len // 8} offsets for {n} paths")
            text = <unsigned char *>PyMem_Malloc(room + 1)
            messages = <const unsigned char **>PyMem_Calloc(n + 1, sizeof(void *))
            lengths = <size_t *>PyMem_Calloc(n + 1, sizeof(size_t))
            outs = <unsigned char **>PyMem_Calloc(n + 1, sizeof(void *))
            keys = <uint64_t (*)[2]>PyMem_Calloc(n + 1, 16)
            if (text == NULL or messages == NULL or lengths == NULL or outs == NULL
                    or keys == NULL):
                raise MemoryError()
            for i in range(n):
                outs[i] = <unsigned char *>part_of(&view, (<int64_t *>begins.buf)[i],
                                                   <int64_t>(count * facts.itemsize))
                messages[i] = text + used
                lengths[i] = write_message(text + used, prefix, <PyObject *>held[i])
                used += lengths[i]
            with nogil:
                if facts.kind != LAW_CONSTANT:             # constants look at no key
                    varscope_path_keys(messages, lengths, n, False, keys)
                varscope_fill_each(&facts, keys, n, count, outs)
        finally:
            PyMem_Free(text)
            PyMem_Free(messages)
            PyMem_Free(lengths)
            PyMem_Free(outs)
            PyMem_Free(keys)
            PyBuffer_Release(&view)
    finally:
        PyBuffer_Release(&begins)


def words(key, uint64_t start, out):
    """Fill a contiguous buffer of uint64 with the words from number `start` on."""
    cdef uint64_t two[2]
    cdef Py_buffer view
    read_key(key, two)
    PyObject_GetBuffer(out, &view, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
    try:
        with nogil:
            varscope_words(two, start, <uint64_t>view.len // 8, <uint64_t *>view.buf)
    finally:
        PyBuffer_Release(&view)


def words_behind(key, counter, out):
    """The same behind any counter of 256 bits, for the tests: whole blocks of four words."""
    cdef uint64_t two[2]
    cdef uint64_t four[4]
    cdef Py_buffer view
    cdef int i
    read_key(key, two)
    for i in range(4):
        four[i] = counter >> 64 * i & 0xFFFFFFFFFFFFFFFF
    PyObject_GetBuffer(out, &view, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
    try:
        with nogil:
            varscope_words_behind(two, four, <uint64_t>view.len // 32, <uint64_t *>view.buf)
    finally:
        PyBuffer_Release(&view)


def path_keys(list messages not None, list lengths_of_padded=None):
    """The keys of many messages, as `randomness.path_key` makes one of each.

    With their lengths given, the messages are padded: zeros follow to the end of the last block.
    """
    cdef Py_ssize_t i, count = len(messages)
    cdef bint padded = lengths_of_padded is not None
    # Borrowed: the bytes objects are held by a tuple of this call.
    cdef tuple held = tuple(messages)
    cdef bytes message
    cdef const unsigned char **starts = NULL
    cdef size_t *lengths = NULL
    cdef uint64_t (*keys)[2]
    keys = NULL
    try:
        starts = <const unsigned char **>PyMem_Calloc(count, sizeof(void *))
        lengths = <size_t *>PyMem_Calloc(count, sizeof(size_t))
        keys = <uint64_t (*)[2]>PyMem_Calloc(count, 16)
        if starts == NULL or lengths == NULL or keys == NULL:
            raise MemoryError()
        for i in range(count):
            message = held[i]
            starts[i] = <const unsigned char *>message
            lengths[i] = len(message)
            if padded:
                if (max(lengths_of_padded[i], 1) + 127) // 128 * 128 != len(message):
                    raise ValueError("a padded message is a whole number of blocks")
                lengths[i] = lengths_of_padded[i]
        with nogil:
            varscope_path_keys(starts, lengths, count, padded, keys)
        answer = []
        for i in range(count):
            answer.append(<object>keys[i][1] << 64 | keys[i][0])
        return answer
    finally:
        PyMem_Free(starts)
        PyMem_Free(lengths)
        PyMem_Free(keys)


def orthogonalize(matrix):
    """Give a C-contiguous float64 matrix orthonormal columns; it has no fewer rows than columns.

    It becomes the Q of its QR decomposition, the one for which R has a positive diagonal, and is
    the same on every machine.
    """
    cdef Py_buffer view
    cdef void *room
    PyObject_GetBuffer(matrix, &view, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
    try:
        if view.ndim != 2 or view.itemsize != 8 or view.shape[0] < view.shape[1]:
            raise ValueError("orthogonalize takes a float64 matrix with no more columns than rows")
        room = PyMem_Malloc(varscope_orthogonalize_room(view.shape[0], view.shape[1]))
        if room == NULL:
            raise MemoryError()
        with nogil:
            varscope_orthogonalize(<double *>view.buf, view.shape[0], view.shape[1], room)
        PyMem_Free(room)
    finally:
        PyBuffer_Release(&view)
