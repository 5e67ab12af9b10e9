"""Certificates of an authority that exists already, in files that somebody else renews."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID

from scadles.clock import unix_seconds, wall_seconds
from scadles.errors import ConfigError, UntrustedError
from scadles.security.authority import AUTHORITY_FOLDER, Identity, key_hash, read_uri
from scadles.security.certificate_files import MAY_CERTIFY, UNREADABLE, CertificateFiles, load_files, may_certify
from scadles.security.registry import Enrolled, Registry
from scadles.security.store import private_folder

_LONGEST_NAME = 64
_PAUSE_S = 1.0
_TAKES_OTHERS = "this hub enrols nobody: join with --cert, --key and --ca, by certificates of its authority"


class _Stamp(NamedTuple):
    inode: int
    changed_ns: int
    size: int


class _Watched:
    """The TLS context of three files, made anew when they have changed.

    Args:
        files: which.
        at_hub: whether a hub shows the certificate.
        say: told one line where changed files cannot be used; those before are used on.

    Raises:
        ConfigError: they cannot be used.
    """

    def __init__(self, files: CertificateFiles, say: Callable[[str], None], *, at_hub: bool) -> None:
        self._files, self._say, self._at_hub = files, say, at_hub
        self._lock = Lock()
        self._said, self._try_again_s = "", 0.0
        self._stamps = self._look()
        self._context, self._certificate = load_files(files, at_hub=at_hub)

    def now(self) -> tuple[ssl.SSLContext, x509.Certificate]:
        """Return the context and the certificate for the next connection."""
        with self._lock:
            stamps = self._look()
            if stamps != self._stamps or (self._said and wall_seconds() > self._try_again_s):
                self._stamps = stamps
                try:
                    self._context, self._certificate = load_files(self._files, at_hub=self._at_hub)
                    self._said = ""
                except ConfigError as error:  # half of them may have been replaced
                    self._try_again_s = wall_seconds() + _PAUSE_S
                    if str(error) != self._said:
                        self._said = str(error)
                        self._say(f"the changed certificate is not used yet, but the one before: {error}")
            return self._context, self._certificate

    def _look(self) -> list[_Stamp | None]:
        return [_stamp(Path(path)) for path in self._files]


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return _Stamp(found.st_ino, found.st_mtime_ns, found.st_size)


class ExternalCredentials:
    """What a device shows to its hub, from files.

    Args:
        files: certificate, key and authority.
        say: told one line where files that have changed cannot be used.

    Raises:
        ConfigError: they cannot be used.
    """

    hub_name = None

    def __init__(self, files: CertificateFiles, say: Callable[[str], None]) -> None:
        self._watched = _Watched(files, say, at_hub=False)
        self._shown: x509.Certificate | None = None
        self._next: x509.Certificate | None = None

    @property
    def context(self) -> ssl.SSLContext:
        """What the next connection speaks TLS with."""
        context, certificate = self._watched.now()
        self._shown = self._shown or certificate
        return context

    def renewal(self) -> Mapping[str, Any] | None:
        """Return what the hub is told where the files hold another certificate than it knows; None where not."""
        _, self._next = self._watched.now()
        return {} if self._next != self._shown else None

    def renewed(self, answer: Mapping[str, Any]) -> None:
        """Take note that the hub has seen the certificate."""
        self._shown = self._next


class ExternalGuard:
    """Judges whoever connects to a hub, by certificates of an authority that exists already.

    Args:
        folder: of the hub; who has been revoked is in a folder therein.
        run: what the run is called.
        files: certificate and key of the hub, and the authority of its devices.
        say: told one line where files that have changed cannot be used.
        now: returns the seconds since 1970.

    Raises:
        ConfigError: files or folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        run: str,
        files: CertificateFiles,
        say: Callable[[str], None],
        *,
        now: Callable[[], float] = unix_seconds,
    ) -> None:
        self._watched = _Watched(files, say, at_hub=True)
        private_folder(folder / AUTHORITY_FOLDER)
        self._registry = Registry(folder / AUTHORITY_FOLDER)
        self._run, self._say = run, say
        self._now = now
        self._expires: dict[str, float] = {}
        self._names: dict[str, tuple[str, ...]] = {}

    @property
    def context(self) -> ssl.SSLContext:
        """What the next connection speaks TLS with."""
        return self._watched.now()[0]

    def identify(self, certificate: bytes | None) -> Identity:
        """Return who shows a certificate, if that device may take part.

        Args:
            certificate: DER, which TLS has found to be of the authority, and not to have expired; None where none was.

        Raises:
            UntrustedError: it may not.
        """
        if certificate is None:
            raise UntrustedError(f"it shows no certificate; {_TAKES_OTHERS}")
        identity, issued = _read(certificate)
        if identity.run not in ("", self._run):
            raise UntrustedError(
                f"its certificate is for another run than this hub's, which is scadles://{self._run}/NAME"
            )
        for name in identity.names:
            self._registry.check_revoked(name)
        try:
            self._registry.take_note(identity.name, Enrolled(identity.key, identity.serial, issued, identity.expires))
        except ConfigError as error:  # the list is for people: who may take part does not depend on it
            self._say(f"{identity.name} is missing in the list of devices: {error}")
        for name in identity.names:
            self._expires[name] = max(identity.expires, self._expires.get(name, identity.expires))
            self._names[name] = identity.names
        return identity

    def problem(self, name: str) -> str | None:
        """Return why a device that is connected may not stay; None where it may, or where that cannot be read."""
        try:
            for one in self._names.get(name, (name,)):
                self._registry.check_revoked(one)
        except UntrustedError:
            return "it has been revoked"
        except ConfigError:
            return None
        return "its certificate has expired" if self._now() > self._expires.get(name, self._now()) else None

    def lifetime(self, expires: float) -> dict[str, float]:
        """Return for how long a certificate is good yet, and a life by which the device looks for the next one now."""
        left_s = expires - self._now()
        return {"left_s": left_s, "life_s": 2 * left_s}

    def answer(self, hello: dict[str, Any], certificate: bytes | None) -> dict[str, Any] | None:
        """Answer a device that shows a newer certificate; None where a hello asks for something else.

        Raises:
            UntrustedError: it may not take part, or wants to be enrolled.
        """
        role = hello.get("role")
        if role in ("authority", "enrol"):
            raise UntrustedError(_TAKES_OTHERS)
        if role == "renew":
            return {"lifetime": self.lifetime(self.identify(certificate).expires)}
        return None


