"""How gradients become few bytes, as settings."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from scadles.config.section import Section


class CompressionConfig(Section):
    """How gradients become few bytes; a ratio switches it on."""

    ratio: float | None = Field(default=None, gt=0, le=1, description="share of the entries that is sent; none: all")
    method: Literal["topk", "randomk", "whole"] = Field(
        default="topk", description="the largest entries, drawn ones, or all of them (ratio 1) in less precise values"
    )
    values: Literal["float32", "bfloat16", "float16", "int8"] = Field(
        default="int8", description="how a value is sent; error feedback keeps what rounding loses"
    )
    selection: Literal["sampled", "exact"] = Field(
        default="sampled", description="topk: by a threshold from a sample (95 to 100 % of the entries), or exactly"
    )
    scope: Literal["gradient", "bucket", "layer"] = Field(
        default="gradient",
        description="choose among all entries, or the same share of each fabric.bucket_mb or of each parameter tensor",
    )
    gate: Literal["norm", "cost", "both", "always"] = Field(
        default="cost", description="compress a step: by delta, where it is faster than dense, by both, or always"
    )
    delta: float = Field(
        default=0.3, ge=0, le=1, description="norm: share of the squared norm that may stay behind, on average"
    )
    smoothing: float = Field(default=0.3, gt=0, le=1, description="norm: weight of the newest step in the average")
    momentum: float | None = Field(
        default=None, ge=0, lt=1, description="momentum before selection, with masking; then set optimizer.momentum 0"
    )
    reduction: Literal["auto", "gather", "split"] = Field(
        default="auto", description="all get all messages, or each device sums a slice; auto: what sends less"
    )

    def entries(self, n: int) -> int:
        """Return how many of ``n`` entries are sent, at least one."""
        return max(1, math.ceil((self.ratio or 1.0) * n))

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.method == "whole" and self.ratio not in (None, 1.0):
            raise ValueError(f"ratio {self.ratio:g}: method whole sends all entries; set the ratio to 1")
        return self
