"""The settings of the site.  It is built with the installed library, and reaches no network:

sphinx-build -W --keep-going -n docs site
"""

import re

from varscope import __version__

project = "varscope"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 4
# `varscope.get_variable` in a docstring is code.
default_role = "literal"

# Types stand in the docstrings, in words: those of the stubs are for programs.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {
    "members": True,
    "inherited-members": "object, tuple, int, Exception, Mapping",
}
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 88
python_display_short_literal_types = True
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "varscope"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["site.css"]


def toctrees(index):
    """What the navigation holds: the heading of each section of index.md that has a table of pages,
    and the pages as pairs of words and name.

    The tables are there for readers who look at the page in a repository.  A page gets into the
    navigation by its row there.
    """
    sections = re.split(r"^## (.+)$", index, flags=re.MULTILINE)
    for heading, text in zip(sections[1::2], sections[2::2], strict=True):
        pages = re.findall(r"^\| \[([^]]+)\]\(([\w/-]+)\.(?:md|rst)\) \|", text, re.MULTILINE)
        if pages:
            yield heading, pages


def add_toctrees(app, docname, source):
    """Append the navigation to the first page, where nobody sees it in a repository."""
    if docname != "index":
        return
    for heading, pages in toctrees(source[0]):
        entries = "\n".join(f"{words} <{page}>" for words, page in pages)
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {heading}\n\n{entries}\n```\n"


def with_sections(app, what, name, obj, options, lines):
    """Turn the sections of a docstring into what Sphinx reads.

    In the section Raises, `OurError : ValueError` is an error of ours that is a built-in one too.
    Examples that follow a section are a section of their own.
    """
    from sphinx.ext import napoleon

    # No links from the words that say what a parameter is.
    settings = napoleon.Config(napoleon_use_param=False, napoleon_use_rtype=False)
    text = "\n".join(lines)
    text = re.sub(r"^((?:\w+Error(?:, )?)+) : (\w+)$", r"\1 (\2)", text, flags=re.MULTILINE)
    if re.search(r"^-{3,}$", text, re.MULTILINE):
        text = re.sub(r"\n\n(?=>>> )", "\n\nExamples\n--------\n", text, count=1)
    # As a method's: of what is called an attribute, the words before a colon would be a type.
    lines[:] = napoleon.NumpyDocstring(text, settings, app, "method", name, obj, options).lines()


def leave_out(app, what, name, obj, skip, options):
    """Members that say nothing: those of errors, and the fields of named tuples."""
    silent = what == "exception" or (obj.__doc__ or "").startswith("Alias for field number")
    return True if silent else None


def setup(app):
    app.connect("source-read", add_toctrees)
    app.connect("autodoc-process-docstring", with_sections)
    app.connect("autodoc-skip-member", leave_out)
    return {"parallel_read_safe": True}
