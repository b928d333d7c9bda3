"""One run of `cdp capture`: the volume opened and served, the source taken into it, until a signal.

The work is done in the caller's thread (the main one: signals), between what the server's own threads do.
"""
from __future__ import annotations

import os
from collections.abc import Callable

from cdp.capture import status as views
from cdp.capture.follow import Follower, Status
from cdp.capture.mirror import Mirror
from cdp.capture.source import LogSource
from cdp.serve.capturing import CapturedService
from cdp.serve.server import Server
from cdp.settings import Settings
from cdp.views import CaptureView

PAUSE_S = 0.1
Ready = Callable[[list[str]], None]
Progress = Callable[[CaptureView], None]


def follow(root: str, log_path: str, settings: Settings, *, once: bool, new_log: bool, settle_ms: int, ready: Ready,
           progress: Progress) -> CaptureView:
    """cdp capture --log. Returns how far it came."""
    path = os.path.abspath(log_path)
    follower: Follower | None = None

    def view(running: bool = True) -> CaptureView:
        return views.of_log(path, running, follower.status() if follower else Status())

    with LogSource(path) as source:
        source.super_block()  # what is no log is refused before anything is opened
        with Server([root], settings, read_only=True,
                    service=lambda volume, served: CapturedService(volume, served, view)) as server:
            (name,) = server.names()
            follower = Follower(server.volume(name), source, settle_ns=settle_ms * 1_000_000, new_log=new_log,
                                stopping=lambda: server.wait(0))
            ready(server.uris())
            follower.run(once=once, pause=lambda: server.wait(PAUSE_S), progress=lambda status: progress(view()))
            return view(running=False)


def mirror(root: str, settings: Settings, *, ready: Ready, progress: Progress) -> CaptureView:
    """cdp capture --mirror. Returns how far it came."""
    taker = Mirror()
    with Server([root], settings, target=taker.target,
                service=lambda volume, served: CapturedService(volume, served, taker.view)) as server:
        (name,) = server.names()
        taker.begin(server.volume(name))
        ready(server.uris())
        while not server.wait(PAUSE_S):
            taker.step(lambda: server.connections(name))
            progress(taker.view())
        taker.step(lambda: server.connections(name))
        taker.finish()
        return taker.view(running=False)
