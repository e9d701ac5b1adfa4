"""What every page is made with: the templates, their filters, the style."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sawyer.report.answer_gallery import shown
from sawyer.report.wording import VERDICTS, number, setting_name, share, signed
from sawyer.runs import clock

HERE = Path(__file__).parent


def environment() -> Any:
    """The templates with the filters that they use."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    found.filters |= {
        "number": number,
        "signed": signed,
        "share": share,
        "clock": clock,
        "setting": setting_name,
        "said": lambda text: shown(str(text))[0],
        "note": lambda text: shown(str(text))[0].replace(" -> ", " → "),
        "said_all": lambda text: shown(str(text), len(str(text)))[0],
    }
    return found


def styled() -> dict[str, Any]:
    """What every page needs: its style, what may stand in it unescaped, the names of verdicts."""
    from markupsafe import Markup

    return {"style": Markup((HERE / "style.css").read_text(encoding="utf-8")), "svg": Markup, "verdicts": VERDICTS}
