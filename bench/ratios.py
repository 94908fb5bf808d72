"""What the registry costs, beside the plain Python that it stands in for.

    python bench/ratios.py            everything, a few minutes
    python bench/ratios.py --quick    16 thousand names only, seconds

Each statement is timed in turn with its twin, A B A B, in one process; the best round of each
counts.  So a ratio of one run means something, and a time by itself means little.  The statements
stand in `cases.py`, `generated.py` and `values.py`.
"""

import argparse
import subprocess
import sys
from dataclasses import replace
from functools import partial

# Before NumPy, for which it sets something.
import cases
import generated
import numpy as np
import values
from tables import measured_with, table

import varscope as vs
from varscope.randomness import Normal, TruncatedNormal, Uniform

# The last thousand of a million beside the first ones: whether a sibling gets dearer.
LATE = replace(
    cases.SIBLINGS_LATE, beside="the first thousand", run_beside=cases.SIBLINGS_FIRST.run
)


def measure(case, data, rounds):
    """Nanoseconds a statement, its own and the other's."""
    ours, others = alternately(partial(case.run, data), partial(case.run_beside, data), rounds)
    scale = 1e9 / case.statements(data)
    return ours * scale, others * scale


def alternately(run, run_beside, rounds):
    """The best seconds of each of two, timed in turn."""
    run()  # fills caches, the data's own included
    run_beside()
    ours, others = [], []
    for _ in range(rounds):
        ours.append(run())
        others.append(run_beside())
    return min(ours), min(others)


# --- the registry -------------------------------------------------------------------------------


def print_sized(data, rounds):
    names, scopes = cases.each_name(data), len(data.scopes)
    title = f"{names:,} names in {scopes:,} scopes, best of {rounds} rounds"
    print_statements(title, cases.AT_SIZES, data, rounds)


def print_others(data, rounds):
    title = f"at one size, best of {rounds} rounds"
    chosen = [LATE if case is cases.SIBLINGS_LATE else case for case in cases.AT_ONE_SIZE]
    print_statements(title, chosen, data, rounds)


def print_statements(title, chosen, data, rounds):
    rows = []
    for case in chosen:
        ours, others = measure(case, data, rounds)
        rows.append((case.name, case.statement, ours, case.beside, others, ours / others))
    table(title, ("", "statement", "ns", "beside", "ns", "ratio"), rows)


def print_growth(scope_counts, rounds):
    """What a name costs in small and large graphs."""
    case, names, ours, others = cases.CREATED, [], [], []
    for scopes in scope_counts:
        data = cases.Data(scopes)
        names.append(cases.each_name(data))
        for column, ns in zip((ours, others), measure(case, data, rounds), strict=True):
            column.append(ns)
    table(
        f"{case.statement}, created: cost of a name as the graph grows",
        ("names", "ns", "dict: ns", "ratio"),
        [(n, a, b, a / b) for n, a, b in zip(names, ours, others, strict=True)],
    )
    for n, a, b in zip(names[1:], ours[1:], others[1:], strict=True):
        print(f"cost at {n:,} names over that at {names[0]:,}: "
              f"{a / ours[0]:.2f}, dict {b / others[0]:.2f}")  # fmt: skip
    print(f"exponent of the cost of all names over their number: "
          f"{exponent(names, ours):.3f}, dict {exponent(names, others):.3f}")  # fmt: skip


def exponent(names, nanoseconds):
    """The p in "all n names cost as much as n ** p", by the line through the logarithms."""
    totals = np.multiply(names, nanoseconds)
    return np.polyfit(np.log(names), np.log(totals), 1)[0]


# --- starting up --------------------------------------------------------------------------------


def seconds_of_python(code):
    """Those that a new interpreter takes, from its start to its end."""
    start = cases.clock()
    subprocess.run([sys.executable, "-c", code], check=True)
    return cases.clock() - start


def print_import(rounds):
    """Milliseconds of importing, which are those of a program that does, less an empty one's."""
    codes = {"numpy": "import numpy", "varscope": "import varscope", "empty": "pass"}
    best = dict.fromkeys(codes, float("inf"))
    for _ in range(rounds):
        for name, code in codes.items():
            best[name] = min(best[name], seconds_of_python(code))
    ours, others = ((best[name] - best["empty"]) * 1e3 for name in ("varscope", "numpy"))
    table(
        f"starting up, best of {rounds} rounds",
        ("", "statement", "ms", "beside", "ms", "ratio"),
        [("import", codes["varscope"], ours, codes["numpy"], others, ours / others)],
    )


# --- first values -------------------------------------------------------------------------------


