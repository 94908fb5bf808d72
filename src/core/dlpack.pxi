# DLPack: memory that is handed to other libraries, and taken from them, without a copy.

# === The protocol ===============================================================================

cdef extern from "Python.h":
    bint PyCapsule_IsValid(object capsule, const char *name) noexcept
    int PyCapsule_SetName(object capsule, const char *name) except -1
    Py_ssize_t PY_SSIZE_T_MAX

cdef extern from *:
    """
    /* The records of DLPack 1, in the order and with the types that it lays down. */
    typedef struct {
        int32_t type;                              /* 1: main memory */
        int32_t index;
    } varscope_dl_device;
    typedef struct {
        uint8_t code;
        uint8_t bits;
        uint16_t lanes;
    } varscope_dl_type;
    typedef struct {
        void *data;
        varscope_dl_device device;
        int32_t ndim;
        varscope_dl_type dtype;
        int64_t *shape;
        int64_t *strides;                          /* in elements; NULL: C-contiguous */
        uint64_t byte_offset;
    } varscope_dl_tensor;
    typedef struct varscope_dl_plain {
        varscope_dl_tensor tensor;
        void *context;
        void (*deleter)(struct varscope_dl_plain *);
    } varscope_dl_plain;
    typedef struct varscope_dl_versioned {
        uint32_t major;
        uint32_t minor;
        void *context;
        void (*deleter)(struct varscope_dl_versioned *);
        uint64_t flags;
        varscope_dl_tensor tensor;
    } varscope_dl_versioned;

    #if PY_VERSION_HEX < 0x030D0000
    #define varscope_finalizing _Py_IsFinalizing
    #else
    #define varscope_finalizing Py_IsFinalizing
    #endif

    /* Consumers call this when they like: from threads that Python does not know, and at the end
       of the process, when it may be too late to ask for the interpreter; what is left goes with
       the process then. */
    static void varscope_dl_let_go(void *context) {
        PyGILState_STATE state;
        if (!Py_IsInitialized() || (varscope_finalizing() && !PyGILState_Check())) return;
        state = PyGILState_Ensure();
        Py_DECREF((PyObject *)context);
        PyGILState_Release(state);
    }
    static void varscope_dl_delete_plain(varscope_dl_plain *given) {
        varscope_dl_let_go(given->context);
    }
    static void varscope_dl_delete_versioned(varscope_dl_versioned *given) {
        varscope_dl_let_go(given->context);
    }
    /* Of a capsule that nobody has used: who uses one gives it another name. */
    static void varscope_dl_unused(PyObject *capsule) {
        if (PyCapsule_IsValid(capsule, "dltensor"))
            varscope_dl_delete_plain(
                (varscope_dl_plain *)PyCapsule_GetPointer(capsule, "dltensor"));
        else if (PyCapsule_IsValid(capsule, "dltensor_versioned"))
            varscope_dl_delete_versioned(
                (varscope_dl_versioned *)PyCapsule_GetPointer(capsule, "dltensor_versioned"));
    }
    static PyObject *varscope_dl_plain_capsule(varscope_dl_plain *given) {
        given->deleter = varscope_dl_delete_plain;
        return PyCapsule_New(given, "dltensor", varscope_dl_unused);
    }
    static PyObject *varscope_dl_versioned_capsule(varscope_dl_versioned *given) {
        given->deleter = varscope_dl_delete_versioned;
        return PyCapsule_New(given, "dltensor_versioned", varscope_dl_unused);
    }
    static void varscope_dl_done(varscope_dl_plain *plain, varscope_dl_versioned *versioned) {
        if (plain != NULL && plain->deleter != NULL) plain->deleter(plain);
        if (versioned != NULL && versioned->deleter != NULL) versioned->deleter(versioned);
    }
    """
    ctypedef struct DLDevice "varscope_dl_device":
        int type
        int index
    ctypedef struct DLType "varscope_dl_type":
        unsigned char code
        unsigned char bits
        unsigned short lanes
    ctypedef struct DLTensor "varscope_dl_tensor":
        void *data
        DLDevice device
        int ndim
        DLType dtype
        int64_t *shape
        int64_t *strides
        uint64_t byte_offset
    ctypedef struct DLPlain "varscope_dl_plain":
        DLTensor tensor
        void *context
    ctypedef struct DLVersioned "varscope_dl_versioned":
        uint32_t major
        uint32_t minor
        void *context
        uint64_t flags
        DLTensor tensor
    object plain_capsule "varscope_dl_plain_capsule"(DLPlain *given)
    object versioned_capsule "varscope_dl_versioned_capsule"(DLVersioned *given)
    void done_with "varscope_dl_done"(DLPlain *plain, DLVersioned *versioned) noexcept

cdef enum:
    DL_READ_ONLY = 1           # flags
    DL_COPIED = 2
    MOST_DIMENSIONS = 64       # NumPy's


# === To others ==================================================================================

@cython.final
cdef class Exported:
    """What a consumer holds until it calls the deleter: an array's buffer, and what tells of it."""
    cdef Py_buffer source
    cdef int64_t *dims         # the shape, and behind it the strides
    cdef DLPlain plain
    cdef DLVersioned versioned

    def __dealloc__(self):
        PyMem_Free(self.dims)
        PyBuffer_Release(&self.source)


