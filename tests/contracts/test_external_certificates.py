"""A hub and devices with certificates of an authority that exists already."""

import os
import re
import shutil
import socket
import subprocess

import pytest
import torch
from cryptography import x509

from other_authority import SERVER, OtherAuthority, dns, loopback, uri
from scadles.clock import unix_seconds, wall_seconds
from scadles.errors import ConfigError, FabricError
from scadles.fabric.hub import Hub, HubFabric, enrol, enrolment
from scadles.fabric.hub.frames import Kind
from scadles.security import (
    CertificateFiles,
    Credentials,
    ExternalCredentials,
    ExternalGuard,
    Registry,
    certificate_files,
    external,
)
from scadles.testing.elastic import come_in
from scadles.training.hub import reach
from secure_hub import LIMIT_S, RUN, answer_to, until


@pytest.fixture
def authority(tmp_path):
    return OtherAuthority(tmp_path / "authority")


class Serving:
    def __init__(self, folder, files, host="127.0.0.1", now=unix_seconds):
        self.said = []
        self.folder = folder
        self.guard = ExternalGuard(folder, RUN, files, self.said.append, now=now)
        self.hub = Hub(host, 0, 3, guard=self.guard, say=self.said.append)
        self.hub.start()
        self.address = self.hub.address


@pytest.fixture
def serve(tmp_path, closing):
    def start(files, **more):
        serving = Serving(tmp_path / "hub", files, **more)
        closing.callback(serving.hub.close)
        return serving

    return start


@pytest.fixture
def connect(closing):
    def one(serving, name, files, say=lambda _: None):
        shown = ExternalCredentials(files, say)
        fabric = HubFabric(*serving.address, name, deadline_s=LIMIT_S, credentials=shown, say=say)
        closing.callback(fabric.close)
        return fabric

    return one


def takes_part(fabric):
    come_in(fabric, 0)
    bucket = torch.ones(300_000)
    fabric.reduce(bucket, "a sum").wait()
    assert bucket.eq(1).all()


@pytest.mark.parametrize("kind", ["ec", "rsa", "ed25519"])
def test_keys_of_several_kinds_and_a_chain(tmp_path, serve, connect, kind):
    authority = OtherAuthority(tmp_path / "authority", kind)
    serving = serve(authority.hub())
    takes_part(connect(serving, "cam-1", authority.device("cam-1")))
    assert serving.hub.refused == 0
    [(name, one)] = Registry(serving.folder / "authority").all().items()
    assert (name, one.revoked) == ("cam-1", False)
    assert one.expires > unix_seconds() + 80 * 86_400


@pytest.mark.parametrize(
    ("names", "common", "name"),
    [
        ([uri("cam-1")], "other", "cam-1"),
        ([uri("cam-1", RUN)], "other", "cam-1"),
        ([uri("cam-1"), dns("cam-1.example")], "other", "cam-1"),
        ([dns("cam-1.example"), dns("cam-1")], "other", "cam-1"),
        ([dns("cam-1.example"), dns("cam-1")], "other", "cam-1.example"),
        ([], "cam-1", "cam-1"),
        ([loopback("192.0.2.1")], "cam-1", "cam-1"),
        ([uri("a%20camera")], "other", "a camera"),
    ],
)
def test_what_counts_as_a_name(authority, serve, connect, names, common, name):
    serving = serve(authority.hub())
    files = authority.issue("cam-1", names=names, common=common)
    assert connect(serving, name, files).members
    with pytest.raises(FabricError, match=r"its certificate is for the name .*, and it says that it is another"):
        connect(serving, "another", files)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([uri("cam-1", "another")], "its certificate is for another run than this hub's, which is scadles://"),
        ([uri("cam-1"), uri("cam-2")], "its certificate names no device"),
        ([dns("x" * 65)], "its certificate names no device"),
        ([uri("cam-1%0A")], "its certificate names no device"),
    ],
)
def test_names_that_do_not_count(authority, serve, connect, names, sentence):
    serving = serve(authority.hub())
    with pytest.raises(FabricError, match=sentence) as caught:
        connect(serving, "cam-1", authority.issue("cam-1", names=names))
    assert caught.value.exit_code == 3
    assert serving.hub.refused == 1


