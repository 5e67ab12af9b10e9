"""What a step is on: buffer, batch, aggregation, optimizer, learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from scadles.config.section import Section, ascending

if TYPE_CHECKING:
    from typing_extensions import Self


class BufferConfig(Section):
    """What is kept of what has arrived."""

    policy: Literal["persistence", "truncation"] = Field(
        default="truncation", description="keep everything, or the newest window after each step"
    )
    capacity: int = Field(default=16384, ge=1, description="samples held in memory at most")


class BatchConfig(Section):
    """How much to train on in one step."""

    rule: Literal["fixed", "rate"] = Field(
        default="rate", description="the same size everywhere, or what the stream brings in a window"
    )
    size: int = Field(default=64, ge=1, description="fixed: samples per step; also the base of learning-rate scaling")
    window: Literal["fixed", "auto"] = Field(
        default="fixed", description="rate: window_s all along, or what pays most by what is measured in the run"
    )
    window_s: float = Field(
        default=1.0, gt=0, description="rate: stream seconds that make a batch; those that auto begins with"
    )
    step_cost_s: float = Field(
        default=0.0, ge=0, description="window auto: what a step costs beside its time, in seconds (radio, battery)"
    )
    min: int = Field(default=8, ge=1, description="rate: aim at no less than this (the window's end still ends it)")
    max: int = Field(default=1024, ge=1, description="rate: take no more than this")
    max_wait_s: float = Field(default=60.0, gt=0, description="fixed: train on what is there after this wait")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        if self.window == "auto" and self.rule == "fixed":
            raise ValueError("window auto: with rule fixed there is no window; set rule to rate, or window to fixed")
        if self.step_cost_s and self.window != "auto":
            raise ValueError(
                f"step_cost_s {self.step_cost_s:g}: only a window that is chosen goes by it; set window to auto"
            )
        return self


#: Means that few wrong gradients cannot move far.
ROBUST_MEANS = ("trimmed", "median")


class AggregationConfig(Section):
    """How gradients become one."""

    mean: Literal["weighted", "plain", "trimmed", "median"] = Field(
        default="weighted",
        description="weighted by batch size, or every device alike; trimmed and median: of each coordinate, weighted, "
        "which few wrong gradients cannot move far",
    )
    outliers: Literal["accept", "clip", "reject"] = Field(
        default="accept",
        description="a gradient far outside of its fleet's norms is taken, scaled down, or set aside; reject sets "
        "aside what points against the others as well",
    )
    batchnorm: Literal["aggregate", "local"] = Field(
        default="aggregate",
        description="running statistics: average them over devices, or let each device keep and be tested with its own",
    )
    max_weight: float | None = Field(
        default=None,
        gt=0,
        description="weight of a sample at most where you give weights of your own, for a hub to hold devices to: "
        "tokens, say; null: 1, or the largest of task.loss_options.weight; no limit for language and segmentation",
    )

    @property
    def folds(self) -> str:
        """The setting for which each gradient is looked at by itself; empty where they are only added up."""
        if self.outliers != "accept":
            return f"aggregation.outliers {self.outliers}"
        return f"aggregation.mean {self.mean}" if self.is_robust else ""

    @property
    def is_robust(self) -> bool:
        """Whether the mean is one that few wrong gradients cannot move far."""
        return self.mean in ROBUST_MEANS


class OptimizerConfig(Section):
    """The built-in optimizers."""

    name: Literal["sgd", "adam", "adamw"] = Field(default="sgd", description="torch.optim's")
    lr: float = Field(default=0.05, gt=0, description="learning rate at the base global batch")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="sgd only")
    weight_decay: float = Field(default=1e-4, ge=0, description="decay of all parameters")
    clip_norm: float | None = Field(
        default=None, gt=0, description="the common gradient is scaled down to this norm, also for your own optimizer"
    )


class LearningRateConfig(Section):
    """What becomes of the optimizer's learning rate."""

    scaling: Literal["auto", "linear", "sqrt", "adascale", "none"] = Field(
        default="auto",
        description="with the global batch; auto: sqrt for Adam and its kin, linear otherwise; adascale: by what the "
        "batch is worth, as measured in the run",
    )
    rate: Literal["fixed", "auto"] = Field(
        default="fixed",
        description="auto: momentum becomes part of it, and it is doubled and halved from optimizer.lr on, by how "
        "gradients of steps in a row agree",
    )
    warmup_samples: int = Field(default=0, ge=0, description="global samples over which the rate grows from 0")
    milestones: tuple[int, ...] = Field(default=(), description="global samples after which the rate is cut")
    gamma: float = Field(default=0.2, gt=0, le=1, description="factor of each cut")
    guard: bool = Field(
        default=False,
        description="where the common loss diverges, go back to the last good state, kept in memory, at half the rate",
    )

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if not ascending((0, *self.milestones)):
            raise ValueError(f"milestones {list(self.milestones)} must be ascending sample counts")
        if self.rate == "auto" and (self.milestones or self.warmup_samples):
            raise ValueError(
                "rate = auto begins with the rate that was asked for, and raises and cuts it itself: leave out "
                "warmup_samples and milestones, or set rate to fixed"
            )
        return self
