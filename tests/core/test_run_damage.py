"""Run files that are wrong: by a flipped byte, by a broken rule under right checksums, by chance (the C driver).

A wrong file gives Corruption, or an answer that is right; never a crash, a wrong answer or an endless loop.
"""
import os
import random
import struct
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from support.seeds import Seeds

from cdpcore.base.checksum import crc32c
from cdpcore.base.errors import Corruption
from cdpcore.index.inspect import LOC_ZERO, MAX_SECTORS, ExtentTree, Run, lookup, merge, write_tree

HERE = Path(__file__).parent.parent
C_DIR = HERE.parent / "src" / "cdpcore"
UUID = b"0123456789abcdef"
ALL = [(0, 2**64 - 1)]
AS_OF = [ALL, [(0, 4)], [(7, 9), (0, 2)]]

HEADER = struct.Struct("<Q I I 16s QQ II QQ Q Q Q Q I I")
FIELDS = ["magic", "version", "crc", "uuid", "first_seq", "last_seq", "first_segment", "last_segment", "n_extents",
          "n_versions", "n_blocks", "fences_offset", "crcs_offset", "file_bytes", "crcs_crc", "flags"]
BLOCK, SPAN = 4096, 65536


class File:
    """The bytes of a run file, by field."""

    def __init__(self, data: bytes):
        self.data = bytearray(data)
        self.header = dict(zip(FIELDS, HEADER.unpack_from(data), strict=True))

    def u64(self, at: int, value: int | None = None) -> int:
        if value is not None:
            struct.pack_into("<Q", self.data, at, value)
        return int(struct.unpack_from("<Q", self.data, at)[0])

    def u32(self, at: int, value: int | None = None) -> int:
        if value is not None:
            struct.pack_into("<I", self.data, at, value)
        return int(struct.unpack_from("<I", self.data, at)[0])

    def fence(self, block: int) -> int:
        return int(self.header["fences_offset"]) + 32 * block

    def extent(self, block: int, i: int) -> int:
        return self.u64(self.fence(block) + 16) + 16 * i

    def version(self, block: int, i: int) -> int:
        return self.u64(self.fence(block) + 8) + 16 * i

    def mended(self) -> bytes:
        """With every checksum right."""
        h, crcs_offset = self.header, int(self.header["crcs_offset"])
        if BLOCK <= crcs_offset <= len(self.data):
            crcs = [crc32c(self.data[a : min(a + SPAN, crcs_offset)]) for a in range(BLOCK, crcs_offset, SPAN)]
            self.data[crcs_offset:] = struct.pack(f"<{len(crcs)}I", *crcs)
            h["crcs_crc"] = crc32c(self.data[crcs_offset:])
        h["crc"] = 0
        HEADER.pack_into(self.data, 0, *h.values())
        self.u32(12, crc32c(self.data[:BLOCK]))
        return bytes(self.data)


def sample_tree() -> ExtentTree:
    """302 extents in three blocks; the first has three versions, the next few one or two, the others one."""
    tree = ExtentTree(1000)
    for i in range(300):
        tree.insert(i + 1, 100 + 10 * i, 100 + 10 * i + 8, 1 << 32 | 8 * i + 8)
    tree.insert(301, 100, 128, 1 << 32 | 8 * 301)
    tree.insert(302, 100, 108, LOC_ZERO)
    return tree


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_tree(tmp_path / "run", sample_tree(), UUID, (1, 302), (1, 1))
    return tmp_path / "run"


def test_the_parser_here_reads_what_the_core_writes(path: Path) -> None:
    f = File(path.read_bytes())
    assert f.header["n_blocks"] == 3
    assert f.u64(f.extent(0, 0)) == 100
    assert [f.u64(f.version(0, i)) for i in range(3)] == [1, 301, 302]
    assert f.mended() == path.read_bytes()


