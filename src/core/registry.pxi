# One graph: its tables together, op names, creation sites, and what a failed getter leaves.

# === The graph's tables together ================================================================

cdef uint64_t next_serial = 1


@cython.no_gc_clear        # handles write to its tables to the end; its lists and dicts are cleared
cdef class Registry:
    """The names of one graph: variables by path, and which op names are taken.

    `varscope.Graph` is the class to use; this one knows no policy.
    """

    def __cinit__(self, *args, **kwargs):
        global next_serial
        cdef Held held
        self.names = NameTable()
        self.tree = ScopeTree(self.names)
        self.table = VariableTable(self.tree)
        self.requests = RequestCache()
        self.op_names = OpNames(self.tree)
        self.specs, self.spec_ids = [], {}
        self.sites, self.site_ids = [], {}
        self.renamed, self.derived, self.partitions = {}, {}, {}
        hold(&held, <PyObject *>COMMON)
        self.serial = next_serial
        next_serial += 1
        release(&held)
        if free_threaded:
            graphs_alive.add(self)

    # --- text to numbers and back
    @cython.final
    cdef uint32_t seek(self, uint32_t node, str path) except? NONE:
        """The node of any path below `node`, or NONE; a text that is no path is not there."""
        cdef uint32_t name
        for part in path.split("/"):
            name = self.names.find(<PyObject *>part)
            node = NONE if name == NONE else self.tree.find(node, name)
            if node == NONE:
                break
        return node

    @cython.final
    cdef inline uint32_t open_path(self, uint32_t node, str path) except NONE:
        """The node of a scope that is being opened, made when it is new."""
        cdef uint32_t name = self.locate(&node, path)
        return self.tree.child(node, name)

    @cython.final
    cdef list split(self, str path, bint at_root, uint32_t *leaf):
        """Check a path, and make its last component; returns those before it, None for none."""
        cdef list parts
        leaf[0] = self.names.find(<PyObject *>path)
        if leaf[0] != NONE and (not at_root or self.names.names[leaf[0]].starts_path):
            return None
        if is_component(path, at_root):
            leaf[0] = self.names.intern(path)
            return None
        parts = components(path, at_root)
        leaf[0] = self.names.intern(parts.pop())
        return parts

    @cython.final
    cdef uint32_t locate(self, uint32_t *node, str path) except NONE:
        """The id of a path's last component; `node` moves to what it lies below.  Makes both."""
        cdef uint32_t name
        cdef list above = self.split(path, node[0] == ROOT, &name)
        if above is not None:
            for part in above:
                node[0] = self.tree.child(node[0], self.names.intern(part))
        return name

    @cython.final
    cdef str path(self, uint32_t node):
        return self.scope_text(node, 0)

    @cython.final
    cdef str path_of(self, uint32_t node):
        cdef Held held
        hold(&held, <PyObject *>self)
        try:
            return self.scope_text(node, 0)
        finally:
            release(&held)

    @cython.final
    cdef tuple site(self, uint32_t number):
        """What is noted of a creation site, as doors ask."""
        cdef Held held
        hold(&held, <PyObject *>self)
        try:
            return self.sites[number]
        finally:
            release(&held)

    @cython.final
    cdef str join(self, uint32_t node, uint32_t name):
        cdef str leaf = self.names.text(name)
        return leaf if node == ROOT else f"{self.path(node)}/{leaf}"

    @cython.final
    cdef str row_path(self, uint32_t row):
        return self.join(self.table.rows[row].node, self.table.rows[row].name)

    @cython.final
    cdef str op_name(self, uint32_t row):
        """The path, made unique among the op names of the graph."""
        cdef str path = self.row_path(row)
        return suffixed(path, self.renamed[row]) if row in self.renamed else path

    @cython.final
    cdef uint32_t find_row(self, uint32_t node, str name) except? NONE:
        """The row of a variable whose name may have slashes; never makes anything."""
        cdef uint32_t id = self.names.find(<PyObject *>name)
        cdef Py_ssize_t at
        if id == NONE:
            at = name.rfind("/")
            if at <= 0 or at + 1 == len(name):
                return NONE
            node = self.seek(node, name[:at])
            if node == NONE:
                return NONE
            leaf = name[at + 1:]
            id = self.names.find(<PyObject *>leaf)
            if id == NONE:
                return NONE
        return self.table.find(node, id)

    # --- variables
    @cython.final
    cdef inline object handle(self, uint32_t row):
        """The one live handle of a row, made when nobody holds one."""
        cdef Row *r = &self.table.rows[row]
        cdef Handle new
        if free_threaded:
            return self.shared_handle(row)
        # Nobody owns a handle whose weak references are just being told that it dies.
        if r.handle != NULL and Py_REFCNT(r.handle) > 0:
            return <object>r.handle
        new = new_handle()
        new.graph, new.row = self, row
        # A new object may have started a collection, which may have made the handle.
        r = &self.table.rows[row]
        if r.handle != NULL and Py_REFCNT(r.handle) > 0:
            new.graph = None
            return <object>r.handle
        r.handle = <PyObject *>new
        return new

    @cython.final
    cdef object shared_handle(self, uint32_t row):
        """The same where another thread may be letting go of the handle in this moment.

        It does so in `let_go`, while the graph is held: so there is an object behind the pointer,
        and only whether anybody owns it is open.
        """
        cdef Handle new
        cdef PyObject *found = self.table.rows[row].handle
        if found == NULL or not try_own(found):
            new = new_handle()
            found = self.table.rows[row].handle        # making one may have let others in
            if found == NULL or not try_own(found):
                new.graph, new.row = self, row
                mark(<PyObject *>new)
                self.table.rows[row].handle = <PyObject *>new
                return new
        made = <object>found
        Py_XDECREF(found)
        return made

    @cython.final
    cdef uint32_t spec_id(self, Spec spec) except NONE:
        key = spec.key()
        found = self.spec_ids.get(key)
        if found is not None:
            return found
        if len(self.specs) >= <Py_ssize_t>NONE:
            raise MemoryError()
        self.specs.append(spec)
        try:
            self.spec_ids[key] = len(self.specs) - 1
        except BaseException:
            self.specs.pop()
            raise
        return <uint32_t>(len(self.specs) - 1)

    @cython.final
    cdef object commit(self, uint32_t node, uint32_t name, uint32_t spec, uint32_t site,
                       uint32_t missed_at):
        """One more variable, or None where the name is there.

        `missed_at` is how many had been added ever when it was looked up in vain, NONE if it was
        not.
        All that can fail happens before the row is added.
        """
        cdef Handle new
        cdef Creation creation = noted() if journals else None
        if self.finalized:
            refuse_variable(self.join(node, name))
        new = new_handle()
        # Finding the site may have started a collection, and that somebody's code.  From here on
        # nothing can: a graph to which nothing was added since still lacks the name.
        if ((missed_at == NONE or self.table.count + self.table.removed != missed_at)
                and self.table.find(node, name) != NONE):
            return None
        if self.names.names[name].of_partition and self.partition(node, name) is not None:
            return None
        self.put(node, name, spec, site, new, creation)
        return new

    @cython.final
    cdef int put(self, uint32_t node, uint32_t name, uint32_t spec, uint32_t site, Handle new,
                 Creation creation) except -1:
        """Add the row of a new handle; all that can fail happens before."""
        cdef Name *n = &self.names.names[name]
        self.table.reserve(node)
        if n.named_op or n.suffix:             # for most names this was never so: a bit to read
            self.rename(node, name, creation)
        new.row = self.table.add(node, name, spec, site)
        new.graph = self
        mark(<PyObject *>new)
        self.table.rows[new.row].handle = <PyObject *>new
        if creation is not None:
            creation.handle = new
        return 0

    @cython.final
    cdef int rename(self, uint32_t node, uint32_t name, Creation creation) except -1:
        """Find the next row's variable another op name where its path is taken as one."""
        cdef NameScopeRef scope
        cdef uint32_t suffix
        cdef object row = None, number
        cdef bint collecting = hold_collector()
        try:
            self.as_name_scope(node, &scope)
            if self.taken(&scope, name) == 0:
                return 0
            if creation is not None:
                creation.scope = scope
                creation.counter = self.op_names.get(scope.node, scope.index, name)
            suffix = self.claim(&scope, name, False)
            row, number = self.table.count, suffix
            self.renamed[row] = 0                      # room for it, before the name is taken
            self.use(&scope, name, suffix + 1)
            self.renamed[row] = number
        except BaseException:
            self.renamed.pop(row, None)
            raise
        finally:
            release_collector(collecting)
        return 0

    @cython.final
    cdef int withdraw(self, Creation creation) except -1:
        """Take out a variable whose creation turned out to be part of something that failed."""
        cdef uint32_t row = creation.handle.row, name
        cdef PyObject *content
        if row == NONE:
            return 0
        content = self.table.rows[row].content
        name = self.table.rows[row].name
        if self.renamed:
            if row in self.renamed and self.renamed[row] + 1 == self.op_names.get(
                    creation.scope.node, creation.scope.index, name):
                self.use(&creation.scope, name, creation.counter)  # nobody has raised it since
            if row + 1 == self.table.count:    # as a rule: what came last is taken out first
                self.renamed.pop(row, None)
            else:
                self.renamed = {key - (key > row): suffix for key, suffix in self.renamed.items()
                                if key != row}
        self.table.remove(row)
        if self.slabs is not None and row < self.slabs.placed:
            self.slabs.placed -= 1             # its place stays empty: views may still show it
        if row < self.filled:
            self.filled -= 1
        creation.handle.row = NONE
        if creation.partition is not None:
            self.partitions.pop(creation.partition, None)
        drop_content(content)
        return 0

    @cython.critical_section
    def _find(self, str op_name):
        """The variable of this full name, or None."""
        cdef uint32_t row = self.find_row(ROOT, exact(op_name, "name"))
        return None if row == NONE else self.handle(row)

    @cython.critical_section
    def _add(self, str op_name, Spec spec not None, content=None):
        """Register a variable; returns None when the name was taken meanwhile.

        With a content, nobody sees the variable without: that is what it has from the start.
        """
        cdef uint32_t node = ROOT, site, id
        cdef uint32_t name = self.locate(&node, exact(op_name, "name"))
        id = self.spec_id(spec)
        site = current_site(self)
        new = self.commit(node, name, id, site, NONE)
        if content is not None and new is not None:
            Py_INCREF(content)
            self.table.rows[(<Handle>new).row].content = <PyObject *>content
        return new

    # --- variables made in parts: no rows, only their parts have some
    @cython.final
    cdef object partition(self, uint32_t node, uint32_t name):
        """What is kept of the variable of this name that was made in parts, or None."""
        return self.partitions.get(partition_key(node, name))

    @cython.critical_section
    def _partition(self, str path):
        """What is kept of the variable of this full name that was made in parts, or None."""
        cdef uint32_t node = ROOT, id
        cdef Py_ssize_t slash
        if not self.partitions:
            return None
        path = exact(path, "name")
        slash = path.rfind("/")
        leaf = path[slash + 1:]
        id = self.names.find(<PyObject *>leaf)
        if id == NONE or not self.names.names[id].of_partition:
            return None
        if slash >= 0:
            node = self.seek(ROOT, path[:slash])
        return None if node == NONE else self.partition(node, id)

    @cython.critical_section
    def _shared_spec(self, Spec spec not None):
        """The spec of this graph that is equal."""
        return self.specs[self.spec_id(spec)]

    @cython.critical_section
    def _partitions(self):
        """`[(path, what is kept), ...]` of all variables that were made in parts, in order."""
        cdef list found = []
        cdef uint64_t key
        for number, kept in list(self.partitions.items()):
            key = number
            found.append((self.join(<uint32_t>(key >> 32), <uint32_t>key), kept))
        return found

    @cython.critical_section
    def _add_parts(self, str path, kept, list specs, list handles):
        """Register a variable as path/part_0, path/part_1, ... of these specs: all, or none.

        The handles are put into the list before anybody can see the parts.  False where the path
        or the name of a part is taken.
        """
        cdef uint32_t node = ROOT, name, below, site
        cdef Py_ssize_t i
        cdef Creation creation
        cdef list parts = [], ids = [], creations = []
        cdef list journal = journals.get(PyThread_get_thread_ident()) if journals else None
        cdef bint collecting
        if self.finalized:
            refuse_variable(path)
        name = self.locate(&node, exact(path, "name"))
        below = self.tree.child(node, name)
        site = current_site(self)
        key = partition_key(node, name)
        for i in range(len(specs)):
            parts.append(self.names.intern(f"part_{i}"))
            ids.append(self.spec_id(specs[i]))
            handles.append(new_handle())
            creations.append(Creation())
            PyErr_CheckSignals()
        (<Creation>creations[0]).partition = key
        if journal is not None:
            journal.extend(creations)
        # Until all are there no code but this runs, so nobody sees some of the parts.
        collecting = hold_collector()
        try:
            if not self.can_hold(node, name, parts):
                return False
            self.partitions[key] = kept
            for i in range(len(parts)):
                self.put(below, <uint32_t>parts[i], <uint32_t>ids[i], site, <Handle>handles[i],
                         <Creation>creations[i])
            self.names.names[name].of_partition = True
            PyErr_CheckSignals()               # one that came meanwhile, while it can be taken back
        except BaseException:
            for creation in reversed(creations):
                if creation.handle is not None:
                    self.withdraw(creation)
            if self.partitions.get(key) is kept:
                del self.partitions[key]
            raise
        finally:
            release_collector(collecting)
        return True

    @cython.final
    cdef bint can_hold(self, uint32_t node, uint32_t name, list parts):
        """Whether neither the name nor that of a part is there."""
        cdef uint32_t below = self.tree.find(node, name)
        if self.table.find(node, name) != NONE or self.partition(node, name) is not None:
            return False
        for part in parts:
            if self.table.find(below, <uint32_t>part) != NONE:
                return False
        return True

    @cython.critical_section
    def _load_partition(self, str path, kept):
        """Note a variable made in parts as it was elsewhere; its parts are loaded by themselves."""
        cdef uint32_t node = ROOT
        cdef uint32_t name = self.locate(&node, path)
        self.partitions[partition_key(node, name)] = kept
        self.names.names[name].of_partition = True

    @cython.critical_section
    def _load(self, str path, Spec spec not None, suffix, site):
        """Register a variable as it was elsewhere: op name and creation site are given."""
        cdef uint32_t node = ROOT
        cdef uint32_t name = self.locate(&node, path)
        if self.table.find(node, name) != NONE:
            raise ValueError(f"variable {path!r} is there already")
        id = self.spec_id(spec)
        number = self.site_ids.setdefault(site, len(self.sites))
        if number == len(self.sites):
            self.sites.append(site)
        if suffix:
            self.renamed[self.table.count] = suffix
        self.table.reserve(node)
        self.table.add(node, name, id, number)

    @cython.critical_section
    def _load_op_state(self, state):
        """Take the op names that pickles held at first, and the nodes that they speak of.

        ([(parent, name), ...], [(node, name, counter), ...],
        [(node, name, [(first, last, counter), ...]), ...]), where a node is its place in the first
        list, counted from 1, and 0 the root.  The name of a family reads `base_*`, which no name
        can.
        """
        cdef NameScopeRef scope
        cdef uint32_t name, k
        cdef list places = [ROOT]
        nodes, counters, families = state if len(state) == 3 else nodes_of_paths(*state)
        for parent, text in nodes:
            if (<str>text).endswith("_*"):
                name = self.names.intern(text[:len(text) - 2]) | FAMILY
            else:
                name = self.names.intern(text)
            places.append(self.tree.child(<uint32_t>places[parent], name))
        for node, text, counter in counters:
            scope.node, scope.index = places[node], 0
            self.use(&scope, self.names.intern(text), counter)
        for node, text, runs in families:
            scope.node, name = places[node], self.names.intern(text)
            for first, last, counter in runs:
                for k in range(first, last + 1):
                    scope.index = k
                    self.use(&scope, name, counter)

    def _renamed(self):
        """The suffixes of op names that are not paths, by row."""
        return self.renamed.copy()

    def _find_renamed(self, str op_name):
        """The variable of this op name where that is its path with a suffix, or None."""
        cdef uint32_t row
        cdef Held held
        base, _, suffix = op_name.rpartition("_")
        if not base or not suffix.isdecimal():
            return None
        hold(&held, <PyObject *>self)
        try:
            row = self.find_row(ROOT, exact(base, "name"))
            known = None if row == NONE else self.renamed.get(row)
            return None if known is None or str(known) != suffix else self.handle(row)
        finally:
            release(&held)

    @cython.critical_section
    def finalize(self):
        """Refuse new variables and op names from now on; existing ones can be used and set."""
        self.finalized = True

    # --- bulk access for the layers above; rows are in the order of creation
    @cython.critical_section
    def _count(self):
        return self.table.count

    @cython.critical_section
    def _removed(self):
        """How many variables were withdrawn until now: each time, the rows behind moved up."""
        return self.table.removed

    @cython.critical_section
    def _handle(self, Py_ssize_t row):
        if not 0 <= row < self.table.count:
            raise IndexError(row)
        return self.handle(<uint32_t>row)

    @cython.critical_section
    def _handles(self, rows):
        """The variables of some rows; IndexError where there are fewer."""
        cdef list found = []
        for row in rows:
            if not 0 <= <Py_ssize_t>row < self.table.count:
                raise IndexError(row)
            found.append(self.handle(<uint32_t>row))
        return found

    @cython.critical_section
    def _row(self, str op_name):
        """The number of a variable in the order of creation, or -1."""
        cdef uint32_t row = self.find_row(ROOT, exact(op_name, "name"))
        return -1 if row == NONE else row

    @cython.critical_section
    def _op_names(self):
        """All op names, as a list; a scope's text is made once a run of rows."""
        cdef Py_ssize_t row
        cdef uint32_t node = NONE
        cdef str prefix = ""
        cdef list names = []
        for row in range(self.table.count):
            if self.table.rows[row].node != node:
                node = self.table.rows[row].node
                prefix = "" if node == ROOT else self.path(node) + "/"
            names.append(prefix + self.names.text(self.table.rows[row].name))
        for row, suffix in self.renamed.items():
            # A collection in `path` may have made more.
            if row < len(names):
                names[row] = suffixed(names[row], suffix)
        return names

    @cython.critical_section
    def _rows_in(self, key, str scope=None):
        """The rows of a collection, those of one scope only where one is given."""
        cdef list chosen = []
        for spec in self.specs:
            chosen.append(key in (<Spec>spec).collections)
        return self.rows_of(chosen, scope)

    @cython.critical_section
    def _regularized(self, str scope=None):
        """The rows of variables with a regularizer, those of one scope only where one is given."""
        cdef list chosen = []
        for spec in self.specs:
            chosen.append((<Spec>spec).regularizer is not None)
        return self.rows_of(chosen, scope)

    @cython.final
    cdef list rows_of(self, list chosen, str scope):
        """The rows whose spec is chosen, those of one scope only where one is given."""
        cdef uint32_t row, leaf = NONE, node = ROOT
        cdef list rows = []
        if scope:
            node = self.seek(ROOT, scope)
            leaf = self.find_row(ROOT, scope)
        while len(chosen) < len(self.specs):    # looking may have started a collection
            chosen.append(False)
        for row in range(self.table.count):
            if chosen[self.table.rows[row].spec] and (
                    not scope or row == leaf
                    or node != NONE and self.below(self.table.rows[row].node, node)):
                rows.append(row)
        return rows

    @cython.final
    cdef bint below(self, uint32_t node, uint32_t ancestor) noexcept:
        while node != ancestor and node != ROOT:
            node = self.tree.nodes[node].parent
        return node == ancestor

    @cython.critical_section
    def _leaves_like(self, str scope, str leaf, Py_ssize_t limit):
        """Full names that somebody may have meant: the same leaf anywhere, or the same scope."""
        cdef uint32_t row, node = self.seek(ROOT, scope) if scope else ROOT
        cdef uint32_t name = self.names.find(<PyObject *>leaf)
        cdef list names = []
        for row in range(self.table.count):
            if self.table.rows[row].name == name or self.table.rows[row].node == node:
                names.append(self.row_path(row))
                if len(names) == limit:
                    break
        return names

    @cython.critical_section
    def _totals(self):
        """(elements, bytes) of all variables whose shape is known."""
        cdef uint32_t row
        cdef Spec spec
        cdef list uses = [0] * len(self.specs)
        while len(uses) < len(self.specs):      # the list itself may have started a collection
            uses.append(0)
        for row in range(self.table.count):
            uses[self.table.rows[row].spec] += 1
        size = nbytes = 0
        for spec, n in zip(self.specs, uses):
            if spec.size >= 0:
                size += n * spec.size
                nbytes += n * spec.size * spec.itemsize
        return size, nbytes

    # --- slabs
    def _use_slabs(self, storage):
        """Keep the variables in slabs whose memory the storage provides: see Slabs."""
        self.slabs = Slabs(self, storage)

    @cython.critical_section
    def _first_unfilled(self):
        """The first row that is only declared, or how many there are: values never go again."""
        while self.filled < self.table.count and is_filled(
                self.table.rows[self.filled].content):
            self.filled += 1
        return self.filled

    @cython.critical_section
    def _place_rows(self, list handles, uint32_t last):
        """Give the first rows their places, or these handles theirs; {dtype: bytes in use}.

        Not those whose shape only their initializer knows.
        """
        cdef Handle handle
        if handles is not None:
            last = 0
            for handle in handles:
                if handle.row != NONE:
                    last = max(last, handle.row + 1)
        self.slabs.place(last)
        used = {}
        for dtype, number in list(self.slabs.ids.items()):
            used[dtype] = self.slabs.items[<uint32_t>number].used
        return used

    @cython.critical_section
    def _all_specs(self):
        return list(self.specs)

    # --- op names

    @cython.final
    cdef uint32_t taken(self, const NameScopeRef *scope, uint32_t name) except? 0:
        """How the op name is used: 0 free, else the next suffix to try behind it.

        Most names that are taken need no entry: a variable takes its own, and `base_7` is taken
        once `base` has handed out more than seven suffixes.
        """
        cdef Name *n = &self.names.names[name]
        cdef uint32_t used, base = n.base
        if n.named_op:
            used = self.op_names.get(scope.node, scope.index, name)
            if used:
                return used
        if n.of_variable and self.has_variable(scope, name):
            return 1
        if n.suffix:
            if base == NONE:
                text = self.names.text(name)
                text = text[:text.rindex("_")]
                base = self.names.find(<PyObject *>text)
            if base != NONE and n.suffix < self.op_names.get(scope.node, scope.index, base):
                return 1
        return 0

    @cython.final
    cdef uint32_t claim(self, const NameScopeRef *scope, uint32_t name, bint mark) except NONE:
        """The suffix that makes the op name unique in the scope; 0 is the bare name."""
        cdef uint32_t used = self.taken(scope, name)
        if used:
            return self.raise_counter(scope, name, used, mark)
        if mark:
            self.use(scope, name, 1)
        return 0

    @cython.final
    cdef uint32_t raise_counter(self, const NameScopeRef *scope, uint32_t name, uint32_t used,
                                bint mark) except NONE:
        """The next free suffix of a name that is taken.

        The counter has not come further than `used`, so only an op name with an entry of its
        own, or a variable, can stand in the way, and only where such a name is in the table.
        """
        cdef uint32_t id
        while self.names.names[name].numbered or self.names.long_numbered:
            text = suffixed(self.names.text(name), used)
            id = self.names.find(<PyObject *>text)
            if id == NONE or not (self.op_names.get(scope.node, scope.index, id)
                                  or self.has_variable(scope, id)):
                break
            used += 1
        if mark:
            self.use(scope, name, used + 1)
        return used

    @cython.final
    cdef int use(self, const NameScopeRef *scope, uint32_t name, uint32_t counter) except -1:
        self.op_names.put(scope.node, scope.index, name, counter)
        self.names.names[name].named_op = True
        return 0

    @cython.final
    cdef void give_back(self, const NameScopeRef *scope) noexcept:
        """Free an op name that was just made unique, for something that has failed since.

        Unless another has been handed out behind it; what is raised at the moment stays so.
        """
        cdef PyObject *kind
        cdef PyObject *error
        cdef PyObject *traceback
        PyErr_Fetch(&kind, &error, &traceback)
        try:
            if self.op_names.get(scope.node, scope.index, scope.base) == scope.suffix + 1:
                self.op_names.put(scope.node, scope.index, scope.base, scope.suffix)
        except MemoryError:
            pass                               # a number is left out
        PyErr_Restore(kind, error, traceback)

    @cython.final
    cdef int unique(self, NameScopeRef *scope, str name, bint mark) except -1:
        """Turn a name scope into the unique form of a path below it."""
        self.locate_op(scope, name)
        scope.suffix = self.claim(scope, scope.base, mark)
        return 0

    @cython.final
    cdef int locate_op(self, NameScopeRef *scope, str path) except -1:
        """Turn a name scope into what lies below it at a path: `base` is the last component."""
        cdef uint32_t name
        cdef list above
        self.settle(scope)
        above = self.split(path, scope.node == ROOT, &name)
        if above is not None:
            for part in above:
                self.step(scope, self.names.intern(part))
        scope.base, scope.suffix = name, 0
        return 0

    @cython.final
    cdef inline int settle(self, NameScopeRef *scope) except -1:
        """Make a node of a name scope inside which something is created."""
        cdef uint32_t base = scope.base
        if base == NONE:
            return 0
        scope.base = NONE
        if scope.suffix == 0:
            return self.step(scope, base)
        if scope.index == 0 and scope.suffix < 1000000000 and (
                PyUnicode_GET_LENGTH(self.names.names[base].text) < LONGEST_NUMBERED - 9):
            scope.node = self.tree.child(scope.node, base | FAMILY)
            scope.index = scope.suffix
            return 0
        return self.step(scope, self.names.intern(suffixed(self.names.text(base), scope.suffix)))

    @cython.final
    cdef inline int step(self, NameScopeRef *scope, uint32_t name) except -1:
        """One component down; the first numbered one leads to the node of its family."""
        cdef Name *n = &self.names.names[name]
        if scope.index == 0 and n.base != NONE:
            scope.index = n.suffix
            scope.node = self.tree.child(scope.node, n.base | FAMILY)
        else:
            scope.node = self.tree.child(scope.node, name)
        return 0

    @cython.final
    cdef int as_name_scope(self, uint32_t node, NameScopeRef *scope) except -1:
        """The name scope of the same path as a variable scope."""
        cdef list names = []
        while node != ROOT:
            names.append(self.tree.nodes[node].name)
            node = self.tree.nodes[node].parent
        scope[0] = ROOT_NAME_SCOPE
        for name in reversed(names):
            self.step(scope, name)
        return 0

    @cython.final
    cdef bint has_variable(self, const NameScopeRef *scope, uint32_t name) except -1:
        """Whether the op name is the path of a variable."""
        cdef uint32_t node
        cdef bint collecting
        if scope.index == 0:
            return self.table.find(scope.node, name) != NONE
        # The lists made here must not start a collection: its code may take the name, or close
        # a scope, while the caller is between looking and writing.
        collecting = hold_collector()
        try:
            node = self.seek(ROOT, self.scope_text(scope.node, scope.index))
        finally:
            release_collector(collecting)
        return node != NONE and self.table.find(node, name) != NONE

    @cython.final
    cdef str scope_text(self, uint32_t node, uint32_t index):
        """The path of a node, with the index in place of its family; 0 leaves `base_*`."""
        cdef uint32_t name
        cdef list parts = []
        while node != ROOT:
            name = self.tree.nodes[node].name
            text = self.names.text(name & ~FAMILY)
            if name & FAMILY:
                text = suffixed(text, index) if index else text + "_*"
            parts.append(text)
            node = self.tree.nodes[node].parent
        parts.reverse()
        return "/".join(parts)

    @cython.final
    cdef str name_scope_path_of(self, NameScopeRef ref):
        cdef Held held
        hold(&held, <PyObject *>self)
        try:
            return self.name_scope_path(ref)
        finally:
            release(&held)

    @cython.final
    cdef bint lies_below(self, uint32_t node, uint32_t ancestor):
        cdef Held held
        cdef bint answer
        hold(&held, <PyObject *>self)
        answer = self.below(node, ancestor)
        release(&held)
        return answer

    @cython.final
    cdef str name_scope_path(self, NameScopeRef ref):
        cdef str path = self.scope_text(ref.node, ref.index)
        if ref.base == NONE:
            return path
        leaf = self.names.text(ref.base)
        if ref.suffix:
            leaf = suffixed(leaf, ref.suffix)
        return f"{path}/{leaf}" if path else leaf

    @cython.critical_section
    def _next_op_name(self, str path):
        """What a new variable of this path would be called as an op.

        The same answer as that of `rename`, out of look-ups alone: no node is made for it.
        """
        cdef list above = components(exact(path, "name"), True)
        cdef str leaf = above.pop()
        cdef uint32_t used = self.counted(above, leaf), number = trailing_number(<PyObject *>leaf)
        if not used and number and number < self.counted(above, leaf[:leaf.rindex("_")]):
            used = 1
        if not used:
            return path
        while (self.counted(above, suffixed(leaf, used))
               or self.find_row(ROOT, suffixed(path, used)) != NONE):
            used += 1
        return suffixed(path, used)

    @cython.final
    cdef uint32_t counted(self, list above, str leaf) except? 0:
        """The counter of an op name, 0 where nobody took it: `step`, but nothing is made."""
        cdef uint32_t node = ROOT, index = 0, name, number
        for part in above:
            number = 0 if index else trailing_number(<PyObject *>part)
            if number and len(part) <= LONGEST_NUMBERED:
                part = part[:part.rindex("_")]
                index, name = number, self.names.find(<PyObject *>part)
                name = name if name == NONE else name | FAMILY
            else:
                name = self.names.find(<PyObject *>part)
            node = NONE if name == NONE else self.tree.find(node, name)
            if node == NONE:
                return 0
        name = self.names.find(<PyObject *>leaf)
        return 0 if name == NONE else self.op_names.get(node, index, name)

    @cython.critical_section
    def unique_name(self, name, mark_as_used=True):
        """A name for an op: `name`, or `name_1`, `name_2`, ..., below the current name scope.

        Parameters
        ----------
        name : str
            What the op would like to be called; may have several components.
        mark_as_used : bool
            False only looks: the same name is handed out again.

        Returns
        -------
        str
            The full name, name scope included.

        >>> import varscope as vs
        >>> g = vs.Graph()
        >>> g.unique_name("conv"), g.unique_name("conv")
        ('conv', 'conv_1')
        """
        cdef NameScopeRef scope = name_scope_of(self)
        cdef bint mark = bool(mark_as_used)
        self.unique(&scope, exact(name, "name"), mark)
        try:
            return self.name_scope_path(scope)
        except BaseException:
            if mark:
                self.give_back(&scope)
            raise

    @cython.critical_section
    def get_name_scope(self):
        """The current name scope of this graph, without a trailing slash; '' at the root."""
        return self.name_scope_path(name_scope_of(self))


