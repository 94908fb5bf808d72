# Which graph is current, and name scopes.

# --- graphs as the default

cdef object attached_graph = None           # graph's function: foreign graph -> Graph or None


def graph_of_values(values):
    """The one graph that the objects belong to, or None where none of them has one."""
    first = first_value = None
    for value in values:
        graph = getattr(value, "graph", None)
        if graph is None:
            continue
        if not isinstance(graph, Registry):
            found = attached_graph(graph)
            if found is None:
                raise errors.ArgumentTypeError.foreign_graph(value, graph)
            graph = found
        if first is None:
            first, first_value = graph, value
        elif graph is not first:
            raise errors.GraphMismatchError.of(first_value, value)
    return first


@cython.final
cdef class GraphEntry:
    """What `Graph.as_default` returns; can be entered again, also while open."""
    cdef Registry graph

    def __init__(self, Registry graph not None):
        self.graph = graph

    def described(self):
        return f"{self.graph!r}.as_default()"

    def __enter__(self):
        cdef bint collecting = hold_collector()
        try:
            return self.enter()
        finally:
            release_collector(collecting)

    def __exit__(self, exception_type, exception, traceback):
        leave_graph(self)

    cdef Registry enter(self):
        cdef Stack stack = current_stack(), new = Stack.__new__(Stack)
        cdef GraphSwitch switch = GraphSwitch.__new__(GraphSwitch)
        switch.below, switch.entry = stack.switches, self
        switch.graph, switch.serial = stack.graph, stack.serial
        switch.top, switch.marks, switch.length = stack.top, stack.marks, stack.length
        new.graph, new.serial, new.switches = self.graph, self.graph.serial, switch
        new.others = stack.others
        resume(new, stack)
        switch.inside = new.top
        publish(new)
        return self.graph

    cdef int leave(self) except -1:
        cdef Stack stack = current_stack(), new
        cdef GraphSwitch switch = stack.switches
        cdef Frame open = top_of(stack)
        if switch is None or switch.entry is not self:
            leave_graph_out_of_order(stack, self)
        new = Stack.__new__(Stack)
        new.graph, new.serial, new.switches = switch.graph, switch.serial, switch.below
        new.top, new.marks, new.length = switch.top, switch.marks, switch.length
        new.others = stack.others
        put_aside(new, stack)
        publish(new)
        if not same_opening(open, switch.inside):
            raise errors.ScopeOrderError.still_open(self.described(), described(open))
        return 0


cdef int leave_graph(GraphEntry entry) except -1:
    """Make the graph outside current again, also where memory is short."""
    cdef bint collecting = hold_collector()
    cdef GraphSwitch innermost = current_stack().switches
    try:
        entry.leave()
    except MemoryError:
        if current_stack().switches is not innermost:
            raise
        spend_reserve()
        try:
            entry.leave()
        finally:
            fill_reserve()
    finally:
        release_collector(collecting)
    return 0


cdef bint same_opening(Frame a, Frame b):
    if a is not None and a.kind == BOTTOM:
        a = None
    if b is not None and b.kind == BOTTOM:
        b = None
    return (a is None) == (b is None) and (a is None or a.entry is b.entry)


cdef int resume(Stack new, Stack old) except -1:
    """Where this thread or task left the graph: further out, or earlier; else its bare root."""
    cdef GraphSwitch switch = old.switches
    cdef RootState state
    if graph_of(old) is new.graph:
        new.top, new.marks, new.length = top_of(old), marks_of(old), old.length
        return 0
    while switch is not None:
        if switched_from(switch) is new.graph:
            new.top, new.marks, new.length = switch.top, switch.marks, switch.length
            return 0
        switch = switch.below
    for state in old.others:
        if state.graph() is new.graph:
            new.marks, new.length = state.marks, state.length
            if state.mode or state.defaults is not PLAIN:
                new.top = bottom_frame(new.graph, state.defaults, state.mode, state.reuse_origin)
    return 0


