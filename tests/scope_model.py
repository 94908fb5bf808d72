"""The scope rules in plain Python: short, slow, and without a clever idea.

A `Model` is one graph as one thread or task sees it. A variable has a key (the path of its scope,
then its name) and an op name; they differ where a name scope took the key as its op name first.
"""

from contextlib import contextmanager
from copy import copy
from itertools import count
from types import SimpleNamespace


def join(*parts):
    return "/".join(part for part in parts if part)


def prefix(path):
    return f"{path}/" if path else ""


def first_free(name, taken):
    """Return `name`, or the first of `name_1`, `name_2`, ... that is not taken."""
    numbered = (f"{name}_{number}" for number in count(1))
    return name if name not in taken else next(n for n in numbered if n not in taken)


class Scope(SimpleNamespace):
    """What opening a scope yields: `name`, `reuse` and `original_name_scope`."""


class Parts(list):
    """What was made in parts: its shards, with `name` and `spec`."""


class Model:
    def __init__(self):
        self.variables = {}  # key: variable, in the order of creation; shards too
        self.partitioned = {}  # key: what was made in parts
        self.op_names = set()  # of variables and name scopes; none is ever given back
        self.marks = frozenset()  # the scope paths that a default name has to avoid
        self.scope = Scope(name="", reuse=False, original_name_scope="")
        self.open_name_scope = ""

    def as_seen_by_new_task(self):
        task = copy(self)  # which shares variables and op names
        task.scope = copy(self.scope)
        return task

    def as_seen_by_new_thread(self):
        thread = Model()
        thread.variables, thread.partitioned = self.variables, self.partitioned
        thread.op_names = self.op_names
        return thread

    def unique_name(self, name, mark_as_used=True):
        result = first_free(join(self.open_name_scope, name), self.op_names)
        if mark_as_used:
            self.op_names.add(result)
        return result

    @contextmanager
    def name_scope(self, name):
        outer, reenters = self.open_name_scope, not name or name.endswith("/")
        self.open_name_scope = (name or "").rstrip("/") if reenters else self.unique_name(name)
        try:
            yield prefix(self.open_name_scope)
        finally:
            self.open_name_scope = outer

    @contextmanager
    def variable_scope(self, target=None, default=None, reuse=None, auxiliary_name_scope=True):
        outer, captured = self.scope, isinstance(target, Scope)
        if captured:
            path, label, inherited = target.name, target.name.rpartition("/")[2], target.reuse
        elif target is not None:
            path, label, inherited = join(outer.name, target), target, outer.reuse
        elif reuse:
            raise ValueError("a default name cannot be combined with reuse")
        else:
            path = first_free(join(outer.name, default), self.marks)
            label, inherited = default, outer.reuse
        same_name_scope = prefix(self.open_name_scope)
        with self.name_scope((auxiliary_name_scope and label) or same_name_scope) as opened:
            original = target.original_name_scope if captured else opened
            self.scope = Scope(name=path, reuse=reuse or inherited, original_name_scope=original)
            self.marks = marks_when_opened = self.marks | {path}
            try:
                yield self.scope
            finally:
                self.scope, below = outer, prefix(path)
                kept = (m for m in self.marks if m == path or not m.startswith(below))
                self.marks = marks_when_opened if captured else frozenset(kept)

    def get_variable(self, name, shape=(), dtype=None):
        key, spec = join(self.scope.name, name), (tuple(shape), dtype or "float32")
        if key in self.partitioned:
            if self.scope.reuse is False:
                raise ValueError(f"{key} was made in parts")
            return self.same(self.partitioned[key], spec)
        if key in self.variables and self.scope.reuse is False:
            raise ValueError(f"{key} already exists")
        if key not in self.variables and self.scope.reuse is True:
            raise ValueError(f"{key} does not exist")
        if key not in self.variables:
            self.create(key, spec)
        return self.same(self.variables[key], spec)

    def get_partitioned(self, name, slices, shape, dtype=None):
        key, spec = join(self.scope.name, name), (tuple(shape), dtype or "float32")
        if key in self.variables:
            raise ValueError(f"{key} was made whole")
        if key in self.partitioned and self.scope.reuse is False:
            raise ValueError(f"{key} already exists")
        if key not in self.partitioned and self.scope.reuse is True:
            raise ValueError(f"{key} does not exist")
        if key not in self.partitioned:
            shards = (self.create(f"{key}/part_{i}", spec) for i in range(slices))
            parts = self.partitioned[key] = Parts(shards)
            parts.name, parts.spec = key, spec
        if len(self.partitioned[key]) != slices:
            raise ValueError(f"{key} has another number of parts")
        return self.same(self.partitioned[key], spec)

    def create(self, key, spec):
        with self.name_scope(None):
            name = f"{self.unique_name(key)}:0"
        self.variables[key] = SimpleNamespace(name=name, spec=spec)
        return self.variables[key]

    def same(self, variable, spec):
        if variable.spec != spec:
            raise ValueError(f"{variable.name} has another shape or dtype")
        return variable
