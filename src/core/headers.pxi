# Headers of safetensors files, as the libraries write them, read in one pass.

# What is left of a text.  No byte from `end` on is ever read.
cdef struct Reader:
    const unsigned char *at
    const unsigned char *end

cdef struct Text:
    const unsigned char *start
    size_t length

# A shape that was met: how it is written, and what that means.
cdef struct KnownShape:
    Text text
    PyObject *shape            # borrowed from the list of shapes
    int64_t size

cdef enum:
    KNOWN_SHAPES = 256         # a direct-mapped table
    KNOWN_DTYPES = 32          # more than the format has
    MAX_RANK = 64              # of shapes that are read here


cdef inline bint equal_texts(Text a, Text b) noexcept:
    return a.length == b.length and memcmp(a.start, b.start, a.length) == 0


cdef inline bint is_space(unsigned char byte) noexcept:
    return byte == c" " or byte == c"\n" or byte == c"\r" or byte == c"\t"


cdef inline void skip_spaces(Reader *reader) noexcept:
    while reader.at < reader.end and is_space(reader.at[0]):
        reader.at += 1


cdef inline bint take(Reader *reader, unsigned char wanted) noexcept:
    """Go past a character and the spaces before it, if that is what comes."""
    skip_spaces(reader)
    if reader.at < reader.end and reader.at[0] == wanted:
        reader.at += 1
        return True
    return False


cdef bint take_text(Reader *reader, Text *text) noexcept:
    """Go past a string that has no escapes."""
    cdef const unsigned char *at
    if not take(reader, c'"'):
        return False
    at = reader.at
    while at < reader.end and at[0] != c'"':
        if at[0] == c"\\" or at[0] < 0x20:
            return False
        at += 1
    if at == reader.end:
        return False
    text.start, text.length = reader.at, <size_t>(at - reader.at)
    reader.at = at + 1
    return True


cdef bint take_number(Reader *reader, int64_t *number) noexcept:
    """Go past a number of up to 18 digits, which are all that it has."""
    cdef const unsigned char *first
    cdef int64_t found = 0
    skip_spaces(reader)
    first = reader.at
    while reader.at < reader.end and c"0" <= reader.at[0] <= c"9":
        if reader.at - first == 18:
            return False
        found = 10 * found + (reader.at[0] - c"0")
        reader.at += 1
    number[0] = found
    return reader.at > first and (first[0] != c"0" or reader.at == first + 1)


cdef bint take_texts(Reader *reader, Text *text) noexcept:
    """Go past an object that holds nothing but strings, which may have escapes."""
    cdef bint inside = False
    if not take(reader, c"{"):
        return False
    text.start = reader.at - 1
    while reader.at < reader.end:
        if inside:
            if reader.at[0] == c"\\":
                reader.at += 1         # and the next one, below
            elif reader.at[0] == c'"':
                inside = False
        elif reader.at[0] == c'"':
            inside = True
        elif reader.at[0] == c"}":
            reader.at += 1
            text.length = <size_t>(reader.at - text.start)
            return True
        elif not (reader.at[0] == c":" or reader.at[0] == c"," or is_space(reader.at[0])):
            return False
        reader.at += 1
    return False


cdef tuple take_shape(Reader *reader, int64_t *size):
    """Go past a list of numbers: the tuple, or None; `size` is their product."""
    cdef int64_t dims[MAX_RANK]
    cdef int rank = 0, i
    size[0] = 1
    if not take(reader, c"["):
        return None
    while not take(reader, c"]"):
        if rank == MAX_RANK or rank and not take(reader, c","):
            return None
        if not take_number(reader, &dims[rank]):
            return None
        # As in the format's own check: what is too large before a zero comes, is too large.
        if dims[rank] and size[0] > (<int64_t>1 << 56) // dims[rank]:
            return None
        size[0] *= dims[rank]
        rank += 1
    shape = []
    for i in range(rank):
        shape.append(dims[i])
    return tuple(shape)


cdef object known_shape(Reader *reader, KnownShape *known, int64_t *size):
    """The same, one object for all that are written alike."""
    cdef Text text
    cdef size_t hashed = 0
    cdef KnownShape *slot
    cdef const unsigned char *at
    skip_spaces(reader)
    at = reader.at
    while at < reader.end and at[0] != c"]":
        hashed = hashed * 31 + at[0]
        at += 1
    if at == reader.end:
        return None
    text.start, text.length = reader.at, <size_t>(at - reader.at)
    slot = &known[(hashed ^ hashed >> 8) % KNOWN_SHAPES]
    if slot.shape != NULL and equal_texts(slot.text, text):
        reader.at = at + 1
        size[0] = slot.size
        return <object>slot.shape
    shape = take_shape(reader, size)
    if shape is not None:
        slot.text, slot.shape, slot.size = text, <PyObject *>shape, size[0]
    return shape


