"""How a secret is told in a text. `redaction` takes out what these rules find.

Three kinds of evidence. Its form, where its maker gave it one (`secretforms`). Its place: between the user and the @ of an
address, after `Bearer`, inside a block of PEM, after `password =`. And a long mixture of cases and digits that something is
set to is taken for a key whatever its name, unless the name says hash, image or the like.

Each rule starts at an *anchor*, a fixed text that is cheap to find, and reads on from there through runs of characters, each
of bounded length, without ever going back: so a text takes linear time whoever wrote it, and a stream of chunks knows when
a rule cannot be decided yet (it raises More).
"""

import math
import re
from collections.abc import Callable
from typing import NamedTuple, Optional

from fleet_wire.secretforms import FORMS, Form

LONG = 20
"""What each of PREFIXES, and HIGH_ENTROPY, finds has at least, in a row, of the characters that keys are made of."""
LOOK = 96
"""How many characters of a value are judged. The rest of a longer one goes with it."""
BEFORE = 40
"""How many characters before its anchor a rule may look at."""
REACH = 640
"""How many characters from its anchor a rule reads at most, before what it found is sure."""


MARKER = "[redacted:"
"""What stands in a secret's place: this, its kind, and a closing bracket."""


class More(Exception):
    """The text ends before the rule is decided."""


class Found(NamedTuple):
    """What is to be taken out: from `start` to `end`, and what `tail` matches from there, however long.

    A tail is a run of characters, each told by itself and at most the next one. Where `ahead` is more than 1 it is one piece
    of a tail of pieces, each of which is told by so many characters from its beginning."""

    start: int
    end: int
    kind: str
    tail: "re.Pattern[str]"
    ahead: int = 1


Look = Callable[[str, int, bool], Optional[Found]]
"""Of a text, a place in it where an anchor begins, and whether the text is all there is. Raises More."""


def _up_to(most: int, chars: str) -> "re.Pattern[str]":
    return re.compile(f"{chars}{{0,{most}}}")


_NONE = re.compile("")
_KEY_CHARS = _up_to(REACH, r"[A-Za-z0-9_.=+/:-]")


def _form(form: Form) -> Look:
    pattern, tail = re.compile(form.pattern), re.compile(form.tail)

    def look(text: str, at: int, final: bool) -> Optional[Found]:
        if text[at].isalnum() and _is_alnum(text, at - 1):
            return None
        end = _run(_KEY_CHARS, text, at, final)
        match = pattern.match(text, at, min(end + 1, len(text)))
        return Found(at, match.end(), form.kind, tail) if match else None

    return look


_KIND = re.compile(r"[a-z-]{0,32}")


def leave_marker(text: str, at: int, final: bool) -> Optional[Found]:
    """What was taken out before stays as it is, whatever stands around it."""
    start = at + len(MARKER)
    end = _run(_KIND, text, start, final)
    return Found(at, end + 1, text[start:end], _NONE) if text[end : end + 1] == "]" else None


_PEM_NAME = re.compile(r"[A-Z0-9 ]{0,80}")
_DASHES = re.compile(r"-{0,5}")
_PEM_LEAD = re.compile(r"""(?:[\s\\"'`+,]|(?<=\\)[nr]){0,48}""")
_PEM_WORD = re.compile(r"[A-Za-z0-9+/-]{0,16}")
_PEM_HEADERS = ("Proc-Type", "DEK-Info", "Version", "Comment")
_PEM_HEADER = re.compile(r"""[^\r\n\\"'`]{0,90}""")
_PROSE = r"(?![ \t]{0,32}[A-Za-z0-9]{1,16}[ ,.:;!?'-])"
_PEM_PIECE = re.compile(
    r"[A-Za-z0-9+/=]{1,64}"
    rf"|(?:[\r\n]|\\{{1,8}}[nr]){_PROSE}[ \t]{{0,32}}"
    r"|\\{1,8}(?:[tbf/]|u[0-9A-Fa-f]{4})"
    r"|[ \t]{1,16}(?=[\r\n\\])"
    r"""|(?P<quote>\\{0,3}["'`])(?:[ \t+,]{0,3}(?:\\?\r?\n|\\{1,4}[nr])[ \t+,]{0,32}|[ \t+,]{1,4})[bBrRuU]?(?P=quote)"""
    r"(?=[A-Za-z0-9+/]{32}|[A-Za-z0-9+/]{0,31}(?:=|\\{1,4}[nr]))"
)
"""Of a key's body: characters, the end of a line and the next one's indent, an escape, blanks before the end of a line, or a
joint of two string literals. A joint needs what no name in JSON is behind it, and a line whose first word a blank or a stop
follows is none of the body, so what follows a key that was cut off stays."""
_PEM_AHEAD = 96
"""More than the longest of them, with what has to follow it."""