def nodes_of_paths(list counters, list families):
    """What a graph knows of op names, as it is kept today, of a pickle that has it by paths."""
    cdef dict known = {}
    cdef list nodes = [], found = []
    for path, facts in counters + families:
        *above, leaf = (<str>path).split("/")
        node = 0
        for part in above:
            key = node, part
            node = known.get(key)
            if node is None:
                nodes.append(key)
                node = known[key] = len(nodes)
        found.append((node, leaf, facts))
    return nodes, found[:len(counters)], found[len(counters):]


cdef int refuse_variable(str path) except -1:
    raise errors.FinalizedGraphError.variable(path)


cdef inline object partition_key(uint32_t node, uint32_t name):
    return <uint64_t>node << 32 | name


cdef inline str suffixed(str base, uint32_t suffix):
    return f"{base}_{suffix}"


# What Python objects that several threads share keep in slots: read and set in one step.

def swap_live(kept, old, new):
    """Put `new` in the place of `old` as what a partition knows to be live, if that still is."""
    cdef Held held
    hold(&held, <PyObject *>COMMON)
    try:
        if kept.live is not old:
            return False
        kept.live = new
        return True
    finally:
        release(&held)


def count_write(content):
    """Note that the values of a variable were set once more."""
    cdef Held held
    hold(&held, <PyObject *>COMMON)
    try:
        content.version += 1
    finally:
        release(&held)


