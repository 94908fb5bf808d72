# Names as numbers, scopes as nodes, variables as rows: the tables, each knowing none above it.

# What has to be so if the core is right.  Looked at where it was built with VARSCOPE_CHECKED=1, and
# nowhere else: but only plain comparisons, as what Cython needs steps for is computed all the same.
cdef extern from *:
    """
    #include <assert.h>
    #define varscope_assert(condition) assert(condition)
    """
    void has_to_be "varscope_assert"(bint condition) noexcept nogil


# A table that is written at once, from one end to the other, waits for its pages more than for
# anything else.  Where the system has large ones they are asked for.
cdef extern from *:
    """
    #if defined(__linux__)
    #include <stdint.h>
    #include <sys/mman.h>
    #endif
    static inline void varscope_expect(void *memory, size_t size) {
    #if defined(__linux__) && defined(MADV_HUGEPAGE)
        const uintptr_t page = (uintptr_t)1 << 21;
        uintptr_t first = ((uintptr_t)memory + page - 1) & ~(page - 1);
        uintptr_t last = ((uintptr_t)memory + size) & ~(page - 1);
        if (size >= 2 * page && first < last)
            (void)madvise((void *)first, last - first, MADV_HUGEPAGE);
    #else
        (void)memory, (void)size;
    #endif
    }
    """
    void expect "varscope_expect"(void *memory, size_t size) noexcept nogil


# Memory that is read in a moment.
cdef extern from *:
    """
    #if defined(__GNUC__)
    #define varscope_prefetch(address) __builtin_prefetch(address)
    #else
    #define varscope_prefetch(address) ((void)(address))
    #endif
    """
    void prefetch "varscope_prefetch"(const void *address) noexcept nogil


# === IdMap ======================================================================================

cdef uint64_t SECRET = <uint64_t>PyObject_Hash("varscope")     # seeded, as all hashes of str


cdef inline size_t mixed(uint32_t a, uint32_t b) noexcept nogil:
    # Both keys are spread over all 64 bits and folded.  The two lowest bits of b are left out of
    # that and added at the end: four names in a row below one node lie side by side, and a loop
    # over the variables of a scope finds three of four in a cache line that is there already.
    # The secret differs from process to process: nobody can choose names that meet.
    cdef uint64_t x = (<uint64_t>a * <uint64_t>0x9E3779B97F4A7C15ULL
                       ^ <uint64_t>(b >> 2) * <uint64_t>0xBF58476D1CE4E5B9ULL ^ SECRET)
    x = (x ^ (x >> 32)) * <uint64_t>0x94D049BB133111EBULL
    return <size_t>(((x ^ (x >> 32)) << 2) + (b & 3))


cdef inline Slot *idmap_slot(const IdMap *self, uint32_t a, uint32_t b) noexcept nogil:
    """The slot that holds the key, or the empty one where it would go."""
    cdef size_t i = mixed(a, b) & self.mask
    cdef Slot *slot = &self.slots[i]
    while slot.value != NONE and (slot.a != a or slot.b != b):
        i = (i + 1) & self.mask
        slot = &self.slots[i]
    return slot


cdef inline uint32_t idmap_get(const IdMap *self, uint32_t a, uint32_t b) noexcept nogil:
    if self.slots == NULL:
        return NONE
    return idmap_slot(self, a, b).value


cdef int idmap_reserve(IdMap *self, size_t more) except -1:
    cdef IdMap grown
    cdef size_t i, size
    if self.slots != NULL and (self.used + more) * 4 <= (self.mask + 1) * 3:
        return 0
    # Small tables grow fast, and so seldom: to rehash is as much work as to insert.
    size = 16 if self.slots == NULL else (self.mask + 1) * (4 if self.mask < 8191 else 2)
    while (self.used + more) * 4 > size * 3:
        size *= 2
    grown.slots = <Slot *>PyMem_Malloc(size * sizeof(Slot))
    if grown.slots == NULL:
        raise MemoryError()
    expect(grown.slots, size * sizeof(Slot))
    memset(grown.slots, 0xFF, size * sizeof(Slot))      # every value is NONE
    grown.mask = size - 1
    grown.used = self.used
    if self.slots != NULL:
        for i in range(self.mask + 1):
            if self.slots[i].value != NONE:
                idmap_slot(&grown, self.slots[i].a, self.slots[i].b)[0] = self.slots[i]
    PyMem_Free(self.slots)
    self[0] = grown
    return 0


