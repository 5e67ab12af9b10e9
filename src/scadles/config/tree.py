"""The tree of settings.

``method`` is the one dial that decides the rest: it fills in whatever the user left open
(:data:`METHODS`), and every single setting can still be given on its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from scadles.config.compression import CompressionConfig
from scadles.config.cost import CostConfig
from scadles.config.data import DataConfig
from scadles.config.injection import InjectionConfig
from scadles.config.learning import (
    ROBUST_MEANS,
    AggregationConfig,
    BatchConfig,
    BufferConfig,
    LearningRateConfig,
    OptimizerConfig,
)
from scadles.config.names import FILE, Names
from scadles.config.operation import (
    CheckpointConfig,
    ClockConfig,
    EvaluationConfig,
    EventsConfig,
    FabricConfig,
    SimulationConfig,
)
from scadles.config.section import Section, what_is_said
from scadles.config.stream import StreamConfig
from scadles.config.task import TargetConfig, Task, TaskConfig

if TYPE_CHECKING:
    from typing_extensions import Self

METHODS: dict[str, dict[str, Any]] = {
    "ddl": {
        "buffer": {"policy": "persistence"},
        "batch": {"rule": "fixed"},
        "aggregation": {"mean": "plain"},
        "lr": {"scaling": "none"},
    },
    "scadles": {
        "buffer": {"policy": "truncation"},
        "batch": {"rule": "rate"},
        "aggregation": {"mean": "weighted"},
        "lr": {"scaling": "auto"},
    },
    "auto": {
        "buffer": {"policy": "truncation"},
        "batch": {"rule": "rate", "window": "auto"},
        "aggregation": {"mean": "weighted"},
        "lr": {"scaling": "auto", "rate": "auto", "guard": True},
        "compression": {"ratio": "auto"},
    },
}

#: Kinds of task, and types of samples, of which it must be known how many values there may be.
_OF_CLASSES = ("classification", "multilabel", "segmentation", "language")
_IDENTIFIERS = ("int8", "int16", "int32", "int64")


class RunConfig(Section):
    """One run, whole."""

    method: Literal["scadles", "ddl", "auto"] = Field(default="scadles", description="fills in what is left open below")
    devices: int = Field(default=1, ge=1, le=1_000_000, description="how many take part; torchrun and --local set it")
    seed: int = Field(default=0, ge=0, description="of every random draw")
    model: Annotated[str, Names("code", unless=r"[^:]*|torchvision:.*")] = Field(
        default="mlp",
        description="mlp | cnn | resnet8 | autoencoder | torchvision:NAME | none (simulate only: learns nothing) | "
        "MODULE:CALLABLE",
    )
    normalization: Literal["batch", "group"] = Field(
        default="batch", description="batch: as the model has it; group: GroupNorm in place of BatchNorm"
    )
    init_from: Annotated[Path | None, FILE] = Field(
        default=None,
        description="start from the values in a model.safetensors or a run's folder; --resume does not read it",
    )
    target_accuracy: float | None = Field(default=None, gt=0, le=1, description="share of the test set to get right")
    target: TargetConfig | None = Field(
        default=None, description="what to reach of any metric of the task, in place of target_accuracy"
    )
    stop_at_target: bool = Field(default=True, description="end when the target is reached")
    steps: int | None = Field(default=None, ge=1, description="stop after so many steps")
    duration_s: float | None = Field(default=None, gt=0, description="stop after so many stream seconds")
    picture: bool = Field(default=True, description="draw progress.png at the end, where the extra plots is installed")
    task: Task = TaskConfig()
    data: DataConfig = DataConfig()
    stream: StreamConfig = StreamConfig()
    buffer: BufferConfig = BufferConfig()
    batch: BatchConfig = BatchConfig()
    aggregation: AggregationConfig = AggregationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    lr: LearningRateConfig = LearningRateConfig()
    clock: ClockConfig = ClockConfig()
    fabric: FabricConfig = FabricConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    events: EventsConfig = EventsConfig()
    simulation: SimulationConfig = SimulationConfig()
    injection: InjectionConfig = InjectionConfig()
    compression: CompressionConfig = CompressionConfig()
    cost: CostConfig = CostConfig()

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, tree: Any) -> Any:
        """Let the method fill in what is left open."""
        if not isinstance(tree, Mapping):
            return tree
        said = what_is_said(tree)
        return merged(_filling(said), said)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        given = {f"stream.{name}": getattr(self.stream, name) for name in ("rates", "profile")}
        for name, each in (given | self.cost.lists()).items():
            if isinstance(each, tuple) and len(each) != self.devices:
                raise ValueError(
                    f"{name} has {len(each)} entries and devices is {self.devices}: give one for each device"
                )
        for name, numbers in self.injection.named_devices().items():
            if numbers and max(numbers) >= self.devices:
                raise ValueError(f"{name} names device {max(numbers)}: devices are numbered 0 to {self.devices - 1}")
        if self.init_from is not None and self.model == "none":
            raise ValueError(f"init_from = {self.init_from}: model = none has no values that could start there")
        return self

    @model_validator(mode="after")
    def _suits_a_hub(self) -> Self:
        if self.fabric.backend != "hub":
            return self
        if self.fabric.min_devices > self.devices:
            raise ValueError(
                f"fabric.min_devices = {self.fabric.min_devices} and devices is {self.devices}: no step would begin"
            )
        if self.compression.ratio is not None and self.compression.method in ("whole", "powersgd"):
            raise ValueError(
                f"compression.method {self.compression.method}: every device must be there for it, and through a hub "
                "any may be absent; set topk or randomk"
            )
        if self.compression.ratio is not None and self.compression.reduction == "split":
            raise ValueError(
                "compression.reduction split: each device would add up a slice for all others, and through a hub any "
                "may be absent; set auto (the hub adds up) or gather"
            )
        return self

    @model_validator(mode="after")
    def _folds(self) -> Self:
        folds, compression = self.aggregation.folds, self.compression
        if folds and self.fabric.overlap == "on":
            raise ValueError(
                f"{folds}: each gradient is looked at as a whole, after the backward pass; set fabric.overlap to auto "
                "or off"
            )
        if not folds or compression.ratio is None:
            return self
        if self.aggregation.is_robust:
            raise ValueError(
                f"aggregation.mean {self.aggregation.mean}: of what compression sends most coordinates come from few "
                "devices, and their median is 0; set aggregation.outliers to reject, or leave compression.ratio out"
            )
        if compression.method in ("whole", "powersgd"):
            raise ValueError(
                f"{folds}: with compression.method {compression.method} nobody sees a gradient by itself; set topk or "
                "randomk"
            )
        if compression.reduction == "split":
            raise ValueError(
                f"{folds}: with compression.reduction split nobody sees a gradient by itself; set auto or gather"
            )
        if self.fabric.backend == "hub" and compression.reduction == "gather":
            raise ValueError(f"{folds}: with a hub the hub judges; set compression.reduction to auto")
        return self

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.target is not None and self.target_accuracy is not None:
            raise ValueError("target and target_accuracy both say what is to be reached: leave one of them out")
        ends = self.steps or self.duration_s or (self.aims and self.stop_at_target)
        if not ends and self.stream.end == "wait":
            raise ValueError("the run would never end: set steps, duration_s or target_accuracy")
        if self.stream.end == "stop" and self.stream.url.startswith(("mqtt:", "mqtts:")):
            raise ValueError("stream.end = stop: nobody can tell where an MQTT topic ends; leave it at wait")
        return self

    @model_validator(mode="after")
    def _has_labels(self) -> Self:
        labels = self.stream.labels
        if labels is not None and "python" in (self.stream.url.split(":")[0], labels.url.split(":")[0]):
            raise ValueError(
                "stream.labels: what Python iterates over has no ids by which targets could find their samples; let it "
                "return a sample when its target is known, and leave stream.labels out"
            )
        if labels is not None and labels.url.startswith("replay:") != self.stream.url.startswith("replay:"):
            raise ValueError(
                f"stream.labels.url = {labels.url}: targets of a replayed stream are replayed, and those of a live one "
                "are live; stream.url and stream.labels.url must be of one kind"
            )
        return self

    @model_validator(mode="after")
    def _has_samples(self) -> Self:
        if self.data.dataset != "none":
            return self
        if self.stream.url.startswith("replay:") and self.fabric.backend != "hub":  # each device's own is asked there
            raise ValueError("data.dataset = none: a replayed stream plays a data set; name one, or a live stream.url")
        if self.tested_on == "dataset":
            raise ValueError("evaluation.on = dataset: data.dataset is none; set it to holdout or stream")
        if self.stream.codec.shape is None:
            raise ValueError("data.dataset = none: nobody knows what a sample is; set stream.codec.shape")
        if self.task.parts:
            raise ValueError(
                "data.dataset = none: samples and targets are one tensor each then; several parts (task.parts) need a "
                "data set that shows their form: name one in data.dataset"
            )
        if self.data.skewed:
            raise ValueError("data.partition: data.dataset is none, and nothing is dealt; leave it out")
        tokens = (self.stream.codec.dtype or "float32") in _IDENTIFIERS
        if (self.task.kind in _OF_CLASSES or tokens) and "classes" not in self.data.model_fields_set:
            raise ValueError("data.dataset = none: nobody knows how many labels or tokens there are; set data.classes")
        return self

    @model_validator(mode="after")
    def _keeps_time(self) -> Self:
        if self.clock.speed != 1.0 and not self.stream.url.startswith("replay:"):
            raise ValueError(
                f"clock.speed {self.clock.speed:g} needs a replayed stream; {self.stream.url.split(':')[0]} is live"
            )
        wait_s = self.batch.max_wait_s if self.batch.rule == "fixed" else self.batch.window_s
        if wait_s / self.clock.speed >= self.fabric.deadline_s:
            raise ValueError(
                f"a device may gather its batch for {wait_s / self.clock.speed:g} wall seconds, but is given up after "
                f"fabric.deadline_s = {self.fabric.deadline_s:g}: raise the deadline or lower "
                f"{'batch.max_wait_s' if self.batch.rule == 'fixed' else 'batch.window_s'}"
            )
        if self.batch.rule == "fixed" and self.batch.size > self.buffer.capacity:
            raise ValueError(f"batch.size {self.batch.size} does not fit buffer.capacity {self.buffer.capacity}")
        return self

    @model_validator(mode="after")
    def _measures(self) -> Self:
        if self.batch.window == "auto":
            named, instead = "batch.window = auto", "batch.window to fixed and batch.window_s to what suits you"
        elif self.lr.scaling == "adascale":
            named, instead = "lr.scaling = adascale", "lr.scaling to auto"
        elif self.lr.rate == "auto":
            named, instead = "lr.rate = auto", "lr.rate to fixed"
        else:
            return self
        if self.devices == 1 and "devices" in self.model_fields_set:
            raise ValueError(
                f"{named}: how noisy gradients are is told from those of several devices, and there is one; set "
                f"{instead}"
            )
        if self.injection.on:
            raise ValueError(
                f"{named}: devices that share samples train on the same ones, and how noisy their gradients are cannot "
                f"be told then; set {instead}, or leave injection out"
            )
        return self

    @model_validator(mode="after")
    def _compresses(self) -> Self:
        momentum = self.compression.momentum
        if momentum is not None and self.optimizer.momentum:
            raise ValueError(
                f"compression.momentum = {momentum:g} takes the place of the optimizer's: set optimizer.momentum to 0"
            )
        if momentum and self.devices == 1 and "devices" in self.model_fields_set:
            raise ValueError(
                f"compression.momentum = {momentum:g}: one device sends nothing, and nothing would have momentum; set "
                "devices to more, or compression.momentum to null and optimizer.momentum instead"
            )
        if self.compression.ratio == "auto" and self.model == "none":
            raise ValueError(
                "compression.ratio = auto: model = none has no gradients to tell by what a ratio leaves out; set "
                "a number, 0.1 say, or a model"
            )
        if self.compression.ratio is not None and self.fabric.overlap == "on":
            raise ValueError(
                f"fabric.overlap = on: with compression.ratio {self.compression.ratio} a gradient is compressed as a "
                "whole, after the backward pass; set fabric.overlap to auto or off"
            )
        return self

    @property
    def tested_on(self) -> Literal["dataset", "holdout", "stream"]:
        """What the common model is tested on."""
        return self.evaluation.on or ("holdout" if self.data.dataset == "none" else "dataset")

    @property
    def aims(self) -> bool:
        """Whether there is something to be reached."""
        return self.target is not None or self.target_accuracy is not None

    def tree(self) -> dict[str, Any]:
        """Return settings, defaults included, as :func:`load_config` takes them, in the types of JSON.

        As long as nobody has said how many devices there are, what ``method: auto`` filled in is not among them: what
        it can choose depends on that.
        """
        tree = self.model_dump(mode="json")
        if self.method != "auto" or "devices" in self.model_fields_set:
            return tree
        del tree["devices"]
        return _without(tree, METHODS[self.method])

    def to_yaml(self) -> str:
        """Return the whole tree, defaults included, as YAML that :func:`load_config` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def _filling(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the method fills in; ``auto`` chooses nothing that could not be chosen beside what is said."""
    method = str(said.get("method", "scadles"))
    if method != "auto":
        return METHODS.get(method, {})
    if _number(said.get("devices")) == 1:
        return merged(METHODS["scadles"], {"compression": {"ratio": None}})  # what else is said of it may stay
    fixed: dict[str, Any] = {}
    shares = all(_number(_of(said, "injection", share)) for share in ("alpha", "beta"))
    if _of(said, "batch", "rule") == "fixed" or shares:
        fixed["batch"] = {"window": "fixed"}
    scheduled = _of(said, "lr", "milestones") or _number(_of(said, "lr", "warmup_samples"))
    if _of(said, "optimizer", "name") in ("adam", "adamw") or scheduled or shares:
        fixed["lr"] = {"rate": "fixed"}
    selects = _of(said, "compression", "method") in (None, "topk")
    robust = _of(said, "aggregation", "mean") in ROBUST_MEANS
    if not selects or robust or _of(said, "fabric", "overlap") == "on" or said.get("model") == "none":
        fixed["compression"] = {"ratio": None}
    return merged(METHODS["auto"], fixed)


def _of(said: Mapping[str, Any], section: str, name: str) -> Any:
    found = said.get(section)
    return found.get(name) if isinstance(found, Mapping) else None


def _number(value: Any) -> float:
    """Return a number that is said, as text perhaps; 0 for what is none, which is refused later."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _without(tree: dict[str, Any], filled: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings without those that are what a method fills in."""
    kept = {}
    for name, value in tree.items():
        if isinstance(value, dict) and isinstance(mine := filled.get(name), Mapping):
            kept[name] = _without(value, mine)
        elif name not in filled or value != filled[name]:
            kept[name] = value
    return kept


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings ``above`` over those ``below``."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result
