"""How a command ends: its exit status, and what is said on stderr where it failed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from varscope import folding
from varscope.errors import VarscopeError

STATUS_FAILED = 1  # a builder's exception, a difference, a damaged file
STATUS_BAD_COMMAND = 2
STATUS_INTERRUPTED = 130  # what a shell reports of a process that SIGINT ended
STATUS_NOBODY_READS = 141  # ... and of one that SIGPIPE ended


class CommandError(Exception):
    """The command cannot be carried out as given; the text is all that its user sees."""

    status = STATUS_BAD_COMMAND


class BuilderError(CommandError):
    """The builder's file or function raised; the text ends with its traceback."""

    status = STATUS_FAILED


class Interrupted(CommandError):
    """Ctrl-C; the text says how far it was."""

    status = STATUS_INTERRUPTED


def carried_out(work: Callable[[], int]) -> int:
    """The exit status of what a command does, which says itself what it has to say."""
    try:
        status = work()
        sys.stdout.flush()
    except BuilderError as error:
        say(str(error))
        return error.status
    except CommandError as error:
        say_line(str(error))
        return error.status
    except KeyboardInterrupt:
        say_line("interrupted")
        return STATUS_INTERRUPTED
    except BrokenPipeError:
        # As `| head` does.  What is still in the buffer must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return STATUS_NOBODY_READS
    except OSError as error:
        what = error.strerror or str(error)
        say_line(f"{what}: {error.filename}" if error.filename is not None else what)
        return STATUS_BAD_COMMAND
    except (VarscopeError, ImportError) as error:
        say_line(str(error))
        return STATUS_BAD_COMMAND
    return status


def say_line(message: str) -> None:
    """One line on stderr, whatever was in the names of files and tensors."""
    say(folding.printable(" ".join(line.strip() for line in message.splitlines())))


def say(message: str) -> None:
    """A message on stderr."""
    text = f"varscope: {message}\n"
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    sys.stderr.write(text.encode(encoding, "backslashreplace").decode(encoding))