cdef void idmap_put(IdMap *self, uint32_t a, uint32_t b, uint32_t value) noexcept nogil:
    cdef Slot *slot = idmap_slot(self, a, b)
    has_to_be(self.used * 4 <= (self.mask + 1) * 3)
    if slot.value == NONE:
        self.used += 1
    slot.a, slot.b, slot.value = a, b, value


cdef void idmap_remove(IdMap *self, uint32_t a, uint32_t b) noexcept nogil:
    """Take a key out and close the gap: later slots of the run move up, no tombstone stays."""
    cdef Slot *slot = idmap_slot(self, a, b)
    cdef size_t gap = slot - self.slots, i = gap, home
    if slot.value == NONE:
        return
    self.used -= 1
    while True:
        i = (i + 1) & self.mask
        if self.slots[i].value == NONE:
            break
        home = mixed(self.slots[i].a, self.slots[i].b) & self.mask
        if ((i - home) & self.mask) >= ((i - gap) & self.mask):
            self.slots[gap] = self.slots[i]
            gap = i
    self.slots[gap].value = NONE


cdef void idmap_free(IdMap *self) noexcept:
    PyMem_Free(self.slots)
    self.slots = NULL
    self.used = 0


cdef inline uint32_t room(uint32_t count) except 0:
    """The capacity to grow to: twice, and a quarter more from 16 thousand on.

    So little lies idle at ten million rows.
    """
    cdef uint32_t more = (count if count < 16384 else count >> 2) + 8
    if count >= FAMILY - 1 - more:
        raise MemoryError("a graph holds at most 1.7 billion names, scopes or variables")
    return count + more


cdef void *grown(void *memory, uint32_t *capacity, size_t size) except NULL:
    cdef uint32_t larger = room(capacity[0])
    cdef void *found = PyMem_Realloc(memory, larger * size)
    if found == NULL:
        raise MemoryError()
    capacity[0] = larger
    return found


# === Names ======================================================================================

cdef enum:
    LONGEST_NUMBERED = 255     # longer names are never taken for one of a family
    INSIDE = 1                 # may stand in a component
    FIRST = 2                  # may be the first character of a path

cdef unsigned char CHARACTER[128]
memset(CHARACTER, 0, sizeof(CHARACTER))
for _c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.":
    CHARACTER[<Py_UCS4>_c] = INSIDE | FIRST
for _c in "_-":
    CHARACTER[<Py_UCS4>_c] = INSIDE


cdef inline bint same_text(PyObject *a, PyObject *b) noexcept:
    # b comes from the table, which holds ASCII only: equal length and bytes are equal text,
    # and no comparison written in Python can run.
    cdef Py_ssize_t length = PyUnicode_GET_LENGTH(a)
    return (length == PyUnicode_GET_LENGTH(b) and PyUnicode_IS_ASCII(a)
            and memcmp(PyUnicode_DATA(a), PyUnicode_DATA(b), length) == 0)


cdef inline uint32_t name_hash(PyObject *text) noexcept:
    # All bits of Python's hash have a say in where a name goes.  Those whose low bits agree are
    # found in no time where the seed is known, and with PYTHONHASHSEED it is.
    return <uint32_t>(<uint64_t><size_t>PyObject_Hash(<object>text)
                      * <uint64_t>0x9E3779B97F4A7C15ULL >> 32)


cdef inline NameSlot *free_slot(NameSlot *slots, size_t mask, uint32_t hash) noexcept nogil:
    cdef size_t i = hash & mask
    while slots[i].id != NONE:
        i = (i + 1) & mask
    return &slots[i]


