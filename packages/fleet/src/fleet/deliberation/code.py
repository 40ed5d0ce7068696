"""Python in a task and in its answers: whether a task asks for it, the program an answer means, and a tester's cases.

Nothing here is run: texts are parsed and put together. What comes out goes to a sandbox.
"""

import ast
import re
import sys
import warnings

from fleet_wire.answers import PYTHON, code_blocks
from fleet_wire.events import PlanTask

MAX_CASES = 8
"""Cases that are taken of one tester's answer."""
MAX_CASE_BYTES = 4 * 1024
"""A longer case is left out."""

_DEFINITION = re.compile(r"^[ \t]*(?:async[ \t]+)?def[ \t]+[^\W\d]\w*[ \t]*\(", re.MULTILINE)
_CODE_BEGINS = re.compile(r"^(?:import |from [\w.]+ import |@|class |def |async def )", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\n[ \t]+(?:pass|\.\.\.|raise NotImplementedError\b.*)[ \t]*(?:#.*)?\s*$")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def is_code_task(task: PlanTask, response_schema: str = "") -> bool:
    """Whether a task asks for Python: it names an entry point, or its description has a Python block or a `def name(`. One that
    asks for JSON of a form (`response_schema`) does not."""
    if response_schema:
        return False
    if task.entry_point or _DEFINITION.search(task.description):
        return True
    return any(block.language in PYTHON for block in code_blocks(task.description))


def program_of(content: str, task: PlanTask) -> str:
    """The program that an answer means; empty where there is none.

    It is the answer's Python blocks, or the whole answer where that parses, or a bare function body, which is put under the
    signature in the task's description. The imports and helpers of the description stand in front. Where the task names an entry
    point, blocks after the last one that defines it (examples of its use, most often) are left out, and a program that does
    not define it is none.
    """
    wanted = task.entry_point
    given = _code_in(task.description)
    blocks = [block.text for block in code_blocks(content) if block.language in PYTHON or not block.language]
    trees = [(text, tree) for text in blocks if (tree := parsed(text)) is not None and tree.body]
    if wanted:
        last = max((at for at, (_, tree) in enumerate(trees) if wanted in _defined(tree)), default=-1)
        trees = trees[: last + 1]
    if not trees and not blocks and (tree := parsed(content)) is not None and _is_program(tree, wanted):
        trees = [(content, tree)]
    if trees:
        return _join(_helpers(given, trees), *(text for text, _ in trees))
    for text in blocks or [content]:
        if whole := _under_signature(given, text, wanted):
            return whole
    return ""


def test_cases(content: str, task: PlanTask) -> list[str]:
    """The cases in a tester's answer: each top-level `def test_…` without arguments, with a call of it, and each top-level
    assert statement, after the imports and helpers that stand before it.

    What would stand in for the code under test is left out: imports of modules that Python does not bring, and definitions of
    the task's own names.
    """
    blocks = [block.text for block in code_blocks(content) if block.language in PYTHON or not block.language]
    cases: list[str] = []
    before: list[str] = []
    own = _defined(parsed(_code_in(task.description)) or ast.Module([], [])) | {task.entry_point}
    for text in blocks or [content]:
        tree = parsed(text)
        for node in tree.body if tree else ():
            source = ast.unparse(node)
            if isinstance(node, _FUNCTIONS) and node.name.startswith("test_"):
                if isinstance(node, ast.FunctionDef) and not _needs_arguments(node):
                    cases.append(_join(*before, source, f"{node.name}()"))
            elif isinstance(node, ast.Assert):
                cases.append(_join(*before, source))
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                if _is_standard(node):
                    before.append(source)
            elif isinstance(node, (*_DEFINITIONS, ast.Assign, ast.AnnAssign)) and not _names(node) & own:
                before.append(source)
    return [case for case in cases if len(case.encode()) <= MAX_CASE_BYTES][:MAX_CASES]


def parsed(text: str) -> ast.Module | None:
    """The syntax tree of a text; None where it is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _code_in(description: str) -> str:
    """The Python of a description: its Python blocks, else what stands from the first line of code on."""
    blocks = [block.text for block in code_blocks(description) if block.language in PYTHON]
    if blocks:
        return "\n\n".join(blocks)
    begin = _CODE_BEGINS.search(description)
    return description[begin.start() :] if begin else ""


def _under_signature(given: str, body: str, wanted: str) -> str:
    """The description's code with the body under its last signature; empty where that makes no program."""
    if not given or not body.strip():
        return ""
    head = _PLACEHOLDER.sub("", given.rstrip())
    lines = body.strip("\n").rstrip().split("\n")
    if not lines[0][:1].isspace():
        # Some models leave the indentation of the first line out, others that of all lines.
        shared = not any(line[:1].isspace() for line in lines[1:] if line.strip())
        indented = ["    " + line for line in lines]
        variants = [indented] if shared else [["    " + lines[0], *lines[1:]], indented]
    else:
        variants = [lines]
    for variant in variants:
        # What follows unindented on the body is no part of it.
        end = next((at for at, line in enumerate(variant) if line.strip() and not line[:1].isspace()), len(variant))
        text = f"{head}\n" + "\n".join(variant[:end]) + "\n"
        tree = parsed(text)
        if tree is not None and tree.body and _answers(tree.body[-1], wanted):
            return text
    return ""


def _answers(function: ast.stmt, wanted: str) -> bool:
    """Whether it is the function asked for and gives something back: nearly any word makes a body that parses."""
    if not isinstance(function, _FUNCTIONS) or (wanted and function.name != wanted):
        return False
    left: list[ast.AST] = [*function.body]
    while left:
        node = left.pop()
        if isinstance(node, (ast.Return, ast.Yield, ast.YieldFrom, ast.Raise)):
            return True
        if not isinstance(node, (*_DEFINITIONS, ast.Lambda)):
            left += ast.iter_child_nodes(node)
    return False


def _helpers(given: str, trees: "list[tuple[str, ast.Module]]") -> str:
    """The imports and helpers of the description that the answer does not define itself."""
    tree = parsed(given) or parsed(given.rstrip() + "\n    pass")
    future = any(
        isinstance(node, ast.ImportFrom) and node.module == "__future__" for _, one in trees for node in one.body
    )
    if tree is None or future:  # nothing may stand before an import from the future
        return ""
    defined = {name for _, one in trees for name in _defined(one)}
    kept = []
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)) or (
            isinstance(node, (*_DEFINITIONS, ast.Assign, ast.AnnAssign)) and not _names(node) & defined
        ):
            kept.append(ast.unparse(node))
    return "\n".join(kept)


def _is_program(tree: ast.Module, wanted: str) -> bool:
    """Whether a whole answer that parses is meant as code: many a sentence of one word parses too."""
    names = _defined(tree)
    return wanted in names if wanted else bool(names)


def _defined(tree: ast.Module) -> set[str]:
    return {name for node in tree.body for name in _names(node)}


def _names(node: ast.stmt) -> set[str]:
    """The names that a statement at the top defines."""
    if isinstance(node, _DEFINITIONS):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _needs_arguments(node: ast.FunctionDef) -> bool:
    arguments = node.args
    return len(arguments.posonlyargs) + len(arguments.args) > len(arguments.defaults) or None in arguments.kw_defaults


def _is_standard(node: ast.Import | ast.ImportFrom) -> bool:
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    return all(module.split(".")[0] in sys.stdlib_module_names for module in modules)


def _join(*parts: str) -> str:
    return "\n".join(part for part in parts if part.strip()) + "\n"