def dlpack_capsule(source, tuple shape not None, int code, int bits, *, version=None,
                   bint copied=False):
    """A DLPack capsule of the bytes of a C-contiguous array, which it keeps.

    `code` and `bits` are DLPack's for the dtype.  With a `version`, (1, minor), the capsule is of
    that version; without one it is of the time before there were versions.
    """
    cdef Exported new = Exported()
    cdef Py_ssize_t i, ndim = len(shape)
    cdef int64_t stride = 1
    cdef DLTensor *tensor = &new.plain.tensor if version is None else &new.versioned.tensor
    PyObject_GetBuffer(source, &new.source, PyBUF_SIMPLE)
    if version is None and new.source.readonly:
        raise BufferError("a DLPack capsule without a version cannot say that it is read-only")
    new.dims = <int64_t *>PyMem_Calloc(2 * ndim + 1, sizeof(int64_t))
    if new.dims == NULL:
        raise MemoryError()
    for i in range(ndim - 1, -1, -1):
        new.dims[i], new.dims[ndim + i] = shape[i], stride
        stride *= max(new.dims[i], 1)
    tensor.data, tensor.ndim = new.source.buf, <int>ndim
    tensor.device.type, tensor.device.index = 1, 0
    tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes = code, bits, 1
    tensor.shape, tensor.strides, tensor.byte_offset = new.dims, new.dims + ndim, 0
    if version is None:
        new.plain.context = <void *>new
        capsule = plain_capsule(&new.plain)
    else:
        new.versioned.context = <void *>new
        new.versioned.major, new.versioned.minor = version
        new.versioned.flags = DL_READ_ONLY * new.source.readonly + DL_COPIED * copied
        capsule = versioned_capsule(&new.versioned)
    Py_INCREF(new)                             # of which the deleter lets go
    return capsule


# === From others ================================================================================

cdef unsigned char NO_BYTES = 0                # where those begin of which there are none


@cython.final
cdef class Imported:
    """The memory of a DLPack capsule: its deleter is called when nothing shows it any more.

    It is a buffer of bytes where it lies in main memory.  `writable` is None where the capsule
    does not say.
    """
    cdef DLPlain *plain
    cdef DLVersioned *versioned
    cdef unsigned char *data
    cdef Py_ssize_t nbytes
    cdef readonly tuple shape
    cdef readonly object writable
    cdef readonly int device, code, bits, lanes
    cdef readonly bint contiguous

    def __init__(self, capsule):
        cdef DLPlain *plain = NULL
        cdef DLVersioned *versioned = NULL
        cdef DLTensor *tensor
        if self.shape is not None:
            raise TypeError("an Imported is made once")
        if PyCapsule_IsValid(capsule, "dltensor_versioned"):
            versioned = <DLVersioned *>PyCapsule_GetPointer(capsule, "dltensor_versioned")
            if versioned.major != 1:
                raise BufferError(f"it is of DLPack {versioned.major}.{versioned.minor}, and 1 is "
                                  "what is known here")
            tensor = &versioned.tensor
        elif PyCapsule_IsValid(capsule, "dltensor"):
            plain = <DLPlain *>PyCapsule_GetPointer(capsule, "dltensor")
            tensor = &plain.tensor
        else:
            raise BufferError("it is no DLPack capsule, or one that was used already")
        self.read(tensor)
        if versioned != NULL:
            self.writable = not versioned.flags & DL_READ_ONLY
        # From here on it is ours.
        PyCapsule_SetName(capsule, "used_dltensor" if versioned == NULL
                          else "used_dltensor_versioned")
        self.plain, self.versioned = plain, versioned

    cdef int read(self, const DLTensor *tensor) except -1:
        """Note what there is; everything that can be wrong with it is found here."""
        cdef int i
        cdef int64_t stride = 1
        if tensor.ndim < 0 or tensor.ndim > MOST_DIMENSIONS:
            raise BufferError(f"it has {tensor.ndim} dimensions, not 0 to {MOST_DIMENSIONS}")
        cdef tuple shape = tuple([tensor.shape[i] for i in range(tensor.ndim)])
        nbytes = (tensor.dtype.bits * <object>tensor.dtype.lanes + 7) // 8
        for dim in shape:
            nbytes *= dim
        if min(shape, default=0) < 0 or nbytes > PY_SSIZE_T_MAX:
            raise BufferError(f"it has the shape {shape}")
        if nbytes and tensor.data == NULL:
            raise BufferError("it says of no place where its values lie")
        self.contiguous = True
        if tensor.strides != NULL and nbytes:
            for i in range(tensor.ndim - 1, -1, -1):
                if tensor.shape[i] != 1 and tensor.strides[i] != stride:
                    self.contiguous = False
                stride *= tensor.shape[i]
        self.nbytes = nbytes
        self.data = <unsigned char *>tensor.data + tensor.byte_offset if nbytes else &NO_BYTES
        self.device = tensor.device.type
        self.code, self.bits, self.lanes = (
            tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes)
        self.shape = shape
        return 0

    def __dealloc__(self):
        done_with(self.plain, self.versioned)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        give_up_none()
        if self.device not in MAIN_MEMORY or not self.contiguous or self.shape is None:
            raise BufferError("no bytes in main memory that follow each other")
        PyBuffer_FillInfo(buffer, self, self.data, self.nbytes, self.writable is not True, flags)


# Devices whose memory this process reads and writes as its own: the CPU, and memory of it that
# CUDA or ROCm has pinned.
MAIN_MEMORY = frozenset([1, 3, 11])