@cython.final
cdef class NameTable:
    """Path components: exact ASCII strings and their ids.

    A slot holds an id and half of the hash, which tells nearly all other names apart: so to see
    that a name is new is to look at a few slots in a row, and to grow is to go through them once.
    The texts are looked at for a name that is there.  Python's string hash is seeded, so nobody
    can prepare names that collide.
    """

    def __cinit__(self):
        self.mask = 0

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.count):
            Py_XDECREF(self.names[i].text)
        PyMem_Free(self.names)
        PyMem_Free(self.slots)

    cdef inline uint32_t find(self, PyObject *text) noexcept:
        """The id of an exact str, or NONE; hashing one cannot fail and runs no other code."""
        return self.find_hashed(text, name_hash(text))

    cdef inline uint32_t find_hashed(self, PyObject *text, uint32_t hash) noexcept:
        cdef size_t i = hash & self.mask
        cdef const NameSlot *slot
        if self.slots == NULL:
            return NONE
        while True:
            slot = &self.slots[i]
            if slot.id == NONE:
                return NONE
            if slot.hash == hash and (self.names[slot.id].text == text
                                      or same_text(text, self.names[slot.id].text)):
                return slot.id
            i = (i + 1) & self.mask

    cdef inline void expect_text(self, PyObject *text) noexcept:
        """Have the place in the table at hand where a text is looked for in a moment."""
        if self.slots != NULL:
            prefetch(&self.slots[name_hash(text) & self.mask])

    cdef int reserve(self, uint32_t more) except -1:
        cdef uint32_t capacity
        cdef size_t size, i
        cdef Name *names
        cdef NameSlot *slots
        if self.count + more > self.capacity:
            capacity = max(room(self.count), self.count + more)
            names = <Name *>PyMem_Realloc(self.names, <size_t>capacity * sizeof(Name))
            if names == NULL:
                raise MemoryError()
            self.names, self.capacity = names, capacity
        if self.slots == NULL or (<size_t>self.count + more) * 4 > (self.mask + 1) * 3:
            size = 32 if self.slots == NULL else (self.mask + 1) * 2
            while (<size_t>self.count + more) * 4 > size * 3:
                size *= 2
            slots = <NameSlot *>PyMem_Malloc(size * sizeof(NameSlot))
            if slots == NULL:
                raise MemoryError()
            memset(slots, 0xFF, size * sizeof(NameSlot))        # every id is NONE
            if self.slots != NULL:
                for i in range(self.mask + 1):
                    if self.slots[i].id != NONE:
                        free_slot(slots, size - 1, self.slots[i].hash)[0] = self.slots[i]
            PyMem_Free(self.slots)
            self.slots, self.mask = slots, size - 1
        return 0

    cdef uint32_t intern(self, str component) except NONE:
        """The id of a component that `components` has passed, made when it is new."""
        cdef PyObject *text = <PyObject *>component
        cdef uint32_t hash = name_hash(text), number, base = NONE
        cdef uint32_t id = self.find_hashed(text, hash)
        cdef NameSlot *slot
        if id != NONE:
            return id
        number = trailing_number(text)
        if number:
            base = self.intern_base(component)
        self.reserve(1)
        slot = free_slot(self.slots, self.mask, hash)
        id = self.count
        has_to_be(id < self.capacity)
        Py_INCREF(component)
        self.names[id].text = text
        self.names[id].starts_path = (CHARACTER[component[0]] & FIRST) != 0
        self.names[id].suffix = number
        self.names[id].base = base
        self.names[id].node = NONE
        self.names[id].place = 0
        self.names[id].numbered = self.names[id].named_op = self.names[id].of_variable = False
        self.names[id].of_partition = self.names[id].of_nodes = False
        slot.id, slot.hash = id, hash
        self.count += 1
        return id

    cdef uint32_t intern_base(self, str component) except? NONE:
        """The id of `base` in `base_N`: whoever makes it unique has to know of the other."""
        cdef uint32_t base
        if len(component) > LONGEST_NUMBERED:  # a_1_1_1...: not one name for each of its suffixes
            self.long_numbered = True
            return NONE
        # Names that differ in their numbers come one after another.
        if self.recent_base != 0 and is_base(self.names[self.recent_base].text,
                                             <PyObject *>component):
            return self.recent_base
        base = self.intern(component[:component.rindex("_")])
        self.names[base].numbered = True
        self.recent_base = base
        return base

    cdef inline str text(self, uint32_t id):
        has_to_be(id < self.count)
        return <str>self.names[id].text


