# Very many small arrays on their way to files and back.
#
# An array says where its values lie by __array_struct__, a documented record that NumPy hands out
# without its headers: for every dtype, those of ml_dtypes too, of which buffers know nothing, and
# in a tenth of a microsecond.

cdef extern from *:
    """
    typedef struct {
        int two;
        int nd;
        char typekind;
        int itemsize;
        int flags;
        Py_ssize_t *shape;
        Py_ssize_t *strides;
        void *data;
        PyObject *descr;
    } varscope_array;
    """
    ctypedef struct ArrayInterface "varscope_array":
        int two
        int nd
        char typekind
        int itemsize
        int flags
        Py_ssize_t *shape
        unsigned char *data

cdef extern from "Python.h":
    void *PyCapsule_GetPointer(object capsule, const char *name) except NULL

cdef enum:
    CONTIGUOUS_ARRAY = 0x1     # flags of an array
    WRITEABLE_ARRAY = 0x400
    AT_A_TIME = 512            # arrays whose places are noted before their bytes are touched

# Where the values of an array lie.  Good for as long as somebody holds the array.
cdef struct Place:
    unsigned char *data
    size_t nbytes


cdef int find_place(array, Place *place, bint to_write) except -1:
    cdef ArrayInterface *facts
    cdef size_t nbytes
    cdef int i
    try:
        capsule = array.__array_struct__
    except AttributeError:
        raise TypeError(f"arrays are needed, not {type(array).__name__}") from None
    facts = <ArrayInterface *>PyCapsule_GetPointer(capsule, NULL)
    if facts.two != 2 or facts.typekind == b"O":
        raise TypeError("arrays of objects have no bytes of their own")
    # Of an array of records it has no flags.
    if not facts.flags & CONTIGUOUS_ARRAY and not array.flags.c_contiguous:
        raise ValueError("arrays must be C-contiguous")
    if to_write and not facts.flags & WRITEABLE_ARRAY and not array.flags.writeable:
        raise ValueError("arrays must be writable")
    nbytes = <size_t>facts.itemsize
    for i in range(facts.nd):
        nbytes *= <size_t>facts.shape[i]
    place.data, place.nbytes = facts.data, nbytes
    return 0


cdef size_t find_places(tuple arrays, Py_ssize_t first, Py_ssize_t count, Place *places,
                        bint to_write) except? 0:
    """Note where some of the arrays lie; returns the number of all their bytes."""
    cdef Py_ssize_t i
    cdef size_t nbytes = 0
    PyErr_CheckSignals()
    for i in range(count):
        find_place(arrays[first + i], &places[i], to_write)
        nbytes += places[i].nbytes
    return nbytes


cdef void sum_places(const Place *places, Py_ssize_t count, uint32_t *sums) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        sums[i] = varscope_crc32c(0, places[i].data, places[i].nbytes)


def locate(arrays):
    """A list of the addresses at which the values of C-contiguous arrays of any dtype lie.

    They are good for as long as the caller holds the arrays.
    """
    cdef Place place
    cdef list addresses = []
    for array in tuple(arrays):
        find_place(array, &place, False)
        addresses.append(<size_t>place.data)
    return addresses


def checksums(arrays):
    """The CRC-32C of the values of C-contiguous arrays of any dtype, as bytes of a uint32 each."""
    cdef Place places[AT_A_TIME]
    cdef tuple held = tuple(arrays)
    cdef Py_ssize_t first = 0, now, i, count = len(held)
    cdef size_t nbytes
    answer = PyBytes_FromStringAndSize(NULL, 4 * count)
    cdef uint32_t *sums = <uint32_t *>PyBytes_AS_STRING(answer)
    while first < count:
        now = min(count - first, <Py_ssize_t>AT_A_TIME)
        nbytes = find_places(held, first, now, places, False)
        if nbytes <= ALONE:
            sum_places(places, now, sums + first)
        elif nbytes <= IN_ONE_GO:
            with nogil:
                sum_places(places, now, sums + first)
        else:
            for i in range(now):
                sums[first + i] = checksum(0, places[i].data, places[i].nbytes)
        first += now
    return answer


cdef void copy_places(const Place *places, const unsigned char **sources,
                      Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        if places[i].nbytes:
            memmove(places[i].data, sources[i], places[i].nbytes)


def scatter(buffer, offsets, arrays):
    """Fill C-contiguous arrays of any dtype with bytes of a buffer, array i from offsets[i] on.

    `buffer` is C-contiguous, `offsets` a contiguous buffer of int64.  Arrays before one that is
    refused have been filled.
    """
    cdef Place places[AT_A_TIME]
    cdef const unsigned char *sources[AT_A_TIME]
    cdef tuple held = tuple(arrays)
    cdef Py_ssize_t first = 0, now, i, count = len(held)
    cdef Py_buffer view, begins
    get_numbers(offsets, &begins)
    try:
        PyObject_GetBuffer(buffer, &view, PyBUF_C_CONTIGUOUS)
        try:
            if begins.len != 8 * count:
                raise ValueError(f"{begins.len // 8} offsets for {count} arrays")
            while first < count:
                now = min(count - first, <Py_ssize_t>AT_A_TIME)
                nbytes = find_places(held, first, now, places, True)
                for i in range(now):
                    sources[i] = part_of(&view, (<int64_t *>begins.buf)[first + i],
                                         <int64_t>places[i].nbytes)
                if nbytes <= ALONE:
                    copy_places(places, sources, now)
                else:
                    with nogil:
                        copy_places(places, sources, now)
                first += now
        finally:
            PyBuffer_Release(&view)
    finally:
        PyBuffer_Release(&begins)
