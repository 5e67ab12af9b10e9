"""What a run did: typed events, progress on the terminal, and tables and plots from run folders."""

from scadles.observe.compare import Comparison, compare
from scadles.observe.drawing import evenly
from scadles.observe.events import (
    EVENTS,
    CheckpointWritten,
    Evaluation,
    Event,
    Finished,
    Header,
    InitialValues,
    Loss,
    Membership,
    NonFinite,
    Notice,
    Rejection,
    Resumed,
    SetAside,
    Step,
    StrayTarget,
    Thinned,
    WindowChange,
)
from scadles.observe.gaps import scan_events
from scadles.observe.label_distribution import MOST_DEVICES, LabelDistribution
from scadles.observe.log import EventLog
from scadles.observe.plots import plot_comparison, plot_run
from scadles.observe.progress import Progress
from scadles.observe.rundir import (
    CONFIG_FILE,
    RunFolder,
    default_folder,
    events_path,
    new_run_folder,
    occupied,
    read_events,
    write_config,
)
from scadles.observe.summary import (
    SUMMARY_FILE,
    Away,
    ChosenWindow,
    Compressed,
    DeviceSummary,
    Measured,
    Outlier,
    Samples,
    Seconds,
    Shared,
    Simulated,
    Summary,
)
from scadles.observe.sweep_picture import plot_sweep
from scadles.observe.sweep_progress import SweepProgress
from scadles.observe.sweep_table import SweepResult, SweepRow, SweepRun
from scadles.observe.timeline import plot_timeline

__all__ = [
    "CONFIG_FILE",
    "EVENTS",
    "MOST_DEVICES",
    "SUMMARY_FILE",
    "Away",
    "CheckpointWritten",
    "ChosenWindow",
    "Comparison",
    "Compressed",
    "DeviceSummary",
    "Evaluation",
    "Event",
    "EventLog",
    "Finished",
    "Header",
    "InitialValues",
    "LabelDistribution",
    "Loss",
    "Measured",
    "Membership",
    "NonFinite",
    "Notice",
    "Outlier",
    "Progress",
    "Rejection",
    "Resumed",
    "RunFolder",
    "Samples",
    "Seconds",
    "SetAside",
    "Shared",
    "Simulated",
    "Step",
    "StrayTarget",
    "Summary",
    "SweepProgress",
    "SweepResult",
    "SweepRow",
    "SweepRun",
    "Thinned",
    "WindowChange",
    "compare",
    "default_folder",
    "evenly",
    "events_path",
    "new_run_folder",
    "occupied",
    "plot_comparison",
    "plot_run",
    "plot_sweep",
    "plot_timeline",
    "read_events",
    "scan_events",
    "write_config",
]