cdef bint is_base(PyObject *base, PyObject *component) noexcept:
    """Whether an ASCII text with a trailing number reads base_N with this base."""
    cdef Py_ssize_t length = PyUnicode_GET_LENGTH(base), i
    cdef const unsigned char *data = <const unsigned char *>PyUnicode_DATA(component)
    if (length + 1 >= PyUnicode_GET_LENGTH(component) or data[length] != c'_'
            or memcmp(data, PyUnicode_DATA(base), length) != 0):
        return False
    for i in range(length + 1, PyUnicode_GET_LENGTH(component)):
        if data[i] == c'_':
            return False
    return True


cdef uint32_t trailing_number(PyObject *text) noexcept:
    """N where an ASCII text reads base_N with a plain decimal N from 1 to 999,999,999, else 0."""
    cdef const unsigned char *data = <const unsigned char *>PyUnicode_DATA(text)
    cdef Py_ssize_t length = PyUnicode_GET_LENGTH(text), at = length
    cdef uint32_t value = 0, place = 1
    while at > 0 and c'0' <= data[at - 1] <= c'9' and length - at < 9:
        at -= 1
        value += place * (data[at] - c'0')
        place *= 10
    if at == length or at < 2 or data[at - 1] != c'_' or data[at] == c'0':
        return 0
    return value


cdef int check_component(str name, Py_ssize_t start, Py_ssize_t stop, bint at_root) except -1:
    cdef Py_ssize_t i
    if start == stop:
        raise errors.InvalidNameError.empty_component(name)
    for i in range(start, stop):
        if name[i] >= 128 or not CHARACTER[name[i]] & INSIDE:
            raise errors.InvalidNameError.bad_character(name, i)
    if at_root and not CHARACTER[name[start]] & FIRST:
        raise errors.InvalidNameError.bad_start(name)
    return 0


cdef bint is_component(str name, bint at_root) noexcept:
    """Whether the name is one good component: what `components` would take without complaint."""
    cdef PyObject *text = <PyObject *>name
    cdef Py_ssize_t i, length = PyUnicode_GET_LENGTH(text)
    cdef const unsigned char *data
    if length == 0 or not PyUnicode_IS_ASCII(text):
        return False
    data = <const unsigned char *>PyUnicode_DATA(text)
    for i in range(length):
        if not CHARACTER[data[i]] & INSIDE:
            return False
    return not at_root or CHARACTER[data[0]] & FIRST != 0


cdef list components(str name, bint at_root):
    """The components of a path below the root or another scope; every one is checked."""
    cdef Py_ssize_t i, start = 0
    cdef list parts = []
    for i in range(len(name) + 1):
        if i == len(name) or name[i] == u"/":
            check_component(name, start, i, at_root and start == 0)
            parts.append(name[start:i])
            start = i + 1
    return parts


cdef inline str exact(object name, str what):
    """The name as an exact str, so that no method of a subclass ever runs in a probe."""
    if PyUnicode_CheckExact(name):
        return <str>name
    if isinstance(name, str):
        return PyUnicode_FromObject(name)
    raise errors.ArgumentTypeError.of(what, "a str", name)


# === Scopes as nodes, variables as rows =========================================================

