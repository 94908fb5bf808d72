# VariableScope; opening scopes and leaving them, in order or not.

# === Variable scopes ============================================================================

@cython.final
cdef class AutoReuse:
    """The type of `AUTO_REUSE`: create what is missing, return what is there."""

    def __repr__(self):
        return "AUTO_REUSE"

    def __reduce__(self):
        return "AUTO_REUSE"

AUTO_REUSE = AutoReuse()


cdef int mode_of(object reuse) except -1:
    """SHARE, AUTO, or 0 for None: what is passed as `reuse`."""
    if reuse is None:
        return 0
    if reuse is True:
        return SHARE
    if reuse is AUTO_REUSE:
        return AUTO
    raise errors.ReuseError.unusable(reuse)


@cython.final
@cython.nonecheck(True)                # __new__ alone makes one without a graph
@cython.freelist(128)
cdef class VariableScope:
    """A path and the defaults that `get_variable` uses below it.

    Made by opening a scope: `with vs.variable_scope("foo") as scope`.  May be kept, opened again
    later from anywhere, compared (same graph and path) and pickled.  What is set on it holds for
    this object: while it is open, and whenever this object is opened again.

    >>> import varscope as vs
    >>> with vs.variable_scope("encoder", dtype="float16") as scope:
    ...     pass
    >>> scope.name, scope.dtype, scope.reuse
    ('encoder', dtype('float16'), False)
    """

    def __init__(self, *args, **kwargs):
        raise errors.ArgumentTypeError(
            "a VariableScope is made by opening one; write "
            "'with varscope.variable_scope(name) as scope:'")

    @property
    def name(self):
        """The path, '' for the root."""
        return self.graph.path_of(self.node)

    @property
    def original_name_scope(self):
        """The name scope of the first opening, with a trailing slash; '' at the root."""
        path = self.graph.name_scope_path_of(self.opened_as)
        return path + "/" if path else ""

    @property
    def reuse(self):
        """False, True or AUTO_REUSE."""
        return (False, True, AUTO_REUSE)[number_in(self.mode)]

    @property
    def initializer(self):
        """What makes the first values of variables in this scope; None means by their dtype."""
        return settings_of(self).initializer

    @property
    def regularizer(self):
        """The default regularizer of variables in this scope, or None."""
        return settings_of(self).regularizer

    @property
    def caching_device(self):
        """The default caching device of variables in this scope, or None."""
        return settings_of(self).caching_device

    @property
    def partitioner(self):
        """What cuts variables in this scope into parts, or None."""
        return settings_of(self).partitioner

    @property
    def custom_getter(self):
        """What stands between `get_variable` and the graph in this scope, or None."""
        return settings_of(self).custom_getter

    @property
    def dtype(self):
        """The default dtype, a `numpy.dtype`."""
        return settings_of(self).dtype

    @property
    def constraint(self):
        """The default constraint of variables in this scope, or None."""
        return settings_of(self).constraint

    def reuse_variables(self):
        """Return existing variables from here on; there is no way back in this scope."""
        cdef Held held
        cdef Origin old = origin_of(self), origin
        cdef int mode = number_in(self.mode)
        hold(&held, <PyObject *>self.graph)
        try:
            origin = origin_here(self.graph, self.node)
        finally:
            release(&held)
        hold(&held, <PyObject *>self)
        self.reuse_origin = origin
        release(&held)
        set_number(self.mode, SHARE)
        try:
            scope_changed(self)
        except BaseException:
            set_number(self.mode, mode)
            hold(&held, <PyObject *>self)
            self.reuse_origin = old            # `origin` keeps the new one for now
            release(&held)
            raise

    def set_initializer(self, initializer):
        """Use this initializer from here on; None goes back to the one of the dtype."""
        self.set_default(0, initializer)

    def set_regularizer(self, regularizer):
        """Use this regularizer from here on; None means none."""
        self.set_default(1, regularizer)

    def set_caching_device(self, caching_device):
        """Use this caching device, or function of a variable, from here on; None means none."""
        self.set_default(2, caching_device)

    def set_partitioner(self, partitioner):
        """Let this partitioner cut variables from here on; None means none."""
        self.set_default(3, partitioner)

    def set_custom_getter(self, custom_getter):
        """Use this custom getter alone from here on; None means none."""
        if custom_getter is not None:
            check_getter(custom_getter)
        self.set_default(4, custom_getter)

    def set_dtype(self, dtype):
        """Use this dtype from here on; None goes back to float32."""
        self.set_default(5, float32 if dtype is None else as_dtype(dtype))

    def set_constraint(self, constraint):
        """Use this constraint from here on; None means none."""
        self.set_default(6, constraint)

    cdef int set_default(self, int field, object value) except -1:
        cdef Held held
        cdef Defaults old, new                 # let go of when the scope is not held
        hold(&held, <PyObject *>self)
        try:
            old = self.defaults
            new = old.replaced(field, value)
            self.defaults = new
        finally:
            release(&held)
        try:
            scope_changed(self)
        except BaseException:
            hold(&held, <PyObject *>self)
            if self.defaults is new:
                self.defaults = old
            release(&held)
            raise
        return 0

    def get_variable(self, name, shape=None, dtype=None, initializer=None, regularizer=None,
                     trainable=True, collections=None, caching_device=None, partitioner=None,
                     validate_shape=True, custom_getter=None, *, constraint=None):
        """`varscope.get_variable` in this scope, whether it is open or not."""
        return get_in(self.graph, self.node, settings_of(self), number_in(self.mode),
                      origin_of(self),
                      name, shape, dtype, initializer, regularizer, trainable, collections,
                      caching_device, partitioner, validate_shape, custom_getter, constraint)

    def get_collection(self, key):
        """The entries of a collection that belong to this scope, as a list."""
        return self.graph.get_collection(key, self.name)

    def global_variables(self):
        """The global variables below this scope, in the order of creation."""
        return self.graph.global_variables(self.name)

    def trainable_variables(self):
        """The trainable variables below this scope, in the order of creation."""
        return self.graph.trainable_variables(self.name)

    def local_variables(self):
        """The local variables below this scope, in the order of creation."""
        return self.graph.local_variables(self.name)

    def __eq__(self, other):
        if not isinstance(other, VariableScope):
            return NotImplemented
        return (self.graph is (<VariableScope>other).graph
                and self.node == (<VariableScope>other).node)

    def __hash__(self):
        return hash((id(self.graph), self.node))

    def _repr_html_(self):
        return notebook_html(self)

    def __repr__(self):
        return f"<VariableScope {self.name!r} reuse={self.reuse!r} dtype={self.dtype}>"

    def __reduce__(self):
        d = settings_of(self)
        return restored_scope, (self.name, self.original_name_scope, self.reuse,
                                d.initializer, d.regularizer, d.caching_device, d.partitioner,
                                d.custom_getter, d.dtype, d.constraint)

    def __copy__(self):
        return copied_scope(self, self.graph)

    def __deepcopy__(self, memo):
        return copied_scope(self, memo.get(id(self.graph), self.graph))


