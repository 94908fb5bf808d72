"""`varscope build`: what it prints, whose mistake an error is, and the exit status."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from command_line import environment, invoke, on_terminal, refused, run
from requires import on_posix, require

import varscope as vs
from varscope.cli import builders

BUILDER = """
    import varscope as vs

    def build(layers=2, width=4):
        for i in range(layers):
            with vs.variable_scope(f"layers_{i}"):
                vs.get_variable("w", [width, width])
"""


@pytest.fixture
def builder(tmp_path):
    """Write a builder file and give its path as text."""

    def write(source=BUILDER, name="model.py"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        return str(path)

    return write


def build(*arguments):
    """Run the command in this process."""
    return invoke("build", *arguments)


def run_build(*arguments, **changes):
    """Run the command as its users do."""
    return run("build", *arguments, **changes)


def totals(output):
    """The last lines, as a dict from label to text."""
    return dict(line.split(None, 1) for line in output.rstrip().splitlines()[-5:])


# ---------------------------------------------------------------------------- what is printed


def test_the_summary_and_the_totals(builder):
    done = run_build(builder(), "--set", "layers=1200")
    assert (done.returncode, done.stderr) == (0, "")
    head, row, blank, *rest = done.stdout.splitlines()
    assert head.split() == ["variable", "type", "count", "parameters"]
    assert row == "layers_[0-1199]/w  float32[4, 4]  \N{MULTIPLICATION SIGN}1,200      19,200"
    assert blank == ""
    assert len(rest) == 5
    shown = totals(done.stdout)
    assert (shown["variables"], shown["parameters"]) == ("1,200", "19,200")
    assert shown["bytes"] == "76,800 (75.0 KiB)"
    assert float(shown["seconds"]) >= 0
    assert int(shown["variables/s"].replace(",", "")) > 0


def test_json_is_all_there_is_on_stdout(builder):
    path = builder(
        """
        import varscope as vs
        print("imported")

        def build():
            print("building")
            vs.get_variable("w", [3], dtype="float16")
            vs.get_variable("w_1", [3], dtype="float16")
        """
    )
    done = run_build(path, "--json")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert done.stderr.splitlines() == ["imported", "building"]
    seconds = document.pop("seconds")
    assert document.pop("variables_per_second") == pytest.approx(2 / seconds)
    row = {"path": "w{,_1}", "dtype": "float16", "shape": [3], "count": 2, "parameters": 6}
    assert document == {
        "variables": 2,
        "parameters": 6,
        "bytes": 12,
        "summary": [row | {"bytes": 12}],
    }


def test_what_the_builder_prints_goes_to_stdout(builder):
    path = builder("def build():\n    print('hello')\n")
    assert run_build(path).stdout.startswith("hello\n")


@on_posix
def test_many_different_variables_are_cut_short_on_a_terminal(builder):
    path = builder(
        """
        import varscope as vs

        def build(n=1201):
            for i in range(n):
                vs.get_variable(f"v{i}", [i])
        """
    )
    status, output = on_terminal("build", path)
    assert status == 0
    assert "v199 " in output
    assert "v200 " not in output
    assert "1,001 more rows; a pipe or --json gets all" in output
    assert "more rows" not in on_terminal("build", path, "--set", "n=200")[1]
    output = build(path).output
    assert output.count("\n") == 1201 + 7
    assert totals(output)["variables"] == "1,201"
    assert len(json.loads(build(path, "--json").stdout)["summary"]) == 1201


def test_a_shape_that_is_not_known_yet(builder):
    path = builder(
        """
        import varscope as vs

        def build():
            vs.get_variable("a", validate_shape=False, initializer=vs.zeros)
            vs.get_variable("b", [None, 2], validate_shape=False, initializer=vs.zeros)
        """
    )
    output = build(path).output
    rows = [line.split() for line in output.splitlines()[1:3]]
    assert rows == [["a", "float32[...]", "?"], ["b", "float32[?,", "2]", "?"]]
    assert [row["parameters"] for row in json.loads(build(path, "--json").stdout)["summary"]] == [
        None,
        None,
    ]


def test_a_builder_that_declares_nothing_is_told_so(builder):
    path = builder(
        """
        import varscope as vs

        def build():
            with vs.Graph().as_default():
                vs.get_variable("w", [3])
        """
    )
    done = run_build(path)
    assert done.returncode == 0
    assert totals(done.stdout)["variables"] == "0"
    assert done.stderr == "varscope: the builder declared nothing in the default graph\n"


def test_a_narrow_encoding_gets_plainer_signs(builder):
    done = run_build(builder(), PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert " x2 " in done.stdout


def test_each_run_has_a_graph_of_its_own(builder):
    path = builder()
    before = len(vs.get_default_graph())
    assert build(path).output.splitlines()[1] == build(path).output.splitlines()[1]
    assert len(vs.get_default_graph()) == before


# ---------------------------------------------------------------------------- the file


def test_another_function_can_be_named(builder):
    path = builder("import varscope as vs\ndef small():\n    vs.get_variable('s', [1])\n")
    assert totals(build(f"{path}:small").output)["variables"] == "1"


def test_a_path_may_hold_colons_and_need_not_end_in_py(builder):
    assert build(builder(name="model")).exit_code == 0
    if sys.platform != "win32":
        assert build(builder(name="a:b.py")).exit_code == 0
        assert build(builder(name="a:b")).exit_code == 0
        assert build(builder(name="a:b.py") + ":build").exit_code == 0


def test_a_drive_letter_is_no_file(monkeypatch):
    monkeypatch.setattr(os, "name", "nt")
    # Only the text is looked at: a Path made here would be of the wrong kind.
    monkeypatch.setattr(builders, "Path", str)
    assert builders.split_target(r"C:\models\moe.py") == (r"C:\models\moe.py", "build")
    assert builders.split_target(r"C:\models\moe.py:small") == (r"C:\models\moe.py", "small")
    assert builders.split_target("C:/models/moe.py") == ("C:/models/moe.py", "build")
    assert builders.split_target("C:moe") == ("C:moe", "build")


def test_the_file_finds_its_neighbours_and_itself(builder, tmp_path):
    builder("WIDTH = 7\n", name="neighbour.py")
    path = builder(
        """
        import dataclasses
        import pickle

        import varscope as vs
        from neighbour import WIDTH

        assert __name__ == "itself"

        @dataclasses.dataclass
        class Size:
            width: "int"

        def build():
            import neighbour
            size = pickle.loads(pickle.dumps(Size(WIDTH)))
            vs.get_variable("w", [size.width])
        """,
        name="itself.py",
    )
    done = run_build(path)
    assert totals(done.stdout)["parameters"] == "7"
    # As with `python FILE`, only what the file imports is cached.
    assert not list(tmp_path.glob("__pycache__/itself*"))


def test_a_name_that_is_taken_stays_what_it_is(builder):
    path = builder(name="json.py")
    path_before = list(sys.path)
    assert build(path).exit_code == 0
    assert sys.modules["json"] is json
    assert "varscope_builder_json" not in sys.modules
    assert sys.path == path_before


def test_a_missing_file(tmp_path):
    refused(build(tmp_path / "missing.py"), "no such file", "missing.py")
    refused(build(f"{tmp_path / 'missing.py'}:small"), "no such file", "missing.py; ")


def test_a_folder(tmp_path):
    refused(build(tmp_path), "folder")


def test_a_missing_function(builder):
    path = builder("def small(): ...\ndef large(): ...\n")
    refused(build(path), "no function 'build'", "small, large")
    refused(build(builder("x = 1\n")), "no function 'build'", "no function")


def test_what_is_not_the_name_of_a_function(builder):
    refused(build(builder() + ":a-b"), "not the name of a function", "'a-b'")
    refused(build(builder() + ":"), "not the name of a function")


def test_what_is_not_a_function(builder):
    refused(build(builder("build = 3\n")), "not a function", "int")
    refused(build(builder("async def build(): ...\n")), "coroutine")
    refused(build(builder("def build():\n    yield\n")), "generator")
    refused(build(builder("async def build():\n    yield\n")), "generator")


def test_no_file_at_all():
    result = build()
    assert result.exit_code == 2
    assert "Missing argument" in result.output


# ---------------------------------------------------------------------------- settings

ECHO = """
    def build(count=4, ratio=0.5, name="x", fast=False, sizes=(1, 2), limit: int | None = 3):
        print([count, ratio, name, fast, sizes, limit])
