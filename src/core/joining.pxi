# Excerpts declared in the scopes of a graph, all of them or none.

# === Joining ====================================================================================

cdef enum:
    AHEAD = 8                  # names of which the places are fetched before they are looked at

# A scope in which an excerpt is declared.
cdef struct Target:
    uint32_t job
    uint32_t node
    uint32_t name              # of its name scope, which is made unique; NONE: none is opened
    NameScopeRef scope         # that is
    size_t first_node          # of its places, in Joining.nodes
    uint64_t first_row         # in Joining.there
    bint old                   # the node was there before: so may be what lies below it
    bint aligned               # the name scope has the same path

# The op name of a new variable that is not its path.
cdef struct Renaming:
    uint32_t target
    uint32_t row               # of the excerpt
    uint32_t suffix            # UNKNOWN until the op names of all targets are taken

# What was done to the counter of an op name, in some siblings of a family.
cdef struct Change:
    uint32_t node, first, last, name
    uint32_t before, after


@cython.final
cdef class Translated:
    """An excerpt in the numbers of the graph in which it is declared, once or many times."""
    cdef Registry graph
    cdef Excerpt excerpt
    cdef list contents                  # [(row, content), ...], in order
    cdef list wholes                    # [(place, name, spec id, kept), ...]
    cdef uint32_t *names                # by their numbers there
    cdef uint32_t *specs
    cdef uint32_t *sites
    cdef Level *places
    cdef Level *op_places
    cdef Taken *taken
    cdef Suffixed *flagged              # the rows whose op name may be no path
    cdef uint32_t op_place_count, taken_count, taken_capacity, op_capacity, flagged_count
    cdef uint32_t indexed               # rows that need an entry in the index
    cdef bint expanded
    cdef IdMap copies                   # (place in a family, number) -> the place outside of it

    def __dealloc__(self):
        PyMem_Free(self.names)
        PyMem_Free(self.specs)
        PyMem_Free(self.sites)
        PyMem_Free(self.places)
        PyMem_Free(self.op_places)
        PyMem_Free(self.taken)
        PyMem_Free(self.flagged)
        idmap_free(&self.copies)

    cdef int translate(self, Registry graph, Excerpt excerpt, list contents) except -1:
        cdef uint32_t i
        self.graph, self.excerpt, self.contents, self.wholes = graph, excerpt, contents, []
        self.names = numbers(len(excerpt.names))
        self.specs, self.sites = numbers(len(excerpt.specs)), numbers(len(excerpt.sites))
        if <uint32_t>len(excerpt.names) > graph.names.count:
            graph.names.reserve(<uint32_t>len(excerpt.names))
        for i in range(<uint32_t>len(excerpt.names)):
            if i + AHEAD < <uint32_t>len(excerpt.names):
                graph.names.expect_text(<PyObject *>excerpt.names[i + AHEAD])
            self.names[i] = graph.names.intern(excerpt.names[i])
            if i & 0xFFFF == 0xFFFF:
                PyErr_CheckSignals()
        for i in range(<uint32_t>len(excerpt.specs)):
            self.specs[i] = graph.spec_id(excerpt.specs[i])
        for i in range(<uint32_t>len(excerpt.sites)):
            self.sites[i] = known_site(graph, excerpt.sites[i])
        for place, name, kept in excerpt.wholes:
            self.wholes.append((place, self.names[<uint32_t>name],
                                graph.specs[graph.spec_id(kept.spec)], kept))
        self.places = <Level *>PyMem_Malloc(excerpt.place_count * sizeof(Level))
        self.op_places = <Level *>PyMem_Malloc(excerpt.op_place_count * sizeof(Level))
        self.taken = <Taken *>PyMem_Malloc((excerpt.taken_count + 1) * sizeof(Taken))
        if self.places == NULL or self.op_places == NULL or self.taken == NULL:
            raise MemoryError()
        translate_places(excerpt.places, excerpt.place_count, self.names, self.places)
        translate_places(excerpt.op_places, excerpt.op_place_count, self.names, self.op_places)
        self.op_place_count = self.op_capacity = excerpt.op_place_count
        for i in range(excerpt.taken_count):
            self.taken[i] = excerpt.taken[i]
            self.taken[i].name = self.names[excerpt.taken[i].name]
            # From now on it may be asked whether the op names hold it.
            graph.names.names[self.taken[i].name].named_op = True
        self.taken_count = self.taken_capacity = excerpt.taken_count
        self.look_at_rows()
        return 0

    cdef inline uint32_t name(self, uint32_t row) noexcept:
        return self.names[self.excerpt.told_of(row).name]

    cdef bint has(self, uint32_t place, uint32_t name) noexcept:
        """Whether a variable of this name lies there."""
        cdef const Stretch *stretch
        cdef uint32_t i, k
        for i in range(self.excerpt.stretch_count):
            stretch = &self.excerpt.stretches[i]
            for k in range(stretch.count if stretch.place == place else 0):
                if self.names[self.excerpt.told[stretch.first + k].name] == name:
                    return True
        return False

    cdef int look_at_rows(self) except -1:
        """How many rows the index has to know, and which may have op names that are no paths."""
        cdef Excerpt excerpt = self.excerpt
        cdef unsigned char *look = <unsigned char *>PyMem_Calloc(len(excerpt.names) + 1, 1)
        cdef const Stretch *stretch
        cdef uint32_t i, k, row, turn = 0, capacity = 0
        cdef bint suffixed, any = excerpt.suffix_count != 0
        cdef Name *name
        if look == NULL:
            raise MemoryError()
        try:
            for i in range(excerpt.place_count):
                if excerpt.scattered[i] or excerpt.counts[i] > FEW:
                    self.indexed += excerpt.counts[i]
            for i in range(<uint32_t>len(excerpt.names)):
                if excerpt.bearing[i]:
                    name = &self.graph.names.names[self.names[i]]
                    look[i] = name.named_op or name.suffix != 0
                    any = any or look[i]
            for i in range(excerpt.stretch_count if any else 0):
                stretch = &excerpt.stretches[i]
                for k in range(stretch.count):
                    row = stretch.first_row + k
                    suffixed = (turn < excerpt.suffix_count
                                and excerpt.suffixes[turn].row == row)
                    if not suffixed and not look[excerpt.told[stretch.first + k].name]:
                        continue
                    if self.flagged_count == capacity:
                        self.flagged = <Suffixed *>grown(self.flagged, &capacity, sizeof(Suffixed))
                    self.flagged[self.flagged_count].row = row
                    self.flagged[self.flagged_count].suffix = 0
                    if suffixed:
                        self.flagged[self.flagged_count].suffix = excerpt.suffixes[turn].suffix
                        turn += 1
                    self.flagged_count += 1
        finally:
            PyMem_Free(look)
        return 0

    # --- op names of families, where the place lies in a family itself
    cdef int expand(self) except -1:
        """Write the op names inside of families one by one: families in families are none."""
        cdef uint32_t i, k, place, count = self.taken_count
        cdef Taken entry
        if self.expanded:
            return 0
        self.expanded = True
        for i in range(count):
            entry = self.taken[i]
            if entry.first == 0:
                continue
            self.taken[i].counter = 0          # the ones that follow stand for it
            for k in range(entry.first, entry.last + 1):
                place = self.outside(entry.place, k)
                if self.taken_count == self.taken_capacity:
                    self.taken = <Taken *>grown(self.taken, &self.taken_capacity, sizeof(Taken))
                self.taken[self.taken_count] = entry
                self.taken[self.taken_count].place = place
                self.taken[self.taken_count].first = self.taken[self.taken_count].last = 0
                self.taken_count += 1
        return 0

    cdef uint32_t outside(self, uint32_t place, uint32_t number) except NONE:
        """The place of this number's sibling in the place of a family, or of what lies in one."""
        cdef uint32_t new = NONE, name
        cdef list missing = []
        while True:
            new = idmap_get(&self.copies, place, number)
            if new != NONE:
                break
            missing.append(place)
            if self.op_places[place].name & FAMILY:
                break
            place = self.op_places[place].parent
        for lower in reversed(missing):
            place = lower
            name = self.op_places[place].name
            if self.op_place_count == self.op_capacity:
                self.op_places = <Level *>grown(self.op_places, &self.op_capacity, sizeof(Level))
            idmap_reserve(&self.copies, 1)
            if name & FAMILY:
                new = self.op_places[place].parent
                name = self.graph.names.intern(
                    suffixed(self.graph.names.text(name & ~FAMILY), number))
            self.op_places[self.op_place_count].parent = new
            self.op_places[self.op_place_count].name = name
            new = self.op_place_count
            idmap_put(&self.copies, place, number, new)
            self.op_place_count += 1
        return new


