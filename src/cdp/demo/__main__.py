"""`python -m cdp.demo` (make demo): the main job on real input, from protecting a disk to taking a restore back.

Everything happens in one temporary folder, as the user who runs it, with the same commands that a user types; what a
command claims is then checked against a model that this file keeps of every byte it wrote. Exit status: 0, all claims
were true; 1, one was false or a step failed; 130, interrupted.

Clients: the disk goes in and out through nbdcopy or qemu-img where one is installed; single writes, and everything
where neither is, through cdp.nbd.client. One thread; the server is a process of its own.
"""
from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, cast

import click

from cdp.cli.progress import Progress
from cdp.demo.disk import Ext4Disk, TarDisk, choose, real_files, sum_of
from cdp.demo.narrator import Failed, Teller, cdp_command, listing
from cdp.demo.server import Server
from cdp.nbd.client import Client
from cdp.service.connect import connect
from cdpcore.base.errors import CdpError

MIB = 1 << 20
BLOCK_BYTES = 4096
PIECE_BYTES = MIB
SAVES = 3
OPENINGS = 100


@dataclass(frozen=True)
class Scale:
    """How much of everything. `room_bytes`: free space for copies of the disk and the log's preallocated files."""

    disk_bytes: int = 96 * MIB
    files_bytes: int = 48 * MIB
    garbage_bytes: int = 24 * MIB
    moments: int = 12
    room_bytes: int = 1024 * MIB


QUICK = Scale(24 * MIB, 8 * MIB, 4 * MIB, 6, 512 * MIB)


class Model:
    """What the disk must hold: its first content, and every write after that in the order it was sent."""

    def __init__(self, first: bytes):
        self._first = first
        self.writes: list[tuple[int, bytes]] = []

    def content(self, count: int | None = None) -> bytearray:
        """After the first `count` writes; None: after all."""
        disk = bytearray(self._first)
        for offset, data in self.writes[:count]:
            disk[offset : offset + len(data)] = data
        return disk


