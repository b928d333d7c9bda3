"""TypedDict as pydantic can read it."""
import sys

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:  # pydantic cannot read the field types of the older one
    from typing_extensions import TypedDict

__all__ = ["TypedDict"]
