"""A hub's authority and its files, without any connection."""

import json
import ssl
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from scadles.errors import ConfigError, UntrustedError
from scadles.security import (
    Authority,
    Credentials,
    Enrolled,
    Guard,
    Identity,
    Registry,
    Tokens,
    ca_hash,
    context_of_a_stranger,
    device_context,
    hub_context,
    identity_folder,
    in_plain_words,
)
from scadles.security.authority import certificate_request, key_hash, new_key, read_identity, read_request
from scadles.security.store import Store

DAY_S = 86_400.0
NAMES = ["cam-3", "a b/c%2F..", "Kamera größer", "x" * 64]


def handshake(at_hub, of_device):
    """Shake hands over memory, and let each end read once; return both ends."""
    to_hub, to_device = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        of_device.wrap_bio(to_device, to_hub, server_hostname="scadles-hub"),
        at_hub.wrap_bio(to_hub, to_device, server_side=True),
    )
    for end in (*ends, *ends):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return ends[1], ends[0]


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "authority")


def enrolled(authority, folder, name="cam-3", expires=DAY_S):
    """What a device keeps of an authority."""
    credentials = Credentials(folder)
    certificate, _ = authority.sign(read_request(credentials.request()), "run", name, expires)
    known = {"host": "h", "authority": authority.certificate, "ca_hash": authority.ca_hash, "token": ""}
    credentials.keep(certificate, known)
    return credentials


@pytest.mark.parametrize("name", NAMES)
def test_a_certificate_says_whose_it_is(authority, name):
    key = new_key()
    pem, serial = authority.sign(key.public_key(), "run", name, 30 * DAY_S)
    certificate = x509.load_pem_x509_certificate(pem.encode())
    identity = read_identity(certificate.public_bytes(Encoding.DER))
    assert identity == ("run", name, key_hash(key.public_key()), serial, 30 * DAY_S, ())
    assert certificate.not_valid_before_utc.year == 1970


def test_strict_checks_of_newer_pythons_accept_both_ends(authority, tmp_path):
    """Python 3.13 checks RFC 5280 to the letter; the certificate is decades over, which OpenSSL is not to look at."""
    device, hub = enrolled(authority, tmp_path / "device").context, hub_context(authority)
    for context in (device, hub):
        context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    at_hub, of_device = handshake(hub, device)
    assert (at_hub.version(), of_device.version()) == ("TLSv1.3", "TLSv1.3")
    assert read_identity(at_hub.getpeercert(binary_form=True)).name == "cam-3"


def test_a_device_cannot_pass_for_the_hub(authority, tmp_path):
    thief = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    thief.load_cert_chain(enrolled(authority, tmp_path / "thief").folder / "device.pem")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(thief, enrolled(authority, tmp_path / "device").context)


def test_the_hubs_certificate_is_no_devices(authority, tmp_path):
    hub = hub_context(authority)
    device = device_context(authority.certificate, authority.folder / "hub.pem")
    with pytest.raises(ssl.SSLError):
        handshake(hub, device)


def test_a_stranger_sees_the_authority_and_shows_nothing(authority):
    at_hub, of_stranger = handshake(hub_context(authority), context_of_a_stranger())
    assert at_hub.getpeercert(binary_form=True) is None
    assert of_stranger.version() == "TLSv1.3"


def test_an_authority_is_made_once(authority, tmp_path):
    again = Authority(tmp_path / "authority")
    assert (authority.is_new, again.is_new) == (True, False)
    assert again.ca_hash == authority.ca_hash == ca_hash(authority.certificate)
    assert authority.ca_hash.startswith("sha256:")
    assert len(authority.ca_hash) == 71
    (tmp_path / "authority/ca.key").write_text("nothing")
    with pytest.raises(ConfigError, match="holds no authority of a hub: put back the one that was there"):
        Authority(tmp_path / "authority")


def test_a_request_must_be_signed_by_its_own_key():
    request = certificate_request(new_key())
    assert key_hash(read_request(request))
    body = request.splitlines()
    body[3] = body[3][::-1]
    for wrong in ("\n".join(body), "", None, {"a": 1}, "x" * 10**6):
        with pytest.raises(UntrustedError, match="no request that its key has signed"):
            read_request(wrong)


def test_a_store_is_read_again_when_somebody_else_has_changed_it(tmp_path):
    mine, other = Store(tmp_path / "s.json"), Store(tmp_path / "s.json")
    assert mine.read() == {}
    with other.changing() as content:
        content["a"] = 1
    assert mine.read() == {"a": 1}
    assert stat.S_IMODE((tmp_path / "s.json").stat().st_mode) == 0o600
    (tmp_path / "s.json").write_text("[1]")
    with pytest.raises(ConfigError, match="is no file of this program"):
        mine.read()


