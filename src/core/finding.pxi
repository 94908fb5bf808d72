# Finding variables by patterns on their op names.

# === Patterns ===================================================================================

cdef enum:
    LITERAL = 0                # a component that is just so
    WILD = 1                   # one with * or ? in it
    ANY = 2                    # *
    DEEP = 3                   # **: any number of components


@cython.final
cdef class Glob:
    """A pattern, taken apart; `glob` makes and keeps them.

    A search goes down the tree with a set of states: state i says that the parts before i fit the
    path so far.  So what it has to know of a path is one bit a part, however many ways there are
    to share the components out among several `**`, and nothing is ever tried again.

    At the end of a pattern `**` stands for one component at least, which is `**` and then `*`.
    Runs of the two are put in order, so that no `**` is last or follows another one.
    """

    def __cinit__(self, str pattern not None):
        cdef uint32_t i
        cdef list texts = parts_in_order(pattern)
        self.texts = tuple(texts)
        self.count = <uint32_t>len(texts)
        self.words = self.count // 64 + 1
        self.parts = <Part *>PyMem_Malloc(self.count * sizeof(Part))
        self.deep = <uint64_t *>PyMem_Calloc(3 * <size_t>self.words, sizeof(uint64_t))
        if self.parts == NULL or self.deep == NULL:
            raise MemoryError()
        self.any, self.above = self.deep + self.words, self.deep + 2 * <size_t>self.words
        self.head = self.count - 1
        for i in range(self.count):
            text = self.texts[i]
            self.parts[i].text = <PyObject *>text
            self.parts[i].kind = kind_of(text)
            if i + 1 < self.count:
                set_bit(self.above, i)
            if self.parts[i].kind == ANY:
                set_bit(self.any, i)
            if self.parts[i].kind == DEEP:
                set_bit(self.deep, i)
                self.head = min(self.head, i)
            else:
                self.fixed += 1

    def __dealloc__(self):
        PyMem_Free(self.parts)
        PyMem_Free(self.deep)


cdef list parts_in_order(str pattern):
    """The components, with * before ** where both come in a row: see Glob."""
    cdef list parts = [], components = pattern.split("/")
    cdef Py_ssize_t stars = 0
    cdef bint deep = False
    for part in components:
        if "**" in part and part != "**":
            raise errors.InvalidNameError(
                f"pattern {pattern!r}: '**' must be a component of its own; write it so, as in "
                "'a/**/w'", pattern, part)
        if part == "**":
            deep = True
        elif part == "*":
            stars += 1
        else:
            parts += ["*"] * stars
            if deep:
                parts.append("**")
            parts.append(part)
            stars, deep = 0, False
    if components[len(components) - 1] == "**":
        stars += 1
    if deep:
        return parts + ["*"] * (stars - 1) + ["**", "*"]
    return parts + ["*"] * stars


cdef unsigned char kind_of(str part):
    if part == "**":
        return DEEP
    if part == "*":
        return ANY
    # No name has other characters than ASCII ones: as a literal it is not there.
    return WILD if part.isascii() and ("*" in part or "?" in part) else LITERAL


cdef enum:
    KEPT_GLOBS = 512

cdef dict globs = {}


def glob(pattern):
    """The Glob of a pattern; those of the last few hundred are kept."""
    cdef str text = exact(pattern, "pattern")
    found = globs.get(text)
    if found is None:
        found = Glob(text)
        if len(globs) >= KEPT_GLOBS:
            globs.clear()
        globs[text] = found
    return found


cdef inline void set_bit(uint64_t *bits, size_t i) noexcept nogil:
    bits[i >> 6] |= <uint64_t>1 << (i & 63)


cdef inline bint has_bit(const uint64_t *bits, size_t i) noexcept nogil:
    return bits[i >> 6] >> (i & 63) & 1


cdef bint text_fits(PyObject *part, PyObject *text) noexcept:
    """Whether an ASCII text fits a part with * and ?.

    Only the last * is ever taken back: what an earlier one could take as well, this one can.
    """
    cdef const unsigned char *p = <const unsigned char *>PyUnicode_DATA(part)
    cdef const unsigned char *t = <const unsigned char *>PyUnicode_DATA(text)
    cdef const unsigned char *p_end = p + PyUnicode_GET_LENGTH(part)
    cdef const unsigned char *t_end = t + PyUnicode_GET_LENGTH(text)
    cdef const unsigned char *star = NULL
    cdef const unsigned char *taken = NULL
    while t < t_end:
        if p < p_end and p[0] == c'*':
            p += 1
            star, taken = p, t
        elif p < p_end and (p[0] == c'?' or p[0] == t[0]):
            p += 1
            t += 1
        elif star == NULL:
            return False
        else:
            taken += 1
            p, t = star, taken
    while p < p_end and p[0] == c'*':
        p += 1
    return p == p_end


