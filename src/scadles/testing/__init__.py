"""Check suites for whoever writes a source or a fabric of their own."""

from scadles.testing.elastic import ELASTIC_CHECKS, ElasticCheck
from scadles.testing.fabrics import FABRIC_CHECKS, FabricCheck
from scadles.testing.sources import SOURCE_CHECKS, SourceFactory

__all__ = ["ELASTIC_CHECKS", "FABRIC_CHECKS", "SOURCE_CHECKS", "ElasticCheck", "FabricCheck", "SourceFactory"]
