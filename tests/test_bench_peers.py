"""bench/peers.py: what it times, how it goes on where a library is missing, table and picture."""

import importlib.util
import itertools
import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import varscope

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "bench" / "peers"
PICTURES = ROOT / "docs" / "pictures"


def load(path):
    """As a module of its own: the folder of the workers must not be on the path."""
    spec = importlib.util.spec_from_file_location(f"bench_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


peers = load(ROOT / "bench" / "peers.py")
worker = load(FOLDER / "worker.py")
plot = load(FOLDER / "plot.py")


def power_law(title, created, found, exponent, sizes, **other):
    sizes = [
        {"names": n, "created": created * n**exponent, "found": found * n**exponent} for n in sizes
    ]
    return {"title": title, "python": "3.11.7", "version": "1.2", "sizes": sizes, **other}


@pytest.fixture
def data():
    sizes = [1_000, 3_200, 10_000, 32_000, 100_000]
    return {
        "system": "Linux x86_64",
        "peers": {
            "varscope": power_law("varscope", 2e-7, 1e-7, 1, sizes),
            "dict": power_law("dict, by hand", 3e-7, 5e-8, 1, sizes, version=None),
            "nnabla": power_law("NNabla", 4e-5, 2e-6, 1.25, sizes[:2], python="3.10.13"),
        },
        "skipped": {"flax": "there is no network"},
    }


# --- the workers --------------------------------------------------------------------------------


def output_of(name, names, seconds):
    result = subprocess.run(
        [sys.executable, FOLDER / "worker.py", name, str(names), str(seconds)],
        capture_output=True, check=False, encoding="utf-8", timeout=250,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("name", ["varscope", "dict"])
def test_what_a_worker_writes(name):
    about, *sizes = output_of(name, 10_000, 60)
    assert set(about) == {"python", "version"}
    assert [size["names"] for size in sizes] == [1_000, 3_200, 10_000]
    for size in sizes:
        assert 0 < size["found"] < 10
        assert 0 < size["created"] < 10


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("tensorflow", "tensorflow"), ("haiku", "haiku"), ("flax", "flax"),
        ("nnabla", "nnabla"), ("torch", "torch"),
    ],
)  # fmt: skip
def test_the_other_libraries_where_they_are_there(name, module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {module}, which bench/peers.py installs by itself")
    about, size = output_of(name, 1_000, 1)
    assert re.match(r"\d+\.\d+", about["version"])
    assert size["names"] == 1_000


def test_there_is_a_worker_for_each():
    assert list(worker.PEERS) == list(peers.PEERS) == list(plot.COLOURS)
    assert all(layers * len(worker.NAMES) in range(1_000, 10_000_001) for layers in worker.LAYERS)
    assert {*peers.COLUMNS} <= {layers * len(worker.NAMES) for layers in worker.LAYERS}


def test_the_twins_make_the_same_names():
    ours, others = worker.Varscope(), worker.HandWritten()
    graph, registry = ours.create(4), others.create(4)
    ours.find(graph, 4)
    others.find(registry, 4)
    assert ours.paths(graph) == others.paths(registry)
    assert len(others.paths(registry)) == 4 * 8


def test_the_registry_by_hand_has_rules():
    registry = worker.HandWritten().create(2)
    with pytest.raises(KeyError, match="layer_0/query exists"):
        worker.build(registry, 2, None)
    with pytest.raises(KeyError, match="layer_2/query does not exist"):
        worker.build(registry, 3, True)
    with (
        registry.variable_scope("layer_0", reuse=True),
        pytest.raises(ValueError, match=r"shape \(4, 4\), not \[5\]"),
    ):
        registry.get_variable("query", [5])


class MadeUp:
    """A library that takes so many seconds a layer, by a clock of its own."""

    library = None

    def __init__(self, each=0.0, exponent=1):
        self.each, self.exponent = each, exponent
        self.seconds = 0.0

    def clock(self):
        return self.seconds

    def create(self, layers):
        self.seconds += self.each * layers**self.exponent
        return [f"layer_{i}/{name}" for i in range(layers) for name in worker.NAMES]

    def find(self, model, layers):
        self.seconds += 0.001

    def paths(self, model):
        return model


@pytest.fixture
def made_up(monkeypatch):
    def peer(*arguments):
        made = MadeUp(*arguments)
        monkeypatch.setattr(worker, "clock", made.clock)
        monkeypatch.setattr(worker, "monotonic", made.clock)
        return made

    return peer


def test_a_library_that_shares_nothing_is_not_measured():
    peer = MadeUp()
    worker.check(peer)
    peer.find = lambda model, layers: model.append("layer_0/query_1")
    with pytest.raises(AssertionError, match=r"the second time it made .*query_1"):
        worker.check(peer)


def test_the_best_of_five_rounds_counts(made_up):
    peer = made_up(0.01)
    created, found = worker.measure(peer, 10)
    assert (created, found) == pytest.approx((0.1, 0.001))
    assert peer.seconds == pytest.approx(5 * 0.101)
    worker.measure(peer, 150)  # the second begins before two seconds
    assert peer.seconds == pytest.approx(5 * 0.101 + 2 * 1.501)


@pytest.mark.parametrize(
    ("each", "exponent", "reached"), [(0.01, 1, 4_000), (1e-4, 2, 400), (1.0, 1, 125)]
)
def test_no_model_is_begun_that_would_take_too_long(made_up, each, exponent, reached):
    peer = made_up(each, exponent)
    sizes = list(worker.sizes(peer, 10_000_000, 100))
    assert sizes[-1]["names"] == reached * 8
    assert peer.seconds < 150  # of the hundred, where the first is too slow already


# --- going on -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_goes_wrong_is_a_word_and_the_rest_goes_on(monkeypatch, tmp_path, capsys):
    """With a real pip that may ask nobody."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    data = peers.measure(["torch", "varscope", "dict"], tmp_path / "envs", 1_000, [(1, 1), (1, 1)])
    assert list(data["peers"]) == ["varscope", "dict"]
    assert "No matching distribution found" in data["skipped"]["torch"]
    shown = capsys.readouterr().err
    assert shown.count("torch: skipped: ") == 1  # it is not tried again
    assert shown.count("varscope: measuring") == 2
    assert "\nPyTorch meta modules skipped: " in peers.table(data)


def test_a_library_that_breaks_off_keeps_what_it_has(monkeypatch, capsys):
    size = {"names": 1000, "created": 2.0, "found": 1.0}
    lines = [json.dumps({"python": "3.11.7", "version": "1"}), json.dumps(size)]

    def broken(*command, seconds):
        raise peers.Skipped("ended with status -9", "\n".join([*lines, '{"names": 32']))

    monkeypatch.setattr(peers, "run", broken)
    data = peers.measure(["varscope"], None, 10_000, [(1, 1)])
    assert data["peers"]["varscope"]["sizes"] == [size]
    assert "varscope: ended early: ended with status -9" in capsys.readouterr().err
    lines.clear()
    assert peers.measure(["varscope"], None, 10_000, [(1, 1)])["skipped"] == {
        "varscope": "ended with status -9"
    }


def test_what_a_command_says_last():
    with pytest.raises(peers.Skipped, match=r"^stopped after 0 seconds$"):
        peers.run(sys.executable, "-c", "import time; time.sleep(60)", seconds=0.05)
    with pytest.raises(peers.Skipped, match=r"^ended with status 3$"):
        peers.run(sys.executable, "-c", "raise SystemExit(3)", seconds=60)
    with pytest.raises(peers.Skipped, match=r"^ERROR: no$"):
        script = "import sys; sys.exit('ERROR: no\\nand a hint')"
        peers.run(sys.executable, "-c", script, seconds=60)
    with pytest.raises(peers.Skipped, match=r"^ZeroDivisionError: division by zero$") as skipped:
        peers.run(sys.executable, "-c", "print('first'); 1 / 0", seconds=60)
    assert skipped.value.output == "first\n"
    with pytest.raises(peers.Skipped, match="no-such-program"):
        peers.run("no-such-program", seconds=60)


@pytest.fixture
def commands(monkeypatch):
    """The commands that would run, and do nothing."""
    seen = []

    def run(*command, seconds):
        seen.append([str(part) for part in command])
        if command[2:4] == ("-m", "venv"):
            command[4].mkdir(parents=True)
        return ""

    monkeypatch.setattr(peers, "run", run)
    return seen


def test_an_environment_is_made_once_and_for_its_versions(monkeypatch, tmp_path, commands):
    own = "{}.{}".format(*sys.version_info)
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    pins = tmp_path / "made.txt"
    pins.write_text(f"# python {own}\nmade==1\n", encoding="utf-8")
    python = peers.environment("made", tmp_path / "envs")
    assert python.parent.parent == tmp_path / "envs" / f"made-{own}"
    assert len(commands) == 2
    assert peers.environment("made", tmp_path / "envs") == python
    assert len(commands) == 2
    pins.write_text(f"# python {own}\nmade==2\n", encoding="utf-8")
    peers.environment("made", tmp_path / "envs")
    assert len(commands) == 4
    assert {"--no-deps", "--only-binary"} <= {*commands[3]}
    # One that was interrupted is made anew.
    (tmp_path / "envs" / f"made-{own}" / "complete.txt").unlink()
    peers.environment("made", tmp_path / "envs")
    assert len(commands) == 6


def test_another_python_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(peers.Skipped, match=r"there is no Python 2\.9 or 2\.10 on PATH, nor in "):
        peers.interpreter_for("# python 2.9 2.10\nold==1\n")
    there = tmp_path / "versions" / "2.10.4" / "bin" / "python"
    there.parent.mkdir(parents=True)
    there.touch()
    monkeypatch.setattr(peers, "version_of", lambda python: "2.10" if python == there else None)
    assert peers.interpreter_for("# python 2.9 2.10\nold==1\n") == (there, "2.10")


def test_the_version_of_a_python(tmp_path):
    assert peers.version_of(sys.executable) == "{}.{}".format(*sys.version_info)
    assert peers.version_of(tmp_path / "python") is None


@pytest.mark.parametrize(
    "name", [*(name for name in peers.PEERS if name not in peers.OURS), "plot"]
)
def test_all_is_pinned(name):
    first, *pins = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"# python( 3\.\d+)+", first)
    assert pins
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tensorflo"], "there is no peer 'tensorflo'; there are dict, tensorflow, haiku,"),
        (["--names", "10"], "--names 10: the smallest model has 1,000"),
    ],
)
def test_words_that_it_does_not_know(arguments, words, capsys):
    with pytest.raises(SystemExit):
        peers.main(arguments)
    assert words in capsys.readouterr().err


def test_without_varscope_there_is_nothing_to_compare_with(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    skipped = {"varscope": "ModuleNotFoundError: No module named 'varscope'"}
    monkeypatch.setattr(peers, "measure", lambda *arguments: {"skipped": skipped})
    with pytest.raises(SystemExit, match="No module named 'varscope'; install it for this Python"):
        peers.main(["dict"])
    assert list(tmp_path.iterdir()) == []


def test_without_a_picture_the_figures_stay(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    # Wherever it was imported from, which may have been named from the folder before.
    monkeypatch.setenv("PYTHONPATH", str(Path(varscope.__file__).resolve().parent.parent))

    def environment(name, folder):
        raise peers.Skipped("Error: it takes a Chromium")

    monkeypatch.setattr(peers, "environment", environment)
    with pytest.raises(SystemExit, match=r"no picture: .*Chromium\n.*--plot peers\.json"):
        peers.main(["--names", "1000", "--quick", "dict"])
    assert set(peers.load("peers.json")["peers"]) == {"varscope", "dict"}
    assert capsys.readouterr().out.startswith("| ns a variable")


# --- the table ----------------------------------------------------------------------------------


def test_the_fit():
    peer = power_law("", 3e-7, 1e-7, 1.125, [1_000, 10_000, 32_000, 100_000])
    peer["sizes"][0]["found"] = 100.0  # below ten thousand names, and there are three above
    exponent, names = peers.fitted(peer, "found")
    assert exponent == pytest.approx(1.125)
    assert names == (10_000, 32_000, 100_000)
    del peer["sizes"][2:]
    exponent, names = peers.fitted(peer, "created")
    assert exponent == pytest.approx(1.125)
    assert names == (1_000, 10_000)
    del peer["sizes"][1:]
    assert peers.fitted(peer, "created") is None


def test_the_fit_is_that_of_least_squares():
    peer = {"sizes": [{"names": n, "found": t} for n, t in [(1, 1), (10, 10), (100, 1_000)]]}
    exponent, _ = peers.fitted(peer, "found")
    assert exponent == pytest.approx(1.5)


def test_the_best_of_two_runs():
    first = {"title": "a", "sizes": [{"names": 8, "created": 1.0, "found": 4.0}]}
    second = {"title": "a", "sizes": [{"names": 8, "created": 2.0, "found": 3.0},
                                      {"names": 16, "created": 5.0, "found": 5.0}]}  # fmt: skip
    best = [{"names": 8, "created": 1.0, "found": 3.0}, {"names": 16, "created": 5.0, "found": 5.0}]
    assert peers.merged(first, second)["sizes"] == peers.merged(second, first)["sizes"] == best


def cells(text, title):
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith(f"| {title} ")
    ]


def test_the_table(data):
    text = peers.table(data)
    head, rule, *rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in [head, rule, *rows]}) == 1  # laid out, to be read as it is
    assert "1,000 names |" in head
    assert "1,000,000 names" not in head
    created, found = cells(text, "varscope")
    assert created == ["varscope", "200", "200", "200", "1.00 (10k to 100k)"]
    assert found == ["varscope", "100", "100", "100", "1.00 (10k to 100k)"]
    created, found = cells(text, "dict, by hand")
    assert created[1:] == [*["300 (\N{MULTIPLICATION SIGN}1.5)"] * 3, "1.00 (10k to 100k)"]
    assert found[1] == "50 (\N{MULTIPLICATION SIGN}0.5)"
    created, _ = cells(text, "NNabla")
    assert created[1:] == [
        "224,937 (\N{MULTIPLICATION SIGN}1,125)", "", "", "1.25 (1k to 3.2k)"
    ]  # fmt: skip
    assert text.endswith(
        "varscope 1.2, NNabla 1.2 on CPython 3.10.13; CPython 3.11.7, Linux x86_64.\n\n"
        "Flax core.Scope skipped: there is no network\n"
    )


def test_the_file_is_read_as_it_was_written(data, tmp_path):
    file = tmp_path / "new" / "peers.json"
    peers.save(data, file)
    assert peers.load(file) == data
    assert '{"names": 1000, "created": ' in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"peers": {}}', '{"peers": []}', '{"peers": {"varscope": 1}}',
     '{"system": "", "skipped": {}, "peers": {"varscope": {"title": "", "python": "", '
     '"version": "", "sizes": [{"names": 0, "created": 0, "found": 0}]}}}',
     '{"system": "", "skipped": {}, "peers": {"varscope": {"title": "", "python": "", '
     '"version": "", "sizes": []}}}'],
)  # fmt: skip
def test_a_file_of_something_else_is_refused(tmp_path, text):
    file = tmp_path / "other.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match=r"other\.json is not what bench/peers\.py writes"):
        peers.main(["--plot", str(file)])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SystemExit, match=r"none\.json cannot be read: No such file"):
        peers.main(["--plot", str(tmp_path / "none.json")])


def test_the_table_goes_between_its_marks(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{peers.BEGIN}old\n{peers.END}after\n", encoding="utf-8")
    peers.into_readme("| new |\n", readme)
    peers.into_readme("| new |\n", readme)
    expected = f"before\n{peers.BEGIN}\n| new |\n\n{peers.END}after\n"
    assert readme.read_text(encoding="utf-8") == expected
    readme.write_text("no marks\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"needs one line <!-- table of bench/peers\.py -->"):
        peers.into_readme("| new |\n", readme)


# --- the picture --------------------------------------------------------------------------------


def test_the_picture(data):
    figure = plot.figure(data)
    assert [(line["name"], line["xaxis"]) for line in figure["data"]] == [
        (title, axis) for axis in ("x", "x2") for title in ("varscope", "dict, by hand", "NNabla")
    ]
    assert figure["data"][0]["x"] == pytest.approx([1e3, 3.2e3, 1e4, 3.2e4, 1e5])
    assert figure["data"][0]["y"] == pytest.approx([200] * 5)
    layout = figure["layout"]
    assert layout["yaxis"]["range"] == layout["yaxis2"]["range"]
    low, high = layout["yaxis"]["range"]
    for line in figure["data"]:
        assert all(low < math.log10(y) < high for y in line["y"])
    assert json.loads(json.dumps(figure))["layout"]["xaxis"]["title"]["text"]


def test_names_in_the_picture_do_not_overlap(data):
    for name in ("tensorflow", "haiku"):
        data["peers"][name] = {**data["peers"]["dict"], "title": name}
    figure = plot.figure(data)
    labels = [note for note in figure["layout"]["annotations"] if note["xref"] == "x"]
    assert len(labels) == 5
    low, high = figure["layout"]["yaxis"]["range"]
    pixel = (high - low) / (plot.HEIGHT - plot.MARGIN["t"] - plot.MARGIN["b"])
    heights = sorted(note["y"] for note in labels if note["text"] != "NNabla")
    for lower, upper in itertools.pairwise(heights):
        assert upper - lower > 0.99 * plot.LABEL[1] * pixel


def test_the_readme_shows_what_was_measured():
    data = peers.load(PICTURES / "peers.json")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.split(peers.BEGIN)[1].split(peers.END)[0] == f"\n{peers.table(data)}\n"
    picture = ET.parse(PICTURES / "peers.svg")
    words = {
        "".join(element.itertext()) for element in picture.iter() if element.tag[-4:] == "text"
    }
    assert {peer["title"].split()[0].rstrip(",") for peer in data["peers"].values()} <= words
