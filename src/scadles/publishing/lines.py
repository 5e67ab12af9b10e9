"""From settings to streams on their way out."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from scadles.assembly import build_codec, build_dataset, build_partition, samples_of
from scadles.assembly.streams import address_of, profile_of
from scadles.clock import Clock
from scadles.config import RunConfig
from scadles.errors import ConfigError
from scadles.publishing import Feed, Line
from scadles.publishing.target_feed import TargetFeed
from scadles.streams import Arrivals, RateProfile, Samples, SourceURL, draw_rates
from scadles.streams.late import TargetCodec
from scadles.streams.late.codecs import check_has_targets
from scadles.streams.producing import Producer, make_producer

# parameters of an address that say which part of a server is meant, not how to connect to it
_OF_A_TOPIC = ("partitions",)


def build_lines(config: RunConfig, clock: Clock, records: int | None, delay_s: float | None = None) -> list[Line]:
    """Return the streams of all devices, not opened yet: what a replayed stream would bring, on its way to the topics.

    Where targets come later, those of all devices follow as lines of their own.

    Args:
        config: of the run that the records are for.
        clock: stream time.
        records: how many each stream has; None for no end.
        delay_s: by how much later targets are sent at most, where they come later.

    Raises:
        ConfigError: the streams are replayed ones, or a setting cannot work.
    """
    if config.data.dataset == "none":
        raise ConfigError("data.dataset = none: there is nothing to publish; name one with --set data.dataset=NAME")
    labels = config.stream.labels
    if labels is None and delay_s is not None:
        raise ConfigError("--delay: it is of labels that come later; say where they go, in stream.labels")
    dataset = build_dataset(config)
    partition = build_partition(config, dataset)
    codec = build_codec(config, dataset)
    rates = draw_rates(config.stream.rates, config.devices, config.seed)
    names = addresses(config)
    places = _producers(names, clock)
    lines, later = list[Line](), list[Line]()
    for device in range(config.devices):
        profile = profile_of(config, device)
        seed_parts = (config.seed, device) if profile.arrivals == "poisson" else None
        arrivals = Arrivals(RateProfile.of(profile, rates[device]), seed_parts)
        samples = samples_of(dataset, partition, device)
        sent = samples if labels is None else _with_numbers(samples)
        lines.append(Line(Feed(sent, arrivals, codec.encode, records, phase=device), *places[device]))
        if labels is not None:
            check_has_targets(dataset.target)
            encode = TargetCodec(dataset.target, config.stream.codec.max_bytes).encode
            feed = TargetFeed(samples, arrivals, encode, records, delay_s or 0.0, config.seed, device)
            later.append(Line(feed, *places[config.devices + device]))
    return lines + later


def addresses(config: RunConfig) -> list[str]:
    """Return the address of each line: those of all devices, then where there are some those of their targets."""
    labels = config.stream.labels
    later = [] if labels is None else [(labels.url, "stream.labels.url")]
    wanted = [(config.stream.url, "stream.url"), *later]
    return [address_of(url, setting, device) for url, setting in wanted for device in range(config.devices)]


def _with_numbers(samples: Samples) -> Samples:
    """Return the same samples with their numbers in place of targets."""
    return lambda offsets: (samples(offsets)[0], torch.from_numpy(offsets))


def _producers(addresses: Sequence[str], clock: Clock) -> list[tuple[Producer, int]]:
    """Return for each address its producer, and which of its topics it is; a server is connected to once."""
    servers: dict[tuple[object, ...], list[SourceURL]] = {}
    places = []
    for address in addresses:
        url = SourceURL.parse(address)
        server = (url.scheme, url.netloc, *sorted(item for item in url.query.items() if item[0] not in _OF_A_TOPIC))
        topics = servers.setdefault(server, [])
        places.append((server, len(topics)))
        topics.append(url)
    producers = {server: make_producer(topics, clock=clock) for server, topics in servers.items()}
    return [(producers[server], topic) for server, topic in places]
