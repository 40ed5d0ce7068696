"""Server-sent events, parsed from bytes as they come: any chunk boundary, any of the three line ends. Pure.

After https://html.spec.whatwg.org/multipage/server-sent-events.html, reduced to the `data` of each event.
"""

MAX_EVENT_BYTES = 1024 * 1024


class SseError(ValueError):
    """What came is no event stream."""


class SseParser:
    """Feed it bytes, take the data of the events that are complete. A last event without its blank line is dropped, as the
    standard says."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []
        self._size = 0
        self._first = True

    def feed(self, chunk: bytes) -> list[str]:
        """Raises SseError for an event above MAX_EVENT_BYTES or text that is not UTF-8."""
        events = []
        buffer = self._rest + chunk
        # A carriage return at the very end may be half of a line end: it waits for the next byte.
        held = b"\r" if buffer.endswith(b"\r") else b""
        *lines, rest = buffer[: len(buffer) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = rest + held
        for line in lines:
            if line:
                self._line(line)
            elif self._data:
                events.append("\n".join(self._data))
                self._data, self._size = [], 0
        if len(self._rest) + self._size > MAX_EVENT_BYTES:
            raise SseError(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return events

    def _line(self, line: bytes) -> None:
        if self._first:
            self._first = False
            line = line[3:] if line.startswith(b"\xef\xbb\xbf") else line
        name, _, value = line.partition(b":")
        if name != b"data":
            return
        self._size += len(value)
        try:
            self._data.append((value[1:] if value.startswith(b" ") else value).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise SseError(f"text that is not UTF-8: {error.reason}") from error
