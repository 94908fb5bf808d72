# Names as a tree of dicts, and equal scopes of it found: what `varscope.folding` does for each of
# half a million names.  Only dicts, lists and strings: nothing here knows of a graph.

cdef enum:
    REMEMBERED = 500           # characters: see name_tree


cdef inline Py_ssize_t behind_last_separator(str text, Py_ssize_t end) noexcept:
    """Where the part of text[:end] behind its last slash or dot starts."""
    cdef Py_UCS4 character
    while end > 0:
        character = text[end - 1]
        if character == u"/" or character == u".":
            return end
        end -= 1
    return 0


@cython.final
@cython.internal
cdef class NameTree:
    cdef dict scope_at         # by the text of the prefix
    cdef list scopes, parents, components

    cdef dict child(self, dict children, str component):
        """The scope of a component below another scope."""
        cdef dict found = children.get(component)
        if found is None:
            found = children[component] = {}
            self.scopes.append(found)
            self.parents.append(children)
            self.components.append(component)
        return found

    cdef dict scope(self, str prefix):
        """The scope of a prefix that ends with a separator, made where it is not known."""
        cdef dict children = self.scope_at.get(prefix)
        cdef Py_ssize_t start, end = len(prefix)
        cdef list ends
        if children is not None:
            return children
        start, ends = end, []
        while children is None:  # up to the nearest one that is known
            ends.append(start)
            start = behind_last_separator(prefix, start - 1)
            if start <= REMEMBERED:
                children = self.scope_at.get(prefix[:start])
        for end in reversed(ends):
            children = self.child(children, prefix[start:end])
            if end <= REMEMBERED or end == len(prefix):
                self.scope_at[prefix[:end]] = children
            start = end
        return children


def name_tree(list names, list contents):
    """Names as nested dicts from component to child; components of scopes keep their separator.

    A child is a dict for a scope, and for a name what `contents` has for it.  Returns the root, and
    of all other scopes, parents first, lists of the scopes, their parents and their components.
    Prefixes of up to 500 characters are remembered: all of a very deep name's would take memory
    quadratic in its depth.
    """
    cdef NameTree tree = NameTree.__new__(NameTree)
    cdef dict root = {}, children = root
    cdef str name, prefix = ""
    cdef Py_ssize_t cut, i
    tree.scope_at = {"": root}
    tree.scopes, tree.parents, tree.components = [], [], []
    for i in range(len(names)):
        if not i & 0xffff:
            PyErr_CheckSignals()
        item = names[i]
        name = item if type(item) is str else str.__str__(item)
        cut = behind_last_separator(name, len(name))
        if cut != len(prefix) or not PyUnicode_Tailmatch(name, prefix, 0, cut, -1):
            prefix = name[:cut]
            children = tree.scope(prefix)
        children[name[cut:]] = contents[i]
    return root, tree.scopes, tree.parents, tree.components


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
