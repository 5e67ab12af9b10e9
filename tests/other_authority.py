"""An authority that exists already: a root, one between, and certificates of hubs and devices, in PEM files."""

import ipaddress
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from scadles.security import CertificateFiles

DAY = timedelta(days=1)
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
KEYS = {
    "ec": lambda: ec.generate_private_key(ec.SECP384R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "rsa-1024": lambda: rsa.generate_private_key(65537, 1024),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


class OtherAuthority:
    """Certificates as a company's or a laboratory's authority issues them.

    Args:
        folder: where its files are.
        kind: of its keys.

    Attributes:
        ca: file with the root.
        between: file with the certificate between it and those that are issued.
    """

    def __init__(self, folder, kind="ec"):
        folder.mkdir(exist_ok=True)
        self.folder, self._kind = folder, kind
        root_key = KEYS[kind]()
        root = self._signed("root", root_key, None, root_key)
        self._key = KEYS[kind]()
        self._between = self._signed("between", self._key, root, root_key)
        self.ca, self.between = folder / "root.pem", folder / "between.pem"
        self.ca.write_bytes(root.public_bytes(Encoding.PEM))
        self.between.write_bytes(self._between.public_bytes(Encoding.PEM))

    def issue(
        self, name, *, names=(), purpose=CLIENT, common=None, passphrase=None, chain=True, days=(-1, 90), ca=False
    ):
        """Write certificate and key of a device or hub; return the three files."""
        key = KEYS[self._kind]()
        more = [x509.SubjectAlternativeName(names)] if names else []
        more += [x509.ExtendedKeyUsage([purpose])] if purpose else []
        certificate = self._signed(common or name, key, self._between, self._key, more, days, ca=ca)
        cert, secret = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert.write_bytes(certificate.public_bytes(Encoding.PEM) + self.between.read_bytes() * chain)
        hidden = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
        secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden))
        return CertificateFiles(cert, secret, self.ca)

    def hub(self, **more):
        return self.issue("hub", **{"names": [loopback(), x509.DNSName("localhost")], "purpose": SERVER, **more})

    def device(self, name, **more):
        return self.issue(name, **{"names": [uri(name)], **more})

    def _signed(self, common, key, issuer, issuer_key, more=(), days=(-1, 90), *, ca=False):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
        is_authority = not more and common in ("root", "between")
        now = datetime.now(timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + days[0] * DAY)
            .not_valid_after(now + days[1] * DAY)
            .add_extension(x509.BasicConstraints(ca=ca or is_authority, path_length=None), critical=True)
        )
        identifiers = [x509.SubjectKeyIdentifier.from_public_key(key.public_key())]
        if issuer is not None:
            identifiers.append(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()))
        for extension in (*identifiers, *more):
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(issuer_key, None if self._kind == "ed25519" else hashes.SHA256())


def uri(name, run=""):
    return x509.UniformResourceIdentifier(f"scadles://{run}/{name}")


def dns(name):
    return x509.DNSName(name)


def loopback(address="127.0.0.1"):
    return x509.IPAddress(ipaddress.ip_address(address))
