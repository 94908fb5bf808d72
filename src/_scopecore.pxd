# cython: language_level=3
"""The compiled core, from the ground up: read this file and you know the design.

A *name* is a number, a *scope* is a node, a *variable* is a row.  Text exists in one place
(the name table), is compared once, and is put together again only when somebody reads it.

    NameTable      exact text  ->  name id           "layer" -> 7
    ScopeTree      (parent node, name id)  ->  node  (root, 7) -> 12        = "layer"
    VariableTable  (node, name id)  ->  row          (12, 3) -> 40          = "layer/w"
    Slabs          row  ->  place                    where its values lie, in an arena or file
    OpNames        (node, name id)  ->  next suffix  which op names are taken
    Outline        node  ->  nodes and rows below    made when somebody searches
    Marks          which scopes were opened here, for default names
    Frame          one open scope; an immutable link of the stack of a thread or task
    Registry       one graph: the tables above
    Excerpt        what lies below a scope, told without a graph, to be declared again

Every table grows only, because its domain does: a variable is never deleted, a name never
forgotten.  So there are no tombstones, an id stays valid for the life of the graph, and a
look-up that finds nothing has nothing to clean up.  The one exception is a custom getter that
fails after it has created: its rows are taken out again, and those behind them move up.

Error contracts: functions that look up are `noexcept` and answer NONE; functions that allocate
are `except -1` or `except NONE` and leave the table as it was when they raise.
"""
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    ROOT = 0                   # the node of the empty path
    MAX_DIMS = 8               # shapes up to this rank are compared in C

# Written into the C code as they stand here: the constants of an enum are signed where the
# compiler is MSVC, and as 64-bit numbers they would be others.
cdef extern from *:
    enum:
        NONE "0xFFFFFFFFu"     # "no such id" in every table
        UNKNOWN "0xFFFFFFFEu"  # not looked up yet
        FAMILY "0x80000000u"   # with a name: all of base_1, base_2, ... at once, see OpNames


# --- IdMap: two 32-bit keys to one 32-bit value -------------------------------------------------
# Open addressing with linear probing over 12-byte slots, a power of two of them, at most three
# quarters full: about 20 bytes an entry on average.  The keys are consecutive small numbers, so
# all their bits are mixed before the low ones choose a slot.  A grown table is allocated and
# filled first and swapped in last: a MemoryError leaves the old one in place.
cdef struct Slot:
    uint32_t a
    uint32_t b
    uint32_t value             # NONE marks an empty slot

cdef struct IdMap:
    Slot *slots                # NULL until the first entry
    size_t mask                # number of slots - 1
    size_t used

cdef uint32_t idmap_get(const IdMap *self, uint32_t a, uint32_t b) noexcept nogil
cdef int idmap_reserve(IdMap *self, size_t more) except -1   # so many idmap_put cannot fail
cdef void idmap_put(IdMap *self, uint32_t a, uint32_t b, uint32_t value) noexcept nogil
cdef void idmap_remove(IdMap *self, uint32_t a, uint32_t b) noexcept nogil
cdef void idmap_free(IdMap *self) noexcept


# --- the four tables of a graph -----------------------------------------------------------------
cdef struct Name:
    PyObject *text             # owned; an exact str, never a subclass
    uint32_t suffix            # N where the text reads base_N, N a plain decimal; otherwise 0
    uint32_t base              # the name of that base; NONE where there is none, or it is too long
    uint32_t node              # the first node of this name, or NONE
    unsigned char place        # rows between the first one of a scope and the last one so called
    unsigned char starts_path  # flags: may be the first component of a path
    unsigned char numbered     # a name base_N with this base may be in the table
    unsigned char named_op     # the op names may hold it, below some node
    unsigned char of_variable  # some variable has it as its last component
    unsigned char of_partition  # the same for variables that were made in parts
    unsigned char of_nodes     # it has more than one node

cdef struct NameSlot:
    uint32_t id                # NONE = empty
    uint32_t hash              # the lower half, whose lowest bits chose the slot

