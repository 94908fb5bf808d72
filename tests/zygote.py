"""A process that has imported everything, and forks a child for each thing that is asked of it.

So what a test does to a process, it does to one that nothing was done to before, at the price of
a fork: `Zygote("a_module").ask("function", *arguments)` calls a function of a module in tests, in
a process of its own.  The module's `warm` runs before the first fork, and its `tidy` at the end.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback

import children

PATIENCE = 100  # seconds that a child may take


class Zygote:
    """Also a context manager; arguments and answers are what JSON can hold."""

    def __init__(self, module):
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in __exit__)
        # Threads of the library that multiplies matrices do not survive a fork.
        environment = children.environment(OPENBLAS_NUM_THREADS="1")
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"import zygote; zygote.serve({module!r})"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
            env=environment,
        )  # fmt: skip

    def ask(self, function, *arguments):
        """(what the function returned, how the child ended, what was printed as an error)."""
        self.process.stdin.write(json.dumps([function, arguments]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        self.errors.seek(0)
        said = self.errors.read()
        self.errors.seek(0)
        self.errors.truncate()
        assert line, f"the process has ended: {said[-3000:]}"
        answer, status = json.loads(line)
        return answer, status, said

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(PATIENCE)
        self.errors.close()


def serve(module):
    """What the process does: fork and call, line by line."""
    functions = importlib.import_module(module)
    functions.warm()
    for line in sys.stdin:
        function, arguments = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            answer_and_end(getattr(functions, function), arguments, writing)
        os.close(writing)
        with open(reading) as pipe:
            answer = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(f"[{answer or 'null'}, {status}]", flush=True)
    functions.tidy()


def answer_and_end(function, arguments, writing):
    status = 1
    try:
        signal.alarm(PATIENCE)
        os.write(writing, json.dumps(function(*arguments)).encode())
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
