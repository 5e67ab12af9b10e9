"""What a step costs in the simulator, as settings: compute, links, availability, and the profiles that ship.

``profile`` fills in what is left open, so that a run folder's configuration needs no profile to be read back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from scadles.config.names import PLAIN, Names
from scadles.config.reading import explain, read_yaml
from scadles.config.section import Section, ascending, what_is_said
from scadles.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from typing_extensions import Self

FREE = "free"
PROFILES = Path(__file__).with_name("profiles")
HEADER = ("source", "note")

NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


def cost_profiles() -> list[str]:
    """Return the names of the profiles that ship."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def _check_period(period_s: float | None, last_s: float | None, of: str) -> None:
    if period_s is not None and (last_s is None or period_s <= last_s):
        raise ValueError(f"period_s = {period_s:g} needs {of} that begin below it")


class QuantityConfig(Section):
    """A cost that differs between devices, steps or times: one of the first four, in the unit of its setting.

    No draw is below 1 % of the distribution's mean (lognormal: median), so that a bandwidth stays above 0; what would
    be is raised to it. Factors apply after that.
    """

    value: Positive | None = Field(default=None, description="the same on all devices, to be varied in time")
    uniform: tuple[NotNegative, Positive] | None = Field(
        default=None, description="drawn between [low, high], never below 1 % of their mean"
    )
    normal: tuple[Positive, NotNegative] | None = Field(
        default=None, description="drawn with [mean, std], never below 1 % of the mean"
    )
    lognormal: tuple[Positive, Annotated[float, Field(ge=0, le=10)]] | None = Field(
        default=None, description="drawn with [median, sigma of the logarithm], never below 1 % of the median"
    )
    per: Literal["device", "step"] = Field(
        default="device", description="draw once for each device, or for each device anew in each step"
    )
    times_s: tuple[NotNegative, ...] = Field(
        default=(), description="stream seconds, from 0 on, at which the factors below begin"
    )
    factors: tuple[Positive, ...] = Field(default=(), description="what the value is multiplied by from then on")
    period_s: Positive | None = Field(default=None, description="length after which the times begin again; none: never")

    @property
    def middle(self) -> float:
        """The value, or the mean (lognormal: the median) of what is drawn; factors are not in it."""
        if self.uniform is not None:
            return sum(self.uniform) / 2
        drawn = self.normal or self.lognormal
        return drawn[0] if drawn is not None else self.value or 0.0

    @model_validator(mode="after")
    def _possible(self) -> Self:
        given = [name for name in ("value", "uniform", "normal", "lognormal") if getattr(self, name) is not None]
        if len(given) != 1:
            both = f", not {' and '.join(given)}" if given else ""
            raise ValueError(f"give one of value, uniform, normal and lognormal{both} (null takes one back)")
        if self.uniform and self.uniform[0] > self.uniform[1]:
            raise ValueError(f"uniform {list(self.uniform)} must be [low, high]")
        if len(self.times_s) != len(self.factors):
            raise ValueError(
                f"{len(self.times_s)} times_s and {len(self.factors)} factors: give a factor for each time"
            )
        if self.times_s and (self.times_s[0] != 0 or not ascending(self.times_s)):
            raise ValueError(f"times_s {list(self.times_s)} must ascend from 0")
        _check_period(self.period_s, self.times_s[-1] if self.times_s else None, "times_s")
        return self


def _middles(cost: float | tuple[float, ...] | QuantityConfig | None) -> tuple[float, ...]:
    if isinstance(cost, QuantityConfig):
        return (cost.middle,)
    return cost if isinstance(cost, tuple) else () if cost is None else (cost,)


Seconds = NotNegative | tuple[NotNegative, ...] | QuantityConfig
Bandwidth = Positive | tuple[Positive, ...] | QuantityConfig | None


class ComputeConfig(Section):
    """How long a device computes on a batch; a number, one for each device, or a section as below."""

    step_s: Seconds = Field(default=0.0, description="seconds for a batch of any size")
    sample_s: Seconds = Field(default=0.0, description="seconds for each sample on top")
    coding_s: Seconds = Field(default=0.0, description="seconds for selection and coding of a compressed gradient")


class LinkConfig(Section):
    """How fast a device's messages travel; a number, one for each device, or a section as below."""

    up_bps: Bandwidth = Field(default=None, description="bits per second from the device; none: no time")
    down_bps: Bandwidth = Field(default=None, description="bits per second to the device; none: no time")
    latency_s: Seconds = Field(
        default=0.0, description="seconds before a message arrives; of its two ends the longer counts"
    )

    @property
    def slowest_bps(self) -> float:
        """Bits per second of the slowest link, by the middle of what is drawn; infinite where nothing is said."""
        return min(_middles(self.up_bps) + _middles(self.down_bps), default=math.inf)

    @property
    def longest_s(self) -> float:
        """Latency of the slowest link, likewise."""
        return max(_middles(self.latency_s), default=0.0)

    @model_validator(mode="after")
    def _ends(self) -> Self:
        for name in ("up_bps", "down_bps"):
            slowest = min(_middles(getattr(self, name)), default=1.0)
            if slowest < 1:
                raise ValueError(f"{name} {slowest:g} is less than 1 bit a second: no message would ever arrive")
        return self