cdef Registry switched_from(GraphSwitch switch):
    cdef Registry graph
    if switch.top is not None:
        return switch.top.graph
    if switch.graph is None:
        graph = the_default_graph()
        return graph if switch.serial == graph.serial else None
    return switch.graph


cdef int put_aside(Stack new, Stack old) except -1:
    """Keep what happened in the graph that is being left, for when it is current again."""
    cdef Registry graph = graph_of(old)
    cdef Frame top = old.top
    cdef RootState state
    if graph_of(new) is graph:
        new.top, new.marks, new.length = old.top, old.marks, old.length
        return 0
    new.switches = carried(new.switches, graph, old)
    if new.switches is not (<GraphSwitch>old.switches).below:
        return 0
    while top is not None and top.below is not None:
        top = top.below
    others = []
    for state in old.others:
        if state.graph() is not None and state.graph() is not graph:
            others.append(state)
    if old.marks is not None or (top is not None and top.kind == BOTTOM):
        state = RootState()
        state.graph = weakref.ref(graph)
        state.defaults, state.mode = PLAIN, 0
        if top is not None and top.kind == BOTTOM:
            state.defaults, state.mode = top.defaults, top.mode
            state.reuse_origin = top.scope.reuse_origin
        state.marks, state.length = old.marks, old.length
        others.append(state)
    new.others = tuple(others)
    return 0


cdef GraphSwitch carried(GraphSwitch switch, Registry graph, Stack old):
    """The switches, with the graph's state in place of the one that was put aside earlier."""
    cdef GraphSwitch found = switch, new
    cdef list above = []
    while found is not None and switched_from(found) is not graph:
        above.append(found)
        found = found.below
    if found is None:
        return switch
    new = copied_switch(found, found.below)
    new.top, new.marks, new.length = old.top, old.marks, old.length
    for found in reversed(above):
        new = copied_switch(found, new)
    return new


cdef GraphSwitch copied_switch(GraphSwitch switch, GraphSwitch below):
    cdef GraphSwitch new = GraphSwitch.__new__(GraphSwitch)
    new.below, new.entry, new.graph, new.serial = (
        below, switch.entry, switch.graph, switch.serial)
    new.top, new.inside = switch.top, switch.inside
    new.marks, new.length = switch.marks, switch.length
    return new


cdef int leave_graph_out_of_order(Stack stack, GraphEntry entry) except -1:
    cdef GraphSwitch switch = stack.switches
    cdef Stack new = Stack.__new__(Stack)
    cdef list above = []
    inner = "the outermost graph" if switch is None else describe_switch(switch)
    while switch is not None and switch.entry is not entry:
        above.append(switch)
        switch = switch.below
    if switch is None:
        raise errors.ScopeOrderError.not_open(entry.described(), inner)
    new.switches = switch.below
    for i, copy in enumerate(reversed(above)):
        new.switches = copied_switch(copy, new.switches)
        if i == 0:                              # it returns to where the one taken out would have
            (<GraphSwitch>new.switches).graph = switch.graph
            (<GraphSwitch>new.switches).serial = switch.serial
            (<GraphSwitch>new.switches).top = switch.top
            (<GraphSwitch>new.switches).marks = switch.marks
            (<GraphSwitch>new.switches).length = switch.length
    new.graph, new.serial, new.top = stack.graph, stack.serial, stack.top
    new.marks, new.length, new.others = stack.marks, stack.length, stack.others
    publish(new)
    raise errors.ScopeOrderError.still_open(entry.described(), inner)


cdef str describe_switch(GraphSwitch switch):
    return (<GraphEntry>switch.entry).described()


def get_default_graph():
    """The current graph: the innermost one entered by `as_default`, else the default one.

    Returns
    -------
    Graph
        The one in which `get_variable` finds and creates here.

    >>> import varscope as vs
    >>> graph = vs.Graph()
    >>> with graph.as_default():
    ...     vs.get_default_graph() is graph
    True
    """
    return graph_of(current_stack())


