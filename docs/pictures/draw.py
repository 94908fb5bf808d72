"""Draws the pictures of docs/concepts.md: python docs/pictures/draw.py

They are SVG files of boxes, arrows and text, legible where the page around them is dark and where
it is light: each has a background of its own.
"""

from html import escape
from pathlib import Path

# What a class looks like on a light page, and on a dark one: fill, stroke, text.
COLOURS = {
    "plain": ("#f3f4f6", "#9aa1ab", "#1f2328", "#2a3038", "#6b7480", "#e6e9ed"),
    "blue": ("#dbeafe", "#3b82f6", "#1e3a8a", "#1e3a5f", "#60a5fa", "#dbeafe"),
    "green": ("#dcfce7", "#16a34a", "#14532d", "#173d28", "#4ade80", "#dcfce7"),
    "red": ("#fee2e2", "#dc2626", "#7f1d1d", "#4c1d1d", "#f87171", "#fee2e2"),
    "amber": ("#fef3c7", "#d97706", "#713f12", "#453009", "#fbbf24", "#fef3c7"),
}
PAGE = ("#ffffff", "#d0d7de", "#1f2328", "#16191d", "#3a414a", "#e6e9ed")
MONO = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
SANS = "system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif"
LINE = 19  # from one line of text to the next


def style():
    def rules(at):
        page = PAGE[at:]
        yield f".page {{ fill: {page[0]}; stroke: {page[1]}; }}"
        yield f"text {{ fill: {page[2]}; }} .arrow {{ stroke: {page[2]}; }}"
        yield f".head {{ fill: {page[2]}; }} .quiet {{ opacity: 0.72; }}"
        for name, colours in COLOURS.items():
            fill, stroke, text = colours[at : at + 3]
            yield f".{name} {{ fill: {fill}; stroke: {stroke}; }} .on-{name} {{ fill: {text}; }}"

    light, dark = ("\n".join(rules(at)) for at in (0, 3))
    return (
        f"<style>text {{ font: 14px {SANS}; }} .code {{ font: 13px {MONO}; white-space: pre; }}\n"
        f".title {{ font-weight: 600; }} .arrow {{ fill: none; stroke-width: 1.5; }}\n"
        f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}</style>"
    )


class Picture:
    """Parts of an SVG file, one drawn over the other."""

    def __init__(self, width, height, title):
        self.size, self.title, self.parts = (width, height), title, []

    def text(self, x, y, words, kind="", anchor="start"):
        anchor = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self.parts.append(
            f'<text x="{x}" y="{y}" class="{kind}"{anchor} xml:space="preserve">'
            f"{escape(words)}</text>"
        )

    def frame(self, x, y, width, height, kind="plain"):
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" class="{kind}"/>'
        )

    def box(self, x, y, width, height, *lines, kind="plain", code=False, title=False):
        """A box with lines of text in its middle; the first one may be a title."""
        self.frame(x, y, width, height, kind)
        down = y + height / 2 - (len(lines) - 1) * LINE / 2 + 5
        for number, line in enumerate(lines):
            font = "code" if code and not (title and number == 0) else ""
            font += " title" if title and number == 0 else ""
            self.text(x + width / 2, down + number * LINE, line, f"{font} on-{kind}", "middle")

    def arrow(self, *points, head=True):
        path = "M" + " L".join(f"{x} {y}" for x, y in points)
        marker = ' marker-end="url(#head)"' if head else ""
        self.parts.append(f'<path d="{path}" class="arrow"{marker}/>')

    def lines(self, x, y, *lines, kind="code"):
        for number, line in enumerate(lines):
            self.text(x, y + number * LINE, line, kind)

    def svg(self):
        width, height = self.size
        head = (
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" '
            'markerHeight="8" orient="auto-start-reverse"><path d="M0 1 L9 5 L0 9 z" '
            'class="head"/></marker></defs>'
        )
        page = (
            f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="9" class="page"/>'
        )
        parts = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" role="img">\n<title>{escape(self.title)}</title>\n'
            f"{style()}\n{head}\n{page}\n{parts}\n</svg>\n"
        )


