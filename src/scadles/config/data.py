"""Which samples there are, and which device gets which."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from scadles.config.names import CODE, FILE, PLAIN, Names
from scadles.config.section import Section

if TYPE_CHECKING:
    from typing_extensions import Self


_MOST_TEST_BYTES = 10**10


class DataConfig(Section):
    """Which samples the streams are made of, and what the model is tested on."""

    dataset: Annotated[str, Names("a file or code", unless=r"[^:]*|torchvision:.*")] = Field(
        default="digits",
        description="digits | wine | breast-cancer | diabetes | synthetic-images | synthetic-windows | npz:PATH | "
        "csv:PATH | parquet:PATH | torchvision:NAME | MODULE:CALLABLE, which returns a training and a test part | "
        "none: a live stream brings all samples, of stream.codec.shape",
    )
    features: Annotated[tuple[str, ...] | None, PLAIN] = Field(
        default=None, description="csv, parquet: columns that make a sample; none: all but the target"
    )
    target: Annotated[str | tuple[str, ...] | None, PLAIN] = Field(
        default=None, description="csv, parquet: the column or columns to tell"
    )
    window: int | None = Field(
        default=None,
        ge=2,
        description="csv, parquet: consecutive rows that make a sample, split by time; none: each row is one",
    )
    normalize: Literal["dataset", "running", "none"] = Field(
        default="dataset",
        description="samples: each feature of a table, each channel of windows and pictures less its mean over the "
        "training part, divided by its deviation, and targets that are numbers likewise; running: samples alone, by "
        "what all devices have trained on so far; or nothing",
    )
    transform: Annotated[str | None, CODE] = Field(
        default=None,
        description="MODULE:CALLABLE, what becomes of a device's batch [b, ...] before it trains on it, as it comes "
        "and of the same form; tests are not transformed",
    )
    partition: Literal["iid", "shared", "labels", "dirichlet"] = Field(
        default="iid",
        description="deal samples to devices at random, let every device draw from all of them, or skew who has which "
        "labels: some for each device, or shares drawn from a Dirichlet distribution",
    )
    labels_per_device: int = Field(default=1, ge=1, description="labels: how many each device has")
    alpha: float = Field(
        default=0.5, gt=0, description="dirichlet: concentration; large is alike, small is one device for each label"
    )
    size_spread: float = Field(
        default=0.0,
        ge=0,
        description="sizes of the parts that are dealt are log-normal with this deviation of the logarithm; 0 is equal",
    )
    drift_samples: int | None = Field(
        default=None,
        ge=1,
        description="labels, dirichlet: samples of its stream after which a device goes on with the next device's part",
    )
    root: Annotated[Path, FILE] = Field(
        default=Path("data"), description="folder of torchvision's data sets, given to yours"
    )
    classes: int = Field(default=10, ge=2, le=1_000_000, description="classes of synthetic data sets, and of none")
    shape: tuple[int, ...] = Field(
        default=(3, 32, 32),
        description="sample shape of synthetic-images (channels, height, width) or synthetic-windows (channels, time)",
    )
    target_shape: tuple[int, ...] = Field(
        default=(), description="none: of a target that is numbers; [] is one number for each sample"
    )
    test_samples: int = Field(default=1000, ge=1, description="test samples of synthetic data sets")

    @property
    def skewed(self) -> bool:
        """Whether devices differ in what they have, beyond chance."""
        return self.partition in ("labels", "dirichlet") or self.size_spread > 0

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns to tell."""
        return (self.target,) if isinstance(self.target, str) else self.target or ()

    @model_validator(mode="after")
    def _columns_of_a_table(self) -> Self:
        said = [name for name in ("features", "target", "window") if getattr(self, name) is not None]
        if said and not self.dataset.startswith(("csv:", "parquet:")):
            raise ValueError(
                f"{said[0]}: it belongs to dataset csv:PATH or parquet:PATH, and dataset is {self.dataset}; leave it "
                "out"
            )
        if self.features == ():
            raise ValueError("features: name at least one column, or leave it out")
        return self

    @model_validator(mode="after")
    def _positive_shape(self) -> Self:
        known = {
            2: "two sizes of at least 1 (channels, time)",
            3: "three sizes of at least 1 (channels, height, width)",
        }
        needed = {"synthetic-windows": [2], "synthetic-images": [3]}.get(self.dataset, [2, 3])
        if len(self.shape) not in needed or min(self.shape) < 1:
            raise ValueError(f"shape {self.shape} must be {' or '.join(known[count] for count in needed)}")
        size = math.prod(self.shape) * self.test_samples
        if size > _MOST_TEST_BYTES:
            raise ValueError(
                f"test_samples {self.test_samples:,} of shape {self.shape} are {size:,} bytes, at most "
                f"{_MOST_TEST_BYTES:,} are made: lower one of them"
            )
        return self

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.drift_samples is not None and self.partition in ("iid", "shared"):
            raise ValueError(
                f"drift_samples = {self.drift_samples}: with partition {self.partition} every device has all labels, "
                "so none can drift; use labels or dirichlet"
            )
        if self.size_spread and self.partition == "shared":
            raise ValueError(
                f"size_spread = {self.size_spread:g}: with partition shared every device draws from all samples and "
                "has no part of a size; use iid, labels or dirichlet"
            )
        return self
