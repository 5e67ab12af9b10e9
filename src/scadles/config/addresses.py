"""No secret in a setting: settings are written into run folders, printed and compared."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

_SECRET = re.compile(r"password|passphrase|secret|key\.pem$|private\.key|oauthbearer\.config$|token$", re.IGNORECASE)


def is_secret(parameter: str) -> bool:
    """Whether a parameter of an address, by its name, is a secret.

    >>> is_secret("sasl.password"), is_secret("ssl.key.pem"), is_secret("sasl.username"), is_secret("ssl.ca.pem")
    (True, True, False, False)
    """
    return _SECRET.search(parameter) is not None


def without_secrets(url: str) -> str:
    """Return an address that holds no secret, as it is.

    Raises:
        ValueError: it holds one; the message does not tell it.

    >>> without_secrets("kafka://host/topic?sasl.password=env:KAFKA_PASSWORD")
    'kafka://host/topic?sasl.password=env:KAFKA_PASSWORD'
    >>> without_secrets("kafka://host/topic?sasl.password=sesame")
    Traceback (most recent call last):
    ValueError: sasl.password is written into run folders: say where it is, env:NAME or file:PATH, not what it is
    """
    try:
        parts = urlsplit(url)
        parameters = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return url  # whoever opens it says what is wrong with it
    if "@" in parts.netloc:
        raise ValueError(
            "an address is written into run folders: give user and password as parameters, the password as env:NAME "
            "or file:PATH"
        )
    for name, value in parameters:
        if is_secret(name) and not value.startswith(("env:", "file:")):
            raise ValueError(
                f"{name} is written into run folders: say where it is, env:NAME or file:PATH, not what it is"
            )
    return url
