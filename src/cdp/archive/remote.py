"""An archive in object storage (s3://, gs://, az://), through obstore.

Credentials, region and endpoint come from the environment that every tool for that storage reads (AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL ...). obstore repeats requests that fail by itself, so every answer to a condition may be about an
earlier copy of the same request: cdp.archive.conditional decides.
"""
from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import obstore
from obstore import exceptions
from obstore.store import from_url

from cdp.archive.objects import Conflict
from cdpcore.base.errors import CdpError, InvalidRequest, NotFound, Unavailable

TIME_OUT = timedelta(seconds=60)        # of a request, which is at most a part of 8 MiB
REPEAT_FOR = timedelta(seconds=120)


class RemoteStore:
    """Args: url: of a bucket and a folder in it. Raises InvalidRequest."""

    def __init__(self, url: str):
        self.url = url
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        options: dict[str, Any] = {"timeout": TIME_OUT}
        if endpoint.startswith("http://"):      # the endpoint says so itself
            options["allow_http"] = True
        try:
            make: Any = from_url      # of its overloads none has all of these
            self._store: Any = make(url, client_options=options,
                                    retry_config={"max_retries": 8, "retry_timeout": REPEAT_FOR})
        except (exceptions.BaseError, ValueError, TypeError) as error:
            raise InvalidRequest(f"{url}: {_first_line(error)}", "write s3://BUCKET/FOLDER, and set the environment of "
                                 "its tools") from None

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes | None:
        try:
            if length is not None:
                return bytes(obstore.get_range(self._store, name, start=offset, length=length)) if length else b""
            return bytes(obstore.get(self._store, name).bytes())[offset:]
        except (FileNotFoundError, exceptions.NotFoundError):
            return None
        except exceptions.BaseError as error:
            raise self._failed(error, name) from None

    def tagged(self, name: str) -> tuple[bytes, str] | None:
        try:
            found = obstore.get(self._store, name)
            data = bytes(found.bytes())
        except (FileNotFoundError, exceptions.NotFoundError):
            return None
        except exceptions.BaseError as error:
            raise self._failed(error, name) from None
        tag = found.meta["e_tag"]
        if not tag:
            raise Unavailable(f"{self.url}: says no ETag of {name}", "an archive needs a store with ETags")
        return data, tag

    def create(self, name: str, data: bytes) -> None:
        self._put(name, data, "create")

    def replace(self, name: str, data: bytes, tag: str) -> None:
        try:
            self._put(name, data, {"e_tag": tag})
        except Conflict:
            if tag == tag.strip('"'):
                raise
            # radosgw compares If-Match with the ETag without its quotes. Both name the same content, so the second
            # request cannot replace what the first may not.
            self._put(name, data, {"e_tag": tag.strip('"')})

    def _put(self, name: str, data: bytes, mode: Any) -> None:
        try:
            obstore.put(self._store, name, data, mode=mode, use_multipart=False)    # multipart knows no conditions
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError, FileExistsError):
            raise Conflict(f"{self.url}: {name} exists, or was changed", "read it") from None
        except (FileNotFoundError, exceptions.NotFoundError) as error:
            if mode == "create":
                raise self._failed(error, name) from None
            raise Conflict(f"{self.url}: {name} is not there", "read it") from None
        except (exceptions.NotSupportedError, NotImplementedError):
            raise Unavailable(f"{self.url}: this store has no conditional requests",
                              "an archive needs a store with If-None-Match and If-Match") from None
        except exceptions.BaseError as error:
            raise self._failed(error, name) from None

    def names(self, folder: str) -> Iterator[str]:
        try:
            for page in obstore.list(self._store, prefix=folder):
                for entry in page:
                    yield entry["path"]
        except (FileNotFoundError, exceptions.NotFoundError):
            return
        except exceptions.BaseError as error:
            raise self._failed(error, folder) from None

    def delete(self, name: str) -> None:
        try:
            obstore.delete(self._store, name)
        except (FileNotFoundError, exceptions.NotFoundError):
            return
        except exceptions.BaseError as error:
            raise self._failed(error, name) from None

    def _failed(self, error: Exception, name: str) -> CdpError:
        said = dict(_SAID.findall(str(error)))
        if said.get("Code") == "NoSuchBucket":
            return NotFound(f"{self.url}: there is no such bucket", "create it first")
        hint = "see whether it is there and reachable, and what the environment says of keys, region and endpoint"
        what = f"{said['Code']}: {said.get('Message', '')}" if "Code" in said else _first_line(error)
        return Unavailable(f"{self.url}: {name}: {what}", hint)


_SAID = re.compile(r"<(Code|Message)>([^<]{1,200})</")      # what a store says of an error


def _first_line(error: Exception) -> str:
    """obstore's errors go on with pages of detail."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
