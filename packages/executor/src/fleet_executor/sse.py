"""Server-sent events, parsed from bytes as they come: any chunk boundary, any of the three line ends. Pure.

After https://html.spec.whatwg.org/multipage/server-sent-events.html, reduced to the `data` of each event.
"""

from typing import Optional

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
        buffer = self._rest + chunk
        events = self._plain(buffer)
        if events is not None:
            return events
        events = []
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

    def _plain(self, buffer: bytes) -> Optional[list[str]]:
        """The events of a buffer that holds nothing but lines of data, one for each event, as servers write them: read all at
        once, at a tenth of the cost. None for any other, of which nothing is taken."""
        end = buffer.rfind(b"\n\n") + 2
        if end < 2 or self._data or not buffer.startswith(b"data: ") or b"\r" in buffer:
            return None
        if len(buffer) - end > MAX_EVENT_BYTES:
            return None
        try:
            events = buffer[6 : end - 2].decode("utf-8").split("\n\ndata: ")
        except UnicodeDecodeError:
            return None
        if buffer.count(b"\n", 0, end) != 2 * len(events):
            return None
        self._rest, self._first = buffer[end:], False
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