cdef inline Defaults settings_of(VariableScope scope):
    """What is set on a scope, which another thread may be setting."""
    cdef Held held
    cdef Defaults settings
    if not free_threaded:
        return scope.defaults
    hold(&held, <PyObject *>scope)
    settings = scope.defaults
    release(&held)
    return settings


cdef inline Origin origin_of(VariableScope scope):
    cdef Held held
    cdef Origin origin
    if not free_threaded:
        return scope.reuse_origin
    hold(&held, <PyObject *>scope)
    origin = scope.reuse_origin
    release(&held)
    return origin


cdef VariableScope copied_scope(VariableScope scope, Registry graph):
    cdef VariableScope new = VariableScope.__new__(VariableScope)
    cdef Held held
    new.graph, new.defaults, new.mode = graph, settings_of(scope), number_in(scope.mode)
    name = scope.name
    hold(&held, <PyObject *>graph)
    try:
        new.reuse_origin = origin_in(graph, scope.graph, origin_of(scope))
        new.node, new.opened_as = scope.node, opened_in(graph, scope)
        if graph is not scope.graph:
            new.node = graph.open_path(ROOT, name) if scope.node != ROOT else ROOT
    finally:
        release(&held)
    return new


cdef NameScopeRef path_ref(Registry graph, str path) except *:
    cdef NameScopeRef scope = ROOT_NAME_SCOPE
    if path:
        graph.locate_op(&scope, path)
        graph.settle(&scope)
    return scope


