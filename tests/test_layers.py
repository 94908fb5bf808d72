"""Which module may import which: the design's table of layers, checked on the installed package."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import varscope

PACKAGE = Path(varscope.__file__).parent
LAYERS = [
    {"errors", "flyweights", "interpreters", "_scopecore"},
    {"shapes", "regularizers", "tf1_methods", "folding"},
    {"randomness", "partitioners", "name_maps", "memory"},
    {"initializers", "devices"},
    {"variables", "storage", "progress"},
    {"partitioned"},
    {"creation", "generating", "initialization", "substitution"},
    {"graph", "scopes", "templates"},
    {"summary"},
    {"checkpoint", "plots", "notebooks", "explaining"},
    {"interop", "compat", "cli"},
    {"__main__"},
]
LAYER = {module: number for number, layer in enumerate(LAYERS) for module in layer}


def module_of(path):
    """The row of the table that a file belongs to: a module, or the subpackage around it."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported_modules(tree, package):
    """The absolute names of all modules that a file imports, wherever in the file.

    `from varscope import x` counts as varscope.x: a module, or else something that is not in the
    table.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = importlib.util.resolve_name("." * node.level + base, package)
            if base == "varscope":
                yield from (f"varscope.{alias.name}" for alias in node.names)
            else:
                yield base


def misplaced(source, module, package="varscope"):
    """The modules of varscope that a source imports and must not."""
    wrong = []
    for name in imported_modules(ast.parse(source), package):
        top, _, rest = name.partition(".")
        if top != "varscope":
            continue
        other = rest.partition(".")[0]
        if other != module and LAYER.get(other, len(LAYERS)) >= LAYER[module]:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_the_layers_above_it(path):
    module = module_of(path)
    assert module in LAYER, f"{module} stands in no row of the table of layers"
    package = ".".join(["varscope", *path.relative_to(PACKAGE).parent.parts])
    assert misplaced(path.read_text(encoding="utf-8"), module, package) == []


@pytest.mark.parametrize(
    ("source", "module", "wrong"),
    [
        ("from varscope.graph import Graph", "summary", []),
        ("import varscope.graph", "creation", ["varscope.graph"]),
        ("def f():\n    from varscope import graph", "creation", ["varscope.graph"]),
        ("from .graph import Graph", "creation", ["varscope.graph"]),
        ("from . import graph, shapes", "creation", ["varscope.graph"]),
        ("from varscope import Graph", "cli", ["varscope.Graph"]),
        ("import varscope as vs", "cli", ["varscope"]),
        ("from varscope.devices import names", "initializers", ["varscope.devices"]),
        ("from varscope.checkpoint.header import Header", "checkpoint", []),
        ("if TYPE_CHECKING:\n    import varscope.cli", "graph", ["varscope.cli"]),
        ("import numpy.typing\nfrom math import inf", "shapes", []),
    ],
)
def test_what_counts_as_misplaced(source, module, wrong):
    assert misplaced(source, module) == wrong


def statements_at_import(body):
    """What runs when a module is imported, apart from what only a type checker reads."""
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield node
        for field in ("body", "orelse", "finalbody", "handlers"):
            yield from statements_at_import(getattr(node, field, []))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_an_extra_is_imported_where_it_is_used(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = [
        node
        for node in statements_at_import(tree.body)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    tops = {
        name.partition(".")[0] for name in imported_modules(ast.Module(imports, []), "varscope")
    }
    assert tops - sys.stdlib_module_names <= {"numpy", "varscope"}


def door():
    """The package's __init__: what it does at import, and what is re-exported when asked for."""
    docstring, *body = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
    assert isinstance(docstring, ast.Expr)
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            assert all(isinstance(lazy, ast.ImportFrom) for lazy in node.body)
            yield from ((lazy, True) for lazy in node.body)
        elif ast.unparse(node) != "from typing import TYPE_CHECKING":
            yield node, False


def test_the_door_only_re_exports():
    for node, _ in door():
        if isinstance(node, ast.FunctionDef):
            assert node.name in ("__getattr__", "__dir__")
        elif isinstance(node, ast.Assign):
            (target,) = node.targets
            assert ast.unparse(target) in ("__all__", "__version__", "_LATE")
        else:
            assert isinstance(node, ast.ImportFrom), ast.unparse(node)
            assert (node.module or "").partition(".")[0] == "varscope", ast.unparse(node)


def test_what_is_re_exported_late_is_what_type_checkers_see():
    late = {alias.name for node, is_late in door() if is_late for alias in node.names}
    assert late == set(varscope._LATE)
    assert late <= set(varscope.__all__) and late <= set(dir(varscope))
    for name in late:
        home = f"varscope.{varscope._LATE[name]}"
        assert getattr(varscope, name).__module__.startswith(home)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        varscope.nonsense  # noqa: B018


def loaded_by(module, *, bare):
    """What a fresh interpreter loads, beyond Python's own, for one import.

    `bare` puts an empty package in the place of varscope, so that its __init__ does not run.
    """
    code = f"""
import sys, types
before = set(sys.modules)
if {bare}:
    sys.modules["varscope"] = package = types.ModuleType("varscope")
    package.__path__ = [{str(PACKAGE)!r}]
import {module}
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=60
    )
    return {
        name
        for name in done.stdout.split()
        if name.partition(".")[0] not in sys.stdlib_module_names and "cython" not in name
    }


def test_the_core_needs_the_errors_and_nothing_else():
    # Its sources are not installed, so what it imports shows only when it does.
    loaded = loaded_by("varscope._scopecore", bare=True)
    assert loaded == {"varscope", "varscope.errors", "varscope._scopecore"}


def test_importing_varscope_loads_numpy_and_no_other_library():
    loaded = loaded_by("varscope", bare=False)
    assert {name.partition(".")[0] for name in loaded} == {"numpy", "varscope"}
    # What many programs never use is not read before they use it.
    assert not loaded & {"varscope.checkpoint", "varscope.name_maps", "varscope.summary"}
