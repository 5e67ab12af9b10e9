"""Codecs: the formats in which samples travel as messages."""

from scadles.streams.codec.contract import Codec, Decoded
from scadles.streams.codec.formats import make_codec

__all__ = ["Codec", "Decoded", "make_codec"]