cdef class NameTable:
    cdef Name *names
    cdef uint32_t count, capacity
    cdef NameSlot *slots
    cdef size_t mask
    cdef bint long_numbered    # a name base_N too long to note its base may be in the table
    cdef uint32_t recent_base  # of the name base_N that was made last
    cdef uint32_t find(self, PyObject *text) noexcept
    cdef uint32_t find_hashed(self, PyObject *text, uint32_t hash) noexcept
    cdef uint32_t intern(self, str component) except NONE
    cdef uint32_t intern_base(self, str component) except? NONE
    cdef str text(self, uint32_t id)
    cdef void expect_text(self, PyObject *text) noexcept
    cdef int reserve(self, uint32_t more) except -1


cdef struct Node:
    uint32_t parent
    uint32_t name
    uint32_t first_row         # its variables are the rows from here on,
    uint32_t rows              # so many; or INDEXED: see VariableTable
    uint32_t counter           # of its op name: see OpNames

cdef class ScopeTree:
    cdef NameTable names
    cdef Node *nodes
    cdef uint32_t count, capacity
    cdef IdMap children                 # the nodes that are not the first of their name
    cdef uint32_t child(self, uint32_t parent, uint32_t name) except NONE
    cdef int grow(self, uint32_t capacity) except -1
    cdef int reserve(self, size_t more) except -1            # so many add cannot fail
    cdef uint32_t add(self, uint32_t parent, uint32_t name) noexcept
    cdef uint32_t find(self, uint32_t parent, uint32_t name) noexcept


cdef struct Row:
    uint32_t node
    uint32_t name
    uint32_t spec
    uint32_t site
    PyObject *handle           # borrowed: the handle clears it before it dies, and owns the graph
    # Owned: what was materialised, NULL while only declared; or a tag, which owns nothing and says
    # where in a slab the values lie: see is_tag.
    PyObject *content

cdef class VariableTable:
    cdef ScopeTree tree
    cdef Row *rows                      # in the order of creation
    cdef uint32_t count, capacity
    cdef uint32_t removed               # how often a row was taken out again
    cdef IdMap index                    # of nodes whose rows are many, or scattered
    cdef uint32_t find(self, uint32_t node, uint32_t name) noexcept
    cdef int reserve(self, uint32_t node) except -1          # the next add there cannot fail
    cdef bint continues(self, uint32_t node) noexcept
    cdef void add_to_index(self, Node *n, const Row *row) noexcept
    cdef uint32_t add(self, uint32_t node, uint32_t name, uint32_t spec,
                      uint32_t site) noexcept
    cdef void remove(self, uint32_t row) noexcept


# The rest of what a variable is, shared by all variables that are alike.
cdef class Spec:
    cdef readonly object shape          # tuple, may hold None; None = unknown rank
    cdef readonly object dtype          # numpy.dtype
    cdef readonly object initializer
    cdef readonly object regularizer
    cdef readonly bint trainable
    cdef readonly tuple collections
    cdef readonly object caching_device
    cdef readonly object constraint
    cdef readonly bint validate_shape
    cdef readonly bint repeatable       # an equal request means an equal spec
    cdef readonly int64_t size          # number of elements, -1 while unknown
    cdef readonly int64_t itemsize
    cdef object calling                 # what `initializers` found out about the initializer
    cdef int rank                       # -1 where the shape is not known or has over MAX_DIMS
    cdef int64_t dims[8]
    cdef tuple key(self)


# --- slabs --------------------------------------------------------------------------------------
# Where variables lie that are kept together: one slab a dtype.  A slab is a range of addresses
# that was reserved when it was made, so it grows and never moves.
cdef struct Slab:
    Py_buffer memory           # the whole range; owns whatever the storage got it from
    int64_t used               # bytes that are given to variables
    int64_t backed             # bytes that can be used before the storage is asked again

# Where the variables of a spec go: looked up once.
cdef struct Fit:
    uint32_t slab              # UNKNOWN: not looked up yet; NONE: elements of no bytes
    int64_t nbytes             # of each, -1 while the shape is not known