def scopes():
    p = Picture(780, 332, "A program, the tree of its scopes, and how a path is made")
    p.text(24, 34, "the program", "title")
    p.lines(
        24, 66,
        'with vs.variable_scope("model"):',
        '  with vs.variable_scope("encoder"):',
        '    vs.get_variable("kernel", [4, 4])',
        '    vs.get_variable("bias", [4])',
        '  with vs.variable_scope("decoder"):',
        '    vs.get_variable("kernel", [4, 4])',
    )  # fmt: skip
    p.text(400, 34, "the tree", "title")
    p.box(520, 48, 90, 30, "model", kind="blue", code=True)
    p.box(440, 108, 100, 30, "encoder", kind="blue", code=True)
    p.box(600, 108, 100, 30, "decoder", kind="blue", code=True)
    for x, name in ((400, "kernel"), (500, "bias"), (610, "kernel")):
        p.box(x, 172, 80, 30, name, kind="green", code=True)
    p.arrow((550, 78), (490, 107), head=False)
    p.arrow((580, 78), (650, 107), head=False)
    p.arrow((480, 138), (440, 171), head=False)
    p.arrow((500, 138), (540, 171), head=False)
    p.arrow((650, 138), (650, 171), head=False)
    p.frame(400, 222, 14, 14, "blue")
    p.text(422, 234, "a scope", "quiet")
    p.frame(500, 222, 14, 14, "green")
    p.text(522, 234, "a variable", "quiet")
    p.text(24, 234, "the path of the first variable", "title")
    for x, word, kind in (
        (24, "model", "blue"),
        (172, "encoder", "blue"),
        (320, "kernel", "green"),
    ):
        p.box(x, 252, 100, 34, word, kind=kind, code=True)
    p.text(148, 274, "/", "code title", "middle")
    p.text(296, 274, "/", "code title", "middle")
    p.text(24, 310, "the open scopes, outermost first", "quiet")
    p.text(320, 310, "the name that get_variable is given", "quiet")
    p.arrow((434, 269), (484, 269))
    p.text(496, 274, "model/encoder/kernel", "code")
    return p


def reuse():
    p = Picture(780, 380, "What get_variable does: by what is there, and by the mode of the scope")
    p.box(230, 20, 320, 40, 'vs.get_variable("kernel", [4, 4])', code=True)
    p.box(
        230,
        96,
        320,
        48,
        "Is there a variable of this path?",
        "(the path of the scope)/kernel",
        kind="blue",
    )
    p.arrow((390, 60), (390, 95))
    p.arrow((230, 120), (155, 120), (155, 172))
    p.arrow((550, 120), (625, 120), (625, 172))
    p.text(192, 112, "yes", "title", "middle")
    p.text(588, 112, "no", "title", "middle")
    modes = ("a scope that does not reuse", "reuse=True", "reuse=vs.AUTO_REUSE")
    outcomes = (
        (
            ("VariableExistsError", "red"),
            ("that variable", "green"),
            ("that variable", "green"),
        ),
        (
            ("a new variable", "amber"),
            ("VariableMissingError", "red"),
            ("a new variable", "amber"),
        ),
    )
    for row, mode in enumerate(modes):
        y = 176 + row * 56
        p.text(390, y + 26, mode, "code" if "=" in mode else "", "middle")
        for x, column in ((60, outcomes[0]), (530, outcomes[1])):
            words, kind = column[row]
            p.box(x, y, 190, 42, words, kind=kind, code="Error" in words)
    p.text(
        390,
        362,
        "The mode is that of the scope that is open; the call is the same.",
        "quiet",
        "middle",
    )
    return p


