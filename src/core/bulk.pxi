# Filling: large variables by many threads, and very many small ones in a few calls.

# === A large variable ===========================================================================

cdef extern from *:
    """
    /* A copy in steps of 32 bytes, which may write and read up to 31 bytes more: a call of memcpy
       costs as much as a few of these, and most copies here are short. */
    static inline void varscope_copy(unsigned char *to, const unsigned char *from, size_t n) {
        for (size_t i = 0; i < n; i += 32) memcpy(to + i, from + i, 32);
    }
    #if defined(__GNUC__)
    #define varscope_prefetch(address) __builtin_prefetch(address)
    #else
    #define varscope_prefetch(address) ((void)(address))
    #endif
    """
    void varscope_copy(unsigned char *to, const unsigned char *start, size_t n) noexcept nogil
    void varscope_prefetch(const void *address) noexcept nogil

cdef extern from "kernels.h":
    enum: LAW_CONSTANT
    void varscope_fill_each(const Law *law, const uint64_t (*keys)[2], size_t n, uint64_t count,
                            unsigned char *const *outs) noexcept nogil

cdef enum:
    LARGE = 0x10000            # elements; a variable with more is filled in place, block by block
    BLOCK = 0x40000            # elements of a block


@cython.final
cdef class Filling:
    """The first values of a large variable, on their way: every thread that wants them helps.

    To take a block, fill it and note it is one call, which no signal can end half-way: so no block
    gets lost, and a filling that was interrupted can be taken up again by whoever comes.
    """
    cdef readonly object array          # what is filled, where that is no slab
    cdef object spot                    # tells it from all others that are under way
    cdef Py_buffer out, source
    cdef Law law
    cdef uint64_t key[2]
    cdef bint copies                    # from `source`; otherwise by the law
    cdef readonly bint provisional      # neither: whoever wants values now drops it, see `write`
    cdef int64_t size, begun            # in elements
    cdef uint64_t first                 # of its elements in the stream of the key
    cdef int working                    # threads that are in a block now
    cdef int process
    cdef bint gone

    def __init__(self, spot, array, out, size, law, key, first, source):
        """Fill the bytes of `out`: by a law and key, or from the bytes of `source`.

        Without both it is a claim: its maker alone writes to `out`, by calls of `write`.
        """
        PyObject_GetBuffer(out, &self.out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
        self.spot, self.array, self.size, self.first = spot, array, size, first
        self.process = getpid()
        self.copies = law is None and source is not None
        self.provisional = law is None and source is None
        if self.copies or self.provisional:
            self.law.itemsize = <unsigned>(self.out.len // size)
        if self.copies:
            PyObject_GetBuffer(source, &self.source, PyBUF_C_CONTIGUOUS)
        elif not self.provisional:
            read_law(law, &self.law)
            read_key(key, self.key)
        if (self.law.itemsize * self.size != self.out.len
                or self.copies and self.source.len != self.out.len):
            raise ValueError("the buffers do not fit")

    def __dealloc__(self):
        PyBuffer_Release(&self.out)
        PyBuffer_Release(&self.source)

    def step(self):
        """Do one block; the number of its bytes, 0 where no block is left to begin."""
        cdef uint64_t first, count = 0
        cdef char *to
        cdef Held held
        hold(&held, <PyObject *>self)
        first = self.take_block(&count)
        release(&held)
        if count == 0:
            return 0
        to = <char *>self.out.buf + first * self.law.itemsize
        with nogil:
            if self.copies:
                memcpy(to, <char *>self.source.buf + first * self.law.itemsize,
                       count * self.law.itemsize)
            else:
                varscope_fill_run(&self.law, self.key, self.first + first, count, to)
        hold(&held, <PyObject *>self)
        self.working -= 1
        release(&held)
        return count * self.law.itemsize

    cdef uint64_t take_block(self, uint64_t *count) noexcept:
        """Where the next block begins, of `count` elements; 0 where none is left to begin."""
        cdef uint64_t first = <uint64_t>self.begun
        if self.process != getpid():
            # A fork: the threads that were at work are not here.  Nobody has seen the values yet.
            self.process, self.begun, self.working = getpid(), 0, 0
            first = 0
        if self.gone or self.provisional or self.begun >= self.size:
            return 0
        count[0] = <uint64_t>min(self.size - self.begun, <int64_t>BLOCK)
        self.begun += <int64_t>count[0]
        self.working += 1
        return first

    @cython.critical_section
    def drop(self):
        """Begin no more blocks: these are not to become the values after all."""
        self.gone = True

    def write(self, function, *args):
        """Call a function that writes to the bytes, unless the claim was dropped: then False.

        As `step` is, this is one call, so that no signal leaves it half-noted.
        """
        cdef Held held
        hold(&held, <PyObject *>self)
        gone = self.gone
        self.working += not gone
        release(&held)
        if gone:
            return False
        try:
            function(*args)
        finally:
            hold(&held, <PyObject *>self)
            self.working -= 1
            release(&held)
        return True

    def is_like(self, Filling other not None):
        """Whether its values are what the other one would give, or were assigned."""
        return self.copies or (not other.copies and not self.provisional
                               and self.key[0] == other.key[0] and self.key[1] == other.key[1])

    @property
    def dropped(self):
        cdef Held held
        hold(&held, <PyObject *>self)
        answer = self.gone
        release(&held)
        return answer

    @property
    def at_rest(self):
        """Whether no thread is in a block."""
        cdef Held held
        hold(&held, <PyObject *>self)
        answer = self.working == 0
        release(&held)
        return answer

    @property
    def complete(self):
        cdef Held held
        hold(&held, <PyObject *>self)
        answer = (self.begun >= self.size and self.working == 0 and not self.gone
                  and not self.provisional)
        release(&held)
        return answer


def begin_filling(dict fillings not None, Filling new not None):
    """The filling under way at a spot, which becomes the new one where there is none."""
    return fillings.setdefault(new.spot, new)


def end_filling(dict fillings not None, Filling filling not None):
    """Forget a filling, unless another one has taken its place."""
    cdef Held held
    hold(&held, <PyObject *>COMMON)
    try:
        if fillings.get(filling.spot) is filling:
            del fillings[filling.spot]
    finally:
        release(&held)


# === Very many small ones =======================================================================

cdef enum:
    TURNS = 8                  # chunks in a call
    CHUNK_ROWS = 512           # a chunk, which stays in the first cache where it can: rows,
    CHUNK_BYTES = 0x40000      # bytes of values,
    CHUNK_TEXT = 0x40000       # and bytes of paths

# How the variables of a spec are filled.
cdef struct Plan:
    Law law
    int64_t size               # elements of each
    int64_t nbytes
    bint known                 # there is a law
    bint zero                  # it gives nothing but zero bytes
    const unsigned char *prefix                 # the seeds; borrowed from Bulk.owned, where
    size_t prefix_length                        # zeros follow up to a multiple of 32

# One variable of a chunk.
cdef struct Job:
    uint32_t row
    uint32_t spec
    PyObject *tag              # what the row held; only ever compared
    size_t text                # where its path begins in Scratch.text
    size_t length              # 0: it needs no key
    size_t values              # where its values begin in Scratch.values
    uint32_t key               # its number among those that need one
    uint32_t next              # the next job that is alike, NONE for the last
    bint blank                 # its bytes are zero already

# Jobs of one spec: they are filled together.
cdef struct Alike:
    uint32_t spec
    uint32_t first
    uint32_t last


@cython.final
cdef class Scratch:
    """What a thread works in."""
    cdef Job jobs[CHUNK_ROWS]
    cdef const unsigned char *messages[CHUNK_ROWS]
    cdef size_t lengths[CHUNK_ROWS]
    cdef uint64_t keys[CHUNK_ROWS][2]
    cdef uint64_t keys_alike[CHUNK_ROWS][2]
    cdef unsigned char *outs[CHUNK_ROWS]
    cdef Alike alike[CHUNK_ROWS]
    cdef unsigned char *text
    cdef unsigned char *values
    cdef size_t text_size, values_size
    cdef bint left                      # some rows of the chunk need another way
    # The scope whose path was written last: siblings copy it.
    cdef uint32_t node
    cdef const unsigned char *prefix
    cdef size_t scope, scope_length

    def __dealloc__(self):
        PyMem_Free(self.text)
        PyMem_Free(self.values)

    cdef int reserve(self, unsigned char **memory, size_t *size, size_t needed) except -1:
        cdef void *grown
        if needed > size[0]:
            grown = PyMem_Realloc(memory[0], needed * 2)
            if grown == NULL:
                raise MemoryError()
            memory[0], size[0] = <unsigned char *>grown, needed * 2
        return 0


@cython.final
cdef class Bulk:
    """Fills small variables of a graph, a chunk of rows in a call.

    A chunk is noted with the GIL, computed without it into memory of the thread's own, and put in
    its places in slabs with it again, where a variable that got values meanwhile keeps them.  So
    nobody sees half a variable, and nobody has to wait.
    """
    cdef Registry graph
    cdef Plan *plans                    # by spec id
    cdef uint32_t count
    cdef list owned
    cdef object prepare                 # None, or called before bytes of a slab are written

    def __init__(self, Registry graph not None, prepare):
        self.graph, self.owned, self.prepare = graph, [], prepare
        self.count = <uint32_t>len(graph.specs)
        self.plans = <Plan *>PyMem_Calloc(self.count + 1, sizeof(Plan))
        if self.plans == NULL:
            raise MemoryError()

    def __dealloc__(self):
        PyMem_Free(self.plans)

    def plan(self, uint32_t number, law not None, bytes prefix not None):
        """Fill the variables of a spec by a law; `prefix` is what of a key's message is no path."""
        cdef Plan *plan = &self.plans[number]
        cdef Spec spec = self.graph.specs[number]
        cdef int i
        if number >= self.count or spec.size < 0:
            raise IndexError(number)
        read_law(law, &plan.law)
        if plan.law.itemsize != spec.itemsize:
            raise ValueError("the law is of another dtype")
        plan.zero = plan.law.kind == LAW_CONSTANT
        for i in range(16):
            if plan.law.pattern[i]:
                plan.zero = False
        plan.prefix_length = len(prefix)
        prefix += bytes(32)
        self.owned.append(prefix)
        plan.prefix = <const unsigned char *>prefix
        plan.size, plan.nbytes = spec.size, spec.size * spec.itemsize
        plan.known = True

    def run(self, Scratch scratch not None, list handles, uint32_t first, uint32_t last):
        """Fill some of the rows, or of these handles, from number `first` to before `last`.

        Returns (where to go on, bytes that were filled, whether some still need values).  Left as
        they are: what has no plan or no place, what is large, parts of a whole.
        """
        cdef uint32_t at = first, count
        cdef int64_t nbytes = 0
        cdef int turn
        cdef Held held
        scratch.left = False
        for turn in range(TURNS):
            count = 0
            at = self.note_held(scratch, handles, at, last, True, &count)
            if count:
                if self.prepare is not None:
                    self.prepare_places(scratch, count)
                with nogil:
                    compute(self.plans, scratch, count)
                hold(&held, <PyObject *>self.graph)
                nbytes += self.put(scratch, count)
                release(&held)
            if at >= last or nbytes >= CHUNK_BYTES:
                break
        return at, nbytes, scratch.left

    def fill_arrays(self, Scratch scratch not None, list handles not None, list arrays not None):
        """Put what would be the first values of variables into arrays of as many bytes.

        Returns how many of them, the first ones; some other way has to be found for the next one.
        """
        cdef uint32_t count = 0, at = 0, i, last = <uint32_t>min(len(handles), len(arrays))
        cdef Py_buffer view
        cdef size_t nbytes
        while at < last:
            self.note_held(scratch, handles, at, last, False, &count)
            if count == 0:
                break
            with nogil:
                compute(self.plans, scratch, count)
            for i in range(count):
                nbytes = <size_t>self.plans[scratch.jobs[i].spec].nbytes
                PyObject_GetBuffer(arrays[at + i], &view, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
                if <size_t>view.len == nbytes:
                    memcpy(view.buf, scratch.values + scratch.jobs[i].values, nbytes)
                PyBuffer_Release(&view)
            at += count
            count = 0
        return at

    cdef uint32_t note_held(self, Scratch scratch, list handles, uint32_t first, uint32_t last,
                            bint in_slabs, uint32_t *count) except NONE:
        cdef Held held
        hold(&held, <PyObject *>self.graph)
        try:
            return self.note(scratch, handles, first, last, in_slabs, count)
        finally:
            release(&held)

    cdef uint32_t note(self, Scratch scratch, list handles, uint32_t first, uint32_t last,
                       bint in_slabs, uint32_t *count) except NONE:
        """Copy what is needed of a chunk of rows: the tables may move while the GIL is not held."""
        cdef VariableTable table = self.graph.table
        cdef uint32_t at, number
        cdef size_t text = 0, values = 0
        cdef Row *row
        cdef Plan *plan
        cdef Job *job
        scratch.node = NONE
        for at in range(first, last):
            if count[0] == CHUNK_ROWS or values >= CHUNK_BYTES or text >= CHUNK_TEXT:
                return at
            if handles is None and at + 16 < last and at + 16 < table.count:
                self.look_ahead(at + 16)
            number = at if handles is None else (<Handle?>handles[at]).row
            if number >= table.count:
                if in_slabs:
                    continue
                return at
            row = &table.rows[number]
            plan = &self.plans[row.spec] if row.spec < self.count else NULL
            if plan == NULL or not plan.known or is_part(self.graph, row.node) or (
                    in_slabs and (not is_tag(row.content) or is_filled(row.content))):
                if in_slabs:
                    scratch.left |= not is_filled(row.content)
                    continue
                return at
            job = &scratch.jobs[count[0]]
            job.row, job.spec, job.tag = number, row.spec, row.content
            job.blank = in_slabs and plan.zero and not <size_t>row.content & DIRTY
            job.length = 0
            if not job.blank:
                if plan.size > LARGE:
                    scratch.left = True
                    continue
                job.values = values
                values += (plan.nbytes + 15) & ~<size_t>15
                # One byte more: what has none must not be copied from nowhere.
                scratch.reserve(&scratch.values, &scratch.values_size, values + 1)
            if plan.law.kind != LAW_CONSTANT:
                job.text = text
                job.length = self.write_path(scratch, text, plan, row.node, row.name) - text
                text += (job.length + 127) & ~<size_t>127
            count[0] += 1
        return last

    cdef inline void look_ahead(self, uint32_t row) noexcept:
        """Have the text of a scope's last name fetched, in two steps: first what points to it."""
        cdef Name *names = self.graph.names.names
        cdef Node *nodes = self.graph.tree.nodes
        cdef uint32_t node = self.graph.table.rows[row].node
        if node != ROOT:
            varscope_prefetch(&names[nodes[node].name])
        node = self.graph.table.rows[row - 8].node
        if node != ROOT:
            varscope_prefetch(<char *>names[nodes[node].name].text + 32)

    cdef size_t write_path(self, Scratch scratch, size_t at, const Plan *plan, uint32_t node,
                           uint32_t name) except? 0:
        """Write the message of a key, as randomness.path_message does; returns where it ends.

        Zeros follow up to the end of its last block: see varscope_path_keys.
        """
        cdef Name *names = self.graph.names.names
        cdef Node *nodes = self.graph.tree.nodes
        cdef PyObject *leaf = names[name].text
        cdef size_t length = plan.prefix_length, end
        cdef uint32_t above = node
        if node == scratch.node and plan.prefix == scratch.prefix:
            length = scratch.scope_length
        else:
            while above != ROOT:
                length += 8 + PyUnicode_GET_LENGTH(names[nodes[above].name].text)
                above = nodes[above].parent
        end = at + length + 8 + PyUnicode_GET_LENGTH(leaf)
        scratch.reserve(&scratch.text, &scratch.text_size, end + 128)
        if node == scratch.node and plan.prefix == scratch.prefix:
            varscope_copy(scratch.text + at, scratch.text + scratch.scope, length)
        else:
            varscope_copy(scratch.text + at, plan.prefix, plan.prefix_length)
            above, scratch.scope_length = node, length
            scratch.node, scratch.prefix = node, plan.prefix
            length += at
            while above != ROOT:               # from the last component to the first
                length = write_component(scratch.text, length, names[nodes[above].name].text)
                above = nodes[above].parent
        scratch.scope = at
        write_component(scratch.text, end, leaf)
        memset(scratch.text + end, 0, 128)
        return end

    cdef int prepare_places(self, Scratch scratch, uint32_t count) except -1:
        """Tell the storage what is about to be written, a run of bytes in a slab at a time."""
        cdef Slabs slabs = self.graph.slabs
        cdef uint32_t i, slab, current = NONE
        cdef int64_t place, start = 0, stop = 0
        cdef Held held
        for i in range(count):
            hold(&held, <PyObject *>self.graph)
            slab = slabs.fits[scratch.jobs[i].spec].slab
            release(&held)
            place = place_of(scratch.jobs[i].tag)
            if slab != current or not start <= place <= stop:
                if current != NONE:
                    self.prepare(slabs.dtypes[current], start, stop)
                current, start, stop = slab, place, place
            stop = max(stop, place + self.plans[scratch.jobs[i].spec].nbytes)
        self.prepare(slabs.dtypes[current], start, stop)
        return 0

    cdef int64_t put(self, Scratch scratch, uint32_t count) noexcept:
        """Copy the values of a chunk to their places, but for what got values or went meanwhile."""
        cdef VariableTable table = self.graph.table
        cdef Slabs slabs = self.graph.slabs
        cdef Slab *slab
        cdef uint32_t i
        cdef int64_t nbytes = 0
        cdef Row *row
        cdef Job *job
        cdef Plan *plan
        for i in range(count):
            job = &scratch.jobs[i]
            row = &table.rows[job.row]
            # The place tells a row from all others of its dtype that have bytes at all.
            if job.row >= table.count or row.content != job.tag or row.spec != job.spec:
                scratch.left = True
                continue
            plan = &self.plans[job.spec]
            if not job.blank:
                slab = &slabs.items[slabs.fits[job.spec].slab]
                if plan.nbytes & 31:
                    memcpy(<char *>slab.memory.buf + place_of(job.tag),
                           scratch.values + job.values, plan.nbytes)
                else:
                    varscope_copy(<unsigned char *>slab.memory.buf + place_of(job.tag),
                                  scratch.values + job.values, plan.nbytes)
            row.content = <PyObject *>(<size_t>row.content | FILLED)
            nbytes += plan.nbytes
        return nbytes


cdef inline size_t write_component(unsigned char *text, size_t end, PyObject *component) noexcept:
    """Write a component behind its length, up to `end`; returns where that begins."""
    cdef uint64_t length = <uint64_t>PyUnicode_GET_LENGTH(component)
    cdef const unsigned char *data = <const unsigned char *>PyUnicode_DATA(component)
    cdef unsigned char *to = text + end - length
    cdef int i
    # Most are short: two copies of a fixed size that overlap cost less than a call.
    if 4 <= length <= 8:
        memcpy(to, data, 4)
        memcpy(to + length - 4, data + length - 4, 4)
    elif 8 <= length <= 16:
        memcpy(to, data, 8)
        memcpy(to + length - 8, data + length - 8, 8)
    elif length < 4:
        to[0], to[length >> 1], to[length - 1] = data[0], data[length >> 1], data[length - 1]
    else:
        memcpy(to, data, length)
    end -= length + 8
    for i in range(8):
        text[end + i] = <unsigned char>(length >> 8 * i)
    return end


cdef inline bint is_part(Registry graph, uint32_t node) noexcept:
    """Whether a variable below this node may be part of a larger one, which has the key."""
    return node != ROOT and graph.names.names[graph.tree.nodes[node].name].of_partition


cdef void compute(const Plan *plans, Scratch scratch, uint32_t count) noexcept nogil:
    """The keys and the values of a chunk."""
    cdef uint32_t i, at, n, groups, keyed = 0
    cdef Job *jobs = scratch.jobs
    cdef const Plan *plan
    for i in range(count):
        if jobs[i].length:
            scratch.messages[keyed] = scratch.text + jobs[i].text
            scratch.lengths[keyed] = jobs[i].length
            jobs[i].key = keyed
            keyed += 1
    varscope_path_keys(scratch.messages, scratch.lengths, keyed, True, scratch.keys)
    groups = group(jobs, count, scratch.alike)
    if groups == 1 and keyed == count:         # most chunks of a model of one kind
        for i in range(count):
            scratch.outs[i] = scratch.values + jobs[i].values
        plan = &plans[jobs[0].spec]
        varscope_fill_each(&plan.law, scratch.keys, count, <uint64_t>plan.size, scratch.outs)
        return
    for i in range(groups):
        plan = &plans[scratch.alike[i].spec]
        at, n = scratch.alike[i].first, 0
        while at != NONE:
            scratch.outs[n] = scratch.values + jobs[at].values
            if jobs[at].length:
                scratch.keys_alike[n][0] = scratch.keys[jobs[at].key][0]
                scratch.keys_alike[n][1] = scratch.keys[jobs[at].key][1]
            n += 1
            at = jobs[at].next
        # Constants look at no key.
        varscope_fill_each(&plan.law, scratch.keys_alike, n, <uint64_t>plan.size, scratch.outs)


cdef uint32_t group(Job *jobs, uint32_t count, Alike *groups) noexcept nogil:
    """Link the jobs of each spec; returns how many groups there are.

    Specs that meet in a place of the small table break each other's groups, which costs a little
    time and nothing else.
    """
    cdef uint32_t recent[64]
    cdef uint32_t i, n = 0
    cdef uint32_t *found
    memset(recent, 0xFF, sizeof(recent))                # NONE
    for i in range(count):
        if jobs[i].blank:
            continue
        jobs[i].next = NONE
        found = &recent[jobs[i].spec & 63]
        if found[0] != NONE and groups[found[0]].spec == jobs[i].spec:
            jobs[groups[found[0]].last].next = i
        else:
            found[0] = n
            groups[n].spec, groups[n].first = jobs[i].spec, i
            n += 1
        groups[found[0]].last = i
    return n


@cython.critical_section
def unfilled_specs(Registry graph not None, list handles, uint32_t first, uint32_t last):
    """[(spec id, how many)] of the rows, or of these handles, that are only declared."""
    cdef uint32_t at, number
    cdef Py_ssize_t length = len(graph.specs)
    cdef uint64_t *counts = <uint64_t *>PyMem_Calloc(length + 1, sizeof(uint64_t))
    if counts == NULL:
        raise MemoryError()
    try:
        for at in range(first, last):
            number = at if handles is None else (<Handle?>handles[at]).row
            if number < graph.table.count and not is_filled(graph.table.rows[number].content):
                counts[graph.table.rows[number].spec] += 1
        found = []
        for at in range(<uint32_t>length):
            if counts[at]:
                found.append((at, counts[at]))
        return found
    finally:
        PyMem_Free(counts)


@cython.critical_section
def unfilled_rows(Registry graph not None, bytearray wanted, uint32_t first, uint32_t last,
                  Py_ssize_t limit):
    """(rows that are only declared, where to go on); of specs that are wanted, or of all."""
    cdef uint32_t row, spec
    cdef list rows = []
    for row in range(first, last):
        if row >= graph.table.count:
            break
        if is_filled(graph.table.rows[row].content):
            continue
        spec = graph.table.rows[row].spec
        if wanted is None or spec < <uint32_t>len(wanted) and wanted[spec]:
            rows.append(row)
            if len(rows) == limit:
                return rows, row + 1
    return rows, last
