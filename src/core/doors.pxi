# get_variable, what the layers above register, and the quick way in.

# === What stands for variables ==================================================================

# What `substitute` has opened here, the innermost first: (mapping, the graph that it is for or
# None, who opened it).  Tasks and the threads of `asyncio` have those of whoever started them, as
# with every context variable.
substitutions = PyContextVar_New("varscope_substitutions", NULL)
# How many are open, in whatever thread: none, and nobody has to look.
cdef uint64_t substituting = 0
cdef object entry_for = None               # of `substitution`: a variable to what stands for it


def count_substitutions(int step):
    """Note that one more is open, or one less."""
    cdef Held held
    hold(&held, <PyObject *>COMMON)
    store(substituting, substituting + <uint64_t>step)
    release(&held)


cpdef object substituted(object made):
    """What stands for a variable here: an entry of a mapping, or the variable."""
    return entry_for(made) if load(substituting) else made


cdef object known_entry(Registry graph, uint32_t node, str name, Request *request):
    """An entry that plainly is what the variable is or will be, or None: look closer.

    Of a dict alone, which runs nobody's code when it is asked.
    """
    cdef PyObject *value = NULL
    cdef Spec spec = None
    cdef uint32_t row, id
    cdef Held held
    PyContextVar_Get(substitutions, NULL, &value)
    if value == NULL:
        return None
    opened = <tuple>value
    Py_XDECREF(value)
    if not opened:
        return None
    mapping, only, _ = <tuple>opened[0]
    if type(mapping) is not dict or (only is not None and only is not graph):
        return None
    hold(&held, <PyObject *>graph)
    try:
        row = graph.find_row(node, name)
        id = graph.requests.find(request) if row == NONE else graph.table.rows[row].spec
        if id != NONE:
            spec = <Spec>graph.specs[id]
            path = graph.path_of(node)
    finally:
        release(&held)
    if spec is None:
        return None
    entry = (<dict>mapping).get(f"{path}/{name}" if path else name)
    if entry is None or getattr(entry, "dtype", None) is not spec.dtype:
        return None
    shape = getattr(entry, "shape", None)
    return entry if isinstance(shape, tuple) and shape == spec.shape else None


# === get_variable ===============================================================================

cdef extern from *:
    """
    /* An exact int as 64 bits: 0 where it has more.  Nearly all are of one digit. */
    static inline int varscope_plain_int(PyObject *number, int64_t *value) {
        int overflow;
    #if PY_VERSION_HEX >= 0x030C0000
        if (PyUnstable_Long_IsCompact((PyLongObject *)number)) {
            *value = PyUnstable_Long_CompactValue((PyLongObject *)number);
            return 1;
        }
    #else
        if (Py_SIZE(number) == 1) {
            *value = ((PyLongObject *)number)->ob_digit[0];
            return 1;
        }
    #endif
        *value = PyLong_AsLongLongAndOverflow(number, &overflow);
        return overflow == 0;
    }
    """
    bint integer "varscope_plain_int"(PyObject *number, int64_t *value) noexcept
    PyObject **items_of "PySequence_Fast_ITEMS"(PyObject *sequence) noexcept


cdef bint dims_of(object shape, Request *request) noexcept:
    """Read a shape of a few plain ints; False leaves the judgement to `shapes`."""
    cdef Py_ssize_t i, n
    cdef PyObject **dims               # borrowed from the shape: no other code runs here
    cdef bint is_list
    if shape is None:
        request.rank = -1
        return True
    if PyLong_CheckExact(shape):
        request.rank = 1
        return integer(<PyObject *>shape, &request.dims[0])
    is_list = PyList_CheckExact(shape)
    if free_threaded and is_list:
        return dims_of_list(<list>shape, request)
    if not is_list and not PyTuple_CheckExact(shape):
        return False
    n = PyList_GET_SIZE(shape) if is_list else PyTuple_GET_SIZE(shape)
    if n > MAX_DIMS:
        return False
    dims = items_of(<PyObject *>shape)
    for i in range(n):
        if not PyLong_CheckExact(<object>dims[i]) or not integer(dims[i], &request.dims[i]):
            return False
    request.rank = <int>n
    return True