def swap_cached(content, version, made):
    """Keep a copy of the values of this version, unless one of them, or of later ones, is kept.

    Returns the pair that is kept.
    """
    cdef Held held
    before = content.cached                    # let go of when nothing is held
    hold(&held, <PyObject *>COMMON)
    try:
        kept = content.cached
        if kept is None or kept[0] < version:
            content.cached = kept = (version, made)
    finally:
        release(&held)
    return kept


# === Where a variable was created ===============================================================

cdef extern from *:
    """
    typedef struct {
        PyObject *code;        /* borrowed: compared only with a code object that is running */
        int instruction;
        uint64_t graph;
        uint32_t site;
    } varscope_site;
    static VARSCOPE_OF_THREAD varscope_site varscope_recent_sites[64];
    """
    ctypedef struct RecentSite "varscope_site":
        PyObject *code
        int instruction
        uint64_t graph
        uint32_t site
    RecentSite recent_sites "varscope_recent_sites"[64]

cdef str package_folder = __file__.rpartition("_scopecore")[0]


cdef uint32_t current_site(Registry graph) except NONE:
    """The running line of Python code, as a number; no text is made before somebody asks."""
    cdef PyObject *frame = PyEval_GetFrame()
    cdef PyObject *code
    cdef int instruction
    cdef RecentSite *recent
    cdef uint32_t site
    if frame == NULL:
        return intern_site(graph, None, -1)
    found = PyFrame_GetCode(frame)
    code = <PyObject *>found
    instruction = PyFrame_GetLasti(frame)
    recent = &recent_sites[(<size_t>code >> 5 ^ <size_t>instruction) & 63]
    if (recent.code == code and recent.instruction == instruction
            and recent.graph == graph.serial):
        # The graph holds the code object, so no other one can have its address.
        return recent.site
    if found.co_filename.startswith(package_folder):
        return outer_site(graph, <object>frame)
    site = intern_site(graph, found, instruction)
    recent.code, recent.instruction = code, instruction
    recent.graph, recent.site = graph.serial, site
    return site