def _read(der: bytes) -> tuple[Identity, float]:
    """Return what a device's certificate says, and since when it is good.

    Its name is that in the URI ``scadles://RUN/NAME``, where RUN may be empty for any run; in one without, every DNS
    name; in one without those, the common name.

    Raises:
        UntrustedError: it names no device, or an authority.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        is_authority = may_certify(certificate)
        run, names = _names(certificate)
        names = [name for name in names if name.isprintable() and 0 < len(name) <= _LONGEST_NAME]
        name, *aliases = names
        key, expires = key_hash(certificate.public_key()), certificate.not_valid_after_utc.timestamp()
    except UNREADABLE:
        raise UntrustedError(
            "its certificate names no device: it needs a URI scadles://RUN/NAME (scadles:///NAME for any run), DNS "
            "names, or one common name"
        ) from None
    if is_authority:
        raise UntrustedError(f"its certificate: {MAY_CERTIFY}")
    identity = Identity(run, name, key, f"{certificate.serial_number:x}", expires, tuple(aliases))
    return identity, certificate.not_valid_before_utc.timestamp()


def _names(certificate: x509.Certificate) -> tuple[str, list[str]]:
    try:
        others = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        others = x509.SubjectAlternativeName([])
    uris = others.get_values_for_type(x509.UniformResourceIdentifier)
    if ours := [uri for uri in uris if uri.startswith("scadles:")]:
        [uri] = ours
        run, name = read_uri(uri)
        return run, [name]
    if dns := others.get_values_for_type(x509.DNSName):
        return "", dns
    [common] = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return "", [str(common.value)]
