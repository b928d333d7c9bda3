"""Pages of checksums in memory: what is found is of one page, whatever is exchanged meanwhile; and what has room."""
from __future__ import annotations

import struct
import threading
import time

import pytest

from cdpcore.base.errors import InvalidRequest
from cdpcore.log.sums_pages import SumsPages

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]

SLOTS = 1024
EXCHANGES = 60
ONE_SET = [1 + 256 * i for i in range(5)]  # files whose pages share a set of four


def page_of(number: int, page: int) -> bytes:
    return struct.pack("<I", number << 16 | page) * 1023


def hammer(*rules: str) -> tuple[int, int]:
    """(whole, mixed): pages found while those of one set are exchanged."""
    pages = SumsPages()
    for rule in rules:
        pages.break_rule(rule)
    for number in ONE_SET[:4]:
        pages.put(number, 0, page_of(number, 0))
    over = threading.Event()
    seen = [0, 0]

    def read() -> None:
        while not over.is_set():
            for number in ONE_SET:
                found = pages.find(number, 0)
                if found is not None:
                    seen[found != page_of(number, 0)] += 1

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for i in range(EXCHANGES):
            pages.put(ONE_SET[i % 5], 0, page_of(ONE_SET[i % 5], 0))
            time.sleep(0)
    finally:
        over.set()
        reader.join()
    return seen[0], seen[1]


def test_what_is_found_is_of_one_page() -> None:
    whole, mixed = hammer("slow")
    assert whole and not mixed


@pytest.mark.planted
def test_an_exchange_that_readers_do_not_notice_is_noticed_here() -> None:
    for _ in range(20):
        if hammer("slow", "turn")[1]:
            return
    pytest.fail("nothing was noticed")


@pytest.mark.parametrize("per_file", [1, 2, 4, 16, 64])
def test_files_with_few_pages_do_not_drive_each_other_out(per_file: int) -> None:
    """A quarter of the slots is left for what does not come out even."""
    pages = SumsPages()
    put = [(number, page) for number in range(7, 7 + SLOTS * 3 // 4 // per_file) for page in range(per_file)]
    for number, page in put:
        pages.put(number, page, page_of(number, page))
    here = [pages.find(number, page, 5, 1) == page_of(number, page)[:4] for number, page in put]
    assert all(here)


def test_the_bound_and_what_goes() -> None:
    pages = SumsPages()
    for number in range(3, 3 + 2 * SLOTS):
        pages.put(number, 0, page_of(number, 0))
    here = [n for n in range(3, 3 + 2 * SLOTS) if pages.find(n, 0) is not None]
    assert len(here) == SLOTS and here[-1] == 2 + 2 * SLOTS
    pages.drop(here[-1])
    assert pages.find(here[-1], 0) is None and pages.find(here[-2], 0) == page_of(here[-2], 0)
    pages.put(here[-2], 0, page_of(9, 9))
    assert pages.find(here[-2], 0, 1022, 1) == page_of(9, 9)[:4]


def test_the_base_is_a_file_too() -> None:
    pages = SumsPages()
    assert pages.find(0, 0) is None
    pages.put(0, 0, page_of(0, 0))
    pages.put(0, (1 << 32) - 2, page_of(0, 7))
    pages.put(1, 0, page_of(1, 0))
    pages.drop(0)
    assert pages.find(0, 0) is None and pages.find(0, (1 << 32) - 2) is None and pages.find(1, 0) == page_of(1, 0)


def test_arguments() -> None:
    pages = SumsPages()
    for first, n in [(0, 1024), (1023, 1), (1024, 0), (5, 1019)]:
        with pytest.raises(InvalidRequest):
            pages.find(1, 0, first, n)
    with pytest.raises(InvalidRequest):
        pages.put(1, 0, bytes(4096))