cdef void translate_places(const Level *places, uint32_t count, const uint32_t *names,
                           Level *new) noexcept:
    cdef uint32_t i
    for i in range(count):
        new[i] = places[i]
        if places[i].name != NONE:
            new[i].name = names[places[i].name & ~FAMILY] | (places[i].name & FAMILY)


cdef uint32_t known_site(Registry graph, tuple site) except NONE:
    cdef tuple key = site
    if len(site) == 2:
        return intern_site(graph, site[0], site[1])
    number = graph.site_ids.setdefault(key, len(graph.sites))
    if number == len(graph.sites):
        graph.sites.append(site)
    return number


@cython.final
cdef class Joining:
    """What is declared together: all of it, or nothing; and what takes it back.

    First the excerpts are put into the numbers of the graph, scopes get their nodes, and what is
    there already is looked for.  Then, in one step in which no other code runs, op names are taken,
    room is made, and the rows are added: by then nothing can fail.  In a journal it is a function
    that takes all of it back.
    """
    cdef Registry graph
    cdef Frame frame                    # the current one
    cdef list jobs                      # excerpts in the numbers of the graph
    cdef list names                     # of the scopes, in the order of the targets
    cdef list kept                      # of all new variables in parts
    cdef list keys                      # theirs in Registry.partitions
    cdef uint32_t around                # the scope in which those scopes lie
    cdef NameScopeRef scope_around
    cdef int mode
    cdef bint deep                      # some of the names have slashes
    cdef bint marking                   # the scopes lie in the current one, which has marks
    cdef bint marked, in_journal
    cdef Marks marks_before
    cdef uint32_t length_before
    cdef uint32_t nodes_before
    cdef uint32_t began, seen           # how many rows had been added and withdrawn then
    cdef Target *targets
    cdef uint32_t target_count
    cdef uint32_t *nodes                # by target and place
    cdef unsigned char *there           # by target and row: is there already; NULL where none is
    cdef uint64_t total                 # rows of all targets
    cdef Renaming *renamings
    cdef uint32_t renaming_count, renaming_capacity
    cdef Change *changes                # of op names
    cdef uint32_t change_count, change_capacity
    cdef Handle first                   # of the first row, and
    cdef uint32_t row_count             # how many stand there side by side

    def __dealloc__(self):
        PyMem_Free(self.targets)
        PyMem_Free(self.nodes)
        PyMem_Free(self.there)
        PyMem_Free(self.renamings)
        PyMem_Free(self.changes)

    @property
    def first_row(self):
        """The number of the first of the new variables, while it is there."""
        return NONE if self.first is None else self.first.row

    @property
    def count(self):
        """How many variables are new."""
        return self.row_count

    @property
    def path_around(self):
        """The path of the scope in which the excerpts were declared."""
        return self.graph.path_of(self.around)

    # --- what comes first
    cdef int prepare(self, Registry graph, Spot spot, list jobs) except -1:
        cdef Stack stack = current_stack()
        cdef Frame top = top_of(stack) if graph_of(stack) is graph else None
        cdef Translated job
        cdef uint32_t i, count = 0
        cdef size_t places = 0
        cdef uint64_t total = 0
        self.graph, self.jobs, self.names, self.kept = graph, [], [], []
        self.frame = top
        self.around = ROOT if top is None else top.node
        self.scope_around = ROOT_NAME_SCOPE if top is None else top.name_scope
        self.mode = 0 if top is None else top.mode
        self.marking = True
        if spot is not None:
            self.marking = spot.around == self.around
            self.around, self.scope_around = spot.around, spot.scope_around
        for excerpt, names, contents in jobs:
            job = Translated.__new__(Translated)
            job.translate(graph, excerpt, contents)
            self.jobs.append(job)
            count += <uint32_t>len(names)
            places += <size_t>len(names) * job.excerpt.place_count
            total += <uint64_t>len(names) * job.excerpt.row_count
        self.total = total
        if total + graph.table.count >= FAMILY:
            raise MemoryError("a graph holds at most 1.7 billion names, scopes or variables")
        self.targets = <Target *>PyMem_Calloc(count + 1, sizeof(Target))
        self.nodes = <uint32_t *>PyMem_Malloc((places + 1) * sizeof(uint32_t))
        if self.targets == NULL or self.nodes == NULL:
            raise MemoryError()
        self.make_kept(jobs)
        # From here on no other code runs but where something is there already, which `look` sees.
        self.began = graph.table.count + graph.table.removed
        graph.settle(&self.scope_around)
        self.nodes_before = graph.tree.count
        i = places = total = 0
        for _, names, _ in jobs:
            job = self.jobs[i]
            for name in names:
                self.locate(i, <str>name)
                self.names.append(name)
                self.targets[self.target_count].job = i
                self.targets[self.target_count].first_node = places
                self.targets[self.target_count].first_row = total
                places += job.excerpt.place_count
                total += job.excerpt.row_count
                self.target_count += 1
            i += 1
        self.see_that_they_differ()
        self.make_nodes()
        return 0

    cdef int locate(self, uint32_t job, str path) except -1:
        """The node of a target, and the name of its name scope."""
        cdef Target *target = &self.targets[self.target_count]
        cdef uint32_t node = self.around, count = self.graph.tree.count
        target.scope = self.scope_around
        target.name = NONE
        if path:
            target.name = self.graph.locate(&node, path)
            node = self.graph.tree.child(node, target.name)
            if "/" in path:
                self.deep = True
                self.graph.locate_op(&target.scope, path)
        # In a graph with nothing in it even the root is new.
        target.node = node
        target.old = (node < count and node < self.nodes_before
                      and (self.nodes_before > 1 or self.graph.table.count != 0))
        return 0

    cdef int see_that_they_differ(self) except -1:
        """No scope twice, and none in another: what lies there is looked for once, before."""
        cdef unsigned char *flags = <unsigned char *>PyMem_Calloc(self.graph.tree.count, 1)
        cdef uint32_t i, node
        if flags == NULL:
            raise MemoryError()
        try:
            for i in range(self.target_count):
                node = self.targets[i].node
                if flags[node]:
                    raise errors.ArgumentValueError.of(
                        "the names of the scopes", "different ones", self.names[i])
                flags[node] = True
            for i in range(self.target_count):
                node = self.targets[i].node
                while node != self.around:
                    node = self.graph.tree.nodes[node].parent
                    if flags[node]:
                        raise errors.ArgumentValueError.of(
                            "the names of the scopes",
                            "ones that do not lie in each other (write two calls)", self.names[i])
        finally:
            PyMem_Free(flags)
        return 0

    cdef int make_nodes(self) except -1:
        """The nodes of all places; those of a scope that is new need not be looked for."""
        cdef ScopeTree tree = self.graph.tree
        cdef uint32_t i, place, count
        cdef uint32_t *nodes
        cdef size_t places = 0
        cdef Translated job
        for i in range(self.target_count):
            job = self.jobs[self.targets[i].job]
            places += job.excerpt.place_count - 1
        tree.reserve(places)
        for i in range(self.target_count):
            job = self.jobs[self.targets[i].job]
            nodes = &self.nodes[self.targets[i].first_node]
            nodes[0] = self.targets[i].node
            count = job.excerpt.place_count
            if self.targets[i].old:
                for place in range(1, count):
                    nodes[place] = tree.child(nodes[job.places[place].parent],
                                              job.places[place].name)
            else:
                for place in range(1, count):
                    nodes[place] = tree.add(nodes[job.places[place].parent],
                                            job.places[place].name)
        return 0

    cdef int make_kept(self, list jobs) except -1:
        """What is kept of each variable that was made in parts; runs Python code."""
        cdef Translated job
        cdef Py_ssize_t i
        for job, (_, names, _) in zip(self.jobs, jobs):
            for i in range(len(names)):
                for _, _, spec, kept in job.wholes:
                    self.kept.append(kept.again(spec))
        return 0

    # --- what is there already
    cdef int look(self) except -1:
        """Find what is there; an error where that, or what is not there, must not be.

        Runs no other code but that of comparing what both have, and of errors.
        """
        cdef Registry graph = self.graph
        cdef VariableTable table = graph.table
        cdef uint32_t i, s, k, found, node, name
        cdef uint32_t *nodes
        cdef const Stretch *stretch
        cdef const Told *told
        cdef Translated job
        cdef list clashes = []
        self.seen = table.count + table.removed
        if self.seen != self.began:            # by now something may be anywhere
            for i in range(self.target_count):
                self.targets[i].old = True
            self.nodes_before = NONE
        if self.there != NULL:
            memset(self.there, 0, self.total)
        for i in range(self.target_count):
            job = self.jobs[self.targets[i].job]
            nodes = &self.nodes[self.targets[i].first_node]
            if self.targets[i].old or self.mode == SHARE:
                for s in range(job.excerpt.stretch_count):
                    stretch = &job.excerpt.stretches[s]
                    node = nodes[stretch.place]
                    for k in range(stretch.count):
                        told = &job.excerpt.told[stretch.first + k]
                        name = job.names[told.name]
                        found = table.find(node, name)
                        if found == NONE:
                            if self.mode == SHARE:
                                self.refuse_missing(node, name)
                            if graph.partition(node, name) is not None:
                                clashes.append(graph.join(node, name))
                            continue
                        if not self.mode:
                            clashes.append(graph.row_path(found))
                            continue
                        self.see_that_it_fits(found, job.specs[told.spec])
                        if self.there == NULL:
                            self.there = <unsigned char *>PyMem_Calloc(self.total + 1, 1)
                            if self.there == NULL:
                                raise MemoryError()
                        self.there[self.targets[i].first_row + stretch.first_row + k] = True
                for place, whole, _, kept in job.wholes:
                    node, name = nodes[<uint32_t>place], <uint32_t>whole
                    other = graph.partition(node, name)
                    if other is None and table.find(node, name) == NONE:
                        continue
                    if other is None or not self.mode or other.slicing != kept.slicing:
                        clashes.append(graph.join(node, name))
        if clashes:
            found = graph.find_row(ROOT, clashes[0])
            site = None if found == NONE else site_text(graph.sites[table.rows[found].site])
            raise errors.NamesTakenError.among(clashes, site)
        return 0

    cdef int see_that_it_fits(self, uint32_t row, uint32_t spec) except -1:
        cdef Spec there = self.graph.specs[self.graph.table.rows[row].spec]
        cdef Spec wanted = self.graph.specs[spec]
        if there is wanted:
            return 0
        if there.shape != wanted.shape and there.size >= 0 and wanted.size >= 0:
            raise errors.ShapeMismatchError.of(self.graph.row_path(row), there.shape, wanted.shape)
        if there.dtype != wanted.dtype:
            raise errors.DTypeMismatchError.of(self.graph.row_path(row), there.dtype, wanted.dtype)
        return 0

    cdef int refuse_missing(self, uint32_t node, uint32_t name) except -1:
        cdef tuple origin = origin_facts(self.graph, origin_of(self.frame.scope))
        raise errors.VariableMissingError.of(
            self.graph.join(node, name),
            None if origin is None else (origin[0], site_text(origin[1:])), list)

    # --- the one step
    cdef bint commit(self) except -1:
        """Declare all; False where somebody has created or withdrawn since `look`."""
        cdef Registry graph = self.graph
        cdef list journal = journals.get(PyThread_get_thread_ident()) if journals else None
        if graph.finalized:
            self.refuse()
        if graph.table.count + graph.table.removed != self.seen:
            return False
        try:
            self.take_names()
            self.make_room()
            self.note_others()
            if journal is not None:
                journal.append(self)
                self.in_journal = True
            self.mark_opened()
        except BaseException:
            if self.in_journal:
                journal.remove(self)
            self.undo()
            raise
        self.add_rows()
        return True

    cdef int refuse(self) except -1:
        """Say that the graph is finalized, of the first variable that is new."""
        cdef uint32_t i, row, place
        cdef Target *target
        cdef Translated job
        for i in range(self.target_count):
            target = &self.targets[i]
            job = self.jobs[target.job]
            for row in range(job.excerpt.row_count):
                if not self.is_there(target, row):
                    place = job.excerpt.stretch_of(row).place
                    refuse_variable(self.graph.join(self.nodes[target.first_node + place],
                                                    job.name(row)))
        return 0

    cdef int take_names(self) except -1:
        """Open the name scopes, and take in them what was taken in those of the excerpts."""
        cdef uint32_t i, last
        cdef bint aligned
        cdef NameScopeRef path
        cdef Target *target
        cdef Translated job
        self.graph.as_name_scope(self.around, &path)
        aligned = same_scope(&path, &self.scope_around)
        for i in range(self.target_count):
            target = &self.targets[i]
            job = self.jobs[target.job]
            target.aligned = aligned and job.excerpt.aligned
            if target.name != NONE and job.excerpt.named:
                self.open_scope(target)
        for i in range(self.target_count):
            target = &self.targets[i]
            job = self.jobs[target.job]
            if job.flagged_count:
                self.name_rows(i, job)
        i = 0
        while i < self.target_count:
            job = self.jobs[self.targets[i].job]
            last = i
            if job.taken_count and job.excerpt.named:
                while self.follows(last):
                    last += 1
                self.take_in(job, i, last)
            i = last + 1
        for i in range(self.renaming_count):
            if self.renamings[i].suffix == UNKNOWN:
                self.name_late(&self.renamings[i])
        return 0

    cdef int open_scope(self, Target *target) except -1:
        cdef NameScopeRef *scope = &target.scope
        cdef uint32_t used = self.graph.taken(scope, target.name), suffix = 0
        scope.base = target.name
        if used:
            suffix = self.graph.raise_counter(scope, target.name, used, False)
        self.count_to(scope.node, scope.index, target.name, suffix + 1)
        scope.suffix = suffix
        target.aligned = target.aligned and suffix == 0
        if (<Translated>self.jobs[target.job]).taken_count:
            self.graph.settle(scope)
        return 0

    cdef bint follows(self, uint32_t i) noexcept:
        """Whether the next target is the next one of the family, and like this one."""
        cdef Target *a = &self.targets[i]
        cdef Target *b = &self.targets[i + 1]
        return (i + 1 < self.target_count and a.scope.index != 0 and a.scope.base == NONE
                and a.scope.node == b.scope.node and a.scope.index + 1 == b.scope.index
                and a.job == b.job and not a.old and not b.old and a.aligned and b.aligned)

    cdef int take_in(self, Translated job, uint32_t i, uint32_t last) except -1:
        """Take the op names of an excerpt in the name scopes of targets in a row."""
        cdef NameScopeRef *refs = NULL         # by place; node NONE: it has no say
        cdef uint32_t *used = NULL             # by entry: what counts there already
        cdef Target *target = &self.targets[i]
        cdef uint32_t k, n, to = self.targets[last].scope.index
        cdef bint fresh
        cdef Taken *taken
        if target.scope.index != 0 or not job.excerpt.canonical:
            job.expand()
        try:
            refs = <NameScopeRef *>PyMem_Malloc(job.op_place_count * sizeof(NameScopeRef))
            used = numbers(job.taken_count)
            if refs == NULL:
                raise MemoryError()
            self.find_places(job, &target.scope, refs)
            if target.scope.index != 0:
                self.graph.op_names.reserve(job.taken_count)
            fresh = last > i
            for n in range(job.taken_count):
                fresh = fresh and self.is_fresh(&refs[job.taken[n].place], job.taken[n].name,
                                                target.scope.index, to)
            if last > i and not fresh:         # one by one, then
                for k in range(i, last + 1):
                    self.take_in(job, k, k)
                return 0
            for n in range(job.taken_count):
                taken = &job.taken[n]
                if (taken.counter and taken.first == 0 and not fresh
                        and (refs[taken.place].node < self.nodes_before
                             or self.graph.names.names[taken.name].of_variable)):
                    used[n] = self.graph.taken(&refs[taken.place], taken.name)
            for n in range(job.taken_count):
                taken = &job.taken[n]
                if taken.counter == 0:
                    continue
                if fresh:
                    self.count_all(refs[taken.place].node, target.scope.index, to, taken.name,
                                   taken.counter)
                elif taken.first:
                    self.take_each(&refs[taken.place], taken)
                else:
                    self.count_to(refs[taken.place].node, refs[taken.place].index, taken.name,
                                  used[n] + taken.counter)
        finally:
            PyMem_Free(refs)
            PyMem_Free(used)
        return 0

    cdef int find_places(self, Translated job, const NameScopeRef *scope,
                         NameScopeRef *refs) except -1:
        cdef uint32_t place, name, parent
        refs[0] = scope[0]
        for place in range(1, job.op_place_count):
            name, parent = job.op_places[place].name, job.op_places[place].parent
            if refs[parent].node == NONE or name & FAMILY and job.expanded:
                refs[place].node = NONE
                continue
            refs[place] = refs[parent]
            if name & FAMILY:
                refs[place].node = self.graph.tree.child(refs[parent].node, name)
                refs[place].index = UNKNOWN    # each of the entries says which
            else:
                self.graph.step(&refs[place], name)
        return 0

    cdef bint is_fresh(self, const NameScopeRef *scope, uint32_t name, uint32_t first,
                       uint32_t last) noexcept:
        """Whether nothing counts there in any of these siblings: then all are counted at once."""
        cdef Name *n = &self.graph.names.names[name]
        if scope.node == NONE:
            return True
        if self.graph.op_names.counts_between(scope.node, name, first, last):
            return False
        if n.suffix == 0:
            return True
        return n.base != NONE and not self.graph.op_names.counts_between(
            scope.node, n.base, first, last)

    cdef int take_each(self, const NameScopeRef *scope, const Taken *taken) except -1:
        """Take an op name in some siblings of a family."""
        cdef NameScopeRef one = scope[0]
        cdef uint32_t k
        if not self.graph.op_names.counts_between(scope.node, taken.name, taken.first, taken.last):
            if not self.graph.names.names[taken.name].of_variable:
                return self.count_all(scope.node, taken.first, taken.last, taken.name,
                                      taken.counter)
        for k in range(taken.first, taken.last + 1):
            one.index = k
            self.count_to(one.node, k, taken.name,
                          self.graph.taken(&one, taken.name) + taken.counter)
        return 0

    cdef int count_to(self, uint32_t node, uint32_t index, uint32_t name,
                      uint32_t counter) except -1:
        """Set a counter, and note what it was."""
        cdef uint32_t before = 0
        cdef Change *change = self.new_change()
        if node < self.nodes_before:
            before = self.graph.op_names.get(node, index, name)
        self.graph.op_names.put(node, index, name, counter)
        self.graph.names.names[name].named_op = True
        change.node, change.first, change.last, change.name = node, index, index, name
        change.before, change.after = before, counter
        self.change_count += 1
        return 0

    cdef int count_all(self, uint32_t node, uint32_t first, uint32_t last, uint32_t name,
                       uint32_t counter) except -1:
        """Set the counters of siblings that have none."""
        cdef Change *change = self.new_change()
        self.graph.op_names.put_run(node, first, last, name, counter)
        self.graph.names.names[name].named_op = True
        change.node, change.first, change.last, change.name = node, first, last, name
        change.before, change.after = 0, counter
        self.change_count += 1
        return 0

    cdef Change *new_change(self) except NULL:
        if self.change_count == self.change_capacity:
            self.changes = <Change *>grown(self.changes, &self.change_capacity, sizeof(Change))
        return &self.changes[self.change_count]

    # --- op names of variables
    cdef int name_rows(self, uint32_t number, Translated job) except -1:
        """The op names that are no paths, as far as what was there before decides.

        Where the name scope has the same path, what is told is right unless that stands in the way.
        Elsewhere, and then, it has to be seen what is free once all scopes have their op names.
        """
        cdef Target *target = &self.targets[number]
        cdef NameScopeRef scope
        cdef uint32_t i, row, suffix, at, node = NONE
        for i in range(job.flagged_count):
            row = job.flagged[i].row
            suffix = UNKNOWN
            if target.aligned:
                at = self.nodes[target.first_node + job.excerpt.stretch_of(row).place]
                if at != node:
                    node = at
                    self.graph.as_name_scope(node, &scope)
                if self.is_free(&scope, job.name(row), job.flagged[i].suffix):
                    suffix = job.flagged[i].suffix
            if suffix:
                self.add_renaming(number, row, suffix)
        return 0

    cdef bint is_free(self, const NameScopeRef *scope, uint32_t name, uint32_t suffix) except -1:
        if self.graph.taken(scope, name):
            return False
        if suffix == 0:
            return True
        return not self.graph.taken(
            scope, self.graph.names.intern(suffixed(self.graph.names.text(name), suffix)))

    cdef int add_renaming(self, uint32_t target, uint32_t row, uint32_t suffix) except -1:
        cdef Renaming *new
        if self.renaming_count == self.renaming_capacity:
            self.renamings = <Renaming *>grown(self.renamings, &self.renaming_capacity,
                                               sizeof(Renaming))
        new = &self.renamings[self.renaming_count]
        new.target, new.row, new.suffix = target, row, suffix
        self.renaming_count += 1
        return 0

    cdef int name_late(self, Renaming *renaming) except -1:
        cdef Target *target = &self.targets[renaming.target]
        cdef Translated job = self.jobs[target.job]
        cdef uint32_t place = job.excerpt.stretch_of(renaming.row).place
        cdef NameScopeRef scope
        cdef uint32_t used, id, name = job.name(renaming.row)
        self.graph.as_name_scope(self.nodes[target.first_node + place], &scope)
        used = self.graph.taken(&scope, name)
        renaming.suffix = 0
        if used == 0 or self.is_there(target, renaming.row):
            return 0
        while True:
            used = self.graph.raise_counter(&scope, name, used, False)
            # Another of the new variables may have that for its path.
            text = suffixed(self.graph.names.text(name), used)
            id = self.graph.names.find(<PyObject *>text)
            if id == NONE or not job.has(place, id):
                break
            used += 1
        renaming.suffix = used
        return self.count_to(scope.node, scope.index, name, used + 1)

    cdef inline bint is_there(self, const Target *target, uint32_t row) noexcept:
        return self.there != NULL and self.there[target.first_row + row]

    # --- room, and what is no row
    cdef int make_room(self) except -1:
        """From here on no row and no entry of the index needs memory."""
        cdef VariableTable table = self.graph.table
        cdef uint32_t i, place, capacity
        cdef size_t indexed = 0
        cdef uint64_t more = 0
        cdef Target *target
        cdef Row *rows
        cdef Node *node
        cdef Translated job
        for i in range(self.target_count):
            target = &self.targets[i]
            job = self.jobs[target.job]
            more += job.excerpt.row_count
            if not target.old:
                indexed += job.indexed
                continue
            for place in range(job.excerpt.place_count):
                node = &self.graph.tree.nodes[self.nodes[target.first_node + place]]
                indexed += job.excerpt.counts[place]
                if node.rows != INDEXED:
                    indexed += node.rows
        if table.count + more > table.capacity:
            capacity = max(room(table.count), <uint32_t>(table.count + more))
            rows = <Row *>PyMem_Realloc(table.rows, <size_t>capacity * sizeof(Row))
            if rows == NULL:
                raise MemoryError()
            table.rows, table.capacity = rows, capacity
            expect(&rows[table.count], more * sizeof(Row))
        if indexed:
            idmap_reserve(&table.index, indexed)
        return 0

    cdef int note_others(self) except -1:
        """Note what was made in parts, and the op names that are no paths."""
        cdef Registry graph = self.graph
        cdef uint32_t i, row, number = graph.table.count, renaming = 0, turn = 0
        cdef Target *target
        cdef Translated job
        self.first = new_handle()
        self.keys = []
        for i in range(self.target_count):
            target = &self.targets[i]
            job = self.jobs[target.job]
            for place, name, _, _ in job.wholes:
                key = partition_key(self.nodes[target.first_node + <uint32_t>place],
                                    <uint32_t>name)
                if key not in graph.partitions:
                    self.keys.append(key)
                    graph.partitions[key] = self.kept[turn]
                graph.names.names[<uint32_t>name].of_partition = True
                turn += 1
            if renaming == self.renaming_count and self.there == NULL:
                number += job.excerpt.row_count
                continue
            for row in range(job.excerpt.row_count):
                if self.is_there(target, row):
                    continue
                while (renaming < self.renaming_count and self.renamings[renaming].target == i
                        and self.renamings[renaming].row < row):
                    renaming += 1
                if (renaming < self.renaming_count and self.renamings[renaming].target == i
                        and self.renamings[renaming].row == row
                        and self.renamings[renaming].suffix):
                    graph.renamed[number] = self.renamings[renaming].suffix
                number += 1
            while renaming < self.renaming_count and self.renamings[renaming].target == i:
                renaming += 1
        return 0

    cdef int mark_opened(self) except -1:
        """Mark the scopes as opened in the current one, as if each was opened and closed."""
        cdef Stack stack = current_stack()
        cdef Frame top = top_of(stack)
        cdef Marks marks = marks_of(stack)
        cdef uint32_t i, length = 0 if marks is None else stack.length
        cdef bint plain = (not self.deep
                           and (top is None or not (top.looks_below or top.kind == JUMPED)
                                and top.look is None)
                           and (marks is None or not marks.has_forgets
                                and marks.last_deep == NONE))
        if not self.marking or graph_of(stack) is not self.graph:
            return 0
        if not plain:
            return self.open_each(top, marks, length)
        for i in range(self.target_count):
            if self.targets[i].name == NONE or is_marked(stack, self.graph, self.targets[i].node):
                continue
            marks = own_marks(marks, length)
            marks.append(self.targets[i].node, False, False)
            length = marks.count
        self.marks_before, self.length_before = marks_of(stack), stack.length
        put_stack(stack, top, marks, length)
        self.marked = True
        return 0

    cdef int open_each(self, Frame top, Marks marks, uint32_t length) except -1:
        """The same, where marks further out may have to be forgotten."""
        cdef ScopeEntry entry
        self.marks_before, self.length_before = marks, length
        self.marked = True
        for name in self.names:
            if name:
                entry = ScopeEntry.__new__(ScopeEntry)
                entry.name_or_scope = name
                entered(entry)
                leave(entry)
        return 0

    cdef void add_rows(self) noexcept:
        """Nothing here can fail."""
        cdef VariableTable table = self.graph.table
        cdef uint32_t i, s, k, row, first = table.count, added
        cdef PyObject *content
        cdef Py_ssize_t turn
        cdef uint32_t *nodes
        cdef Target *target
        cdef const Stretch *stretch
        cdef const Told *told
        cdef Translated job
        for i in range(self.target_count):
            target = &self.targets[i]
            job = self.jobs[target.job]
            nodes = &self.nodes[target.first_node]
            turn = 0
            if not target.old and job.indexed == 0 and job.contents is None:
                self.add_side_by_side(job, nodes)
                continue
            for s in range(job.excerpt.stretch_count):
                stretch = &job.excerpt.stretches[s]
                for k in range(stretch.count):
                    row = stretch.first_row + k
                    if self.is_there(target, row):
                        continue
                    told = &job.excerpt.told[stretch.first + k]
                    added = table.add(nodes[stretch.place], job.names[told.name],
                                      job.specs[told.spec], job.sites[told.site])
                    if job.contents is not None:
                        content = content_of(job.contents, row, &turn)
                        if content != NULL:
                            Py_INCREF(<object>content)
                            table.rows[added].content = content
        self.row_count = table.count - first
        if self.row_count:
            self.first.row, self.first.graph = first, self.graph
            mark(<PyObject *>self.first)
            table.rows[first].handle = <PyObject *>self.first

    cdef void add_side_by_side(self, Translated job, const uint32_t *nodes) noexcept:
        """The rows of a new scope, of which the index need not know."""
        cdef VariableTable table = self.graph.table
        cdef Name *names = self.graph.names.names
        cdef uint32_t i, k, name, id, count = table.count
        cdef const Stretch *stretch
        cdef const Told *told
        cdef Row *row = &table.rows[count]
        cdef Node *node
        for i in range(job.excerpt.stretch_count):
            stretch = &job.excerpt.stretches[i]
            id = nodes[stretch.place]
            node = &self.graph.tree.nodes[id]
            has_to_be(node.rows == 0)
            node.first_row, node.rows = count + stretch.first_row, stretch.count
            told = &job.excerpt.told[stretch.first]
            for k in range(stretch.count):
                name = job.names[told.name]
                row.node, row.name = id, name
                row.spec, row.site = job.specs[told.spec], job.sites[told.site]
                row.handle = row.content = NULL
                names[name].of_variable = True
                names[name].place = <unsigned char>k
                row += 1
                told += 1
        table.count = count + job.excerpt.row_count

    # --- back again
    def __call__(self):
        self.take_back()

    cdef int take_back(self) except -1:
        """Withdraw all that was declared: something that failed was to come with it."""
        cdef Registry graph = self.graph
        cdef Held held
        hold(&held, <PyObject *>graph)
        try:
            self.withdraw_rows()
            self.undo()
        finally:
            release(&held)
        return 0

    cdef int withdraw_rows(self) except -1:
        cdef Registry graph = self.graph
        cdef uint32_t row, stop
        cdef PyObject *content
        cdef dict renamed = {}
        if self.row_count == 0 or self.first.row == NONE:
            return 0
        stop = self.first.row + self.row_count
        for key, suffix in graph.renamed.items():
            if key < self.first.row:
                renamed[key] = suffix
            elif key >= stop:
                renamed[key - self.row_count] = suffix
        graph.renamed = renamed
        while self.row_count:
            # The rows stay side by side: nobody else can withdraw one of them.
            self.row_count -= 1
            row = self.first.row + self.row_count
            content = graph.table.rows[row].content
            if graph.table.rows[row].handle != NULL:
                (<Handle>graph.table.rows[row].handle).row = NONE
            graph.table.remove(row)
            if graph.slabs is not None and row < graph.slabs.placed:
                graph.slabs.placed -= 1
            if row < graph.filled:
                graph.filled -= 1
            drop_content(content)
        return 0

    cdef int undo(self) except -1:
        """Take back what comes before the rows, also where memory is short."""
        spend_reserve()
        try:
            self.undo_names()
        finally:
            fill_reserve()
        return 0

    cdef int undo_names(self) except -1:
        cdef OpNames op_names = self.graph.op_names
        cdef Stack stack = current_stack()
        cdef uint32_t row, k
        cdef Change *change
        if self.marked and graph_of(stack) is self.graph and top_of(stack) is self.frame:
            put_stack(stack, self.frame, self.marks_before, self.length_before)
            self.marked = False
        if self.keys is not None:
            for key in self.keys:
                self.graph.partitions.pop(key, None)
            self.keys = None
        if self.row_count == 0 and self.first is not None and self.first.graph is None:
            for row in [key for key in self.graph.renamed if key >= self.graph.table.count]:
                del self.graph.renamed[row]
        while self.change_count:
            change = &self.changes[self.change_count - 1]
            for k in range(change.first, change.last + 1):
                if op_names.get(change.node, k, change.name) == change.after:
                    op_names.put(change.node, k, change.name, change.before)
            self.change_count -= 1
        return 0


