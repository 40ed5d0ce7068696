"""What runs in the sandbox: it loads the program, then runs the test, and says how that went. Its source is passed to the
interpreter there; nothing else of this package can be seen there, so it imports the standard library only.

Standard input brings lines of JSON: the limits and the program, then, once that is loaded, the test and a word to answer with.
The pipe whose number is the argument takes `R` (ready), `L` (loaded), and either that word or a line that says what failed.

The word comes after the program has run, is written by functions that were taken before it ran, and only after the last line of
the test: printing, leaving, and patching modules or builtins make no pass. A program that looks for it in the memory of its own
process finds it.
"""

import builtins
import json
import os
import resource
import sys
import types

PROGRAM, TEST = "program", "test"


def main() -> None:
    verdict, write, leave, run, made = int(sys.argv[1]), os.write, os._exit, exec, compile
    untrace, unprofile, loads, untouched = sys.settrace, sys.setprofile, json.loads, dict(vars(builtins))
    control = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    module = types.ModuleType(PROGRAM)
    sys.modules[PROGRAM] = module
    names = vars(module)
    place = PROGRAM
    write(verdict, b"R")
    try:
        given = loads(control.readline())
        for name, (soft, hard) in given["limits"].items():
            resource.setrlimit(getattr(resource, name), (soft, hard))
        run(made(given["program"], f"<{PROGRAM}>", "exec"), names)
        write(verdict, b"L")
        place = TEST
        asked = loads(control.readline())
        test = made(asked["test"], f"<{TEST}>", "exec")
        vars(builtins).update(untouched)
        names["__builtins__"] = builtins
        untrace(None)
        unprofile(None)
        run(test, names)
        write(verdict, asked["word"].encode())
    except BaseException as error:  # noqa: BLE001 (whatever it raises, SystemExit included, is how it failed)
        write(verdict, f"\n{reason(place, error)[:500]}".encode("utf-8", "replace"))
    leave(0)


def reason(place: str, error: BaseException) -> str:
    """Where it broke, and of what, in one line."""
    try:
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        text = " ".join(str(said).split())[:300]
    except BaseException:  # noqa: BLE001 (the text is the program's own code)
        text = ""
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == f"<{place}>":
            line = trace.tb_lineno
        trace = trace.tb_next
    at = f" (line {line} of the {place})" if line else f" (the {place})"
    return f"{type(error).__name__}{': ' if text else ''}{text}{at}"


if __name__ == "__main__":
    main()
