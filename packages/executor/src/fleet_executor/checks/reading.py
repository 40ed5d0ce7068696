"""Reads what a model wrote, in a process that can be ended. It is run as a script, by `apart`.

What comes and goes are JSON objects: `{"blocks": [[language, text]…]}` and `{"blocks": [reason…]}`, where the reason is empty for
a block that parses, and null where no parser is here. With the argument `stay` it reads one a line, `{"text": …, "patterns":
[pattern…]}`, answers with `{"found": [bool…]}`, and ends with its standard input, or when a search takes too long.
It imports no module of this package, and what it needs only when it does, so that it starts at once.
"""

import json
import sys
from typing import Optional

SECONDS = 5
MEMORY_BYTES = 1024 * 1024 * 1024


def main() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    if sys.argv[1:] == ["stay"]:
        stay()
        return
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    asked = json.load(sys.stdin.buffer)
    json.dump({"blocks": [broken(*block) for block in asked["blocks"]]}, sys.stdout)


def stay() -> None:
    import re
    import signal

    for line in sys.stdin.buffer:
        signal.alarm(SECONDS)  # ends the process, also in the middle of a search
        asked = json.loads(line)
        found = [re.search(pattern, asked["text"], re.MULTILINE) is not None for pattern in asked["patterns"]]
        print(json.dumps({"found": found}), flush=True)
        signal.alarm(0)


def broken(language: str, text: str) -> Optional[str]:
    """What is wrong with a block, in a line; empty where it parses, None where its language has no parser here."""
    try:
        if language == "python":
            import ast

            ast.parse(text)
        elif language == "json":
            json.loads(text)
        elif language == "yaml":
            import yaml

            # The parser in C is left alone: nested brackets crash it.
            for _ in yaml.load_all(text, Loader=yaml.SafeLoader):
                pass
        else:
            _toml(text)
    except ImportError:
        return None
    except RecursionError:
        return "nested too deeply"
    except MemoryError:
        return "too large or nested too deeply"
    except Exception as error:  # noqa: BLE001 (a parser may raise anything; whatever it is, the block does not parse)
        at = getattr(error, "lineno", None)
        said = getattr(error, "msg", None) or str(error) or type(error).__name__
        return f"{' '.join(str(said).split())[:150]}{f' (line {at})' if at else ''}"
    return ""


def _toml(text: str) -> None:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    tomllib.loads(text)


if __name__ == "__main__":
    main()
