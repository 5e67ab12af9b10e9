"""Targets that come later than their samples: two streams joined by the ids of samples."""

from __future__ import annotations

from scadles.streams.late.codecs import KeyedCodec, TargetCodec
from scadles.streams.late.replayed import ReplayedTargets, delays
from scadles.streams.late.source import LateSource

__all__ = ["KeyedCodec", "LateSource", "ReplayedTargets", "TargetCodec", "delays"]
