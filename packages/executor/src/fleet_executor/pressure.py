"""How many calls to the model may be open at once. Pure.

The limit follows the model server: it falls by a share while requests wait there, and grows again by steps while none do
(additive increase, multiplicative decrease: D.-M. Chiu and R. Jain, "Analysis of the Increase and Decrease Algorithms for
Congestion Avoidance in Computer Networks", Computer Networks and ISDN Systems 17, 1989, which shows that this and no other
linear rule comes to a fair and efficient point). The decrease is that paper's and DECbit's 7/8, the step 1/64 of the
setting: at one measurement every two seconds the limit grows from nothing to the setting in about two minutes.
"""

import re
from typing import Optional

DECREASE = 7 / 8
STEPS = 64

_WAITING = re.compile(
    r"^(?:vllm:num_requests_waiting|llamacpp:requests_deferred)(?:\{[^\n]*\})?[ \t]+(\S+)", re.MULTILINE
)
"""vLLM names one line for each engine behind the address; llama.cpp's server names one."""


def waiting(metrics: str) -> Optional[float]:
    """Requests that wait in the model server, from what its /metrics says; None where it does not say."""
    try:
        found = [float(value) for value in _WAITING.findall(metrics)]
    except ValueError:
        return None
    return sum(found) if found else None


def next_limit(limit: int, setting: int, open_calls: int, requests_waiting: float) -> int:
    """The limit after a measurement, from 1 to the setting. It falls from where it binds: from what is open, where that is
    less than the limit."""
    if requests_waiting > 0:
        return max(1, int(min(limit, max(open_calls, 1)) * DECREASE))
    return min(setting, limit + max(1, setting // STEPS))


def has_room(new: int, open_calls: int, limit: int) -> bool:
    """Whether so many new calls are taken. Whatever is asked is taken while nothing is open: a limit below the size of a
    request would else keep it out for ever."""
    return new == 0 or open_calls == 0 or open_calls + new <= limit