cdef class Slabs:
    cdef VariableTable table
    cdef list specs                     # the graph's
    cdef object storage
    cdef Slab *items
    cdef uint32_t count, capacity
    cdef dict ids                       # dtype -> number of its slab
    cdef list dtypes                    # and back
    cdef Fit *fits                      # by spec id
    cdef uint32_t fit_count
    cdef uint32_t placed                # rows before this one have their place, or wait for a shape
    cdef int look_up(self, uint32_t number) except -1
    cdef uint32_t find_slab(self, object dtype) except? NONE
    cdef object wanted(self, object dtype)
    cdef int place(self, uint32_t upto) except -1
    cdef int place_row(self, uint32_t number) except -1
    cdef int back(self, uint32_t slab, int64_t nbytes) except -1


# --- default names ------------------------------------------------------------------------------
# Which scopes were opened inside the current one.  A log that only grows, read through a length:
# (marks, length) is an immutable snapshot that costs nothing to take, so a task keeps what it was
# born with while its parent goes on.  Whoever appends behind somebody else's length copies first.
cdef struct Mark:
    uint32_t node
    uint32_t older             # index of the event before this one with the same key, or NONE
    bint forget                # everything below node is forgotten; otherwise node is marked

cdef class Marks:
    cdef Mark inline_events[8]
    cdef Mark *events
    cdef uint32_t count, capacity, distinct
    cdef uint32_t last_deep    # index of the newest mark that is no direct child, or NONE
    cdef bint has_forgets
    cdef bint in_order         # only marks, in the order of their nodes: needs no index
    cdef uint32_t turn         # index of the event that was looked up last
    cdef IdMap latest          # (node, kind) -> newest event; made when it is needed
    cdef IdMap suffixes        # (parent node, default name) -> next suffix to try, a shortcut
    cdef bint deep_suffixes    # some of them below a child
    cdef uint32_t next_suffix(self, uint32_t parent, uint32_t name) noexcept
    cdef int note_suffix(self, uint32_t parent, uint32_t name, uint32_t suffix,
                         bint deep) except -1
    cdef uint32_t newest(self, uint32_t node, bint forget, uint32_t length) noexcept
    cdef int append(self, uint32_t node, bint forget, bint deep) except -1
    cdef bint ascends(self, uint32_t node, bint forget) noexcept
    cdef int index_events(self) except -1
    cdef Marks copied(self, uint32_t length)


# --- scopes -------------------------------------------------------------------------------------
cdef class Registry

cdef class Defaults:
    cdef readonly object initializer, regularizer, caching_device, partitioner
    cdef readonly object custom_getter, dtype, constraint
    cdef dict derived                   # what was derived from these, so that equals are identical
    cdef Defaults derive(self, tuple overrides, Registry graph)
    cdef Defaults replaced(self, int field, object value)
    cdef object checked(self, int field, object value)


# A name scope: the node itself (base NONE), or "base" or "base_suffix" below the node.
#
# Numbered siblings, foo_1 and foo_2 and so on, share one node, which stands for the family; which
# of them is meant says the index, 0 where no family lies on the way.  Only the outermost number of
# a path is treated so.  That is a rule about texts, so a path has one such form, however it came.
cdef struct NameScopeRef:
    uint32_t node
    uint32_t index
    uint32_t base
    uint32_t suffix

cdef struct Run:
    uint32_t first             # of the indices that agree
    uint32_t last
    uint32_t counter

cdef struct Runs:
    Run *items                 # by index, without overlap; see run_items
    uint32_t count
    uint32_t capacity          # 0: there is one at most, and it stands here
    Run one

cdef class OpNames:
    cdef ScopeTree tree        # whose nodes hold the counters of their own names
    cdef IdMap counters        # (node, name) -> next suffix, outside of families: those without
    cdef IdMap places          # (node, name) -> its runs, inside
    cdef Runs *runs
    cdef uint32_t count, capacity
    cdef uint32_t get(self, uint32_t node, uint32_t index, uint32_t name) noexcept
    cdef int put(self, uint32_t node, uint32_t index, uint32_t name, uint32_t counter) except -1
    cdef bint counts_between(self, uint32_t node, uint32_t name, uint32_t first,
                             uint32_t last) noexcept
    cdef int put_run(self, uint32_t node, uint32_t first, uint32_t last, uint32_t name,
                     uint32_t counter) except -1
    cdef int reserve(self, uint32_t more) except -1
    cdef uint32_t new_runs(self, uint32_t node, uint32_t name) except NONE