def test_changes_of_many_at_once_are_all_kept(tmp_path):
    def change(number):
        for count in range(10):
            with Store(tmp_path / "s.json").changing() as content:
                content[f"{number} {count}"] = 1

    threads = [threading.Thread(target=change, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Store(tmp_path / "s.json").read()) == 40


def test_a_change_that_fails_changes_nothing(tmp_path):
    store = Store(tmp_path / "s.json")
    with store.changing() as content:
        content["b"] = 2

    def fail():
        with store.changing() as content:
            content["a"] = 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert Store(tmp_path / "s.json").read() == store.read() == {"b": 2}


def test_whoever_reads_a_list_does_not_wait_for_the_disk(tmp_path):
    kept = Store(tmp_path / "s.json")
    with kept.changing() as content:
        content["a"] = 1
    with kept.changing() as content, ThreadPoolExecutor(1) as pool:
        content["b"] = 2
        assert pool.submit(kept.read).result(60) == {"a": 1}
    assert kept.read() == {"a": 1, "b": 2}


def test_tokens_are_known_by_their_hash_and_old_ones_forgotten(tmp_path):
    tokens = Tokens(tmp_path)
    old = tokens.new(1, expires=100.0, now=0.0)
    assert len(old) == 32
    assert old not in (tmp_path / "tokens.json").read_text()
    tokens.new(1, expires=30 * DAY_S, now=29 * DAY_S)
    assert len(json.loads((tmp_path / "tokens.json").read_text())) == 1


def test_a_token_for_one_device_is_not_one_for_all_names(tmp_path):
    tokens = Tokens(tmp_path)
    token = tokens.new(1, expires=100.0, now=0.0)
    for _ in range(2):
        tokens.spend(token, "cam-1", "key", 1.0)
    with pytest.raises(UntrustedError, match="used up"):
        tokens.spend(token, "cam-2", "key", 1.0)


def test_a_late_look_at_a_key_does_not_undo_a_renewal(tmp_path, monkeypatch):
    """Two connections show the second key at once, and a third one is signed between their looks."""
    registry, other = Registry(tmp_path), Registry(tmp_path)
    registry.enrol("cam-1", Enrolled("first", "s", 0.0, DAY_S, next_key="second"))
    take = registry._take_next

    def late(name, key):
        other.check(second, 1.0)
        other.renew("cam-1", Enrolled("third", "s", 0.0, DAY_S))
        take(name, key)

    second = Identity("run", "cam-1", "second", "s", DAY_S)
    monkeypatch.setattr(registry, "_take_next", late)
    registry.check(second, 1.0)
    enrolled = registry.all()["cam-1"]
    assert (enrolled.key, enrolled.next_key) == ("second", "third")


def test_a_registry_that_cannot_be_read_lets_nobody_in_and_nobody_go(tmp_path):
    guard = Guard(tmp_path, "run")
    registry = Registry(guard.authority.folder)
    registry.enrol("cam-1", Enrolled("k", "s", 0.0, 4e9))
    assert guard.problem("cam-1") is None
    (guard.authority.folder / "devices.json").write_text('{"cam-1": {"what": 1}}')
    assert guard.problem("cam-1") is None
    with pytest.raises(ConfigError, match="holds what is no device"):
        registry.all()


def test_devices_are_named_when_one_is_misspelt(tmp_path):
    registry = Registry(tmp_path)
    with pytest.raises(ConfigError, match="no device is called cam-1; none is enrolled"):
        registry.revoke("cam-1")
    registry.enrol("cam-1", Enrolled("k", "s", 0.0, 1.0))
    with pytest.raises(ConfigError, match="no device is called cam1; did you mean cam-1"):
        registry.readmit("cam1")


@pytest.mark.parametrize("name", [*NAMES, "..", ".", "/etc/passwd", "\N{SNOWMAN}" * 64])
def test_an_identity_lies_in_a_folder_of_its_own(name, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = identity_folder(name)
    assert folder.parent == tmp_path / "scadles/devices"
    assert folder.resolve() == folder
    assert not Credentials(folder).are_here
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert identity_folder(name).parent == tmp_path / "home/.config/scadles/devices"


def test_a_certificate_that_does_not_fit_is_not_kept(authority, tmp_path):
    credentials = enrolled(authority, tmp_path / "device")
    before = (tmp_path / "device/device.pem").read_bytes()
    credentials.request()
    for wrong in (authority.sign(new_key().public_key(), "run", "cam-3", DAY_S)[0], "nothing"):
        with pytest.raises(UntrustedError, match="is none for the key of this device"):
            credentials.keep(wrong)
    assert (tmp_path / "device/device.pem").read_bytes() == before
    assert Credentials(tmp_path / "device").are_here


def test_what_a_device_keeps_can_be_broken(authority, tmp_path):
    enrolled(authority, tmp_path / "device")
    (tmp_path / "device/hub.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"holds no identity that can be used .*: remove it, and enrol"):
        Credentials(tmp_path / "device")
    with pytest.raises(ConfigError, match="holds no identity: enrol this device with --token and --ca-hash"):
        _ = Credentials(tmp_path / "none").context


def test_an_unknown_error_of_tls_is_said_as_well():
    assert in_plain_words(ssl.SSLError(1, "[SSL] odd"), at_hub=True) == "TLS broke off (SSLError)"
