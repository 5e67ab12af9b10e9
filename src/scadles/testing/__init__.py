"""Check suites for whoever writes a source of their own."""

from scadles.testing.sources import SOURCE_CHECKS, SourceFactory

__all__ = ["SOURCE_CHECKS", "SourceFactory"]
