"""A consistency group: several volumes with moments in common, restored and imaged together.

What a group is and what is going on with it is in its folder (cdp.store.group_file); the moments themselves are
bookmarks of the volumes. Members are reached as commands reach them (cdp.service.connect): through their server, or
opened here. One moment of all of them is exact where at most one server has members: what is opened here has no other
writers (cdp.volume.barrier, POST /v1/barrier).

Invariants
  1. What is done to all members is done to all or none. Where it fails, it is taken back, but for an undo. Where that
     fails too, or the process or the machine ends in the middle, group.json says what was begun; the next call that
     changes the group takes an incomplete bookmark or image away, and completes a restore or undo, before anything
     else.
  2. A moment of the group counts once group.json has it, which is after all members have their bookmarks durably.
"""
from __future__ import annotations

import os as _os
import time
import uuid as uuid_module
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cdp.moments import points
from cdp.moments.model import GroupMoment, GroupRestore, Moment
from cdp.service.connect import connect
from cdp.service.local import VolumeService, refuse_under_clients
from cdp.service.remote import RemoteService
from cdp.service.together import together
from cdp.store import group_file as file
from cdp.store.group_file import Definition, Member, Pending
from cdp.text.paths import absolute
from cdp.text.timestamps import utc
from cdp.views import BarrierView, MomentView
from cdpcore.base.errors import Busy, CdpError, InvalidRequest, NotFound, RefusedPoint
from cdpcore.system.os import Os, posix

if TYPE_CHECKING:
    from cdp.settings import Settings
    from cdp.volume.volume import Volume

AnyService = VolumeService | RemoteService
LOCK_WAIT_S, LOCK_RETRY_S = 2.0, 0.05


