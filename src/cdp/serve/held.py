"""What the administration API is given of each served volume."""
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from cdp.serve.image_cache import ImageCache
from cdp.service.local import VolumeService
from cdp.views import ClientView

Memory = Callable[[], Mapping[str, int]]
"""What the NBD clients of a server share: cdp.nbd.server.NbdServer.memory."""


@dataclass(frozen=True)
class Held:
    """A served volume, what is open of its images, the identity of its folder (cdp.service.locate.identity), and by
    the name of an export its URIs and its NBD clients."""

    service: VolumeService
    image_cache: ImageCache
    identity: str
    uris: Callable[[str], list[str]]
    clients: Callable[[str], list[ClientView]] = lambda name: []


class Services(Mapping[str, VolumeService]):
    """The services of what is held, which may become more meanwhile."""

    def __init__(self, held: Mapping[str, Held]):
        self._held = held

    def __getitem__(self, name: str) -> VolumeService:
        return self._held[name].service

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._held))

    def __len__(self) -> int:
        return len(self._held)