class Demo:
    """The story, one method a step; what a step learns is kept for the next ones."""

    STEPS = 12

    def __init__(self, teller: Teller, scale: Scale):
        self.tell, self.scale, self.disk_bytes = teller, scale, scale.disk_bytes
        self.directory = Path(teller.directory)
        self.disk = choose(teller, self.directory, scale.disk_bytes)
        self.server = Server(teller)
        self.copier = next((name for name in ("nbdcopy", "qemu-img") if teller.has(name)), None)
        self.work = self.directory / "work.img"  # the disk as its user has it
        self.random = random.Random(20261123)

    def run(self) -> None:
        self.prepare()
        self.protect()
        self.work_on()
        self.disaster()
        self.find()
        self.open()
        self.try_out()
        self.restore()
        self.undo()
        self.every_moment()
        self.pull_the_plug()
        self.finish()

    # --- the steps ---------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        self.tell.step("A disk with real files")
        files = real_files(self.scale.files_bytes)
        if not files:
            raise Failed("Python's own library has no files here, and the demo fills its disk with them")
        self.disk.make(self.work, files)
        self.sums = {inside: sum_of(path) for inside, path in files}
        self.tell.say(f"{self.disk_bytes // MIB} MiB, {_article(self.disk.what)} with {len(files)} files of Python's "
                      "own library.")
        missing = [name for name in Ext4Disk.tools if not self.tell.has(name)]
        if isinstance(self.disk, TarDisk):
            self.tell.say(f"(a real ext4 file system needs e2fsprogs; not found here: {listing(missing)})")
        self.check_disk(self.work, "the new disk")

    def protect(self) -> None:
        self.tell.step("Protect it", "From now on every write is kept.")
        self.tell.cdp("create", "web", "--size", f"{self.disk_bytes // MIB}M")
        click.secho("  $ cdp serve web --unix web.sock &", fg="cyan")
        self.uri = self.server.start()
        click.echo(f"    {self.uri}")
        began_s = time.monotonic()
        if self.copier == "nbdcopy":
            self.shown("nbdcopy", "--flush", "work.img", self.uri)
        elif self.copier == "qemu-img":
            self.shown("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "work.img", self.uri)
        else:
            self.tell.say("(nbdcopy and qemu-img are not installed: the demo's own NBD client copies the disk)")
            self.send_all(self.work)
        self.tell.say(f"copied over NBD in {time.monotonic() - began_s:.2f} s")
        self.model = Model(self.work.read_bytes())
        self.begin = self.newest()
        self.claim_export("web", self.model.content(), "the volume holds the disk")

    def work_on(self) -> None:
        self.tell.step("A day's work", f"{SAVES} files are saved; each reaches the volume as writes and a flush.")
        report = self.directory / "report.txt"
        with self.server.client("web") as client:
            for number in range(1, SAVES + 1):
                report.write_text("".join(f"{line}: what was done in hour {number}\n" for line in range(2000 * number)))
                inside = f"report-{number}.txt"
                self.disk.add(self.work, inside, report)
                self.sums[inside] = sum_of(report)
                writes, sent_bytes = self.send_changes(client)
                self.tell.say(f"saved {inside}: {writes} writes, {sent_bytes >> 10} KiB")
        # A time of whole seconds that a person could have looked at a clock for; all was well then.
        moment_s = int(time.time()) + 1
        time.sleep(max(0.0, moment_s + 0.05 - time.time()))
        self.when = f"{datetime.fromtimestamp(moment_s, UTC):%Y-%m-%dT%H:%M:%SZ}"
        self.good = len(self.model.writes)
        self.good_seq = self.newest()
        self.check_disk(self.work, "the disk")
        self.tell.say(f"All is well at {self.when}.")

    def disaster(self) -> None:
        gone = sorted(self.sums)[len(self.sums) // 4 : len(self.sums) // 2]
        garbage_bytes = self.scale.garbage_bytes
        self.tell.step("Disaster", f"{len(gone)} files are deleted; then {garbage_bytes // MIB} MiB of garbage go over "
                       f"the {self.disk.what}.")
        self.disk.delete(self.work, gone)
        with self.server.client("web") as client, Progress("writing garbage", garbage_bytes) as progress:
            writes, _ = self.send_changes(client)
            self.tell.say(f"{writes} writes deleted the files")
            for offset in range(0, garbage_bytes, 64 << 10):
                self.send(client, offset, self.random.randbytes(64 << 10))
                progress.at(offset)
            client.flush()
        self.ruined = len(self.model.writes)
        content = self.model.content()
        self.work.write_bytes(content)
        self.claim_export("web", content, "the volume holds the garbage")
        fault = self.disk.fault(self.work)
        self.tell.claim(f"the {self.disk.what} is gone ({fault})", bool(fault))

    def find(self) -> None:
        self.tell.step("Find the moment",
                       "Which moments are there, what happened after the last good one, and what would be opened?")
        self.tell.cdp("window", "web")
        self.tell.cdp("records", "web", "--since", self.when, "--limit", "5")
        self.tell.cdp("explain", f"web@{self.when}")
        explained = self.json("explain", f"web@{self.when}")
        self.tell.claim(f"{self.when} means record #{self.good_seq}, the last before the disaster, and it was flushed",
                        explained["resolved"]["seq"] == self.good_seq and explained["flush_durable"])

    def open(self) -> None:
        self.tell.step("Open it", f"web@{self.when} is an export like any other: read-only, nothing is copied.")
        good = self.model.content(self.good)
        export = f"web@{self.when}"
        uri = self.uri.replace("///web", f"///{export}")
        found = self.directory / "found.img"
        if self.copier == "nbdcopy":
            self.shown("nbdcopy", uri, found.name)
        elif self.copier == "qemu-img":
            self.shown("qemu-img", "convert", "-f", "raw", "-O", "raw", uri, found.name)
        else:
            found.write_bytes(b"".join(self.pieces(export)))
        self.tell.claim(f"read over NBD, the moment has the checksum of the lost disk, {short(good)}",
                        sum_of(found) == sha256(good))
        self.check_disk(found, "the moment")
        found.unlink()
        self.tell.cdp("export", export, "found.img")
        self.tell.claim("exported to a file, too", sum_of(found) == sha256(good))
        found.unlink()
        times_ms = []
        newest = self.newest()
        for _ in range(OPENINGS):
            seq = self.random.randint(self.begin, newest)
            began_s = time.perf_counter()
            with self.server.client(f"web@#{seq}") as client:
                client.pread(BLOCK_BYTES, 0)
                times_ms.append((time.perf_counter() - began_s) * 1000)
        self.tell.say(f"{OPENINGS} random moments: connect, open, read the first block: {_times(times_ms)}")

    def try_out(self) -> None:
        self.tell.step("Try it out", "A writable image of the moment: whatever is written to it, the volume and its "
                       "past stay as they are.")
        good = self.model.content(self.good)
        self.tell.cdp("image", "create", f"web@{self.when}", "trial")
        note = b"tried on the image, not on the volume".ljust(BLOCK_BYTES)
        with self.server.client("web/trial") as client:
            client.pwrite(note, BLOCK_BYTES)
            client.flush()
        tried = bytearray(good)
        tried[BLOCK_BYTES : 2 * BLOCK_BYTES] = note
        self.claim_export("web/trial", tried, "the image holds the moment and what was written to it")
        self.claim_export(f"web@{self.when}", good, "the moment itself is unchanged")
        self.claim_export("web", self.model.content(), "the volume is unchanged")
        self.tell.cdp("image", "delete", "web", "trial")

    def restore(self) -> None:
        self.tell.step("Put the volume back", "In service: a client stays connected and reads on.")
        good = self.model.content(self.good)
        with self.server.client("web") as client:
            before = client.pread(MIB, 0)
            self.tell.cdp("restore", f"web@{self.when}", "--force")
            after = client.pread(MIB, 0)
        self.tell.claim("the connected client saw garbage before and the file system after",
                        before == self.model.content()[:MIB] and after == good[:MIB])
        self.claim_export("web", good, "the volume is the disk of before the disaster")
        found = self.directory / "found.img"
        self.tell.quiet(*cdp_command("export", "web", "found.img"))
        self.check_disk(found, "the volume")
        found.unlink()

    def undo(self) -> None:
        self.tell.step("Take it back, and put it back again", "A restore is a record too: nothing was lost by it.")
        good, ruined = self.model.content(self.good), self.model.content(self.ruined)
        self.tell.cdp("undo", "web")
        self.claim_export("web", ruined, "the garbage is back")
        times_ms = []
        with connect(str(self.directory / "web")) as service:
            for turn in range(11):
                began_s = time.perf_counter()
                if turn % 2:
                    service.undo()
                else:
                    service.restore(f"#{self.good_seq}")
                times_ms.append((time.perf_counter() - began_s) * 1000)
        self.claim_export("web", good, "and now the good disk is")
        self.tell.say(f"11 more restores and undos of {self.disk_bytes // MIB} MiB, each durable: {_times(times_ms)}")

    def every_moment(self) -> None:
        self.tell.step("Any other moment", f"{self.scale.moments} moments by chance, each against the demo's own "
                       "record of what it wrote.")
        written = [(record["seq"], record["offset"], record["length"]) for record in self.writes_since(self.begin)]
        sent = [(offset, len(data)) for offset, data in self.model.writes]
        self.tell.claim(f"the history lists exactly the {len(sent)} writes that were sent since the copy, in order",
                        [(offset, length) for _, offset, length in written] == sent)
        seqs = sorted(self.random.sample(range(self.begin, written[-1][0]), self.scale.moments))
        wrong = []
        with Progress("reading moments", len(seqs)) as progress:
            for number, seq in enumerate(seqs):
                expected = self.model.content(sum(1 for one, _, _ in written if one <= seq))
                if hashlib.sha256(b"".join(self.pieces(f"web@#{seq}"))).hexdigest() != sha256(expected):
                    wrong.append(f"#{seq}")
                progress.at(number + 1)
        right = len(seqs) - len(wrong)
        self.tell.claim(f"{right} of {len(seqs)} moments between #{seqs[0]} and #{seqs[-1]} are right to the byte",
                        not wrong)

    def pull_the_plug(self) -> None:
        self.tell.step("Crash", "The server is killed (SIGKILL) in the middle of writes.")
        base = self.newest()
        content = self.model.content(self.good)
        sent: list[tuple[int, bytes]] = []
        flushed = 0
        client = self.server.client("web")
        with client:
            for number in range(400):
                offset = self.random.randrange(self.disk_bytes // BLOCK_BYTES) * BLOCK_BYTES
                data = self.random.randbytes(BLOCK_BYTES)
                client.pwrite(data, offset)
                sent.append((offset, data))
                if number == 250:
                    client.flush()
                    flushed = len(sent)
            self.server.kill()
        began_s = time.monotonic()
        self.server.start()
        self.tell.say(f"serving again {time.monotonic() - began_s:.2f} s after its start")
        kept = self.writes_since(base)
        for offset, data in sent[: len(kept)]:
            content[offset : offset + len(data)] = data
        self.tell.claim(f"of {len(sent)} writes the first {len(kept)} are there; {flushed} had been flushed",
                        flushed <= len(kept) <= len(sent))
        self.claim_export("web", content, "the volume holds exactly those, in order, and nothing else")
        self.claim_export(f"web@{self.when}", self.model.content(self.good), "the past is untouched")

    def finish(self) -> None:
        self.tell.step("Stop, and check every checksum on disk")
        self.tell.claim("the server stopped cleanly", self.server.stop() == 0)
        self.tell.cdp("check", "web")
        checked = self.json("check", "web")
        everything = self.scale.garbage_bytes + sum(len(data) for _, data in self.model.writes[: self.good])
        self.tell.claim("the check read the whole log and found no fault",
                        checked["ok"] and checked["bytes_read"] > everything)

    # --- their tools -------------------------------------------------------------------------------------------------

    def shown(self, *argv: str) -> None:
        """Run a tool and show the command."""
        click.secho(f"  $ {' '.join(repr(arg) if '?' in arg else arg for arg in argv)}", fg="cyan")
        self.tell.quiet(*argv)

    def json(self, *args: str) -> dict[str, Any]:
        return cast(dict[str, Any], json.loads(self.tell.quiet(*cdp_command(*args, "--json")).stdout))

    def writes_since(self, since_seq: int) -> list[dict[str, Any]]:
        """The writes after a record, as `cdp records` lists them."""
        done = self.tell.quiet(*cdp_command("records", "web", "--since", f"#{since_seq}", "--limit", "0", "--json"))
        return [record for record in map(json.loads, done.stdout.splitlines()) if record["kind"] == "write"]

    def newest(self) -> int:
        """Sequence number of the volume's newest record."""
        return int(self.json("window", "web")["newest"]["seq"])

    def send(self, client: Client, offset: int, data: bytes) -> None:
        client.pwrite(data, offset)
        self.model.writes.append((offset, data))

    def send_changes(self, client: Client) -> tuple[int, int]:
        """Write the blocks in which the user's disk differs from the volume, and flush; how many writes and bytes."""
        old, new = self.model.content(), self.work.read_bytes()
        sent_bytes = writes = 0
        begin = None
        for at in range(0, self.disk_bytes + BLOCK_BYTES, BLOCK_BYTES):
            differs = at < self.disk_bytes and old[at : at + BLOCK_BYTES] != new[at : at + BLOCK_BYTES]
            if differs and begin is None:
                begin = at
            if begin is not None and (not differs or at - begin == PIECE_BYTES):
                self.send(client, begin, new[begin:at])
                writes, sent_bytes = writes + 1, sent_bytes + at - begin
                begin = at if differs else None
        client.flush()
        return writes, sent_bytes

    def send_all(self, image: Path) -> None:
        """Copy a disk in, without what is zero."""
        with ExitStack() as stack:
            client = stack.enter_context(self.server.client("web"))
            file = stack.enter_context(image.open("rb"))
            progress = stack.enter_context(Progress("copying", self.disk_bytes))
            for offset in range(0, self.disk_bytes, PIECE_BYTES):
                data = file.read(PIECE_BYTES)
                if data.strip(b"\0"):
                    client.pwrite(data, offset)
                progress.at(offset)
            client.flush()

    def pieces(self, export: str) -> Iterator[bytes]:
        """The content of an export, over NBD."""
        with self.server.client(export) as client:
            if client.size_bytes != self.disk_bytes:
                raise Failed(f"{export} has {client.size_bytes} bytes, not {self.disk_bytes}")
            for offset in range(0, self.disk_bytes, PIECE_BYTES):
                yield client.pread(min(PIECE_BYTES, self.disk_bytes - offset), offset)

    def claim_export(self, export: str, content: bytearray, text: str) -> None:
        found = hashlib.sha256()
        for piece in self.pieces(export):
            found.update(piece)
        self.tell.claim(f"{text}: SHA-256 {short(content)}", found.hexdigest() == sha256(content))

    def check_disk(self, image: Path, what: str) -> None:
        fault = self.disk.fault(image)
        self.tell.claim(f"{what}: {fault or self.disk.whole}", not fault)
        if fault:
            return
        sums = self.disk.sums(image)
        right = sum(sums.get(inside) == checksum for inside, checksum in self.sums.items())
        self.tell.claim(f"{what}: {right} of {len(self.sums)} files have the right checksum, and no file is too many",
                        sums == self.sums)


def sha256(data: bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


def short(data: bytes | bytearray) -> str:
    return f"{sha256(data)[:16]}..."


def _article(what: str) -> str:
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"


def _times(times_ms: list[float]) -> str:
    return f"{statistics.median(times_ms):.1f} ms (median; worst {max(times_ms):.1f} ms)"


def _tools(teller: Teller) -> str:
    uses = {"e2fsprogs": (Ext4Disk.tools, "a real ext4 file system"), "nbdcopy": (("nbdcopy",), "a real NBD client"),
            "qemu-img": (("qemu-img",), "another one")}
    has = [name for name, (tools, _) in uses.items() if all(teller.has(tool) for tool in tools)]
    misses = [f"{name} ({use})" for name, (_, use) in uses.items() if name not in has]
    return f"Optional tools found: {listing(has)}; missing: {listing(misses)}."


def _room(directory: str, scale: Scale) -> None:
    free_bytes = shutil.disk_usage(directory).free
    if free_bytes < scale.room_bytes:
        raise Failed(f"{directory} has {free_bytes // MIB} MiB free, the demo takes up to {scale.room_bytes // MIB}; "
                     "name a larger folder: TMPDIR=/var/tmp make demo")


def _terminated(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@click.command()
@click.option("--keep", is_flag=True, help="Leave the folder with the volume, to look around in.")
@click.option("--quick", is_flag=True, help="A smaller disk.")
def main(keep: bool, quick: bool) -> None:
    """The main job of cdp on real input, in under two minutes: protect, disaster, find the moment, open it, restore,
    undo."""
    signal.signal(signal.SIGTERM, _terminated)
    scale = QUICK if quick else Scale()
    directory = tempfile.mkdtemp(prefix="cdp-demo-")
    teller = Teller(directory, Demo.STEPS)
    try:
        with ExitStack() as stack:
            if not keep:
                stack.callback(shutil.rmtree, directory, ignore_errors=True)
            _room(directory, scale)
            click.echo(f"cdp: a time machine for block storage. This runs the main job once, in {directory}.")
            click.echo(_tools(teller))
            demo = Demo(teller, scale)
            stack.callback(demo.server.stop)
            demo.run()
    except (Failed, CdpError, OSError) as error:
        teller.claim(f"the demo ran to its end: {error}", False)
    click.echo()
    if keep:
        click.echo(f"The volume is kept: cd {directory} && {' '.join(cdp_command('info', 'web'))}")
    if teller.failed:
        click.secho(f"{teller.failed} of {teller.proved + teller.failed} claims were FALSE.", fg="red", bold=True)
        raise SystemExit(1)
    click.secho(f"All {teller.proved} claims were checked and are true. {teller.seconds():.0f} s.", bold=True)


if __name__ == "__main__":
    main()
