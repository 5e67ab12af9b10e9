"""``scadles publish``: a data set, sent to the topics that a run reads."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from scadles.errors import ConfigError, SourceError


def publish(
    config: Annotated[Path, typer.Argument(help="YAML file of settings, as for scadles train")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a setting, e.g. stream.rates=S1")
    ] = None,
    duration: Annotated[
        float | None, typer.Option("--duration", min=0.001, metavar="SECONDS", help="end after so long")
    ] = None,
    records: Annotated[int | None, typer.Option(min=1, help="end after so many records on each topic")] = None,
    delay: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="SECONDS", help="with stream.labels: labels are sent up to so much later"),
    ] = None,
    create_topics: Annotated[  # noqa: FBT002
        bool, typer.Option("--create-topics", help="kafka: make the topics that are not there; MQTT has none to make")
    ] = False,
    retention_s: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="of new topics: records may go at this age")
    ] = None,
    retention_mb: Annotated[
        float | None, typer.Option(min=1.0, metavar="MB", help="of new topics: the oldest may go beyond this size")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="show no progress, only the table")] = False,  # noqa: FBT002
) -> None:
    """Stream the data set of a configuration to the topics that it reads, at its rates, until Ctrl-C.

    Each topic gets what the device that reads it would get from a replayed stream, record by record, when it would get
    it: stream.rates and stream.profile count. Four topics, then four devices that train on them:

        scadles publish examples/kafka.yaml --create-topics --retention-s 600

        scadles train examples/kafka.yaml --local 4 --out runs/kafka

    At the end a table says, for each topic, what rate was wanted and observed, and what was late or failed.

    Exit codes: 0 all records arrived, 1 some did not, 2 a setting cannot work, 130 ended by Ctrl-C or SIGTERM.
    """
    from scadles.config import load_config
    from scadles.observe.console import print_note
    from scadles.publishing.publish import publish as run_publisher
    from scadles.streams.producing import Retention

    if not create_topics and (retention_s is not None or retention_mb is not None):
        raise ConfigError("--retention-s and --retention-mb are of new topics: give --create-topics too")
    report = run_publisher(
        load_config(config, settings or []),
        duration_s=duration,
        records=records,
        delay_s=delay,
        create=Retention(retention_s, retention_mb) if create_topics else None,
        say=lambda line: None if quiet else print_note(line),
    )
    report.print()
    if report.stopped:
        raise typer.Exit(128 + signal.SIGINT)
    if report.lost:
        problem = next((topic.problem for topic in report.topics if topic.problem), "no acknowledgement")
        raise SourceError(f"{report.lost:,} records did not arrive: {problem}")
