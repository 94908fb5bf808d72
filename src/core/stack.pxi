# Defaults, frames and the stack of a thread or task, with where it is kept.

# === Defaults ===================================================================================

cdef object float32 = None                  # numpy.dtype("float32"), set by register
cdef object as_dtype = None                 # shapes.as_dtype, likewise


@cython.final
cdef class ComposedGetter:
    """Two custom getters as one: the inner runs first, and its `getter` is the outer one."""
    cdef readonly object inner, outer

    def __init__(self, inner, outer):
        self.inner, self.outer = inner, outer

    def __dealloc__(self):
        # In a loop, as frames are.
        outer, self.outer = self.outer, None
        while type(outer) is ComposedGetter and is_sole(<PyObject *>outer):
            further = (<ComposedGetter>outer).outer
            (<ComposedGetter>outer).outer = None
            outer = further
            further = None

    def __call__(self, getter, *args, **kwargs):
        return self.inner(BoundGetter(self.outer, getter), *args, **kwargs)

    def __repr__(self):
        return f"{self.inner!r} inside {self.outer!r}"

    def __reduce__(self):
        return ComposedGetter, (self.inner, self.outer)


@cython.final
cdef class BoundGetter:
    cdef readonly object custom, getter

    def __init__(self, custom, getter):
        self.custom, self.getter = custom, getter

    def __call__(self, *args, **kwargs):
        # Another getter may swallow what this one raises; what it created goes all the same.
        return all_or_nothing(self.custom, self.getter, *args, **kwargs)


@cython.final
cdef class Defaults:
    """What `get_variable` uses where its caller gives nothing.  Immutable, and merged only here."""

    cdef Defaults replaced(self, int field, object value):
        cdef Defaults new = Defaults.__new__(Defaults)
        cdef list values = [self.initializer, self.regularizer, self.caching_device,
                            self.partitioner, self.custom_getter, self.dtype, self.constraint]
        values[field] = value
        (new.initializer, new.regularizer, new.caching_device, new.partitioner,
         new.custom_getter, new.dtype, new.constraint) = values
        return new

    cdef Defaults derive(self, tuple overrides, Registry graph):
        """These with what is not None in `overrides` in its place.

        Equal requests give the identical object: a program that opens `dtype="bfloat16"` in
        every layer derives once, and the requests inside hit their cache.
        """
        cdef Defaults new = self
        cdef dict derived
        cdef size_t ids[7]
        cdef int field
        cdef Held held
        # Those of PLAIN lie in the graph: what they hold may hold it, and must die with it.
        if self is PLAIN:
            derived = graph.derived
        else:
            hold(&held, <PyObject *>COMMON)
            try:
                if self.derived is None:
                    self.derived = {}
                derived = self.derived
            finally:
                release(&held)
        for field in range(7):
            ids[field] = <size_t><PyObject *>overrides[field]
        key = (<const char *>ids)[:sizeof(ids)]
        found = derived.get(key)
        if found is not None:
            return found[0]
        for field in range(7):
            value = overrides[field]
            if value is not None:
                new = new.replaced(field, self.checked(field, value))
        if len(derived) >= 64:
            derived.clear()
        # Kept with the objects, and so their ids.  Another thread may have been quicker.
        return derived.setdefault(key, (new, overrides))[0]

    cdef object checked(self, int field, object value):
        if field == 5:
            return as_dtype(value)
        if field == 4:
            check_getter(value)
            if self.custom_getter is not None:
                return ComposedGetter(value, self.custom_getter)
        return value


cdef int check_getter(object value) except -1:
    if not callable(value):
        raise errors.NotCallableError.custom_getter(value)
    return 0


cdef Defaults PLAIN = Defaults.__new__(Defaults)


# === The stack of a thread or task ==============================================================

cdef enum:
    SHARE = 1                  # reuse=True
    AUTO = 2