def restored_scope(name, original_name_scope, reuse, *defaults):
    """A pickled scope, in the graph that is current where it is unpickled."""
    cdef VariableScope scope = VariableScope.__new__(VariableScope)
    cdef Defaults restored = PLAIN
    cdef Held held
    cdef int field
    for field in range(7):
        if defaults[field] is not None:
            restored = restored.replaced(field, defaults[field])
    scope.graph = graph_of(current_stack())
    scope.defaults = restored
    scope.mode = 0 if reuse is False else mode_of(reuse)
    hold(&held, <PyObject *>scope.graph)
    try:
        scope.node = scope.graph.open_path(ROOT, name) if name else ROOT
        scope.opened_as = path_ref(scope.graph, original_name_scope.rstrip("/"))
    finally:
        release(&held)
    return scope


cdef int scope_changed(VariableScope scope) except -1:
    cdef bint collecting = hold_collector()
    try:
        rebuild(scope)
    finally:
        release_collector(collecting)
    return 0


cdef int rebuild(VariableScope scope) except -1:
    """Carry what was set on an open scope into the stack of this thread or task.

    Frames are immutable, so those from the scope up are built anew; a task that was started
    meanwhile keeps the old ones.
    """
    cdef Stack stack = current_stack()
    cdef Frame frame = top_of(stack), new
    cdef list above = []
    cdef Py_ssize_t lowest = -1
    while frame is not None:
        if frame.scope is scope:
            lowest = len(above)
        above.append(frame)
        frame = frame.below
    if lowest < 0:
        return 0
    new = (<Frame>above[lowest]).below
    for frame in reversed(above[:lowest + 1]):
        new = frame.copied(new)
        if new.scope is scope:
            new.defaults, new.mode = settings_of(scope), number_in(scope.mode)
            new.settle()
    return put_stack(stack, new, stack.marks, stack.length)


cdef VariableScope scope_at(Registry graph, uint32_t node, Defaults defaults, int mode,
                            Origin origin, NameScopeRef opened_as):
    cdef VariableScope scope = VariableScope.__new__(VariableScope)
    scope.graph, scope.node, scope.defaults, scope.mode = graph, node, defaults, mode
    scope.reuse_origin, scope.opened_as = origin, opened_as
    return scope


def get_variable_scope():
    """The current scope of the current graph; with none open, the graph's root.

    What is set on the root stays for this thread.

    >>> import varscope as vs
    >>> with vs.variable_scope("decoder"):
    ...     vs.get_variable_scope().name
    'decoder'
    """
    cdef bint collecting = hold_collector()
    try:
        return current_scope()
    finally:
        release_collector(collecting)


cdef VariableScope current_scope():
    cdef Stack stack = current_stack()
    cdef Frame frame = top_of(stack)
    if frame is None:
        frame = bottom_frame(graph_of(stack), PLAIN, 0, None)
        put_stack(stack, frame, marks_of(stack), stack.length)
    elif stack.context != PyThreadState_Get().context or differs(frame):
        # This task inherited the scope object.  What it sets must not reach the task that
        # opened it, nor the other way round: it goes on with an object of its own.
        frame = frame.copied(frame.below)
        frame.scope = scope_at(frame.graph, frame.node, frame.defaults, frame.mode,
                               origin_of(frame.scope), frame.scope.opened_as)
        put_stack(stack, frame, stack.marks, stack.length)
    return frame.scope