def test_a_certificate_with_an_extension_twice_is_refused_in_words(authority, serve, connect, monkeypatch):
    def twice(_):
        raise x509.DuplicateExtension("twice", x509.SubjectAlternativeName.oid)

    serving = serve(authority.hub())
    monkeypatch.setattr(external, "_names", twice)
    with pytest.raises(FabricError, match="its certificate names no device"):
        connect(serving, "cam-1", authority.device("cam-1"))


def test_a_certificate_that_could_make_others_is_refused_at_both_ends(authority, serve, connect, monkeypatch):
    serving, files = serve(authority.hub()), authority.device("cam-1", ca=True)
    with pytest.raises(ConfigError, match="with it certificates could be made for others"):
        connect(serving, "cam-1", files)
    monkeypatch.setattr(certificate_files, "may_certify", lambda _: False)
    with pytest.raises(FabricError, match="with it certificates could be made for others"):
        connect(serving, "cam-1", files)
    assert serving.hub.refused == 1


def test_a_dns_name_comes_before_a_common_name(authority, serve, connect):
    serving = serve(authority.hub())
    with pytest.raises(FabricError, match="its certificate is for the name other, and it says that it is cam-1"):
        connect(serving, "cam-1", authority.issue("cam-1", names=[dns("other")], common="cam-1"))


def test_an_authority_between_can_be_the_trusted_one(authority, serve, connect):
    trusting = authority.hub()._replace(ca=authority.between)
    serving = serve(trusting)
    connect(serving, "cam-1", authority.device("cam-1", chain=False)._replace(ca=authority.between))


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([dns("hub.example")], "the hub's certificate is not for this address: join with one that it names"),
        ([loopback("192.0.2.1")], "the hub's certificate is not for this address"),
        ([], "the hub's certificate is not for this address"),
    ],
)
def test_a_hub_is_known_by_its_address(authority, serve, connect, names, sentence):
    serving = serve(authority.hub(names=names, common="127.0.0.1"))
    with pytest.raises(FabricError, match=sentence):
        connect(serving, "cam-1", authority.device("cam-1"))
    until(lambda: serving.said, "word of it")
    assert "it reaches this hub by an address that the hub's certificate is not for" in serving.said[-1]


def test_a_hub_is_known_by_its_host_name(authority, serve, connect):
    serving = serve(authority.hub(names=[dns("localhost")]))
    serving.address = ("localhost", serving.address[1])
    connect(serving, "cam-1", authority.device("cam-1"))


@pytest.mark.parametrize("listen", ["::1", "::"])
def test_a_hub_is_known_by_its_ipv6_address(authority, serve, connect, listen):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 on loopback here: {error}")
    serving = serve(authority.hub(names=[loopback("::1")]), host=listen)
    serving.address = ("::1", serving.address[1])
    connect(serving, "cam-1", authority.device("cam-1"))


def test_a_list_that_cannot_be_written_turns_nobody_away(authority, serve, connect, monkeypatch):
    def fails(*_):
        raise ConfigError("cannot write devices.json: No space left on device")

    serving = serve(authority.hub())
    monkeypatch.setattr(Registry, "take_note", fails)
    connect(serving, "cam-1", authority.device("cam-1"))
    assert any("cam-1 is missing in the list of devices: cannot write" in line for line in serving.said)


def test_a_device_cannot_stand_in_for_the_hub(authority, tmp_path):
    """Its certificate may name the hub's address; it is not for servers."""
    with pytest.raises(ConfigError, match=r"cert = .*: it, .* must be for a TLS server \(serverAuth\)"):
        ExternalGuard(tmp_path / "hub", RUN, authority.device("cam-1", names=[loopback()]), print)


