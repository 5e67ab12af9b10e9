"""Check suites for whoever writes a source or a fabric of their own."""

from scadles.testing.fabrics import FABRIC_CHECKS, FabricCheck
from scadles.testing.sources import SOURCE_CHECKS, SourceFactory

__all__ = ["FABRIC_CHECKS", "SOURCE_CHECKS", "FabricCheck", "SourceFactory"]
