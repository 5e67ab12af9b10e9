"""Certificate, key and authority in PEM files that somebody gives: read, and found to be good, before they are used."""

from __future__ import annotations

import ssl
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from scadles.errors import ConfigError
from scadles.files import read_file
from scadles.security.authority import key_hash
from scadles.security.contexts import external_context

#: What ``cryptography`` raises where it cannot read a certificate or a key.
UNREADABLE = (
    *(ValueError, UnsupportedAlgorithm),
    *(x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)

_MOST_BYTES = 1 << 20
_EXPIRED, _NOT_YET, _PURPOSE = 10, 9, 26  # X509_V_ERR_... of OpenSSL
_NO_WAY_UP = (2, 7, 18, 19, 20, 21)


class CertificateFiles(NamedTuple):
    """PEM files of a device, or of a hub.

    Attributes:
        cert: its certificate, and behind it those between it and the authority.
        key: its private key, without a passphrase.
        ca: certificates of the authorities whose certificates the other end may show.
    """

    cert: str | PathLike[str]
    key: str | PathLike[str]
    ca: str | PathLike[str]


#: What is wrong with a certificate that :func:`may_certify` finds.
MAY_CERTIFY = "with it certificates could be made for others: have one issued with basicConstraints=critical,CA:FALSE"


def may_certify(certificate: x509.Certificate) -> bool:
    """Whether its owner may sign certificates for others, which chains would be taken by."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def load_files(files: CertificateFiles, *, at_hub: bool) -> tuple[ssl.SSLContext, x509.Certificate]:
    """Return what TLS is spoken with by these files, and the certificate that is shown.

    A handshake within this process tells whether the other end, which trusts the same authority, would accept it.

    Args:
        files: which.
        at_hub: whether a hub shows the certificate; there, and only there, dates are looked at.

    Raises:
        ConfigError: they cannot be used.
    """
    cert, key, ca = (Path(path) for path in files)
    certificate = _certificates("cert", cert)[0]
    _check_key(key, cert, certificate)
    if may_certify(certificate):
        raise ConfigError(f"cert = {cert}: {MAY_CERTIFY}")
    authorities = "".join(_pem(one) for one in _certificates("ca", ca))
    try:
        context = external_context(cert, key, authorities, at_hub=at_hub)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cert = {cert}: OpenSSL refuses it ({_reason(error)}): have another one issued") from None
    try:
        _try_out(cert, key, authorities, at_hub=at_hub)
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(f"cert = {cert}: {_why_not(error, ca, at_hub=at_hub)}") from None
    except ssl.SSLError as error:
        raise ConfigError(f"cert = {cert}: TLS cannot be spoken with it ({_reason(error)})") from None
    return context, certificate


def _certificates(what: str, path: Path) -> list[x509.Certificate]:
    content = _content(what, path)
    try:
        return x509.load_pem_x509_certificates(content)
    except UNREADABLE:
        raise ConfigError(
            f"{what} = {path}: it holds no certificate that can be read; PEM is expected, which begins with "
            "-----BEGIN CERTIFICATE-----"
        ) from None


def _check_key(path: Path, cert: Path, certificate: x509.Certificate) -> None:
    content = _content("key", path)
    try:
        key = load_pem_private_key(content, password=None)
        fits = key_hash(key.public_key()) == key_hash(certificate.public_key())
    except TypeError:
        raise ConfigError(
            f"key = {path}: it is encrypted with a passphrase, which nobody could type at a start at boot: give the "
            "key without one, in a file that only its owner can read (openssl pkey -in OLD -out NEW; chmod 600 NEW)"
        ) from None
    except UNREADABLE:
        raise ConfigError(
            f"key = {path}: it holds no private key that can be read; PEM is expected, which begins with "
            "-----BEGIN PRIVATE KEY-----"
        ) from None
    if not fits:
        raise ConfigError(f"key = {path}: it is not the key of the first certificate in {cert}: give the pair")


def _content(what: str, path: Path) -> bytes:
    try:
        return read_file(path, _MOST_BYTES)
    except OSError as error:
        raise ConfigError(f"{what} = {path}: it cannot be read ({error.strerror})") from None


def _pem(certificate: x509.Certificate) -> str:
    return ssl.DER_cert_to_PEM_cert(certificate.public_bytes(Encoding.DER))


def _try_out(cert: Path, key: Path, authorities: str, *, at_hub: bool) -> None:
    """Let an end with this certificate shake hands with one that trusts the authorities, in memory."""
    shows = external_context(cert, key, authorities, at_hub=at_hub)
    looks = external_context(cert, key, authorities, at_hub=not at_hub)
    shows.check_hostname = looks.check_hostname = False
    shows.verify_mode, looks.verify_mode = ssl.CERT_NONE, ssl.CERT_REQUIRED
    looks.verify_flags = shows.verify_flags
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [shows.wrap_bio(one, other, server_side=at_hub), looks.wrap_bio(other, one, server_side=not at_hub)]
    for end in ends * 3:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue


def _why_not(error: ssl.SSLCertVerificationError, ca: Path, *, at_hub: bool) -> str:
    if error.verify_code in _NO_WAY_UP:
        return (
            f"nothing leads from it to an authority in {ca}: is that the one that issued it? The certificates between "
            "both belong behind it, in the same file"
        )
    if error.verify_code == _PURPOSE:
        purpose = "server (serverAuth)" if at_hub else "client (clientAuth)"
        return f"it, or one between it and the authority, is not for that purpose: it must be for a TLS {purpose}"
    if error.verify_code == _EXPIRED:
        return "it, or one between it and the authority, has expired: put a new one into its place"
    if error.verify_code == _NOT_YET:
        return "it, or one between it and the authority, is not valid yet by this machine's clock"
    return f"OpenSSL refuses it ({error.verify_message})"


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error).replace("_", " ").lower()
