"""From a URL to a source: ``scheme://host/path?parameter=value``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from scadles.config.addresses import without_secrets
from scadles.errors import ConfigError, did_you_mean
from scadles.streams.contract import Source

SourceFactory = Callable[..., Source]
_Factory = TypeVar("_Factory", bound=SourceFactory)
_Number = TypeVar("_Number", int, float)

_factories: dict[str, SourceFactory] = {}


@dataclass(frozen=True)
class SourceURL:
    """The address of a stream, taken apart.

    >>> url = SourceURL.parse("kafka://broker:9092/topic-3?partition=0")
    >>> url.scheme, url.netloc, url.path, url.integer("partition", 0)
    ('kafka', 'broker:9092', 'topic-3', 0)
    """

    scheme: str
    netloc: str
    path: str
    query: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def parse(cls, text: str) -> SourceURL:
        """Take ``text`` apart.

        Raises:
            ConfigError: no scheme, an unreadable host, a secret, or a parameter without a value or given twice.
        """
        try:
            parts = urlsplit(without_secrets(text))
        except ValueError as error:
            raise ConfigError(f"stream.url: {error}") from None
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        if not parts.scheme or "://" not in text:
            raise ConfigError(f"stream.url {text!r} has no scheme: write for example replay:// or kafka://host/topic")
        query = dict(pairs)
        if len(query) < len(pairs):
            raise ConfigError(f"stream.url {text!r} gives a parameter twice")
        return cls(parts.scheme, parts.netloc, parts.path.lstrip("/"), MappingProxyType(query))

    def expect(self, *names: str) -> None:
        """Refuse every parameter that is not among ``names`` with a ConfigError."""
        for name in self.query:
            if name not in names:
                raise ConfigError(f"{self.scheme}://: unknown parameter {name!r}{did_you_mean(name, names)}")

    def text(self, name: str, default: str) -> str:
        """Return a parameter as it was given."""
        return self.query.get(name, default)

    def number(self, name: str, default: float) -> float:
        """Return a parameter as a finite number, or raise ConfigError."""
        return self._typed(name, default, float, "a number")

    def integer(self, name: str, default: int) -> int:
        """Return a parameter as an integer, or raise ConfigError."""
        return self._typed(name, default, int, "an integer")

    def _typed(self, name: str, default: _Number, convert: Callable[[str], _Number], kind: str) -> _Number:
        if name not in self.query:
            return default
        try:
            value = convert(self.query[name])
            if not math.isfinite(value):
                raise ValueError
        except ValueError:
            raise ConfigError(f"{self.scheme}://: {name}={self.query[name]!r} must be {kind}") from None
        return value


def register_source(scheme: str) -> Callable[[_Factory], _Factory]:
    """Decorate a factory ``(url: SourceURL, **context) -> Source`` for URLs of ``scheme``.

    A factory names what it needs of the context and takes the rest as ``**_``; it connects to nothing before
    :meth:`~scadles.streams.contract.Source.open`.
    """

    def register(factory: _Factory) -> _Factory:
        _factories[scheme] = factory
        return factory

    return register


def open_source_url(url: str, **context: Any) -> Source:
    """Return the source at ``url``, not opened yet.

    Args:
        url: where the stream is.
        context: what a source of this scheme cannot know from its address, such as ``clock``.

    Raises:
        ConfigError: an unknown scheme or parameter, or a value that cannot work.
    """
    parsed = SourceURL.parse(url)
    if parsed.scheme not in _factories:
        raise ConfigError(
            f"stream.url {url!r}: unknown scheme {parsed.scheme!r}{did_you_mean(parsed.scheme, sorted(_factories))}"
        )
    return _factories[parsed.scheme](parsed, **context)