# --- finding ------------------------------------------------------------------------------------
# A pattern on the components of op names, taken apart once: see Glob in finding.pxi.
cdef struct Part:
    PyObject *text             # borrowed from `texts`
    unsigned char kind         # LITERAL, WILD, ANY or DEEP

cdef class Glob:
    cdef tuple texts
    cdef Part *parts
    cdef uint32_t count                 # of parts
    cdef uint32_t words                 # of 64 bits, with a bit for each part and one more
    cdef uint64_t *deep                 # the bits of **
    cdef uint64_t *any                  # those of *
    cdef uint64_t *above                # those of all parts but the last
    cdef uint32_t head                  # the parts before the first **, or before the last part
    cdef uint32_t fixed                 # the parts that are not **

# The tables tell what lies above a node or row.  A search goes down too, so it notes the rest: as
# lists, of which each entry says the next one, or NONE.
cdef struct Branch:            # by node
    uint32_t first_child       # the nodes below it,
    uint32_t next_child        # and the next one of its parent's
    uint32_t of_name           # the next one of its name
    uint32_t first_row         # the variables in it
    uint32_t depth

cdef struct Link:              # by row
    uint32_t in_node           # the next one in its node
    uint32_t of_name           # the next one with its last component

cdef struct Bearers:           # by name
    uint32_t first_node
    uint32_t first_row         # of those whose last component it is

cdef struct Renamed:           # a variable whose op name is not its path, on no list of rows
    uint32_t row
    uint32_t in_node           # the next such one in its node
    PyObject *leaf             # the last component of its op name; borrowed from `leaves`

cdef class Outline:
    cdef Branch *branches
    cdef Link *links
    cdef Bearers *bearers
    cdef Renamed *renamed
    cdef list leaves
    cdef IdMap renamed_in               # (node, 0) -> the first of the renamed in it
    cdef uint32_t nodes, rows, names, renames           # so many are noted
    cdef uint32_t node_room, row_room, name_room, rename_room
    cdef uint32_t deepest
    cdef uint32_t removed               # so many rows had been withdrawn by then
    cdef int catch_up(self, Registry graph) except -1
    cdef void add_nodes(self, ScopeTree tree) noexcept
    cdef int add_rows(self, Registry graph) except -1
    cdef int add_renamed(self, Registry graph, uint32_t row, object suffix) except -1
    cdef void forget_rows(self) noexcept
    cdef bint is_renamed(self, uint32_t node, uint32_t row) noexcept

# Sets of states have `words` words each: see Glob.
cdef class Search:
    cdef Registry graph
    cdef Glob glob
    cdef Outline outline
    cdef uint32_t nodes, rows, names    # those that were there when it began
    cdef uint32_t removed
    cdef uint32_t steps                 # since signals were looked at
    cdef uint64_t climbed               # steps up the tree in all
    cdef uint32_t *ids                  # by part: the name that a literal one is, or NONE
    cdef uint64_t *fitting              # by name: the parts it fits, and whether that is known
    cdef uint64_t *found                # a bit for each row,
    cdef size_t first_found, last_found   # all between these words
    cdef uint32_t *path                 # by depth: a node,
    cdef uint64_t *reached              # and its states
    cdef uint64_t *states               # by depth: of the node where the walk is
    cdef uint32_t *turns                # by depth: the node below that one which is next
    cdef uint32_t anchor                # the name at which walks begin, or NONE,
    cdef uint32_t *anchors              # the nodes of that name,
    cdef uint64_t *walked               # a bit for each where one has been,
    cdef uint64_t *beyond               # and the states that lie behind it
    cdef bint run(self, list variables) except -1
    cdef bint anywhere(self) noexcept
    cdef bint climbs_too_far(self) noexcept
    cdef bint walk_all(self) except -1
    cdef bint begin(self) except -1
    cdef bint look_up(self) noexcept
    cdef bint fill(self, list variables) except -1
    cdef bint go_on(self) except -1
    cdef void mark(self, uint32_t row) noexcept
    cdef const uint64_t *fits(self, uint32_t name) noexcept
    cdef void compare(self, uint32_t name, uint64_t *bits) noexcept
    cdef bint leaf_fits(self, PyObject *leaf) noexcept
    cdef bint step(self, const uint64_t *before, uint32_t name, uint64_t *after) noexcept
    cdef const uint64_t *reach(self, uint32_t node) noexcept
    cdef uint32_t rarest(self, uint32_t *bearers) noexcept
    cdef bint look_at_leaves(self) except -1
    cdef bint look_at_leaf(self, uint32_t name) except -1
    cdef bint look_at_renamed(self) except -1
    cdef bint walk_from(self, uint32_t part, uint32_t count) except -1
    cdef bint enter(self, uint32_t node) noexcept
    cdef bint walk(self, uint32_t start) except -1
    cdef uint32_t first_below(self, uint32_t node, uint32_t depth) noexcept
    cdef uint32_t next_below(self, uint32_t node, uint32_t depth) noexcept
    cdef bint look_in(self, uint32_t node, uint32_t depth) except -1