def test_other_authorities(authority, tmp_path, serve, connect):
    other = OtherAuthority(tmp_path / "other")
    serving = serve(authority.hub())
    with pytest.raises(FabricError, match="the hub is not of an authority in --ca: is this its address"):
        connect(serving, "cam-1", other.device("cam-1"))
    both = tmp_path / "both.pem"
    both.write_bytes(other.ca.read_bytes() + authority.ca.read_bytes())
    with pytest.raises(FabricError, match="the hub does not know the authority of this device's certificate"):
        connect(serving, "cam-1", other.device("cam-1")._replace(ca=both))
    until(lambda: serving.hub.refused == 2, "both to be counted")


def test_nobody_is_enrolled(authority, serve, tmp_path):
    serving = serve(authority.hub())
    with pytest.raises(FabricError, match="this hub enrols nobody: join with --cert, --key and --ca"):
        enrol(serving.address, "cam-1", "T", "sha256:0", Credentials(tmp_path / "cam-1"))
    context = ExternalCredentials(authority.device("cam-1"), print).context
    kind, answer = answer_to(serving.address, context, hub_name="127.0.0.1", role="enrol", name="cam-1", token="T")
    assert (kind, "enrols nobody" in answer["why"]) == (Kind.REFUSAL, True)


def test_revoked_and_readmitted(authority, serve, connect):
    serving = serve(authority.hub())
    registry = Registry(serving.folder / "authority")
    files = authority.issue("cam-1", names=[dns("cam-1"), dns("cam-1.example")])
    fabric = connect(serving, "cam-1.example", files)
    takes_part(fabric)
    registry.revoke("cam-1", known=False)  # all names of its certificate are turned out
    until(lambda: not serving.hub.members(), "its end")
    assert "cam-1.example (device 0) has left: it has been revoked" in serving.said
    with pytest.raises(FabricError, match="cam-1 has been revoked: at the hub, scadles devices HUBFOLDER readmit"):
        connect(serving, "cam-1.example", files)
    registry.readmit("cam-1")
    connect(serving, "cam-1.example", files)


def test_a_name_is_revoked_before_it_has_been_seen(authority, serve, connect):
    serving = serve(authority.hub())
    registry = Registry(serving.folder / "authority")
    with pytest.raises(ConfigError, match="no device is called cam-1"):
        registry.revoke("cam-1")
    registry.revoke("cam-1", known=False)
    with pytest.raises(FabricError, match="cam-1 has been revoked"):
        connect(serving, "cam-1", authority.device("cam-1"))


def test_expired(authority, serve, connect):
    """The device cannot tell, as it may believe that it is 1970; the hub does."""
    later_s = [0.0]
    serving = serve(authority.hub(), now=lambda: unix_seconds() + later_s[0])
    takes_part(connect(serving, "cam-1", authority.device("cam-1")))
    later_s[0] = 91 * 86_400
    until(lambda: "cam-1 (device 0) has left: its certificate has expired" in serving.said, "its end")
    with pytest.raises(FabricError, match=r"the certificate of this device, or one between .*, has expired by the hub"):
        connect(serving, "cam-2", authority.device("cam-2", days=(-2, -1)))
    expired = "its certificate, or one between it and the authority, has expired"
    until(lambda: any(line.endswith(expired) for line in serving.said), "word of it")
    with pytest.raises(FabricError, match="TLS broke off"):
        connect(serving, "cam-2", authority.device("cam-2", days=(1, 2)))
    until(lambda: "is not valid yet" in serving.said[-1], "word of it")


def replace(files, others):
    """Put other certificates into the place of those, as one who renews them does: each by a rename."""
    for old, new in zip(files[:2], others[:2], strict=True):
        os.replace(new, old)  # noqa: PTH105


