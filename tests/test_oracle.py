"""Replay scope programs of which it is known, line for line, what TensorFlow 1 does with them.

`data/programs.jsonl.gz` holds one program and its log a line. A program is a list of steps; a step
that opens a scope ends in the list of steps to run inside it.
"""

import difflib
import gzip
import json
from pathlib import Path

import pytest
from scope_model import Model

import varscope as vs

MODES = {None: None, True: True, "auto": vs.AUTO_REUSE}
PATH = Path(__file__).parent / "data" / "programs.jsonl.gz"


def read_records():
    with gzip.open(PATH, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


RECORDS = read_records()
PROGRAMS = [
    pytest.param(record, id=f"program_{number}_of_{len(record['log'])}_lines")
    for number, record in enumerate(RECORDS)
]


class Library:
    """The library on a fresh graph, spelled as the model is."""

    def __init__(self, graph):
        self.graph = graph
        self.unique_name = graph.unique_name
        self.name_scope = vs.name_scope

    @property
    def scope(self):
        return vs.get_variable_scope()

    @property
    def open_name_scope(self):
        return self.graph.get_name_scope()

    def variable_scope(self, target=None, default=None, reuse=None):
        return vs.variable_scope(target, default, reuse=MODES[reuse])

    def reuse_variables(self):
        vs.get_variable_scope().reuse_variables()

    def get_variable(self, name, shape, dtype):
        return vs.get_variable(name, shape, dtype, initializer=vs.zeros)

    def get_partitioned(self, name, slices, shape):
        cut = vs.fixed_size_partitioner(slices)
        return vs.get_variable(name, shape, initializer=vs.zeros, partitioner=cut)


class ModelSubject(Model):
    def reuse_variables(self):
        self.scope.reuse = True


class Replay:
    """Runs a program on a subject and writes the log that the oracle would."""

    def __init__(self, subject):
        self.subject = subject
        self.log = []
        self.scopes = []
        self.variables = []

    def run(self, steps):
        for kind, *arguments in steps:
            try:
                getattr(self, kind)(*arguments)
            except (ValueError, TypeError) as error:
                builtin = "ValueError" if isinstance(error, ValueError) else "TypeError"
                self.log.append(["error", kind, builtin, self.reason(str(error))])

    @staticmethod
    def reason(text):
        if "already exists" in text:
            return "exists"
        return "missing" if "does not exist" in text else "other"

    def get(self, name, shape, dtype):
        variable = self.subject.get_variable(name, shape, dtype)
        known = [number for number, old in enumerate(self.variables) if old is variable]
        if not known:
            known = [len(self.variables)]
            self.variables.append(variable)
        self.log.append(["get", variable.name, *known])

    def partitioned(self, name, slices, shape):
        variable = self.subject.get_partitioned(name, slices, shape)
        self.log.append(["part", variable.name, [shard.name for shard in variable]])

    def unique(self, name):
        self.log.append(["unique", self.subject.unique_name(name)])

    def reuse_variables(self):
        self.subject.reuse_variables()
        self.log.append(["reuse"])

    def open(self, name, reuse, steps):
        self.inside("open", self.subject.variable_scope(name, reuse=reuse), steps)

    def default(self, name, reuse, steps):
        self.inside("default", self.subject.variable_scope(None, name, reuse=reuse), steps)

    def captured(self, position, reuse, steps):
        if self.scopes:
            scope = self.scopes[int(position * len(self.scopes))]
            self.inside("captured", self.subject.variable_scope(scope, reuse=reuse), steps)

    def inside(self, kind, opening, steps):
        with opening as scope:
            self.scopes.append(scope)
            mode = scope.reuse if isinstance(scope.reuse, bool) else "auto"
            now = self.subject.open_name_scope
            self.log.append([kind, scope.name, mode, scope.original_name_scope, now])
            self.run(steps)
        self.log.append(["close"])

    def name_scope(self, name, steps):
        with self.subject.name_scope(name) as opened:
            self.log.append(["ns", opened])
            self.run(steps)
        self.log.append(["close"])


def differences(record, subject):
    """Return a readable diff of the subject's log and TensorFlow's, empty when they agree."""
    replay = Replay(subject)
    replay.run(record["program"])
    expected, found = ([json.dumps(line) for line in log] for log in (record["log"], replay.log))
    diff = difflib.unified_diff(expected, found, "TensorFlow", "here", n=8, lineterm="")
    return "\n".join(diff)


def test_the_oracle_is_complete():
    assert len(RECORDS) == 300
    assert sum(line[0] == "part" for record in RECORDS for line in record["log"]) == 147


@pytest.mark.parametrize("record", PROGRAMS)
def test_the_library_does_what_tensorflow_did(record):
    graph = vs.Graph()
    with graph.as_default():
        assert differences(record, Library(graph)) == ""
        assert vs.get_variable_scope().name == ""


@pytest.mark.parametrize("record", PROGRAMS)
def test_the_model_does_what_tensorflow_did(record):
    assert differences(record, ModelSubject()) == ""