@cython.final
cdef class HeaderScan:
    """A header on its way into columns."""
    cdef list names, dtypes, shapes
    cdef list distinct                  # dtypes, and how they are written
    cdef Text written[KNOWN_DTYPES]
    cdef KnownShape known[KNOWN_SHAPES]
    cdef int64_t *numbers               # begin, end and size of each tensor
    cdef Py_ssize_t count, room
    cdef Text metadata                  # at NULL until one was met

    def __dealloc__(self):
        PyMem_Free(self.numbers)

    cdef bint run(self, Reader *reader) except -1:
        cdef Text name
        self.names, self.dtypes, self.shapes, self.distinct = [], [], [], []
        if not take(reader, c"{"):
            return False
        if not take(reader, c"}"):
            while True:
                if not (take_text(reader, &name) and take(reader, c":")):
                    return False
                if name.length == 12 and memcmp(name.start, b"__metadata__", 12) == 0:
                    if self.metadata.start != NULL or not take_texts(reader, &self.metadata):
                        return False
                elif not self.tensor(reader, name):
                    return False
                if take(reader, c"}"):
                    break
                if not take(reader, c","):
                    return False
        skip_spaces(reader)
        return reader.at == reader.end

    cdef bint tensor(self, Reader *reader, Text name) except -1:
        cdef Text key
        cdef int seen = 0, field
        cdef int64_t begin = 0, end = 0, size = 0
        if self.count == self.room:
            self.grow()
        if not take(reader, c"{"):
            return False
        while not take(reader, c"}"):
            if seen and not take(reader, c","):
                return False
            if not (take_text(reader, &key) and take(reader, c":")):
                return False
            if key.length == 5 and memcmp(key.start, b"dtype", 5) == 0:
                field = 1
            elif key.length == 5 and memcmp(key.start, b"shape", 5) == 0:
                field = 2
            elif key.length == 12 and memcmp(key.start, b"data_offsets", 12) == 0:
                field = 4
            else:
                return False
            if seen & field:
                return False
            seen |= field
            if field == 1:
                if not self.dtype(reader):
                    return False
            elif field == 2:
                shape = known_shape(reader, self.known, &size)
                if shape is None:
                    return False
                self.shapes.append(shape)
            elif not (take(reader, c"[") and take_number(reader, &begin) and take(reader, c",")
                      and take_number(reader, &end) and take(reader, c"]")):
                return False
        if seen != 7:
            return False
        self.numbers[3 * self.count] = begin
        self.numbers[3 * self.count + 1] = end
        self.numbers[3 * self.count + 2] = size
        self.count += 1
        self.names.append(PyUnicode_DecodeUTF8(<const char *>name.start, <Py_ssize_t>name.length,
                                               NULL))
        return True

    cdef bint dtype(self, Reader *reader) except -1:
        cdef Text text
        cdef Py_ssize_t i, n = len(self.distinct)
        if not take_text(reader, &text):
            return False
        for i in range(n):
            if equal_texts(self.written[i], text):
                self.dtypes.append(self.distinct[i])
                return True
        if n == KNOWN_DTYPES:
            return False
        self.written[n] = text
        self.distinct.append(PyUnicode_DecodeUTF8(<const char *>text.start,
                                                  <Py_ssize_t>text.length, NULL))
        self.dtypes.append(self.distinct[n])
        return True

    cdef int grow(self) except -1:
        cdef Py_ssize_t room = max(2 * self.room, 64)
        cdef void *grown = PyMem_Realloc(self.numbers, 24 * <size_t>room)
        if grown == NULL:
            raise MemoryError()
        self.numbers, self.room = <int64_t *>grown, room
        return 0


def scan_header(header):
    """What a safetensors header says, where it is written as the libraries write it; else None.

    Returns (names, dtypes, shapes, bytes with the int64s begin, end and number of elements of each
    tensor, the JSON text of the metadata or None), in the order of the header.  Equal dtypes and
    shapes are one object.  Not looked at: whether a name comes twice, and whether the numbers fit.
    """
    cdef Py_buffer view
    cdef Reader reader
    cdef HeaderScan scan = HeaderScan()
    PyObject_GetBuffer(header, &view, PyBUF_C_CONTIGUOUS)
    try:
        reader.at = <const unsigned char *>view.buf
        reader.end = reader.at + view.len
        try:
            if not scan.run(&reader):
                return None
        except UnicodeDecodeError:
            return None
        metadata = None
        if scan.metadata.start != NULL:
            metadata = PyBytes_FromStringAndSize(<const char *>scan.metadata.start,
                                                 <Py_ssize_t>scan.metadata.length)
        numbers = PyBytes_FromStringAndSize(<const char *>scan.numbers, 24 * scan.count)
        return scan.names, scan.dtypes, scan.shapes, numbers, metadata
    finally:
        PyBuffer_Release(&view)
