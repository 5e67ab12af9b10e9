"""Where samples come from and at what rates, as settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from scadles.config.addresses import without_secrets
from scadles.config.codec import CodecConfig
from scadles.config.names import PLAIN, Names
from scadles.config.section import Section


def _address(value: object) -> str:
    """Return an address without secrets, its scheme in small letters, by which everybody recognises it."""
    scheme, between, rest = without_secrets(value).partition("://")
    return f"{scheme.lower()}{between}{rest}" if between else scheme


class ProfileConfig(Section):
    """How one stream's rate varies in time; its mean stays the configured rate (except for an outage)."""

    name: Literal["constant", "bursts", "day", "outage"] = Field(
        default="constant", description="how the rate varies; poisson is short for constant with poisson arrivals"
    )
    arrivals: Literal["regular", "poisson"] = Field(
        default="regular", description="evenly spaced records, or independent ones"
    )
    period_s: float = Field(default=20.0, gt=0, description="bursts, day, outage: length of one cycle")
    duty: float = Field(default=0.25, gt=0, le=1, description="bursts: share of a cycle in which records arrive")
    depth: float = Field(default=0.8, ge=0, le=1, description="day: 0 is a flat curve, 1 falls to zero at night")
    outage_at_s: float = Field(default=10.0, ge=0, description="outage: its start within each cycle")
    outage_s: float = Field(default=5.0, ge=0, description="outage: its length")


def profile_settings(value: Any) -> Any:
    """Take a bare name for a profile: ``bursts``; ``poisson`` is a constant rate with independent arrivals."""
    if value == "poisson":
        return {"arrivals": "poisson"}
    return {"name": value} if isinstance(value, str) else value


Profile = Annotated[ProfileConfig, BeforeValidator(profile_settings)]
Rate = Annotated[float, Field(ge=0, le=1e6)]


class LabelsConfig(Section):
    """Where the targets come from, where they come later than their samples and in a stream of their own."""

    url: Annotated[str, BeforeValidator(_address), Names("an address", unless=r"replay:.*")] = Field(
        description="messages with the id of a sample and its target; {device} as in stream.url; "
        "replay://?delay_s=4: the data set's, up to so much later"
    )
    wait_s: float = Field(
        default=60.0, gt=0, description="stream seconds that a sample waits for its target; then it is unlabelled"
    )


class StreamConfig(Section):
    """Where samples come from."""

    url: Annotated[str, BeforeValidator(_address), Names("an address", unless=r"replay:.*")] = Field(
        default="replay://",
        description="source of each device: replay, kafka, mqtt, mqtts, or python://MODULE:CALLABLE; {device} stands "
        "for its number; secrets as env:NAME or file:PATH",
    )
    rates: Annotated[Rate | tuple[Rate, ...] | str, PLAIN] = Field(
        default=50.0,
        description="replay, publish: samples/s; one for all, one per device, or S1 S2 S1' S2' (drawn), S1:known ...",
    )
    profile: Profile | tuple[Profile, ...] = Field(
        default=ProfileConfig(), description="one for all, or one per device"
    )
    end: Literal["wait", "stop"] = Field(
        default="wait",
        description="wait for more, or stop: kafka where a topic ended at the start, replay after one pass, python "
        "with its iterator",
    )
    codec: CodecConfig = Field(default=CodecConfig(), description="kafka, mqtt: how a message is read")
    labels: LabelsConfig | None = Field(
        default=None, description="where targets come later, in a stream of their own; none: they come with the samples"
    )
    max_rejected_share: float = Field(
        default=0.5, gt=0, le=1, description="end the run where more of a stream cannot be trained on; 1: never"
    )
    quarantine_mb: float = Field(
        default=1.0, ge=0, description="megabytes of rejected records that each device keeps as examples; 0: none"
    )
