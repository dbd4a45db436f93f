"""The Python blocks of a Markdown text, with the line each one starts on."""

import re
from typing import NamedTuple

FENCE = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
# In the line above a block, with a reason.
NOT_RUN = re.compile(r"<!-- not run: \S.* -->\s*\Z")


class Block(NamedTuple):
    """One fenced block of Python."""

    code: str
    line: int  # of the file, where `code` starts


def python_blocks(text: str) -> list[Block]:
    """List the blocks fenced as `python` that are not exempted by `<!-- not run: reason -->` right above them."""
    return [
        Block(fence["code"], text.count("\n", 0, fence.start("code")) + 1)
        for fence in FENCE.finditer(text)
        if fence["language"] == "python" and not NOT_RUN.search(text[: fence.start()])
    ]


def run(blocks: list[Block], filename: str) -> None:
    """Execute the blocks in order in one namespace; a traceback shows lines of `filename`."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        exec(compile("\n" * (block.line - 1) + block.code, filename, "exec"), namespace)