cdef uint32_t outer_site(Registry graph, object frame) except NONE:
    """The nearest line outside this package."""
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package_folder):
        frame = frame.f_back
    return intern_site(graph, frame.f_code, frame.f_lasti)


cdef uint32_t intern_site(Registry graph, object code, int instruction) except NONE:
    key = (id(code), instruction)
    found = graph.site_ids.get(key)
    if found is None:
        found = len(graph.sites)
        graph.sites.append((code, instruction))
        graph.site_ids[key] = found
    return found


@cython.final
@cython.freelist(64)
cdef class Origin:
    pass


cdef Origin origin_here(Registry graph, uint32_t node):
    """Whoever switches reuse on now, in this scope."""
    cdef Origin origin = Origin.__new__(Origin)
    origin.node, origin.site = node, current_site(graph)
    return origin


cdef tuple origin_facts(Registry graph, Origin origin):
    """(scope, code, instruction), for `creation`."""
    return None if origin is None else (graph.path_of(origin.node), *graph.site(origin.site))


cdef Origin origin_in(Registry graph, Registry other, Origin origin):
    """The same in another graph."""
    cdef Origin new
    cdef tuple site
    if origin is None or graph is other:
        return origin
    new = Origin.__new__(Origin)
    site = other.site(origin.site)
    new.site = intern_site(graph, site[0], site[1])
    new.node = graph.open_path(ROOT, other.path_of(origin.node)) if origin.node != ROOT else ROOT
    return new