cdef bint dims_of_list(list shape, Request *request) noexcept:
    """The same for a list that another thread may be changing."""
    try:
        return dims_of(tuple(shape), request)
    except MemoryError:
        return False


cdef inline bint agrees(Spec spec, object dtype, const Request *request) noexcept:
    """Whether a variable is plainly what was asked for; otherwise `creation` looks closer."""
    return spec.dtype is dtype and (
        request.rank < 0 or (
            request.rank == spec.rank
            and memcmp(request.dims, spec.dims, request.rank * sizeof(int64_t)) == 0))


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


cdef inline bint plain(Defaults defaults, object name, object shape, object partitioner,
                       object custom_getter, Request *request) noexcept:
    """Whether no function of the user has a say; the shape is read into the request then."""
    return (defaults.custom_getter is None and defaults.partitioner is None
            and custom_getter is None and partitioner is None
            and PyUnicode_CheckExact(name) and dims_of(shape, request))


cdef object get_in(Registry graph, uint32_t node, Defaults defaults, int mode, Origin origin,
                   object name, object shape, object dtype, object initializer,
                   object regularizer, object trainable, object collections,
                   object caching_device, object partitioner, object validate_shape,
                   object custom_getter, object constraint):
    """Find or create; what stands for the variable, where something does."""
    cdef Request request
    cdef uint32_t row = NONE
    cdef Held held
    if not load(substituting):
        return get_stored(graph, node, defaults, mode, origin, name, shape, dtype, initializer,
                          regularizer, trainable, collections, caching_device, partitioner,
                          validate_shape, custom_getter, constraint)
    if plain(defaults, name, shape, partitioner, custom_getter, &request):
        fill_request(&request, defaults, dtype, initializer, regularizer, trainable, collections,
                     caching_device, validate_shape, constraint)
        entry = known_entry(graph, node, <str>name, &request)
        if entry is not None:
            hold(&held, <PyObject *>graph)
            try:
                made = get_known(graph, node, mode, <str>name, &request, &row)
            finally:
                release(&held)
            if made is not None:
                return entry
    return all_or_nothing(get_or_withdraw, graph, node, defaults, mode, origin, name, shape, dtype,
                          initializer, regularizer, trainable, collections, caching_device,
                          partitioner, validate_shape, custom_getter, constraint)


def get_or_withdraw(Registry graph, uint32_t node, Defaults defaults, int mode, Origin origin,
                    name, shape, dtype, initializer, regularizer, trainable, collections,
                    caching_device, partitioner, validate_shape, custom_getter, constraint):
    """The same where an entry that does not fit takes back what was created for it."""
    return get_stored(graph, node, defaults, mode, origin, name, shape, dtype, initializer,
                      regularizer, trainable, collections, caching_device, partitioner,
                      validate_shape, custom_getter, constraint)


cdef object get_stored(Registry graph, uint32_t node, Defaults defaults, int mode, Origin origin,
                       object name, object shape, object dtype, object initializer,
                       object regularizer, object trainable, object collections,
                       object caching_device, object partitioner, object validate_shape,
                       object custom_getter, object constraint):
    """Find or create.  What was asked for before is answered here; the rest by `creation`."""
    cdef Request request
    cdef uint32_t row = NONE
    cdef Held held
    cdef bint known = plain(defaults, name, shape, partitioner, custom_getter, &request)
    if known:
        fill_request(&request, defaults, dtype, initializer, regularizer, trainable, collections,
                     caching_device, validate_shape, constraint)
        hold(&held, <PyObject *>graph)
        try:
            made = get_known(graph, node, mode, <str>name, &request, &row)
        finally:
            release(&held)
        if made is not None:
            return substituted(made)
    made = create_or_share(graph, graph.path_of(node), defaults, mode, origin_facts(graph, origin),
                           name, shape, dtype, initializer, regularizer, trainable, collections,
                           caching_device, partitioner, validate_shape, custom_getter, constraint)
    if known and row == NONE and (isinstance(made, Handle) or load(substituting)):
        hold(&held, <PyObject *>graph)
        try:
            remember_request(graph, node, <str>name, &request, collections)
        finally:
            release(&held)
    return made


