"""What comes from a broker, without one: the broker here is a model of what MQTT 5 lets one do."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from scadles.streams.mqtt.ids import Ids
from scadles.streams.mqtt.inbox import Delivery, Inbox
from scadles.streams.mqtt.terms import Terms


@given(st.lists(st.integers(0, 300), unique=True), st.integers(0, 300))
def test_ids_are_a_set_in_little_memory(numbers, other):
    ids = Ids()
    for number in numbers:
        ids.add(number)
    assert all(number in ids for number in numbers)
    assert (other in ids) == (other in numbers)
    again = Ids(ids.runs())
    assert [number in again for number in range(301)] == [number in ids for number in range(301)]
    assert sum(last - first + 1 for first, last in ids.runs()) == len(numbers)


def test_consecutive_ids_take_no_room_and_the_oldest_run_is_forgotten():
    ids = Ids(limit=3)
    for number in (*range(1000), 5000, 3000, 7000):
        ids.add(number)
    assert ids.runs() == [(5000, 5000), (3000, 3000), (7000, 7000)]
    assert 10 not in ids
    assert 3000 in ids


class Broker:
    """A session at a broker: messages in flight have names, and come again under them after a disconnection."""

    def __init__(self):
        self.queue = []
        self.in_flight = {}
        self.next_mid = 1

    def deliver_to(self, inbox, count):
        for _ in range(min(count, len(self.queue))):
            number = self.queue.pop(0)
            self.in_flight[self.next_mid] = number
            inbox.deliver(delivery(number, self.next_mid))
            self.next_mid += 1

    def deliver_again(self, inbox):
        for mid, number in list(self.in_flight.items()):
            inbox.deliver(delivery(number, mid, again=True))

    def acknowledged(self, life, mid):
        self.in_flight.pop(mid, None)


def delivery(number, mid, life=0, again=False, value=b"value"):
    return Delivery(number, mid, life, again, 0.0, None, value)


def inbox_of(broker, **terms):
    return Inbox(Terms("client", **terms), broker.acknowledged)


def take(inbox, count):
    messages, lost = inbox.take(count, 0.0, lambda: None)
    return [message.offset for message in messages], lost


class ManyLives(RuleBasedStateMachine):
    """Persistence against a model: what was trained, from the last checkpoint on, has no gap and no repeat."""

    def __init__(self):
        super().__init__()
        self.broker, self.published, self.trained = Broker(), 0, []
        self.inbox = inbox_of(self.broker)
        self.inbox.open(0, None)
        self.checkpoint = (0, None)

    @rule(count=st.integers(1, 12))
    def publish(self, count):
        self.broker.queue.extend(range(self.published, self.published + count))
        self.published += count

    @rule(count=st.integers(1, 15))
    def deliver(self, count):
        self.broker.deliver_to(NumberedValues(self.inbox), count)

    @rule(count=st.integers(1, 12))
    def train(self, count):
        messages, _ = self.inbox.take(count, 0.0, lambda: None)
        self.trained.extend((message.offset, int(message.value)) for message in messages)

    @rule(held=st.integers(0, 20))
    def write_checkpoint(self, held):
        """The newest records are held in a buffer: a checkpoint lies before them, but not before the last one."""
        position = max(self.inbox.position - held, self.checkpoint[0])
        self.checkpoint = (position, self.inbox.mark(position))

    @rule()
    def commit(self):
        self.inbox.commit(self.checkpoint[0])

    @rule()
    def reconnect(self):
        self.broker.deliver_again(NumberedValues(self.inbox))

    @rule()
    def crash(self):
        position, mark = self.checkpoint
        self.inbox = inbox_of(self.broker)
        self.inbox.open(position, mark)
        del self.trained[position:]
        self.reconnect()

    @rule(late=st.integers(0, 5))
    def go_back(self, late):
        """Back to the checkpoint, with a few messages more over the connection that is left."""
        position, _ = self.checkpoint
        goes_back = self.inbox.rewind(position)
        assert goes_back
        del self.trained[position:]
        self.deliver(late)
        assert self.inbox.lag() == 0
        self.inbox.connected()
        self.reconnect()

    def teardown(self):
        self.reconnect()
        self.deliver(self.published)
        self.train(self.published + 1)
        assert self.trained == [(number, number) for number in range(self.published)]
        self.inbox.commit(self.published)
        assert self.broker.in_flight == {}


TestManyLives = ManyLives.TestCase
TestManyLives.settings = settings(max_examples=150, stateful_step_count=40)


class NumberedValues:
    """Delivers messages whose value is their id."""

    def __init__(self, inbox):
        self._inbox = inbox

    def deliver(self, message):
        self._inbox.deliver(message._replace(value=str(message.number).encode()))


def test_what_is_acknowledged_cannot_come_again():
    inbox = inbox_of(Broker())
    inbox.open(10, None)
    for number in range(6):
        inbox.deliver(delivery(number, number + 1))
    assert take(inbox, 4) == ([10, 11, 12, 13], 0)
    inbox.commit(12)
    assert [inbox.rewind(position) for position in (0, 9, 11)] == [False] * 3
    assert take(inbox, 1) == ([14], 0)
    assert inbox.rewind(12)
    assert (inbox.position, inbox.lag()) == (12, 0)


def test_a_truncated_stream_has_acknowledged_everything():
    inbox = inbox_of(Broker(), truncates=True)
    inbox.open(0, None)
    inbox.deliver(delivery(0, 1))
    inbox.deliver(delivery(1, 2))
    assert take(inbox, 1) == ([0], 0)
    assert not inbox.rewind(0)
    assert take(inbox, 1) == ([1], 0)


@pytest.mark.parametrize("lost", [True, False])
def test_what_the_broker_has_lost_cannot_come_again(lost):
    inbox = inbox_of(Broker())
    inbox.open(0, None)
    inbox.deliver(delivery(0, 1 if lost else None))
    if lost:
        inbox.forget()
    inbox.deliver(delivery(1, 1, life=int(lost)))
    assert take(inbox, 1) == ([0], 0)
    assert not inbox.rewind(0)
    assert take(inbox, 1) == ([1], 0)
    assert inbox.rewind(1)


def test_without_ids_messages_before_a_rewind_are_known_by_their_names():
    inbox = inbox_of(Broker())
    inbox.open(0, None)
    for mid in (1, 2, 3):
        inbox.deliver(delivery(None, mid))
    take(inbox, 3)
    assert inbox.rewind(1)
    inbox.connected()
    for mid in (1, 2, 3):
        inbox.deliver(delivery(None, mid, again=True))
    assert (take(inbox, 5), inbox.duplicates) == (([1, 2], 0), 1)


def test_what_is_missing_is_counted_anew_behind_a_rewind():
    inbox = inbox_of(Broker())
    inbox.open(0, None)
    for number in (0, 1, 2, 5, 6):
        inbox.deliver(delivery(number, number + 1))
    take(inbox, 5)
    assert inbox.missing() == 2
    assert inbox.rewind(2)
    assert inbox.missing() == 0
    inbox.connected()
    for number in (0, 1, 2, 5, 6):
        inbox.deliver(delivery(number, number + 1, again=True))
    assert inbox.missing() == 2


@pytest.mark.parametrize("rewinds", [False, True])
def test_what_is_settled_behind_a_position_does_not_come_again(rewinds):
    """Of messages 0 to 6, in which 4 is missing, those at the offsets 2 and 3 are settled before the one at 1."""
    broker = Broker()
    inbox = inbox_of(broker)
    inbox.open(0, None)
    broker.queue = [0, 1, 2, 3, 5, 6]
    broker.deliver_to(inbox, 6)
    take(inbox, 6)
    mark = inbox.mark(1, [[2, 3]])
    assert mark["beyond"] == [[2, 3]]
    if rewinds:
        assert inbox.rewind(1, mark)
        inbox.connected()
    else:
        inbox.commit(1)
        inbox = inbox_of(broker)
        inbox.open(1, mark)
    broker.deliver_again(inbox)
    messages, _ = inbox.take(9, 0.0, lambda: None)
    assert [inbox._unacknowledged[message.offset][0] for message in messages] == [1, 5, 6]
    assert (inbox.position, inbox.missing()) == (4, 1)
    assert inbox.mark(1, [[2, 2]])["beyond"] == [[2, 3], [5, 5]]
    inbox.commit(4)
    assert "beyond" not in inbox.mark(4)
    assert broker.in_flight == {}


def test_what_is_settled_behind_a_position_is_not_missing_though_a_device_is_killed_twice():
    """It is acknowledged once a position behind it is kept: until then the old mark may be needed again."""
    broker = Broker()
    inbox = inbox_of(broker)
    inbox.open(0, None)
    broker.queue = [0, 1, 2, 3, 4]
    broker.deliver_to(inbox, 5)
    take(inbox, 5)
    mark = inbox.mark(1, [[2, 3]])
    inbox.commit(1)
    for _ in range(3):
        inbox = inbox_of(broker)
        inbox.open(1, mark)
        broker.deliver_again(inbox)
        assert (inbox.missing(), inbox.lag()) == (0, 2)
    assert sorted(broker.in_flight.values()) == [1, 2, 3, 4]
    take(inbox, 5)
    inbox.commit(3)
    assert broker.in_flight == {}
    assert inbox.missing() == 0


def test_names_of_a_forgotten_session_are_not_acknowledged():
    told = []
    inbox = Inbox(Terms("client"), lambda life, mid: told.append((life, mid)))
    inbox.open(0, None)
    inbox.deliver(delivery(0, 1, life=0))
    inbox.forget()
    inbox.deliver(delivery(1, 1, life=1))
    assert take(inbox, 5) == ([0, 1], 0)
    inbox.commit(2)
    assert told == [(1, 1)]


def test_a_message_that_comes_again_in_a_new_life_is_acknowledged_there():
    told = []
    inbox = Inbox(Terms("client"), lambda life, mid: told.append((life, mid)))
    inbox.open(0, None)
    inbox.deliver(delivery(7, 1, life=0))
    inbox.forget()
    inbox.deliver(delivery(7, 4, life=1))
    assert (take(inbox, 5), inbox.duplicates) == (([0], 0), 1)
    inbox.commit(1)
    assert told == [(1, 4)]


def test_a_message_that_a_publisher_sent_twice_is_acknowledged_twice():
    told = []
    inbox = Inbox(Terms("client"), lambda life, mid: told.append(mid))
    inbox.open(0, None)
    inbox.deliver(delivery(7, 1))
    inbox.deliver(delivery(7, 2))
    assert take(inbox, 5) == ([0], 0)
    inbox.commit(1)
    assert sorted(told) == [1, 2]


def test_without_an_id_a_redelivery_is_known_by_its_name_as_long_as_the_session_lives():
    broker = Broker()
    inbox = inbox_of(broker)
    inbox.open(0, None)
    inbox.deliver(delivery(None, 1))
    inbox.deliver(delivery(None, 1, again=True))
    assert (inbox.lag(), inbox.duplicates) == (1, 1)
    inbox.forget()
    inbox.deliver(delivery(None, 1, life=1, again=True))
    assert inbox.lag() == 2


def test_truncation_acknowledges_at_once_and_counts_what_had_no_room():
    told = []
    inbox = Inbox(Terms("client", truncates=True, capacity=3), lambda life, mid: told.append(mid))
    inbox.open(0, None)
    for number in range(10):
        inbox.deliver(delivery(number, number + 1))
    assert told == list(range(1, 11))
    assert inbox.lag() == 10
    assert take(inbox, 2) == ([7, 8], 7)
    assert (inbox.position, inbox.lag()) == (9, 1)


def test_what_had_no_room_counts_as_passed_over_by_a_skip():
    inbox = Inbox(Terms("client", truncates=True, capacity=3), lambda life, mid: None)
    inbox.open(0, None)
    for number in range(10):
        inbox.deliver(delivery(number, number + 1))
    assert inbox.skip(1) == 9
    assert take(inbox, 5) == ([9], 0)


def test_an_oversized_value_is_not_kept():
    inbox = Inbox(Terms("client", max_bytes=10), lambda life, mid: None)
    inbox.open(0, None)
    inbox.deliver(delivery(0, 1, value=bytes(11)))
    (message,), _ = inbox.take(1, 0.0, lambda: None)
    assert (message.value, message.reason) == (None, "11 bytes, at most 10 are allowed")


def test_take_ends_as_soon_as_enough_is_there_and_tells_trouble():
    inbox = Inbox(Terms("client"), lambda life, mid: None)
    inbox.open(0, None)
    later = threading.Timer(0.2, lambda: [inbox.deliver(delivery(n, n + 1)) for n in range(3)])
    later.start()
    messages, _ = inbox.take(3, 60.0, lambda: None)
    later.join()
    assert len(messages) == 3

    def broken():
        raise RuntimeError("broken")

    inbox.deliver(delivery(5, 6))
    with pytest.raises(RuntimeError, match="broken"):
        inbox.take(1, 60.0, broken)
    assert inbox.lag() == 1


@pytest.mark.parametrize("truncates", [False, True])
def test_ids_that_were_passed_over_are_missing_until_they_come(truncates):
    inbox = Inbox(Terms("client", truncates=truncates), lambda life, mid: None)
    inbox.open(0, None)
    for number in (100, 101, 105, 106, 101, 103):
        inbox.deliver(delivery(number, number))
    assert (inbox.missing(), inbox.duplicates, inbox.lag()) == (2, 1, 5)
    assert inbox.position == 0


def test_a_gap_over_a_resumption_is_seen_and_what_comes_again_is_none():
    inbox = Inbox(Terms("client"), lambda life, mid: None)
    inbox.open(0, None)
    for number in range(10):
        inbox.deliver(delivery(number, number + 1))
    take(inbox, 10)
    mark = inbox.mark(6)
    resumed = Inbox(Terms("client"), lambda life, mid: None)
    resumed.open(6, mark)
    for number in (4, 5, 6, 7, 12, 13):  # 8 and 9 are gone with the broker's memory, 10 and 11 were never there
        resumed.deliver(delivery(number, number + 1))
    assert (resumed.missing(), resumed.duplicates, resumed.lag()) == (4, 2, 4)
    take(resumed, 4)
    resumed.commit(10)
    again = Inbox(Terms("client"), lambda life, mid: None)
    again.open(10, resumed.mark(10))
    assert again.missing() == 4


def test_a_mark_of_an_earlier_version_has_nothing_missing():
    inbox = Inbox(Terms("client"), lambda life, mid: None)
    inbox.open(3, {"ids": [[0, 2]], "duplicates": 0})
    inbox.deliver(delivery(9, 1))
    assert inbox.missing() == 0