cdef enum:
    OPENED = 0                 # a variable scope that prolongs the path
    JUMPED = 1                 # a captured variable scope
    NAMING = 2                 # a name scope: the variable scope goes on
    BOTTOM = 3                 # the root, once somebody has asked for its scope


@cython.final
@cython.freelist(128)
cdef class Frame:
    """One open scope.  Immutable: to change one is to build the frames above it anew."""

    def __dealloc__(self):
        # A chain of a million frames is let go of in a loop: each would otherwise drop the next
        # inside its own deallocation and overflow the C stack.
        # `look` goes first: what it points to is further down the same chain.
        cdef Frame frame = self.below, below
        self.below = self.look = None
        while frame is not None and is_sole(<PyObject *>frame):
            below = frame.below
            frame.below = frame.look = None
            frame = below
            below = None

    cdef Frame copied(self, Frame below):
        cdef Frame new = Frame.__new__(Frame)
        new.graph, new.below, new.entry, new.scope = self.graph, below, self.entry, self.scope
        new.defaults, new.node, new.mode, new.kind = (
            self.defaults, self.node, self.mode, self.kind)
        new.name_scope = self.name_scope
        new.marks_below, new.length_below = self.marks_below, self.length_below
        new.looks_below, new.look = self.looks_below, self.look
        new.settle()
        return new

    cdef inline int settle(self) except -1:
        """Whether what is asked for here can be answered without asking getters."""
        self.quick = (self.kind != BOTTOM and self.defaults.custom_getter is None
                      and self.defaults.partitioner is None)
        return 0


@cython.final
cdef class GraphSwitch:
    """The state of the graph that `as_default` put aside; a linked stack of its own."""
    cdef GraphSwitch below
    cdef object entry
    cdef Registry graph                # None: the default graph
    cdef uint64_t serial
    cdef Frame top, inside             # of the graph put aside; of the new one at its entry
    cdef Marks marks
    cdef uint32_t length

    def __dealloc__(self):
        # In a loop, as frames are.
        cdef GraphSwitch switch = self.below, below
        self.below = None
        while switch is not None and is_sole(<PyObject *>switch):
            below = switch.below
            switch.below = None
            switch = below
            below = None


@cython.final
cdef class RootState:
    """What a thread set on the root of a graph that is not current; does not keep the graph."""
    cdef object graph                  # weak reference
    cdef Defaults defaults
    cdef int mode
    cdef Origin reuse_origin
    cdef Marks marks
    cdef uint32_t length


@cython.final
cdef class Stack:
    """What the context variable holds: changed only while nobody else can have seen it."""


cdef object stack_variable = PyContextVar_New("varscope_stack", NULL)
cdef Stack PRISTINE = Stack.__new__(Stack)  # of a thread or task that has opened nothing yet
PRISTINE.others = ()
cdef Registry default_graph = None          # held as COMMON
cdef uint64_t default_serial = 0

# The stack that was read last, of which thread and in which context.  The context is owned, so
# that no other one can have its address; the thread is told by a number that is never used again.
cdef uint64_t recent_thread = 0
cdef object recent_context = None
cdef PyObject *recent_context_address = NULL
cdef Stack recent_stack = PRISTINE


cdef inline Stack current_stack():
    cdef PyThreadState *thread = PyThreadState_Get()
    if not free_threaded and (
            thread.id == recent_thread and thread.context == recent_context_address):
        return recent_stack
    return read_stack(thread)


# A garbage collection may close generators, and so leave the scopes that they are suspended in.
# Until CPython 3.12 any allocation could start one: not between reading the stack and replacing it.

cdef inline bint hold_collector() noexcept:
    return collects_anywhere and PyGC_Disable()


cdef inline void release_collector(bint was_enabled) noexcept:
    if was_enabled:
        PyGC_Enable()


