"""Data injection: who shares which samples with everybody, how they travel, and what that costs in privacy."""

from scadles.device.injection.account import Given
from scadles.device.injection.consent import Consent
from scadles.device.injection.exchange import SampleExchange
from scadles.device.injection.history import History, Numbered, Passing
from scadles.device.injection.message import SampleFormat, Samples
from scadles.device.injection.rule import Injection
from scadles.device.injection.sharer import Choice, Sharer

__all__ = [
    "Choice",
    "Consent",
    "Given",
    "History",
    "Injection",
    "Numbered",
    "Passing",
    "SampleExchange",
    "SampleFormat",
    "Samples",
    "Sharer",
]
