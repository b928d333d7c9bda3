"""What an operation on a volume answers, as plain JSON: one vocabulary for the command line, the HTTP API and the
Python service.

Invariants
  1. Every answer is made of dict, list, str, int, bool and None, with the fields of the classes below; fields are only
     ever added. A moment carries its time as text beside the integer, because a double cannot hold nanoseconds since
     1970.
  2. Every call is bounded: content by MAX_PIECE_BYTES, extents and records by a page.

Modules
    moments     moments, and what names or changes them: the window, points, bookmarks, images, restores
    capture     a capture of another machine's disk
    retention   how much history is kept: pins, the policy, what a plan frees, the space
    status      a server: its volumes, clients, alerts
    info        a volume as it is now, and what it is busy with
    pages       what is listed in pages: segments, extents, records, versions, differences, activity, events
    service     the operations
    typed       the TypedDict that all of them use
"""
from cdp.views.capture import CaptureView
from cdp.views.info import (
    CheckView,
    CopiesView,
    CopyView,
    DeviceSpaceView,
    DiskChecksumsView,
    FreeingView,
    HistogramView,
    InfoView,
    LastRestoreView,
    MetricsView,
    ProblemView,
    ScrubView,
    SealedView,
    SourceView,
    WritebackView,
)
from cdp.views.moments import (
    BarrierView,
    BookmarkView,
    ClockStepView,
    ExplanationView,
    GapView,
    ImageView,
    MomentView,
    RestoreView,
    ThinningView,
    WindowView,
)
from cdp.views.pages import (
    MAX_PAGE_EVENTS,
    MAX_PAGE_EXTENTS,
    MAX_PAGE_RECORDS,
    MAX_PAGE_ROWS,
    MAX_PLACED_INTERVALS,
    ActivityView,
    DiffPage,
    EventsPage,
    EventView,
    ExtentView,
    MapPage,
    RecordsPage,
    RecordView,
    SegmentsPage,
    SegmentView,
    VersionsPage,
    VersionView,
)
from cdp.views.retention import KeepingView, KeptView, PinView, PlanView, PolicyView, PruneView, SpaceView
from cdp.views.service import MAX_PIECE_BYTES, Service
from cdp.views.status import (
    AlertView,
    ClientView,
    NotOpenView,
    ServedView,
    ServedVolumeView,
    StandbyDetachedView,
    StandbyView,
    StatusView,
)

__all__ = [
    "MAX_PAGE_EVENTS",
    "MAX_PAGE_EXTENTS",
    "MAX_PAGE_RECORDS",
    "MAX_PAGE_ROWS",
    "MAX_PIECE_BYTES",
    "MAX_PLACED_INTERVALS",
    "ActivityView",
    "AlertView",
    "BarrierView",
    "BookmarkView",
    "CaptureView",
    "CheckView",
    "ClientView",
    "ClockStepView",
    "CopiesView",
    "CopyView",
    "DeviceSpaceView",
    "DiffPage",
    "DiskChecksumsView",
    "EventView",
    "EventsPage",
    "ExplanationView",
    "ExtentView",
    "FreeingView",
    "GapView",
    "HistogramView",
    "ImageView",
    "InfoView",
    "KeepingView",
    "KeptView",
    "LastRestoreView",
    "MapPage",
    "MetricsView",
    "MomentView",
    "NotOpenView",
    "PinView",
    "PlanView",
    "PolicyView",
    "ProblemView",
    "PruneView",
    "RecordView",
    "RecordsPage",
    "RestoreView",
    "ScrubView",
    "SealedView",
    "SegmentView",
    "SegmentsPage",
    "ServedView",
    "ServedVolumeView",
    "Service",
    "SourceView",
    "SpaceView",
    "StandbyDetachedView",
    "StandbyView",
    "StatusView",
    "ThinningView",
    "VersionView",
    "VersionsPage",
    "WindowView",
    "WritebackView",
]