cdef Frame bottom_frame(Registry graph, Defaults defaults, int mode, Origin origin):
    cdef Frame frame = Frame.__new__(Frame)
    frame.graph, frame.kind, frame.defaults, frame.mode = graph, BOTTOM, defaults, mode
    frame.name_scope = ROOT_NAME_SCOPE
    frame.scope = scope_at(graph, ROOT, defaults, mode, origin, frame.name_scope)
    return frame


cdef inline bint differs(Frame frame) noexcept:
    return frame.scope.defaults is not frame.defaults or number_in(frame.scope.mode) != frame.mode


# --- opening and closing

cdef class GraphEntry                  # in graphs.pxi


@cython.final
@cython.freelist(64)
cdef class ScopeEntry:
    """The context manager that `variable_scope` returns; can be entered again, also while open."""
    cdef object name_or_scope          # exact str or VariableScope; None: default_name
    cdef str default_name
    cdef tuple overrides               # in the order of Defaults; None where nothing was passed
    cdef int mode                      # what was passed as reuse
    cdef bint named                    # opens a name scope
    cdef bint plain                    # nothing but a name was given
    cdef GraphEntry switch             # to the graph of `values`

    def __enter__(self):
        cdef bint collecting
        if self.plain and (not collects_anywhere or graph_of(current_stack()).names.find(
                <PyObject *>self.name_or_scope) != NONE):
            return entered(self)           # makes nothing that could start a collection
        if self.switch is not None:
            self.switch.__enter__()
        collecting = hold_collector()
        try:
            return entered(self)
        except BaseException:
            if self.switch is not None:
                leave_graph(self.switch)
            raise
        finally:
            release_collector(collecting)

    def __exit__(self, exception_type, exception, traceback):
        if self.switch is None:
            leave(self)
            return
        try:
            leave(self)
        finally:
            leave_graph(self.switch)

    def __getattr__(self, name):
        # Asked for last, so by nobody who opens a scope.
        raise AttributeError(
            f"what variable_scope returns has no {name!r}: the scope is there once it is opened; "
            f"write 'with {self.described()} as scope:', and scope.{name} inside")

    def described(self):
        if isinstance(self.name_or_scope, VariableScope):
            return f"variable_scope({self.name_or_scope.name!r})"
        if self.name_or_scope is None:
            return f"variable_scope(None, {self.default_name!r})"
        return f"variable_scope({self.name_or_scope!r})"


# A default name that is being opened: which suffix it got, below which node.
cdef struct Sibling:
    uint32_t parent
    uint32_t name
    uint32_t suffix


cdef inline VariableScope entered(ScopeEntry entry):
    if free_threaded:
        return enter_held(entry)
    return enter_scope(entry, None)


cdef VariableScope enter_held(ScopeEntry entry):
    cdef Stack stack = current_stack()
    cdef Registry graph = graph_of(stack)
    cdef Held held
    hold(&held, <PyObject *>graph)
    try:
        return enter_scope(entry, stack)
    finally:
        release(&held)