class Group:
    """Several volumes with moments in common. A context manager; one thread at a time.

    path: the group's folder. volumes: the members where this process has them open already, in any order; they stay
    open. Else members are reached when they are needed first, as commands reach them, and let go by close(). Raises
    NotFound, Corruption; InvalidRequest where `volumes` are not its members.
    """

    def __init__(self, path: str | Path, *, volumes: Sequence[Volume] | None = None, settings: Settings | None = None,
                 _os: Os | None = None):
        self.path = absolute(path)
        self.name = _os_path(self.path)[1]
        self._os, self._settings = _os or posix(), settings
        self._stack = ExitStack()
        self._services: tuple[AnyService, ...] | None = None
        members = file.load(self._os, self.path).members
        if volumes is not None:
            by_uuid = {volume.uuid: volume for volume in volumes}
            if len(volumes) != len(members) or set(by_uuid) != {member.uuid for member in members}:
                raise InvalidRequest(f"{self.path}: these are not its volumes", f"give {', '.join(self.members)}")
            self._services = tuple(VolumeService(by_uuid[member.uuid]) for member in members)

    @classmethod
    def create(cls, path: str | Path, members: Sequence[str | Path | Volume], *, settings: Settings | None = None,
               _os: Os | None = None) -> Group:
        """Make a group of volumes that exist, by their paths, or open, and open it. Raises InvalidRequest, NotFound,
        and what opening a volume raises."""
        os, path = _os or posix(), absolute(path)
        parent = _os_path(path)[0]
        found = list[Member]()
        opened = [member for member in members if not isinstance(member, str | Path)]
        for member in members:
            if isinstance(member, str | Path):
                with connect(str(member), settings) as service:
                    info = service.info()
                where, uuid = info["path"], info["uuid"]
                if info["parent"] is not None:
                    raise InvalidRequest(f"{member} is a writable image", "name volumes")
            else:
                where, uuid = member.path, member.uuid
            where = absolute(where)
            if parent != "/" and where.startswith(f"{parent}/"):
                where = where.removeprefix(f"{parent}/")
            if any(uuid == other.uuid for other in found):
                raise InvalidRequest(f"{where} is there twice", "name each volume once")
            found.append(Member(where, uuid))
        file.create(os, path, Definition(str(uuid_module.uuid4()), os.now_ns(), tuple(found)))
        return cls(path, volumes=opened if opened and len(opened) == len(members) else None, settings=settings, _os=_os)

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def members(self) -> list[str]:
        """The paths of the volumes, in the order in which results have them."""
        return [self._path_of(member) for member in self._load().members]

    def bookmarks(self) -> list[GroupMoment]:
        """The moments of the group that have a name, the oldest first."""
        return list(self._load().moments)

    def restores(self) -> list[GroupRestore]:
        """The restores of the group, the oldest first; the last 256 of them."""
        return list(self._load().restores)

    @property
    def interrupted(self) -> str | None:
        """What was begun and is not complete, in words; None: nothing. The next change brings it to an end."""
        pending = self._load().pending
        if pending is None:
            return None
        end = "is completed" if pending.kind in (file.RESTORE, file.UNDO) else "is taken back"
        return f"{pending.kind} {pending.name} was interrupted: it {end} by the next command that changes the group"

    # --- moments ------------------------------------------------------------------------------------------------------

    def bookmark(self, name: str, keep_ns: int | None = None, *,
                 valid: Callable[[], bool] | None = None) -> GroupMoment:
        """Name the present moment of all volumes, durably: every write to any of them that was acknowledged before is
        in, none that begins after. keep_ns: as for Volume.bookmark. valid: asked when the moment is known; where it
        says no, it is taken back, and Busy raised. Raises InvalidRequest for a bad name or one that is taken, in
        the group or in a volume, and where several servers have the members."""
        if not points.valid_new_name(name):
            raise InvalidRequest(f"bookmark name {name!r}", points.NAMES)
        with self._changing() as definition:
            if any(moment.name == name for moment in definition.moments):
                raise InvalidRequest(f"{self.path}: bookmark {name!r} exists",
                                     "choose another name, or delete it first")
            if len(definition.moments) >= file.MAX_MOMENTS:
                raise InvalidRequest(f"{self.path}: {file.MAX_MOMENTS} bookmarks, which is the bound",
                                     "delete some first")
            self._refuse_several_servers()
            for path, service in self._each():
                if any(mark["name"] == name for mark in service.bookmarks()):
                    raise InvalidRequest(f"{path}: bookmark {name!r} exists", "choose another name, or delete it first")
                service.flush()     # what is left to make durable afterwards is little
            definition = self._begin(definition, Pending(file.BOOKMARK, name, self._newest()))
            with self._taken_back(definition):
                at, pause_ns = self._barrier(name, keep_ns)
                if valid is not None and not valid():
                    raise Busy(f"{self.path}: the moment came too late, and was taken back", "repeat it")
            moment = GroupMoment(name, self._os.now_ns(), pause_ns, at)
            self._save(definition.changed(pending=None, moments=(*definition.moments, moment)))
            return moment

    def delete_bookmark(self, name: str) -> None:
        """Of the group and of its volumes; the history stays. Raises NotFound."""
        with self._changing() as definition:
            found = next((moment for moment in definition.moments if moment.name == name), None)
            if found is None:
                raise NotFound(f"{self.path}: no bookmark {name!r}", "'cdp group show' lists them")
            left = tuple(moment for moment in definition.moments if moment is not found)
            after = tuple(at.seq for at in found.at)
            self._recover(self._begin(definition.changed(moments=left), Pending(file.BOOKMARK, name, after)))

    def moment(self, point: str = "now") -> GroupMoment:
        """The moment of all volumes that a point names: a bookmark of the group; now, which is a moment without a name;
        or a time or age, which is as exact as the machine's clock. Raises NotFound, InvalidRequest for another point,
        RefusedPoint outside the window of a volume, or where the clock was set back around that time."""
        return self._moment(self._load(), point)

    def _moment(self, definition: Definition, point: str) -> GroupMoment:
        now_ns = self._os.now_ns()
        parsed = points.parse(point, now_ns)
        if parsed.kind == "now":
            at, pause_ns = self._barrier(None, None)
            return GroupMoment("now", now_ns, pause_ns, at)
        if parsed.kind == "bookmark":
            for moment in definition.moments:
                if moment.name == parsed.name:
                    return moment
            raise NotFound(f"{self.path}: no bookmark {parsed.name!r}",
                           "'cdp group show' lists the group's; those of one volume only are not the group's")
        if parsed.ts_ns is None:
            raise InvalidRequest(f"{point} is a record of one volume", "give a bookmark of the group, a time or an age")
        found = list[Moment]()
        for path, service in self._each():
            explained = service.explain(utc(parsed.ts_ns))
            if explained["other_readings"]:
                raise RefusedPoint(f"{path}: the clock was set back, and showed {point} more than once",
                                   "give a bookmark of the group")
            found.append(_moment(explained["resolved"]))
        return GroupMoment(utc(parsed.ts_ns), parsed.ts_ns, 0, tuple(found))

    # --- images -------------------------------------------------------------------------------------------------------

    def create_image(self, name: str, at: str = "now") -> GroupMoment:
        """A writable image of that name in each volume, of one moment, which is returned. All or none."""
        with self._changing() as definition:
            for path, service in self._each():
                if any(image["name"] == name for image in service.images()):
                    raise InvalidRequest(f"{path}: image {name!r} exists", "choose another name, or delete it first")
            moment = self._moment(definition, at)
            definition = self._begin(definition, Pending(file.IMAGE, name, (), moment.at))
            with self._taken_back(definition):
                for (_, service), to in zip(self._each(), moment.at, strict=True):
                    service.create_image(name, at=f"#{to.seq}!")
            self._save(definition.changed(pending=None))
            return moment

    def delete_image(self, name: str) -> None:
        """The image of that name of each volume, and its history. Raises NotFound where no volume has it, Busy."""
        with self._changing():
            having = [service for _, service in self._each()
                      if any(image["name"] == name for image in service.images())]
            if not having:
                raise NotFound(f"{self.path}: no image {name!r}", "'cdp image list' lists those of a volume")
            for service in having:
                service.delete_image(name)

    # --- restore ------------------------------------------------------------------------------------------------------

    def restore(self, point: str, *, dry_run: bool = False, force: bool = False) -> GroupRestore:
        """Put all volumes back to one moment; undo() takes that back. All or none. force: also where a server has
        clients that may write. dry_run: nothing is done, and seqs are 0. Raises what Volume.restore raises, and
        Busy."""
        if points.parse(point, self._os.now_ns()).kind == "now":
            raise InvalidRequest(f"{self.path}: it is as of now", "give a bookmark of the group, a time or an age")
        if dry_run:
            moment = self._moment(self._load(), point)
            self._preview(moment)
            return GroupRestore(moment.name, self._os.now_ns(), moment.at, (0,) * len(moment.at))
        with self._changing(force) as definition:
            moment = self._moment(definition, point)
            self._preview(moment)
            self._refuse_clients(force)
            definition = self._begin(definition, Pending(file.RESTORE, moment.name, self._newest(), moment.at))
            with self._taken_back(definition, force):
                return self._complete(definition, force)

    def undo(self, *, dry_run: bool = False, force: bool = False) -> GroupRestore:
        """Take back the last restore of the group that is not taken back yet, in all volumes; returns it. Raises
        RefusedPoint where there is none, or where a volume was restored by itself since. Where it fails in the middle,
        it is completed by the next call that changes the group, as after a crash."""
        with self._changing(force) as definition:
            last = next((one for one in reversed(definition.restores) if not one.undone), None)
            if last is None:
                raise RefusedPoint(f"{self.path}: no restore to undo", "'cdp group show' lists them")
            for (path, service), seq in zip(self._each(), last.seqs, strict=True):
                if service.undo(dry_run=True)["undo_of"] != seq:
                    raise RefusedPoint(f"{path}: was restored by itself after the group was",
                                       f"undo that first: cdp undo {path}")
            if dry_run:
                return last
            self._refuse_clients(force)
            definition = self._begin(definition, Pending(file.UNDO, last.point, self._newest(), (), last.seqs))
            return self._complete(definition, force)

    def _preview(self, moment: GroupMoment) -> None:
        for (_, service), at in zip(self._each(), moment.at, strict=True):
            service.restore(f"#{at.seq}!", dry_run=True)

    def _complete(self, definition: Definition, force: bool) -> GroupRestore:
        """The rest of a pending restore or undo; durable at return."""
        pending = definition.pending
        assert pending is not None
        seqs = [seq or self._step(pending, number, force) for number, seq in enumerate(self._done(pending))]
        if pending.kind == file.RESTORE:
            result = GroupRestore(pending.name, self._os.now_ns(), pending.at, tuple(seqs))
            restores = (*definition.restores, result)[-file.MAX_RESTORES:]
        else:
            restores = tuple(file.undone(one) if one.seqs == pending.seqs else one for one in definition.restores)
            result = next(one for one in reversed(restores) if one.seqs == pending.seqs)
        self._save(definition.changed(pending=None, restores=restores))
        return result

    def _step(self, pending: Pending, number: int, force: bool) -> int:
        """One volume's part of a pending restore or undo: the seq of its record."""
        service = self._open()[number]
        if pending.kind == file.RESTORE:
            return service.restore(f"#{pending.at[number].seq}!", force=force)["seq"]
        return service.undo(force=force)["seq"]

    def _done(self, pending: Pending) -> list[int]:
        """Per volume, the seq of its part of a pending restore or undo; 0: not done yet."""
        found = list[int]()
        for number, (_, service) in enumerate(self._each()):
            restores = [one for one in service.restores() if one["seq"] > pending.after[number]]
            undone = {one["undo_of"] for one in restores}
            done = [one["seq"] for one in restores if (
                one["undo_of"] == pending.seqs[number] if pending.kind == file.UNDO
                else one["undo_of"] is None and one["target"]["seq"] == pending.at[number].seq)]
            found.append(next((seq for seq in done if seq not in undone), 0))
        return found

    # --- all or none --------------------------------------------------------------------------------------------------

    def recover(self, *, force: bool = False) -> None:
        """Bring to an end what was interrupted. force: as for restore()."""
        with self._changing(force):
            pass

    @contextmanager
    def _changing(self, force: bool = False) -> Iterator[Definition]:
        """Locked, with nothing pending."""
        until_s = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                lock = file.lock(self._os, self.path)
                break
            except Busy:
                if time.monotonic() >= until_s:
                    raise
            time.sleep(LOCK_RETRY_S)
        with lock:
            definition = self._load()
            yield definition if definition.pending is None else self._recover(definition, force)

    def _begin(self, definition: Definition, pending: Pending) -> Definition:
        definition = definition.changed(pending=pending)
        self._save(definition)
        return definition

    @contextmanager
    def _taken_back(self, definition: Definition, force: bool = False) -> Iterator[None]:
        """What is pending is taken back where it fails; where that fails as well, it stays pending."""
        try:
            yield
        except CdpError:
            with suppress(CdpError):
                self._take_back(definition, force)
            raise

    def _take_back(self, definition: Definition, force: bool) -> None:
        pending = definition.pending
        assert pending is not None
        if pending.kind in (file.BOOKMARK, file.IMAGE):
            self._recover(definition)
            return
        for seq, (_, service) in zip(self._done(pending), self._each(), strict=True):
            if seq:
                service.undo(force=force)
        self._save(definition.changed(pending=None))

    def _recover(self, definition: Definition, force: bool = False) -> Definition:
        """Bring what is pending to an end: with nothing of it left, or complete."""
        pending = definition.pending
        assert pending is not None
        if pending.kind in (file.RESTORE, file.UNDO):
            self._refuse_clients(force)
            self._complete(definition, force)
            return self._load()
        for number, (_, service) in enumerate(self._each()):
            if pending.kind == file.BOOKMARK:
                for mark in service.bookmarks():
                    if mark["name"] == pending.name and mark["made"]["seq"] > pending.after[number]:
                        service.delete_bookmark(pending.name)
            else:
                for image in service.images():
                    if image["name"] == pending.name and image["at"]["seq"] == pending.at[number].seq:
                        service.delete_image(pending.name)
        definition = definition.changed(pending=None)
        self._save(definition)
        return definition

    # --- members ------------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Reach the members now, instead of when they are needed first."""
        self._open()

    def services(self) -> tuple[AnyService, ...]:
        """The operations on each member (cdp.views.Service), in order; valid until close()."""
        return self._open()

    def _open(self) -> tuple[AnyService, ...]:
        """The members, in order. Raises what connecting raises; InvalidRequest where another volume is in its place."""
        if self._services is None:
            with ExitStack() as stack:
                found = list[AnyService]()
                for member in self._load().members:
                    service = stack.enter_context(connect(self._path_of(member), self._settings))
                    assert isinstance(service, VolumeService | RemoteService)
                    if service.info()["uuid"] != member.uuid:
                        raise InvalidRequest(f"{self._path_of(member)}: not the volume that the group was made of",
                                             "put that one back, or make the group again")
                    found.append(service)
                self._stack, self._services = stack.pop_all(), tuple(found)
        return self._services

    def _each(self) -> list[tuple[str, AnyService]]:
        services = self._open()
        return list(zip(self.members, services, strict=True))

    def _newest(self) -> tuple[int, ...]:
        return tuple(service.window()["newest"]["seq"] for service in self._open())

    def _refuse_clients(self, force: bool) -> None:
        """Raises Busy where a volume would refuse to be restored under its clients, before any is."""
        for path, service in self._each() if not force else ():
            refuse_under_clients(path, service.clients)

    def _refuse_several_servers(self) -> None:
        servers = {service.socket_path: path for path, service in self._each() if isinstance(service, RemoteService)}
        if len(servers) > 1:
            raise InvalidRequest(f"{self.path}: {' and '.join(servers.values())} are served by different servers; "
                                 "one moment of both would not be exact", "serve all volumes of a group by one server")

    def _barrier(self, name: str | None, keep_ns: int | None) -> tuple[tuple[Moment, ...], int]:
        """The present moment of all members, and for how long writers were held up."""
        self._refuse_several_servers()
        services = self._open()
        remote = [service for service in services if isinstance(service, RemoteService)]
        local = [service for service in services if isinstance(service, VolumeService)]
        answers = list[tuple[list[AnyService], BarrierView]]()
        if remote:
            answers.append(([*remote], remote[0].barrier([one.volume for one in remote], name, keep_ns)))
        if local:
            answers.append(([*local], together(local, name, keep_ns)))
        at = {id(one): _moment(found) for some, answer in answers
              for one, found in zip(some, answer["moments"], strict=True)}
        pause_ns = max((answer["pause_ns"] for _, answer in answers), default=0)
        return tuple(at[id(service)] for service in services), pause_ns

    def _path_of(self, member: Member) -> str:
        return _os.path.join(_os_path(self.path)[0], member.path)

    def _load(self) -> Definition:
        return file.load(self._os, self.path)

    def _save(self, definition: Definition) -> None:
        file.save(self._os, self.path, definition)

    # --- life ---------------------------------------------------------------------------------------------------------

    def remove(self) -> None:
        """The group is no more; its volumes, their history and their bookmarks stay."""
        with self._changing():
            file.remove(self._os, self.path)

    def close(self) -> None:
        """Let go of the members that it opened. Idempotent."""
        stack, self._stack = self._stack, ExitStack()
        self._services = None
        stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def _os_path(path: str) -> tuple[str, str]:
    parent, _, name = path.rpartition("/")
    return parent or "/", name


def _moment(view: MomentView) -> Moment:
    return Moment(view["seq"], view["ts_ns"])
