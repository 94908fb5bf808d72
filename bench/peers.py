"""The same generated model in varscope and in other libraries: nanoseconds a variable, and growth.

    python bench/peers.py                      all of them, about ten minutes
    python bench/peers.py --quick              up to 10 thousand names, a minute or two
    python bench/peers.py tensorflow torch     these two beside varscope
    python bench/peers.py --plot peers.json    the table and the plot of what was measured before

It prints a table and writes peers.json and peers.svg into the current folder; with --refresh it
writes them into docs/pictures and the table into README.md.  varscope is the one installed for the
Python that runs this.  Each other library gets an environment of its own, made the first time from
the pinned versions in bench/peers/, and is skipped with a word where that fails.

What is measured stands in bench/peers/worker.py, the picture in bench/peers/plot.py.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
from math import log
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "bench" / "peers"
PICTURES = ROOT / "docs" / "pictures"
README = ROOT / "README.md"
BEGIN, END = "<!-- table of bench/peers.py -->\n", "<!-- end of the table -->\n"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "varscope-peers"

PEERS = {
    "varscope": "varscope",
    "dict": "dict, by hand",
    "tensorflow": "TensorFlow compat.v1",
    "haiku": "Haiku get_parameter",
    "flax": "Flax core.Scope",
    "nnabla": "NNabla",
    "torch": "PyTorch meta modules",
}
OURS = ("varscope", "dict")  # run by the Python that runs this

# All are measured three times in turn, and the best of each size counts.  In each pass a library
# goes as far as it gets in so many seconds; the second number is for those that are to reach the
# largest model, varscope and the dict.
PASSES, NAMES = ((80, 300), (20, 20), (20, 20)), 10_000_000
QUICK_PASSES, QUICK_NAMES = ((5, 5),), 10_000
INSTALL_SECONDS = 1800

COLUMNS = [10**i for i in range(3, 8)]  # of the table, in names; the plot shows all sizes
FITTED_FROM = 10_000  # names; below, what does not grow weighs too much

# No accelerator, and no threads that wait by spinning.
CALM = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "JAX_PLATFORMS": "cpu",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class Skipped(Exception):
    """Why a library or the picture is left out; `output` is what was printed before."""

    def __init__(self, reason, output=""):
        super().__init__(reason)
        self.output = output


def say(words):
    print(words, file=sys.stderr, flush=True)


# --- environments -------------------------------------------------------------------------------


def run(*command, seconds):
    """Return what the command prints."""
    try:
        return subprocess.run(
            [str(part) for part in command], capture_output=True, check=True, encoding="utf-8",
            errors="replace", env={**os.environ, **CALM}, timeout=seconds,
        ).stdout  # fmt: skip
    except subprocess.TimeoutExpired as error:
        words, output = f"stopped after {seconds:.0f} seconds", error.stdout or b""
        raise Skipped(words, output.decode("utf-8", "replace")) from error
    except subprocess.CalledProcessError as error:
        raise Skipped(last_words(error), error.stdout) from error
    except OSError as error:
        raise Skipped(str(error)) from error


def last_words(error):
    """The line that most likely says why a command failed."""
    lines = [line.strip() for line in error.stderr.splitlines() if line.strip()]
    told = [line for line in lines if line.lower().startswith("error:")]
    return (told or lines or [f"ended with status {error.returncode}"])[-1]


def environment(name, folder):
    """Return the Python of the library's environment, made where it is not there as it should."""
    requirements = FOLDER / f"{name}.txt"
    pinned = requirements.read_text(encoding="utf-8")
    interpreter, version = interpreter_for(pinned)
    place = Path(folder).expanduser().resolve() / f"{name}-{version}"
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    complete = place / "complete.txt"  # written last
    if not complete.exists() or complete.read_text(encoding="utf-8") != pinned:
        say(f"{name}: installing into {place}")
        shutil.rmtree(place, ignore_errors=True)
        run(interpreter, "-I", "-m", "venv", place, seconds=INSTALL_SECONDS)
        # All that is needed is pinned: nothing else comes along, nothing is compiled.
        run(python, "-I", "-m", "pip", "install", "--no-deps", "--only-binary", ":all:",
            "--requirement", requirements, seconds=INSTALL_SECONDS)  # fmt: skip
        complete.write_text(pinned, encoding="utf-8")
    return python