def small_file(tmp_path: Path) -> tuple[Path, ExtentTree]:
    tree = ExtentTree(100)
    for seq, (start, end) in enumerate([(8, 16), (24, 32), (8, 12), (40, 48), (0, 50), (9, 10), (24, 28), (60, 61)], 1):
        tree.insert(seq, start, end, LOC_ZERO if seq == 4 else 1 << 32 | 8 * seq)
    write_tree(tmp_path / "run", tree, UUID, (1, 8), (1, 1))
    return tmp_path / "run", tree


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    """Wherever it lies: opening or verify says so, and what find answers is right."""
    path, tree = small_file(tmp_path)
    good = path.read_bytes()
    expected = [(x, iv, tree.find(x, iv)) for x in range(0, 64, 3) for iv in AS_OF]
    refused = caught = 0
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 + at * 37 % 255
        path.write_bytes(bad)
        try:
            run = Run(path, UUID)
        except Corruption:
            refused += 1
            continue
        with run:
            for x, iv, answer in expected:
                try:
                    assert run.find(x, iv) == answer, at
                except Corruption:
                    caught += 1
            with pytest.raises(Corruption):
                run.verify()
            if at % 32 == 0:
                with pytest.raises(Corruption):
                    merge(tmp_path / "m", [run], UUID, (1, 8), (1, 1))
    assert refused + caught > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_damage_far_from_the_fences_is_met_by_find(path: Path) -> None:
    """Opening reads the spans of the fences only; a find checks what it reads."""
    tree = ExtentTree(40_000)
    for i in range(40_000):
        tree.insert(i + 1, 8 * i, 8 * i + 4, 1 << 32 | i)
    write_tree(path, tree, UUID, (1, 40_000), (1, 1))
    good = path.read_bytes()
    rnd = random.Random(5)
    met = 0
    for _ in range(40):
        at = rnd.randrange(BLOCK, len(good) - 100_000)
        bad = bytearray(good)
        bad[at] ^= 1 << rnd.randrange(8)
        path.write_bytes(bad)
        with Run(path, UUID) as run:
            view = [(0, 2**40, ALL)]
            for i in range(0, 40_000, 97):
                try:
                    assert run.find(8 * i + 1, ALL) == (i + 1, (1 << 32 | i) + 1, 8 * i + 4)
                except Corruption:
                    met += 1
            with pytest.raises(Corruption, match="checksum"):
                lookup(view, [], [run], 0, 8 * 40_000, 200_000)
            with pytest.raises(Corruption, match="checksum"):
                run.verify()
    assert met > 0


def test_cut_off_and_grown_files(path: Path) -> None:
    good = path.read_bytes()
    for n in [0, 1, 111, 4095, 4096, 4097, len(good) - 4096, len(good) - 4, len(good) - 1]:
        path.write_bytes(good[:n])
        with pytest.raises(Corruption):
            Run(path, UUID)
    for tail in (b"\0", b"\0" * 4, good):
        path.write_bytes(good + tail)
        with pytest.raises(Corruption):
            Run(path, UUID)


def set_header(**values: int | Callable[[int], int]) -> Callable[[File], None]:
    def change(f: File) -> None:
        for name, value in values.items():
            f.header[name] = value(f.header[name]) if callable(value) else value

    return change


def swap_extents(f: File) -> None:
    a, b = f.extent(1, 3), f.extent(1, 4)
    f.data[a : a + 16], f.data[b : b + 16] = f.data[b : b + 16], f.data[a : a + 16]


def swap_versions(f: File) -> None:
    a, b = f.version(0, 0), f.version(0, 1)
    f.data[a : a + 16], f.data[b : b + 16] = f.data[b : b + 16], f.data[a : a + 16]


def move_fence(f: File) -> None:
    f.u64(f.fence(1) + 8, f.u64(f.fence(1) + 8) - 16)


