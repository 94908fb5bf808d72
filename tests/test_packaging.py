"""What is shipped: the metadata, the sdist, the wheel, and docstrings with examples that run."""

import doctest
import importlib
import importlib.metadata
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import examples
import pytest
from requires import on_posix, require, require_large

import varscope as vs

PACKAGE = Path(vs.__file__).parent
ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
TAG = f"cp{sys.version_info.major}{sys.version_info.minor}{'t' if FREE_THREADED else ''}"

# --- the installed package


@pytest.fixture
def metadata():
    try:
        return importlib.metadata.metadata("varscope-core")
    except importlib.metadata.PackageNotFoundError:
        words = "needs varscope-core installed: pip install ."
        if os.environ.get("CI") == "true":
            pytest.fail(words, pytrace=False)
        pytest.skip(words)


def test_the_version_is_the_same_everywhere(metadata):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metadata["Version"] == project["version"] == vs.__version__


def test_numpy_is_the_only_dependency_that_is_no_extra(metadata):
    required = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert [re.match("[A-Za-z0-9_.-]+", line).group() for line in required] == ["numpy"]
    assert {"cli", "examples", "test"} <= set(metadata.get_all("Provides-Extra"))


def test_license_and_python_version(metadata):
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_command_line_is_installed(metadata):
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="varscope")
    assert script.load() is importlib.import_module("varscope.cli").main


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").read_bytes() == b""
    assert (PACKAGE / "_scopecore.pyi").is_file()