def interpreter_for(pinned):
    """A Python of the versions in the first line, `# python 3.11 3.12`: this one if it is."""
    versions = pinned.splitlines()[0].removeprefix("# python ").split()
    own = "{}.{}".format(*sys.version_info)
    if own in versions:
        return sys.executable, own
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for version in versions:
        for candidate in [f"python{version}", *pyenv.glob(f"versions/{version}.*/bin/python")]:
            if version_of(candidate) == version:
                return candidate, version
    raise Skipped(f"there is no Python {' or '.join(versions)} on PATH, nor in {pyenv}")


def version_of(python):
    """None where it does not run: pyenv has stand-ins for versions that were not chosen."""
    try:
        words = run(python, "-I", "-c", "import sys; print(*sys.version_info[:2])", seconds=60)
    except Skipped:
        return None
    return words.strip().replace(" ", ".")


# --- measuring ----------------------------------------------------------------------------------


def measure(chosen, folder, names, passes):
    """Run the libraries in turn, each in a process of its own, and collect the best times."""
    peers, skipped = {}, {}
    for number, (seconds, seconds_of_ours) in enumerate(passes, 1):
        for name in chosen:
            if name in skipped:
                continue
            say(f"{name}: measuring, {number} of {len(passes)}")
            try:
                most = seconds_of_ours if name in OURS else seconds
                found = measured(name, folder, names, most)
            except Skipped as reason:
                say(f"{name}: skipped: {reason}")
                if name not in peers:
                    skipped[name] = str(reason)
            else:
                peers[name] = merged(peers[name], found) if name in peers else found
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "peers": peers,
        "skipped": skipped,
    }


def measured(name, folder, names, seconds):
    python = [sys.executable] if name in OURS else [environment(name, folder), "-I"]
    limit = 300 + 3 * seconds
    try:
        output = run(*python, FOLDER / "worker.py", name, names, seconds, seconds=limit)
    except Skipped as reason:
        # A large model may take more memory than there is: the smaller ones count.
        if reason.output.count("\n") < 2:
            raise
        say(f"{name}: ended early: {reason}")
        output = reason.output
    about, *sizes = [json.loads(line) for line in output.splitlines() if line.endswith("}")]
    return {"title": PEERS[name], **about, "sizes": sizes}


def merged(peer, other):
    """Both together: the best of each size."""
    best = {size["names"]: size for size in peer["sizes"]}
    for size in other["sizes"]:
        before = best.get(size["names"], size)
        best[size["names"]] = {key: min(size[key], before[key]) for key in size}
    return {**peer, "sizes": [best[names] for names in sorted(best)]}


# --- the table ----------------------------------------------------------------------------------


def nanoseconds(peer, step):
    """Map names to nanoseconds a variable."""
    return {size["names"]: size[step] / size["names"] * 1e9 for size in peer["sizes"]}


def fitted(peer, step):
    """Return (exponent of total time over names, sizes it is fitted to), or None for one size."""
    points = [(size["names"], size[step]) for size in peer["sizes"]]
    large = [point for point in points if point[0] >= FITTED_FROM]
    if len(large) >= 3:
        points = large
    if len(points) < 2:
        return None
    names, seconds = zip(*points, strict=True)
    slope = statistics.linear_regression([*map(log, names)], [*map(log, seconds)]).slope
    return slope, names


def short(names):
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if names >= size:
            return f"{names / size:g}{letter}"
    return f"{names:g}"


def ratio_text(ratio):
    return f"\N{MULTIPLICATION SIGN}{ratio:,.{0 if ratio >= 9.95 else 1}f}"


def row(peer, varscope, step, columns):
    cells, ours = [peer["title"]], nanoseconds(varscope, step)
    for names, each in ((names, nanoseconds(peer, step).get(names)) for names in columns):
        if each is None:
            cells.append("")
        elif peer is varscope or names not in ours:
            cells.append(f"{each:,.0f}")
        else:
            cells.append(f"{each:,.0f} ({ratio_text(each / ours[names])})")
    fit = fitted(peer, step)
    cells.append(f"{fit[0]:.2f} ({short(fit[1][0])} to {short(fit[1][-1])})" if fit else "")
    return cells


def table(data):
    """Return the table in Markdown, laid out to be read as it is, and what was measured below."""
    peers = data["peers"]
    varscope = peers["varscope"]
    seen = {size["names"] for peer in peers.values() for size in peer["sizes"]}
    columns = [names for names in COLUMNS if names in seen]
    rows = [
        ["ns a variable, ratio to varscope", *(f"{names:,} names" for names in columns), "exponent"]
    ]
    for step in ("created", "found"):
        rows.append([f"**{step}**", *[""] * (len(columns) + 1)])
        rows += [row(peer, varscope, step, columns) for peer in peers.values()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join([cells[0].ljust(widths[0]),
                           *map(str.rjust, cells[1:], widths[1:])]) + " |"
        for cells in rows
    ]  # fmt: skip
    rule = "-" * (widths[0] + 2) + "|" + "".join("-" * (width + 1) + ":|" for width in widths[1:])
    lines.insert(1, "|" + rule)
    return "\n".join(lines) + "\n\n" + about(data)