cdef VariableScope enter_scope(ScopeEntry entry, Stack given):
    """Push a frame.  A new op name is taken only when nothing else can be refused any more."""
    cdef Frame frame = Frame.__new__(Frame)
    cdef VariableScope scope = VariableScope.__new__(VariableScope)
    # Read last: making an object may close a scope.  Without a GIL its graph is held by now.
    cdef Stack stack = given if free_threaded else current_stack()
    cdef VariableScope captured = None
    cdef Marks marks = marks_of(stack)
    cdef uint32_t length = 0 if marks is None else stack.length
    cdef Sibling sibling
    cdef uint32_t parent
    cdef Origin origin = None
    cdef str name = None
    sibling.parent = sibling.name = sibling.suffix = 0
    frame.entry = entry
    prolong(frame, stack)
    parent = frame.node
    if frame.below is not None:
        if free_threaded:
            origin = origin_of(frame.below.scope)
        else:
            origin = frame.below.scope.reuse_origin    # which saves owning the scope
    if entry.name_or_scope is None:
        name = entry.default_name
        frame.node = open_default(stack, frame, name, &sibling)
    elif PyUnicode_CheckExact(entry.name_or_scope):
        name = <str>entry.name_or_scope
        if PyUnicode_GET_LENGTH(<PyObject *>name):
            frame.node = frame.graph.open_path(frame.node, name)
    else:
        captured = <VariableScope>entry.name_or_scope
        origin = origin_in(frame.graph, captured.graph, origin_of(captured))
        name = jump(frame, captured)
    if entry.mode:
        frame.mode = entry.mode
        origin = origin_here(frame.graph, frame.node)
    if entry.overrides is not None:
        frame.defaults = frame.defaults.derive(entry.overrides, frame.graph)
    if name and not is_marked(stack, frame.graph, frame.node):
        # Nobody sees the mark before the new stack is there, which says how far to read.
        marks = own_marks(marks, length)
        marks.append(frame.node, False, captured is not None or "/" in name)
        length = marks.count
        if sibling.suffix:
            marks.note_suffix(sibling.parent, sibling.name, sibling.suffix + 1,
                              sibling.parent != parent)
    link(frame, marks, length, not name)
    frame.settle()
    scope.graph, scope.node, scope.defaults = frame.graph, frame.node, frame.defaults
    scope.mode, scope.reuse_origin = frame.mode, origin
    frame.scope = scope
    if captured is not None:
        scope.opened_as = opened_in(frame.graph, captured)
    # Last of all a new op name is taken.
    if entry.named and name:
        frame.graph.unique(&frame.name_scope, name, True)
    if captured is None:
        scope.opened_as = frame.name_scope
    if (<PuttingQuietly><void *>put_stack)(stack, frame, None, 0) < 0:
        if entry.named and name:
            frame.graph.give_back(&frame.name_scope)
        return failed()
    return scope


cdef extern from *:
    """
    #define varscope_failed() NULL             /* for an exception that is set already */
    """
    VariableScope failed "varscope_failed"()


cdef NameScopeRef opened_in(Registry graph, VariableScope scope) except *:
    """The name scope of the first opening, in this graph or another one."""
    if scope.graph is graph:
        return scope.opened_as
    return path_ref(graph, scope.graph.name_scope_path_of(scope.opened_as))


cdef inline int prolong(Frame frame, Stack stack) except -1:
    """What a frame takes over from the one below, or from the bare root."""
    cdef Frame top = top_of(stack)
    if top is None:
        frame.graph = graph_of(stack)
        frame.defaults = PLAIN
        frame.name_scope = ROOT_NAME_SCOPE
    else:
        frame.below = top
        frame.graph = top.graph
        frame.node, frame.mode, frame.defaults = top.node, top.mode, top.defaults
        frame.name_scope = top.name_scope
    return 0


cdef str jump(Frame frame, VariableScope captured):
    """Point the frame at a captured scope; returns its last component, '' for the root."""
    frame.kind = JUMPED
    frame.defaults, frame.node = settings_of(captured), captured.node
    frame.mode = number_in(captured.mode)
    if captured.graph is not frame.graph:
        path = captured.name
        frame.node = frame.graph.open_path(ROOT, path) if path else ROOT
    if frame.node == ROOT:
        return ""
    return frame.graph.names.text(frame.graph.tree.nodes[frame.node].name)


