"""The one door through which words reach a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from sawyer.cli.streams import Steady, visible


class Terminal(Console):
    """A console to which no text is markup, and whose control characters are its own alone. Writing to it never fails."""

    def __init__(self, stream: Steady, **more: Any) -> None:
        super().__init__(file=cast(IO[str], stream), highlight=False, markup=False, emoji=False, **more)
        self.stream = stream

    def render_str(self, text: str, **more: Any) -> Text:
        """As rich makes a text of a string, which is then measured as it will be shown."""
        return super().render_str(visible(text), **more)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich renders, with what could steer the terminal spelt out."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
