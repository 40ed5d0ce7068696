"""The command `fleet`."""

import time

STARTED_AT = time.monotonic()
"""When the command began, but for the interpreter's own start: this is imported before anything large."""
