"""A real Apache Kafka broker (KRaft, one process) on loopback, to test against and to play with."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from scadles.clock import WallClock, wall_seconds
from scadles.errors import RunError
from scadles.testing.brokers.process import BrokerProcess, free_port

#: What is missing where :func:`kafka_home` or java is.
HOW_TO_PROVIDE = (
    "needs Apache Kafka 4.x: set KAFKA_HOME to an unpacked download (a folder with libs/*.jar) and install Java 17"
)
_BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[4].parent / "shared" / "kafka"
_START_S = 90.0
_JAVA = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")
_CLUSTER = "MkU3OEVBNTcwNTJENDM2Qg"
_ONE = ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")


def kafka_home() -> Path | None:
    """Return a folder with ``libs/*.jar`` of Kafka: ``KAFKA_HOME``, else ``shared/kafka`` beside the repository.

    None where there is none, or no java to run it with.
    """
    home = Path(os.environ.get("KAFKA_HOME", _BESIDE_THE_REPOSITORY))
    return home if shutil.which("java") and any(home.glob("libs/kafka_*.jar")) else None


class KafkaBroker(BrokerProcess):
    """One broker. Its topics outlive it in ``folder``, so that it can be killed and started again.

    Topics are not created by themselves. Use it as a context manager, or call :meth:`start` and :meth:`stop`.

    Args:
        folder: for data, configuration and the broker's log (``server.log``).
        home: where Kafka's ``libs`` are; None looks for it (:func:`kafka_home`).
        properties: of the broker, over the ones that are set here; a value may contain ``{port}`` and ``{controller}``.

    Attributes:
        port: of clients, without password or encryption.

    Raises:
        RunError: there is no Kafka, or it does not start.
    """

    def __init__(self, folder: Path, home: Path | None = None, properties: Mapping[str, str] | None = None) -> None:
        found = home or kafka_home()
        if found is None:
            raise RunError(HOW_TO_PROVIDE)
        self.port = free_port()
        self._home = found
        self._folder = folder
        self._controller = free_port()
        self._properties = dict(properties or {})

    def start(self, *, wait: bool = True) -> None:
        """Start it, again or for the first time; return when it answers, or at once."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write_configuration()
        if not (self._folder / "data" / "meta.properties").exists():
            arguments = ("format", "--cluster-id", _CLUSTER, "--config", "server.properties", "--standalone")
            formatted = subprocess.run(  # noqa: S603
                self._java("kafka.tools.StorageTool", *arguments), cwd=self._folder, capture_output=True, check=False
            )
            if formatted.returncode:
                raise RunError(f"cannot format {self._folder}: {formatted.stderr.decode(errors='replace')[-500:]}")
        with (self._folder / "stderr").open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603
                self._java("kafka.Kafka", "server.properties"), cwd=self._folder, stdout=errors, stderr=errors
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Return when it answers."""
        from scadles.streams.kafka.presence import is_there

        deadline_s = wall_seconds() + _START_S
        while not is_there(self.address, 1.0):
            if self._process is None or self._process.poll() is not None or wall_seconds() > deadline_s:
                said = (self._folder / "stderr").read_text(errors="replace")[-1000:]
                self.kill()
                raise RunError(f"the broker in {self._folder} does not start, see its server.log: {said}")
            WallClock().sleep(0.1)

    def tool(self, name: str, *arguments: str) -> str:
        """Run one of Kafka's own tools, for example ``consumer.group.ConsumerGroupCommand``; return what it printed."""
        command = self._java(
            f"org.apache.kafka.tools.{name}", "--bootstrap-server", self.address, *arguments, quiet=True
        )
        ran = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, check=False)  # noqa: S603
        if ran.returncode:
            raise RunError(f"{name} failed: {ran.stdout[-500:]} {ran.stderr[-500:]}")
        return ran.stdout

    def _java(self, program: str, *arguments: str, quiet: bool = False) -> list[str]:
        log = "-Dlog4j2.level=ERROR" if quiet else "-Dlog4j2.configurationFile=log4j2.yaml"
        return ["java", *_JAVA, log, "-cp", str(self._home.resolve() / "libs" / "*"), program, *arguments]

    def _write_configuration(self) -> None:
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": "127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,"
            "SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL",
            "listeners": "PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": "PLAINTEXT://127.0.0.1:{port}",
            "log.dirs": str(self._folder.resolve() / "data"),
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",
            **{f"{topic}.num.partitions": "1" for topic in _ONE},
            **{f"{topic}.replication.factor": "1" for topic in _ONE},
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.min.isr": "1",
            **self._properties,
        }
        lines = [f"{name}={_filled(value, self.port, self._controller)}\n" for name, value in settings.items()]
        (self._folder / "server.properties").write_text("".join(lines))
        (self._folder / "log4j2.yaml").write_text(_LOGGING)


def _filled(value: str, port: int, controller: int) -> str:
    return value.replace("{port}", str(port)).replace("{controller}", str(controller))


_LOGGING = """\
Configuration:
  Appenders:
    File: {name: log, fileName: server.log, PatternLayout: {pattern: "%d %p %c{1} %m%n"}}
    Console: {name: stderr, target: SYSTEM_ERR, PatternLayout: {pattern: "%m %throwable{1}%n"}}
  Loggers:
    Root:
      level: INFO
      AppenderRef: [{ref: log}, {ref: stderr, level: ERROR}]
"""
