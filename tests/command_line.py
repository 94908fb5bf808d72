"""How tests run the command line: in this process, as a process, and on a terminal."""

import os
import subprocess
import sys

import numpy as np
from requires import require

from varscope import cli

EXTRA = '"varscope-core[cli]"'
CliRunner = require("click.testing", EXTRA).CliRunner
require("rich", EXTRA)


def invoke(*arguments):
    """Run the command in this process."""
    return CliRunner().invoke(cli.command(), list(map(str, arguments)))


def pairs(output):
    """What was printed as a name and a value a line."""
    return dict(line.split(None, 1) for line in output.splitlines())


def environment(**changes):
    unwanted = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "PYTHONIOENCODING")
    return {k: v for k, v in os.environ.items() if k not in unwanted} | changes


def run(*arguments, cwd=None, **changes):
    """Run the command as its users do."""
    return subprocess.run(
        [sys.executable, "-m", "varscope", *map(str, arguments)],
        capture_output=True,
        check=False,
        cwd=cwd,
        env=environment(PYTHONUTF8="1", **changes),
        encoding="utf-8",
        timeout=120,
    )


def on_terminal(*arguments, stdout=None):
    """Run the command with a pseudo terminal as stdin, stderr and (by default) stdout."""
    import pty

    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "varscope", *map(str, arguments)],
        stdin=theirs,
        stdout=stdout or theirs,
        stderr=theirs,
        env=environment(TERM="xterm-256color", PYTHONUTF8="1"),
    )
    os.close(theirs)
    chunks = []
    try:
        while chunk := os.read(ours, 65536):
            chunks.append(chunk)
    except OSError:
        pass  # Linux reports the end of a terminal as EIO
    finally:
        os.close(ours)
    return child.wait(timeout=120), b"".join(chunks).decode()


def refused(result, *words, status=2):
    """The command ended with this status and one message with these words, and did nothing."""
    assert result.exit_code == status, result.output
    assert result.output.startswith("varscope: ")
    missing = [word for word in words if word not in result.output]
    assert not missing, f"{missing} not in {result.output!r}"
    if status == 2:
        assert result.output.count("\n") == 1
    return result.output


def write(path, tensors):
    """A safetensors file without checksums; another library writes it."""
    library = require("safetensors.numpy", '"varscope-core[checkpoints]"')
    library.save_file({name: np.asarray(value) for name, value in tensors.items()}, str(path))
    return path
