"""How a page is written: templates of Jinja2 with all styles, scripts and pictures inside."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from zskd.config.registry import CONTROLS
from zskd.core.energy import readable_joules
from zskd.core.files import write_text
from zskd.core.progress import readable_seconds
from zskd.evaluation.statistics import Share
from zskd.report.charts import matrix_of, scale_of
from zskd.run.summary import energy_words


def write_page(template: str, path: Path, **values: object) -> Path:
    """Write a page and return its path.

    Args:
        template: file in templates/.
        path: of the page; replaced as a whole.
        values: for the template. Texts are escaped.

    Raises:
        ZskdError: the file cannot be written.
    """
    write_text(path, _environment().get_template(template).render(values) + "\n")
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("zskd.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "style": _embedded("style.css"),
        "script": _embedded("page.js"),
        "scale_of": scale_of,
        "matrix_of": matrix_of,
        "energy_words": energy_words,
        "controls": tuple(CONTROLS),
    }
    environment.filters |= {
        "thousands": lambda value: f"{value:,}",
        "percent": lambda value: f"{value:.2f}",
        "interval": _interval,
        "duration": readable_seconds,
        "energy": readable_joules,
        "tick": lambda value: f"{value:g}",
    }
    return environment


def _embedded(name: str) -> Markup:
    """Return a file of the package that is a part of every page."""
    return Markup((files("zskd.report") / "templates" / name).read_text(encoding="utf-8"))


def _interval(share: Share) -> str:
    return f"{share.low:.2f} to {share.high:.2f}"
