"""The names of the files in a volume's folder: their one home.

    VOLUME/
      volume.json    size, identity, where the base is
      lock           held while a process has the volume open
      catalog.lmdb   what it consists of (rebuildable)
      reserve        becomes a small segment where a full device has no space for one, for bookmarks, restores and undo
      spare.N        empty files, which give way to others where no file can be made
      base.img       content at the beginning of history (sparse; absent where all holes)
      base.sums      the checksums of its blocks
      disk.state     of before-images instead: up to which record the disk, which lies elsewhere, holds everything
      disk.json      ... and how it looked when the volume was closed
      disk.sums      ... the checksums of its blocks
      disk.adopting  ... while an adoption that keeps the history is not complete
      log/N.log      segments; N.sums: checksums of one that was sealed without
      runs/N.run     their index
      activity/L.cells  what was done, by time and place (rebuildable)
      images/NAME/   writable images: volumes whose base is this volume at a point
      serving.json   which server has the volume open
      capture.json   how far a capture into this volume has come
      retention.json the retention policy, and what ages are counted by
      scrub.json     how far the scrub has come, and what it found
      copies.json    when a backup and an archive were last brought up to date
      thinned.json   which moments of the middle of its history can be opened
      standby.json   of a copy that follows a volume on another host: what it follows; of that volume: who follows it
      standby.lock   ... held while a process keeps the copy up to date
      log/N.part     ... a segment of the copy that is not complete

docs/format.md says what is in them. Nothing is imported here, and no file is looked at: the command line asks for these
names before it needs the engine.
"""
from __future__ import annotations

CREATING = ".creating"      # behind the name of a folder or file that is not complete
DELETED = ".deleted"        # behind the name of an image whose files are being removed
IMAGES = "images"
SPARES = 4


class VolumeFiles:
    """The paths of the files of the volume in `directory`."""

    def __init__(self, directory: str):
        self.directory = directory
        self.description = f"{directory}/volume.json"
        self.lock = f"{directory}/lock"
        self.catalog = f"{directory}/catalog.lmdb"
        self.catalog_rebuilding = f"{self.catalog}.new"
        self.catalog_replaced = f"{self.catalog}.old"
        self.reserve = f"{directory}/reserve"
        self.base = f"{directory}/base.img"
        self.base_creating = f"{self.base}{CREATING}"
        self.base_sums = f"{directory}/base.sums"
        self.base_sums_creating = f"{self.base_sums}{CREATING}"
        self.disk_state = f"{directory}/disk.state"
        self.disk_description = f"{directory}/disk.json"
        self.disk_sums = f"{directory}/disk.sums"
        self.disk_adopting = f"{directory}/disk.adopting"
        self.log = f"{directory}/log"
        self.runs = f"{directory}/runs"
        self.activities = f"{directory}/activity"
        self.images = f"{directory}/{IMAGES}"
        self.serving = f"{directory}/serving.json"
        self.capture = f"{directory}/capture.json"
        self.retention = f"{directory}/retention.json"
        self.scrub = f"{directory}/scrub.json"
        self.copies = f"{directory}/copies.json"
        self.thinned = f"{directory}/thinned.json"
        self.standby = f"{directory}/standby.json"
        self.standby_lock = f"{directory}/standby.lock"

    def spares(self) -> list[str]:
        return [f"{self.directory}/spare.{number}" for number in range(SPARES)]

    def is_own(self, name: str) -> bool:
        """Whether a file of this name in the folder is the volume's, or a leftover of an interrupted operation."""
        stem = name
        for ending in (".tmp", ".new", ".old", CREATING):
            stem = stem.removesuffix(ending)
        own = [path.rpartition("/")[2] for path in (
            self.description, self.lock, self.catalog, self.reserve, self.base, self.base_sums, self.disk_state,
            self.disk_description, self.disk_sums, self.disk_adopting, self.log, self.runs, self.activities,
            self.images, self.serving, self.capture, self.retention, self.scrub, self.copies, self.thinned,
            self.standby, self.standby_lock, *self.spares())]
        return stem in own or name == "spare.tmp"

    def segment(self, number: int) -> str:
        return f"{self.log}/{number:010d}.log"

    def segment_part(self, number: int) -> str:
        """Of a standby: the beginning of a segment."""
        return f"{self.log}/{number:010d}.part"

    def segment_sums(self, number: int) -> str:
        """The checksums of the blocks of a segment that was sealed without them."""
        return f"{self.log}/{number:010d}.sums"

    def run(self, run_id: int) -> str:
        return f"{self.runs}/{run_id:010d}.run"

    def activity(self, level: int) -> str:
        """The summaries of 16 ** level segments each."""
        return f"{self.activities}/{level}.cells"

    def image(self, name: str) -> str:
        return f"{self.images}/{name}"


def is_complete(name: str) -> bool:
    """Whether the name of a folder is not that of an image that is being made or deleted."""
    return not name.endswith((CREATING, DELETED))