cdef uint32_t open_default(Stack stack, Frame frame, str name, Sibling *sibling) except NONE:
    """The node of a default name with the first suffix, 0 for none, that is not marked here."""
    cdef Registry graph = frame.graph
    cdef Marks marks = marks_of(stack)
    cdef uint32_t parent = frame.node, id, node
    sibling.name = graph.locate(&parent, name)
    sibling.parent, sibling.suffix = parent, 0
    node = graph.tree.find(parent, sibling.name)
    if node == NONE or not is_marked(stack, graph, node):
        return graph.tree.child(parent, sibling.name)
    sibling.suffix = 1
    if marks is not None and marks.count == stack.length:
        sibling.suffix = marks.next_suffix(parent, sibling.name)
    leaf = name.rpartition("/")[2]
    while True:
        text = suffixed(leaf, sibling.suffix)
        id = graph.names.find(<PyObject *>text)
        node = NONE if id == NONE else graph.tree.find(parent, id)
        if node == NONE or not is_marked(stack, graph, node):
            return graph.tree.child(parent, graph.names.intern(text))
        sibling.suffix += 1


cdef inline int link(Frame frame, Marks marks, uint32_t length, bint same_path) except -1:
    """Put the marks of the frame below away, and note whether they can matter above.

    They can where a mark lies deeper than the children of the path it was made at, or where the
    new frame is not below that path.
    """
    cdef Frame top = frame.below
    frame.marks_below, frame.length_below = marks, length
    frame.looks_below = marks is not None and (
        frame.kind == JUMPED or same_path or marks.has_forgets or marks.last_deep != NONE)
    if top is not None:
        frame.look = top if top.looks_below or top.kind == JUMPED else top.look
    return 0


cdef inline int leave(object entry) except -1:
    """Take the frame of this entry off the stack, also where memory is short."""
    if (<LeavingQuietly><void *>leave_once)(entry) < 0:
        return leave_with_reserve(entry)
    return 0


cdef int leave_with_reserve(object entry) except -1:
    cdef Frame top
    if not PyErr_ExceptionMatches(MemoryError):
        return -1
    top = top_of(current_stack())
    if top is None or top.entry is not entry:
        return -1
    PyErr_Clear()
    spend_reserve()
    try:
        return leave_once(entry)
    finally:
        fill_reserve()


cdef int leave_once(object entry) except -1:
    cdef Stack stack = current_stack()
    cdef Frame top = top_of(stack)
    cdef bint collecting
    cdef Marks marks
    cdef uint32_t length
    if top is None or top.entry is not entry:
        collecting = hold_collector()
        try:
            return leave_out_of_order(stack, entry)
        finally:
            release_collector(collecting)
    if top.kind == NAMING:
        return put_stack(stack, top.below, stack.marks, stack.length)
    marks, length = top.marks_below, top.length_below
    if top.kind == OPENED:
        if top.looks_below or top.look is not None:
            marks = forget_below(top, marks, &length)
        if stack.marks is not None and stack.marks.last_deep != NONE:
            marks = keep_jumps(top, stack.marks, stack.length, marks, &length)
    return put_stack(stack, top.below, marks, length)


cdef Marks forget_below(Frame top, Marks marks, uint32_t *length):
    """Forget what was marked below a closed scope from further out, where that can be."""
    cdef uint32_t newest = NONE
    if marks is not None:
        newest = marks.newest(top.node, True, length[0])
        if newest != NONE and (newest == length[0] - 1 or (
                below_is_child(top) and (marks.last_deep == NONE or marks.last_deep < newest))):
            return marks                   # forgotten before, and nothing marked there since
    marks = own_marks(marks, length[0])
    marks.append(top.node, True, not below_is_child(top))
    length[0] = marks.count
    return marks


cdef inline bint below_is_child(Frame top) noexcept:
    return top.below is None or top.below.node != top.node


