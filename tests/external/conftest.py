"""Real servers, one of a kind for each test session; tests that cannot have one are skipped and say why."""

import pytest

from scadles.testing.brokers import kafka, mosquitto


@pytest.fixture(scope="session")
def _kafka_folder(tmp_path_factory):
    if kafka.kafka_home() is None:
        pytest.skip(kafka.HOW_TO_PROVIDE)
    return tmp_path_factory.mktemp("kafka")


@pytest.fixture(scope="session")
def kafka_broker(_kafka_folder):
    """A Kafka broker that nobody stops."""
    with kafka.KafkaBroker(_kafka_folder / "common") as broker:
        yield broker


@pytest.fixture
def fragile_kafka_broker(_kafka_folder, request):
    """A Kafka broker of this test alone, to be killed; ``request.param`` are properties for it, if given."""
    folder = _kafka_folder / request.node.name.replace("/", "-")
    with kafka.KafkaBroker(folder, properties=getattr(request, "param", None)) as broker:
        yield broker


@pytest.fixture(scope="session")
def _mosquitto_folder(tmp_path_factory):
    if mosquitto.mosquitto_program() is None:
        pytest.skip(mosquitto.HOW_TO_PROVIDE)
    return tmp_path_factory.mktemp("mosquitto")


@pytest.fixture(scope="session")
def mosquitto_broker(_mosquitto_folder):
    """A Mosquitto broker that nobody stops."""
    with mosquitto.Mosquitto(_mosquitto_folder / "common") as broker:
        yield broker


@pytest.fixture
def fragile_mosquitto(_mosquitto_folder, tmp_path_factory):
    """Makes Mosquitto brokers of this test alone, to be killed or to refuse."""
    brokers = []

    def started(*lines, **more):
        folder = tmp_path_factory.mktemp("fragile", numbered=True)
        broker = mosquitto.Mosquitto(folder, *([lines] if lines else []), **more)
        broker.start()
        brokers.append(broker)
        return broker

    yield started
    for broker in brokers:
        broker.stop()