def _private_key(text: str, at: int, final: bool) -> Optional[Found]:
    """The body of a block; its first and last line stay. A mention of such a line without a body is none."""
    start = _run(_PEM_NAME, text, at + len("-----BEGIN "), final)
    name = text[at + len("-----BEGIN ") : start]
    if not name.endswith(("PRIVATE KEY", "PRIVATE KEY BLOCK", "NKEY SEED")):
        return None
    start = _run(_DASHES, text, start, final)
    body = _run(_PEM_LEAD, text, start, final)
    end = word = _run(_PEM_WORD, text, body, final)
    if text[start - 5 : start] != "-----":
        return None
    begin = body
    for _ in range(3):
        if text[begin:word] not in _PEM_HEADERS or text[word : word + 1] != ":":
            break
        end = _run(_PEM_HEADER, text, word, final)
        begin = _run(_PEM_LEAD, text, end, final)
        word = _run(_PEM_WORD, text, begin, final)
    if begin == body:
        if word - body < 16:
            return None
        body = end = start + len(text[start:body].rstrip("\\"))  # an escape goes as a whole
    return Found(body, end, "private-key", _PEM_PIECE, _PEM_AHEAD)


_USER = re.compile(r"""[^\s/:@"'`<>?#\\]{0,96}""")


def _address(text: str, at: int, final: bool) -> Optional[Found]:
    """The password in an address, or a token that stands for user and password."""
    start = at + 3
    end = _run(_USER, text, start, final)
    if not _is_alnum(text, at - 1) or text.endswith(MARKER, start, end + 1):
        return None
    if text[end : end + 1] == ":":
        start = end + 1
        end = _run(_USER, text, start, final)
        if text[end : end + 1] != "@" or end - start < 3 or _NO_PASSWORD.match(text, start, end):
            return None
        return Found(start, end, "url-password", _NONE)
    if text[end : end + 1] != "@" or not _is_key(text[start:end]):
        return None
    return Found(start, end, "url-password", _NONE)


_NO_PASSWORD = re.compile(r"(?:[${%\[(*].*|pass|password|passwd|pwd|pw|secret|xxx+|\.\.\.)\Z", re.I | re.S)
_BLANKS = re.compile(r"[ \t]{0,16}")
_BEARER = _up_to(LOOK, r"[A-Za-z0-9._~+/=-]")
_BEARER_TAIL = re.compile(r"(?:[A-Za-z0-9_~+/=-]|\.(?=[A-Za-z0-9_-]))*")
_SCHEME = re.compile(r"[A-Za-z]{0,12}")


def _bearer(text: str, at: int, final: bool) -> Optional[Found]:
    start = _run(_BLANKS, text, at + len("bearer"), final)
    if start == at + len("bearer") or _is_alnum(text, at - 1):
        return None
    return _credentials(text, start, final, "bearer")


def _authorization(text: str, at: int, final: bool) -> Optional[Found]:
    """`Authorization: SCHEME credentials`; `Bearer` has its own anchor."""
    start = _run(_NAME, text, at + len("authorization"), final)
    if start > at + len("authorization"):
        return None
    start = _run(_BLANKS, text, _run(_CLOSING, text, start, final), final)
    separator = _run(_SEPARATOR, text, start, final)
    if separator == start:
        return None
    start = _run(_CLOSING, text, _run(_BLANKS, text, separator, final), final)
    end = _run(_SCHEME, text, start, final)
    scheme = text[start:end].lower()
    if scheme in ("basic", "token", "apikey", "digest", "key") and text[end : end + 1] in (" ", "\t"):
        return _credentials(text, _run(_BLANKS, text, end, final), final, "authorization")
    return None


