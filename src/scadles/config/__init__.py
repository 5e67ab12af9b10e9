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
from scadles.config.learning import (
    AggregationConfig,
    BatchConfig,
    BufferConfig,
    LearningRateConfig,
    OptimizerConfig,
)
from scadles.config.load import ConfigLike, load_config, overridden, settings_tree, with_devices
from scadles.config.names import Names, Text, leaves, named_by, texts_in
from scadles.config.operation import CheckpointConfig, ClockConfig, EvaluationConfig, FabricConfig, SimulationConfig
from scadles.config.reading import read_yaml
from scadles.config.stream import ProfileConfig, StreamConfig
from scadles.config.task import PartTask, TargetConfig, TaskConfig
from scadles.config.tree import METHODS, RunConfig, merged

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
    "Names",
    "OptimizerConfig",
    "PartTask",
    "ProfileConfig",
    "QuantityConfig",
    "RunConfig",
    "SimulationConfig",
    "StreamConfig",
    "TargetConfig",
    "TaskConfig",
    "Text",
    "cost_profiles",
    "leaves",
    "load_config",
    "merged",
    "named_by",
    "overridden",
    "read_yaml",
    "settings_tree",
    "texts_in",
    "with_devices",
]
