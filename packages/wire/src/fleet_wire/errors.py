"""The errors that cross a boundary, each saying what its reader can do.

FleetError
├── Invalid        the request or event is wrong: change it          gRPC INVALID_ARGUMENT,    events: dead letter at once
│   └── Problems   several things are wrong at once                  as Invalid
├── NotFound       no such thing: check the id                       gRPC NOT_FOUND,           events: dead letter at once
├── AlreadyExists  the id is taken by another content: take another  gRPC ALREADY_EXISTS,      events: dead letter at once
├── Precondition   the thing is in another state: look at it first   gRPC FAILED_PRECONDITION, events: dead letter at once
├── Unavailable    a part is not there right now: try again          gRPC UNAVAILABLE,         events: again, not counted
│   └── Exhausted  a part has all the work it takes: try again later gRPC RESOURCE_EXHAUSTED,  events: again, not counted
└── Conflict       somebody else wrote first: read and try again     gRPC ABORTED,             events: again, not counted
"""


class FleetError(Exception):
    """Base of all errors here; its text is a sentence for whoever reads the answer."""


class Invalid(FleetError):
    """What was given is wrong; the text names the field."""


class Problems(Invalid):
    """Several things are wrong with one text: `lines` has a sentence for each."""

    def __init__(self, lines: "tuple[str, ...]") -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class NotFound(FleetError):
    """There is no such thing."""


class AlreadyExists(FleetError):
    """The id belongs to something with another content."""


class Precondition(FleetError):
    """The thing is not in a state that allows this."""


class Unavailable(FleetError):
    """A part that is needed cannot be reached now; the same call may succeed later."""


class Exhausted(Unavailable):
    """A part is there and takes no more work now; the same call may succeed when some of it is done."""


class Conflict(FleetError):
    """A compare-and-set lost against another writer."""