def about(data):
    """Versions, and who is not in the table."""
    peers = data["peers"]
    own = peers["varscope"]["python"]
    libraries = []
    for peer in peers.values():
        words = f"{peer['title'].split()[0]} {peer['version']}" if peer["version"] else ""
        if peer["python"] != own:
            words += f" on CPython {peer['python']}"
        libraries += [words] if words else []
    text = f"{', '.join(libraries)}; CPython {own}, {data['system']}.\n"
    for name, reason in data["skipped"].items():
        text += f"\n{PEERS.get(name, name)} skipped: {reason}\n"
    return text


def into_readme(text, readme):
    """Put the table between its two marks."""
    page = readme.read_text(encoding="utf-8")
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise SystemExit(f"{readme} needs one line {BEGIN.strip()} and one {END.strip()}")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


# --- files --------------------------------------------------------------------------------------


def load(file):
    """Read what was measured; whatever cannot be drawn is refused here."""
    try:
        data = json.loads(Path(file).read_text(encoding="utf-8"))
        if not all(peer["sizes"] for peer in data["peers"].values()):
            raise ValueError("a library without a size")
        table(data)
    except OSError as error:
        raise SystemExit(f"{file} cannot be read: {error.strerror}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise SystemExit(
            f"{file} is not what bench/peers.py writes ({type(error).__name__}: {error}); "
            "make one with: python bench/peers.py"
        ) from error
    return data


def save(data, file):
    text = json.dumps(data, indent=1, ensure_ascii=False)
    text = re.sub(r'\{\s+("names"[^}]*)\}', lambda found: one_line(found[0]), text)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n", encoding="utf-8")


def one_line(text):
    return " ".join(text.split()).replace("{ ", "{").replace(" }", "}")


def draw(file, picture, folder):
    """Draw with the plotting library in an environment of its own."""
    try:
        run(environment("plot", folder), "-I", FOLDER / "plot.py", file, picture, seconds=300)
    except Skipped as reason:
        raise SystemExit(
            f"no picture: {reason}\nThe figures are in {file}; draw them later with: "
            f"python bench/peers.py --plot {file}"
        ) from reason


def parse(arguments):
    parser = argparse.ArgumentParser(description="The same model in varscope and other libraries.")
    others = ", ".join(name for name in PEERS if name != "varscope")
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"{others}; all if none is named")
    parser.add_argument("--names", type=int, default=NAMES, help="in the largest model")
    parser.add_argument("--quick", action="store_true", help="small models, once")
    parser.add_argument("--environments", metavar="FOLDER", default=CACHE, help=f"kept in {CACHE}")
    parser.add_argument("--plot", metavar="FILE", help="measure nothing, show what is in FILE")
    parser.add_argument("--refresh", action="store_true", help="write docs/pictures and README.md")
    options = parser.parse_args(arguments)
    for name in options.peers:
        if name not in PEERS:
            parser.error(f"there is no peer {name!r}; there are {others}")
    if options.names < COLUMNS[0]:
        parser.error(f"--names {options.names:,}: the smallest model has {COLUMNS[0]:,}")
    return options


def main(arguments=None):
    options = parse(arguments)
    if options.plot:
        data, file = load(options.plot), Path(options.plot)
    else:
        chosen = [name for name in PEERS if name == "varscope" or not options.peers
                  or name in options.peers]  # fmt: skip
        passes, names = (PASSES, options.names)
        if options.quick:
            passes, names = QUICK_PASSES, min(names, QUICK_NAMES)
        data, file = measure(chosen, options.environments, names, passes), Path("peers.json")
        if "varscope" in data["skipped"]:
            reason = data["skipped"]["varscope"]
            raise SystemExit(f"varscope: {reason}; install it for this Python: pip install .")
    if options.refresh:
        file = PICTURES / "peers.json"
    if options.refresh or not options.plot:
        save(data, file)
    text = table(data)
    print(text, end="")
    if options.refresh:
        into_readme(text, README)
    draw(file, file.with_suffix(".svg"), options.environments)


if __name__ == "__main__":
    sys.exit(main())
