# Checksums of tensors in files.

# === CRC-32C ====================================================================================

cdef extern from "checksums.h":
    void varscope_crc_prepare() noexcept
    bint varscope_crc_can_be_fast() noexcept
    uint32_t varscope_crc32c(uint32_t crc, const unsigned char *bytes, size_t n) noexcept nogil
    uint32_t varscope_crc32c_joined(uint32_t first, uint32_t second, uint64_t n) noexcept nogil
    bint varscope_crc_fast

cdef enum:
    ALONE = 0x10000            # bytes; more are gone through without the GIL,
    IN_ONE_GO = 0x1000000      # so many at most before signals are looked at


varscope_crc_prepare()


def use_crc_instruction(bint wanted):
    """Whether CRC-32C is to be computed by the processor's instruction; says whether it is.

    For tests: no checksum depends on it.
    """
    global varscope_crc_fast
    varscope_crc_fast = wanted and varscope_crc_can_be_fast()
    return varscope_crc_fast


def crc32c(buffer, uint32_t value=0):
    """The CRC-32C of the bytes of a C-contiguous buffer, as an int.

    `value` is the checksum of what comes before: crc32c(b, crc32c(a)) is that of a + b.  An array
    of a dtype that buffers do not have, bfloat16 for one, comes as `array.view(np.uint8)`.
    """
    cdef Py_buffer view
    PyObject_GetBuffer(buffer, &view, PyBUF_C_CONTIGUOUS)
    try:
        return checksum(value, <const unsigned char *>view.buf, <size_t>view.len)
    finally:
        PyBuffer_Release(&view)


def crc32c_joined(uint32_t first, uint32_t second, uint64_t length):
    """The CRC-32C of a + b, from that of a, that of b and the length of b."""
    return varscope_crc32c_joined(first, second, length)


cdef uint32_t checksum(uint32_t crc, const unsigned char *bytes, size_t n) except? 0:
    """The same of bytes that the caller holds; an interrupt ends it."""
    cdef size_t now
    if n <= ALONE:
        return varscope_crc32c(crc, bytes, n)
    while n > 0:
        now = min(n, <size_t>IN_ONE_GO)
        with nogil:
            crc = varscope_crc32c(crc, bytes, now)
        PyErr_CheckSignals()
        bytes += now
        n -= now
    return crc


def crc32c_each(buffer, offsets, lengths):
    """The CRC-32C of many parts of a C-contiguous buffer, as bytes that hold a uint32 each.

    `offsets` and `lengths` are contiguous buffers of int64, in bytes.
    """
    cdef Py_buffer view, begins, sizes
    cdef Py_ssize_t i, count
    cdef uint32_t *sums
    get_numbers(offsets, &begins)
    try:
        get_numbers(lengths, &sizes)
        try:
            PyObject_GetBuffer(buffer, &view, PyBUF_C_CONTIGUOUS)
            try:
                count = begins.len // 8
                if sizes.len != begins.len:
                    raise ValueError("there are not as many lengths as offsets")
                answer = PyBytes_FromStringAndSize(NULL, 4 * count)
                sums = <uint32_t *>PyBytes_AS_STRING(answer)
                for i in range(count):
                    sums[i] = checksum(0, part_of(&view, (<int64_t *>begins.buf)[i],
                                                  (<int64_t *>sizes.buf)[i]),
                                       <size_t>(<int64_t *>sizes.buf)[i])
                    if i & 0xFFF == 0xFFF:
                        PyErr_CheckSignals()
                return answer
            finally:
                PyBuffer_Release(&view)
        finally:
            PyBuffer_Release(&sizes)
    finally:
        PyBuffer_Release(&begins)


cdef int get_numbers(numbers, Py_buffer *view) except -1:
    """A contiguous buffer of int64."""
    PyObject_GetBuffer(numbers, view, PyBUF_C_CONTIGUOUS)
    if view.itemsize != 8 or <size_t>view.buf & 7:
        PyBuffer_Release(view)
        raise ValueError("offsets and lengths are int64")
    return 0


cdef const unsigned char *part_of(const Py_buffer *view, int64_t offset,
                                  int64_t length) except? NULL:
    """Where a part of a buffer begins; NULL is an error only where one was raised."""
    if offset < 0 or length < 0 or length > view.len or offset > view.len - length:
        raise ValueError(f"{length} bytes from {offset} on do not lie in {view.len}")
    return <const unsigned char *>view.buf + offset