# What a call of get_variable asked for, apart from the name: by identity, the shape by value.
cdef struct Request:
    PyObject *defaults
    PyObject *parts[8]         # dtype, initializer, regularizer, trainable, collections, ...
    int rank                   # -1: no shape given
    int64_t dims[8]
    uint32_t spec

# The specs that recent requests led to: a direct-mapped cache, doubled when two requests meet in
# one slot, up to a bound; after that the newer one wins.  The pointers in a slot are borrowed from
# the tuple at its place in `owned`, a list so that the garbage collector sees what is held here.
cdef class RequestCache:
    cdef Request *slots
    cdef Request *recent       # the slot that answered last: loops ask for the same again
    cdef list owned
    cdef size_t mask
    cdef uint32_t find(self, const Request *request) noexcept
    cdef int put(self, const Request *request) except -1
    cdef int resize(self, size_t size) except -1


cdef class Creation

cdef class Registry:
    cdef NameTable names
    cdef ScopeTree tree
    cdef VariableTable table
    cdef Slabs slabs                    # None: each variable's array is allocated for itself
    cdef uint32_t filled                # the rows before this one all have values
    cdef OpNames op_names
    cdef list specs                     # spec id -> Spec
    cdef dict spec_ids                  # key of a Spec -> spec id
    cdef RequestCache requests
    cdef list sites                     # site id -> (code, instruction)
    cdef dict site_ids
    cdef dict derived                   # what was derived from PLAIN here: see Defaults.derive
    cdef dict renamed                   # row -> suffix, where the op name was already taken
    cdef dict partitions                # (node, name) in one int -> what was made in parts
    cdef Outline outline                # None until somebody searches
    cdef uint64_t serial
    cdef readonly bint finalized
    cdef object __weakref__

    # text to numbers and back
    cdef uint32_t seek(self, uint32_t node, str path) except? NONE
    cdef uint32_t open_path(self, uint32_t node, str path) except NONE
    cdef uint32_t find_row(self, uint32_t node, str name) except? NONE
    cdef bint below(self, uint32_t node, uint32_t ancestor) noexcept
    cdef list split(self, str path, bint at_root, uint32_t *leaf)
    cdef uint32_t locate(self, uint32_t *node, str path) except NONE
    cdef str path(self, uint32_t node)
    cdef str scope_text(self, uint32_t node, uint32_t index)
    cdef str path_of(self, uint32_t node)               # as doors ask: see locks.pxi
    cdef str name_scope_path_of(self, NameScopeRef ref)
    cdef tuple site(self, uint32_t number)
    cdef bint lies_below(self, uint32_t node, uint32_t ancestor)
    cdef str join(self, uint32_t node, uint32_t name)
    cdef str row_path(self, uint32_t row)
    cdef str op_name(self, uint32_t row)
    # variables
    cdef object handle(self, uint32_t row)
    cdef object shared_handle(self, uint32_t row)
    cdef uint32_t spec_id(self, Spec spec) except NONE
    cdef object commit(self, uint32_t node, uint32_t name, uint32_t spec, uint32_t site,
                       uint32_t missed_at)
    cdef int put(self, uint32_t node, uint32_t name, uint32_t spec, uint32_t site, Handle new,
                 Creation creation) except -1
    cdef bint can_hold(self, uint32_t node, uint32_t name, list parts)
    cdef object partition(self, uint32_t node, uint32_t name)
    cdef int withdraw(self, Creation creation) except -1
    # op names
    cdef int rename(self, uint32_t node, uint32_t name, Creation creation) except -1
    cdef uint32_t taken(self, const NameScopeRef *scope, uint32_t name) except? 0
    cdef uint32_t claim(self, const NameScopeRef *scope, uint32_t name, bint mark) except NONE
    cdef uint32_t raise_counter(self, const NameScopeRef *scope, uint32_t name, uint32_t used,
                                bint mark) except NONE
    cdef int use(self, const NameScopeRef *scope, uint32_t name, uint32_t counter) except -1
    cdef void give_back(self, const NameScopeRef *scope) noexcept
    cdef int unique(self, NameScopeRef *scope, str name, bint mark) except -1
    cdef uint32_t counted(self, list above, str leaf) except? 0
    cdef int settle(self, NameScopeRef *scope) except -1
    cdef int step(self, NameScopeRef *scope, uint32_t name) except -1
    cdef int locate_op(self, NameScopeRef *scope, str path) except -1
    cdef int as_name_scope(self, uint32_t node, NameScopeRef *scope) except -1
    cdef bint has_variable(self, const NameScopeRef *scope, uint32_t name) except -1
    cdef str name_scope_path(self, NameScopeRef ref)
    cdef list rows_of(self, list chosen, str scope)

