"""Interrupting a thread at each point where a signal could."""

import dis

# Behind these, and nowhere else, Python looks whether a signal has come.
LOOKS = {"RESUME", "CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD"}


class Interrupted(KeyboardInterrupt):
    """An interruption by a test."""


def interrupt_at(n, *paths):
    """A trace function that interrupts its thread at the `n`-th such point in files below `paths`, and a list whose one
    number is above 0 until then."""
    left, looks = [n], False

    def trace(frame, event, argument):
        nonlocal looks
        if not frame.f_code.co_filename.startswith(paths):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            looked, looks = looks, dis.opname[frame.f_code.co_code[frame.f_lasti]] in LOOKS
            if looked:
                left[0] -= 1
                if left[0] == 0:
                    raise Interrupted
        return trace

    return trace, left
