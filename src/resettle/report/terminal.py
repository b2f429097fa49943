"""Text for a terminal: whatever a name or a value holds, it is shown and never obeyed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from rich import markup
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f"
_UNSEEN = r"\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
_ODD = re.compile(rf"[{_CONTROLS}{_UNSEEN}\ud800-\udfff]")
"""Controls of the terminal, of the writing's direction, what has no width, and halves of pairs."""


def visible(text: str) -> str:
    """The text with every such character as its escape, as in `\\x1b`; tabs and line feeds stay."""
    return _ODD.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def escape(text: str) -> str:
    """A name or a value within rich's markup: on one line, nothing in it is obeyed."""
    return markup.escape(visible(text).replace("\n", "\\n").replace("\t", "\\t"))


PIPED = 200
"""Characters of a line that goes to no terminal: rich takes 80, and breaks the columns of tables."""


class Terminal(Console):
    """A console that shows control characters instead of sending them; its own it sends."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, soft_wrap=True, emoji=False)
        if not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = PIPED

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
