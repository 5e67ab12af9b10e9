"""Compression of one device's gradient, under its public name; it lives in :mod:`scadles.exchange.compression`."""

from scadles.exchange.compression import *  # noqa: F403
from scadles.exchange.compression import __all__ as __all__
