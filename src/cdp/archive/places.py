"""From a URL to the store that it names."""
from __future__ import annotations

import re

from cdp.archive.folder import FolderStore
from cdp.archive.objects import ObjectStore
from cdp.text.paths import checked
from cdpcore.base.errors import InvalidRequest

SCHEMES = ("file", "s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl")
_URL = re.compile(r"([a-z][a-z0-9+]*)://(.*)", re.DOTALL)


def is_url(text: str) -> bool:
    """Whether a word of the command line names an archive, and no folder."""
    found = _URL.match(text)
    return found is not None and found[1] in SCHEMES


def store_at(url: str) -> ObjectStore:
    """Nothing is asked yet. Raises InvalidRequest; ModuleNotFoundError without obstore, which a file:// does not
    need."""
    found = _URL.fullmatch(url)
    if found is None or found[1] not in SCHEMES:
        raise InvalidRequest(f"{url}: is no URL of an archive", "write s3://BUCKET/FOLDER or file:///FOLDER")
    scheme, rest = found[1], found[2].rstrip("/")
    if scheme == "file":
        if not rest.startswith("/"):
            raise InvalidRequest(f"{url}: the path of a folder begins with a slash", f"write file:///{rest}")
        return FolderStore(checked(rest))
    if not rest.partition("/")[2]:
        raise InvalidRequest(f"{url}: an archive has a folder of its own in the bucket",
                             f"write {scheme}://{rest}/NAME")
    from cdp.archive.remote import RemoteStore

    return RemoteStore(f"{scheme}://{rest}")
