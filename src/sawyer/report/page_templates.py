"""What every page is made with: the templates, their filters, the style and its colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sawyer.report.answer_gallery import printable
from sawyer.report.wording import model_name, number, setting_name, signed
from sawyer.runs import clock, write_text
from sawyer.stats import percent

FOLDER = Path(__file__).parent
THEME = FOLDER / "theme.css"  # shared with the pages of `sawyer.web`
VERDICTS = {"ok": "ok", "warn": "warn", "fail": "fail"}


def render(template: str, **values: Any) -> str:
    """A template of this folder with the values and what every page needs: filters, style, the names of verdicts."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "percent": percent,
        "clock": clock,
        "setting": setting_name,
        "model": model_name,
        "printable": lambda text: printable(str(text))[0],
        "note": lambda text: printable(str(text))[0].replace(" -> ", " → "),
        "all_printable": lambda text: printable(str(text), len(str(text)))[0],
    }
    style = Markup(THEME.read_text(encoding="utf-8") + (FOLDER / "style.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(style=style, svg=Markup, verdicts=VERDICTS, **values)


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Render a template into a file; returns its path. Surrogates, which UTF-8 does not have, become `?`."""
    write_text(path, render(template, **values).encode("utf-8", "replace").decode("utf-8"))
    return path
