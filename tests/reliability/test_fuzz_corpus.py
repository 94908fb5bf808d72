"""Inputs that fuzzers have kept, tried again without a fuzzer; fuzz/run.py finds new ones.

And whether anybody would notice: with a protection taken away, or a wrong answer put in, the same
inputs have to fail.
"""

import importlib
from pathlib import Path

import pytest
from requires import on_posix, require

import varscope as vs
from varscope import folding
from varscope.checkpoint import contents, safetensors_files, safetensors_headers, tensor_bundle
from varscope.errors import CheckpointError
from varscope.name_maps import inverses, patterns, rules

FUZZ = Path(__file__).resolve().parent.parent.parent / "fuzz"

pytestmark = [
    pytest.mark.promise("hostile-files"),
    pytest.mark.promise("damaged-files"),
    on_posix,
]


@pytest.fixture
def target(request, monkeypatch):
    """One of the modules that say what must hold, or the one that a test is about."""
    require("safetensors", "safetensors")
    require("yaml", "PyYAML")
    monkeypatch.syspath_prepend(str(FUZZ))
    return importlib.import_module(request.param)


checkpoint_reader = pytest.mark.parametrize("target", ["checkpoint_reader"], indirect=True)
name_maps = pytest.mark.parametrize("target", ["name_maps"], indirect=True)


def inputs(target):
    kept = sorted((FUZZ / "corpus" / target.__name__).iterdir())
    assert len(kept) > 50
    return [*target.seeds(), *(path.read_bytes() for path in kept)]


def replay(target, tally):
    for data in inputs(target):
        target.test_one_input(data)
        tally("inputs of a fuzzer")


# --- what holds


@pytest.mark.fails_without(
    "src/varscope/checkpoint/safetensors_headers.py",
    "for place in np.flatnonzero(begins != before[:-1])[:1]:",
    "for place in ():",
)
@pytest.mark.fails_without(
    "src/varscope/checkpoint/safetensors_headers.py",
    "object_pairs_hook=distinct,",
    "object_pairs_hook=lambda pairs: dict(pairs[:3]),",
)
@pytest.mark.fails_without(
    "src/varscope/checkpoint/safetensors_files.py",
    'leads_away = here.is_absolute() or there.drive or there.root or ".." in there.parts',
    "leads_away = there.drive",
)
@pytest.mark.fails_without(
    "src/varscope/checkpoint/tensor_bundle.py",
    '[] if latest.anchor or ".." in latest.parts else [path / latest]',
    "[path / latest]",
)
@pytest.mark.fails_without("src/core/headers.pxi", "if seen & field:", "if seen & field & 8:")
@checkpoint_reader
def test_what_a_fuzzer_has_found_for_the_reader_of_checkpoints(target, tally):
    replay(target, tally)


@pytest.mark.fails_without(
    "src/core/finding.pxi",
    "after[i] |= moved << 1 | skipped",
    "after[i] |= skipped",
)
@pytest.mark.fails_without(
    "src/varscope/name_maps/maps.py",
    "if not isinstance(written, str) or not written or written in entries:",
    "if not isinstance(written, str) or not written:",
)
@pytest.mark.fails_without(
    "src/varscope/name_maps/patterns.py",
    "+ len(named - seen) > 1:",
    "+ len(named - seen) > 9:",
)
@name_maps
def test_what_a_fuzzer_has_found_for_name_maps_and_searches(target, tally):
    replay(target, tally)


@checkpoint_reader
def test_the_inputs_reach_what_lies_behind_the_opening(target, monkeypatch):
    """Of each kind there are some that are read and restored."""
    check_any, opened = target.check_any, set()

    def noted(checkpoint, options):
        check_any(checkpoint, options)
        opened.add((checkpoint.format, len(checkpoint.files), bool(checkpoint.partitions)))

    monkeypatch.setattr(target, "check_any", noted)
    for data in target.seeds():
        target.test_one_input(data)
    several = {("safetensors", 2, True), ("tensorflow", 2, True)}
    assert opened >= several | {("safetensors", 1, True), ("tensorflow", 1, False)}


# --- whether it would be seen


def overlaps(monkeypatch):
    monkeypatch.setattr(safetensors_headers, "check_places", lambda *arguments: None)


def paths_that_lead_away(monkeypatch):
    monkeypatch.setattr(safetensors_files, "inside", lambda index, name: index.parent / name)


def shared_bytes(monkeypatch):
    monkeypatch.setattr(tensor_bundle, "check_overlaps", lambda *arguments: None)


def values_that_are_moved(monkeypatch):
    stored = contents.StoredTensor._stored

    def moved(self, piece=None):
        array = stored(self, piece)
        return array[..., ::-1] if array.ndim else array

    monkeypatch.setattr(contents.StoredTensor, "_stored", moved)


def checksums_that_nobody_compares(monkeypatch):
    monkeypatch.setattr(contents.Checkpoint, "verify", lambda self, progress=None: None)


def halves_of_restores(monkeypatch):
    restore = vs.restore

    def half(graph, checkpoint, **settings):
        try:
            return restore(graph, checkpoint, **settings)
        except CheckpointError:
            for v in graph.variables:
                v.value()
            raise

    monkeypatch.setattr(vs, "restore", half)


def files_that_are_refused(monkeypatch):
    monkeypatch.setattr(safetensors_headers, "LARGEST", 9)


READERS = [
    overlaps, paths_that_lead_away, shared_bytes, values_that_are_moved,
    checksums_that_nobody_compares, halves_of_restores, files_that_are_refused,
]  # fmt: skip


def matches_that_are_dropped(monkeypatch):
    find = vs.Graph.find
    monkeypatch.setattr(vs.Graph, "find", lambda self, pattern: find(self, pattern)[:-1])


def names_that_are_lost(monkeypatch):
    unfolded = folding._Contents.unfolded
    monkeypatch.setattr(
        folding._Contents, "unfolded",
        lambda self, content: ((row.replace("_0", "_1"), *rest)
                               for row, *rest in unfolded(self, content)),
    )  # fmt: skip


def groups_whose_ends_are_not_clear(monkeypatch):
    monkeypatch.setattr(inverses, "_check_clear", lambda *arguments: None)


def globs_that_can_be_taken_apart_in_several_ways(monkeypatch):
    monkeypatch.setattr(patterns, "is_unambiguous", lambda components: True)


def parts_in_the_order_of_their_names(monkeypatch):
    def ordered(self, written, parts):
        return sorted(parts.values(), key=lambda part: part.name, reverse=True)

    monkeypatch.setattr(rules.Rule, "ordered", ordered)


MAPS = [
    matches_that_are_dropped, names_that_are_lost, groups_whose_ends_are_not_clear,
    globs_that_can_be_taken_apart_in_several_ways, parts_in_the_order_of_their_names,
]  # fmt: skip


def check_noticed(target, tally):
    for data in inputs(target):
        try:
            target.test_one_input(data)
        except AssertionError:
            tally("faults put in and noticed")
            return
    pytest.fail("no input has noticed it")


@pytest.mark.parametrize("fault", READERS)
@checkpoint_reader
def test_a_fault_in_the_reader_of_checkpoints_is_noticed(target, fault, monkeypatch, tally):
    fault(monkeypatch)
    check_noticed(target, tally)


@pytest.mark.parametrize("fault", MAPS)
@name_maps
def test_a_fault_in_name_maps_and_searches_is_noticed(target, fault, monkeypatch, tally):
    fault(monkeypatch)
    check_noticed(target, tally)
