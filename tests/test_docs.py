"""README.md and docs/: every example runs, every link leads somewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import examples
import pytest
from requires import on_posix, require, require_large

from varscope import errors

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
WITH_EXAMPLES = [page for page in PAGES if ">>> " in page.read_text(encoding="utf-8")]
FOLDERS = {"tensorflow1.md": {"old": "tests/data/tf1_checkpoints/plain"}}

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^][]+\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def python_only(text):
    """The page with everything but Python blocks blanked, line for line."""
    lines, language = [], None
    for line in text.splitlines():
        if line.startswith("```"):
            language, line = (line[3:] if language is None else None), ""
        lines.append(line if language == "python" else "")
    return "\n".join(lines)


def without_code(text):
    return re.sub(r"`[^`\n]+`", "", BLOCK.sub("", text))


def names(pages):
    return [page.name for page in pages]


def test_the_pages_with_examples():
    expected = {"README.md", "index.md", "sharing.md", "defaults.md", "names.md", "errors.md"}
    expected |= {"initializers.md", "randomness.md", "getters.md", "regularizers.md"}
    expected |= {
        "generating.md",
        "partitions.md",
        "storage.md",
        "devices.md",
        "templates.md",
        "tensorflow1.md",
    }
    assert expected <= set(names(WITH_EXAMPLES))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[on_posix] * (page.name == "storage.md"))
        for page in WITH_EXAMPLES
    ],
)
def test_examples(page, tmp_path, monkeypatch):
    """In a folder with what the page speaks of, in which it may leave files."""
    if page.name == "plots.md":
        require_large("plotly", '"varscope-core[plots]"')
    if page.name == "pytorch.md":
        pytest.skip("it is run beside torch: see torch_modules.py")
    for name, source in FOLDERS.get(page.name, {}).items():
        shutil.copytree(ROOT / source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    examples.check(python_only(text), page.name)


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links(page):
    text = without_code(page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if target.startswith(("http:", "https:")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.is_file(), f"{target} leads nowhere"
        assert not anchor or anchor in anchors(file), f"{target}: no such heading"


def anchors(file):
    headings = HEADING.findall(BLOCK.sub("", file.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_on_the_map():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    targets = LINK.findall(index)
    assert not [page.name for page in PAGES[1:] if page.name not in (*targets, "index.md")]


def test_every_error_is_explained():
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    kinds = {name for name in vars(errors) if name.endswith("Error")} - {"VarscopeError"}
    assert len(kinds) > 10
    assert not [name for name in kinds if f"`{name}`" not in page]


def command(name):
    """The line that CI runs: the one of the block below `<!-- run: name -->`."""
    found = re.findall(
        rf"^<!-- run: {name} -->\n```sh\n(.*)\n```$", README.read_text(encoding="utf-8"),
        re.MULTILINE,
    )  # fmt: skip
    assert len(found) == 1
    return found[0].split(" && ")


@pytest.mark.parametrize(
    ("name", "extra", "last"),
    [
        ("job", "cli", "varscope build examples/moe.py --set layers=92 experts=896"),
        ("tests", "test", "python -m pytest tests"),
    ],
)
def test_the_two_commands(name, extra, last):
    assert command(name) == [
        "python -m venv .venv", ". .venv/bin/activate", f'pip install ".[{extra}]"', last
    ]  # fmt: skip


@pytest.mark.slow
def test_the_picture_in_the_readme():
    require("click", '"varscope-core[cli]"')
    require("rich", '"varscope-core[cli]"')
    [shown] = re.findall(r"```console\n\$ varscope (.*?)\n(.*?)```",
                         README.read_text(encoding="utf-8"), re.DOTALL)  # fmt: skip
    arguments, output = shown
    assert f"varscope {arguments}" == command("job")[-1]
    result = subprocess.run(
        [sys.executable, "-m", "varscope", *arguments.split()], cwd=ROOT,
        capture_output=True, check=True, encoding="utf-8", timeout=120,
        env={**os.environ, "PYTHONUTF8": "1"},
    )  # fmt: skip

    def lasting(text):
        return [
            line for line in text.splitlines() if not line.startswith(("seconds", "variables/"))
        ]

    assert lasting(result.stdout) == lasting(output)
