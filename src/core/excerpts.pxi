# What lies below a scope, told without a graph: for copies, pickles, grafts and stamps.

# === Excerpts ===================================================================================

cdef enum:
    OF_ROWS = 1                # a node at or below the scope,
    OF_OPS = 2                 # at or below its name scope
    FOR_ROWS = 4               # and what is told has something at or below it: variables,
    FOR_OPS = 8                # op names


cdef uint32_t *numbers(size_t count) except NULL:
    """So many zeros."""
    cdef uint32_t *found = <uint32_t *>PyMem_Calloc(count + 1, sizeof(uint32_t))
    if found == NULL:
        raise MemoryError()
    return found


@cython.final
cdef class Excerpt:
    """The variables below a scope and the op names that are taken there, without their graph.

    Names, specs and creation sites are lists; variables, scopes and op names are rows of numbers of
    these.  Variables of a scope follow one another, and scopes are alike: what was told of one is
    told of others by saying where.  So little is written, pickled and read.
    """

    def __dealloc__(self):
        PyMem_Free(self.places)
        PyMem_Free(self.stretches)
        PyMem_Free(self.told)
        PyMem_Free(self.op_places)
        PyMem_Free(self.taken)
        PyMem_Free(self.suffixes)
        PyMem_Free(self.counts)
        PyMem_Free(self.scattered)
        PyMem_Free(self.bearing)

    def __len__(self):
        return self.row_count

    def spec(self, uint32_t row):
        """What one of its variables is."""
        if row >= self.row_count:
            raise IndexError(row)
        return self.specs[self.told_of(row).spec]

    def path(self, uint32_t row):
        """The path of one of its variables, from the scope on."""
        cdef uint32_t place
        cdef list parts
        if row >= self.row_count:
            raise IndexError(row)
        parts, place = [self.names[self.told_of(row).name]], self.stretch_of(row).place
        while place != 0:
            parts.append(self.names[self.places[place].name])
            place = self.places[place].parent
        parts.reverse()
        return "/".join(parts)

    def __reduce__(self):
        cdef list sites = []
        for site in self.sites:
            sites.append(site_text(site))
        return restored_excerpt, (
            self.names, self.specs, sites, self.wholes, self.aligned,
            packed(<uint32_t *>self.places, self.place_count * (sizeof(Level) // 4)),
            packed(<uint32_t *>self.told, self.told_count * (sizeof(Told) // 4)),
            packed(<uint32_t *>self.suffixes, self.suffix_count * (sizeof(Suffixed) // 4)),
            packed(<uint32_t *>self.op_places, self.op_place_count * (sizeof(Level) // 4)),
            packed(<uint32_t *>self.taken, self.taken_count * (sizeof(Taken) // 4)),
            packed(<uint32_t *>self.stretches, self.stretch_count * (sizeof(Stretch) // 4)))

    # --- from a graph
    cdef int read(self, Registry graph, uint32_t top, const NameScopeRef *scope, bint named,
                  list contents) except -1:
        """Tell of a scope as it is in this moment: nothing here runs other code.

        `scope` is its name scope, settled, where `named` says that it has one of its own.  What
        has values is added to `contents` as (row, content): an object, or its place in a slab.
        """
        cdef uint32_t nodes = graph.tree.count
        cdef unsigned char *flags = NULL
        cdef uint32_t *at = NULL               # by node: its place,
        cdef uint32_t *names = NULL            # by name: its number here and one more,
        cdef uint32_t i
        cdef bint collecting = hold_collector()
        self.names, self.specs, self.sites, self.wholes = [], [], [], []
        self.named, self.canonical = named, scope.index == 0
        try:
            flags = <unsigned char *>PyMem_Calloc(nodes, 1)
            if flags == NULL:
                raise MemoryError()
            at, names = numbers(nodes), numbers(graph.names.count)
            flags[top] |= OF_ROWS
            if named:
                flags[scope.node] |= OF_OPS
            for i in range(1, nodes):          # a node is made behind the one that it lies in
                flags[i] |= flags[graph.tree.nodes[i].parent] & (OF_ROWS | OF_OPS)
            self.read_rows(graph, top, flags, at, names, contents)
            if named:
                self.read_taken(graph, scope, flags, at, names)
            else:
                self.new_places(graph, ROOT, 0, flags, at, names, &self.op_places,
                                &self.op_place_count)
            self.look_at_rows()        # all names are there by now
        finally:
            PyMem_Free(flags)
            PyMem_Free(at)
            PyMem_Free(names)
            release_collector(collecting)
        if free_threaded and self.wholes:
            self.leave_out_incomplete(contents)
        return 0

    cdef const Stretch *stretch_of(self, uint32_t row) noexcept:
        cdef uint32_t low = 0, high = self.stretch_count - 1, middle
        while low < high:
            middle = high - (high - low) // 2
            if self.stretches[middle].first_row <= row:
                low = middle
            else:
                high = middle - 1
        return &self.stretches[low]

    cdef const Told *told_of(self, uint32_t row) noexcept:
        cdef const Stretch *stretch = self.stretch_of(row)
        return &self.told[stretch.first + (row - stretch.first_row)]

    cdef int add_row(self, Telling *telling, uint32_t place, uint32_t name, uint32_t spec,
                     uint32_t site) except -1:
        """Tell of a variable; `end_stretch` comes behind the last one."""
        cdef Stretch *stretch
        cdef Told *told
        if not telling.open or self.stretches[self.stretch_count - 1].place != place:
            self.end_stretch(telling)
            telling.open = True
            if self.stretch_count == telling.stretch_capacity:
                self.stretches = <Stretch *>grown(self.stretches, &telling.stretch_capacity,
                                                  sizeof(Stretch))
            stretch = &self.stretches[self.stretch_count]
            stretch.place, stretch.first_row = place, self.row_count
            stretch.first, stretch.count = self.told_count, 0
            self.stretch_count += 1
        if self.told_count == telling.told_capacity:
            self.told = <Told *>grown(self.told, &telling.told_capacity, sizeof(Told))
        told = &self.told[self.told_count]
        told.name, told.spec, told.site = name, spec, site
        telling.hash = ((telling.hash ^ name ^ <uint64_t>spec << 32 ^ <uint64_t>site << 44)
                        * <uint64_t>0x9E3779B97F4A7C15ULL)
        self.stretches[self.stretch_count - 1].count += 1
        self.told_count += 1
        self.row_count += 1
        return 0

    cdef int add_alike(self, Telling *telling, uint32_t place) except -1:
        """Tell of variables that are as the last stretch, in another place."""
        cdef Stretch *stretch
        self.end_stretch(telling)
        if self.stretch_count == telling.stretch_capacity:
            self.stretches = <Stretch *>grown(self.stretches, &telling.stretch_capacity,
                                              sizeof(Stretch))
        stretch = &self.stretches[self.stretch_count]
        stretch[0] = self.stretches[self.stretch_count - 1]
        stretch.place, stretch.first_row = place, self.row_count
        self.stretch_count += 1
        self.row_count += stretch.count
        return 0

    cdef void end_stretch(self, Telling *telling) noexcept:
        """Share what the last stretch tells, where one not long ago told the same."""
        cdef Stretch *stretch
        cdef const Stretch *other
        cdef uint32_t *recent
        if not telling.open:
            return
        telling.open = False
        stretch = &self.stretches[self.stretch_count - 1]
        recent = &telling.recent[telling.hash >> 54]
        telling.hash = 0
        if recent[0]:
            other = &self.stretches[recent[0] - 1]
            if other.count == stretch.count and memcmp(
                    &self.told[other.first], &self.told[stretch.first],
                    stretch.count * sizeof(Told)) == 0:
                self.told_count = stretch.first
                stretch.first = other.first
        recent[0] = self.stretch_count

    cdef int leave_out_incomplete(self, list contents) except -1:
        """Leave out variables in parts of which another thread has withdrawn some until now."""
        cdef dict below = {}
        cdef set out = set()
        cdef list moved = []
        cdef Stretch *stretches = self.stretches
        cdef Told *told = self.told
        cdef const Told *each
        cdef Telling telling
        cdef uint32_t i, k, stretch_count = self.stretch_count, kept = 0
        for i in range(1, self.place_count):
            below[self.places[i].parent, self.places[i].name] = i
        for place, name, whole in self.wholes:
            i = below.get((place, name), 0)
            if i == 0 or self.counts[i] < <uint32_t>whole.slicing.count:
                out.add(i)
        if not out:
            return 0
        self.wholes = [whole for whole in self.wholes if below.get(whole[:2], 0) not in out]
        memset(&telling, 0, sizeof(Telling))
        self.stretches, self.told = NULL, NULL
        self.stretch_count = self.told_count = self.row_count = 0
        try:
            for i in range(stretch_count):
                for k in range(stretches[i].count):
                    each = &told[stretches[i].first + k]
                    if (stretches[i].place in out
                            and self.names[each.name].startswith("part_")):
                        moved.append(None)
                        continue
                    moved.append(self.row_count)
                    self.add_row(&telling, stretches[i].place, each.name, each.spec, each.site)
            self.end_stretch(&telling)
        finally:
            PyMem_Free(stretches)
            PyMem_Free(told)
        self.look_at_rows()
        for i in range(self.suffix_count):
            if moved[self.suffixes[i].row] is not None:
                self.suffixes[kept].row = moved[self.suffixes[i].row]
                self.suffixes[kept].suffix = self.suffixes[i].suffix
                kept += 1
        self.suffix_count = kept
        if contents is not None:
            contents[:] = [(moved[row], content) for row, content in contents
                           if moved[row] is not None]
        return 0

    cdef int read_rows(self, Registry graph, uint32_t top, unsigned char *flags, uint32_t *at,
                       uint32_t *names, list contents) except -1:
        cdef uint32_t row, node, name, turn = 0, alike, count = graph.table.count
        cdef uint32_t behind = 0               # the row behind the last one that was told
        cdef list renamed = sorted(graph.renamed)      # by row, as those here are
        cdef bint shards = has_shards(graph, top)
        cdef uint32_t *specs = NULL            # by number: that here and one more
        cdef uint32_t *sites = NULL
        cdef uint64_t key
        cdef const Row *r
        cdef const Row *rows = graph.table.rows
        cdef Telling telling
        memset(&telling, 0, sizeof(Telling))
        for row in range(graph.tree.count):
            if flags[row] & OF_ROWS and graph.tree.nodes[row].rows:
                flags[row] |= FOR_ROWS
        self.new_places(graph, top, FOR_ROWS, flags, at, names, &self.places, &self.place_count)
        self.suffixes = <Suffixed *>PyMem_Malloc((len(renamed) + 1) * sizeof(Suffixed))
        if self.suffixes == NULL:
            raise MemoryError()
        for number in renamed:
            r = &graph.table.rows[<uint32_t>number]
            if flags[r.node] & OF_ROWS and not (shards and r.node == top and is_shard(graph, r)):
                self.suffixes[self.suffix_count].row = number      # for now: that of the graph
                self.suffixes[self.suffix_count].suffix = graph.renamed[number]
                self.suffix_count += 1
        try:
            specs, sites = numbers(len(graph.specs)), numbers(len(graph.sites))
            row = 0
            while row < count:
                r = &rows[row]
                if not flags[r.node] & OF_ROWS or shards and r.node == top and is_shard(graph, r):
                    row += 1
                    continue
                alike = 0
                if self.stretch_count and row == behind:
                    alike = self.stretches[self.stretch_count - 1].count
                    if (alike > count - row or shards and r.node == top
                            or turn < self.suffix_count and self.suffixes[turn].row < row + alike
                            or not are_alike(&rows[row - alike], r, alike, count - row)):
                        alike = 0
                if alike:
                    self.add_alike(&telling, at[r.node])
                    row = behind = row + alike
                    continue
                if names[r.name] == 0:
                    self.number(graph.names.text(r.name), names, r.name)
                if specs[r.spec] == 0:
                    self.specs.append(graph.specs[r.spec])
                    specs[r.spec] = <uint32_t>len(self.specs)
                if sites[r.site] == 0:
                    self.sites.append(graph.sites[r.site])
                    sites[r.site] = <uint32_t>len(self.sites)
                if turn < self.suffix_count and self.suffixes[turn].row == row:
                    self.suffixes[turn].row = self.row_count
                    turn += 1
                if r.content != NULL and is_filled(r.content) and contents is not None:
                    contents.append((self.row_count, place_of(r.content) if is_tag(r.content)
                                     else <object>r.content))
                self.add_row(&telling, at[r.node], names[r.name] - 1, specs[r.spec] - 1,
                             sites[r.site] - 1)
                row += 1
                behind = row
            self.end_stretch(&telling)
        finally:
            PyMem_Free(specs)
            PyMem_Free(sites)
        for number, kept in graph.partitions.items():
            key = number
            node, name = <uint32_t>(key >> 32), <uint32_t>key
            if flags[node] & FOR_ROWS and flags[node] & OF_ROWS:
                row = self.number(graph.names.text(name), names, name)
                node = at[node]
                self.wholes.append((node, row, kept))
        return 0

    cdef int read_taken(self, Registry graph, const NameScopeRef *scope, unsigned char *flags,
                        uint32_t *at, uint32_t *names) except -1:
        """The op names: those outside of families by their scope, the others by runs."""
        cdef OpNames op_names = graph.op_names
        cdef ScopeTree tree = graph.tree
        cdef uint32_t i, j, place, capacity = 0, nodes = tree.count
        cdef size_t slot
        cdef Slot *found
        cdef Run run
        if scope.index == 0:
            for i in range(1, nodes):
                if tree.nodes[i].counter != 0 and flags[tree.nodes[i].parent] & OF_OPS:
                    self.add_taken(tree.nodes[i].parent, tree.nodes[i].name, 0, 0,
                                   tree.nodes[i].counter, &capacity)
            if op_names.counters.slots != NULL:
                for slot in range(op_names.counters.mask + 1):
                    found = &op_names.counters.slots[slot]
                    if found.value == NONE or found.value == 0 or not flags[found.a] & OF_OPS:
                        continue
                    place = tree.find(found.a, found.b)        # whose counter would be newer
                    if place == NONE or tree.nodes[place].counter == 0:
                        self.add_taken(found.a, found.b, 0, 0, found.value, &capacity)
        if op_names.places.slots != NULL:
            for slot in range(op_names.places.mask + 1):
                found = &op_names.places.slots[slot]
                if found.value == NONE or not flags[found.a] & OF_OPS:
                    continue
                for j in range(op_names.runs[found.value].count):
                    run = run_items(&op_names.runs[found.value])[j]
                    if run.counter == 0:
                        continue
                    if scope.index == 0:
                        self.add_taken(found.a, found.b, run.first, run.last, run.counter,
                                       &capacity)
                    elif run.first <= scope.index <= run.last:
                        self.add_taken(found.a, found.b, 0, 0, run.counter, &capacity)
        for i in range(self.taken_count):
            flags[self.taken[i].place] |= FOR_OPS              # a node until now
        self.new_places(graph, scope.node, FOR_OPS, flags, at, names, &self.op_places,
                        &self.op_place_count)
        for i in range(self.taken_count):
            self.taken[i].place = at[self.taken[i].place]
            self.taken[i].name = self.number(graph.names.text(self.taken[i].name), names,
                                             self.taken[i].name)
        return 0

    cdef int add_taken(self, uint32_t place, uint32_t name, uint32_t first, uint32_t last,
                       uint32_t counter, uint32_t *capacity) except -1:
        cdef Taken *taken
        if self.taken_count == capacity[0]:
            capacity[0] = room(capacity[0])
            taken = <Taken *>PyMem_Realloc(self.taken, <size_t>capacity[0] * sizeof(Taken))
            if taken == NULL:
                raise MemoryError()
            self.taken = taken
        taken = &self.taken[self.taken_count]
        taken.place, taken.name, taken.first, taken.last = place, name, first, last
        taken.counter = counter
        self.taken_count += 1
        return 0

    cdef int new_places(self, Registry graph, uint32_t top, unsigned char wanted,
                        unsigned char *flags, uint32_t *at, uint32_t *names, Level **places,
                        uint32_t *count) except -1:
        """Number the nodes at and above what is wanted, up to the top one, which comes first."""
        cdef Node *nodes = graph.tree.nodes
        cdef uint32_t i, needed = 1
        if wanted:
            for i in range(graph.tree.count - 1, top, -1):
                if flags[i] & wanted:
                    needed += 1
                    flags[nodes[i].parent] |= wanted
        places[0] = <Level *>PyMem_Malloc(needed * sizeof(Level))
        if places[0] == NULL:
            raise MemoryError()
        places[0][0].parent = places[0][0].name = NONE
        at[top], count[0] = 0, 1
        if not wanted:
            return 0
        for i in range(top + 1, graph.tree.count):
            if flags[i] & wanted:
                places[0][count[0]].parent = at[nodes[i].parent]
                places[0][count[0]].name = self.number(
                    graph.names.text(nodes[i].name & ~FAMILY), names, nodes[i].name & ~FAMILY
                ) | (nodes[i].name & FAMILY)
                at[i] = count[0]
                count[0] += 1
        return 0

    cdef inline uint32_t number(self, str text, uint32_t *names, uint32_t name) except NONE:
        if names[name] == 0:
            self.names.append(text)
            names[name] = <uint32_t>len(self.names)
        return names[name] - 1

    cdef int look_at_rows(self) except -1:
        """Note how many variables lie in each place, how, and what they are called."""
        cdef const Stretch *stretch
        cdef uint32_t i
        PyMem_Free(self.counts)
        PyMem_Free(self.scattered)
        PyMem_Free(self.bearing)
        self.counts = NULL
        self.scattered = self.bearing = NULL
        self.counts = numbers(self.place_count)
        self.scattered = <unsigned char *>PyMem_Calloc(self.place_count, 1)
        self.bearing = <unsigned char *>PyMem_Calloc(len(self.names) + 1, 1)
        if self.scattered == NULL or self.bearing == NULL:
            raise MemoryError()
        for i in range(self.stretch_count):
            stretch = &self.stretches[i]
            self.scattered[stretch.place] = self.counts[stretch.place] != 0
            self.counts[stretch.place] += stretch.count
        for i in range(self.told_count):
            self.bearing[self.told[i].name] = True
        return 0

    # --- from a pickle
    cdef int check(self) except -1:
        """Whether all numbers are ones of something that is there."""
        cdef uint32_t i, names = <uint32_t>len(self.names)
        cdef uint64_t rows = 0
        cdef const Stretch *stretch
        cdef bint good = self.place_count > 0 and self.op_place_count > 0
        for i in range(1, self.place_count):
            good &= self.places[i].parent < i and self.places[i].name < names
        for i in range(1, self.op_place_count):
            good &= self.op_places[i].parent < i and self.op_places[i].name & ~FAMILY < names
        for i in range(self.stretch_count):
            stretch = &self.stretches[i]
            good &= (stretch.place < self.place_count and stretch.first_row == rows
                     and 0 < stretch.count <= self.told_count
                     and stretch.first <= self.told_count - stretch.count)
            rows += stretch.count
        good &= rows < FAMILY
        for i in range(self.told_count):
            good &= (self.told[i].name < names and self.told[i].spec < <uint32_t>len(self.specs)
                     and self.told[i].site < <uint32_t>len(self.sites))
        self.row_count = <uint32_t>rows
        for i in range(self.suffix_count):
            good &= self.suffixes[i].row < self.row_count and (
                i == 0 or self.suffixes[i - 1].row < self.suffixes[i].row)
        for i in range(self.taken_count):
            good &= (self.taken[i].place < self.op_place_count and self.taken[i].name < names
                     and self.taken[i].first <= self.taken[i].last)
        for place, name, _ in self.wholes:
            good &= 0 <= place < self.place_count and 0 <= name < names
        if not good:
            raise ValueError(
                "what was pickled of a graph does not fit together; pickle the graph again")
        self.look_at_rows()
        return 0


cdef inline bint are_alike(const Row *last, const Row *row, uint32_t count, size_t left) noexcept:
    """Whether rows without values are all of a scope and as the ones of the scope before."""
    cdef uint32_t i, node = row.node
    if node == last.node or left > count and row[count].node == node:
        return False
    for i in range(count):
        if (row[i].node != node or row[i].name != last[i].name or row[i].spec != last[i].spec
                or row[i].site != last[i].site or row[i].content != NULL):
            return False
    return True


cdef bint has_shards(Registry graph, uint32_t node) except -1:
    """Whether a variable in parts has the path of a scope: its shards do not lie below that."""
    return node != ROOT and graph.partition(
        graph.tree.nodes[node].parent, graph.tree.nodes[node].name) is not None


cdef inline bint is_shard(Registry graph, const Row *row):
    """Whether a variable is called as those of one that was made in parts."""
    return graph.names.text(row.name).startswith("part_")


cdef bytes packed(const uint32_t *values, size_t count):
    """Numbers as bytes, in the same order on every machine."""
    cdef bytes made = PyBytes_FromStringAndSize(NULL, count * 4)
    cdef unsigned char *to = <unsigned char *>PyBytes_AS_STRING(made)
    cdef size_t i
    for i in range(count):
        to[4 * i], to[4 * i + 1] = values[i] & 255, values[i] >> 8 & 255
        to[4 * i + 2], to[4 * i + 3] = values[i] >> 16 & 255, values[i] >> 24
    return made


cdef void *unpacked(bytes packed, size_t size, uint32_t *count) except NULL:
    """So many structs of four-byte numbers as the bytes hold."""
    cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(packed)
    cdef size_t i, length = len(packed) // 4
    cdef uint32_t *values
    if <size_t>len(packed) % size or len(packed) // size >= NONE:
        raise ValueError("what was pickled of a graph was cut; pickle the graph again")
    values = numbers(length)
    for i in range(length):
        values[i] = (<uint32_t>data[4 * i] | <uint32_t>data[4 * i + 1] << 8
                     | <uint32_t>data[4 * i + 2] << 16 | <uint32_t>data[4 * i + 3] << 24)
    count[0] = <uint32_t>(<size_t>len(packed) // size)
    return values


def restored_excerpt(list names not None, list specs not None, list sites not None,
                     list wholes not None, bint aligned, bytes places not None,
                     bytes told not None, bytes suffixes not None, bytes op_places not None,
                     bytes taken not None, bytes stretches not None):
    """An excerpt that was pickled."""
    cdef Excerpt new = Excerpt.__new__(Excerpt)
    for name in names:
        if PyUnicode_CheckExact(name) and is_component(<str>name, False):
            continue
        for part in components(exact(name, "a pickled name"), False):
            if part != name:
                raise errors.InvalidNameError.bad_character(name, name.index("/"))
    new.names, new.specs, new.sites, new.wholes, new.aligned = names, specs, sites, wholes, aligned
    new.named = new.canonical = True           # a whole graph is what is pickled
    new.places = <Level *>unpacked(places, sizeof(Level), &new.place_count)
    new.told = <Told *>unpacked(told, sizeof(Told), &new.told_count)
    new.stretches = <Stretch *>unpacked(stretches, sizeof(Stretch), &new.stretch_count)
    new.suffixes = <Suffixed *>unpacked(suffixes, sizeof(Suffixed), &new.suffix_count)
    new.op_places = <Level *>unpacked(op_places, sizeof(Level), &new.op_place_count)
    new.taken = <Taken *>unpacked(taken, sizeof(Taken), &new.taken_count)
    new.check()
    return new


@cython.final
cdef class Spot:
    """Where a scope stands: its node and name scope, and those around it."""
    cdef Registry graph
    cdef uint32_t node                  # NONE: there is no such scope
    cdef uint32_t around
    cdef NameScopeRef scope             # settled
    cdef NameScopeRef scope_around
    cdef bint named                     # it has opened a name scope of its own
    cdef readonly str path
    cdef readonly str path_around       # None: it has no surroundings, or is not there


def spot_of(Registry graph not None, scope):
    """Where a scope is: a captured one, or a path in the current scope of the current graph."""
    cdef Held held
    cdef bint collecting = hold_collector()
    hold(&held, <PyObject *>graph)
    try:
        return find_spot(graph, scope)
    finally:
        release(&held)
        release_collector(collecting)


cdef Spot find_spot(Registry graph, object scope):
    cdef Spot spot = Spot.__new__(Spot)
    cdef Frame top = top_of(current_stack())
    cdef VariableScope captured
    cdef Node *node
    cdef str path
    cdef uint32_t name
    spot.graph, spot.node = graph, NONE
    spot.scope_around = ROOT_NAME_SCOPE if top is None else top.name_scope
    spot.around = ROOT if top is None else top.node
    if isinstance(scope, str) and scope:
        path = exact(scope, "scope")
        components(path, spot.around == ROOT)
        spot.path = f"{graph.path(spot.around)}/{path}" if spot.around != ROOT else path
        spot.node = graph.seek(spot.around, path)
        if spot.node == NONE:
            return spot
        graph.locate_op(&spot.scope_around, path)
        name = spot.scope_around.base
        spot.scope = spot.scope_around
        spot.scope_around.base = NONE
        spot.named = graph.op_names.get(spot.scope.node, spot.scope.index, name) != 0
    else:
        captured = current_scope() if isinstance(scope, str) else <VariableScope?>scope
        spot.path = captured.name
        spot.node = captured.node
        if captured.graph is not graph:
            spot.node = graph.seek(ROOT, spot.path) if captured.node != ROOT else ROOT
        if spot.node == NONE or spot.node == ROOT:
            return spot
        spot.scope = opened_in(graph, captured)
        split_scope(graph, spot, graph.tree.nodes[spot.node].name)
    node = &graph.tree.nodes[spot.node]
    spot.around = node.parent
    graph.settle(&spot.scope_around)
    if spot.named:
        graph.settle(&spot.scope)
    spot.path_around = graph.path(spot.around)
    return spot


cdef int split_scope(Registry graph, Spot spot, uint32_t name) except -1:
    """What lies around the name scope of a captured scope, if that is one of its own."""
    cdef NameScopeRef *scope = &spot.scope
    cdef Node *node
    cdef uint32_t base
    spot.scope_around = scope[0]
    if scope.base != NONE:
        spot.scope_around.base = NONE
        base = scope.base
    elif scope.node == ROOT:
        base = NONE
    else:
        node = &graph.tree.nodes[scope.node]
        spot.scope_around.node = node.parent
        base = node.name & ~FAMILY
        if node.name & FAMILY:
            spot.scope_around.index = 0
    # The last component, with whatever number it got.
    spot.named = base == name or (
        base != NONE and graph.names.names[name].base == base)
    if not spot.named and base != NONE and graph.names.names[base].base != NONE:
        spot.named = graph.names.names[base].base == name
    if not spot.named:
        spot.scope_around = scope[0]
    return 0


def root_of(Registry graph not None):
    """The spot whose surroundings are the bare root of a graph, whatever scope is open."""
    cdef Spot spot = Spot.__new__(Spot)
    spot.graph, spot.node, spot.around = graph, NONE, ROOT
    spot.scope_around = ROOT_NAME_SCOPE
    return spot


def rows_below(Spot spot not None):
    """The numbers of the variables that an excerpt of a scope tells of, in order."""
    cdef Registry graph = spot.graph
    cdef uint32_t row
    cdef bint shards
    cdef list rows = []
    cdef Held held
    hold(&held, <PyObject *>graph)
    shards = has_shards(graph, spot.node)
    for row in range(graph.table.count):
        if graph.below(graph.table.rows[row].node, spot.node) and not (
                shards and graph.table.rows[row].node == spot.node
                and is_shard(graph, &graph.table.rows[row])):
            rows.append(row)
    release(&held)
    return rows


def excerpt_of(Spot spot not None):
    """What lies below a scope, without values."""
    cdef Excerpt new = Excerpt.__new__(Excerpt)
    cdef NameScopeRef path
    cdef Held held
    hold(&held, <PyObject *>spot.graph)
    try:
        if spot.named:
            spot.graph.as_name_scope(spot.node, &path)
            new.aligned = same_scope(&path, &spot.scope)
        new.read(spot.graph, spot.node, &spot.scope, spot.named, None)
        return new
    finally:
        release(&held)


def excerpt_at(Registry graph not None, str path not None, str name_scope, list contents):
    """What lies below a path, and below a name scope where one is given; '' is the root.

    (row, content) of what has values is added to `contents`: an object, or a place in a slab.
    """
    cdef Excerpt new = Excerpt.__new__(Excerpt)
    cdef NameScopeRef scope = ROOT_NAME_SCOPE, same
    cdef uint32_t node = ROOT
    cdef Held held
    hold(&held, <PyObject *>graph)
    try:
        if path:
            node = graph.open_path(ROOT, path)
        if name_scope:
            scope = path_ref(graph, name_scope)
        graph.as_name_scope(node, &same)
        new.aligned = name_scope is not None and same_scope(&same, &scope)
        new.read(graph, node, &scope, name_scope is not None, contents)
        return new
    finally:
        release(&held)


cdef inline bint same_scope(const NameScopeRef *a, const NameScopeRef *b) noexcept:
    """Of two that are settled."""
    return a.node == b.node and a.index == b.index