cdef Stack read_stack(PyThreadState *thread):
    cdef PyObject *value
    cdef Stack stack
    while True:
        value = NULL
        stack = PRISTINE
        PyContextVar_Get(stack_variable, NULL, &value)
        if value != NULL:
            stack = <Stack>value
            Py_XDECREF(value)
            if stack.thread != thread.id:
                stack = PRISTINE       # the context was copied into a thread: it starts anew
        remember(thread, stack)
        if free_threaded:
            return pinned(stack)
        if recent_stack is stack:      # otherwise what was let go of has closed a scope
            return stack


cdef Stack pinned(Stack stack):
    """A stack that knows which graph is meant, where another thread may replace the default one."""
    cdef Stack new
    if stack.graph is not None or (stack.top is not None and stack.top.kind != BOTTOM):
        return stack
    new = Stack.__new__(Stack)
    new.pinned = the_default_graph()
    if stack.serial == new.pinned.serial:
        new.top, new.marks, new.length = stack.top, stack.marks, stack.length
    new.serial, new.switches, new.others = new.pinned.serial, stack.switches, stack.others
    new.thread, new.context = stack.thread, stack.context
    return new


cdef int remember(PyThreadState *thread, Stack stack) except -1:
    global recent_thread, recent_context, recent_context_address, recent_stack
    if free_threaded:
        return 0                       # one place for all threads would be in each other's way
    # Letting go of the old ones may run other code, which may come here: last of all, then.
    old_context, old_stack = recent_context, recent_stack
    recent_context = <object>thread.context if thread.context != NULL else None
    recent_stack = stack
    recent_context_address = thread.context
    recent_thread = thread.id
    return 0


cdef inline int put_stack(Stack old, Frame top, Marks marks, uint32_t length) except -1:
    """The same graph with another innermost scope; `old` is the current stack."""
    cdef Stack new
    cdef bint collecting
    if in_place(old):
        old.top, old.marks, old.length = top, marks, length
        return 0
    collecting = hold_collector()
    try:
        new = Stack.__new__(Stack)
        new.graph, new.switches, new.others = old.graph, old.switches, old.others
        new.top, new.marks, new.length = top, marks, length
        new.serial = graph_of(old).serial
        return publish(new)
    finally:
        release_collector(collecting)


# Leaving a scope where the context was copied inside, and taking back what was created, take a
# little memory.  Both have to be done just where there is none left, so some is kept for them.

cdef void *reserve = PyMem_RawMalloc(1 << 16)


cdef void spend_reserve() noexcept:
    """Give the allocator what is kept: as much as anything that is tried again can need."""
    global reserve
    cdef void *block
    cdef Held held
    hold(&held, <PyObject *>COMMON)
    block, reserve = reserve, NULL
    release(&held)
    PyMem_RawFree(block)


cdef void fill_reserve() noexcept:
    global reserve
    cdef void *block = PyMem_RawMalloc(1 << 16)
    cdef Held held
    hold(&held, <PyObject *>COMMON)
    if reserve == NULL:
        block, reserve = reserve, block
    release(&held)
    PyMem_RawFree(block)


# For calling what may raise without a `try`, which takes time: -1 tells that an exception is set.
ctypedef int (*PuttingQuietly)(Stack, Frame, Marks, uint32_t) noexcept
ctypedef int (*LeavingQuietly)(object) noexcept


cdef int publish(Stack new) except -1:
    """Put a stack that nobody else has seen into the context variable."""
    cdef PyThreadState *thread = PyThreadState_Get()
    cdef bint collecting = hold_collector()
    new.thread = thread.id
    try:
        PyContextVar_Set(stack_variable, new)
    finally:
        release_collector(collecting)
    new.context, new.variables, new.standing = thread.context, NULL, 0
    if variables_offset:
        new.variables = variables_of(thread.context)
    return remember(thread, new)


