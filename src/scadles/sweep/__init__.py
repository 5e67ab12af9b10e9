"""Many simulated runs: every combination of some settings, with several seeds each."""

from scadles.observe import SweepResult, SweepRow, SweepRun
from scadles.sweep.run import sweep

__all__ = ["SweepResult", "SweepRow", "SweepRun", "sweep"]