# --- sdist and wheel


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A folder with an sdist and the wheel built from it: VARSCOPE_DIST, or else made here."""
    if "VARSCOPE_DIST" in os.environ:
        return Path(os.environ["VARSCOPE_DIST"])
    if not (ROOT / "setup.py").exists():
        pytest.fail("needs the sources beside the tests, or VARSCOPE_DIST", pytrace=False)
    require("build", "build")
    folder = tmp_path_factory.mktemp("dist")
    # A copy without what was built before: an sdist must not live on it.
    copy = folder / "sources"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.c", "*.so", "*.egg-info")
    shutil.copytree(ROOT, copy, ignore=ignored)
    command = [sys.executable, "-m", "build", "--outdir", folder, copy]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def sdist(dist):
    """The paths of all files in the sdist."""
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        files = [member.name for member in archive.getmembers() if member.isfile()]
    return {name.partition("/")[2] for name in files}


@pytest.fixture(scope="module")
def wheel(dist):
    """The paths of all files in the wheel, without those about the wheel itself."""
    (path,) = dist.glob(f"*-{TAG}-*.whl")
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    return {name for name in names if ".dist-info/" not in name}


@pytest.mark.slow
def test_the_sdist_holds_sources_and_nothing_that_was_built(sdist):
    needed = {"LICENSE", "README.md", "pyproject.toml", "setup.py"}
    needed |= {"src/_scopecore.pyx", "src/_scopecore.pxd", "src/varscope/py.typed"}
    needed |= {"src/varscope/_scopecore.pyi", "tests/conftest.py", "examples/moe.py"}
    assert needed <= sdist
    built = re.compile(r"\.(c|so|pyd|pyc)$|__pycache__|^build/|_cache/")
    assert [name for name in sorted(sdist) if built.search(name)] == []


@pytest.mark.slow
def test_the_sdist_holds_what_builds_and_checks_wheels(sdist):
    assert {"tools/wheels.py", "tools/wheels.txt", "tools/requirements.txt"} <= sdist
    assert not [name for name in sdist if name.startswith((".github/", ".ci/"))]


@pytest.mark.slow
@pytest.mark.skipif("VARSCOPE_DIST" not in os.environ, reason="needs a wheel of tools/wheels.py")
def test_the_wheel_has_no_symbols_for_debuggers(dist):
    (path,) = dist.glob(f"*-{TAG}-*.whl")
    assert path.stat().st_size < 800_000


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(sdist, wheel):
    extensions = [name for name in wheel if name.endswith((".so", ".pyd"))]
    assert len(extensions) == 1
    assert extensions[0].startswith("varscope/_scopecore.")
    package = {name.removeprefix("src/") for name in sdist if name.startswith("src/varscope/")}
    assert wheel == package | set(extensions)


# --- tools/wheels.py


@pytest.fixture(scope="module")
def tool():
    """tools/wheels.py as a module; it starts nothing when it is imported."""
    spec = importlib.util.spec_from_file_location("tools_wheels", TOOLS / "wheels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NAMES = {
    "cp311-manylinux_x86_64": "cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64",
    "cp312-manylinux_aarch64": "cp312-cp312-manylinux_2_28_aarch64",
    "cp314t-musllinux_x86_64": "cp314-cp314t-musllinux_1_2_x86_64",
    "cp313-macosx_arm64": "cp313-cp313-macosx_11_0_arm64",
    "cp315t-win_amd64": "cp315-cp315t-win_amd64",
}


@pytest.mark.parametrize(("identifier", "tags"), NAMES.items(), ids=str)
def test_which_wheel_a_name_is_of(tool, identifier, tags):
    assert tool.identifier(f"varscope_core-0.1.0-{tags}.whl") == identifier
    assert identifier in tool.expected()


def wheel_names(tool):
    """Names that the wheels of tools/wheels.txt may have."""
    for identifier in tool.expected():
        abi, _, platform = identifier.partition("-")
        platform = re.sub("^(manylinux|musllinux|macosx)_", r"\1_2_17_", platform)
        yield f"varscope_core-0.1.0-{abi.rstrip('t')}-{abi}-{platform}.whl"


def test_wheels_that_are_all_there(tool, capsys):
    tool.check(list(wheel_names(tool)))
    assert f"{len(tool.expected())} wheels" in capsys.readouterr().out


def test_wheels_that_are_missing_or_surplus(tool, capsys):
    names = list(wheel_names(tool))
    extra = "varscope_core-0.1.0-cp310-cp310-win_amd64.whl"
    twice = names[2].replace("0.1.0", "0.1.1")
    with pytest.raises(SystemExit, match=r"tools/wheels\.txt"):
        tool.check([*names[1:], extra, twice])
    missing, surplus = capsys.readouterr().err.splitlines()
    assert missing == f"missing: {tool.identifier(names[0])}"
    expected = sorted(tool.identifier(name) for name in (names[2], extra, twice))
    assert surplus == f"not expected: {' '.join(expected)}"


def test_wheels_are_for_all_platforms_and_versions(tool):
    found = {tuple(line.split("-")) for line in tool.expected()}
    versions, platforms = {tag for tag, _ in found}, {platform for _, platform in found}
    assert {"cp311", "cp312", "cp313", "cp314", "cp314t"} <= versions
    linux = {
        f"{libc}_{cpu}" for libc in ("manylinux", "musllinux") for cpu in ("x86_64", "aarch64")
    }
    assert platforms == linux | {"macosx_x86_64", "macosx_arm64", "win_amd64", "win_arm64"}
    assert len(found) == len(versions) * len(platforms)  # each for each


def test_wheels_are_tested_as_the_readme_says(tool):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = re.search(r"<!-- run: tests -->\n```sh\n.* && (.*)\n```", readme)[1]
    assert tool.settings()["test-command"] == f"{command} -rs"
    assert all((ROOT / name).exists() for name in tool.settings()["test-sources"])


def test_an_interpreter_is_found_by_version_or_path(tool):
    version = f"{TAG[2]}.{TAG[3:]}"
    assert tool.tag_of(sys.executable) == TAG
    assert tool.interpreter(sys.executable) == shutil.which(sys.executable)
    assert tool.tag_of(tool.interpreter(version, default=sys.executable)) == TAG
    with pytest.raises(SystemExit, match=r"write 3\.12, or a path"):
        tool.interpreter("no-such-python")
    with pytest.raises(SystemExit, match=r"no interpreter python3\.99"):
        tool.interpreter("3.99")


# --- docstrings


@pytest.mark.parametrize("name", vs.__all__)
def test_a_public_name_is_there_and_says_what_it_is(name):
    assert (getattr(vs, name).__doc__ or "").strip()


def docstring_examples():
    """The doctests of every module, each once; a front door's text is found in several places."""
    finder = doctest.DocTestFinder()
    seen = set()
    for found in pkgutil.walk_packages(vs.__path__, "varscope."):
        if found.name.endswith(".__main__"):
            continue
        for test in finder.find(importlib.import_module(found.name)):
            if test.examples and test.docstring not in seen:
                seen.add(test.docstring)
                yield test


DOCSTRINGS = list(docstring_examples())


@pytest.mark.parametrize(
    "test",
    [
        pytest.param(test, id=test.name, marks=[on_posix] * test.name.endswith("MemoryMapped"))
        for test in DOCSTRINGS
    ],
)
def test_the_examples_in_docstrings(test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some leave files
    if test.name == "varscope.plots.treemap":
        require_large("plotly", '"varscope-core[plots]"')
    if test.name.startswith("varscope.interop.torch"):
        pytest.skip("it is run beside torch: see torch_modules.py")
    if test.name.startswith("varscope.interop.dask"):
        require_large("distributed", '"varscope-core[dask]"')
    if test.name.startswith("varscope.interop.onnx"):
        require_large("onnx", '"varscope-core[onnx]"')
    examples.check(test.docstring, test.name, 0, test.globs)


DOORS = ["Graph", "Variable", "VariableScope", "get_variable", "get_variable_scope"]
DOORS += ["name_scope", "variable_scope"]


@pytest.mark.parametrize("name", DOORS)
def test_a_front_door_has_an_example(name):
    found = doctest.DocTestParser().get_examples(getattr(vs, name).__doc__)
    assert found
    assert sources(found) in [sources(test.examples) for test in DOCSTRINGS]


def sources(found):
    return [example.source for example in found]