# --- changing a stack in place
#
# Setting a context variable takes as long as all the rest of opening a scope.  It has to be done
# because a context may be copied at any time, by a new task say, and the copy must keep the stack
# that was current then.  While no copy exists, the stack can just as well be changed in place.
#
# A context holds its variables in a persistent map, and a copy shares the map: the reference
# count of the map tells.  A copy that has set another variable since has a map of its own, of
# which other parts may be shared; but where the stack lies in the root of the map, and setting a
# variable always makes a new root, that one owns a reference to the stack, which tells as well.
# That the stack lies in the root is tried out, once for each map (`try_out`), and a weak reference
# remembers which: another map may come to lie at the address of one that is gone.  What all this
# takes for granted of CPython is tried out at import (`find_variables`); where it does not hold,
# and on free-threaded builds, where reference counts say less, every change is a new stack.

cdef enum:
    UNTRIED = 0
    MUST_SET = 1
    IN_PLACE = 2

cdef size_t variables_offset = 0           # of the map in a context object; 0: leave it alone
cdef object witness = None                 # a context variable that is only set to try out


cdef inline PyObject *variables_of(PyObject *context) noexcept:
    return (<PyObject **>(<char *>context + variables_offset))[0]


cdef inline PyObject *referent(object reference) noexcept:
    return (<PyWeakReference *><PyObject *>reference).wr_object


cdef inline bint in_place(Stack stack) except -1:
    """Whether nobody but this context can see the stack.

    Three references are known: the context's, the one of `recent_stack`, and the caller's.
    """
    cdef PyObject *context
    if stack.standing == MUST_SET or stack.variables == NULL:
        return False
    context = PyThreadState_Get().context
    if stack.context != context or stack.variables != variables_of(context):
        return False                       # inherited, or another variable was set since
    if (Py_REFCNT(stack.variables) != 1 or recent_stack is not stack
            or Py_REFCNT(<PyObject *>stack) != 3):
        return False
    # Another map may have come to lie where the one that was tried out lay.
    if stack.standing == IN_PLACE and stack.tried is not None:
        return referent(stack.tried) == stack.variables
    return try_out(stack)


cdef bint try_out(Stack stack) except -1:
    """Set another variable in a copy of the context: does its map own the stack once more?"""
    cdef Py_ssize_t before = Py_REFCNT(<PyObject *>stack)
    cdef bint collecting = hold_collector()
    try:
        stack.tried = PyWeakref_NewRef(<object>stack.variables, NULL)
        context = PyContext_CopyCurrent()
        PyContext_Enter(context)
        try:
            PyContextVar_Set(witness, None)
            stack.standing = (
                IN_PLACE if Py_REFCNT(<PyObject *>stack) == before + 1 else MUST_SET)
        finally:
            PyContext_Exit(context)
    finally:
        release_collector(collecting)
    return stack.standing == IN_PLACE


def find_variables():
    """Find where a context keeps its map, and see that copies share it; returns success."""
    global variables_offset, witness
    cdef size_t offset, size
    cdef PyObject *held
    if free_threaded:
        return False
    # The witness must not share the stack's place in the root: the places go by five bits of it.
    while witness is None or place_in_root(witness) == place_in_root(stack_variable):
        witness = PyContextVar_New("varscope_witness", NULL)
    context = contextvars.Context()
    context.run(witness.set, None)
    size = type(context).__basicsize__
    maps = list(filter(lambda held_map: type(held_map).__name__ == "hamt",
                       gc.get_referents(context)))
    if len(maps) != 1:
        return False
    offset = sizeof(PyObject)
    while offset + sizeof(PyObject *) <= size:
        held = (<PyObject **>(<char *><PyObject *>context + offset))[0]
        if held == <PyObject *>maps[0] and copies_share(context, offset):
            variables_offset = offset
            return True
        offset += sizeof(PyObject *)
    return False


cdef bint copies_share(object context, size_t offset) except -1:
    cdef PyObject *held = (<PyObject **>(<char *><PyObject *>context + offset))[0]
    cdef Py_ssize_t before = Py_REFCNT(held)
    copy = context.copy()
    if ((<PyObject **>(<char *><PyObject *>copy + offset))[0] != held
            or Py_REFCNT(held) != before + 1):
        return False
    copy.run(witness.set, 1)
    return ((<PyObject **>(<char *><PyObject *>copy + offset))[0] != held
            and Py_REFCNT(held) == before)