cdef object get_known(Registry graph, uint32_t node, int mode, str name, Request *request,
                      uint32_t *row):
    """What can be answered without `creation`, or None; `row` becomes the variable's, if any."""
    cdef object dtype = <object>request.parts[0]
    cdef uint32_t spec
    row[0] = graph.find_row(node, name)
    if row[0] != NONE and mode and request.parts[1] == <PyObject *>None and agrees(
            <Spec>graph.specs[graph.table.rows[row[0]].spec],
            (<Defaults>request.defaults).dtype if dtype is None else dtype, request):
        return graph.handle(row[0])
    spec = graph.requests.find(request)
    if spec == NONE:
        return None
    if row[0] == NONE and mode != SHARE:
        return create(graph, node, name, spec)
    if row[0] != NONE and mode and graph.table.rows[row[0]].spec == spec:
        return graph.handle(row[0])
    return None


cdef object create(Registry graph, uint32_t node, str name, uint32_t spec):
    cdef uint32_t id = graph.locate(&node, name)
    return graph.commit(node, id, spec, current_site(graph), NONE)


cdef int remember_request(Registry graph, uint32_t node, str name, Request *request,
                          object collections) except -1:
    """The next request like this one needs no Python.

    Not where the answer may change: an array that somebody can write to, a list of collections.
    """
    cdef uint32_t row
    if not (collections is None or PyTuple_CheckExact(collections)):
        return 0
    try:
        row = graph.find_row(node, name)
        if row != NONE and (<Spec>graph.specs[graph.table.rows[row].spec]).repeatable:
            request.spec = graph.table.rows[row].spec
            graph.requests.put(request)
    except MemoryError:
        pass                               # the variable is there; only the next one is slower
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
    return get_in(top.graph, top.node, top.defaults, top.mode, origin_of(top.scope), name,
                  shape, dtype, initializer, regularizer, trainable, collections, caching_device,
                  partitioner, validate_shape, custom_getter, constraint)


# === The arrows upwards =========================================================================

def register(*, handle, create_or_share_with, dtype_from, default_dtype, attached,
             substituted_with):
    """Tell the core what only the layers above can know; called once, at import."""
    global handle_type, create_or_share, as_dtype, float32, attached_graph, entry_for
    handle_type = handle
    varscope_keep_store(<PyTypeObject *>handle, <PyTypeObject *>Handle, let_go)
    create_or_share = create_or_share_with
    as_dtype, float32 = dtype_from, default_dtype
    PLAIN.dtype = default_dtype
    attached_graph, entry_for = attached, substituted_with


def notebook_html(thing):
    """What a notebook shows of a graph, a scope or a variable.

    That is made at the top of the library, of a summary, and loaded only when it is asked for.
    """
    from varscope import notebooks
    return notebooks.html_of(thing)


# === The front doors ============================================================================

