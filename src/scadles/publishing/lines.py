"""From settings to streams on their way out."""

from __future__ import annotations

from scadles.assembly import build_codec, build_dataset, build_partition, samples_of
from scadles.assembly.streams import profile_of, stream_url
from scadles.clock import Clock
from scadles.config import RunConfig
from scadles.errors import ConfigError
from scadles.publishing import Feed, Line
from scadles.streams import Arrivals, RateProfile, SourceURL, draw_rates
from scadles.streams.producing import Producer, make_producer

# parameters of an address that say which part of a server is meant, not how to connect to it
_OF_A_TOPIC = ("partitions",)


def build_lines(config: RunConfig, clock: Clock, records: int | None) -> list[Line]:
    """Return the streams of all devices, not opened yet: what a replayed stream would bring, on its way to the topics.

    Args:
        config: of the run that the records are for.
        clock: stream time.
        records: how many each stream has; None for no end.

    Raises:
        ConfigError: the streams are replayed ones, or a setting cannot work.
    """
    if config.data.dataset == "none":
        raise ConfigError("data.dataset = none: there is nothing to publish; name one with --set data.dataset=NAME")
    dataset = build_dataset(config)
    partition = build_partition(config, dataset)
    codec = build_codec(config, dataset)
    rates = draw_rates(config.stream.rates, config.devices, config.seed)
    lines = []
    for device, (producer, topic) in enumerate(_producers(config, clock)):
        profile = profile_of(config, device)
        seed_parts = (config.seed, device) if profile.arrivals == "poisson" else None
        arrivals = Arrivals(RateProfile.of(profile, rates[device]), seed_parts)
        feed = Feed(samples_of(dataset, partition, device), arrivals, codec.encode, records, phase=device)
        lines.append(Line(feed, producer, topic))
    return lines


def _producers(config: RunConfig, clock: Clock) -> list[tuple[Producer, int]]:
    """Return for each device its producer, and which of its topics is the device's; a server is connected to once."""
    servers: dict[tuple[object, ...], list[SourceURL]] = {}
    places = []
    for device in range(config.devices):
        url = SourceURL.parse(stream_url(config, device))
        server = (url.scheme, url.netloc, *sorted(item for item in url.query.items() if item[0] not in _OF_A_TOPIC))
        topics = servers.setdefault(server, [])
        places.append((server, len(topics)))
        topics.append(url)
    producers = {server: make_producer(topics, clock=clock) for server, topics in servers.items()}
    return [(producers[server], topic) for server, topic in places]