@cython.final
cdef class ScopeTree:
    """Paths: a node is a name below a parent node.  Node 0 is the root, the empty path.

    The first node of a name is noted with the name, and only the others are in the map.  So a
    name like layer_123456, of which there is one, needs no entry there: that it is new says that
    it has no node yet, and its own record, which was read when its text was compared, says where
    the node is.
    """

    def __cinit__(self, NameTable names not None):
        self.names = names
        self.nodes = <Node *>PyMem_Malloc(8 * sizeof(Node))
        if self.nodes == NULL:
            raise MemoryError()
        self.nodes[0] = new_node(NONE, NONE)
        self.count, self.capacity = 1, 8

    def __dealloc__(self):
        PyMem_Free(self.nodes)
        idmap_free(&self.children)

    cdef inline uint32_t find(self, uint32_t parent, uint32_t name) noexcept:
        cdef uint32_t node
        has_to_be(parent < self.count)
        has_to_be(name & ~FAMILY < self.names.count)
        if not name & FAMILY:
            node = self.names.names[name].node
            if node == NONE or self.nodes[node].parent == parent:
                return node
            if not self.names.names[name].of_nodes:
                return NONE
        return idmap_get(&self.children, parent, name)

    cdef uint32_t child(self, uint32_t parent, uint32_t name) except NONE:
        cdef uint32_t node = self.find(parent, name)
        if node != NONE:
            return node
        if self.count == self.capacity:
            self.grow(room(self.count))
        if name & FAMILY or self.names.names[name].node != NONE:
            idmap_reserve(&self.children, 1)
        return self.add(parent, name)

    cdef int grow(self, uint32_t capacity) except -1:
        cdef Node *nodes = <Node *>PyMem_Realloc(self.nodes, <size_t>capacity * sizeof(Node))
        if nodes == NULL:
            raise MemoryError()
        self.nodes, self.capacity = nodes, capacity
        return 0

    cdef int reserve(self, size_t more) except -1:
        if self.count + more > self.capacity:
            if self.count + more >= FAMILY - 1:
                raise MemoryError("a graph holds at most 1.7 billion names, scopes or variables")
            self.grow(max(room(self.count), <uint32_t>(self.count + more)))
            expect(&self.nodes[self.count], more * sizeof(Node))
        idmap_reserve(&self.children, more)
        return 0

    cdef inline uint32_t add(self, uint32_t parent, uint32_t name) noexcept:
        """A node that is not there, for which there is room."""
        cdef uint32_t node = self.count
        has_to_be(node < self.capacity)
        if not name & FAMILY and self.names.names[name].node == NONE:
            self.names.names[name].node = node
        else:
            idmap_put(&self.children, parent, name, node)
            if not name & FAMILY:
                self.names.names[name].of_nodes = True
        self.nodes[node] = new_node(parent, name)
        self.count += 1
        return node


cdef inline Node new_node(uint32_t parent, uint32_t name) noexcept nogil:
    cdef Node node
    node.parent, node.name = parent, name
    node.first_row = node.rows = node.counter = 0
    return node


# A row whose values lie in a slab needs no object for that: its `content` is a tag, which says
# where they lie.  The lowest bit tells a tag from a pointer, because objects lie at even
# addresses.  When somebody asks for the content, a Content is made and stands in the tag's place
# from then on.

cdef enum:
    PLACED = 1                 # set in every tag, and in no pointer
    FILLED = 2                 # the values are there; without it the row counts as declared
    DIRTY = 4                  # somebody began to write there: no longer zero bytes for sure
    PLACE_SHIFT = 3            # the byte in the slab stands above so many bits


cdef inline bint is_tag(const PyObject *content) noexcept nogil:
    return (<size_t>content & PLACED) != 0


cdef inline bint is_filled(const PyObject *content) noexcept nogil:
    return content != NULL and (<size_t>content & (PLACED | FILLED)) != PLACED


cdef inline PyObject *tag_of(int64_t place) noexcept nogil:
    return <PyObject *>(<size_t>place << PLACE_SHIFT | PLACED)


cdef inline int64_t place_of(const PyObject *tag) noexcept nogil:
    return <int64_t>(<size_t>tag >> PLACE_SHIFT)


cdef inline void drop_content(PyObject *content) noexcept:
    if not is_tag(content):
        Py_XDECREF(content)


cdef enum:
    FEW = 16                   # rows of a node that need no index

cdef extern from *:            # see NONE
    enum: INDEXED "0xFFFFFFFFu"    # in the place of their number: the index has them