cdef extern from *:
    """
    /* The front doors.  A call with one or two positional arguments, or one and `reuse=` or
       `shape=`, the most frequent ones by far, is answered before twelve are unpacked: unpacking
       takes longer than the look-up.  Everything else goes to the function that Cython made. */
    typedef PyObject *(*varscope_quick)(PyObject *, PyObject *);
    typedef struct {
        varscope_quick quick;
        varscope_quick with_keyword;
        PyObject *keyword;                         /* interned, as those in a call are */
        PyObject *full;
        PyMethodDef method;
    } varscope_door;
    static varscope_door varscope_doors[2];

    static PyObject *varscope_enter(varscope_door *door, PyObject *const *args,
                                    Py_ssize_t nargs, PyObject *kwnames) {
        if ((nargs == 1 || nargs == 2) && kwnames == NULL) {
            PyObject *found = door->quick(args[0], nargs == 2 ? args[1] : NULL);
            if (found != NULL || PyErr_Occurred()) return found;
        } else if (nargs == 1 && kwnames != NULL && PyTuple_GET_SIZE(kwnames) == 1
                   && PyTuple_GET_ITEM(kwnames, 0) == door->keyword) {
            PyObject *found = door->with_keyword(args[0], args[1]);
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
    static PyObject *varscope_make_door(int which, varscope_quick quick,
                                        varscope_quick with_keyword, const char *keyword,
                                        PyObject *full, const char *name, const char *doc,
                                        PyObject *module) {
        varscope_door *door = &varscope_doors[which];
        door->quick = quick;
        door->with_keyword = with_keyword;
        door->keyword = PyUnicode_InternFromString(keyword);
        if (door->keyword == NULL) return NULL;
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
    object varscope_make_door(int which, varscope_quick quick, varscope_quick with_keyword,
                              const char *keyword, object full, const char *name,
                              const char *doc, object module)


cdef PyObject *quick_get(PyObject *name, PyObject *shape) except? NULL:
    """`get_variable(name)` or `get_variable(name, shape)` as a new reference.

    NULL without an exception leaves it to the full function.
    """
    cdef PyThreadState *thread
    cdef Request request
    if load(substituting):
        return NULL
    if free_threaded:
        return quick_get_held(name, shape)
    thread = PyThreadState_Get()
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
    return quick_in(<Frame>frame, name, &request)


cdef PyObject *quick_get_held(PyObject *name, PyObject *shape) except? NULL:
    cdef Stack stack = current_stack()
    cdef Frame frame = stack.top
    cdef Request request
    cdef Held held
    if frame is None or not frame.quick or not PyUnicode_CheckExact(<object>name):
        return NULL
    request.rank = -1
    if shape != NULL and not dims_of(<object>shape, &request):
        return NULL
    hold(&held, <PyObject *>frame.graph)
    try:
        return quick_in(frame, name, &request)
    finally:
        release(&held)


cdef inline PyObject *quick_in(Frame frame, PyObject *name, Request *request) except? NULL:
    cdef PyObject *handle
    cdef Row *row
    cdef uint32_t id, number
    id = frame.graph.names.find(name)
    if id == NONE:
        return NULL
    number = frame.graph.table.find(frame.node, id)
    if number == NONE:
        return quick_create(frame, id, request)
    row = &frame.graph.table.rows[number]
    if frame.mode == 0 or not agrees(
            <Spec>frame.graph.specs[row.spec], frame.defaults.dtype,
            request):
        return NULL
    handle = row.handle
    if handle != NULL and try_own(handle):
        return handle
    made = frame.graph.handle(number)
    Py_INCREF(made)
    return <PyObject *>made


cdef PyObject *quick_create(Frame frame, uint32_t name, Request *request) except? NULL:
    """A new variable, where the like of it was asked for before."""
    cdef uint32_t added = frame.graph.table.count + frame.graph.table.removed, spec
    if frame.mode == SHARE or (
            frame.node == ROOT and not frame.graph.names.names[name].starts_path):
        return NULL
    fill_request(request, frame.defaults, None, None, None, True, None, None, True, None)
    spec = frame.graph.requests.find(request)
    if spec == NONE:
        return NULL
    graph = frame.graph
    made = graph.commit(frame.node, name, spec, current_site(graph), added)
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


cdef PyObject *quick_entry_reusing(PyObject *scope, PyObject *reuse) except? NULL:
    """`variable_scope(scope, reuse=reuse)`, likewise."""
    cdef ScopeEntry entry
    if not (PyUnicode_CheckExact(<object>scope) or type(<object>scope) is VariableScope):
        return NULL
    if not (<object>reuse is None or <object>reuse is True or <object>reuse is AUTO_REUSE):
        return NULL
    entry = ScopeEntry.__new__(ScopeEntry)
    entry.name_or_scope = <object>scope
    entry.named = True
    entry.mode = mode_of(<object>reuse)
    entry.plain = entry.mode == 0 and PyUnicode_CheckExact(<object>scope)
    Py_INCREF(entry)
    return <PyObject *>entry


cdef object door(int which, varscope_quick quick, varscope_quick with_keyword, bytes keyword,
                 object full):
    """The full function, with a quick answer before it; name, signature and text are its own."""
    cdef bytes name = full.__name__.encode()
    cdef bytes doc = f"{full.__name__}{full.__text_signature__}\n--\n\n{full.__doc__}".encode()
    kept_alive.extend((name, doc))
    return varscope_make_door(which, quick, with_keyword, keyword, full, name, doc,
                              "varscope._scopecore")

cdef list kept_alive = []
get_variable = door(0, quick_get, quick_get, b"shape", get_variable)
variable_scope = door(1, quick_entry, quick_entry_reusing, b"reuse", variable_scope)
find_variables()
