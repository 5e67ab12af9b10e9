"""TLS as hub and devices use it, and what its errors mean in plain words.

TLS 1.3 alone. OpenSSL is told not to look at the time on either side: a board without a clock believes that it is 1970,
and whether a device's certificate has expired is judged, and said, by the hub (:mod:`.guard`).
Where certificates are of an authority that exists already, OpenSSL at the hub looks at the dates of the whole chain.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scadles.security.authority import Authority

#: X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python has no name for.
_NO_CHECK_TIME = 0x200000

_HOSTNAME_MISMATCH, _IP_MISMATCH, _PURPOSE, _NOT_YET, _EXPIRED = 62, 64, 26, 9, 10  # X509_V_ERR_... of OpenSSL

_VERSION = "TLS 1.3 is needed, and the other end has only older versions"
_OLD_HUB = f"{_VERSION}: update Python or OpenSSL at the hub"
_TO_DEVICES = {
    "CERTIFICATE_VERIFY_FAILED": (
        "the hub is not of the authority that enrolled this device: is this the right address? If the hub has a new "
        "folder, enrol this device anew, with --token and --ca-hash"
    ),
    "UNKNOWN_CA": (
        "the hub does not know the authority that enrolled this device: enrol it anew, with --token and --ca-hash"
    ),
    "WRONG_VERSION_NUMBER": (
        "the hub does not speak TLS: it was started with --insecure, or on loopback without --secure"
    ),
    "PROTOCOL_VERSION": _OLD_HUB,
    "UNSUPPORTED_PROTOCOL": _OLD_HUB,
}
#: Where the certificates are of an authority that exists already.
_TO_EXTERNAL_DEVICES = _TO_DEVICES | {
    "CERTIFICATE_VERIFY_FAILED": "the hub is not of an authority in --ca: is this its address, and the right file?",
    "UNKNOWN_CA": "the hub does not know the authority of this device's certificate: the hub's --ca must hold it",
    "CERTIFICATE_EXPIRED": (
        "the certificate of this device, or one between it and the authority, has expired by the hub's clock: put a "
        "new one into its place"
    ),
    "UNSUPPORTED_CERTIFICATE": "the certificate of this device is not for TLS clients (clientAuth), says the hub",
}
_TO_HUBS = {
    "CERTIFICATE_VERIFY_FAILED": "its certificate is of another authority",
    "UNKNOWN_CA": "it was enrolled by another authority than this hub's",
    "BAD_CERTIFICATE": "it reaches this hub by an address that the hub's certificate is not for",
    "UNSUPPORTED_CERTIFICATE": "the certificate of this hub is not for TLS servers (serverAuth)",
    "PROTOCOL_VERSION": _VERSION,
    "UNSUPPORTED_PROTOCOL": _VERSION,
}
#: By the code with which OpenSSL says why a certificate is not good.
_WHY_TO_DEVICES = {
    **dict.fromkeys(
        (_HOSTNAME_MISMATCH, _IP_MISMATCH),
        "the hub's certificate is not for this address: join with one that it names, or have this one added to it",
    ),
    _PURPOSE: "what answers shows a certificate that is not for TLS servers (serverAuth): it is not the hub",
}
_WHY_TO_HUBS = {
    _EXPIRED: "its certificate, or one between it and the authority, has expired",
    _NOT_YET: "its certificate, or one between it and the authority, is not valid yet",
    _PURPOSE: "its certificate is not for TLS clients (clientAuth)",
}
#: Of these it is OpenSSL's wording that changes from version to version.
_SAME = {"RECORD_LAYER_FAILURE": "WRONG_VERSION_NUMBER", "HTTP_REQUEST": "WRONG_VERSION_NUMBER"}


def hub_context(authority: Authority) -> ssl.SSLContext:
    """Return what a hub speaks TLS with; a device without a certificate can connect, to be enrolled."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, authority.certificate)
    context.load_cert_chain(authority.hub_chain())
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0  # nobody would read them where a connection is written to only
    return context


def device_context(certificate: str, chain: Path | None = None) -> ssl.SSLContext:
    """Return what a device speaks TLS with to a hub of its authority.

    Args:
        certificate: of the authority, PEM.
        chain: file with the device's key and certificate; None shows no certificate.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, certificate)
    if chain is not None:
        context.load_cert_chain(chain)
    return context


def external_context(cert: Path, key: Path, authorities: str, *, at_hub: bool) -> ssl.SSLContext:
    """Return what an end speaks TLS with by certificates of an authority that exists already.

    Every certificate that is given as an authority is trusted, also where another one has signed it.

    Args:
        cert: file with the certificate, and those between it and the authority behind it, PEM.
        key: file with its key, PEM.
        authorities: PEM.
        at_hub: whether it is the hub's end, which alone looks at dates.

    Raises:
        OSError, ValueError: they cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if at_hub else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=authorities)
    context.load_cert_chain(cert, key, password=str)
    if at_hub:
        context.verify_mode = ssl.CERT_OPTIONAL  # who shows none is told so
        context.num_tickets = 0
    else:
        context.verify_flags |= _NO_CHECK_TIME
        context.hostname_checks_common_name = False
    return context


def context_of_a_stranger() -> ssl.SSLContext:
    """Return what a device speaks TLS with that does not know the authority yet, and has nothing secret to say."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, None)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def in_plain_words(error: ssl.SSLError, *, at_hub: bool, external: bool = False) -> str:
    """Return what an error of TLS means for whoever reads it at the hub, or on the device.

    Args:
        error: of OpenSSL.
        at_hub: who reads it.
        external: whether the device's certificate is of an authority that exists already.
    """
    why = _WHY_TO_HUBS if at_hub else _WHY_TO_DEVICES
    if (code := getattr(error, "verify_code", None)) in why:
        return why[code]
    reason = (getattr(error, "reason", None) or "").upper().replace(" ", "_")
    for prefix in ("TLSV1_ALERT_", "SSLV3_ALERT_", "TLSV13_ALERT_"):
        reason = reason.removeprefix(prefix)
    known = (_TO_HUBS if at_hub else _TO_EXTERNAL_DEVICES if external else _TO_DEVICES).get(_SAME.get(reason, reason))
    return known or f"TLS broke off ({reason.replace('_', ' ').lower() or type(error).__name__})"


def _context(protocol: ssl._SSLMethod, certificate: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= _NO_CHECK_TIME | ssl.VERIFY_X509_STRICT
    if certificate is not None:
        context.load_verify_locations(cadata=certificate)
    return context
