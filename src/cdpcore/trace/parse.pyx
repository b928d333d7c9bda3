"""Native parsers of block traces: pieces of a file in, records (cdp.trace.model.RECORD) out, without the GIL.

Three owner classes, one for each shape of trace: lines of text, blktrace's binary events, write logs with data. Each
keeps its format's state between pieces, so a trace of any length is read in constant memory. The devices met are
numbered in order of first appearance, in a table of bounded size.

A run returns (step, consumed, produced): one of the step constants below, how many bytes of the piece are done with,
how many records were written from the given start of the array. A malformed line or event is not raised here: the
caller knows the file's name, and asks `bad()` for the place and what was expected.

Threading: an object belongs to one thread at a time; runs release the GIL. Memory: the piece and the array are only
used during the call.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from cdpcore.trace.trace_blktrace cimport cdp_trace_blk, cdp_trace_blk_run
from cdpcore.trace.trace_columns cimport (CDP_TRACE_MAX_COLUMNS, CDP_TRACE_MAX_WORD, CDP_TRACE_MAX_WORDS,
                                          cdp_trace_columns)
from cdpcore.trace.trace_devices cimport (CDP_SEEN_SLOTS, CDP_TRACE_MAX_DEVICES, CDP_TRACE_MAX_NAME,
                                          cdp_trace_device, cdp_trace_devices, cdp_trace_devices_find,
                                          cdp_trace_devices_free, cdp_trace_devices_grow, cdp_trace_devices_init)
from cdpcore.trace.trace_dmlog cimport CDP_DMLOG_SUPER, cdp_trace_dmlog, cdp_trace_dmlog_run, cdp_trace_dmlog_super
from cdpcore.trace.trace_rec cimport (CDP_TRACE_BAD, CDP_TRACE_DONE, CDP_TRACE_FULL, CDP_TRACE_GROW, CDP_TRACE_MORE,
                                      cdp_trace_rec)
from cdpcore.trace.trace_text cimport (CDP_FMT_COLUMNS, CDP_FMT_COUNT, cdp_trace_scsi_kind, cdp_trace_text,
                                       cdp_trace_text_run)

from cdpcore.base.errors import InvalidRequest


MORE = CDP_TRACE_MORE  # everything complete in the piece is consumed
FULL = CDP_TRACE_FULL  # the array is full
DONE = CDP_TRACE_DONE  # the format says that the trace ends here
BAD = CDP_TRACE_BAD  # stopped before something malformed: see bad()
RECORD_BYTES = sizeof(cdp_trace_rec)
FORMATS = CDP_FMT_COUNT
MAX_DEVICES = CDP_TRACE_MAX_DEVICES


def scsi_kind(op: int) -> int:
    """Kind of a SCSI operation code (0..255), as the text parser and the binary readers share it."""
    return cdp_trace_scsi_kind(op)


cdef class DeviceTable:
    """Devices by (name, number), numbered in order of first appearance; at most MAX_DEVICES.

    A census also counts the events of each device by stage, and holds which stages of it become records.
    """

    cdef cdp_trace_devices table

    def __cinit__(self, *, bint census=False):
        if cdp_trace_devices_init(&self.table, census) != 0:
            raise MemoryError("table of trace devices")

    def __dealloc__(self):
        cdp_trace_devices_free(&self.table)

    def __len__(self) -> int:
        return self.table.count

    cdef int grow(self) except -1:
        cdef int rc = cdp_trace_devices_grow(&self.table)
        if rc == -1:
            raise MemoryError("table of trace devices")
        if rc == -2:
            raise InvalidRequest(f"the trace names more than {MAX_DEVICES} devices, or more than 64 MiB of their names",
                                 "give it in parts")
        return 0

    def index(self, name: bytes, number: int) -> int:
        """Index of the device, added where new. name: at most 1024 bytes; number: u64."""
        cdef uint32_t found = 0
        cdef uint64_t key = number
        cdef const unsigned char *at = name
        cdef size_t n = len(name)
        if n > CDP_TRACE_MAX_NAME:
            raise InvalidRequest(f"device name of {n} bytes: at most {CDP_TRACE_MAX_NAME}")
        while not cdp_trace_devices_find(&self.table, at, n, key, &found):
            self.grow()
        return found

    def key(self, index: int) -> tuple[bytes, int]:
        """(name, number) of a device. Raises IndexError."""
        if not 0 <= index < self.table.count:
            raise IndexError(index)
        cdef cdp_trace_device *d = &self.table.devices[<uint32_t>index]
        return (<char *>(self.table.names + d.name_at))[:d.name_bytes], d.number


    cdef cdp_trace_devices *counting(self, index: int = 0) except NULL:
        """The table, where it is a census that has that index (0: whether or not it has any)."""
        if self.table.seen == NULL:
            raise ValueError("a table made with census=True is needed")
        if index and not 0 <= index < self.table.count:
            raise IndexError(index)
        return &self.table

    def choose(self, index: int, stages: int):
        """Which actions (bits) of a device become records; 0: those that the parser was given. Of a census."""
        self.counting(index).seen[<uint32_t>index].stages = stages

    def stages(self, index: int) -> int:
        """What choose() set."""
        return self.counting(index).seen[<uint32_t>index].stages

    def seen(self, index: int) -> tuple[int, ...]:
        """Events of a device: stage D, C, Q, I, merges, passthrough commands. Of a census."""
        cdef cdp_trace_devices *table = self.counting(index)
        return tuple([table.seen[<uint32_t>index].events[i] for i in range(CDP_SEEN_SLOTS)])


cdef inline cdp_trace_rec *_room(unsigned char[::1] out, size_t start, size_t *cap) except? NULL:
    """Where record `start` of the array lies, and how many fit from there."""
    cdef size_t have = <size_t>out.shape[0] // sizeof(cdp_trace_rec)
    if start >= have:
        raise ValueError("no room in the record array")
    cap[0] = have - start
    return <cdp_trace_rec *>&out[0] + start


cdef class TextParser:
    """Lines of one text trace. format: number of enum cdp_trace_format; stages: bits of block-layer
    actions that become records; census: counts by device, with each device's own stages; columns: of a table
    that the user describes (set_columns)."""

    cdef cdp_trace_text state
    cdef cdp_trace_columns columns
    cdef readonly DeviceTable devices, census

    def __cinit__(self, int format, DeviceTable devices not None, *, bint skip_bad=False, uint32_t stages=0,
                  DeviceTable census=None):
        memset(&self.state, 0, sizeof(self.state))
        if not 0 <= format < CDP_FMT_COUNT:
            raise ValueError(f"no text format {format}")
        self.state.format = format
        self.state.skip_bad = skip_bad
        self.state.stages = stages
        self.devices = devices
        self.state.devices = &devices.table
        self.census = census
        if census is not None:
            self.state.census = census.counting()

    def set_columns(self, *, uint32_t time, uint32_t op, uint32_t device, uint32_t offset, uint32_t size,
                    uint32_t time_scale, uint64_t time_base_ns, uint64_t offset_unit_bytes, uint64_t size_unit_bytes,
                    uint32_t kind, words):
        """Where the fields of a table lie (from 1; 0: it has none) and their units: cdp_trace_columns.

        words: (word of column op in lower case, kind) pairs. Raises ValueError for what is out of range.
        """
        if (max(time, op, device, offset, size) > CDP_TRACE_MAX_COLUMNS or not offset or not size or time_scale > 9
                or not 0 < offset_unit_bytes < 1 << 40 or not 0 < size_unit_bytes < 1 << 40 or kind > 5
                or len(words) > CDP_TRACE_MAX_WORDS or any(len(word) > CDP_TRACE_MAX_WORD for word, _ in words)):
            raise ValueError("columns out of range")
        cdef bytes text
        self.columns.time, self.columns.op, self.columns.device = time, op, device
        self.columns.offset, self.columns.size, self.columns.kind = offset, size, kind
        self.columns.last = max(time, op, device, offset, size)
        self.columns.time_scale, self.columns.time_base_ns = time_scale, time_base_ns
        self.columns.offset_unit_bytes, self.columns.size_unit_bytes = offset_unit_bytes, size_unit_bytes
        self.columns.words = <uint32_t>len(words)
        for i, (text, which) in enumerate(words):
            memcpy(self.columns.word[<size_t>i], <const char *>text, len(text))
            self.columns.word_bytes[<size_t>i] = <uint8_t>len(text)
            self.columns.word_kind[<size_t>i] = which
        self.state.columns = &self.columns

    def run(self, const unsigned char[::1] piece, bint final, unsigned char[::1] out, size_t start=0):
        """Parses whole lines of `piece` into out[start:] (a byte view of the record array)."""
        cdef size_t cap = 0, consumed = 0, produced = 0, done = 0, made = 0, n = piece.shape[0]
        cdef cdp_trace_rec *to = _room(out, start, &cap)
        cdef const unsigned char *text = &piece[0] if n else NULL
        cdef int step = CDP_TRACE_MORE
        if self.state.format == CDP_FMT_COLUMNS and self.state.columns == NULL:
            raise ValueError("set_columns() comes first")
        while n:
            with nogil:
                step = cdp_trace_text_run(&self.state, text + done, n - done, final, to + made, cap - made, &consumed,
                                          &produced)
            done += consumed
            made += produced
            if step != CDP_TRACE_GROW:
                break
            self.devices.grow()
            if self.census is not None:
                self.census.grow()
        return step, done, made

    def take_lines(self, uint64_t lines):
        """Counts lines that another reader has parsed into a record each."""
        self.state.line += lines
        self.state.events += lines

    def bad(self) -> tuple[int, int, str, bytes, int]:
        """(line, column, what was expected, what was found: at most 64 bytes, fields read before)."""
        return (self.state.bad_line, self.state.bad_column,
                self.state.bad_expected.decode() if self.state.bad_expected != NULL else "",
                (<char *>self.state.bad_text)[:self.state.bad_text_bytes], self.state.bad_fields)

    @property
    def lines(self) -> int:
        """Lines consumed."""
        return self.state.line

    @property
    def events(self) -> int:
        """Well-formed data lines, whether or not they became records."""
        return self.state.events

    @property
    def comments(self) -> int:
        """Headers, comments, preambles, summaries, empty lines."""
        return self.state.comments

    @property
    def bad_lines(self) -> int:
        """Malformed lines passed over (skip_bad)."""
        return self.state.bad

    @property
    def header(self) -> int:
        """Not 0 once the format's header line was met; the version, for a fio iolog."""
        return self.state.header

    @property
    def absolute(self) -> bool:
        """The header said that times are UTC (only cdp's own CSV says so)."""
        return bool(self.state.absolute)

    @property
    def skipped(self) -> int:
        """Requests that no record can say (fio: sync_file_range)."""
        return self.state.skipped


