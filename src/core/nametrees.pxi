# Names as a tree of dicts, and equal scopes of it found: what `varscope.folding` does for each of
# half a million names.  Only dicts, lists and strings: nothing here knows of a graph.

cdef inline bint is_separator(Py_UCS4 character) noexcept:
    return character == u"/" or character == u"."


cdef inline Py_ssize_t length_in_common(str a, str b) noexcept:
    """How many characters two texts begin with that are the same."""
    cdef Py_ssize_t i = 0, least = min(len(a), len(b))
    while i < least and a[i] == b[i]:
        i += 1
    return i


def name_tree(list names, list contents):
    """Names as nested dicts from component to child; components of scopes keep their separator.

    A child is a dict for a scope, and for a name what `contents` has for it.  Returns the root, and
    of all other scopes, parents first, lists of the scopes, their parents and their components.

    Each name is followed from where it leaves the one before it, which for names in the order of a
    tree is one step, and at most as many as it has components.
    """
    cdef dict root = {}, children, found
    cdef list scopes = [], parents = [], components = []
    cdef list path = [root], ends = [0]  # the scopes of the last name, and where their names end
    cdef str name, component, last = ""
    cdef Py_ssize_t i, at, start, same
    for i in range(len(names)):
        if not i & 0xffff:
            PyErr_CheckSignals()
        item = names[i]
        name = item if type(item) is str else str.__str__(item)
        same = length_in_common(name, last)
        while <Py_ssize_t>ends[len(ends) - 1] > same:
            ends.pop()
            path.pop()
        children = path[len(path) - 1]
        start = ends[len(ends) - 1]
        for at in range(start, len(name)):
            if not is_separator(name[at]):
                continue
            component = name[start:at + 1]
            found = children.get(component)
            if found is None:
                found = children[component] = {}
                scopes.append(found)
                parents.append(children)
                components.append(component)
            children = found
            start = at + 1
            path.append(children)
            ends.append(start)
        children[name[start:]] = contents[i]
        last = name
    return root, scopes, parents, components


def number_scopes(list scopes, list parents, list components, dict known, fold_children):
    """Put a number in the place of each scope of a tree, the same for scopes with equal children.

    `known` maps the children of scopes that were met to their number; `fold_children(children)`
    gives a new one.  Children come before their parents here: backwards every child has its number.
    """
    cdef dict children, parent
    cdef Py_ssize_t i
    for i in range(len(scopes) - 1, -1, -1):
        if not i & 0xffff:
            PyErr_CheckSignals()
        children, parent = scopes[i], parents[i]
        key = tuple(children) + tuple(children.values())
        number = known.get(key)
        if number is None:
            number = known[key] = fold_children(children)
        parent[components[i]] = number
