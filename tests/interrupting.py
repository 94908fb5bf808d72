"""An interrupt at each place in turn where Python looks for signals, instead of at random times."""

import dis
import itertools
import sys

# After these instructions, and at the begin of a function and the end of a round of a loop.
LOOKS = {"RESUME", "JUMP_BACKWARD", "PRECALL", "CALL", "CALL_FUNCTION_EX", "CALL_KW"}


class Interrupt(BaseException):
    """What a handler of a signal might raise."""


def interrupted(function, at):
    """Call a function, and interrupt this thread where it could be for the `at`-th time.

    Returns what the function returned, or the `Interrupt` that came out of it; and how many places
    there were until then.
    """
    places, looks = 0, {}

    def looks_in(code):
        if code not in looks:
            found = list(dis.get_instructions(code))
            looks[code] = {
                after.offset
                for before, after in itertools.pairwise(found)
                if before.opname in LOOKS and (before.opname, after.opname) != ("PRECALL", "CALL")
            }
        return looks[code]

    def trace(frame, event, argument):
        nonlocal places
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode" and frame.f_lasti in looks_in(frame.f_code):
            if places == at:
                sys.settrace(None)
                raise Interrupt
            places += 1
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # CPython 3.12 counts them from the next `settrace` on
    sys.settrace(trace)
    try:
        return function(), places
    except Interrupt as interrupt:
        return interrupt, places
    finally:
        sys.settrace(before)
