# Checksums of tensors in files.

# === CRC-32C ====================================================================================

cdef extern from "checksums.h":
    void varscope_crc_prepare() noexcept
    bint varscope_crc_can_be_fast() noexcept
    uint32_t varscope_crc32c(uint32_t crc, const unsigned char *bytes, size_t n) noexcept nogil
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