@cython.final
cdef class VariableTable:
    """The variables of a graph, one row each, in the order in which they were created.

    Programs create the variables of a scope one after another, and few of them.  As long as that
    is so, the rows of a node lie side by side, and the node says where: to see that one of them
    is new is to look at the names of the others, which lie in the cache.  To find one is mostly
    to look at one: scopes are alike, so a name remembers how far from the first row it stood.  A
    node whose rows are scattered, or many, has them in the index, a hash map.  So the memory of
    a large model is written and read from one end to the other, which is what machines do well.
    """

    def __cinit__(self, ScopeTree tree not None):
        self.tree = tree

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.count):
            drop_content(self.rows[i].content)
        PyMem_Free(self.rows)
        idmap_free(&self.index)

    cdef inline uint32_t find(self, uint32_t node, uint32_t name) noexcept:
        cdef const Node *n = &self.tree.nodes[node]
        cdef const Name *of = &self.tree.names.names[name]
        cdef uint32_t row
        has_to_be(node < self.tree.count)
        has_to_be(name < self.tree.names.count)
        if not of.of_variable:
            return NONE
        if n.rows == INDEXED:
            return idmap_get(&self.index, node, name)
        if of.place < n.rows and self.rows[n.first_row + of.place].name == name:
            return n.first_row + of.place
        for row in range(n.first_row, n.first_row + n.rows):
            if self.rows[row].name == name:
                return row
        return NONE

    cdef int reserve(self, uint32_t node) except -1:
        cdef uint32_t capacity
        cdef Row *rows
        if self.count == self.capacity:
            capacity = room(self.count)
            rows = <Row *>PyMem_Realloc(self.rows, <size_t>capacity * sizeof(Row))
            if rows == NULL:
                raise MemoryError()
            self.rows, self.capacity = rows, capacity
        if not self.continues(node):
            idmap_reserve(&self.index, FEW + 1)
        return 0

    cdef inline bint continues(self, uint32_t node) noexcept:
        """Whether the next row may be one of this node without an entry in the index."""
        cdef const Node *n = &self.tree.nodes[node]
        return n.rows == 0 or (n.rows < FEW and n.first_row + n.rows == self.count)

    cdef uint32_t add(self, uint32_t node, uint32_t name, uint32_t spec,
                      uint32_t site) noexcept:
        cdef Row *row = &self.rows[self.count]
        cdef Node *n = &self.tree.nodes[node]
        has_to_be(self.count < self.capacity)
        row.node, row.name, row.spec, row.site = node, name, spec, site
        row.handle = row.content = NULL
        self.tree.names.names[name].of_variable = True
        if not self.continues(node):
            self.add_to_index(n, row)
        else:
            if n.rows == 0:
                n.first_row = self.count
            self.tree.names.names[name].place = <unsigned char>n.rows
            n.rows += 1
        self.count += 1
        return self.count - 1

    cdef void add_to_index(self, Node *n, const Row *row) noexcept:
        """Another row for a node with many or scattered ones; `reserve` has made room."""
        cdef uint32_t i
        if n.rows != INDEXED:
            for i in range(n.first_row, n.first_row + n.rows):
                idmap_put(&self.index, self.rows[i].node, self.rows[i].name, i)
            n.rows = INDEXED
        idmap_put(&self.index, row.node, row.name, self.count)

    cdef void remove(self, uint32_t row) noexcept:
        """Take a row out, as if it had never been; the rows behind it move up.

        What the row owns was taken over before.
        """
        cdef uint32_t i
        cdef Node *n = &self.tree.nodes[self.rows[row].node]
        has_to_be(row < self.count)
        if n.rows == INDEXED:
            idmap_remove(&self.index, self.rows[row].node, self.rows[row].name)
        else:
            n.rows -= 1
        for i in range(row + 1, self.count):
            self.rows[i - 1] = self.rows[i]
            n = &self.tree.nodes[self.rows[i].node]
            if n.rows == INDEXED:
                idmap_put(&self.index, self.rows[i].node, self.rows[i].name, i - 1)
            elif n.first_row == i:
                n.first_row = i - 1
            if self.rows[i].handle != NULL:
                (<Handle>self.rows[i].handle).row = i - 1
        self.count -= 1
        self.removed += 1