def _credentials(text: str, start: int, final: bool, kind: str) -> Optional[Found]:
    end = _run(_BEARER, text, start, final)
    value = text[start:end].rstrip(".")
    is_basic = kind == "authorization" and len(value) >= 8 and any(map(str.isupper, value)) and not _is_slug(value)
    if not (is_basic or _is_key(value, 12)):
        return None
    return Found(start, start + len(value), kind, _BEARER_TAIL)


_NAME = re.compile(r"[A-Za-z0-9_-]{0,32}")
_SUFFIX = re.compile(
    r"(?:[_-]?(?:key|value|base|base64|b64|raw|prod|production|dev|test|staging|live|primary|secondary|old|new|current"
    r"|default|admin|root|user|db|\d{1,3})){0,2}\Z",
    re.I,
)
_CLOSING = re.compile(r"""[\\"'`\]]{0,6}""")
_SEPARATOR = re.compile(r"[:=>]{0,3}")
_SEPARATORS = frozenset([":", "=", "==", "===", ":=", "=>", ">"])
_ANNOTATION = re.compile(r"[A-Za-z_][A-Za-z0-9_.\[\]|?]{0,22}")
_QUOTE = re.compile(r"""[bBrRuUfF]{0,2}\\{0,3}["'`]""")
_QUOTED_CHARS = r"""[^\s"'`\\]"""
_BARE_CHARS = r"[!#-&*+\--:=?-Z^_a-z~]"
_QUERY_CHARS = r"[!#-%*+\--:=?-Z^_a-z~]"
_QUOTED, _QUOTED_TAIL = _up_to(LOOK, _QUOTED_CHARS), re.compile(f"{_QUOTED_CHARS}*")
_BARE, _BARE_TAIL = _up_to(LOOK, _BARE_CHARS), re.compile(f"{_BARE_CHARS}*")
_QUERY, _QUERY_TAIL = _up_to(LOOK, _QUERY_CHARS), re.compile(f"{_QUERY_CHARS}*")
_IS_QUERY = re.compile(r"[?&][A-Za-z0-9_.-]*\Z")


def _named(anchor: str, kind: str, is_secret: Callable[[str, bool], bool], fits: Callable[[str], bool] = bool) -> Look:
    """What a name with `anchor` in it is set to: in code, JSON, YAML, an environment, a query or a command's options."""

    def look(text: str, at: int, final: bool) -> Optional[Found]:
        if not fits(" " + text[max(0, at - 16) : at].lower()):
            return None
        end = _run(_NAME, text, at + len(anchor), final)
        if not _SUFFIX.match(text, at + len(anchor), end):
            return None
        place = _value(text, at, end, final)
        if place is None:
            return None
        start, in_code = place
        if start + 6 > len(text) and not final:
            raise More
        quote = _QUOTE.match(text, start)
        start = quote.end() if quote else start
        chars, tail = (_QUOTED, _QUOTED_TAIL) if quote else (_BARE, _BARE_TAIL)
        if not quote and _IS_QUERY.search(text, max(0, at - BEFORE), at):
            chars, tail = _QUERY, _QUERY_TAIL
        end = _run(chars, text, start, final)
        value = text[start:end]
        if len(value) < LOOK:
            following = text[end : end + 1]
            if following not in ('"', "'", "`", "\\") if quote else following in ("(", "[", "{"):
                return None
            if not quote:
                value = value.rstrip(".:")
                tail = _NONE
                if (in_code or following in (")", ",")) and _IDENTIFIER.match(value):
                    return None
        if MARKER in text[start - 1 : end + 1] or not is_secret(value, bool(quote)):
            return None
        return Found(start, start + len(value), kind, tail)

    return look


def _value(text: str, at: int, end: int, final: bool) -> Optional[tuple[int, bool]]:
    """Where the value of the name that ends at `end` begins, its quotes included, and whether it is compared or set to it as
    only code does it (a blank after the sign); None where it is set to nothing."""
    closed = _run(_CLOSING, text, end, final)
    start = _run(_BLANKS, text, closed, final)
    separator = _run(_SEPARATOR, text, start, final)
    if separator == start:
        return (start, False) if start > closed == end and _FLAG.search(text, max(0, at - BEFORE), at) else None
    sign = text[start:separator]
    if sign not in _SEPARATORS:
        return None
    start = _run(_BLANKS, text, separator, final)
    if sign == ":":
        annotated = _run(_ANNOTATION, text, start, final)
        equals = _run(_BLANKS, text, annotated, final)
        if annotated > start and text[equals : equals + 1] == "=":
            start = _run(_BLANKS, text, equals + 1, final)
            return start, start > equals + 1
    return start, sign in ("==", "===") or (sign in ("=", ":=") and start > separator)