# Each breaks one rule and has right checksums: (id, refused at opening, what is done).
OPEN, VERIFY = True, False
RULES: list[tuple[str, bool, Callable[[File], object]]] = [
    ("magic", OPEN, set_header(magic=1)),
    ("version", OPEN, set_header(version=2)),
    ("flags", OPEN, set_header(flags=1)),
    ("uuid", OPEN, lambda f: f.header.update(uuid=b"f" * 16)),
    ("file size", OPEN, set_header(file_bytes=lambda n: n + 4)),
    ("segments", OPEN, set_header(first_segment=2)),
    ("seqs", OPEN, set_header(first_seq=303)),
    ("seq 0", OPEN, set_header(first_seq=0)),
    ("fences before the blocks", OPEN, set_header(fences_offset=4080)),
    ("fences after the table", OPEN, set_header(fences_offset=1 << 40)),
    ("fences off by 16", OPEN, set_header(fences_offset=lambda n: n + 16)),
    ("table past the end", OPEN, set_header(crcs_offset=1 << 40)),
    ("table off by 4", OPEN, set_header(crcs_offset=lambda n: n - 4)),
    ("blocks", OPEN, set_header(n_blocks=lambda n: n + 1)),
    ("no blocks", OPEN, set_header(n_blocks=0)),
    ("most blocks", OPEN, set_header(n_blocks=2**64 - 1)),
    ("extents", OPEN, set_header(n_extents=lambda n: n + 1)),
    ("versions", OPEN, set_header(n_versions=lambda n: n - 1)),
    ("counts that wrap", OPEN, set_header(n_versions=lambda n: n + 2**63, n_extents=lambda n: n + 2**63)),
    ("one for the other", OPEN, set_header(n_versions=lambda n: n - 1, n_extents=lambda n: n + 1)),
    ("empty block", OPEN, lambda f: f.u32(f.fence(1) + 24, 0)),
    ("full block", OPEN, lambda f: f.u32(f.fence(1) + 24, 129)),
    ("fence's versions", OPEN, lambda f: f.u32(f.fence(1) + 28, 2**32 - 1)),
    ("fewer versions than extents", OPEN, lambda f: f.u32(f.fence(1) + 28, 1)),
    ("fence's place", OPEN, move_fence),
    ("fence's extents", OPEN, lambda f: f.u64(f.fence(1) + 16, 2**64 - 16)),
    ("fences equal", OPEN, lambda f: f.u64(f.fence(1), f.u64(f.fence(0)))),
    ("fence beyond any volume", OPEN, lambda f: f.u64(f.fence(2), MAX_SECTORS)),
    ("header padding", VERIFY, lambda f: f.data.__setitem__(4000, 1)),
    ("fence is not the first extent", VERIFY, lambda f: f.u64(f.fence(1), f.u64(f.fence(1)) - 1)),
    ("first extent is not the fence", VERIFY, lambda f: f.u64(f.extent(1, 0), f.u64(f.extent(1, 0)) + 1)),
    ("empty extent", VERIFY, lambda f: f.u32(f.extent(1, 3) + 8, 0)),
    ("extents overlap", VERIFY, lambda f: f.u32(f.extent(1, 3) + 8, 11)),
    ("blocks overlap", VERIFY, lambda f: f.u32(f.extent(1, 127) + 8, 11)),
    ("extents swapped", VERIFY, swap_extents),
    ("extent beyond any volume", VERIFY, lambda f: f.u64(f.extent(2, 5), MAX_SECTORS)),
    ("last extent beyond any volume", VERIFY, lambda f: f.u64(f.extent(2, 45), MAX_SECTORS - 7)),
    ("column begins late", VERIFY, lambda f: f.u32(f.extent(1, 0) + 12, 1)),
    ("column is empty", VERIFY, lambda f: f.u32(f.extent(1, 3) + 12, f.u32(f.extent(1, 4) + 12))),
    ("column goes back", VERIFY, lambda f: f.u32(f.extent(1, 3) + 12, 0)),
    ("column past the block", VERIFY, lambda f: f.u32(f.extent(1, 3) + 12, 129)),
    ("column far past the block", VERIFY, lambda f: f.u32(f.extent(1, 127) + 12, 2**32 - 1)),
    ("versions swapped", VERIFY, swap_versions),
    ("seq twice", VERIFY, lambda f: f.u64(f.version(0, 1), f.u64(f.version(0, 0)))),
    ("seq before the run", VERIFY, set_header(first_seq=2)),
    ("seq after the run", VERIFY, set_header(last_seq=301)),
    ("location 0", VERIFY, lambda f: f.u64(f.version(2, 0) + 8, 0)),
    ("location BASE", VERIFY, lambda f: f.u64(f.version(2, 0) + 8, 3)),
]