cdef uint32_t place_in_root(object variable) except? NONE:
    cdef uint64_t hash = <uint64_t>PyObject_Hash(variable)
    return (<uint32_t>hash ^ <uint32_t>(hash >> 32)) & 31


cdef inline Registry graph_of(Stack stack):
    if free_threaded and stack.pinned is not None:
        return stack.pinned
    if stack.top is not None and not stale(stack):
        return stack.top.graph
    return the_default_graph() if stack.graph is None else stack.graph


cdef inline Registry the_default_graph():
    cdef Held held
    cdef Registry graph
    if not free_threaded:
        return default_graph
    hold(&held, <PyObject *>COMMON)
    graph = default_graph
    release(&held)
    return graph


cdef inline bint stale(Stack stack) noexcept:
    """Whether what the stack says of the default graph is about one that was reset since."""
    if free_threaded and stack.pinned is not None:
        return False
    return stack.graph is None and stack.serial != load(default_serial) and (
        stack.top is None or stack.top.kind == BOTTOM)


cdef inline Frame top_of(Stack stack):
    return None if stale(stack) else stack.top


cdef inline Marks marks_of(Stack stack):
    return None if stale(stack) else stack.marks


cdef NameScopeRef ROOT_NAME_SCOPE
ROOT_NAME_SCOPE.node, ROOT_NAME_SCOPE.index = ROOT, 0
ROOT_NAME_SCOPE.base, ROOT_NAME_SCOPE.suffix = NONE, 0


cdef NameScopeRef name_scope_of(Registry graph) except *:
    """The current name scope of a graph: where it is not current, that of where it was left."""
    cdef Stack stack = current_stack()
    cdef GraphSwitch switch = stack.switches
    cdef Frame top = top_of(stack)
    if graph_of(stack) is not graph:
        top = None
        while switch is not None:
            if switch.top is not None and switch.top.graph is graph:
                top = switch.top
                break
            switch = switch.below
    return ROOT_NAME_SCOPE if top is None else top.name_scope


# --- marks: what was opened below the current scope

cdef bint is_marked(Stack stack, Registry graph, uint32_t node) noexcept:
    """Whether the scope was opened here and not forgotten since."""
    cdef int verdict = judged(marks_of(stack), stack.length, graph, node)
    cdef Frame frame = top_of(stack)
    cdef bint all_frames = False
    while verdict < 0 and frame is not None:
        if frame.looks_below or all_frames:
            verdict = judged(frame.marks_below, frame.length_below, graph, node)
        # Below a jump lies another path, of which nothing was left out on the way up.
        all_frames = all_frames or frame.kind == JUMPED
        frame = frame.below if all_frames else frame.look
    return verdict > 0


cdef int judged(Marks marks, uint32_t length, Registry graph, uint32_t node) noexcept:
    """1 marked, 0 forgotten, -1 not mentioned in this log."""
    cdef uint32_t marked, forgotten, ancestor
    if marks is None or length == 0:
        return -1
    marked = marks.newest(node, False, length)
    if marks.has_forgets:
        ancestor = node
        while ancestor != ROOT:
            ancestor = graph.tree.nodes[ancestor].parent
            forgotten = marks.newest(ancestor, True, length)
            if forgotten != NONE and (marked == NONE or forgotten > marked):
                return 0
    return -1 if marked == NONE else 1


cdef Marks own_marks(Marks marks, uint32_t length):
    """A log that may be appended to: the newest version, or a copy of an older one."""
    cdef bint collecting
    if marks is not None and marks.count == length and marks.count <= 4 * marks.distinct + 32:
        return marks
    collecting = hold_collector()
    try:
        # Somebody else went on from here, and it is left to them; or most events are superseded.
        return Marks() if marks is None else marks.copied(length)
    finally:
        release_collector(collecting)