def test_a_renewed_certificate_is_shown_without_a_new_session(authority, serve, connect, monkeypatch):
    monkeypatch.setattr(enrolment, "_LONGEST_PAUSE_S", 0.02)
    serving = serve(authority.hub())
    files = authority.device("cam-1", days=(-1, 1))
    fabric = connect(serving, "cam-1", files)
    takes_part(fabric)
    before = Registry(serving.folder / "authority").all()["cam-1"]
    replace(files, authority.issue("new", names=[uri("cam-1")]))
    until(lambda: fabric._renewal.count == 1, "it to be shown")
    now = Registry(serving.folder / "authority").all()["cam-1"]
    assert now.expires > before.expires + 80 * 86_400
    looked = []
    problem = serving.guard.problem
    monkeypatch.setattr(serving.guard, "problem", lambda name: looked.append(problem(name)) or looked[-1])
    serving.guard._now = lambda: unix_seconds() + 2 * 86_400  # when the first one has expired
    until(lambda: len(looked) > 3, "looks at it")
    assert set(looked[2:]) == {None}
    assert list(serving.hub.members().values()) == ["cam-1"]
    assert serving.hub.refused == 0, serving.said
    fabric._session.close("cut off")
    takes_part(fabric)


def test_a_hub_cannot_have_a_device_look_without_a_pause(authority, serve, connect, monkeypatch):
    serving = serve(authority.hub())
    fabric = connect(serving, "cam-1", authority.device("cam-1"))
    looks = []
    monkeypatch.setattr(fabric._credentials, "renewal", lambda: looks.append(wall_seconds()))
    fabric._renewal.learn({"left_s": -1e9, "life_s": -1e9})
    until(lambda: len(looks) > 3, "some looks")
    assert looks[3] - looks[0] > 0.25


def test_a_hub_shows_its_renewed_certificate(authority, serve, connect):
    files = authority.hub(names=[dns("old.example")])
    serving = serve(files)
    with pytest.raises(FabricError, match="not for this address"):
        connect(serving, "cam-1", authority.device("cam-1"))
    replace(files, authority.issue("new", names=[loopback()], purpose=SERVER))
    connect(serving, "cam-1", authority.device("cam-1"))


def test_half_replaced_files_are_not_used(authority, serve, connect):
    files = authority.hub()
    serving = serve(files)
    new = authority.issue("new", names=[loopback()], purpose=SERVER)
    os.replace(new.cert, files.cert)  # noqa: PTH105
    for name in ("cam-1", "cam-2"):
        connect(serving, name, authority.device(name))
    [line] = [line for line in serving.said if "certificate" in line]
    assert line.startswith("the changed certificate is not used yet, but the one before: key = ")
    os.replace(new.key, files.key)  # noqa: PTH105
    connect(serving, "cam-3", authority.device("cam-3"))


