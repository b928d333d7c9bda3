"""Histograms of times that many threads share, against numpy; and the counts of a volume's stages."""
import threading

import numpy as np
import pytest

from cdpcore.base.errors import InvalidRequest
from cdpcore.base.histogram import BUCKETS, QUANTILES, Histogram, upper
from cdpcore.base.stages import REQUEST_NAMES, SOURCE_NAMES, STAGE_NAMES, Stages

UPPERS = np.array([upper(bucket) for bucket in range(BUCKETS)], np.uint64)


def counted(times: np.ndarray) -> list[list[int]]:
    """What the buckets of a histogram hold, by numpy."""
    counts = np.bincount(np.searchsorted(UPPERS, times), minlength=BUCKETS)
    return [[int(UPPERS[i]), int(counts[i])] for i in np.flatnonzero(counts)]


@pytest.mark.parametrize("seed", range(5))
def test_every_time_is_in_its_bucket(seed: int):
    rng = np.random.default_rng(seed)
    times = np.concatenate([
        np.exp2(rng.uniform(0, 63.9, 20_000)).astype(np.uint64), rng.lognormal(10, 2, 20_000).astype(np.uint64),
        UPPERS, UPPERS[:-1] + np.uint64(1), np.array([0, 1, 2**64 - 1], np.uint64)])
    histogram = Histogram()
    histogram.add_all(times)
    found = histogram.describe(buckets=True)
    assert found["buckets"] == counted(times)
    assert found["count"] == len(times) and found["max_ns"] == int(times.max())
    assert found["total_ns"] == sum(map(int, times)) % 2**64


@pytest.mark.parametrize("n", [1, 2, 3, 999, 1000, 1001, 54_321])
def test_a_quantile_is_the_upper_end_of_the_right_bucket(n: int):
    times = np.random.default_rng(n).lognormal(11, 1.5, n).astype(np.uint64)
    histogram = Histogram()
    histogram.add_all(times)
    found = histogram.describe()
    for name, per_mille in QUANTILES.items():
        exact = int(np.sort(times)[-(-n * per_mille // 1000) - 1])
        assert found[name] == min(upper(int(np.searchsorted(UPPERS, exact))), int(times.max()))
        assert exact <= found[name] <= exact * 9 // 8 + 1
    assert "buckets" not in found


def test_buckets_are_one_eighth_of_an_octave_and_end():
    assert [upper(i) for i in range(10)] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert np.all(UPPERS[1:] > UPPERS[:-1])
    wide = UPPERS[8:-1].astype(float)
    assert np.all((wide[1:] - wide[:-1]) / (wide[:-1] + 1) <= 0.125)
    assert UPPERS[-2] == 2**40 - 1 and UPPERS[-1] == 2**64 - 1
    with pytest.raises(InvalidRequest):
        upper(BUCKETS)


def test_an_empty_histogram_has_zeros():
    assert Histogram().describe(True) == {
        "count": 0, "total_ns": 0, "p50_ns": 0, "p90_ns": 0, "p99_ns": 0, "p999_ns": 0, "max_ns": 0, "buckets": []}


def test_one_stands_for_many():
    histogram = Histogram()
    histogram.add(1000, 16)
    histogram.add(5, 3)
    found = histogram.describe(True)
    assert found["count"] == 19 and found["total_ns"] == 16_015
    assert [count for _, count in found["buckets"]] == [3, 16]


def test_no_count_of_several_threads_is_lost():
    histogram, n = Histogram(), 200_000
    all_of = [np.random.default_rng(i).integers(0, 1 << 20, n, np.uint64) for i in range(4)]
    seen, over = [], threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.append(histogram.describe()["count"])

    reader = threading.Thread(target=look)
    writers = [threading.Thread(target=histogram.add_all, args=(times,)) for times in all_of]
    reader.start()
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    over.set()
    reader.join()
    found, times = histogram.describe(True), np.concatenate(all_of)
    assert found["buckets"] == counted(times)
    assert (found["total_ns"], found["max_ns"]) == (int(times.sum()), int(times.max()))
    assert seen == sorted(seen)


def test_stages_begin_at_zero():
    found = Stages().describe()
    assert list(found["requests"]) == list(REQUEST_NAMES) and list(found["stages"]) == list(STAGE_NAMES)
    assert list(found["sources"]) == list(SOURCE_NAMES)
    assert all(one["count"] == 0 for one in (*found["requests"].values(), *found["stages"].values()))
    assert found["request_bytes"] == {"read": 0, "written": 0} and found["parked"] == 0