# === Journals ===================================================================================

# Threads in which something runs that is all or nothing, and what was created in them since: a
# Creation each, and functions from `if_withdrawn`.
cdef dict journals = {}


@cython.final
cdef class Creation:
    pass


cdef inline Creation noted():
    cdef list journal = journals.get(PyThread_get_thread_ident())
    cdef Creation creation
    if journal is None:
        return None
    creation = Creation()
    journal.append(creation)
    return creation


def all_or_nothing(function, /, *args, **kwargs):
    """Call a function; what it created in this thread is withdrawn where it raises."""
    cdef object thread = PyThread_get_thread_ident()    # once: making it may fail
    cdef list outer = journals.get(thread), journal = []
    journals[thread] = journal
    try:
        result = function(*args, **kwargs)
        if outer is not None:
            outer.extend(journal)
    except BaseException:
        for entry in reversed(journal):
            take_back(entry)
        raise
    finally:
        if outer is None:
            del journals[thread]
        else:
            journals[thread] = outer
    return result


cdef int take_back(object entry) except -1:
    """Withdraw what an entry of a journal tells of, with the reserve where memory is short."""
    try:
        take_back_once(entry)
    except MemoryError:
        spend_reserve()
        try:
            take_back_once(entry)
        finally:
            fill_reserve()
    return 0


cdef int take_back_once(object entry) except -1:
    cdef Creation creation
    cdef Registry graph
    cdef Held held
    if not isinstance(entry, Creation):
        entry()
        return 0
    creation = <Creation>entry
    if creation.handle is not None:
        graph = creation.handle.graph
        hold(&held, <PyObject *>graph)
        try:
            graph.withdraw(creation)
        finally:
            release(&held)
    return 0


def if_withdrawn(function, /):
    """Call a function should what was created in this thread until now be withdrawn.

    It runs when others are taken back too, so it must not raise, nor run Python code, behind
    which a signal may.
    """
    cdef list journal = journals.get(PyThread_get_thread_ident())
    if journal is not None:
        journal.append(function)
