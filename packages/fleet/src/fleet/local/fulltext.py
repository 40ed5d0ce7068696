"""The full-text index of the embedded graph server, which its HTTP API makes and Bolt cannot."""

import base64
import json
import urllib.error
import urllib.request

from fleet.context.search import EMBEDDED_SQL
from fleet_wire.errors import Unavailable

SECONDS = 30.0
"""How long one statement may take: the index of a memory that is there already is built at once."""


def make_index(url: str, database: str, user: str, password: str) -> None:
    """Makes the index that decisions are searched by, where it is not there. Raises Unavailable."""
    secret = base64.b64encode(f"{user}:{password}".encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {secret}"}
    for statement in EMBEDDED_SQL:
        body = json.dumps({"language": "sql", "command": statement}).encode()
        request = urllib.request.Request(f"{url}/api/v1/command/{database}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            reason = error.read(500).decode(errors="replace")
            raise Unavailable(f"the graph server made no full-text index: {reason}") from error
        except OSError as error:
            raise Unavailable(f"the graph server at {url} made no full-text index: {error}") from error
