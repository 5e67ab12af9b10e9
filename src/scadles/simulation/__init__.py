"""A cluster in virtual time: what its devices do, and what each step costs."""

from __future__ import annotations

import copy
import sys
from functools import partial
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from scadles import assembly
from scadles.assembly.label_distribution import draw_label_distribution
from scadles.assembly.task import build_preparation
from scadles.config import ConfigLike, RunConfig, load_config, with_devices
from scadles.data import Dataset
from scadles.errors import ConfigError
from scadles.observe import Progress, RunFolder, Summary, default_folder, occupied, plot_timeline
from scadles.observe.console import print_note
from scadles.simulation.limit import check_has_target, with_stream_limit
from scadles.simulation.simulator import Simulator
from scadles.tasks import LossFunction
from scadles.training.starting_values import take_values
from scadles.training.summarise import write_results

__all__ = ["PICTURE_FILE", "simulate"]

PICTURE_FILE = "timeline.png"


def simulate(
    config: ConfigLike,
    *,
    model: nn.Module | None = None,
    optimizer: Optimizer | None = None,
    loss: LossFunction | None = None,
    out: Path | str | None = None,
    quiet: bool = False,
    limit: bool = False,
) -> Summary:
    """Run the cluster that :func:`scadles.train` would be part of, in this process and in virtual time.

    Args:
        config: settings, or a YAML file of them; ``cost`` says what steps and messages cost.
        model: your network; None builds the one that ``config.model`` names.
        optimizer: yours, over ``model.parameters()``; None builds the one in ``config.optimizer``.
        loss: mean loss of (outputs, targets); None is that of the settings (``task``).
        out: the run folder; None makes one under ``runs/``.
        quiet: show no progress.
        limit: also find out how soon the target could have been reached at best (:mod:`scadles.simulation.limit`).

    Raises:
        ScadlesError: the settings cannot work, or the run folder cannot be written.
    """
    settings = with_devices(load_config(config))
    if settings.fabric.backend == "hub":
        settings = load_config(settings, ["cost.collective=star"])  # which a hub is
    settings, rate_notice = assembly.with_possible_rate(settings, optimizer)
    if rate_notice and not quiet:
        print_note(rate_notice)
    if limit:
        check_has_target(settings)
    run_dir = Path(out) if out is not None else default_folder(settings.method)
    if problem := occupied(run_dir, 0, resumable=False):
        raise ConfigError(problem)
    dataset = assembly.build_dataset(settings)
    task = assembly.build_task(settings, dataset).with_own(loss, None)
    network = assembly.build_network(settings, dataset, model)
    origin = take_values(settings.init_from, network) if settings.init_from is not None else None
    fresh = copy.deepcopy(network) if limit else network
    progress = Progress(
        f"{settings.method} on {settings.data.dataset}, simulated",
        settings.devices,
        task.aim.limit,
        settings.steps,
        settings.duration_s,
        None,
        metric=task.aim.metric,
        higher_is_better=task.aim.higher_is_better,
        quiet=quiet,
    )
    simulator = Simulator(settings, dataset, network, optimizer, task, run_dir, progress, origin)
    summary = simulator.run()
    if limit:
        tell = partial(print, file=sys.stderr) if not quiet else lambda _: None
        summary = with_stream_limit(summary, settings, dataset, lambda: copy.deepcopy(fresh), task, tell)
    draw = partial(_draw, settings, dataset) if settings.picture else None
    write_results(summary, simulator.learner, build_preparation(settings, dataset), run_dir, draw)
    return summary


def _draw(settings: RunConfig, dataset: Dataset, folder: RunFolder) -> None:
    plot_timeline(folder, folder.path / PICTURE_FILE)
    draw_label_distribution(settings, dataset, folder.path)
