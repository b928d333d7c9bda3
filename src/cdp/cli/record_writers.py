"""Records of the history written to standard output, page by page: as text, JSON lines, packed, Arrow or Parquet.

A page is bytes of cdp.moments.records.RECORD. A writer is a context manager: what belongs before the first and after
the last page is written at its ends. Called from one thread.
"""
import json
from collections import Counter
from types import TracebackType
from typing import Any, Self

import numpy as np

from cdp.cli.extras import require
from cdp.cli.output import put, standard_output
from cdp.moments.records import FUA, KIND_NAMES, META, RECORD
from cdp.text.sizes import approx_size
from cdp.text.timestamps import local

ROW_BYTES = np.dtype(RECORD).itemsize


def rows_of(page: bytes) -> Any:
    """The RECORD array of a page."""
    return np.frombuffer(page, RECORD)


class Writer:
    """As text, a line each."""

    def __enter__(self) -> Self:
        self._head: str | None = f"{'SEQ':<10}  {'TIME':<35}  {'KIND':<10}  {'OFFSET':>16}  {'LENGTH':>12}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if error is None:
            self.finish()

    def write(self, page: bytes) -> None:
        if self._head:
            put(self._head)
            self._head = None
        for seq, ts_ns, kind, flags, offset, length in np.frombuffer(page, RECORD).tolist():
            name = KIND_NAMES.get(kind, str(kind)) + (" fua" if flags & FUA else "") + (" meta" if flags & META else "")
            extent = f"{offset:>16}  {approx_size(length):>12}" if length else ""
            put(f"#{seq:<9}  {local(ts_ns):<35}  {name:<10}  {extent}".rstrip())

    def finish(self) -> None:
        """After the last page."""


class Counts(Writer):
    """Only how many there are."""

    def __init__(self, as_json: bool):
        self._as_json = as_json
        self._count, self._bytes = Counter[str](), Counter[str]()

    def write(self, page: bytes) -> None:
        rows = np.frombuffer(page, RECORD)
        for kind in np.unique(rows["kind"]).tolist():
            of_kind, name = rows[rows["kind"] == kind], KIND_NAMES.get(kind, str(kind))
            self._count[name] += len(of_kind)
            self._bytes[name] += int(of_kind["length"].sum())

    def finish(self) -> None:
        if self._as_json:
            put(json.dumps({"records": self._count.total(), "kinds": {
                name: {"records": count, "bytes": self._bytes[name]} for name, count in self._count.items()}}))
            return
        for name, count in self._count.most_common():
            size = f"  {approx_size(self._bytes[name]):>12}" if self._bytes[name] else ""
            put(f"{name:<10}  {count:>16}{size}")
        put(f"{'all':<10}  {self._count.total():>16}")


class Packed(Writer):
    """As they are."""

    def __enter__(self) -> Self:
        self._out = standard_output()
        return self

    def write(self, page: bytes) -> None:
        self._out.write(page)


class Lines(Packed):
    """JSON objects, a line each: cdp.views.RecordView."""

    def write(self, page: bytes) -> None:
        from cdpcore.text.record_text import ndjson

        if page:
            self._out.write(ndjson(page, KIND_NAMES))


class Columns(Packed):
    """An Arrow stream, or a Parquet file, with a batch for each page."""

    def __init__(self, parquet: bool):
        require("pyarrow")
        self._parquet = parquet

    def __enter__(self) -> Self:
        import pyarrow as pa

        super().__enter__()
        self._schema = pa.schema([("seq", pa.uint64()), ("time", pa.timestamp("ns", "UTC")),
                                  ("kind", pa.dictionary(pa.int8(), pa.string())), ("fua", pa.bool_()),
                                  ("meta", pa.bool_()), ("offset", pa.uint64()), ("length", pa.uint64())])
        self._writer: Any
        if self._parquet:
            from pyarrow import parquet

            self._writer = parquet.ParquetWriter(pa.PythonFile(self._out, mode="w"), self._schema)
        else:
            self._writer = pa.ipc.new_stream(pa.PythonFile(self._out, mode="w"), self._schema)
        return self

    def write(self, page: bytes) -> None:
        import pyarrow as pa

        rows = np.frombuffer(page, RECORD)
        names = pa.array([KIND_NAMES.get(kind, str(kind)) for kind in range(max(KIND_NAMES) + 1)])
        column = {name: np.ascontiguousarray(rows[name]) for name, _ in RECORD}
        self._writer.write_batch(pa.record_batch([
            pa.array(column["seq"]), pa.array(column["ts_ns"].astype("datetime64[ns]")).cast(self._schema.types[1]),
            pa.DictionaryArray.from_arrays(column["kind"].astype("i1"), names), pa.array(column["flags"] & FUA != 0),
            pa.array(column["flags"] & META != 0), pa.array(column["offset"]), pa.array(column["length"]),
        ], schema=self._schema))

    def finish(self) -> None:
        self._writer.close()


def made(form: str) -> Writer:
    """Raises Unavailable where a package is missing."""
    match form:
        case "ndjson":
            return Lines()
        case "binary":
            return Packed()
        case "arrow" | "parquet":
            return Columns(form == "parquet")
    return Writer()