"""


def echoed(path, *settings):
    result = build(path, *settings)
    assert result.exit_code == 0, result.output
    return result.output.splitlines()[0]


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("count=92", "[92, 0.5, 'x', False, (1, 2), 3]"),
        ("count=-1", "[-1, 0.5, 'x', False, (1, 2), 3]"),
        ("ratio=1e-3", "[4, 0.001, 'x', False, (1, 2), 3]"),
        ("ratio=2", "[4, 2.0, 'x', False, (1, 2), 3]"),
        ("name=float16", "[4, 0.5, 'float16', False, (1, 2), 3]"),
        ("name=8", "[4, 0.5, '8', False, (1, 2), 3]"),
        ("name='8'", "[4, 0.5, '8', False, (1, 2), 3]"),
        ("name=true", "[4, 0.5, 'true', False, (1, 2), 3]"),
        ("name=a=b", "[4, 0.5, 'a=b', False, (1, 2), 3]"),
        ("name=", "[4, 0.5, '', False, (1, 2), 3]"),
        ("fast=true", "[4, 0.5, 'x', True, (1, 2), 3]"),
        ("fast=True", "[4, 0.5, 'x', True, (1, 2), 3]"),
        ("sizes=[3]", "[4, 0.5, 'x', False, [3], 3]"),
        ("sizes=big", "[4, 0.5, 'x', False, 'big', 3]"),
        ("sizes=false", "[4, 0.5, 'x', False, False, 3]"),
        ("limit=None", "[4, 0.5, 'x', False, (1, 2), None]"),
    ],
)
def test_values(builder, setting, values):
    assert echoed(builder(ECHO), "--set", setting) == values


def test_several_settings_in_any_style(builder):
    path = builder(ECHO)
    expected = "[9, 1.0, 'y', False, (1, 2), 3]"
    assert echoed(path, "--set", "count=9", "--set", "ratio=1", "--set", "name=y") == expected
    assert echoed(path, "--set", "count=9", "ratio=1", "name=y") == expected
    assert echoed(path, "count=9", "ratio=1", "name=y") == expected
    assert echoed("--set", "count=9", path, "ratio=1", "name=y") == expected


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("count=abc", "int"),
        ("count=1.5", "int"),
        ("count=true", "int"),
        ("count=", "int"),
        ("ratio=much", "float"),
        ("fast=1", "bool"),
        ("fast=yes", "bool"),
    ],
)
def test_a_value_that_does_not_fit_the_default(builder, setting, kind):
    refused(build(builder(ECHO), "--set", setting), setting, f"not of type {kind}", "default")


def test_an_annotation_counts_before_the_default(builder):
    path = builder(
        """
        from __future__ import annotations

        def build(ratio: float = 1, size: int | str = 3, count: int = None):
            print([ratio, size, count])
        """
    )
    assert echoed(path, "ratio=0.5", "size=auto", "count=2") == "[0.5, 'auto', 2]"
    refused(build(path, "count=few"), "not of type int")


def test_an_unknown_key(builder):
    result = build(builder(), "--set", "layer=3")
    refused(result, "'layer'", "did you mean 'layers'", "layers=2, width=4")
    refused(build(builder("def build(): ...\n"), "x=1"), "no parameter 'x'", "none")


def test_a_missing_value(builder):
    path = builder("def build(size, *, depth): print([size, depth])\n")
    refused(build(path), "needs a value for 'size'", "--set size=")
    refused(build(path, "size=3"), "needs a value for 'depth'")
    assert echoed(path, "size=3", "depth=2") == "[3, 2]"


@pytest.mark.parametrize("setting", ["layers", "=3", "="])
def test_a_setting_without_key_or_value(builder, setting):
    refused(build(builder(), "--set", setting), "not a setting", repr(setting), "key=value")
    refused(build(builder(), setting), "not a setting", repr(setting), "key=value")


def test_a_key_that_is_set_twice(builder):
    refused(build(builder(), "--set", "layers=3", "layers=4"), "'layers' is set twice")


def test_all_kinds_of_parameters(builder):
    path = builder(
        """
        def build(a=1, b=2, /, c=3, *args, d=4, **kwargs):
            print([a, b, c, args, d, kwargs])
        """
    )
    assert echoed(path) == "[1, 2, 3, (), 4, {}]"
    assert echoed(path, "b=7", "d=8") == "[1, 7, 3, (), 8, {}]"
    assert echoed(path, "e=9", "kwargs=x", "args=1") == (
        "[1, 2, 3, (), 4, {'e': 9, 'kwargs': 'x', 'args': 1}]"
    )


def test_a_callable_without_a_signature(builder):
    refused(build(builder("build = dict.fromkeys\n"), "--set", "x=1"), "parameter")


# ---------------------------------------------------------------------------- failing builders


def test_an_exception_shows_the_builders_own_frames(builder):
    path = builder(
        """
        def build():
            inner()

        def inner():
            raise KeyError("lost")
        """
    )
    done = run_build(path)
    assert (done.returncode, done.stdout) == (1, "")
    first, second, *frames, last = done.stderr.splitlines()
    assert first == f"varscope: build() in {path} raised KeyError"
    assert second == "Traceback (most recent call last):"
    assert last == "KeyError: 'lost'"
    assert [line.split(", in ")[-1] for line in frames if "File" in line] == ["build", "inner"]
    assert all(path in line for line in frames if "File" in line)


def test_an_exception_of_the_library_is_the_builders(builder):
    path = builder("import varscope as vs\ndef build():\n    vs.get_variable('a//b', [1])\n")
    message = refused(build(path), "a//b", "in build", status=1)
    assert "builders.py" not in message


def test_the_cause_of_an_exception_is_shown(builder):
    path = builder(
        """
        def build():
            try:
                1 / 0
            except ZeroDivisionError as error:
                raise OSError("no luck") from error
        """
    )
    message = refused(build(path), "ZeroDivisionError", "direct cause", "no luck", status=1)
    assert "builders.py" not in message


def test_an_exception_while_the_file_is_loaded(builder):
    path = builder("import varscope\nraise RuntimeError('early')\n")
    message = refused(build(path), "raised RuntimeError", "early", "line 2", status=1)
    assert "importlib" not in message
    assert "builders.py" not in message


@pytest.mark.parametrize("source", ["def build(:\n", "x = '\0'\n", "# coding: no-such\n"])
def test_a_file_that_does_not_compile(builder, source):
    message = refused(build(builder(source)), "model.py", "Error", status=1)
    assert "builders.py" not in message


def test_a_builder_that_exits_has_failed(builder):
    refused(build(builder("import sys\ndef build():\n    sys.exit(0)\n")), "SystemExit", status=1)


def test_a_scope_that_is_left_open_is_the_builders_mistake(builder):
    path = builder(
        """
        import varscope as vs

        def build():
            vs.variable_scope("forgotten").__enter__()
        """
    )
    refused(build(path), path, "ScopeOrderError", "forgotten", status=1)
    assert vs.get_variable_scope().name == ""


def test_ctrl_c_is_one_line(builder):
    path = builder(
        """
        import varscope as vs

        def build():
            vs.get_variable("w", [1])
            raise KeyboardInterrupt
        """
    )
    result = build(path)
    assert result.exit_code == 130
    assert result.output == "varscope: interrupted; variables declared so far: 1\n"


@on_posix
def test_a_real_ctrl_c(builder):
    path = builder(
        """
        import itertools
        import varscope as vs

        def build():
            print("ready", flush=True)
            for i in itertools.count():
                with vs.variable_scope(f"layers_{i % 1000}"):
                    vs.get_variable(f"w_{i}", [1])
        """
    )
    # A shell's background jobs ignore SIGINT, and so would what they start: begin with it on.
    listen = "import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv({}, {})"
    command = [sys.executable, "-m", "varscope", "build", path]
    with subprocess.Popen(
        [sys.executable, "-c", listen.format(repr(sys.executable), command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as child:
        try:
            assert child.stdout.readline() == "ready\n"
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=60)
        finally:
            child.kill()  # where it did not listen, it would go on for ever
    assert (child.returncode, out) == (130, "")
    assert err.startswith("varscope: interrupted; variables declared so far: ")
    assert err.count("\n") == 1


# ---------------------------------------------------------------------------- the terminal


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_progress_follows_the_builder(monkeypatch):
    """The builder waits until its variables have been seen on the terminal."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    graph = vs.Graph()
    seen = []

    def declare(count):
        with graph.as_default():
            for _ in range(count):
                vs.get_variable(f"w_{len(graph)}", [1])
        deadline = time.monotonic() + 60
        while f" {len(graph):,} variables " not in terminal.getvalue():
            assert time.monotonic() < deadline, terminal.getvalue()
            time.sleep(0.01)
        seen.append(len(graph))

    with builders.progress(graph):
        declare(5)
        declare(1995)
    assert seen == [5, 2000]


