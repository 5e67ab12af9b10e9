"""``scadles train``: one device under torchrun, or N devices on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from scadles.errors import ConfigError, FabricError, PeerLostError

_GONE_ON = "the others would have gone on"


def train(
    config: Annotated[Path, typer.Argument(help="YAML file of settings; see docs/configuration.md")],
    local: Annotated[int | None, typer.Option(min=1, help="start so many device processes on this machine")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a setting, e.g. batch.size=32")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="run folder; runs/METHOD-TIME by default")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the newest checkpoint in --out")] = False,  # noqa: FBT002
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="show no progress and no table")] = False,  # noqa: FBT002
) -> None:
    """Train one model on live streams.

    Four devices on this machine, then the same as conventional training, then the two side by side:

        scadles train examples/digits.yaml --local 4 --out runs/scadles

        scadles train examples/digits.yaml --local 4 --set method=ddl --out runs/ddl

        scadles compare runs/ddl runs/scadles

    Without --local this process is one device, placed by torchrun (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT):

        torchrun --nnodes 4 --node-rank 2 --rdzv-endpoint HOST:29500 -m scadles train CONFIG

    Exit codes: 0 the run ended as it should, 1 it cannot go on, such as training that has diverged for good (lr.guard),
    2 a setting cannot work, 3 a device was lost, 130 and 143 stopped by Ctrl-C and SIGTERM with a checkpoint.
    """
    from scadles.config import load_config

    overrides = list(settings or [])
    if resume and out is None:
        raise ConfigError("--resume needs --out: the folder of the run to go on with")
    if local is None:
        from scadles.observe import default_folder
        from scadles.training import run

        alone = "WORLD_SIZE" not in os.environ
        checked = load_config(config, overrides if alone else [*overrides, f"devices={os.environ['WORLD_SIZE']}"])
        run_dir = out or (default_folder(checked.method) if alone else None)
        try:
            run.train(checked, out=run_dir, resume=resume, quiet=quiet)
        except PeerLostError as error:
            error.args = (f"{error}{_over_a_hub(error)}",)
            raise
        if alone and run_dir:
            _report(run_dir, quiet=quiet)
    else:
        _train_locally(config, local, overrides, out, resume=resume, quiet=quiet)


def _train_locally(
    config: Path, devices: int, overrides: list[str], out: Path | None, *, resume: bool, quiet: bool
) -> None:
    from scadles.config import load_config
    from scadles.observe import default_folder
    from scadles.observe.console import print_error, print_note
    from scadles.training.fleet import launch_fleet
    from scadles.training.launch import LaunchError, launch_local

    if "WORLD_SIZE" in os.environ:
        raise ConfigError("--local starts its own processes: leave it out under torchrun")
    checked = load_config(config, [*overrides, f"devices={devices}"])
    run_dir = out or default_folder(checked.method)

    def work() -> None:
        from scadles.training.run import train

        train(checked, out=run_dir, resume=resume, quiet=quiet)

    try:
        if checked.fabric.backend == "hub":
            say = (lambda _: None) if quiet else print_note
            launch_fleet(checked, run_dir, say, print_error, resume=resume, quiet=quiet)
        else:
            launch_local(devices, work, print_error)
    except LaunchError as error:
        if error.exit_code != ConfigError.exit_code and error.resumable:
            is_lost = checked.fabric.backend != "hub" and error.exit_code == FabricError.exit_code
            how = f"; with --set fabric.backend=hub {_GONE_ON}" if is_lost else ""
            error.args = (f"{error}{_way_on(run_dir)}{how}",)
        raise
    _report(run_dir, quiet=quiet)


def _over_a_hub(error: PeerLostError) -> str:
    """Return what a run learns that had begun and has lost a device."""
    return "" if error.phase in ("joining", "rendezvous") else f"; with a hub {_GONE_ON} (scadles hub --help)"


def _way_on(run_dir: Path) -> str:
    has_checkpoint = any(run_dir.glob("checkpoints/device-*/step-*.safetensors"))
    return f"; the last checkpoint is intact, go on with --out {run_dir} --resume" if has_checkpoint else ""


def _report(run_dir: Path, *, quiet: bool) -> None:
    if quiet:
        return
    from scadles.observe import compare
    from scadles.observe.console import plain_line

    compare([run_dir]).print()
    typer.echo(plain_line(f"run folder: {run_dir}"))
