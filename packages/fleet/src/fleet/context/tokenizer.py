"""Tokens as the served model counts them, by `/tokenize` of vLLM or of llama.cpp's server, and the estimate where there is none.

One body serves both: vLLM reads `prompt` and answers with a `count`, llama.cpp reads `content` and answers with `tokens`. Neither
counts several texts in one call, so several calls are open at once; a text is asked for once, whatever contexts it stands in.

A server that is away is asked again by `check` only, in the background: no request waits for it a second time. One that was
late is asked there for the very texts that it was late with, at growing intervals: that it counts a short one says little.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
import structlog

from fleet.recent import Recent
from fleet_wire.errors import Unavailable

log = structlog.get_logger(__name__)

ESTIMATE = "estimate"
"""What stands for the name of a tokenizer where tokens are estimated."""
BYTES_PER_TOKEN = 3
KEPT = 65_536
"""Texts whose count is remembered, about 15 MB."""
AT_ONCE = 4
"""Calls that are open at once."""
ANSWER_SECONDS = 2.0
FIRST_PAUSE, LONGEST_PAUSE = 10.0, 320.0
"""Seconds for which a server that was late is left alone: twice as long each time, until it has been quick for the longest."""
REFUSALS = {400, 413, 422}
"""Statuses that say something of the text, and nothing of the server."""
REFUSED = -1
"""In the place of the count of a text that the server does not take."""
FAILURES = (aiohttp.ClientError, OSError, ValueError)
"""What a server that is away, late or no such server ends in."""


def estimate(text: str) -> int:
    """Tokens of a text, estimated: UTF-8 bytes / 3, rounded up.

    Prose and code run at about 4 bytes a token in the vocabularies of current models, so for those it is more than they take.
    Ids, dates and rare symbols can take more than this: no estimate without the model's own vocabulary is a bound for those.
    """
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


class Tokenizer:
    """That of the model at `url`; `model` is empty for the first that the server names. Without a URL there is none. `seconds` is
    how long all texts of a request may take together."""

    def __init__(
        self,
        url: str | None,
        model: str = "",
        seconds: float = ANSWER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._seconds = seconds
        self._wanted = model
        self._session: aiohttp.ClientSession | None = None
        self._model = ""
        self._counts: Recent[int] = Recent(KEPT)
        self._there: bool | None = None
        self._clock = clock
        self._pause = 0.0
        self._again = clock()
        self._late: dict[str, str] = {}

    @property
    def name(self) -> str:
        """The model's name, or ESTIMATE while its tokenizer cannot be asked."""
        return self._model or ESTIMATE

    async def count(self, texts: Sequence[str]) -> list[int]:
        """The tokens of each text, without those that a model's template adds. Raises Unavailable where the server does not
        say, and at once while it is known to be away or to refuse one of them."""
        model = self._model
        if not model:
            raise Unavailable("the model server's tokenizer cannot be asked")
        keys = [f"{model}|{hashlib.sha256(text.encode()).hexdigest()}" for text in texts]
        found = {key: self._counts.get(key) for key in keys}
        wanted = {key: text for key, text in zip(keys, texts, strict=True) if found[key] is None}
        if wanted:
            try:
                async with asyncio.timeout(self._seconds):
                    counts = await asyncio.gather(*(self._kept(model, key, text) for key, text in wanted.items()))
            except FAILURES as error:
                self._report(error)
                if isinstance(error, TimeoutError):
                    self._late = {text_key: text for text_key, text in wanted.items() if not self._counts.get(text_key)}
                    self._wait()
                raise Unavailable(f"the model server's tokenizer does not answer: {error}") from error
            found |= dict(zip(wanted, counts, strict=True))
        if REFUSED in found.values():
            raise Unavailable("the model server's tokenizer does not take one of the texts")
        return [found[key] or 0 for key in keys]

    async def check(self) -> None:
        """Asks whether the tokenizer is there, and so ends or begins the time of estimates."""
        if not self._url or self._clock() < self._again:
            return
        try:
            model = self._wanted or await self._first_model()
            await self._asked(model, "one token at least")
            async with asyncio.timeout(self._seconds):
                await asyncio.gather(
                    *(self._kept(model, key, text) for key, text in self._late.items() if key.startswith(f"{model}|"))
                )
        except FAILURES as error:
            self._report(error)
            if isinstance(error, TimeoutError):
                self._wait()
        else:
            self._late = {}
            self._model = model
            self._report(None)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        """The session, which can only be made in the loop that uses it. No connection is kept: llama.cpp's server gives each a
        thread for as long as it is open, and has few."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=AT_ONCE, force_close=True),
                timeout=aiohttp.ClientTimeout(total=self._seconds),
                raise_for_status=True,
            )
        return self._session

    async def _first_model(self) -> str:
        async with self._open().get(f"{self._url}/v1/models") as answer:
            named = await answer.json(content_type=None)
        with contextlib.suppress(LookupError, TypeError):
            return str(named["data"][0]["id"])
        raise ValueError("/v1/models names no model")

    async def _kept(self, model: str, key: str, text: str) -> int:
        """Keeps each count as it comes: where others of the request are late, it need not be asked for again."""
        try:
            count = await self._asked(model, text)
        except aiohttp.ClientResponseError as error:
            if error.status not in REFUSALS:
                raise
            count = REFUSED
        self._counts.put(key, count)
        return count

    async def _asked(self, model: str, text: str) -> int:
        """Special tokens in a text count as the text that they are: prompts have them broken up."""
        if not text:
            return 0
        body = {
            "model": model,
            "prompt": text,
            "add_special_tokens": False,
            "content": text,
            "add_special": False,
            "parse_special": False,
        }
        async with self._open().post(f"{self._url}/tokenize", json=body) as answer:
            return _counted(await answer.json(content_type=None))

    def _wait(self) -> None:
        """Leaves a late server alone for a while."""
        now = self._clock()
        quick = now - self._again > LONGEST_PAUSE
        self._pause = FIRST_PAUSE if quick or not self._pause else min(2 * self._pause, LONGEST_PAUSE)
        self._again = now + self._pause

    def _report(self, problem: Exception | None) -> None:
        """Says once that the tokenizer is there, and once why it is not."""
        if problem is not None:
            self._model = ""
        there = problem is None
        if there and self._there is not True:
            log.info("tokenizer: tokens are counted by the served model", model=self._model)
        elif not there and self._there is not False:
            why = str(problem).split("\n")[0] or type(problem).__name__
            log.warning("tokenizer: cannot be asked, tokens are estimated", url=self._url, error=why)
        self._there = there


def _counted(answer: Any) -> int:
    """What either server's answer says; raises ValueError for any other."""
    if isinstance(answer, dict):
        tokens = answer.get("tokens")
        count = answer.get("count", len(tokens) if isinstance(tokens, list) else None)
        if isinstance(count, int) and count > 0:
            return count
    raise ValueError("/tokenize answers with no count")
