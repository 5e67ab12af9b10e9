"""What a run is: one frozen tree of settings. YAML in, ``--set a.b=c`` over it, YAML out into the run folder."""

from scadles.config.load import load_config
from scadles.config.tree import (
    METHODS,
    AggregationConfig,
    BatchConfig,
    BufferConfig,
    CheckpointConfig,
    ClockConfig,
    DataConfig,
    EvaluationConfig,
    FabricConfig,
    LearningRateConfig,
    OptimizerConfig,
    ProfileConfig,
    RunConfig,
    StreamConfig,
)

__all__ = [
    "METHODS",
    "AggregationConfig",
    "BatchConfig",
    "BufferConfig",
    "CheckpointConfig",
    "ClockConfig",
    "DataConfig",
    "EvaluationConfig",
    "FabricConfig",
    "LearningRateConfig",
    "OptimizerConfig",
    "ProfileConfig",
    "RunConfig",
    "StreamConfig",
    "load_config",
]
