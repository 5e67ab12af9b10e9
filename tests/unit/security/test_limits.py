"""How often something may happen."""

import pytest

from scadles.security import Bucket, Limits, Rate, limits


def test_a_burst_and_then_a_rate():
    bucket = Bucket(Rate(hz=2.0, burst=3), 10.0)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait_s(10.0) == 0.5
    assert [bucket.take(10.5) for _ in range(2)] == [True, False]
    assert sum(bucket.take(10.5 + i / 1000) for i in range(10_000)) == 19, "ten seconds less the one that was taken"
    assert sum(bucket.take(1e6) for _ in range(9)) == 3, "a pause makes no more than a burst"
    bucket.give_back()
    assert bucket.take(1e6)


def test_a_clock_that_stands_still_or_goes_back():
    bucket = Bucket(Rate(hz=1.0, burst=1), 5.0)
    assert bucket.take(5.0)
    assert not bucket.take(3.0)
    assert bucket.wait_s(3.0) == 1.0


def test_each_by_itself_and_all_together():
    asked = Limits(Rate(hz=1.0, burst=2), Rate(hz=1.0, burst=5))
    assert [asked.take(key, 0.0) for key in "aaabbb"] == [True, True, False] * 2
    assert [asked.take(key, 0.0) for key in "cd"] == [True, False], "one was left for all others"
    assert asked.take("d", 1.0)


def test_who_is_trusted_needs_no_share_of_what_is_for_strangers():
    asked = Limits(Rate(hz=1.0, burst=2), Rate(hz=1.0, burst=2))
    assert asked.take("fleet", 0.0)
    asked.trust("fleet")
    assert [asked.take(key, 0.0) for key in "ab"] == [True, True], "what was in order does not count"
    assert not asked.take("c", 0.0)
    assert [asked.take("fleet", 0.0) for _ in range(3)] == [True, True, False]
    for _ in range(100):  # a whole fleet behind one address, each in order
        asked.trust("fleet")
        assert asked.take("fleet", 0.0)


@pytest.mark.parametrize("trusted", [False, True])
def test_memory_is_bounded(monkeypatch, trusted):
    monkeypatch.setattr(limits, "_MOST_KEYS", 3)
    asked = Limits(Rate(hz=1.0, burst=1), Rate(hz=1.0, burst=1000))
    for key in range(100):
        assert asked.take(str(key), 0.0)
        if trusted:
            asked.trust(str(key))
    assert len(asked._buckets) == 3
    assert len(asked._trusted) == (3 if trusted else 0)
    assert asked.take("99", 0.0) is trusted, "the last ones are remembered"
