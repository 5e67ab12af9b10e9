"""Publishing: a data set, sent to the topics of live streams as a replayed stream would bring it."""

from scadles.publishing.feed import Encode, Feed
from scadles.publishing.pace import Line, Pacer
from scadles.publishing.report import PublishReport, TopicReport

__all__ = ["Encode", "Feed", "Line", "Pacer", "PublishReport", "TopicReport"]
