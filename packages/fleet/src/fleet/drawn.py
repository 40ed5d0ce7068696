"""Parts of a page of the docs that are drawn from the code, each between two marks. `scripts/generate` draws them anew."""

END = "<!-- end of the drawing -->"


def begin(source: str) -> str:
    """The mark that opens what is drawn from a file of the code."""
    return f"<!-- drawn from {source} by scripts/generate -->"


def filled(page: str, source: str, drawing: str) -> str:
    """The page with the drawing as it is now; raises ValueError where it has not both marks."""
    before, mark, rest = page.partition(begin(source))
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the page must hold the lines {begin(source)!r} and {END!r}")
    return f"{before}{mark}\n{drawing}\n{end}{after}"
