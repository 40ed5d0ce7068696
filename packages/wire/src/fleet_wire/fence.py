"""Text that somebody else wrote, on its way into a prompt: between markers that it cannot hold, and without what steers a model
or hides from a person's eye.
"""

import hashlib
import re
from collections.abc import Sequence

# Control characters but for tab and line feed, and unpaired surrogates: the categories Cc and Cs.
_CONTROL_CHARACTER = "\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff"
# What no reader sees and a model does: marks of direction, widths of zero (but for the joiners, which scripts and emoji need),
# tag characters, and the selectors of variants beyond the first sixteen, in which any text can be written.
_INVISIBLE = (
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\U000e0100-\U000e01ef"
)
_REMOVED = re.compile(f"[{_CONTROL_CHARACTER}{_INVISIBLE}]")
_TOKEN_CHARACTER = re.compile("[<|[\uff1c\uff3b\uff5c]")  # without one of these there is no control token
# The openings and endings of the control tokens of common chat templates, those in full width included.
_CONTROL_TOKEN = re.compile(
    r"<(?=[|\uff5c/]?[A-Za-z_\uff5c])|[|\uff5c](?=[>\uff1e\]])|\[(?=/?[A-Z_]{2,}\]|[gs]MASK\]|\|[A-Za-z])|<(?=<)|[\uff1c\uff3b]",
    re.ASCII,
)
_LINE_END = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_DASH = "[-\u2010-\u2015\u2212\ufe58\ufe63\uff0d]"
_MARKER_LINE = re.compile(rf"^([ \t]*{_DASH})(?={_DASH}+[ \t]+[0-9A-Fa-f]{{12}}\b)", re.MULTILINE)
# Of plain ASCII without a dash after a dash, what the rules above can change: for nearly all texts this is all that is looked at.
_CHANGED = bytes({*range(0x20), 0x7F, *b"<|["} - {*b"\t\n"})
MARKER_CHARS = 12


def harmless(text: str) -> str:
    """The text without control and invisible characters, with line feeds for all ends of lines, and with the control tokens of
    chat templates and lines like a fence's broken up by a space: a seat has seen the markers of what all share.

    In this order: taking characters out afterwards could put a token together again.
    """
    if text.isascii() and "--" not in text and len(text.encode().translate(None, _CHANGED)) == len(text):
        return text
    plain = _REMOVED.sub("", _LINE_END.sub("\n", text))
    if _TOKEN_CHARACTER.search(plain):
        plain = _CONTROL_TOKEN.sub(lambda match: match.group(0) + " ", plain)
    return _MARKER_LINE.sub(r"\1 ", plain)


def fenced(texts: Sequence[tuple[str, str]]) -> str:
    """Each text between two lines with a marker and what it is, given as pairs of what it is (our own word) and the text.

    The markers come from a hash over all texts, so that none of them can hold one.
    """
    bodies = [(kind, harmless(text).strip()) for kind, text in texts]
    whole = hashlib.sha256("\0".join(body for _, body in bodies).encode()).hexdigest()
    parts = []
    for number, (kind, body) in enumerate(bodies, start=1):
        marker = hashlib.sha256(f"{whole}|{number}".encode()).hexdigest()[:MARKER_CHARS]
        parts.append(f"--- {marker} {kind}\n{body}\n--- {marker} end")
    return "\n\n".join(parts)