# === What lies below ============================================================================

cdef void *widened(void *items, uint32_t *capacity, uint32_t count, size_t size) except NULL:
    """The items, moved to where there is room for more than so many."""
    cdef uint32_t more
    if count < capacity[0]:
        return items
    more = room(count)
    items = PyMem_Realloc(items, more * size)
    if items == NULL:
        raise MemoryError()
    capacity[0] = more
    return items


@cython.final
cdef class Outline:
    """The nodes and rows below a node, and the rows that share a last component.

    Creating a variable pays nothing for it: each search first adds what came since the last one.
    Rows that move up, because one before them was withdrawn, are noted anew.
    """

    def __cinit__(self):
        self.leaves = []

    def __dealloc__(self):
        PyMem_Free(self.branches)
        PyMem_Free(self.links)
        PyMem_Free(self.bearers)
        PyMem_Free(self.renamed)
        idmap_free(&self.renamed_in)

    cdef int catch_up(self, Registry graph) except -1:
        cdef NameTable names = graph.names
        if self.removed != graph.table.removed:
            self.forget_rows()
            self.removed = graph.table.removed
        self.branches = <Branch *>widened(
            self.branches, &self.node_room, graph.tree.count, sizeof(Branch))
        self.links = <Link *>widened(
            self.links, &self.row_room, graph.table.count, sizeof(Link))
        self.bearers = <Bearers *>widened(
            self.bearers, &self.name_room, names.count, sizeof(Bearers))
        while self.names < names.count:
            self.bearers[self.names].first_node = self.bearers[self.names].first_row = NONE
            self.names += 1
        self.add_nodes(graph.tree)
        self.add_rows(graph)
        return 0

    cdef void add_nodes(self, ScopeTree tree) noexcept:
        cdef uint32_t node
        cdef const Node *n
        cdef Branch *branch
        cdef Branch *parent
        cdef Bearers *bearers
        for node in range(self.nodes, tree.count):
            n, branch = &tree.nodes[node], &self.branches[node]
            branch.first_child = branch.next_child = branch.of_name = branch.first_row = NONE
            branch.depth = 0
            # A family of op names is no scope: no variable lies in it or below, so none of that is
            # on a list, and the depth stays 0.
            if node != ROOT and not n.name & FAMILY and (
                    n.parent == ROOT or self.branches[n.parent].depth):
                parent, bearers = &self.branches[n.parent], &self.bearers[n.name]
                branch.depth = parent.depth + 1
                branch.next_child, parent.first_child = parent.first_child, node
                branch.of_name, bearers.first_node = bearers.first_node, node
                self.deepest = max(self.deepest, branch.depth)
        self.nodes = tree.count

    cdef int add_rows(self, Registry graph) except -1:
        cdef const Row *row
        cdef Link *link
        cdef bint renames = len(graph.renamed) != 0
        while self.rows < graph.table.count:
            row = &graph.table.rows[self.rows]
            link = &self.links[self.rows]
            link.in_node = link.of_name = NONE
            suffix = graph.renamed.get(self.rows) if renames else None
            if suffix is not None:
                self.add_renamed(graph, self.rows, suffix)
            else:
                link.in_node = self.branches[row.node].first_row
                link.of_name = self.bearers[row.name].first_row
                self.branches[row.node].first_row = self.rows
                self.bearers[row.name].first_row = self.rows
            self.rows += 1
        return 0

    cdef int add_renamed(self, Registry graph, uint32_t row, object suffix) except -1:
        cdef uint32_t node = graph.table.rows[row].node
        cdef Renamed *new
        self.renamed = <Renamed *>widened(
            self.renamed, &self.rename_room, self.renames, sizeof(Renamed))
        idmap_reserve(&self.renamed_in, 1)
        leaf = suffixed(graph.names.text(graph.table.rows[row].name), suffix)
        self.leaves.append(leaf)
        new = &self.renamed[self.renames]
        new.row, new.leaf = row, <PyObject *>leaf
        new.in_node = idmap_get(&self.renamed_in, node, 0)
        idmap_put(&self.renamed_in, node, 0, self.renames)
        self.renames += 1
        return 0

    cdef void forget_rows(self) noexcept:
        cdef uint32_t i
        for i in range(self.nodes):
            self.branches[i].first_row = NONE
        for i in range(self.names):
            self.bearers[i].first_row = NONE
        self.rows = self.renames = 0
        idmap_free(&self.renamed_in)
        self.leaves.clear()

    cdef inline bint is_renamed(self, uint32_t node, uint32_t row) noexcept:
        cdef uint32_t k
        if self.renames == 0:
            return False
        k = idmap_get(&self.renamed_in, node, 0)
        while k != NONE and self.renamed[k].row != row:
            k = self.renamed[k].in_node
        return k != NONE


