"""Who may take part in a hub's run: its own authority, certificates, tokens, and what a device keeps of them."""

from __future__ import annotations

from scadles.security.authority import AUTHORITY_FOLDER, LIFE_S, Authority, Identity, ca_hash, holds_authority
from scadles.security.certificate_files import CertificateFiles
from scadles.security.contexts import context_of_a_stranger, device_context, hub_context, in_plain_words
from scadles.security.contract import Authenticator, DeviceCredentials
from scadles.security.credentials import Credentials, identity_folder, known_hub
from scadles.security.external import ExternalCredentials, ExternalGuard
from scadles.security.guard import Guard
from scadles.security.limits import Bucket, Limits, Rate, origin
from scadles.security.registry import Enrolled, Registry
from scadles.security.tokens import TOKEN_HOURS, Tokens

__all__ = [
    "AUTHORITY_FOLDER",
    "LIFE_S",
    "TOKEN_HOURS",
    "Authenticator",
    "Authority",
    "Bucket",
    "CertificateFiles",
    "Credentials",
    "DeviceCredentials",
    "Enrolled",
    "ExternalCredentials",
    "ExternalGuard",
    "Guard",
    "Identity",
    "Limits",
    "Rate",
    "Registry",
    "Tokens",
    "ca_hash",
    "context_of_a_stranger",
    "device_context",
    "holds_authority",
    "hub_context",
    "identity_folder",
    "in_plain_words",
    "known_hub",
    "origin",
]
