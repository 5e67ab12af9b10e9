"""What tests of Kafka and MQTT streams share: refusals, certificates, and settings of runs."""

import subprocess
import time
from contextlib import closing

import pytest

from scadles.errors import ConfigError

#: Settings of runs that reach a target on the digits soon.
SOON = {"duration_s": 120, "evaluation": {"every_s": 1.0}, "lr": {"scaling": "none"}, "optimizer": {"lr": 0.2}}
#: Settings of runs that keep every record and are killed again and again.
KEPT = {
    "steps": 1_000_000,
    "buffer": {"policy": "persistence"},
    "batch": {"window_s": 0.25, "max": 128},
    "checkpoint": {"every_steps": 5},
    "evaluation": {"every_s": 5.0},
}


def refusal(source):
    """The message with which a source does not open, which must come within 15 s."""
    began_s = time.monotonic()
    with closing(source), pytest.raises(ConfigError) as told:
        source.open(0)
    assert time.monotonic() - began_s < 15
    return str(told.value)


def openssl(folder, *arguments):
    subprocess.run(["openssl", *map(str, arguments)], cwd=folder, check=True, capture_output=True)


def make_authority(folder, name="authority"):
    """Make the key and the certificate of an authority."""
    try:
        openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 2, "-subj", f"/CN={name}",
                "-keyout", f"{name}.key", "-out", f"{name}.pem")  # fmt: skip
    except FileNotFoundError:
        pytest.skip("needs openssl to make certificates")


def make_certificate(folder, name):
    """Make a key and a certificate for this machine, which ``authority`` vouches for."""
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "authority.pem", "-CAkey", "authority.key",
            "-CAcreateserial", "-days", 2, "-extfile", "names", "-out", f"{name}.pem")  # fmt: skip
