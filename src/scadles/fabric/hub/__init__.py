"""A fabric whose devices reach only one process, the hub, each over connections that it opens itself."""

from __future__ import annotations

from scadles.fabric.hub.client import HubFabric
from scadles.fabric.hub.enrolment import enrol
from scadles.fabric.hub.hello import is_loopback
from scadles.fabric.hub.journal import JOURNAL_FILE, Journal, journal_of
from scadles.fabric.hub.members import MOST_NAME, is_name
from scadles.fabric.hub.server import Hub
from scadles.fabric.hub.state import HubState

__all__ = [
    "JOURNAL_FILE",
    "MOST_NAME",
    "Hub",
    "HubFabric",
    "HubState",
    "Journal",
    "enrol",
    "is_loopback",
    "is_name",
    "journal_of",
]