def broken(authority, what):
    """A device's files with one thing wrong."""
    good = authority.device("cam-1")
    other = authority.device("cam-2")
    noise = authority.folder / "noise.pem"
    noise.write_text("-----BEGIN CERTIFICATE-----\nnoise\n-----END CERTIFICATE-----\n")
    folder = authority.folder / "folder"
    folder.mkdir()
    return {
        "another key": lambda: good._replace(key=other.key),
        "no file": lambda: good._replace(cert=authority.folder / "none"),
        "a folder": lambda: good._replace(ca=folder),
        "no certificate": lambda: good._replace(cert=good.key),
        "noise": lambda: good._replace(cert=noise),
        "no authority": lambda: good._replace(ca=good.key),
        "no key": lambda: good._replace(key=good.cert),
        "passphrase": lambda: authority.device("cam-3", passphrase=b"secret"),
        "nothing between": lambda: authority.device("cam-3", chain=False),
        "another authority": lambda: good._replace(ca=OtherAuthority(authority.folder / "other").ca),
        "for servers": lambda: authority.device("cam-3", purpose=SERVER),
        "weak": lambda: OtherAuthority(authority.folder / "weak", "rsa-1024").device("cam-3"),
    }[what]()


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("another key", "key = .*cam-2.key: it is not the key of the first certificate in .*cam-1.pem"),
        ("no file", r"cert = .*none: it cannot be read \(No such file or directory\)"),
        ("a folder", r"ca = .*: it cannot be read \(a folder, not a file\)"),
        ("no certificate", "cert = .*: it holds no certificate that can be read; PEM is expected"),
        ("noise", "cert = .*: it holds no certificate that can be read"),
        ("no authority", "ca = .*: it holds no certificate that can be read"),
        ("no key", "key = .*: it holds no private key that can be read"),
        ("passphrase", r"key = .*: it is encrypted with a passphrase, .* \(openssl pkey -in OLD -out NEW"),
        ("nothing between", "cert = .*: nothing leads from it to an authority in .*root.pem"),
        ("another authority", "cert = .*: nothing leads from it to an authority in .*root.pem"),
        ("for servers", r"cert = .*: it, .*, is not for that purpose: it must be for a TLS client \(clientAuth\)"),
        ("weak", r"cert = .*: OpenSSL refuses it \(ee key too small\)"),
    ],
)
def test_files_that_cannot_be_used(authority, what, sentence):
    with pytest.raises(ConfigError) as caught:
        ExternalCredentials(broken(authority, what), print)
    assert re.match(sentence, str(caught.value)), str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_certificates_are_for_tls(authority):
    with pytest.raises(ConfigError, match="cert, key and ca are for TLS: leave insecure out"):
        reach("192.0.2.1:1", "cam-1", None, print, identity=authority.device("cam-1"), insecure=True)


def test_a_hub_does_not_start_with_what_has_expired(authority, tmp_path):
    with pytest.raises(ConfigError, match=r"cert = .*: it, or one between it and the authority, has expired"):
        ExternalGuard(tmp_path / "hub", RUN, authority.hub(days=(-2, -1)), print)
    with pytest.raises(ConfigError, match="is not valid yet by this machine's clock"):
        ExternalGuard(tmp_path / "hub", RUN, authority.hub(days=(1, 2)), print)


_OPENSSL = """
set -eu
openssl ecparam -genkey -name prime256v1 -out root.key
openssl req -x509 -new -key root.key -subj "/CN=A laboratory" -days 30 -out root.pem
openssl req -new -newkey rsa:2048 -nodes -keyout between.key -subj "/CN=Devices of a laboratory" -out between.csr
printf 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n' > between.ext
sign="openssl x509 -req -CAcreateserial -days 30"
$sign -in between.csr -CA root.pem -CAkey root.key -extfile between.ext -out between.pem
issue() {
  printf "extendedKeyUsage=$2\nsubjectAltName=$3\n" > leaf.ext
  openssl ecparam -genkey -name prime256v1 -out "$1.key"
  openssl req -new -key "$1.key" -subj "/CN=$1" -out leaf.csr
  $sign -in leaf.csr -CA between.pem -CAkey between.key -extfile leaf.ext -out leaf.pem
  cat leaf.pem between.pem > "$1.pem"
}
issue hub serverAuth IP:127.0.0.1
issue cam-1 clientAuth DNS:cam-1
"""


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl: apt-get install openssl")
def test_certificates_made_by_the_command_openssl(tmp_path, serve, connect):
    subprocess.run(["sh", "-c", _OPENSSL], cwd=tmp_path, check=True, capture_output=True)
    files = {
        name: CertificateFiles(tmp_path / f"{name}.pem", tmp_path / f"{name}.key", tmp_path / "root.pem")
        for name in ("hub", "cam-1")
    }
    takes_part(connect(serve(files["hub"]), "cam-1", files["cam-1"]))


def test_a_certificate_without_a_purpose_is_good_for_both(authority, serve, connect):
    serving = serve(authority.hub(purpose=None))
    connect(serving, "cam-1", authority.device("cam-1", purpose=None))
