import pytest

from scadles.errors import SourceError
from scadles.streams.kafka.outage import Outage


def test_one_line_when_it_begins_and_one_when_it_ends():
    said = []
    outage = Outage("kafka://host/topic", 60.0, said.append)
    outage.answered(1.0)
    for now_s in range(10, 40):
        outage.unanswered(float(now_s), "connection refused")
    assert outage.going_on
    outage.answered(41.0)
    outage.answered(42.0)
    assert said == [
        "kafka://host/topic: no answer (connection refused); asking again for up to 60 s",
        "kafka://host/topic: answers again after 31 s",
    ]
    assert not outage.going_on


def test_patience_starts_anew_after_an_answer():
    outage = Outage("kafka://host/topic", 10.0, print)
    outage.unanswered(0.0, "timed out")
    outage.answered(9.0)
    outage.unanswered(12.0, "timed out")
    outage.unanswered(21.0, "timed out")
    with pytest.raises(SourceError, match=r"no answer for 11 s, 3 times asked \(timed out\)"):
        outage.unanswered(23.0, "timed out")
