"""Data injection: who shares which samples with everybody, how they travel, and what that costs in privacy."""

from scadles.injection.account import Given
from scadles.injection.consent import Consent
from scadles.injection.exchange import SampleExchange
from scadles.injection.history import History, Numbered, Passing
from scadles.injection.message import SampleFormat, Samples
from scadles.injection.rule import Injection
from scadles.injection.sharer import Choice, Sharer

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
