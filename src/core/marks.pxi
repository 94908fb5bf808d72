# Which scopes were opened here: a log that is read through a length.

# === Marks for default names ====================================================================

@cython.final
cdef class Marks:
    """A log of "this scope was opened" and "everything below this one is forgotten".

    The newest event of a key decides.  Up to eight events are searched in line, and no more is
    needed while new scopes are opened, whose nodes come one after another, or while the same ones
    are opened again in that order.  Where that is not so, a hash map from key to newest event is
    made.  A log with many more events than keys (a loop that marks and forgets the same scopes)
    is written anew with what still counts.
    """

    def __cinit__(self):
        self.events = self.inline_events
        self.capacity = 8
        self.in_order = True
        self.last_deep = NONE

    def __dealloc__(self):
        if self.events != self.inline_events:
            PyMem_Free(self.events)
        idmap_free(&self.latest)
        idmap_free(&self.suffixes)

    cdef uint32_t next_suffix(self, uint32_t parent, uint32_t name) noexcept:
        """The first suffix of a default name that was not tried yet."""
        cdef uint32_t suffix = idmap_get(&self.suffixes, parent, name)
        return 1 if suffix == NONE else suffix

    cdef int note_suffix(self, uint32_t parent, uint32_t name, uint32_t suffix,
                         bint deep) except -1:
        idmap_reserve(&self.suffixes, 1)
        self.deep_suffixes = self.deep_suffixes or deep
        idmap_put(&self.suffixes, parent, name, suffix)
        return 0

    cdef uint32_t newest(self, uint32_t node, bint forget, uint32_t length) noexcept:
        """The newest event of this key among the first `length` ones, or NONE."""
        cdef uint32_t i
        if self.count > 8 and self.latest.slots == NULL:
            # Only marks, in the order of their nodes.
            if forget or self.ascends(node, False):
                return NONE
            if self.events[self.turn].node != node:
                self.turn = self.turn + 1 if self.turn + 1 < self.count else 0
            if self.events[self.turn].node == node:
                return self.turn if self.turn < length else NONE
            try:
                self.index_events()
            except MemoryError:
                pass                   # it takes longer without
        if self.latest.slots == NULL:
            i = self.count
            while i > 0:
                i -= 1
                if self.events[i].node == node and self.events[i].forget == forget:
                    break
            else:
                return NONE
        else:
            i = idmap_get(&self.latest, node, forget)
        while i != NONE and i >= length:
            i = self.events[i].older
        return i

    cdef int append(self, uint32_t node, bint forget, bint deep) except -1:
        cdef uint32_t capacity, older = self.newest(node, forget, self.count)
        cdef bint ascends = self.ascends(node, forget)
        cdef Mark *events
        if self.count == self.capacity:
            capacity = self.capacity * 2
            events = <Mark *>PyMem_Malloc(capacity * sizeof(Mark))
            if events == NULL:
                raise MemoryError()
            memcpy(events, self.events, self.count * sizeof(Mark))
            if self.events != self.inline_events:
                PyMem_Free(self.events)
            self.events, self.capacity = events, capacity
        if self.count >= 8 and self.latest.slots == NULL and not ascends:
            self.index_events()
        if self.latest.slots != NULL:
            idmap_reserve(&self.latest, 1)
            idmap_put(&self.latest, node, forget, self.count)
        self.events[self.count].node = node
        self.events[self.count].older = older
        self.events[self.count].forget = forget
        if deep and not forget:
            self.last_deep = self.count
        if forget:
            self.has_forgets = True
            if deep or self.deep_suffixes:
                idmap_free(&self.suffixes)      # forgotten suffixes are free again
        self.distinct += older == NONE
        self.in_order = ascends
        self.count += 1
        return 0

    cdef inline bint ascends(self, uint32_t node, bint forget) noexcept:
        """Whether the log holds only marks in the order of their nodes, this one included."""
        return self.in_order and not forget and (
            self.count == 0 or node > self.events[self.count - 1].node)

    cdef int index_events(self) except -1:
        cdef IdMap latest
        cdef uint32_t i
        memset(&latest, 0, sizeof(IdMap))
        try:
            for i in range(self.count):
                idmap_reserve(&latest, 1)
                idmap_put(&latest, self.events[i].node, self.events[i].forget, i)
        except MemoryError:
            idmap_free(&latest)
            raise
        self.latest = latest
        return 0

    cdef Marks copied(self, uint32_t length):
        """The first `length` events, without those that a newer one of the same key replaced."""
        cdef Marks new = Marks()
        cdef uint32_t i
        for i in range(length):
            if self.newest(self.events[i].node, self.events[i].forget, length) == i:
                new.append(self.events[i].node, self.events[i].forget,
                           self.last_deep != NONE and i <= self.last_deep)
        return new
