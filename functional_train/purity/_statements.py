"""The statements in the body of a running `with`, by the lines that they stand on."""

import ast
import io
import linecache
import tokenize
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import NamedTuple

from functional_train.values.errors import StructureError

_Node = ast.stmt | ast.excepthandler | ast.match_case


class Statement(NamedTuple):
    """One statement; of a statement with a body, its head."""

    line: int
    source: str  # its first line


class Body(NamedTuple):
    """What stands in a `with` statement.

    Attributes:
        statements: By line. Statements that begin on a line where another one ends belong to that one.
        beside: What stands on the line of the `with` itself.
    """

    statements: dict[int, Statement]
    beside: Statement | None


def body_of(frame: FrameType) -> Body:
    """Find the `with` statement whose head a frame is at, and the statements in it."""
    file, line = frame.f_code.co_filename, frame.f_lineno
    # Notebooks and doctests put their source there too.
    source = linecache.getlines(file, frame.f_globals)
    if not source:
        raise StructureError(
            f"lines() finds no source of its body in {file!r}, as it needs to tell its statements apart. "
            'Name them yourself: with effects.phase("loss.backward()").'
        )
    tree = compile("".join(source), file, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    heads = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.With | ast.AsyncWith) and node.lineno <= line <= _end_of_head(node)
    ]
    if not heads:
        raise StructureError(
            f"lines() is called in {file}:{line}, which is not the head of a `with` statement as far as its source "
            'says. Write `with effects.lines():`, or name the phases yourself: with effects.phase("loss.backward()").'
        )
    head = max(heads, key=lambda node: node.lineno)
    end = _end_of_head(head)
    first = head.body[0]
    beside = Statement(first.lineno, _source(first, source)) if first.lineno <= end else None
    statements: dict[int, Statement] = {}
    _add(statements, head.body, end, source)
    return Body(statements, beside)


def _add(statements: dict[int, Statement], nodes: Iterable[_Node], end: int, source: list[str]) -> int:
    """Enter nodes and what stands in them; lines up to `end` are taken. Returns the last line that is taken then."""
    for node in nodes:
        first = _first_line(node)
        statement = Statement(first, _source(node, source))
        inner = list(_inner(node))
        last = _end_of_head(node)
        if not inner and not isinstance(node, ast.match_case):
            last = node.end_lineno or last
        for line in range(max(first, end + 1), last + 1):
            statements[line] = statement
        end = _add(statements, inner, max(end, last), source)
    return end


def _inner(node: _Node) -> Iterator[_Node]:
    """What stands in a statement and runs in the same frame."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Node):
            yield child


def _first_line(node: _Node) -> int:
    if isinstance(node, ast.match_case):
        return node.pattern.lineno
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *[decorator.lineno for decorator in decorators]])


def _end_of_head(node: _Node) -> int:
    parts = [child for child in ast.iter_child_nodes(node) if not isinstance(child, _Node)]
    ends = [getattr(inner, "end_lineno", 0) for part in parts for inner in ast.walk(part)]
    return max([_first_line(node), *ends])


def _source(node: _Node, source: list[str]) -> str:
    """The first line of a statement, without what stands before it and without a comment."""
    text = source[_first_line(node) - 1]
    if not isinstance(node, ast.match_case) and node.lineno == _first_line(node):
        text = text.encode()[node.col_offset :].decode()
    try:
        for token in tokenize.generate_tokens(io.StringIO(text.strip()).readline):
            if token.type == tokenize.COMMENT:
                return token.line[: token.start[1]].strip()
    except tokenize.TokenError:  # the statement goes on in the next line
        pass
    return text.strip()