cdef class BlktraceParser:
    """Events of one binary blktrace file. stages: bits of the actions that become records; 0 for none."""

    cdef cdp_trace_blk state
    cdef readonly DeviceTable devices, census

    def __cinit__(self, DeviceTable devices not None, *, bint skip_bad=False, uint32_t stages=0,
                  DeviceTable census=None):
        memset(&self.state, 0, sizeof(self.state))
        self.state.skip_bad = skip_bad
        self.state.stages = stages
        self.devices = devices
        self.state.devices = &devices.table
        self.census = census
        if census is not None:
            self.state.census = census.counting()

    def run(self, const unsigned char[::1] piece, bint final, unsigned char[::1] out, size_t start=0):
        """Parses whole events of `piece` into out[start:] (a byte view of the record array)."""
        cdef size_t cap = 0, consumed = 0, produced = 0, done = 0, made = 0, n = piece.shape[0]
        cdef cdp_trace_rec *to = _room(out, start, &cap)
        cdef const unsigned char *data = &piece[0] if n else NULL
        cdef int step = CDP_TRACE_MORE
        while n:
            with nogil:
                step = cdp_trace_blk_run(&self.state, data + done, n - done, final, to + made, cap - made, &consumed,
                                         &produced)
            done += consumed
            made += produced
            if step != CDP_TRACE_GROW:
                break
            self.devices.grow()
            if self.census is not None:
                self.census.grow()
        return step, done, made

    def bad(self) -> tuple[int, int, str]:
        """(event number, byte in the piece of that run, what was expected)."""
        return (self.state.bad_event, self.state.bad_at,
                self.state.bad_expected.decode() if self.state.bad_expected != NULL else "")

    @property
    def events(self) -> int:
        """Events read, notifications included."""
        return self.state.events

    @property
    def bad_events(self) -> int:
        """Damaged stretches passed over (skip_bad)."""
        return self.state.bad

    @property
    def epoch_ns(self) -> int | None:
        """UTC of trace time 0, or None before a wall-clock event was met."""
        return self.state.epoch_ns if self.state.have_epoch else None

    @property
    def big_endian(self) -> bool | None:
        """Byte order other than this machine's; None before the first event."""
        return None if self.state.swapped == 0 else self.state.swapped == 2