# === Searching ==================================================================================

cdef enum:
    STEPS_BETWEEN_SIGNALS = 0x10000        # less than a millisecond, mostly
    RIVALS = 8                 # literal parts that are looked at to find the rarest


@cython.final
cdef class Search:
    """One search of a graph for a pattern.

    It begins where the fewest ways lead: at the literal part that is borne by the fewest nodes, or
    variables if it is the last one.  What lies above such a node decides whether it fits so far;
    then the search walks down, and enters no node that cannot lead to a variable that fits.  In
    `layers_7/*/w1` it begins at layers_7, in `**/norm/scale` at all variables called scale.

    A name is compared with the parts of the pattern once, however many nodes and variables bear
    it.  The rows that were found are bits, and so come out in the order of creation.

    A signal may run any code in between.  What that creates is not looked at.  Where it withdraws
    a variable, rows move up, and all begins again: `run` and what it calls return False.
    """

    def __cinit__(self, Registry graph not None, Glob pattern not None):
        self.graph, self.glob = graph, pattern

    def __dealloc__(self):
        PyMem_Free(self.ids)
        PyMem_Free(self.fitting)
        PyMem_Free(self.found)
        PyMem_Free(self.path)
        PyMem_Free(self.reached)
        PyMem_Free(self.states)
        PyMem_Free(self.turns)
        PyMem_Free(self.anchors)
        PyMem_Free(self.walked)
        PyMem_Free(self.beyond)

    cdef bint run(self, list variables) except -1:
        """Append the variables that fit."""
        cdef uint32_t start, bearers, last = self.glob.count - 1
        cdef bint through
        self.outline = self.graph.outline
        self.outline.catch_up(self.graph)
        self.nodes, self.rows = self.outline.nodes, self.outline.rows
        self.names, self.removed = self.outline.names, self.outline.removed
        if self.glob.fixed > self.outline.deepest + 1 or not self.begin():
            return True                    # nothing is as long, or a component is nobody's
        start = self.rarest(&bearers)
        if start == last or self.anywhere():
            through = self.look_at_leaves()
        elif start == NONE:
            through = self.walk_all()
        else:
            through = self.walk_from(start, bearers)
        if through and self.climbs_too_far():
            through = self.walk_all()
        return through and self.fill(variables)

    cdef inline bint climbs_too_far(self) noexcept:
        """Whether walking down from the root is less work, and so is done instead.

        That is where the nodes of a list lie deep and apart by turns, as where two chains of scopes
        grew side by side: all that lies above is climbed anew for each.
        """
        return self.climbed > 4 * <uint64_t>self.nodes + self.rows

    cdef bint walk_all(self) except -1:
        self.anchor = NONE
        memcpy(self.states, self.reached, self.glob.words * sizeof(uint64_t))
        return self.walk(ROOT)

    cdef inline bint anywhere(self) noexcept:
        """Whether the pattern is ** and one more part, so that all above a variable fits."""
        return self.glob.count == 2 and self.glob.head == 0

    cdef bint begin(self) except -1:
        """Make room; False where nothing can fit."""
        cdef size_t words = self.glob.words, depths = <size_t>self.outline.deepest + 2, i
        self.ids = <uint32_t *>PyMem_Malloc(self.glob.count * sizeof(uint32_t))
        self.fitting = <uint64_t *>PyMem_Calloc(self.names * words + 1, sizeof(uint64_t))
        self.found = <uint64_t *>PyMem_Calloc((self.rows >> 6) + 1, sizeof(uint64_t))
        self.path = <uint32_t *>PyMem_Malloc(depths * sizeof(uint32_t))
        self.reached = <uint64_t *>PyMem_Malloc(depths * words * sizeof(uint64_t))
        self.states = <uint64_t *>PyMem_Malloc(depths * words * sizeof(uint64_t))
        self.turns = <uint32_t *>PyMem_Malloc(depths * sizeof(uint32_t))
        if (self.ids == NULL or self.fitting == NULL or self.found == NULL or self.path == NULL
                or self.reached == NULL or self.states == NULL or self.turns == NULL):
            raise MemoryError()
        self.first_found, self.last_found = self.rows >> 6, 0
        self.anchor = NONE
        for i in range(depths):
            self.path[i] = NONE
        self.path[0] = ROOT
        memset(self.reached, 0, words * sizeof(uint64_t))
        set_bit(self.reached, 0)
        if self.glob.parts[0].kind == DEEP:    # which may stand for no component
            set_bit(self.reached, 1)
        return self.look_up()

    cdef bint look_up(self) noexcept:
        """Find the names of the literal parts; False where one is nobody's."""
        cdef uint32_t i, last = self.glob.count - 1
        for i in range(self.glob.count):
            self.ids[i] = NONE
            if self.glob.parts[i].kind == LITERAL:
                self.ids[i] = self.graph.names.find(self.glob.parts[i].text)
                if self.ids[i] != NONE:
                    set_bit(self.fitting + <size_t>self.ids[i] * self.glob.words, i)
                elif i != last or self.outline.renames == 0:
                    return False
        return True

    cdef bint fill(self, list variables) except -1:
        cdef size_t word
        cdef uint64_t bits
        cdef uint32_t row
        for word in range(self.first_found, self.last_found + 1):
            bits, row = self.found[word], <uint32_t>word << 6
            while bits:
                if bits & 1:
                    variables.append(self.graph.handle(row))
                    if not self.go_on():   # without a GIL, making a handle may let others in
                        return False
                bits >>= 1
                row += 1
        return True

    cdef inline bint go_on(self) except -1:
        """Let signals be seen now and then; False where rows moved meanwhile."""
        self.steps += 1
        if self.steps >= STEPS_BETWEEN_SIGNALS:
            self.steps = 0
            PyErr_CheckSignals()
        return self.graph.table.removed == self.removed

    cdef inline void mark(self, uint32_t row) noexcept:
        cdef size_t word = row >> 6
        if row < self.rows:
            set_bit(self.found, row)
            self.first_found = min(self.first_found, word)
            self.last_found = max(self.last_found, word)

    # --- components and states
    cdef inline const uint64_t *fits(self, uint32_t name) noexcept:
        """The parts that a name fits, as bits."""
        cdef uint64_t *bits = self.fitting + <size_t>name * self.glob.words
        if not has_bit(bits, self.glob.count):
            self.compare(name, bits)
        return bits

    cdef void compare(self, uint32_t name, uint64_t *bits) noexcept:
        """Add the parts with wildcards; `look_up` has noted the literal ones."""
        cdef uint32_t i
        for i in range(self.glob.words):
            bits[i] |= self.glob.any[i]
        for i in range(self.glob.count):
            if self.glob.parts[i].kind == WILD and text_fits(
                    self.glob.parts[i].text, self.graph.names.names[name].text):
                set_bit(bits, i)
        set_bit(bits, self.glob.count)         # it is known now

    cdef bint leaf_fits(self, PyObject *leaf) noexcept:
        """Whether the last component of a renamed variable fits; it need not be in the table."""
        cdef const Part *part = &self.glob.parts[self.glob.count - 1]
        if part.kind == LITERAL:
            return same_text(part.text, leaf)
        return part.kind == ANY or text_fits(part.text, leaf)

    cdef inline bint step(self, const uint64_t *before, uint32_t name, uint64_t *after) noexcept:
        """The states behind one more component; False where there are none."""
        cdef const uint64_t *fits = self.fits(name)
        cdef const uint64_t *deep = self.glob.deep
        cdef uint64_t moved, passed = 0, skipped = 0, all_of = 0
        cdef uint32_t i
        for i in range(self.glob.words):
            moved = before[i] & fits[i] & self.glob.above[i]
            after[i] = before[i] & deep[i] | moved << 1 | passed
            passed = moved >> 63
            moved = after[i] & deep[i]         # ** may stand for no component: the next part too
            after[i] |= moved << 1 | skipped
            skipped = moved >> 63
            all_of |= after[i]
        return all_of != 0

    cdef const uint64_t *reach(self, uint32_t node) noexcept:
        """The states behind the path of a node.

        The nodes above it mostly are those above the one that was asked for before.
        """
        cdef size_t words = self.glob.words
        cdef uint32_t depth = self.outline.branches[node].depth, at = depth
        while self.path[at] != node:
            self.path[at] = node
            node = self.graph.tree.nodes[node].parent
            at -= 1
        self.steps += depth - at
        self.climbed += depth - at
        while at < depth:
            at += 1
            self.step(self.reached + (at - 1) * words, self.graph.tree.nodes[self.path[at]].name,
                      self.reached + at * words)
        return self.reached + depth * words

    cdef uint32_t rarest(self, uint32_t *bearers) noexcept:
        """The literal part that the fewest bear, and how many; NONE where none is literal."""
        cdef uint32_t at[RIVALS]
        cdef uint32_t part[RIVALS]
        cdef uint32_t i, count = 0
        for i in range(self.glob.count):
            if self.glob.parts[i].kind == LITERAL and count < RIVALS:
                part[count], at[count] = i, NONE
                if i + 1 < self.glob.count:
                    at[count] = self.outline.bearers[self.ids[i]].first_node
                elif self.ids[i] != NONE:
                    at[count] = self.outline.bearers[self.ids[i]].first_row
                count += 1
        bearers[0] = 0
        while count:
            for i in range(count):             # whose list ends first?
                if at[i] == NONE:
                    return part[i]
                if part[i] + 1 < self.glob.count:
                    at[i] = self.outline.branches[at[i]].of_name
                else:
                    at[i] = self.outline.links[at[i]].of_name
            bearers[0] += 1
        return NONE

    # --- from the last components
    cdef bint look_at_leaves(self) except -1:
        cdef uint32_t name, last = self.glob.count - 1
        if self.glob.parts[last].kind == LITERAL:
            return ((self.ids[last] == NONE or self.look_at_leaf(self.ids[last]))
                    and self.look_at_renamed())
        for name in range(self.names):
            if (self.outline.bearers[name].first_row != NONE and has_bit(self.fits(name), last)
                    and not self.look_at_leaf(name)):
                return False
        return self.look_at_renamed()

    cdef bint look_at_leaf(self, uint32_t name) except -1:
        """Mark the variables with this last component where what lies above fits."""
        cdef uint32_t row = self.outline.bearers[name].first_row, last = self.glob.count - 1
        cdef bint anywhere = self.anywhere()
        while row != NONE and not self.climbs_too_far():
            if row < self.rows and (
                    anywhere or has_bit(self.reach(self.graph.table.rows[row].node), last)):
                self.mark(row)
            if not self.go_on():
                return False
            row = self.outline.links[row].of_name
        return True

    cdef bint look_at_renamed(self) except -1:
        cdef const Renamed *renamed
        cdef uint32_t k = 0
        while k < self.outline.renames and not self.climbs_too_far():
            renamed = &self.outline.renamed[k]
            if self.leaf_fits(renamed.leaf) and renamed.row < self.rows and has_bit(
                    self.reach(self.graph.table.rows[renamed.row].node), self.glob.count - 1):
                self.mark(renamed.row)
            k += 1
            if not self.go_on():
                return False
        return True

    # --- from nodes downwards
    cdef bint walk_from(self, uint32_t part, uint32_t count) except -1:
        """Walk from the nodes that this literal part is the name of: so many."""
        cdef uint32_t i, node
        self.anchor = self.ids[part]
        self.anchors = <uint32_t *>PyMem_Malloc((count + 1) * sizeof(uint32_t))
        self.walked = <uint64_t *>PyMem_Calloc((self.nodes >> 6) + 1, sizeof(uint64_t))
        self.beyond = <uint64_t *>PyMem_Calloc(self.glob.words, sizeof(uint64_t))
        if self.anchors == NULL or self.walked == NULL or self.beyond == NULL:
            raise MemoryError()
        for i in range(part + 1, self.glob.count):
            set_bit(self.beyond, i)
        node = self.outline.bearers[self.anchor].first_node
        for i in range(count, 0, -1):          # the list begins with the newest
            self.anchors[i - 1] = node
            node = self.outline.branches[node].of_name
        # Those above others come first, so that a walk that gets to one does its work too.
        for i in range(count):
            node = self.anchors[i]
            if self.climbs_too_far():
                break
            if not has_bit(self.walked, node) and self.enter(node) and not self.walk(node):
                return False
            if not self.go_on():
                return False
        return True

    cdef bint enter(self, uint32_t node) noexcept:
        """Begin with, or go on with, the states of an anchor that lie behind it.

        The others are left out: they lead to variables below anchors further down.
        """
        cdef const uint64_t *reached = self.reach(node)
        cdef uint64_t *states = (
            self.states + <size_t>self.outline.branches[node].depth * self.glob.words)
        cdef uint64_t all_of = 0
        cdef uint32_t i
        for i in range(self.glob.words):
            states[i] = reached[i] & self.beyond[i]
            all_of |= states[i]
        set_bit(self.walked, node)
        return all_of != 0

    cdef bint walk(self, uint32_t start) except -1:
        """Look at what lies below a node, whose states are there."""
        cdef size_t words = self.glob.words
        cdef uint32_t top = self.outline.branches[start].depth, depth = top, node, name
        if not self.look_in(start, top):
            return False
        self.turns[top] = self.first_below(start, top)
        while True:
            node = self.turns[depth]
            if node == NONE:
                if depth == top:
                    return True
                depth -= 1
                continue
            self.turns[depth] = self.next_below(node, depth)
            name = self.graph.tree.nodes[node].name
            if self.step(self.states + depth * words, name, self.states + (depth + 1) * words):
                depth += 1
                if name == self.anchor:
                    self.enter(node)
                if not self.look_in(node, depth):
                    return False
                self.turns[depth] = self.first_below(node, depth)
            if not self.go_on():
                return False

    cdef inline uint32_t first_below(self, uint32_t node, uint32_t depth) noexcept:
        """The first node below one that a path which fits could go on with, or NONE."""
        cdef const uint64_t *states = self.states + <size_t>depth * self.glob.words
        cdef uint64_t open = 0
        cdef uint32_t i
        # Before the first ** there is one state, which is that of the depth.
        if depth < self.glob.head and self.glob.parts[depth].kind == LITERAL:
            node = self.graph.tree.find(node, self.ids[depth])
            return node if node < self.nodes else NONE
        node = self.outline.branches[node].first_child
        while node != NONE and node >= self.nodes:
            node = self.outline.branches[node].next_child
        if node != NONE:
            for i in range(self.glob.words):
                open |= states[i] & self.glob.above[i]
        return node if open else NONE

    cdef inline uint32_t next_below(self, uint32_t node, uint32_t depth) noexcept:
        if depth < self.glob.head and self.glob.parts[depth].kind == LITERAL:
            return NONE
        return self.outline.branches[node].next_child

    cdef inline bint look_in(self, uint32_t node, uint32_t depth) except -1:
        """Mark the variables of a node whose last component fits."""
        cdef uint32_t row, k, last = self.glob.count - 1
        if not has_bit(self.states + <size_t>depth * self.glob.words, last):
            return True
        if self.glob.parts[last].kind != LITERAL:
            row = self.outline.branches[node].first_row
            while row != NONE:
                if row < self.rows and has_bit(self.fits(self.graph.table.rows[row].name), last):
                    self.mark(row)
                if not self.go_on():
                    return False
                row = self.outline.links[row].in_node
        elif self.ids[last] != NONE:
            row = self.graph.table.find(node, self.ids[last])
            if row != NONE and not self.outline.is_renamed(node, row):
                self.mark(row)
        k = idmap_get(&self.outline.renamed_in, node, 0)
        while k != NONE:
            if self.leaf_fits(self.outline.renamed[k].leaf):
                self.mark(self.outline.renamed[k].row)
            if not self.go_on():
                return False
            k = self.outline.renamed[k].in_node
        return True


@cython.critical_section
def find_matching(Registry graph not None, Glob pattern not None):
    """The variables whose op names fit, in the order of creation."""
    cdef list variables = []
    cdef Search search
    if graph.outline is None:
        graph.outline = Outline()
    while True:
        # All that may start a collection, and so anybody's code, is made before it runs.
        search = Search(graph, pattern)
        if search.run(variables):
            return variables
        variables.clear()
