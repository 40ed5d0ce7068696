"""Pages of a listing: how long one is, and the token of the next.

A token names a place and not a number, so that what comes meanwhile neither repeats nor hides anything. What the place is, and
whether a text names one, is the listing's own to say.
"""

import base64
import binascii

from fleet_wire.errors import Invalid

DEFAULT = 50
MOST = 500


def size(page_size: int) -> int:
    """How many entries a page has; 0 means the default. Raises Invalid."""
    if not 0 <= page_size <= MOST:
        raise Invalid(f"page_size must be from 1 to {MOST}, or 0 for {DEFAULT}, not {page_size}")
    return page_size or DEFAULT


def token(place: str) -> str:
    """The token that names a place."""
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def place(page_token: str) -> str:
    """The place that a token names; raises Invalid for what `token` never made."""
    try:
        padded = page_token + "=" * (-len(page_token) % 4)
        return base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, UnicodeError) as error:
        raise refused() from error


def refused() -> Invalid:
    """What is said of a token that names no place in the listing."""
    return Invalid("page_token must be empty or the next_page_token of an answer before")
