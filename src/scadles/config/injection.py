"""Which samples devices share with all others, as settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from scadles.config.section import MOST, Section

if TYPE_CHECKING:
    from typing_extensions import Self

Number = Annotated[int, Field(ge=0, le=MOST)]
Labels = tuple[Number, ...] | dict[Number, tuple[Number, ...]]


class InjectionConfig(Section):
    """Which samples devices share with all others, who train on them as well; alpha and beta switch it on.

    Lists of labels hold for all devices, or are given for some: ``refuse_labels: {3: [0, 7]}``. A sample leaves a
    device only where the allow-lists, as far as there are any, have both device and label, and no refusal has either.
    """

    alpha: float = Field(default=0.0, ge=0, le=1, description="share of the devices that share in a step; 0: none")
    beta: float = Field(default=0.0, ge=0, le=1, description="share of its batch that such a device shares; 0: none")
    batch: Literal["add", "constant"] = Field(
        default="add", description="train on the others' samples as well, or on 1 + alpha beta N times fewer own ones"
    )
    allow_devices: tuple[Number, ...] | None = Field(default=None, description="devices that may share; none: all")
    refuse_devices: tuple[Number, ...] = Field(default=(), description="devices that share nothing")
    allow_labels: Labels | None = Field(
        default=None, description="labels that may be shared: a list for all devices or for each device; none: all"
    )
    refuse_labels: Labels = Field(default=(), description="labels that are not shared: a list for all or for each")

    @property
    def on(self) -> bool:
        """Whether anything is shared at all."""
        return self.alpha > 0 and self.beta > 0

    def named_devices(self) -> dict[str, tuple[int, ...]]:
        """Return the devices that settings name, by setting."""
        named = {"allow_devices": self.allow_devices or (), "refuse_devices": self.refuse_devices}
        for name in ("allow_labels", "refuse_labels"):
            labels = getattr(self, name)
            named[name] = tuple(labels) if isinstance(labels, dict) else ()
        return {f"injection.{name}": devices for name, devices in named.items()}

    def named_labels(self) -> dict[str, tuple[int, ...]]:
        """Return the labels that settings name, by setting."""
        named = {}
        for name in ("allow_labels", "refuse_labels"):
            labels = getattr(self, name) or ()
            lists = labels.values() if isinstance(labels, dict) else (labels,)
            named[f"injection.{name}"] = tuple(label for one in lists for label in one)
        return named

    @model_validator(mode="after")
    def _both_shares(self) -> Self:
        """Refuse one share whose other was left open; a 0 that was said switches injection off."""
        for one, other in (("alpha", "beta"), ("beta", "alpha")):
            if getattr(self, one) > 0 and other not in self.model_fields_set:
                raise ValueError(
                    f"{one} {getattr(self, one):g}: nothing is shared without {other}; set injection.{other} as well "
                    "(0: share nothing)"
                )
        return self

    @model_validator(mode="after")
    def _one_opinion(self) -> Self:
        both = sorted(set(self.allow_devices or ()) & set(self.refuse_devices))
        if both:
            raise ValueError(f"device {both[0]} is in allow_devices and in refuse_devices: leave it out of one of them")
        return self
