"""What an address may say: no secret, as settings are written into run folders, printed and compared; and no code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote, urlsplit

_SECRET = re.compile(
    r"pass?w|passo|passphrase|\bpwd\b|secret|token$|api.?key$|jaas\.config$|kinit\.cmd$|oauthbearer\.config$|key\.pem$"
    r"|private\.key(?!\.file$)",
    re.IGNORECASE,
)
# librdkafka would load a library, run a command, or keep positions in a file of that name
_RUNS_CODE = re.compile(
    r"\b(plugins?|library|libraries|engine|providers?|interceptors?|cmd|command)\b|_cb$|^offset\.store\.", re.IGNORECASE
)
# these become words of the command by which it gets a ticket
_WORD_OF_A_COMMAND = re.compile(r"^sasl\.kerberos\.(?!min\.)", re.IGNORECASE)
_HARMLESS_WORD = re.compile(r"[\w./@:+-]*", re.ASCII)
_NAME = re.compile(r"[\w.-]+", re.ASCII)
_PLACE = re.compile(r"(env|file):.")
_LONGEST, _SHOWN = 300, 60
_BETWEEN = re.compile(r"[/?&;,\s]")


def is_secret(parameter: str) -> bool:
    """Whether a parameter of an address, by its name, is a secret.

    >>> is_secret("sasl.password"), is_secret("ssl.key.pem"), is_secret("sasl.username"), is_secret("ssl.ca.pem")
    (True, True, False, False)
    """
    return _SECRET.search(parameter) is not None


def without_secrets(url: object) -> str:
    """Return an address that holds no secret, and no option by which a client would run code, as it is.

    An address in which a secret could not be found is refused as well: one that cannot be taken apart, and one with a
    fragment, the part behind ``#``, which nobody reads.

    Raises:
        ValueError: it holds one, or cannot be looked through; the message does not tell it.

    >>> without_secrets("kafka://host/topic?sasl.password=env:KAFKA_PASSWORD")
    'kafka://host/topic?sasl.password=env:KAFKA_PASSWORD'
    >>> without_secrets("kafka://host/topic?sasl.password=sesame")
    Traceback (most recent call last):
    ValueError: sasl.password is written into run folders: say where it is, env:NAME or file:PATH, not what it is
    >>> without_secrets("mqtt://host/camera/#")
    Traceback (most recent call last):
    ValueError: a # ends an address, and nobody reads what is behind it: write %23 for a # in a topic or value
    >>> without_secrets("kafka://host/topic?plugin.library.paths=mine.so")
    Traceback (most recent call last):
    ValueError: plugin.library.paths: an address loads no code and runs no command; leave it out
    """
    if not isinstance(url, str):
        raise ValueError(f"must be an address, such as kafka://host/topic, not {type(url).__name__}")
    if "#" in url:
        raise ValueError(
            "a # ends an address, and nobody reads what is behind it: write %23 for a # in a topic or value"
        )
    try:
        host, query = urlsplit(url).netloc, urlsplit(url).query
        parameters = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:  # whose text quotes the address
        raise ValueError(
            "cannot be read: write scheme://host/path?name=value&name=value, an IPv6 address in brackets"
        ) from None
    if "@" in url.partition("?")[0] or "@" in unquote(host):
        raise ValueError(
            "an address is written into run folders: give user and password as parameters, the password as env:NAME "
            "or file:PATH; write %40 for an @ in a topic"
        )
    for name, value in [*parameters, *_stray(url.partition("?")[0], parameters)]:
        if not _NAME.fullmatch(name):
            raise ValueError("names of parameters are letters, digits, dots, dashes and underscores, after one ?")
        if _RUNS_CODE.search(name):
            raise ValueError(f"{name}: an address loads no code and runs no command; leave it out")
        if _WORD_OF_A_COMMAND.match(name) and not _HARMLESS_WORD.fullmatch(value):
            raise ValueError(f"{name}: it becomes a word of a command: letters, digits and . / @ : + - _ are allowed")
        if is_secret(name) and not _PLACE.match(value):
            raise ValueError(
                f"{name} is written into run folders: say where it is, env:NAME or file:PATH, not what it is"
            )
    return url


def shown(value: object) -> str:
    """Return a wrong setting's value for a message, unless it may be an address that was never looked through.

    Of a long one its beginning is shown.

    >>> shown(3.5), shown("kafka://host/topic?sasl.password=sesame")
    ('3.5', 'a value that is not shown, as it may hold a secret')
    >>> shown("9" * 5000)[-24:]
    '99... (5,002 characters)'
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return "a number of very many digits" if isinstance(value, int) else "a value that cannot be shown"
    if "://" in text or is_secret(text):
        return "a value that is not shown, as it may hold a secret"
    return text if len(text) <= _LONGEST else f"{text[:_SHOWN]}... ({len(text):,} characters)"


def _stray(path: str, parameters: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield secrets that are given where no parameter is, because of a wrong or missing separator."""
    for text in (unquote(path), *(value for _, value in parameters)):
        for piece in _BETWEEN.split(text):
            name, equals, value = piece.partition("=")
            if equals and _NAME.fullmatch(name) and is_secret(name):
                yield name, value
