"""The clock. Whatever decides by the time takes it as an argument; a main hands over this one."""

import datetime as dt


def now() -> dt.datetime:
    """The time, in UTC."""
    return dt.datetime.now(dt.timezone.utc)
