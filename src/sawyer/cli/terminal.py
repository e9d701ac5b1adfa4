"""The console that all output goes through."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from sawyer.cli.streams import SafeStream, visible


class Terminal(Console):
    """A console that reads no text as markup and prints no control characters but its own. Writing to it never fails."""

    def __init__(self, stream: SafeStream, **more: Any) -> None:
        super().__init__(file=cast(IO[str], stream), highlight=False, markup=False, emoji=False, **more)
        self.stream = stream

    def render_str(self, text: str, **more: Any) -> Text:
        """Rich's text of a string, escaped first so that its measured width is the printed one."""
        return super().render_str(visible(text), **more)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Rich's segments, with control characters in texts escaped."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
