"""What the source says of a class and its fields: the comment at the end of a line, or `#:` in the one above."""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize


def field_comments(kind: type) -> dict[str, str]:
    """The comment of every annotated field of a class, and of the classes that it derives from; without those that have
    none."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if one.__module__.startswith("evoray") or one is kind:
            found |= _own(one)
    return found


def first_line(kind: type) -> str:
    """What a class says of itself first."""
    return (kind.__doc__ or "").strip().partition("\n")[0]


def _own(kind: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except (OSError, TypeError):
        return {}
    comments = {
        token.start[0]: token.string.lstrip("#: ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    above = {line + 1 for line in comments if source.splitlines()[line - 1].lstrip().startswith("#:")}
    comments |= {line: comments[line - 1] for line in above - comments.keys()}
    (body,) = ast.parse(source).body
    fields = [node for node in getattr(body, "body", ()) if isinstance(node, ast.AnnAssign)]
    return {
        node.target.id: _unwrapped(comments[line])
        for node in fields
        if isinstance(node.target, ast.Name)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        if line in comments
    }


def _unwrapped(text: str) -> str:
    """Without the remarks that are for tools."""
    return text.partition("# type:")[0].strip()
