"""Data injection: who shares which samples with everybody, how they travel, and what that costs in privacy."""

from scadles.device.injection.counts import SentCounts
from scadles.device.injection.history import History, Numbered, Passing
from scadles.device.injection.message import SampleFormat, Samples
from scadles.device.injection.rule import Injection
from scadles.device.injection.sample_exchange import SampleExchange
from scadles.device.injection.sender import Choice, SampleSender
from scadles.device.injection.sharing_policy import SharingPolicy

__all__ = [
    "Choice",
    "History",
    "Injection",
    "Numbered",
    "Passing",
    "SampleExchange",
    "SampleFormat",
    "SampleSender",
    "Samples",
    "SentCounts",
    "SharingPolicy",
]
