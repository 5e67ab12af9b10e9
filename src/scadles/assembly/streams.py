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
from scadles.streams import Samples, Source, open_source_url

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
    live |= {
        "capacity": config.buffer.capacity,
        "max_bytes": config.stream.codec.max_bytes,
        "truncates": config.buffer.policy == "truncation",
        "stop_at_end": config.stream.end == "stop",
    }
    url = stream_url(config, device)
    if url == "replay://":
        parameters = profile_of(config, device).model_dump()
        parameters["profile"] = parameters.pop("name")
        url += "?" + urlencode({"rate": rate_hz, "seed": config.seed, "device": device, **parameters})
    if config.stream.end == "stop" and url.startswith("replay:"):
        live["records"] = _one_pass(config, partition, device)
    return open_source_url(url, samples=samples, clock=clock, device=device, **live)


def stream_url(config: RunConfig, device: int) -> str:
    """Return the address of one device's stream."""
    try:
        for _, name, form, conversion in Formatter().parse(config.stream.url):
            # a format can ask for any width, and a name look into objects
            if name is not None and (name != "device" or conversion or not _WIDTH.fullmatch(form or "")):
                raise ValueError
        return config.stream.url.format(device=device)
    except (KeyError, IndexError, ValueError):
        raise ConfigError(
            f"stream.url = {config.stream.url!r}: only {{device}} can be filled in; write other braces doubled"
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