# What a row was made of, so that it can be withdrawn: see journals in the pyx.
cdef class Creation:
    cdef Handle handle
    cdef NameScopeRef scope             # of its op name
    cdef uint32_t counter               # which that had before
    cdef object partition               # its key, on the first part of a variable made in parts

# What Python code holds of a row.  The row points back without owning: see Handle in the pyx.
cdef class Handle:
    cdef readonly Registry graph
    cdef uint32_t row                   # NONE: withdrawn
    cdef object __weakref__
    cdef int made(self) except -1       # the first is for before the graph is held,
    cdef int check(self) except -1      # the second for while it is
    cdef uint32_t number(self) noexcept
    cdef str op_text(self)
    cdef Spec spec_now(self)
    cdef int settle_spec(self, Spec spec) except -1
    cdef Row row_now(self) except *
    cdef object content_now(self, PyObject **tag)
    cdef object promoted(self, PyObject *tag)
    cdef object placed(self)
    cdef bint copied_in(self, Py_buffer *view) except -1


# Where a scope was told to reuse: numbers of its graph, of which an error makes text.
cdef class Origin:
    cdef uint32_t node, site

cdef class VariableScope:
    cdef readonly Registry graph
    cdef Defaults defaults
    cdef uint32_t node
    cdef int mode                       # 0 not reusing, 1 reusing, 2 AUTO_REUSE
    cdef NameScopeRef opened_as         # the name scope of the first opening
    cdef Origin reuse_origin            # where reuse was switched on, or None
    cdef object __weakref__
    cdef int set_default(self, int field, object value) except -1


cdef class Frame:
    cdef Registry graph
    cdef Frame below                    # None on the graph's root
    cdef object entry                   # the context manager that opened it
    cdef VariableScope scope
    cdef Defaults defaults              # the scope's, as they are for this thread or task
    cdef uint32_t node
    cdef int mode
    cdef NameScopeRef name_scope
    cdef Marks marks_below              # the marks of the frame below, as this one was opened
    cdef uint32_t length_below
    cdef int kind
    cdef bint looks_below               # marks_below may name scopes below this one
    cdef Frame look                     # the next frame down of which that is true
    cdef bint quick                     # neither custom getter nor partitioner has a say
    cdef Frame copied(self, Frame below)
    cdef int settle(self) except -1


