"""The pages people read, and what can be found in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = tuple(
    sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
)
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(page: str) -> str:
    """A page as it lies in the tree."""
    return (ROOT / page).read_text()


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return [body for name, body in _FENCED.findall(text_of(page)) if name == language]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return _FENCED.sub("", text_of(page))


def shell_lines(page: str) -> list[str]:
    """What a page tells people to type: indented or fenced lines, and code within a sentence."""
    text = text_of(page)
    return [
        *re.findall(r"^(?: {4}|\t)(.*)$", text, re.MULTILINE),
        *(line for block in blocks(page, "bash") for line in block.splitlines()),
        *code_in_sentences(page),
    ]


def code_in_sentences(page: str) -> list[str]:
    """What stands between single backticks, also over the end of a line."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


def anchors(page: str) -> set[str]:
    """The fragments that lead to a heading, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: str) -> list[str]:
    """The targets of links and pictures that lie in this tree."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in found if not re.match(r"[a-z]+:", target)]
