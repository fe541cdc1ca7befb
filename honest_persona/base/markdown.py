"""Texts and names of data within Markdown: nothing of them is markup, a link, or the end of a cell."""

import re

from honest_persona.base import json_text
from honest_persona.base.console import one_line


def cell(text: object) -> str:
    """Text without markup and links, which stays in its cell and line."""
    words = " ".join(one_line(" ".join(str(text).split())).split())
    escaped = re.sub(r"([\\`*_\[\]()#!|~{}])", r"\\\1", words.replace("&", "&amp;").replace("<", "&lt;"))
    return re.sub(r"(?i)(://|www\.|@)", lambda found: f"&#{ord(found[0][-1])};".join([found[0][:-1], ""]), escaped)


def in_code(text: object) -> str:
    """A name from data in code type, in which nothing is markup."""
    line = one_line(text)
    longest = max(map(len, re.findall("`+", line)), default=0)
    room = " " if line[:1] in ("`", " ") or line[-1:] in ("`", " ") or not line else ""
    return f"{'`' * (longest + 1)}{room}{line}{room}{'`' * (longest + 1)}".replace("|", "\\|")


def code(text: str) -> str:
    """Text in code type, with visible spaces and line ends."""
    return in_code(json_text.dumps(text, ensure_ascii=False))