def replace_default_graph(Registry graph not None):
    """Make another graph the default one of the process."""
    cdef bint collecting = hold_collector()
    try:
        replace(graph)
    finally:
        release_collector(collecting)


cdef int replace(Registry graph) except -1:
    global default_graph, default_serial
    cdef Stack stack = current_stack()
    cdef Frame top = top_of(stack)
    cdef Registry old = the_default_graph()
    cdef Held held
    if old is not None:
        if top is not None and top.kind != BOTTOM:
            raise errors.OpenScopeError.reset(described(top))
        if stack.switches is not None:
            raise errors.OpenScopeError.reset(describe_switch(stack.switches))
    hold(&held, <PyObject *>COMMON)
    default_graph = graph
    store(default_serial, graph.serial)
    release(&held)
    if old is not None:
        publish(emptied(stack, graph))


cdef Stack emptied(Stack stack, Registry graph):
    cdef Stack new = Stack.__new__(Stack)
    new.others, new.serial = stack.others, graph.serial
    return new


# --- name scopes

@cython.final
cdef class NameScopeEntry:
    """The context manager that `name_scope` returns; can be entered again, also while open."""
    cdef object name                    # None and "" return to the root

    def described(self):
        return f"name_scope({self.name!r})"

    def __enter__(self):
        cdef bint collecting = hold_collector()
        try:
            return self.enter_held() if free_threaded else self.enter(current_stack())
        finally:
            release_collector(collecting)

    def __exit__(self, exception_type, exception, traceback):
        leave(self)

    cdef str enter_held(self):
        cdef Stack stack = current_stack()
        cdef Registry graph = graph_of(stack)
        cdef Held held
        hold(&held, <PyObject *>graph)
        try:
            return self.enter(stack)
        finally:
            release(&held)

    cdef str enter(self, Stack stack):
        cdef Frame frame = Frame.__new__(Frame)
        cdef bint taken = False
        frame.entry, frame.kind = self, NAMING
        prolong(frame, stack)
        name = self.name
        if not name:
            frame.name_scope = ROOT_NAME_SCOPE
        elif name.endswith("/"):
            frame.name_scope = path_ref(frame.graph, name.removesuffix("/"))
            if len(name) == 1:
                raise errors.InvalidNameError.empty_component(name)
        else:
            frame.graph.unique(&frame.name_scope, name, True)
            taken = True
        try:
            return self.pushed(frame, stack)
        except BaseException:
            if taken:
                frame.graph.give_back(&frame.name_scope)
            raise

    cdef str pushed(self, Frame frame, Stack stack):
        """Put a frame with its name scope on the stack; that one's path."""
        if frame.below is None:
            # Every frame has a scope: here that of the bare root.
            frame.below = bottom_frame(frame.graph, PLAIN, 0, None)
        frame.scope = frame.below.scope
        frame.look = (frame.below if frame.below.looks_below or frame.below.kind == JUMPED
                      else frame.below.look)
        path = frame.graph.name_scope_path(frame.name_scope)
        if path:
            path += "/"
        frame.settle()
        put_stack(stack, frame, marks_of(stack), stack.length)
        return path


def name_scope(name):
    """Open a name scope: a prefix for op names, made unique at each opening.

    It changes what `Graph.unique_name` returns, and never the names of variables.

    Parameters
    ----------
    name : str or None
        `"foo"` opens `foo`, `foo_1`, ... below the current one; `"foo/"` returns to exactly that
        scope; None and `""` return to the root.

    Returns
    -------
    context manager that yields the name scope with a trailing slash, '' at the root.

    >>> import varscope as vs
    >>> with vs.name_scope("op") as first, vs.Graph().as_default():
    ...     first
    'op/'
    """
    cdef NameScopeEntry entry = NameScopeEntry()
    entry.name = None if name is None else exact(name, "name")
    return entry
