"""A picture that matplotlib drew, written to a file."""
from __future__ import annotations

from typing import Any

from cdpcore.base.errors import InvalidRequest, Unavailable

DOTS_PER_INCH = 110


def save(figure: Any, path: str) -> None:
    """Writes it; the suffix says the format: .png, .svg, .pdf. Raises InvalidRequest, Unavailable."""
    try:
        figure.savefig(path, dpi=DOTS_PER_INCH)
    except ValueError as error:
        raise InvalidRequest(f"{path}: {' '.join(str(error).split())}", "name it .png, .svg or .pdf") from None
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}", "choose another place") from None
