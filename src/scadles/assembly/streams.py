"""From settings to streams: the address of each device's, and where it ends."""

from __future__ import annotations

import re
from string import Formatter
from typing import Any
from urllib.parse import urlencode

from scadles.clock import Clock
from scadles.config import ProfileConfig, RunConfig
from scadles.data import Partition
from scadles.errors import ConfigError
from scadles.streams import Samples, Source, SourceURL, open_source_url
from scadles.streams.late import LateSource, ReplayedTargets, TargetCodec
from scadles.streams.late.codecs import check_has_targets
from scadles.streams.late.ids import numbered
from scadles.targets import TargetType

_WIDTH = re.compile(r"0?\d{0,2}d?", re.ASCII)


def build_source(
    config: RunConfig,
    device: int,
    rate_hz: float,
    samples: Samples | None,
    clock: Clock,
    partition: Partition,
    **live: Any,
) -> Source:
    """Return the stream of one device, not opened yet; ``replay://`` gets its rate and the configured profile.

    Without ``samples`` a replayed stream brings positions only.

    Args:
        config: the run.
        device: its number.
        rate_hz: of a replayed stream.
        samples: what a replayed stream plays.
        clock: stream time.
        partition: whose parts a replayed stream ends after, where streams end.
        live: what the sources of live records need: ``codec``, ``run_dir``, ``quarantine``, ``target``, ``layout``,
            ``given``.

    Raises:
        ConfigError: the address cannot work, or a replayed stream shall end and has no end.
    """
    live |= _of_all(config)
    url = address_of(config.stream.url, "stream.url", device)
    if url == "replay://":
        parameters = profile_of(config, device).model_dump()
        parameters["profile"] = parameters.pop("name")
        url += "?" + urlencode({"rate": rate_hz, "seed": config.seed, "device": device, **parameters})
    if config.stream.end == "stop" and url.startswith("replay:"):
        live["records"] = _one_pass(config, partition, device)
    return open_source_url(url, samples=samples, clock=clock, device=device, **live)


def build_late_source(
    config: RunConfig,
    device: int,
    rate_hz: float,
    samples: Samples | None,
    clock: Clock,
    partition: Partition,
    *,
    target: TargetType,
    **live: Any,
) -> LateSource:
    """Return the stream of one device whose targets come later, in a stream of their own; not opened yet.

    Args:
        config: the run; ``stream.labels`` says where targets come from.
        device, rate_hz, samples, clock, partition: as for :func:`build_source`.
        target: what a target is.
        live: what the sources of live records need; ``codec`` reads samples without targets.

    Raises:
        ConfigError: the task has no targets, or an address cannot work.
    """
    check_has_targets(target)
    labels = config.stream.labels
    if labels is None:
        raise ConfigError("stream.labels is not set: targets come with the samples")
    address = address_of(labels.url, "stream.labels.url", device)
    if samples is not None and address.startswith("replay:"):
        delay_s = longest_delay_s(SourceURL.parse(address))
        targets: Source = ReplayedTargets(samples, clock, delay_s, config.seed, device)
        samples = _with_ids(samples)
    else:
        codec = TargetCodec(target, config.stream.codec.max_bytes)
        # a number that no device has: at a broker it is a client of its own
        alone = {"device": config.devices + device, "run_dir": live.get("run_dir"), "codec": codec}
        targets = open_source_url(address, clock=clock, **_of_all(config), **alone)
    source = build_source(config, device, rate_hz, samples, clock, partition, **live)
    return LateSource(
        source,
        targets,
        target,
        clock,
        labels.wait_s,
        config.buffer.capacity,
        truncates=config.buffer.policy == "truncation",
    )


def longest_delay_s(url: SourceURL) -> float:
    """Return by how much later replayed targets come at most, of ``replay://?delay_s=4``.

    Raises:
        ConfigError: the address says something else, or no such number.
    """
    url.expect("delay_s")
    delay_s = url.number("delay_s", 0.0)
    if url.netloc or url.path or delay_s < 0:
        raise ConfigError("stream.labels.url: write replay://?delay_s=4, a number that is not below 0")
    return delay_s


def _with_ids(samples: Samples) -> Samples:
    """Return the same samples with their ids in place of targets."""
    return lambda offsets: (samples(offsets)[0], numbered(offsets))


def _of_all(config: RunConfig) -> dict[str, Any]:
    """Return what every source of a run is given."""
    return {
        "capacity": config.buffer.capacity,
        "max_bytes": config.stream.codec.max_bytes,
        "truncates": config.buffer.policy == "truncation",
        "stop_at_end": config.stream.end == "stop",
    }


def stream_url(config: RunConfig, device: int) -> str:
    """Return the address of one device's stream."""
    return address_of(config.stream.url, "stream.url", device)


def address_of(url: str, setting: str, device: int) -> str:
    """Return an address with a device's number in it; ``setting`` is where it was given."""
    try:
        for _, name, form, conversion in Formatter().parse(url):
            # a format can ask for any width, and a name look into objects
            if name is not None and (name != "device" or conversion or not _WIDTH.fullmatch(form or "")):
                raise ValueError
        return url.format(device=device)
    except (KeyError, IndexError, ValueError):
        raise ConfigError(
            f"{setting} = {url!r}: only {{device}} can be filled in; write other braces doubled"
        ) from None


def profile_of(config: RunConfig, device: int) -> ProfileConfig:
    """Return how one device's rate varies."""
    profile = config.stream.profile
    return profile if isinstance(profile, ProfileConfig) else profile[device]


def _one_pass(config: RunConfig, partition: Partition, device: int) -> int:
    records = partition.pass_size(device)
    if records is None:
        raise ConfigError(
            f"stream.end = stop: with data.dataset {config.data.dataset}, data.partition {config.data.partition} and "
            f"data.drift_samples {config.data.drift_samples} a replayed stream has no end; leave it at wait"
        )
    return records
