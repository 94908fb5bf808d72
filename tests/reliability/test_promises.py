"""The page of promises says what the tests hold, no more and no less."""

import re
from pathlib import Path

from promises import PROMISES

HERE = Path(__file__).resolve().parent
PAGE = (HERE.parent.parent / "docs" / "promises.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([\w-]+)` \| (.+) \| ([\w., ]+) \|$", PAGE, re.MULTILINE)


def test_each_promise_has_its_row():
    assert sorted(name for name, _, _ in ROWS) == sorted(PROMISES)


def test_the_files_of_a_row_hold_it():
    for name, words, files in ROWS:
        assert len(words) > 40
        for file in files.split(", "):
            assert f'promise("{name}")' in (HERE / file).read_text(encoding="utf-8"), (name, file)
