"""The site of docs/: each page is in its navigation, and each public name in its reference."""

import importlib
import inspect
import pkgutil
import re
import runpy
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import varscope as vs
from varscope import compat, interop

DOCS = Path(__file__).resolve().parent.parent / "docs"
REFERENCE = sorted((DOCS / "api").glob("*.rst"))
DIRECTIVE = re.compile(r"^\.\. ([\w:]+):: *(\S*)\n((?:   .*\n)*)", re.MULTILINE)


def test_every_page_is_in_the_navigation():
    toctrees = runpy.run_path(str(DOCS / "conf.py"))["toctrees"]
    sections = list(toctrees((DOCS / "index.md").read_text(encoding="utf-8")))
    pages = [page for _, entries in sections for _, page in entries]
    assert sorted(pages) == sorted(
        {*(file.stem for file in DOCS.glob("*.md")), "api/index"} - {"index"}
    )


def test_every_page_of_the_reference_is_in_its_table():
    index = (DOCS / "api" / "index.rst").read_text(encoding="utf-8")
    listed = re.findall(r"^   ([\w-]+)$", index, re.MULTILINE)
    assert sorted([*listed, "index"]) == sorted(file.stem for file in REFERENCE)


# --- the reference


def public(module):
    """What a module offers: `__all__`, or the classes that are defined there."""
    if hasattr(module, "__all__"):
        return set(module.__all__)
    classes = inspect.getmembers(module, inspect.isclass)
    return {name for name, value in classes if value.__module__ == module.__name__}


def told_of(page):
    """The full names that a page of the reference describes.

    What it leaves out of a whole module counts where the page names it in its text.
    """
    module = ""
    for kind, argument, options in DIRECTIVE.findall(page):
        if kind in ("automodule", "currentmodule", "py:currentmodule"):
            module = argument
        if kind == "automodule":
            yield module
            left_out = re.search(r":exclude-members:((?:.|\n)*)", options)
            left_out = set(re.findall(r"\w+", left_out[1])) if left_out else set()
            for name in public(importlib.import_module(module)):
                if name not in left_out or f"`{name}`" in page:
                    yield f"{module}.{name}"
        elif kind.startswith(("auto", "py:")):
            yield argument if "." in argument else f"{module}.{argument}"


def modules_below(package):
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    names = [info.name for info in found if not re.search(r"\._", info.name)]
    return [name for name in names if hasattr(importlib.import_module(name), "__all__")]


@pytest.fixture(scope="module")
def told():
    return {name for file in REFERENCE for name in told_of(file.read_text(encoding="utf-8"))}


@pytest.mark.parametrize(
    "module",
    ["varscope", "varscope.errors", *modules_below(interop), *modules_below(compat)],
)
def test_every_public_name_is_in_the_reference(module, told):
    described = importlib.import_module(module)
    missing = []
    for name in sorted(public(described)):
        value = getattr(described, name)
        full = value.__name__ if inspect.ismodule(value) else f"{module}.{name}"
        if full not in told and not (
            getattr(vs, name, None) is value and f"varscope.{name}" in told
        ):
            missing.append(name)
    assert not missing


def test_what_the_reference_describes_is_there(told):
    for name in told:
        module, _, attribute = name.rpartition(".")
        assert inspect.ismodule(pkgutil.resolve_name(name)) or hasattr(
            importlib.import_module(module), attribute
        )


# --- the pictures


def test_the_pictures_are_those_that_the_script_draws(tmp_path):
    names = runpy.run_path(str(DOCS / "pictures" / "draw.py"))["draw"](tmp_path)
    assert len(names) == 5
    for name in names:
        drawn = (tmp_path / name).read_text(encoding="utf-8")
        assert drawn == (DOCS / "pictures" / name).read_text(encoding="utf-8")
        assert ET.fromstring(drawn).tag.endswith("svg")


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_a_picture_is_told_in_words_too(page):
    for words, target in re.findall(r"!\[([^]]*)\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        assert len(words) > 20, target
