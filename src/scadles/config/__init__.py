"""What a run is: one frozen tree of settings. YAML in, ``--set a.b=c`` over it, YAML out into the run folder."""

from scadles.config.codec import CodecConfig
from scadles.config.compression import CompressionConfig
from scadles.config.cost import (
    AvailabilityConfig,
    ComputeConfig,
    CostConfig,
    LinkConfig,
    QuantityConfig,
    cost_profiles,
)
from scadles.config.data import DataConfig
from scadles.config.injection import InjectionConfig
from scadles.config.load import ConfigLike, load_config, overridden
from scadles.config.reading import read_yaml
from scadles.config.stream import ProfileConfig, StreamConfig
from scadles.config.task import PartTask, TargetConfig, TaskConfig
from scadles.config.tree import (
    METHODS,
    AggregationConfig,
    BatchConfig,
    BufferConfig,
    CheckpointConfig,
    ClockConfig,
    EvaluationConfig,
    FabricConfig,
    LearningRateConfig,
    OptimizerConfig,
    RunConfig,
    SimulationConfig,
    merged,
)

__all__ = [
    "METHODS",
    "AggregationConfig",
    "AvailabilityConfig",
    "BatchConfig",
    "BufferConfig",
    "CheckpointConfig",
    "ClockConfig",
    "CodecConfig",
    "CompressionConfig",
    "ComputeConfig",
    "ConfigLike",
    "CostConfig",
    "DataConfig",
    "EvaluationConfig",
    "FabricConfig",
    "InjectionConfig",
    "LearningRateConfig",
    "LinkConfig",
    "OptimizerConfig",
    "PartTask",
    "ProfileConfig",
    "QuantityConfig",
    "RunConfig",
    "SimulationConfig",
    "StreamConfig",
    "TargetConfig",
    "TaskConfig",
    "cost_profiles",
    "load_config",
    "merged",
    "overridden",
    "read_yaml",
]
