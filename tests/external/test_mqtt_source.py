import base64
import json
import time

import pytest

from mqtt_tools import Sender, client_name, new_topic, numbers_in, opened_at, source_at, take, until
from scadles.streams.quarantine import Quarantine
from scadles.testing import SOURCE_CHECKS

RECORDS = 100


@pytest.fixture
def sender(mosquitto_broker):
    with Sender(mosquitto_broker) as sender:
        yield sender


class OfTheCheck:
    """A source whose records are published once it is open, as MQTT keeps nothing for those who come later."""

    def __init__(self, broker, sender, **more):
        self.topic = new_topic()
        self._source = source_at(broker, self.topic, **more)
        self._sender = sender

    def open(self, position, mark=None):
        if mark:  # the session is of another topic, which is where the records were
            mark = {**mark, "client_id": self.topic}
        self._source.open(position, mark)
        self._sender.send_numbers(self.topic, range(RECORDS))
        wanted = RECORDS - len(mark["ids"] and range(mark["ids"][0][1] + 1)) if mark else RECORDS
        while self._source.lag() < wanted:
            pass

    def __getattr__(self, name):
        return getattr(self._source, name)


@pytest.mark.parametrize("check", SOURCE_CHECKS, ids=lambda check: check.__name__)
def test_mqtt_keeps_the_contract(mosquitto_broker, sender, check):
    check(lambda _: OfTheCheck(mosquitto_broker, sender))


# What is acknowledged as it comes does not come again.
FORGETFUL_CHECKS = [check for check in SOURCE_CHECKS if not check.__name__.startswith("resuming")]


@pytest.mark.parametrize("check", FORGETFUL_CHECKS, ids=lambda check: check.__name__)
def test_a_truncated_stream_keeps_the_rest_of_the_contract(mosquitto_broker, sender, check):
    check(lambda _: OfTheCheck(mosquitto_broker, sender, truncates=True))


def test_records_are_what_was_sent(mosquitto_broker, sender):
    topic = new_topic()
    source = opened_at(mosquitto_broker, topic)
    sender.send_numbers(topic, range(300))
    records = source.poll(300, 20.0)
    assert numbers_in(records) == list(range(300))
    assert records.offsets.tolist() == list(range(300))
    assert records.y.tolist() == [n % 10 for n in range(300)]
    source.close()


def test_what_is_not_committed_comes_again_and_what_is_trained_is_known(mosquitto_broker, sender):
    topic, query = new_topic(), f"?client_id={client_name()}"
    first = opened_at(mosquitto_broker, topic, query)
    sender.send_numbers(topic, range(200))
    assert take(first, 150) == list(range(150))
    mark = json.loads(json.dumps(first.mark(100)))  # the checkpoint is on the disk, its commit gets lost
    first.close()
    sender.send_numbers(topic, range(200, 250))
    second = source_at(mosquitto_broker, topic, query)
    second.open(100, mark)
    assert take(second, 150) == list(range(100, 250))
    assert (second.position, second.duplicates) == (250, 100)
    second.commit(250)
    assert second.mark(250)["ids"] == [[0, 249]]
    second.close()


def test_what_is_committed_does_not_come_again(mosquitto_broker, sender):
    topic, query = new_topic(), f"?client_id={client_name()}"
    first = opened_at(mosquitto_broker, topic, query)
    sender.send_numbers(topic, range(200))
    take(first, 120)
    first.commit(100)
    mark = first.mark(100)
    first.close()
    second = source_at(mosquitto_broker, topic, query)
    second.open(100, mark)
    assert take(second, 100) == list(range(100, 200))
    assert second.duplicates == 0
    second.close()


def test_without_ids_trained_messages_come_twice(mosquitto_broker, sender):
    topic, query = new_topic(), f"?client_id={client_name()}"
    first = opened_at(mosquitto_broker, topic, query)
    sender.send_numbers(topic, range(50), ids=False)
    take(first, 50)
    mark = first.mark(30)
    first.close()
    second = source_at(mosquitto_broker, topic, query)
    second.open(30, mark)
    assert take(second, 50) == list(range(50))
    second.close()


@pytest.mark.parametrize("ids", [True, False])
def test_it_goes_back_to_what_is_not_committed_while_more_comes(mosquitto_broker, sender, ids):
    topic = new_topic()
    source = opened_at(mosquitto_broker, topic)
    sender.send_numbers(topic, range(200), ids=ids)
    assert take(source, 150) == list(range(150))
    source.commit(60)
    for position, published in ((100, 200), (80, 220), (60, 240)):
        assert source.rewind(position, source.mark(position))
        sender.send_numbers(topic, range(published, published + 20), ids=ids)
        assert take(source, 60) == list(range(position, position + 60))
    assert take(source, 140) == list(range(120, 260))
    assert (source.position, source.missing, source.notices()) == (260, 0, [])
    source.commit(260)
    source.close()


def test_it_does_not_go_back_behind_what_is_committed(mosquitto_broker, sender):
    topic = new_topic()
    source = opened_at(mosquitto_broker, topic)
    sender.send_numbers(topic, range(100))
    take(source, 70)
    mark = source.mark(40)
    source.commit(60)
    assert not source.rewind(40, mark)
    assert (source.position, take(source, 30)) == (70, list(range(70, 100)))
    source.close()


