"""What is around the steps: clock, fabric, checkpoints, events, tests, simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from scadles.config.section import Section

if TYPE_CHECKING:
    pass


class ClockConfig(Section):
    """How fast stream time runs."""

    speed: float = Field(default=1.0, gt=0, description="stream seconds per wall second; above 1 only for replay")


def _switch(value: Any) -> Any:
    """Take YAML's word for it: there a bare ``on`` is true."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch)]


class FabricConfig(Section):
    """How devices exchange gradients."""

    backend: Literal["auto", "gloo", "nccl", "mpi", "hub"] = Field(
        default="auto",
        description="auto: nccl on CUDA, else gloo; hub: devices come and go, and reach one process only",
    )
    min_devices: int = Field(default=1, ge=1, description="devices that must be there for a step through a hub")
    deadline_s: float = Field(
        default=120.0, gt=0, le=1e9, description="wall seconds after which a silent device is lost"
    )
    overlap: Switch = Field(
        default="auto", description="send gradients while backward runs; auto: on CUDA; not with compression"
    )
    bucket_mb: float = Field(
        default=25.0, gt=0, description="size of one message when overlapping, of a slice with compression.scope bucket"
    )


class CheckpointConfig(Section):
    """What survives a crash."""

    every_steps: int = Field(default=50, ge=1, description="steps between checkpoints")
    keep: int = Field(default=2, ge=2, description="newest checkpoints kept; below 2 devices may share none")


class EventsConfig(Section):
    """What is kept of what happened."""

    max_mb: float = Field(
        default=64.0,
        ge=1,
        le=4000,
        description="size of a device's events at most, in 10^6 bytes; of what is old ever fewer steps are kept then",
    )

    @property
    def most_bytes(self) -> int:
        """The same in bytes."""
        return int(self.max_mb * 1_000_000)


class EvaluationConfig(Section):
    """When the common model is tested, and on what."""

    on: Literal["dataset", "holdout", "stream"] | None = Field(
        default=None,
        description="the test part of the data set; samples of each stream that are kept for it alone; or each batch "
        "before it is trained on; none: dataset, or holdout where there is no data set",
    )
    holdout_every: int = Field(default=10, ge=2, description="holdout: one of so many records of each stream is kept")
    holdout_samples: int = Field(default=1000, ge=1, description="holdout: newest samples kept on each device")
    window_s: float = Field(
        default=20.0, gt=0, description="stream: a test is over what was trained on in so many stream seconds"
    )
    every_s: float = Field(default=2.0, gt=0, description="stream seconds between tests")
    batch_size: int = Field(default=256, ge=1, description="samples in one forward pass of a test")

    @model_validator(mode="before")
    @classmethod
    def _take_yaml_at_its_word(cls, tree: Any) -> Any:
        """Take true for the name ``on``, which it is to other readers of YAML than ours."""
        return {"on" if key is True else key: value for key, value in tree.items()} if isinstance(tree, dict) else tree

    @property
    def intervals(self) -> int:
        """How many intervals between tests the window of ``stream`` has."""
        return max(1, round(self.window_s / self.every_s))


class SimulationConfig(Section):
    """How `scadles simulate` works; nothing here changes what comes out, but for rounding."""

    gradients: Literal["auto", "fused", "per-device"] = Field(
        default="auto", description="one backward pass for all devices, or a gradient of each; auto: fused where exact"
    )
    threads: int = Field(
        default=1,
        ge=1,
        le=4096,
        description="of torch; another number is another order of additions, so other last digits",
    )
    recorded_devices: int = Field(
        default=64, ge=1, description="devices that leave events and a row in the summary, evenly chosen of more"
    )