class AvailabilityConfig(Section):
    """When a device is there: always where nothing is said. With fabric.backend hub it comes and goes as at a hub."""

    windows_s: tuple[tuple[NotNegative, Positive], ...] | None = Field(
        default=None, min_length=1, description="stream times [from, to] between which it is on; off outside"
    )
    period_s: Positive | None = Field(
        default=None, description="length after which the windows begin again; none: never"
    )
    on_s: Positive | None = Field(
        default=None, description="instead of windows: mean of times on, drawn (exponential) for each device"
    )
    off_s: Positive | None = Field(default=None, description="mean of the times off in between, drawn with on_s")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.on_s is None) != (self.off_s is None):
            raise ValueError("on_s and off_s belong together: give both or none")
        if self.windows_s and self.on_s:
            raise ValueError("give windows_s, or on_s and off_s to draw them, not both")
        edges_s = [edge for window in self.windows_s or () for edge in window]
        if not ascending(edges_s):
            windows = [list(window) for window in self.windows_s or ()]
            raise ValueError(f"windows_s {windows} must be [from, to] in ascending order, apart from each other")
        # a window may end with the period
        _check_period(self.period_s, self.windows_s[-1][0] if self.windows_s else None, "windows_s")
        if self.period_s and edges_s[-1] > self.period_s:
            raise ValueError(f"windows_s reach until {edges_s[-1]:g}, beyond period_s = {self.period_s:g}")
        return self


class CostConfig(Section):
    """What a step costs in the simulator; nothing by default."""

    profile: Annotated[str, Names("a file", unless=r"[\w-]*")] = Field(
        default=FREE,
        description=f"fills in what is left open here: {' | '.join(cost_profiles())} | PATH.yaml",
    )
    model: Annotated[str, PLAIN] = Field(
        default="", description="the network that is charged, in words; empty: the one that is trained"
    )
    message_bytes: int | None = Field(
        default=None, ge=0, description="size charged for one gradient message; none: that of the real message"
    )
    collective: Literal["ring", "tree", "all-gather", "star"] = Field(
        default="ring", description="how messages become one; star: by a server outside the devices, as always at a hub"
    )
    compute: ComputeConfig = Field(default=ComputeConfig(), description="time of a batch")
    link: LinkConfig = Field(default=LinkConfig(), description="time of a message")
    availability: AvailabilityConfig | tuple[AvailabilityConfig, ...] = Field(
        default=AvailabilityConfig(), description="one for all, or one per device"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, tree: Any) -> Any:
        """Let the profile fill in what is left open; a quantity that is said replaces the profile's whole."""
        if not isinstance(tree, Mapping):
            return tree
        said = what_is_said(tree)
        name = said.get("profile", FREE)
        if name == FREE or _is_whole(said):
            return said
        filled = _read_profile(str(name))
        for key, value in said.items():
            below = filled.get(key) if key in ("compute", "link") else None
            filled[key] = {**below, **value} if isinstance(below, Mapping) and isinstance(value, Mapping) else value
        return filled

    def lists(self) -> dict[str, tuple[Any, ...]]:
        """Return by its dotted name what is given one per device."""
        given = {
            "cost.availability": self.availability,
            **{f"cost.compute.{name}": value for name, value in self.compute},
            **{f"cost.link.{name}": value for name, value in self.link},
        }
        return {name: value for name, value in given.items() if isinstance(value, tuple)}


def _read_profile(name: str) -> dict[str, Any]:
    """Return what a profile says, checked, without its header."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    elif name in cost_profiles():
        path = PROFILES / f"{name}.yaml"
    else:
        hint = did_you_mean(name, cost_profiles())
        raise ConfigError(f"cost.profile = {name!r}: unknown profile, and no PATH.yaml{hint}")
    said = {key: value for key, value in read_yaml(path, "cost profile").items() if key not in HEADER}
    if "profile" in said:
        raise ConfigError(f"{path}: profile: a profile cannot build on another one; copy what it needs")
    try:
        CostConfig.model_validate(said)
    except ValidationError as error:
        problems = explain(error, CostConfig).splitlines()
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems)) from None
    return said


def _is_whole(said: Mapping[str, Any]) -> bool:
    """Whether nothing is left open, as in the configuration of a run folder."""
    parts = ((said, CostConfig), (said.get("compute"), ComputeConfig), (said.get("link"), LinkConfig))
    return all(isinstance(part, Mapping) and section.model_fields.keys() <= part.keys() for part, section in parts)
