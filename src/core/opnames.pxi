# Which op names are taken, in memory that does not grow with the times a scope is entered again.

@cython.final
cdef class OpNames:
    """The next suffix of each op name that is taken: 1 after `foo`, 2 after `foo_1`, ...

    A program that runs its model in a loop opens `model`, `model_1`, `model_2`, ... and the same
    scopes inside each.  So what is taken inside numbered siblings is kept once for all of them, as
    runs of numbers: "in model_1 to model_999 the name `layer` has handed out its suffixes up to 3".

    Outside of numbered siblings the counter of a name stands in its node, where it has one: an op
    name is mostly that of a scope which was just opened.  A counter whose name got a node later
    may be in the map too; the one in the node is the newer one, unless it is 0.
    """

    def __cinit__(self, ScopeTree tree not None):
        self.tree = tree

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.count):
            PyMem_Free(self.runs[i].items)
        PyMem_Free(self.runs)
        idmap_free(&self.counters)
        idmap_free(&self.places)

    cdef uint32_t get(self, uint32_t node, uint32_t index, uint32_t name) noexcept:
        """The counter of a name below a node, in the sibling of this index; 0 is not taken."""
        cdef uint32_t place, at
        cdef Runs *runs
        cdef Run *items
        if index == 0:
            place = self.tree.find(node, name)
            if place != NONE and self.tree.nodes[place].counter != 0:
                return self.tree.nodes[place].counter
            place = idmap_get(&self.counters, node, name)
            return 0 if place == NONE else place
        place = idmap_get(&self.places, node, name)
        if place == NONE:
            return 0
        runs = &self.runs[place]
        at = run_before(runs, index + 1)
        items = run_items(runs)
        return items[at].counter if at != NONE and items[at].last >= index else 0

    cdef int put(self, uint32_t node, uint32_t index, uint32_t name, uint32_t counter) except -1:
        cdef uint32_t place
        if index == 0:
            place = self.tree.find(node, name)
            if place != NONE:
                self.tree.nodes[place].counter = counter
                if counter == 0 and self.counters.slots != NULL:
                    idmap_remove(&self.counters, node, name)    # an older one counts no more
                return 0
            idmap_reserve(&self.counters, 1)
            idmap_put(&self.counters, node, name, counter)
            return 0
        place = idmap_get(&self.places, node, name)
        if place == NONE:
            place = self.new_runs(node, name)
        return set_run(&self.runs[place], index, counter)

    cdef bint counts_between(self, uint32_t node, uint32_t name, uint32_t first,
                             uint32_t last) noexcept:
        """Whether the name has a counter below a node in some siblings of a family."""
        cdef uint32_t place = idmap_get(&self.places, node, name), at
        if place == NONE:
            return False
        at = run_before(&self.runs[place], last + 1)
        return at != NONE and run_items(&self.runs[place])[at].last >= first

    cdef int put_run(self, uint32_t node, uint32_t first, uint32_t last, uint32_t name,
                     uint32_t counter) except -1:
        """The counter of a name in siblings in which it has none."""
        cdef uint32_t place = idmap_get(&self.places, node, name), at
        if place == NONE:
            place = self.new_runs(node, name)
        make_run_room(&self.runs[place])
        at = run_before(&self.runs[place], first)
        at = 0 if at == NONE else at + 1
        insert_run(&self.runs[place], at, first, last, counter)
        join_run(&self.runs[place], at + 1)
        join_run(&self.runs[place], at)
        return 0

    cdef int reserve(self, uint32_t more) except -1:
        """Room for the runs of so many names."""
        cdef uint32_t capacity
        cdef Runs *runs
        if self.count + more > self.capacity:
            capacity = max(room(self.count), self.count + more)
            runs = <Runs *>PyMem_Realloc(self.runs, <size_t>capacity * sizeof(Runs))
            if runs == NULL:
                raise MemoryError()
            self.runs, self.capacity = runs, capacity
        return idmap_reserve(&self.places, more)

    cdef uint32_t new_runs(self, uint32_t node, uint32_t name) except NONE:
        self.reserve(1)
        memset(&self.runs[self.count], 0, sizeof(Runs))
        idmap_put(&self.places, node, name, self.count)
        self.count += 1
        return self.count - 1


cdef inline Run *run_items(const Runs *runs) noexcept:
    """The runs: most names have one, which needs no memory of its own."""
    return <Run *>&runs.one if runs.capacity == 0 else runs.items


cdef inline uint32_t run_before(const Runs *runs, uint32_t index) noexcept:
    """The last run that begins before the index, or NONE; mostly that is the very last."""
    cdef uint32_t low = 0, high = runs.count, middle
    cdef const Run *items = run_items(runs)
    if high and items[high - 1].first < index:
        return high - 1
    while low < high:
        middle = (low + high) // 2
        if items[middle].first < index:
            low = middle + 1
        else:
            high = middle
    return low - 1 if low else NONE


cdef int set_run(Runs *runs, uint32_t index, uint32_t counter) except -1:
    """Give one index a counter: cut it out of its run, put it in, join it with its neighbours."""
    cdef uint32_t at = run_before(runs, index + 1)
    cdef Run old
    make_run_room(runs)
    if at != NONE and run_items(runs)[at].last >= index:
        old = run_items(runs)[at]
        remove_run(runs, at)
        if index < old.last:
            insert_run(runs, at, index + 1, old.last, old.counter)
        insert_run(runs, at, index, index, counter)
        if old.first < index:
            insert_run(runs, at, old.first, index - 1, old.counter)
            at += 1
    else:
        at = 0 if at == NONE else at + 1
        insert_run(runs, at, index, index, counter)
    join_run(runs, at + 1)
    join_run(runs, at)
    return 0


cdef int make_run_room(Runs *runs) except -1:
    """Room for two runs more, or for the first one."""
    cdef Run *items
    if runs.count == 0 or runs.count + 2 <= runs.capacity:
        return 0
    items = <Run *>PyMem_Realloc(runs.items, (runs.capacity * 2 + 4) * sizeof(Run))
    if items == NULL:
        raise MemoryError()
    if runs.capacity == 0:
        items[0] = runs.one
    runs.items, runs.capacity = items, runs.capacity * 2 + 4
    return 0


cdef void insert_run(Runs *runs, uint32_t at, uint32_t first, uint32_t last,
                     uint32_t counter) noexcept:
    cdef Run *items = run_items(runs)
    memmove(&items[at + 1], &items[at], (runs.count - at) * sizeof(Run))
    items[at].first, items[at].last, items[at].counter = first, last, counter
    runs.count += 1


cdef void remove_run(Runs *runs, uint32_t at) noexcept:
    cdef Run *items = run_items(runs)
    runs.count -= 1
    memmove(&items[at], &items[at + 1], (runs.count - at) * sizeof(Run))


cdef void join_run(Runs *runs, uint32_t at) noexcept:
    """Make one of a run and the one before it where they say the same of neighbouring numbers."""
    cdef Run *items = run_items(runs)
    if (0 < at < runs.count and items[at - 1].counter == items[at].counter
            and items[at - 1].last + 1 == items[at].first):
        items[at - 1].last = items[at].last
        remove_run(runs, at)
