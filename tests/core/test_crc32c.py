"""CRC-32C: published vectors, and the implementations against each other at every alignment and many lengths."""
import functools
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.seeds import examples

from cdpcore.base.checksum import crc32c, crc32c_blocks, crc32c_by, crc32c_names

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]

Crc = Callable[..., int]
NAMES = crc32c_names()
ALL = pytest.mark.parametrize("crc", [crc32c, *(functools.partial(crc32c_by, name) for name in NAMES)],
                              ids=["chosen", *NAMES])
FAST = pytest.mark.parametrize("name", NAMES[:-1])


@ALL
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # RFC 3720, B.4, as are the next three
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_vectors(crc: Crc, data: bytes, expected: int) -> None:
    assert crc(data) == expected


def test_names_are_of_implementations() -> None:
    assert NAMES[-1] == "portable" and len(set(NAMES)) == len(NAMES)
    assert set(NAMES) <= {"avx512+vpclmulqdq", "sse4.2+pclmul", "armv8-crc", "portable"}
    with pytest.raises(KeyError):
        crc32c_by("sse", b"")


@FAST
def test_twins_agree_at_all_alignments(name: str) -> None:
    data = memoryview(random.Random(1).randbytes(600))
    for at in range(17):
        for n in range(540):
            piece = data[at : at + n]
            assert crc32c_by(name, piece, 0xDEADBEEF) == crc32c_by("portable", piece, 0xDEADBEEF), (at, n)


# Around the lengths where one stretch of the three chains gives way to another (120, 504, 4080) and their multiples;
# where folding begins (512) and steps by 256 and 64.
@FAST
@pytest.mark.parametrize("edge", [120, 504, 512, 576, 624, 768, 832, 1008, 1024, 4080, 4096, 4080 + 504, 2 * 4080,
                                  65536, 16 * 4080, 1 << 20])
def test_twins_agree_around_edges(edge: int, name: str) -> None:
    data = memoryview(random.Random(edge).randbytes(edge + 40))
    for n in range(edge - 17, edge + 18):
        at = n % 23
        assert crc32c_by(name, data[at : at + n], n) == crc32c_by("portable", data[at : at + n], n), n


@ALL
@pytest.mark.soak
@examples(100)
@given(st.lists(st.binary(max_size=6000), max_size=6))
def test_chaining_equals_one_pass(crc: Crc, parts: list[bytes]) -> None:
    value = 0
    for part in parts:
        value = crc(part, value)
    assert value == crc(b"".join(parts))


@pytest.mark.parametrize("n", [0, 1, 4095, 4096, 4097, 8192, 3 * 4096 + 511, 64 << 10, 1 << 20])
@pytest.mark.parametrize("of_zeros", [False, True])
def test_blocks_and_the_whole_in_one_pass(n: int, of_zeros: bool) -> None:
    data = bytes(n) if of_zeros else random.Random(n).randbytes(n)
    assert crc32c_blocks(data) == (crc32c(data), [crc32c(data[at : at + 4096]) for at in range(0, n - 4095, 4096)])


@pytest.mark.soak
@examples(100)
@given(st.binary(min_size=1, max_size=5000), st.data())
def test_any_single_bit_changes_it(data: bytes, draw: st.DataObject) -> None:
    bit = draw.draw(st.integers(0, len(data) * 8 - 1))
    other = bytearray(data)
    other[bit // 8] ^= 1 << bit % 8
    assert crc32c(data) != crc32c(other)


@ALL
def test_arguments(crc: Crc) -> None:
    assert crc(memoryview(bytearray(b"123456789"))) == 0xE3069283
    assert crc(b"6789", crc(b"12345")) == 0xE3069283
    with pytest.raises(TypeError):
        crc("text")
    with pytest.raises(BufferError):
        crc(memoryview(bytes(16))[::2])
    for bad in (-1, 1 << 32):
        with pytest.raises(OverflowError):
            crc(b"", bad)