def test_a_fresh_run_begins_with_an_empty_session_unless_it_is_told_otherwise(mosquitto_broker, sender):
    topic, name = new_topic(), client_name()
    source_of_before = opened_at(mosquitto_broker, topic, f"?client_id={name}")
    source_of_before.close()
    sender.send_numbers(topic, range(10))
    keeping = opened_at(mosquitto_broker, topic, f"?client_id={name}&session=keep")
    assert take(keeping, 10) == list(range(10))
    keeping.close()
    fresh = opened_at(mosquitto_broker, topic, f"?client_id={name}")
    sender.send_numbers(topic, range(10, 12))
    assert take(fresh, 2) == [10, 11]
    fresh.close()


def test_the_broker_holds_back_what_may_not_be_sent(mosquitto_broker, sender):
    topic = new_topic()
    source = opened_at(mosquitto_broker, topic, "?receive_max=50")
    sender.send_numbers(topic, range(130))
    assert take(source, 50) == list(range(50))
    assert source.notices() == []
    assert len(source.poll(1, 0.5)) == 0
    (notice,) = source.notices()
    assert "may send no more than receive_max = 50 messages" in notice
    source.commit(30)
    assert take(source, 30) == list(range(50, 80))
    source.commit(80)
    assert take(source, 50) == list(range(80, 130))
    source.close()


@pytest.mark.parametrize("ids", [True, False], ids=["with ids", "without ids"])
def test_no_more_than_the_capacity_of_what_waits_at_the_broker_waits_here(fragile_mosquitto, ids):
    broker, topic, name = fragile_mosquitto(), new_topic(), client_name()
    asleep = opened_at(broker, topic, f"?client_id={name}")
    asleep.close()
    with Sender(broker) as sender:
        sender.send_numbers(topic, range(3000), ids=ids)
    source = opened_at(broker, topic, f"?client_id={name}&session=keep&keepalive_s=4", capacity=10)
    time.sleep(7)  # longer than a broker waits for a client that says nothing
    most, numbers, deadline = source.lag(), [], time.monotonic() + 90
    assert 10 <= most <= 20
    while len(numbers) < 3000 and time.monotonic() < deadline:
        most = max(most, source.lag())
        numbers += numbers_in(source.poll(10, 0.1))
        if len(numbers) % 300 < 10:
            source.commit(len(numbers))
    assert numbers == list(range(3000))
    assert most <= 20
    assert (source.duplicates, source.notices()) == (0, [])
    source.close()


def test_more_than_the_capacity_may_be_trained_between_two_checkpoints(mosquitto_broker, sender):
    topic = new_topic()
    source = opened_at(mosquitto_broker, topic, capacity=10)
    sender.send_numbers(topic, range(1000))
    assert take(source, 1000) == list(range(1000))
    source.commit(1000)
    source.close()


def test_a_filter_brings_many_topics(mosquitto_broker, sender):
    prefix = new_topic()
    source = opened_at(mosquitto_broker, f"{prefix}/%23")
    for number, topic in enumerate((f"{prefix}/a", f"{prefix}/b/c", new_topic(), prefix)):
        sender.send(topic, bytes([number, 0]), number)
    assert take(source, 3) == [0, 1, 3]
    source.close()


def test_a_truncated_stream_drops_the_oldest_beyond_its_capacity(mosquitto_broker, sender):
    topic = new_topic()
    source = opened_at(mosquitto_broker, topic, "?receive_max=10", truncates=True, capacity=40)
    sender.send_numbers(topic, range(500))
    deadline = time.monotonic() + 20
    while source.lag() < 500 and time.monotonic() < deadline:
        time.sleep(0.05)
    records = source.poll(1000, 0.0)
    assert (records.lost, len(records), source.lag()) == (460, 40, 0)
    assert numbers_in(records) == list(range(460, 500))
    assert source.position == 500
    source.close()


def test_messages_that_cannot_be_read_are_rejected_and_kept_as_examples(mosquitto_broker, sender, tmp_path):
    topic, quarantine = new_topic(), Quarantine(tmp_path / "quarantine-0.jsonl", 1.0, device=0)
    source = opened_at(mosquitto_broker, topic, max_bytes=1000, quarantine=quarantine)
    for number, value in enumerate((b"\x01\x00", b"garbage", b"\x02\x00", b"x" * 1001, b"")):
        sender.send(topic, value, number, "3")
    records = source.poll(5, 20.0)
    assert records.offsets.tolist() == [0, 2]
    assert [tuple(rejected) for rejected in records.rejected] == [
        (1, "7 bytes, expected 2"),
        (3, "1,001 bytes, at most 1,000 are allowed"),
        (4, "0 bytes, expected 2"),
    ]
    examples = [json.loads(line) for line in (tmp_path / "quarantine-0.jsonl").read_text().splitlines()]
    assert [example["offset"] for example in examples] == [1, 3, 4]
    assert base64.b64decode(examples[0]["value"]) == b"garbage"
    source.close()


def test_acknowledgements_arrive_though_the_device_leaves_in_the_middle_of_a_flood(mosquitto_broker, sender):
    """A socket that is closed with unread bytes tells the broker to forget what it has not read itself."""
    topic, query = new_topic(), f"?client_id={client_name()}"
    first = opened_at(mosquitto_broker, topic, query)
    sender.send_numbers(topic, range(100))
    assert take(first, 100) == list(range(100))
    sent = [sender.send(topic, bytes(200_000), number, wait=False) for number in range(100, 400)]
    first.commit(100)
    mark = first.mark(100)
    first.close()
    for info in sent:
        info.wait_for_publish(60)
    second = source_at(mosquitto_broker, topic, query)
    second.open(100, mark)
    until(lambda: second.lag() == 300, "flood", 60)
    assert (second.lag(), second.duplicates) == (300, 0)
    second.close()
