"""How gradients become few bytes, as settings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from scadles.config.section import Section

if TYPE_CHECKING:
    from typing_extensions import Self

_NOTHING_TO_CHOOSE = {
    "whole": "sends all entries, slice by slice",
    "powersgd": "sends factors of each matrix to everybody",
}


class CompressionConfig(Section):
    """How gradients become few bytes; a ratio switches it on."""

    ratio: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] | None = Field(
        default=None,
        description="share of the entries that is sent; none: all; auto: none, 0.1, 0.03 or 0.01, what buys most",
    )
    method: Literal["topk", "randomk", "whole", "powersgd"] = Field(
        default="topk",
        description="the largest entries, drawn ones, all of them (ratio 1) in less precise values, or each layer's "
        "matrix as two factors (PowerSGD) of the largest rank whose floats are at most this ratio, of rank 1 at least",
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
        default=None, ge=0, lt=1, description="momentum on each device, before selection; then set optimizer.momentum 0"
    )
    reduction: Literal["auto", "gather", "split"] = Field(
        default="auto",
        description="all get all messages, or each device sums a slice; auto: the cheaper on cost.link, or a hub sums",
    )

    @field_validator("ratio", mode="before")
    @classmethod
    def _number_or_auto(cls, ratio: Any) -> Any:
        if isinstance(ratio, str) and ratio != "auto" and not re.fullmatch(r"[0-9.eE+-]+", ratio):
            raise ValueError(f"{ratio!r} is no ratio; set a number above 0 and at most 1, auto or null")
        return ratio

    @model_validator(mode="after")
    def _nothing_to_choose(self) -> Self:
        if self.method not in _NOTHING_TO_CHOOSE:
            return self
        if self.method == "whole" and self.ratio not in (None, 1.0):
            raise ValueError(f"ratio {self.ratio}: method whole sends all entries; set the ratio to 1")
        for name in ("reduction", "scope", "selection"):
            value, default = getattr(self, name), type(self).model_fields[name].default
            if value != default:
                raise ValueError(
                    f"{name} {value}: method {self.method} {_NOTHING_TO_CHOOSE[self.method]}, so there is nothing to "
                    f"choose; leave {name} out ({default})"
                )
        if self.method == "powersgd" and self.gate in ("norm", "both"):
            raise ValueError(
                f"gate {self.gate}: method powersgd learns what stays behind only as it sends, too late to decide by; "
                "set gate to cost or always"
            )
        return self

    @model_validator(mode="after")
    def _chooses(self) -> Self:
        """Refuse what leaves a ratio that chooses itself nothing to choose by."""
        if self.ratio != "auto":
            return self
        for name, value, why in (
            ("gate", "cost", "it takes the place of the gates"),
            ("method", "topk", "it goes by the energy that the largest entries hold"),
            ("scope", "gradient", "it goes by the largest entries of the whole gradient"),
        ):
            if (given := getattr(self, name)) != value:
                raise ValueError(f"{name} {given}: with ratio auto {why}; leave {name} out, or set a number as ratio")
        return self

    @model_validator(mode="after")
    def _takes_effect(self) -> Self:
        """Refuse what would do nothing because the setting that it needs was left open.

        A ratio of null that was said is another matter: it switches compression off and leaves the rest as it is.
        """
        said = [name for name in type(self).model_fields if name in self.model_fields_set]
        if said and "ratio" not in said:
            needed = "1 for method whole" if self.method == "whole" else "0.01, say"
            raise ValueError(
                f"{said[0]} {getattr(self, said[0])}: nothing is compressed without a ratio; set compression.ratio "
                f"({needed}; auto: as is best; null: no compression)"
            )
        if self.ratio is None and self.momentum:
            raise ValueError(
                f"momentum {self.momentum:g}: without a ratio nothing is compressed, and nothing would have momentum; "
                "set a ratio, or momentum to null and optimizer.momentum instead"
            )
        for name in ("delta", "smoothing"):
            if name in said and "gate" not in said:
                raise ValueError(
                    f"{name} {getattr(self, name):g}: the gate by {self.gate} does not look at it; set gate to norm "
                    f"or both, or leave {name} out"
                )
        return self