_FLAG = re.compile(r"(?<![A-Za-z0-9-])--[A-Za-z0-9-]*\Z")
_PLACEHOLDER = re.compile(
    r"[$%{<*#!(\[]|\.\.|~|/|\.|x{3,}|your|my-|insert|replace|enter|https?:|file:|vault:|secret:|arn:|env[.:]|os\.|process\."
    r"|self\.|settings\.|config\.|args\.|ref\+|data:|enc\[|sha\d|(?:change[-_]?(?:me|it|this)|example|dummy|redacted|none|null|nil|true"
    r"|false|undefined|required|optional|string|argon2\w*|bcrypt\w*|scrypt\w*|pbkdf2\w*|md5|base64|utf-?8|oauth2?|oidc|x509"
    r"|[rheps]{2}(?:256|384|512)|ed25519|http2?)\d*\Z",
    re.I,
)
_VARIABLE = re.compile(r"[A-Za-z_]*(?:pass|pwd|secret|token|key|cred)[A-Za-z_]*\d*\Z", re.I)
_MEMBER = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+\Z")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*\Z")
_SLUG = re.compile(
    r"(?:[a-z]+\d{0,3}|[A-Z]+\d{0,3}|[A-Z][a-z]+\d{0,3}|\d{1,4})(?:[-_./:](?:[a-z]+\d{0,3}|[A-Z]+\d{0,3}|[A-Z][a-z]+\d{0,3}|\d{1,4}))*\Z"
)
_SPECIAL = re.compile(r"[!@#$%^&*+=?~]")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")


def _is_password(value: str, quoted: bool) -> bool:
    """A word alone may be anything, and is left; a letter with a digit or a sign is a password."""
    if len(value) < (4 if quoted else 6) or _PLACEHOLDER.match(value) or _MEMBER.match(value):
        return False
    letters, digits = any(map(str.isalpha, value)), any(map(str.isdigit, value))
    if not quoted and _VARIABLE.match(value):
        return False
    return (letters and (digits or (quoted and bool(_SPECIAL.search(value))))) or (
        digits and quoted and len(value) >= 6
    )


def _is_shared(value: str, quoted: bool) -> bool:
    """As a password, and not the name of one."""
    return len(value) >= 8 and _is_password(value, quoted) and not _is_slug(value)


def _is_token(value: str, quoted: bool) -> bool:
    return _is_key(value) and not _UUID.match(value)


def _is_api_key(value: str, quoted: bool) -> bool:
    return _is_key(value)


def _is_key(value: str, least: int = 16) -> bool:
    """Long, of letters and digits, and neither words nor a path."""
    return (
        len(value) >= least
        and any(map(str.isdigit, value))
        and any(map(str.isalpha, value))
        and not _PLACEHOLDER.match(value)
        and not _MEMBER.match(value)
        and not _is_slug(value)
        and _entropy(value) >= 2.5
    )


def _is_slug(value: str) -> bool:
    """Whether it is made of words and short numbers."""
    return bool(_SLUG.match(value))


def _entropy(value: str) -> float:
    """Bits a character, by how often each stands there."""
    counts = [value.count(one) for one in set(value)]
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts)


_NO_SECRET = re.compile(
    r"(?:hash|sha|sha\d+|h1|digest|checksum|sum|integrity|sri|etag|nonce|fingerprint|thumbprint|commit|rev|image|img|icon|font"
    r"|logo|data|src|href|url|uri|path|file|public|cert|certificate|id|ids|uuid|guid|cursor|page|page_?token|version|content|body|text"
    r"|blob|payload|list|base64|b64|encoded|traceparent|pin|site_?key|public_?key|model|ref|name|md5|host|ca|signature)$",
    re.I,
)
_NAME_BEFORE = re.compile(r"""([A-Za-z0-9_.-]{1,32})\\{0,3}["'`]?\]?[ \t]{0,4}:?\Z""")
_ENTROPIC = _up_to(LOOK, r"[A-Za-z0-9+/_-]")
_ENTROPIC_TAIL = re.compile(r"(?:[A-Za-z0-9+/_=-]|\.(?=[A-Za-z0-9_-]))*")
_DIGITS = re.compile(r"\d+")
_NUMBERED = re.compile(r"(?:[A-Za-z]+|\d+|[0-9a-f]+)(?:[-_/](?:[A-Za-z]+|\d+|[0-9a-f]+))+\Z")
"""Words, numbers and hashes in hexadecimal, joined: the names of pools, actors, images and the like."""


