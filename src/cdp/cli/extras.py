"""What is installed only with an extra of pyproject.toml, and the one line that a command says without it."""
from importlib.util import find_spec

from cdpcore.base.errors import Unavailable

EXTRA_OF = {"matplotlib": "replay", "pyarrow": "arrow", "polars": "replay", "zstandard": "replay", "obstore": "archive"}
NEEDED_FOR = {"matplotlib": "a picture", "pyarrow": "Arrow or Parquet", "polars": "a block trace",
              "zstandard": "a block trace", "obstore": "an archive in object storage"}


def missing(package: str) -> Unavailable:
    """The error of a command that needs a package of EXTRA_OF which is not there."""
    return Unavailable(f"{NEEDED_FOR[package]} needs the Python package {package}, which is not installed",
                       f"pip install 'cdp[{EXTRA_OF[package]}]'")


def require(package: str) -> None:
    """Before work that would be lost without the package. Raises Unavailable."""
    try:
        there = find_spec(package) is not None
    except ModuleNotFoundError:
        there = False
    if not there:
        raise missing(package)
