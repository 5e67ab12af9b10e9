"""A hub's own small authority: it signs the certificates of its devices, and nothing else.

Certificates begin in 1970, so that a board without a clock can take part: neither end lets OpenSSL look at the time
(:mod:`.contexts`), and the hub judges by its own clock whether a device's certificate has expired.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from scadles.clock import date_of
from scadles.errors import ConfigError, UntrustedError
from scadles.files import read_file
from scadles.security.store import private_folder, write_private

#: The name in every hub's certificate: it is the authority that a device knows, not an address.
HUB_NAME = "scadles-hub"
AUTHORITY_FOLDER = "authority"
LIFE_S = 30 * 86_400.0

_SCHEME = "scadles"
_FIRST_S, _LAST_S = 0.0, 2_524_607_999.0  # 1970, and the end of 2049, where the short form of dates ends
_MOST_BYTES = 1 << 16
_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)
_CA_KEY, _CA, _HUB = "ca.key", "ca.pem", "hub.pem"


class Identity(NamedTuple):
    """What a device's certificate says.

    Attributes:
        run: in which it may take part.
        name: of the device.
        key: sha256 of its public key, in hex.
        serial: of the certificate, in hex.
        expires: in seconds since 1970.
        aliases: other names that it is good for.
    """

    run: str
    name: str
    key: str
    serial: str
    expires: float
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All that it is good for."""
        return (self.name, *self.aliases)


class Authority:
    """A key that signs certificates of devices, and the certificate of the hub.

    Args:
        folder: of the authority, private; key and certificate are made where there are none.

    Attributes:
        folder: as given.
        is_new: whether it was made just now.
        certificate: its own, PEM.
        ca_hash: ``sha256:`` and the hash of its public key (SubjectPublicKeyInfo, DER) in hex, as kubeadm has it.

    Raises:
        ConfigError: the folder cannot be used, or holds something else.
    """

    def __init__(self, folder: Path) -> None:
        private_folder(folder)
        self.folder = folder
        self.is_new = not (folder / _CA).exists()
        if self.is_new:
            key = new_key()
            write_private(folder / _CA_KEY, key_pem(key))
            write_private(folder / _CA, _ca_certificate(key).public_bytes(Encoding.PEM))
        try:
            self._key = load_key(read_file(folder / _CA_KEY, _MOST_BYTES))
            self._certificate = x509.load_pem_x509_certificate(read_file(folder / _CA, _MOST_BYTES))
        except OSError as error:
            raise ConfigError(f"cannot read the authority in {folder}: {error.strerror}") from None
        except ValueError:
            raise ConfigError(f"{folder} holds no authority of a hub: put back the one that was there") from None
        self.certificate = self._certificate.public_bytes(Encoding.PEM).decode()
        self.ca_hash = f"sha256:{key_hash(self._certificate.public_key())}"

    def hub_chain(self) -> Path:
        """Make the hub's key and certificate anew, and return the file with both."""
        key = new_key()
        hub = self._sign(key.public_key(), HUB_NAME, x509.DNSName(HUB_NAME), _LAST_S, is_hub=True)
        write_private(self.folder / _HUB, key_pem(key) + hub.public_bytes(Encoding.PEM))
        return self.folder / _HUB

    def sign(self, key: ec.EllipticCurvePublicKey, run: str, name: str, expires: float) -> tuple[str, str]:
        """Return a certificate for a device's key, PEM, and its serial number in hex.

        Args:
            key: from :func:`read_request`.
            run, name: whose it is.
            expires: in seconds since 1970.
        """
        uri = x509.UniformResourceIdentifier(f"{_SCHEME}://{run}/{quote(name, safe='')}")
        certificate = self._sign(key, "scadles-device", uri, expires, is_hub=False)
        return certificate.public_bytes(Encoding.PEM).decode(), f"{certificate.serial_number:x}"

    def _sign(
        self, key: ec.EllipticCurvePublicKey, subject: str, name: x509.GeneralName, expires: float, *, is_hub: bool
    ) -> x509.Certificate:
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if is_hub else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = _builder(key, subject, self._certificate.subject, expires)
        builder = builder.add_extension(x509.SubjectAlternativeName([name]), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return builder.add_extension(issuer, critical=False).sign(self._key, hashes.SHA256())


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new key."""
    return ec.generate_private_key(ec.SECP256R1())


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Return the key in PEM.

    Raises:
        ValueError: there is none of this kind.
    """
    key = load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("no key of an elliptic curve")
    return key


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a key as PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key_hash(key: object) -> str:
    """Return the sha256 of a public key in hex."""
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return sha256(encoded).hexdigest()


def ca_hash(certificate: str) -> str:
    """Return the hash of an authority's key.

    Args:
        certificate: its own, PEM.

    Raises:
        UntrustedError: it is no certificate.
    """
    try:
        return f"sha256:{key_hash(x509.load_pem_x509_certificate(certificate.encode()).public_key())}"
    except (ValueError, UnsupportedAlgorithm):
        raise UntrustedError("what the hub sends as its authority is no certificate") from None


def certificate_request(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a request for a certificate, PEM: its signature proves that whoever asks has the key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "scadles-device")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def read_request(pem: object) -> ec.EllipticCurvePublicKey:
    """Return the key that is to be certified by a request in PEM.

    Raises:
        UntrustedError: it is none, or not signed by the key that is in it.
    """
    try:
        request = x509.load_pem_x509_csr(str(pem)[:_MOST_BYTES].encode(errors="replace"))
        key = request.public_key()
        if isinstance(key, ec.EllipticCurvePublicKey) and request.is_signature_valid:
            return key
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        pass
    raise UntrustedError("what it wants to have signed is no request that its key has signed")


def read_identity(der: bytes) -> Identity:
    """Return what a device's certificate says, which is of this authority.

    Raises:
        UntrustedError: it is no certificate of a device.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        [uri] = names.get_values_for_type(x509.UniformResourceIdentifier)
        run, name = read_uri(uri)
        key = key_hash(certificate.public_key())
        expires = certificate.not_valid_after_utc.timestamp()
    except (ValueError, x509.ExtensionNotFound, UnsupportedAlgorithm):
        raise UntrustedError("its certificate is of this authority, but is no device's") from None
    return Identity(run, name, key, f"{certificate.serial_number:x}", expires)


def read_uri(uri: str) -> tuple[str, str]:
    """Return run and name in ``scadles://RUN/NAME``.

    Raises:
        ValueError: it is another URI.
    """
    parts = urlsplit(uri)
    if parts.scheme != _SCHEME:
        raise ValueError(uri)
    return parts.netloc, unquote(parts.path[1:])


def holds_authority(folder: Path) -> bool:
    """Whether a hub's own authority is in a folder."""
    return (folder / _CA).exists()


def _ca_certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "scadles-authority")])
    builder = _builder(key.public_key(), "scadles-authority", subject, _LAST_S)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.add_extension(_usage(signs=True), critical=True).sign(key, hashes.SHA256())


def _builder(
    key: ec.EllipticCurvePublicKey, subject: str, issuer: x509.Name, expires: float
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().public_key(key).serial_number(x509.random_serial_number())
    builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])).issuer_name(issuer)
    builder = builder.not_valid_before(date_of(_FIRST_S)).not_valid_after(date_of(expires))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _usage(*, signs: bool) -> x509.KeyUsage:
    wanted: Sequence[str] = ("key_cert_sign", "crl_sign") if signs else ("digital_signature",)
    return x509.KeyUsage(**{name: name in wanted for name in _USAGES})