def _high_entropy(text: str, at: int, final: bool) -> Optional[Found]:
    """What looks drawn at random, set to a name that does not say it is something else."""
    start = _run(_BLANKS, text, at + 1, final)
    if start + 6 > len(text) and not final:
        raise More
    quote = _QUOTE.match(text, start)
    start = quote.end() if quote else start
    end = _run(_ENTROPIC, text, start, final)
    value = text[start:end]
    if len(value) < 24 or not _is_random(value) or _PLACEHOLDER.match(value) or text[end : end + 1] in ("(", "["):
        return None
    named = _NAME_BEFORE.search(text, max(0, at - BEFORE), at)
    if named is None or _NO_SECRET.search(named.group(1)) or text.endswith(MARKER, 0, named.start(1)):
        return None
    return Found(start, end, "high-entropy", _ENTROPIC_TAIL)


def _is_random(value: str) -> bool:
    """Upper, lower and digits, often changing, the digits in more than one place: no word, no hexadecimal."""
    kinds = ["u" if one.isupper() else "l" if one.islower() else "d" if one.isdigit() else "." for one in value]
    changes = sum(one != other for one, other in zip(kinds, kinds[1:]))
    return (
        {"u", "l", "d"} <= set(kinds)
        and changes >= 0.4 * len(value)
        and len(_DIGITS.findall(value)) >= 2
        and _entropy(value) >= 3.5
        and not _is_slug(value)
        and not _NUMBERED.match(value)
    )


def _run(pattern: "re.Pattern[str]", text: str, at: int, final: bool) -> int:
    """Where the characters of a run end; raises More where that is the end of the text, and more may come."""
    match = pattern.match(text, at)
    end = match.end() if match else at
    if end >= len(text) and not final:
        raise More
    return end


def _is_alnum(text: str, at: int) -> bool:
    return at >= 0 and text[at].isascii() and text[at].isalnum()


_OF_KEYS = tuple(
    "api access account secret private signing encryption auth shared master storage service client session webhook jwt hmac aes"
    " license app admin deploy subscription".split()
)
_NOT_OF_TOKENS = ("page", "next", "continuation", "sync", "resume")


def _after_kind(before: str) -> bool:
    """Whether `key` is one of a kind that is kept secret, by the name before it."""
    return (before[:-1] if before[-1] in "_-. " else before).endswith(_OF_KEYS)


def _not_of_pages(before: str) -> bool:
    return not (before[:-1] if before[-1] in "_-" else before).endswith(_NOT_OF_TOKENS)


def _stands_alone(before: str) -> bool:
    return before[-1] in "_-\"'`;&?"


WORDS: tuple[tuple[str, Look], ...] = (
    ("password", _named("password", "password", _is_password)),
    ("passwd", _named("passwd", "password", _is_password)),
    ("passphrase", _named("passphrase", "password", _is_password)),
    ("pass", _named("pass", "password", _is_password, _stands_alone)),
    ("pwd", _named("pwd", "password", _is_password)),
    ("secret", _named("secret", "secret", _is_shared)),
    ("credentials", _named("credentials", "secret", _is_shared)),
    ("credential", _named("credential", "secret", _is_shared)),
    ("token", _named("token", "token", _is_token, _not_of_pages)),
    ("key", _named("key", "key", _is_api_key, _after_kind)),
    ("bearer", _bearer),
    ("authorization", _authorization),
)
"""Anchors in any case, as lower case."""
MARKS: tuple[tuple[str, Look], ...] = (
    ("-----BEGIN ", _private_key),
    ("://", _address),
)
"""Anchors to the letter."""
PREFIXES: tuple[tuple[str, Look], ...] = tuple((prefix, _form(form)) for form in FORMS for prefix in form.prefixes)
"""Anchors to the letter that need LONG key characters in a row."""
HIGH_ENTROPY = _high_entropy
"""Its anchor is a `=` or `:`."""
