"""HTML pages from the package's templates: one file each, which loads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ddm.files import write_text


def write_page(template: str, output: Path, **values: Any) -> Path:
    """Fill a template and write the page.

    Args:
        template: its name in the package's ``templates``.
        output: the file to write.
        values: what the template names; each must be given.

    Returns:
        The file written.
    """
    environment = Environment(
        loader=PackageLoader("ddm", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(**values)
    write_text(output, page)
    return output