def test_no_progress_outside_a_terminal(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with builders.progress(vs.Graph()):
        pass
    assert stream.getvalue() == ""


NOISY = """
    import varscope as vs

    def build():
        vs.get_variable("w", [3])
        print("from the builder")
        print("without an end", end="")
"""


@on_posix
def test_on_a_terminal(builder):
    status, shown = on_terminal("build", builder(NOISY))
    assert status == 0
    assert " 1 variables " in shown  # the progress line
    assert "\x1b[?25l" in shown  # the cursor is hidden …
    assert "\x1b[?25h" in shown  # … and comes back
    assert shown.count("from the builder") == 1
    assert shown.count("without an end") == 1
    table = shown[shown.index("\x1b[?25h") :]
    assert "\x1b[36mfloat32[3]" in table
    assert "parameters" in table


@on_posix
def test_stdout_in_a_file_and_stderr_on_a_terminal(builder, tmp_path):
    with open(tmp_path / "out.txt", "w+b") as file:
        status, shown = on_terminal("build", builder(NOISY), stdout=file)
        file.seek(0)
        written = file.read().decode()
    assert status == 0
    assert " 1 variables " in shown
    assert "from the builder" not in shown
    assert written.startswith("from the builder\nwithout an end")
    assert "\x1b" not in written
    assert totals(written)["variables"] == "1"


@on_posix
def test_json_on_a_terminal(builder, tmp_path):
    with open(tmp_path / "out.json", "w+b") as file:
        status, shown = on_terminal("build", builder(NOISY), "--json", stdout=file)
        file.seek(0)
        document = json.load(file)
    assert (status, document["variables"]) == (0, 1)
    assert "from the builder" in shown


@on_posix
def test_a_failure_on_a_terminal(builder):
    status, shown = on_terminal("build", builder("def build():\n    raise OSError('no luck')\n"))
    assert status == 1
    assert "\x1b[?25h" in shown
    assert "OSError: no luck" in shown[shown.index("\x1b[?25h") :]


# ---------------------------------------------------------------------------- the manual

ROOT = Path(__file__).resolve().parent.parent
MANUAL = ROOT / "docs" / "command-line.md"


def examples():
    """(command, output) of every example in the manual."""
    for block in re.findall(r"```console\n(.*?)```", MANUAL.read_text(encoding="utf-8"), re.DOTALL):
        for example in block.split("$ varscope ")[1:]:
            yield tuple(example.split("\n", 1))


def lasting(output):
    """Without what is another thing each time: times, and names of files."""
    output = re.sub(r'(seconds|variables/s|"variables_per_second":|"seconds":) .*', r"\1", output)
    return re.sub(r"model-[0-9a-f]{8}-", "model-", output)


def test_the_manual_shows_what_is_printed(tmp_path, monkeypatch):
    """From top to bottom: an example may look at what one above it wrote."""
    require("safetensors", '"varscope-core[checkpoints]"')
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    for line, output in examples():
        found = invoke(*shlex.split(line)).output.replace(f"{tmp_path.resolve()}/", "/shared/")
        assert f"$ varscope {line}\n{lasting(found)}" == f"$ varscope {line}\n{lasting(output)}"


def test_the_manual_has_examples():
    shown = {line.split()[0] for line, _ in examples()}
    commands = {"build", "show", "save", "diff", "verify", "restore", "plan", "materialise"}
    assert shown == commands


# ---------------------------------------------------------------------------- without the extra


@pytest.mark.parametrize("module", ["click", "rich"])
def test_without_click_or_rich(module):
    code = f"import sys; sys.modules[{module!r}] = None; from varscope.cli import main; main()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, check=False, text=True, env=environment())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f'varscope: the command line needs {module}: pip install "varscope-core[cli]"\n'
    )


def test_help_names_everything():
    done = run("--help")
    assert done.returncode == 0
    commands = ("build", "show", "diff", "plot", "save", "plan", "materialise", "restore", "verify")
    for name in commands:
        assert f"  {name} " in done.stdout
        assert "--json" in invoke(name, "--help").stdout
    for word in ("FILE[:FUNCTION]", "--set", "KEY=VALUE"):
        assert word in invoke("build", "--help").stdout
