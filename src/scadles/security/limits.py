"""How often something may happen: token buckets, one for each who asks and one for all together."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from threading import Lock
from typing import NamedTuple

_MOST_KEYS = 4096
_NETWORK_BITS = 64  # of an IPv6 address: the rest a host chooses by itself


class Rate(NamedTuple):
    """How often something may happen.

    Attributes:
        hz: times a second in the long run.
        burst: times at once after a pause.
    """

    hz: float
    burst: int


class Bucket:
    """A token bucket: what happens takes a token, and tokens come back with time.

    Args:
        rate: how fast, and how many there are at most.
        now_s: monotonic seconds.

    >>> bucket = Bucket(Rate(hz=2.0, burst=1), 0.0)
    >>> bucket.take(0.0), bucket.take(0.1), bucket.wait_s(0.1), bucket.take(0.5)
    (True, False, 0.4, True)
    """

    def __init__(self, rate: Rate, now_s: float) -> None:
        self._rate = rate
        self._tokens = float(rate.burst)
        self._filled_s = now_s

    def take(self, now_s: float) -> bool:
        """Take a token; return whether there was one."""
        self._fill(now_s)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def wait_s(self, now_s: float) -> float:
        """Return in how many seconds there will be a token."""
        self._fill(now_s)
        return max(0.0, 1.0 - self._tokens) / self._rate.hz

    def give_back(self) -> None:
        """Put a token back, as if what took it had not happened."""
        self._tokens = min(self._tokens + 1.0, self._rate.burst)

    def _fill(self, now_s: float) -> None:
        passed_s = max(0.0, now_s - self._filled_s)
        self._tokens = min(self._tokens + passed_s * self._rate.hz, self._rate.burst)
        self._filled_s = now_s


class Limits:
    """How often each of many may do something, and all of them together; any thread may ask.

    Of very many those are forgotten that have not asked for longest, so that memory is bounded; the limit for all
    holds for them as well.

    Args:
        each: for each key by itself.
        together: for all that are not trusted; None for no such limit.
    """

    def __init__(self, each: Rate, together: Rate | None = None) -> None:
        self._each = each
        self._together = None if together is None else Bucket(together, 0.0)
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._trusted: OrderedDict[str, None] = OrderedDict()
        self._lock = Lock()

    def take(self, key: str, now_s: float) -> bool:
        """Return whether a key may do it once more, and count that.

        Args:
            key: who asks.
            now_s: monotonic seconds.
        """
        with self._lock:
            bucket = self._buckets.setdefault(key, Bucket(self._each, now_s))
            self._buckets.move_to_end(key)
            if len(self._buckets) > _MOST_KEYS:
                self._buckets.popitem(last=False)
            if not bucket.take(now_s):
                return False
            return key in self._trusted or self._together is None or self._together.take(now_s)

    def trust(self, key: str) -> None:
        """Take note that what a key did was in order: that does not count, and all others leave it alone from now on.

        What it may do by itself stays limited.
        """
        with self._lock:
            if key in self._buckets:
                self._buckets[key].give_back()
            if key not in self._trusted and self._together is not None:
                self._together.give_back()
            self._trusted[key] = None
            self._trusted.move_to_end(key)
            if len(self._trusted) > _MOST_KEYS:
                self._trusted.popitem(last=False)


def origin(address: str) -> str:
    """Return what stands for whoever connects from an IP address: the address, or with IPv6 its network.

    >>> origin("10.0.0.9"), origin("::ffff:10.0.0.9"), origin("2001:db8:0:7:1::2"), origin("fe80::1%eth0")
    ('10.0.0.9', '10.0.0.9', '2001:db8:0:7::/64', 'fe80::/64')
    """
    found = ip_address(address)
    if not isinstance(found, IPv6Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    bits = 128 - _NETWORK_BITS
    return f"{IPv6Address(int(found) >> bits << bits)}/{_NETWORK_BITS}"