# What the context variable holds.
cdef class Stack:
    cdef Registry graph                 # None: whichever graph is the default one
    cdef uint64_t serial                # of the graph that top and marks belong to
    cdef Frame top
    cdef Marks marks
    cdef uint32_t length
    cdef object switches                # graphs entered by as_default: a linked GraphSwitch
    cdef tuple others                   # root states of graphs that are not current
    cdef uint64_t thread                # the id of the thread state, which is never used again
    cdef PyObject *context              # where it was set; borrowed, only ever compared
    cdef PyObject *variables            # what that context held then; likewise
    cdef int standing                   # whether it may be changed in place: see in_place
    cdef object tried                   # weak reference to the map that was tried out
    cdef Registry pinned                # without a GIL: the default graph when the stack was read


# --- excerpts -----------------------------------------------------------------------------------
# What lies below a scope, told without a graph: numbers of names, specs and sites that are listed
# beside them.  It can be pickled, and declared in any graph, once or a thousand times.
cdef struct Level:
    uint32_t parent            # which one it lies in, that comes before it; NONE: it is the scope
    uint32_t name              # as in ScopeTree: with FAMILY too

cdef struct Told:              # what a variable is
    uint32_t name
    uint32_t spec
    uint32_t site

# Variables of a place that were created one after another.  Scopes are alike in generated models:
# so the stretches of many places share what they tell.
cdef struct Stretch:
    uint32_t place
    uint32_t first_row         # the number of the first variable here
    uint32_t first             # in Excerpt.told, from where on they are told
    uint32_t count

# What it takes to find what was told already, while an excerpt is made.
cdef struct Telling:
    bint open                  # the last stretch may go on
    uint64_t hash              # of what it tells
    uint32_t stretch_capacity
    uint32_t told_capacity
    uint32_t recent[1024]      # by hash: the number of a stretch and one more

cdef struct Suffixed:          # a variable whose op name is no path
    uint32_t row               # its number here
    uint32_t suffix

cdef struct Taken:
    uint32_t place
    uint32_t name
    uint32_t first             # of a run of siblings in a family, 0 outside of families
    uint32_t last
    uint32_t counter           # see OpNames

cdef class Excerpt:
    cdef list names, specs, sites
    cdef list wholes                    # [(place, name, what is kept), ...] of those in parts
    cdef Level *places                  # scopes of variables, the scope itself first
    cdef uint32_t *counts               # of variables in each place,
    cdef unsigned char *scattered       # and whether they do not lie side by side
    cdef Stretch *stretches             # variables, in the order of creation
    cdef Told *told
    cdef Suffixed *suffixes             # in that order too
    cdef Level *op_places               # scopes of op names, the name scope itself first
    cdef Taken *taken
    cdef uint32_t place_count, stretch_count, told_count, row_count
    cdef uint32_t suffix_count, op_place_count, taken_count
    cdef unsigned char *bearing         # by name: whether a variable has it as its last component
    cdef bint named                     # there is a name scope,
    cdef bint aligned                   # of the same path as the scope,
    cdef bint canonical                 # that lies in no family
    cdef int read(self, Registry graph, uint32_t top, const NameScopeRef *scope, bint named,
                  list contents) except -1
    cdef const Stretch *stretch_of(self, uint32_t row) noexcept
    cdef const Told *told_of(self, uint32_t row) noexcept
    cdef int add_row(self, Telling *telling, uint32_t place, uint32_t name, uint32_t spec,
                     uint32_t site) except -1
    cdef int add_alike(self, Telling *telling, uint32_t place) except -1
    cdef void end_stretch(self, Telling *telling) noexcept
    cdef int look_at_rows(self) except -1
    cdef int leave_out_incomplete(self, list contents) except -1
    cdef int read_rows(self, Registry graph, uint32_t top, unsigned char *flags, uint32_t *at,
                       uint32_t *names, list contents) except -1
    cdef int read_taken(self, Registry graph, const NameScopeRef *scope, unsigned char *flags,
                        uint32_t *at, uint32_t *names) except -1
    cdef int add_taken(self, uint32_t place, uint32_t name, uint32_t first, uint32_t last,
                       uint32_t counter, uint32_t *capacity) except -1
    cdef int new_places(self, Registry graph, uint32_t top, unsigned char wanted,
                        unsigned char *flags, uint32_t *at, uint32_t *names, Level **places,
                        uint32_t *count) except -1
    cdef uint32_t number(self, str text, uint32_t *names, uint32_t name) except NONE
    cdef int check(self) except -1