cdef Marks keep_jumps(Frame top, Marks inner, uint32_t inner_length, Marks marks,
                      uint32_t *length):
    """Carry over the marks of scopes that were jumped to and lie elsewhere."""
    cdef uint32_t i, node
    for i in range(inner_length):
        node = inner.events[i].node
        if not inner.events[i].forget and not top.graph.lies_below(node, top.node):
            marks = own_marks(marks, length[0])
            marks.append(node, False, True)
            length[0] = marks.count
    return marks


cdef int leave_out_of_order(Stack stack, object entry) except -1:
    """Report it, and take the frame out all the same, so that the others close as they should."""
    cdef Frame top = top_of(stack), frame = top
    cdef list above = []
    while frame is not None and frame.entry is not entry:
        above.append(frame)
        frame = frame.below
    if frame is None:
        leave_put_aside(stack, entry)
        raise errors.ScopeOrderError.not_open(entry.described(), described(top))
    if above:
        put_stack(stack, without(frame, above), stack.marks, stack.length)
    raise errors.ScopeOrderError.still_open(described(frame), described(top))


cdef Frame without(Frame frame, list above):
    """The frames above one that is taken out, linked to what was below it."""
    cdef Frame new = frame.below
    for i, copy in enumerate(reversed(above)):
        new = (<Frame>copy).copied(new)
        if i == 0:
            link(new, frame.marks_below, frame.length_below, True)
        else:
            link(new, new.marks_below, new.length_below, True)
    return new


cdef int leave_put_aside(Stack stack, object entry) except -1:
    """The same in a graph that is not current: there the scope is closed, and that is reported."""
    cdef GraphSwitch switch = stack.switches, changed
    cdef Stack new = Stack.__new__(Stack)
    cdef list inner = [], above = []
    cdef Frame frame
    while switch is not None:
        frame = switch.top
        above = []
        while frame is not None and frame.entry is not entry:
            above.append(frame)
            frame = frame.below
        if frame is not None:
            break
        inner.append(switch)
        switch = switch.below
    if switch is None:
        return 0
    changed = copied_switch(switch, switch.below)
    if above:
        changed.top = without(frame, above)
    else:
        changed.top, changed.marks, changed.length = (
            frame.below, frame.marks_below, frame.length_below)
    for switch in reversed(inner):
        changed = copied_switch(switch, changed)
    new.graph, new.serial, new.top = stack.graph, stack.serial, stack.top
    new.marks, new.length, new.others = stack.marks, stack.length, stack.others
    new.switches = changed
    publish(new)
    raise errors.ScopeOrderError.still_open(described(frame), describe_switch(stack.switches))


cdef str described(Frame frame):
    """A frame as a message names it."""
    if frame is None or frame.entry is None:
        return "the root scope"
    if frame.kind == NAMING:
        return f"name scope {frame.graph.name_scope_path_of(frame.name_scope)!r}"
    return f"scope {frame.scope.name!r}" if frame.node != ROOT else "the root scope"


def open_frames():
    """What is open in this thread or task, the outermost first, as plain facts.

    Of each frame: its kind, the call that opened it, its path, its name scope, defaults, reuse,
    (scope, code, instruction) that switched reuse on, the defaults that were passed, the scope
    that was jumped to, and the default name.  What was not there is None.  The first one is the
    root, which becomes no frame by that: nothing is changed.
    """
    cdef Frame frame = top_of(current_stack())
    cdef list found = []
    cdef bint has_root = False
    while frame is not None:
        has_root = frame.kind == BOTTOM
        found.append(frame_facts(frame))
        frame = frame.below
    if not has_root:
        found.append(("root", None, "", "", PLAIN, False, None, None, None, None))
    found.reverse()
    return found