cdef class DmLogParser:
    """Entries of one dm-log-writes or blklogwrites log; needs the first SUPER_BYTES of it."""

    SUPER_BYTES = CDP_DMLOG_SUPER
    cdef cdp_trace_dmlog state
    cdef readonly bint valid

    def __cinit__(self, const unsigned char[::1] super_block):
        memset(&self.state, 0, sizeof(self.state))
        if super_block.shape[0] < CDP_DMLOG_SUPER:
            raise ValueError("a super block of 28 bytes")
        self.valid = cdp_trace_dmlog_super(&self.state, &super_block[0]) == CDP_TRACE_MORE

    def skip_super(self) -> int:
        """Bytes from the start of the log to the first entry; to be skipped by the caller."""
        self.state.position = self.state.sector_bytes
        return self.state.sector_bytes

    def resume(self, done: int, position: int):
        """Go on behind entry `done`: the next run's piece begins at byte `position` of the log."""
        self.state.done = done
        self.state.position = position

    def promise(self, entries: int):
        """Read up to so many entries, whatever the super block said: it counts on while the log grows."""
        self.state.entries = entries

    def run(self, const unsigned char[::1] piece, unsigned char[::1] out, size_t start=0):
        """Reads entries of `piece` into out[start:]; `consumed` may exceed the piece: skip so many bytes more."""
        cdef size_t cap = 0, produced = 0, n = piece.shape[0]
        cdef uint64_t consumed = 0
        cdef cdp_trace_rec *to = _room(out, start, &cap)
        cdef const unsigned char *data = &piece[0] if n else NULL
        cdef int step
        with nogil:
            step = cdp_trace_dmlog_run(&self.state, data, n, to, cap, &consumed, &produced)
        return step, consumed, produced

    def bad(self) -> tuple[int, int, str]:
        """(entry number from 1, byte in the log, what was expected)."""
        return (self.state.done + 1, self.state.bad_at,
                self.state.bad_expected.decode() if self.state.bad_expected != NULL else "")

    @property
    def entries(self) -> int:
        """Entries that the super block promises."""
        return self.state.entries

    @property
    def done(self) -> int:
        """Entries read."""
        return self.state.done

    @property
    def sector_bytes(self) -> int:
        """Unit of the log, bytes."""
        return self.state.sector_bytes

    @property
    def position(self) -> int:
        """Byte of the log where the next entry starts."""
        return self.state.position