cdef inline PyObject *content_of(list contents, uint32_t row, Py_ssize_t *turn) noexcept:
    """What a row gets of [(row, content), ...], which is gone through once."""
    cdef tuple pair
    if turn[0] >= PyList_GET_SIZE(contents):
        return NULL
    pair = <tuple>contents[turn[0]]
    while <uint32_t>pair[0] < row:
        turn[0] += 1
        if turn[0] >= PyList_GET_SIZE(contents):
            return NULL
        pair = <tuple>contents[turn[0]]
    return <PyObject *>pair[1] if <uint32_t>pair[0] == row else NULL


def drop_entries(list added not None):
    """Take what was added to lists out of them again: [(list, entry), ...]."""
    cdef list entries
    cdef Py_ssize_t i
    for entries, entry in reversed(added):
        for i in range(len(entries) - 1, -1, -1):
            if entries[i] is entry:
                del entries[i]
                break


def declare(Registry graph not None, Spot spot, list jobs not None):
    """Declare excerpts in scopes: `jobs` are (excerpt, names of scopes, contents or None).

    The names are below the current scope of the graph, which is the current one, or with a spot
    around that.  All is declared or nothing; returns what tells of it.
    """
    cdef Joining joining = Joining.__new__(Joining)
    cdef bint collecting = hold_collector(), done = False
    cdef Held held
    hold(&held, <PyObject *>graph)
    try:
        joining.prepare(graph, spot, jobs)
        while not done:
            joining.look()
            done = joining.commit()
    finally:
        release(&held)
        release_collector(collecting)
    return joining