def print_values(blocks, small, rounds):
    """Nanoseconds an element, and for the small ones a variable."""
    single = np.empty((blocks, values.BLOCK), np.float32)
    double, rows_of_16 = single.reshape(-1).view(np.float64), np.empty((small, 16), np.float32)
    double = double.reshape(-1, min(values.BLOCK, double.size))
    fill, numpy = values.filled, values.filled_by_numpy
    lines = [
        ("normal, float32", partial(fill, Normal(0.0, 1.0), single), single.size,
         "standard_normal(out=...)", partial(numpy, "standard_normal", single)),
        ("uniform, float32", partial(fill, Uniform(0.0, 1.0), single), single.size,
         "random(out=...)", partial(numpy, "random", single)),
        ("truncated, float32", partial(fill, TruncatedNormal(0.0, 1.0), single), single.size,
         "standard_normal(out=...)", partial(numpy, "standard_normal", single)),
        ("normal, float64", partial(fill, Normal(0.0, 1.0), double), double.size,
         "standard_normal(out=...)", partial(numpy, "standard_normal", double)),
        ("normal, two threads", partial(values.filled_by_threads, 2, single), single.size,
         "one thread", partial(values.filled_by_threads, 1, single)),
        ("variables of [16]", partial(values.small_ones, rows_of_16), small,
         "standard_normal(out=row)", partial(values.small_ones_by_numpy, rows_of_16)),
    ]  # fmt: skip
    rows = []
    for name, run, count, beside, run_beside in lines:
        ours, others = alternately(run, run_beside, rounds)
        rows.append((name, ours / count * 1e9, beside, others / count * 1e9, ours / others))
    table(
        f"random values beside numpy.random.Generator(Philox()), blocks of {values.BLOCK:,}",
        ("", "ns", "beside", "ns", "ratio"),
        rows,
    )


def print_initialize(variables, elements, rounds):
    """Milliseconds; the first ratio is to be below 1."""
    tenth = variables // 10
    lines = [
        (f"{variables:,} of shape [16]", partial(values.initialized, variables, [16], None),
         f"a NumPy loop over {tenth:,}", partial(values.numpy_loop, values.uniform_row, tenth)),
        (f"normal, {variables:,}", partial(values.initialized, variables, [16], vs.random_normal()),
         f"a NumPy loop over {tenth:,}", partial(values.numpy_loop, values.normal_row, tenth)),
        (f"zeros, {variables:,} of shape [16]",
         partial(values.initialized, variables, [16], vs.zeros),
         "np.full of all", partial(values.touched_zeros, 16 * variables)),
        ("a large one, two threads",
         partial(values.initialized, 1, [elements], vs.random_normal(), 2),
         "one thread", partial(values.initialized, 1, [elements], vs.random_normal(), 1)),
    ]  # fmt: skip
    rows = []
    for name, run, beside, run_beside in lines:
        ours, others = alternately(run, run_beside, rounds)
        rows.append((name, ours * 1e3, beside, others * 1e3, ours / others))
    table("vs.initialize() in an arena", ("", "ms", "beside", "ms", "ratio"), rows)


# --- models declared at once --------------------------------------------------------------------


def print_generated(layers, scopes, rounds):
    """Nanoseconds a name."""
    part, stamps = generated.part_of(scopes), (layers - 1) * 4 * generated.EXPERTS
    loop = "a loop that builds them"
    lines = [
        ("stamp", "stamp(scope, into=names)", partial(generated.stamped, layers), stamps,
         partial(generated.looped, layers)),
        ("graft", "g.graft(part, under=name)", partial(generated.grafted, part), len(part),
         partial(generated.built, scopes)),
        ("pickled", "pickle.loads(pickle.dumps(part))", partial(generated.pickled, part),
         len(part), partial(generated.built, scopes)),
    ]  # fmt: skip
    rows = []
    for name, statement, run, names, run_beside in lines:
        ours, others = alternately(run, run_beside, rounds)
        rows.append(
            (name, statement, ours / names * 1e9, loop, others / names * 1e9, ours / others)
        )
    title = f"{stamps:,} names stamped, {len(part):,} joined, best of {rounds} rounds"
    table(title, ("", "statement", "ns", "beside", "ns", "ratio"), rows)


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Times beside plain Python.")
    parser.add_argument("--quick", action="store_true", help="16 thousand names only")
    quick = parser.parse_args(arguments).quick
    print(measured_with())
    print_sized(cases.Data(1_000), 15)
    print_others(cases.Data(), 5)
    print_generated(33, 1_000, 15)
    print_import(15)
    print_values(16, 16_000, 5)
    print_initialize(20_000, 1 << 22, 5)
    if quick:
        return
    print_initialize(1_000_000, 1 << 26, 3)
    print_generated(1_000, 62_500, 5)
    print_sized(cases.Data(100_000), 5)
    print_growth([625, 6_250, 62_500, 625_000], 3)


if __name__ == "__main__":
    sys.exit(main())
