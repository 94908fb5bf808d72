"""How the scripts print: one table form for all, and a first line that says what was measured."""

import platform

import varscope as vs


def measured_with():
    return (
        f"varscope {vs.__version__}, {platform.python_implementation()} "
        f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    )


def table(title, head, rows):
    """Print columns: text to the left, numbers to the right."""
    cells = [head, *([text(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{title}")
    for line in cells:
        print("  ".join(
            cell.ljust(width) if isinstance(kind, str) else cell.rjust(width)
            for cell, width, kind in zip(line, widths, rows[0], strict=True)
        ).rstrip())  # fmt: skip


def text(cell):
    if isinstance(cell, float):
        return f"{cell:.2f}" if cell < 10 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else cell