@cython.final
cdef class Spec:
    """What a variable is, apart from its name and its values; shared by variables that are alike.

    `creation` makes specs; the core only compares and keeps them.
    """

    def __init__(self, shape, dtype, initializer, regularizer, trainable, tuple collections,
                 caching_device, constraint, validate_shape, repeatable):
        self.shape = shape
        self.dtype = dtype
        self.initializer = initializer
        self.regularizer = regularizer
        self.trainable = trainable
        self.collections = collections
        self.caching_device = caching_device
        self.constraint = constraint
        self.validate_shape = validate_shape
        self.repeatable = repeatable
        self.itemsize = dtype.itemsize
        self.size = self.rank = -1
        if shape is None or None in shape:
            return
        self.size = 1
        for dim in shape:
            self.size *= <int64_t>dim           # `shapes` has refused what would overflow
        if len(shape) <= MAX_DIMS:
            self.rank = len(shape)
            for i, dim in enumerate(shape):
                self.dims[i] = dim

    def resolved(self, shape):
        """The same with the shape that an initializer decided."""
        return Spec(shape, self.dtype, self.initializer, self.regularizer, self.trainable,
                    self.collections, self.caching_device, self.constraint,
                    self.validate_shape, False)

    @property
    def how_to_call(self):
        """What `initializers` found out about the initializer; None before that."""
        cdef Held held
        hold(&held, <PyObject *>self)
        found = self.calling
        release(&held)
        return found

    @how_to_call.setter
    def how_to_call(self, found):
        cdef Held held
        hold(&held, <PyObject *>self)
        if self.calling is None:
            self.calling = found
        release(&held)

    def __reduce__(self):
        return Spec, (self.shape, self.dtype, self.initializer, self.regularizer, self.trainable,
                      self.collections, self.caching_device, self.constraint,
                      self.validate_shape, self.repeatable)

    cdef tuple key(self):
        # Hooks count by identity: equality of arbitrary objects may be anything, and slow.
        cdef list keys = []
        for collection in self.collections:
            keys.append(collection if PyUnicode_CheckExact(collection) else id(collection))
        return (self.shape, self.dtype, id(self.initializer), id(self.regularizer),
                self.trainable, tuple(keys), id(self.caching_device), id(self.constraint),
                self.validate_shape, self.repeatable)


# === Requests seen before =======================================================================

cdef inline size_t request_hash(const Request *request) noexcept:
    cdef uint64_t x = <uint64_t>request.defaults >> 4
    cdef int i
    for i in range(8):
        x = (x ^ (<uint64_t>request.parts[i] >> 4)) * <uint64_t>0x9E3779B97F4A7C15ULL
    for i in range(request.rank):
        x = (x ^ <uint64_t>request.dims[i]) * <uint64_t>0xBF58476D1CE4E5B9ULL
    return <size_t>(x ^ (x >> 32))


cdef inline bint same_request(const Request *a, const Request *b) noexcept:
    return (a.defaults == b.defaults and a.rank == b.rank
            and memcmp(a.parts, b.parts, sizeof(a.parts)) == 0
            and (a.rank <= 0 or memcmp(a.dims, b.dims, a.rank * sizeof(int64_t)) == 0))


@cython.final
@cython.no_gc_clear        # the slots borrow from `owned`; emptying it alone would let them dangle
cdef class RequestCache:

    def __dealloc__(self):
        PyMem_Free(self.slots)

    cdef inline uint32_t find(self, const Request *request) noexcept:
        cdef Request *slot
        if self.slots == NULL:
            return NONE
        if same_request(self.recent, request):
            return self.recent.spec
        slot = &self.slots[request_hash(request) & self.mask]
        if not same_request(slot, request):
            return NONE
        self.recent = slot
        return slot.spec

    cdef int put(self, const Request *request) except -1:
        cdef size_t at
        cdef int i
        cdef list keys = [<object>request.defaults]
        for i in range(8):
            keys.append(<object>request.parts[i])
        if self.slots == NULL:
            self.resize(64)
        while True:
            at = request_hash(request) & self.mask
            if self.slots[at].defaults == NULL or self.mask + 1 >= 4096:
                break
            self.resize((self.mask + 1) * 2)
        self.slots[at] = request[0]
        old = self.owned[at]               # let go of last, when the slot no longer borrows
        self.owned[at] = keys
        return 0

    cdef int resize(self, size_t size) except -1:
        cdef Request *old = self.slots
        cdef list owned = [None] * size
        cdef size_t i, at, old_size = 0 if old == NULL else self.mask + 1
        cdef Request *slots = <Request *>PyMem_Calloc(size, sizeof(Request))
        if slots == NULL:
            raise MemoryError()
        for i in range(old_size):
            if old[i].defaults != NULL:
                at = request_hash(&old[i]) & (size - 1)
                slots[at] = old[i]
                owned[at] = self.owned[i]
        self.slots = self.recent = slots
        self.mask, self.owned = size - 1, owned
        PyMem_Free(old)
        return 0