def defaults():
    p = Picture(780, 376, "How defaults flow down from scope to scope")
    p.frame(20, 20, 740, 336, "plain")
    p.text(36, 46, "root", "title on-plain")
    p.text(100, 46, "initializer: glorot_uniform    dtype: float32", "code on-plain")
    p.frame(44, 62, 692, 276, "blue")
    p.text(60, 88, 'variable_scope("model", initializer=vs.ones)', "code on-blue")
    asked(p, 60, 102, 'get_variable("scale", [2])', ("ones", "blue"), ("float32", "plain"))
    p.frame(68, 146, 644, 176, "green")
    p.text(84, 172, 'variable_scope("half", dtype="float16")', "code on-green")
    asked(p, 84, 186, 'get_variable("w", [2])', ("ones", "blue"), ("float16", "green"))
    asked(
        p, 84, 228, 'get_variable("b", [2], initializer=vs.zeros)',
        ("zeros", "amber"), ("float16", "green"),
    )  # fmt: skip
    p.text(
        84,
        286,
        "A setting has the colour of the place that it comes from: the nearest one",
        "on-green",
    )
    p.text(84, 305, "that says it. The argument of get_variable is nearest of all.", "on-green")
    return p


def asked(p, x, y, call, *settings):
    """A call, and what the new variable gets."""
    p.box(x, y, 366, 30, call, code=True)
    p.arrow((x + 374, y + 15), (x + 404, y + 15))
    x += 414
    for words, kind in settings:
        width = 18 + 8 * len(words)
        p.box(x, y + 1, width, 28, words, kind=kind, code=True)
        x += width + 10


def names():
    p = Picture(780, 352, "Variable scopes and name scopes, line by line")
    columns = (24, 390, 590)
    for x, words in zip(columns, ("the program", "path of variables", "names of ops"), strict=True):
        p.text(x, 34, words, "title")
    p.frame(376, 46, 186, 288, "blue")
    p.frame(576, 46, 186, 288, "amber")
    rows = (
        ('with vs.variable_scope("tower"):', "tower", "tower"),
        ('  w = vs.get_variable("w", [2])', "tower/w", "tower/w"),
        ('  graph.unique_name("relu")', "", "tower/relu"),
        None,
        ('with vs.variable_scope("tower", reuse=True):', "tower", "tower_1"),
        ('  w = vs.get_variable("w")', "tower/w", "tower/w"),
        ('  graph.unique_name("relu")', "", "tower_1/relu"),
        None,
        ('with vs.name_scope("loss"):', "", "loss"),
        ('  t = vs.get_variable("t", [1])', "t", "t"),
    )
    y = 74
    for row in rows:
        if row is None:
            y += 22
            continue
        for x, words, kind in zip(columns, row, ("", " on-blue", " on-amber"), strict=True):
            p.text(x, y, words, "code" + kind)
        y += 27
    return p


def life():
    p = Picture(780, 270, "The life of a variable: declared, materialised, saved")
    boxes = (
        (
            24,
            "blue",
            "declared",
            "a name, shape, dtype",
            "and initializer; no",
            "memory for values",
        ),
        (305, "green", "materialised", "values: in memory,", "in mapped files,", "or on a cluster"),
        (586, "amber", "saved", "a tensor of the", "same name, in", "safetensors files"),
    )
    for x, kind, *lines in boxes:
        p.box(x, 80, 170, 104, *lines, kind=kind, title=True)
    p.arrow((194, 120), (304, 120))
    p.text(249, 90, "first read,", "quiet", "middle")
    p.text(249, 109, "vs.initialize", "code", "middle")
    p.arrow((475, 115), (585, 115))
    p.text(530, 104, "vs.save", "code", "middle")
    p.arrow((585, 150), (476, 150))
    p.text(530, 171, "vs.restore", "code", "middle")
    p.arrow((360, 80), (360, 48), (420, 48), (420, 79))
    p.text(390, 38, "v.assign(x), v[...] = x", "code", "middle")
    p.arrow((109, 184), (109, 236), (671, 236), (671, 185))
    p.text(390, 227, "vs.plan, vs.materialise, vs.finish", "code", "middle")
    p.text(390, 257, "first values, written by many machines", "quiet", "middle")
    return p


PICTURES = (scopes, reuse, defaults, names, life)


def draw(folder):
    """Write all pictures into a folder; the names of the files."""
    for picture in PICTURES:
        text = picture().svg()
        (folder / f"{picture.__name__}.svg").write_text(text, encoding="utf-8", newline="\n")
    return [f"{picture.__name__}.svg" for picture in PICTURES]


if __name__ == "__main__":
    draw(Path(__file__).parent)
