"""Streams: the source contract, its implementations by URL, and how fast records come."""

from scadles.streams import kafka, mqtt, python  # noqa: F401 - they register their schemes
from scadles.streams.arrivals import Arrivals
from scadles.streams.codec import Codec, Decoded, make_codec
from scadles.streams.contract import Records, Rejected, Source
from scadles.streams.inspection import Inspector
from scadles.streams.meter import RateMeter
from scadles.streams.profile import RateProfile
from scadles.streams.rates import RATE_SETS, RateSet, draw_rates
from scadles.streams.registry import SourceURL, open_source_url, register_source
from scadles.streams.replay import ReplaySource, Samples

__all__ = [
    "RATE_SETS",
    "Arrivals",
    "Codec",
    "Decoded",
    "Inspector",
    "RateMeter",
    "RateProfile",
    "RateSet",
    "Records",
    "Rejected",
    "ReplaySource",
    "Samples",
    "Source",
    "SourceURL",
    "draw_rates",
    "make_codec",
    "open_source_url",
    "register_source",
]