cdef tuple frame_facts(Frame frame):
    cdef ScopeEntry entry = None
    call = overrides = captured = default_name = None
    if frame.entry is not None:
        call = frame.entry.described()
    if isinstance(frame.entry, ScopeEntry):
        entry = frame.entry
        overrides, default_name = entry.overrides, entry.default_name
        if isinstance(entry.name_or_scope, VariableScope):
            captured = entry.name_or_scope
    return (
        ("opened", "captured", "name scope", "root")[frame.kind], call,
        frame.graph.path_of(frame.node), frame.graph.name_scope_path_of(frame.name_scope),
        frame.defaults, (False, True, AUTO_REUSE)[frame.mode],
        origin_facts(frame.graph, origin_of(frame.scope)), overrides, captured, default_name,
    )


def variable_scope(name_or_scope, default_name=None, values=None, initializer=None,
                   regularizer=None, caching_device=None, partitioner=None, custom_getter=None,
                   reuse=None, dtype=None, *, constraint=None, auxiliary_name_scope=True):
    """Open a scope: a context manager that yields a `VariableScope`.

    Inside, `get_variable` puts the scope's path before the name, and takes from the scope what
    its caller leaves out.  What is not given here is inherited from the surrounding scope.

    Parameters
    ----------
    name_or_scope : str, VariableScope or None
        A str is appended to the current path (`"a/b"` opens `b` inside `a`; `""` stays where it
        is).  A VariableScope jumps to its path, with its defaults and its reuse.
    default_name : str, optional
        Used where `name_or_scope` is None, made unique with `_1`, `_2`, ... among the scopes
        opened in the same scope.
    values : iterable, optional
        Objects whose `graph` attributes must be one graph; it is the default graph inside.
    initializer, regularizer, caching_device, partitioner, custom_getter, dtype, constraint
        Defaults of `get_variable` inside.  Custom getters compose: this one runs first.
    reuse : None, True or AUTO_REUSE
        None inherits; True returns existing variables only; AUTO_REUSE creates missing ones.
    auxiliary_name_scope : bool
        False opens no name scope.

    Raises
    ------
    TypeError
        No name at all, or a name, scope or dtype of another type.
    ValueError
        A bad name, a `reuse` other than the three, reuse with a default name only, or values of
        different graphs.

    >>> import varscope as vs
    >>> with vs.variable_scope("foo", initializer=vs.zeros):
    ...     with vs.variable_scope("bar"):
    ...         v = vs.get_variable("v", [1])
    >>> v.name
    'foo/bar/v:0'
    """
    cdef ScopeEntry entry = ScopeEntry.__new__(ScopeEntry)
    entry.named = True if auxiliary_name_scope is True else bool(auxiliary_name_scope)
    if PyUnicode_CheckExact(name_or_scope) or type(name_or_scope) is VariableScope:
        entry.name_or_scope = name_or_scope
    elif name_or_scope is None:
        if default_name is None:
            raise errors.ArgumentTypeError.no_name()
        entry.default_name = exact(default_name, "default_name")
        if not entry.default_name:
            raise errors.InvalidNameError.empty_component("")
        if reuse is not None:
            mode_of(reuse)
            raise errors.ReuseError.default_name(entry.default_name, reuse)
    else:
        entry.name_or_scope = exact(name_or_scope, "name_or_scope, where it is no VariableScope,")
    if default_name is not None and not isinstance(default_name, str):
        raise errors.ArgumentTypeError.of("default_name", "a str", default_name)
    if reuse is not None:
        entry.mode = mode_of(reuse)
    if custom_getter is not None:
        check_getter(custom_getter)
    if not (initializer is None and regularizer is None and caching_device is None
            and partitioner is None and custom_getter is None and dtype is None
            and constraint is None):
        if dtype is not None:
            as_dtype(dtype)
        entry.overrides = (initializer, regularizer, caching_device, partitioner, custom_getter,
                           dtype, constraint)
    if values is not None:
        graph = graph_of_values(values)
        if graph is not None:
            entry.switch = GraphEntry(graph)
    return entry
