"""What is measured beside this system. Each module has `opened(url, told)`: a context with a call that makes one deliberation:
three agents in parallel, each asking the model once, and the three answers brought together."""

QUESTION = (
    "Our nightly import of orders takes four hours and sometimes fails in the middle. Propose, in plain prose and without code, "
    "how to make it shorter and safe to repeat, and say what you would measure first."
)
AGENTS = (
    ("backend", "You are a senior backend developer. Answer briefly and plainly."),
    ("quality", "You are a careful tester of data pipelines. Answer briefly and plainly."),
    ("operations", "You are the engineer on call at night. Answer briefly and plainly."),
)


def check(answers: list[str]) -> None:
    """Three answers, each whole; raises ValueError otherwise, so that no shortcut is measured."""
    from bench.model_server import TEXT

    if [answer.strip() for answer in answers] != [TEXT] * len(AGENTS):
        raise ValueError(f"not three whole answers: {answers!r}"[:300])