@pytest.mark.parametrize(("at_open", "change"), [r[1:] for r in RULES], ids=[r[0] for r in RULES])
def test_each_rule(path: Path, at_open: bool, change: Callable[[File], object]) -> None:
    f = File(path.read_bytes())
    change(f)
    path.write_bytes(f.mended())
    if at_open:
        with pytest.raises(Corruption):
            Run(path, UUID)
        return
    with Run(path, UUID) as run:
        for sector in range(90, 3120):  # never a crash; progress always
            try:
                assert run.find(sector, [(3, 2**64 - 1), (0, 2)])[2] > sector
            except Corruption:
                pass
        try:
            lookup([(0, 2**40, ALL)], [], [run], 0, 4000)
        except Corruption:
            pass
        with pytest.raises(Corruption):
            run.verify()


@pytest.mark.parametrize(
    ("sector", "change"),
    [
        (1360, lambda f: f.u64(f.extent(1, 0), 1365)),  # the sector is the block's first
        (1392, lambda f: f.u32(f.extent(1, 3) + 8, 11)),
        (1392, lambda f: f.u32(f.extent(1, 3) + 12, 129)),
        (1392, lambda f: f.u32(f.extent(1, 3) + 12, 4)),
    ],
    ids=["first extent", "overlap", "column past the block", "empty column"],
)
def test_find_says_so_where_the_rule_is_broken(path: Path, sector: int, change: Callable[[File], object]) -> None:
    f = File(path.read_bytes())
    change(f)
    with Run(path, UUID) as run:
        assert run.find(sector, ALL)[0] is not None
    path.write_bytes(f.mended())
    with Run(path, UUID) as run, pytest.raises(Corruption):
        run.find(sector, ALL)


@pytest.mark.parametrize("change", [swap_versions, lambda f: f.u64(f.version(0, 1), f.u64(f.version(0, 0)))],
                         ids=["swapped", "twice"])
def test_merge_does_not_pass_on_a_column_out_of_order(path: Path, change: Callable[[File], object]) -> None:
    f = File(path.read_bytes())
    change(f)
    path.write_bytes(f.mended())
    with Run(path, UUID) as run, pytest.raises(Corruption, match="order"):
        merge(path.with_name("m"), [run], UUID, (1, 302), (1, 1))
    assert [p.name for p in path.parent.iterdir()] == ["run"]


SOURCES = ["base/crc32c", "base/status", "index/extent_tree", "index/run", "index/run_write", "index/run_merge",
           "index/lookup"]
FLAGS = ["-std=c11", "-D_GNU_SOURCE", f"-I{C_DIR}", *(str(C_DIR / f"{name}.c") for name in SOURCES), "-lpthread"]


def compiler() -> list[str]:
    return (sysconfig.get_config_var("CC") or "cc").split()


@pytest.mark.long
@pytest.mark.soak
def test_random_damage_under_sanitizers(tmp_path: Path, seeds: Seeds) -> None:
    """The C driver: histories, merges, look-ups, damaged files, failing calls; any report of a sanitizer fails it."""
    sanitize = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    probe = tmp_path / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    build_probe = [*compiler(), *sanitize, str(probe), "-o", str(tmp_path / "probe")]
    built = subprocess.run(build_probe, capture_output=True, check=False)
    if built.returncode != 0:
        pytest.skip("this compiler has no sanitizers")
    driver = tmp_path / "fuzz"
    subprocess.run([*compiler(), *sanitize, str(HERE / "c" / "index_fuzz.c"), *FLAGS, "-o", str(driver)], check=True)
    env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}  # the sanitizer insists on coming first
    for seed in seeds(1):
        done = subprocess.run([str(driver), str(tmp_path), str(seed), "150"], capture_output=True, text=True, env=env,
                              check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_bench_runs(tmp_path: Path) -> None:
    program = tmp_path / "bench"
    subprocess.run([*compiler(), "-O1", str(HERE / "c" / "index_bench.c"), *FLAGS, "-o", str(program)], check=True)
    done = subprocess.run([str(program), str(tmp_path), "8000", "1000"], capture_output=True, text=True, check=True)
    assert "bytes a record" in done.stdout
