"""Taking part in a run: :func:`train` for those who have a model, :func:`join` for those who have a loop."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.optim import Optimizer

from scadles import assembly
from scadles.clock import Clock, WallClock, timestamp_number
from scadles.config import ConfigLike, RunConfig, load_config, overridden, settings_tree, with_devices
from scadles.data import Dataset
from scadles.device.connected import ConnectedDevice
from scadles.errors import ConfigError, NotAdmittedError
from scadles.fabric import ElasticFabric, Fabric, TorchFabric
from scadles.fabric.rendezvous import PUBLIC, RENDEZVOUS_FILE, public_address
from scadles.observe import CONFIG_FILE, Summary, events_path, new_run_folder, occupied, write_config
from scadles.observe.console import print_note
from scadles.security import CertificateFiles
from scadles.seeding import derive_seed
from scadles.streams.python import GIVEN, Stream
from scadles.structures import answer
from scadles.tasks import LossFunction, Scores
from scadles.training.changes import Changes, hashes_of_kept, look_for_changes
from scadles.training.from_hub import TAKEN_FILE, Taken
from scadles.training.hub import PLAIN_TEXT, own_settings, reach
from scadles.training.identity import gather_texts
from scadles.training.leaving import leave
from scadles.training.lock import RunLock
from scadles.training.loop import LiveDevice
from scadles.training.portable import share_extra_state
from scadles.training.resuming import Start, come_in, start_again, start_anew
from scadles.training.starting_values import own_start, start_from
from scadles.training.tools import build_tools


def train(
    config: ConfigLike | None = None,
    *,
    model: nn.Module | None = None,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    loss: LossFunction | None = None,
    scores: Scores | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    quiet: bool = False,
    hub: str | None = None,
    name: str | None = None,
    identity: Path | str | CertificateFiles | None = None,
    insecure: bool = False,
    stream: Stream | None = None,
) -> Summary:
    """Train one model together with the other devices of the run, and return what came of it.

    Every device calls this with the same arguments: under torchrun one process is one device; alone it is a run of
    one device.

    Args:
        config: settings, or a YAML file of them; with ``hub`` only what is this device's own
            (:data:`scadles.training.hub.OWN`) and what the hub may name here (``allow: {model: mine:net}``), None for
            nothing.
        model: your network; None builds the one that ``config.model`` names. Device 0's initial weights count.
        optimizer: yours, over ``model.parameters()``, or several in a list; None builds the one in
            ``config.optimizer``.
        loss: mean loss of (outputs, targets); None is that of the settings (``task``).
        scores: finds the answer in the model's outputs, for classification the scores ``[b, classes]``;
            :func:`~scadles.tasks.find_scores` says what is found without it.
        out: the run folder; None makes one under ``runs/``, with ``hub`` it is ``runs/NAME``.
        resume: go on from the newest checkpoint in ``out``; with ``hub`` that is always so.
        quiet: show no progress.
        hub: HOST:PORT of a ``scadles hub``, whose run this device joins for as long as it likes.
        name: of this device at the hub, the same whenever it comes back.
        identity: folder with key and certificate of this device, which ``scadles join --token`` has brought, or
            ``scadles.CertificateFiles(cert, key, ca)`` of an authority that exists already; None looks where
            ``scadles join`` keeps them.
        insecure: speak plain text with a hub that does.
        stream: what this device's samples come from, in place of ``stream.url``: an iterable of (sample, target), or
            what returns one (:class:`~scadles.streams.python.source.PythonSource`).

    Raises:
        LeftError: this device was told to leave the run of a hub, which goes on without it.
        ScadlesError: the settings cannot work, a device was lost, ... (see :mod:`scadles.errors`).
    """
    device = join(
        config,
        model=model,
        optimizer=optimizer,
        loss=loss,
        scores=scores,
        out=out,
        resume=resume,
        quiet=quiet,
        hub=hub,
        name=name,
        identity=identity,
        insecure=insecure,
        stream=stream,
    )
    try:
        task = device.task
        with device:
            for batch in device.batches():
                outputs = answer(device.model, batch.x)
                device.step(task.minimised(outputs, batch.y), outputs, task.weight(batch.y))
    except NotAdmittedError as error:
        raise device.left(str(error)) from None
    if device.summary is None:
        raise device.left()
    return device.summary


def join(
    config: ConfigLike | None = None,
    *,
    model: nn.Module | None = None,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    loss: LossFunction | None = None,
    scores: Scores | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    quiet: bool = False,
    hub: str | None = None,
    name: str | None = None,
    identity: Path | str | CertificateFiles | None = None,
    insecure: bool = False,
    stream: Stream | None = None,
    fabric: Fabric | None = None,
    clock: Clock | None = None,
) -> LiveDevice:
    """Join a run with a training loop of your own::

        with scadles.join(config, model=model, optimizer=optimizer) as device:
            for batch in device.batches():
                device.step(loss_fn(model(batch.x), batch.y))

    or, where devices come and go, the run of a hub::

        with scadles.join(hub="192.168.1.10:29400", name="cam-3", model=model, optimizer=optimizer) as device:

    Arguments are those of :func:`train`; ``loss`` and ``scores`` are used for tests, ``scores``
    also for the outputs given to :meth:`.LiveDevice.step`. ``fabric`` and ``clock`` replace the ones
    that the settings describe, for example by a :class:`~scadles.fabric.LocalFabric`.
    """
    taken: Taken | None = None
    with ExitStack() as failing:
        if hub is not None or name is not None:
            fabric, taken = _at_hub(
                hub,
                name,
                _own_streaming(config, stream),
                fabric,
                identity=identity,
                insecure=insecure,
                has_model=model is not None,
            )
            settings = taken.settings
            failing.push(partial(leave, fabric))
            out = Path("runs") / str(name) if out is None else out
        else:
            settings = _settings(_streaming(config, stream), fabric)
        settings, rate_notice = assembly.with_possible_rate(settings, optimizer)
        dataset = assembly.build_dataset(settings)
        task = assembly.build_task(settings, dataset).with_own(loss, scores)
        torch_device = _torch_device(settings, model)
        fabric = fabric or assembly.build_fabric(settings, torch_device)
        failing.callback(fabric.close)
        if isinstance(fabric, ElasticFabric):  # whoever has a folder goes on in it
            resume = out is not None and events_path(Path(out), fabric.rank).exists()
        run_dir, lock, changes = _run_folder(settings, out, fabric, resume=resume)
        failing.callback(lock.release)
        if taken is not None:
            _tell_what_is_taken(taken, run_dir, fabric.rank, quiet=quiet)
        torch.manual_seed(derive_seed(settings.seed, "torch", fabric.rank))
        network = _materialised(assembly.build_network(settings, dataset, model)).to(torch_device)
        start = _start(settings, network, fabric, run_dir, lock.attempt, resume=resume)
        if rate_notice and fabric.rank == 0:
            start = start._replace(notices=[*start.notices, rate_notice])
        device = _device(settings, dataset, network, optimizer, fabric, clock, run_dir, start, stream)
        tools = build_tools(settings, dataset, device, run_dir, task, start, lock, quiet=quiet, resume=resume)
        live = LiveDevice(
            *(device, settings, tools, run_dir), checkpoint=start.checkpoint, resuming=resume, changes=changes
        )
        failing.pop_all()
    return live


def _at_hub(
    hub: str | None,
    name: str | None,
    config: ConfigLike | None,
    fabric: Fabric | None,
    *,
    identity: Path | str | CertificateFiles | None,
    insecure: bool,
    has_model: bool,
) -> tuple[ElasticFabric, Taken]:
    """Return this device's end of a hub, and what it takes of the run's settings, with its own."""
    if hub is None or fabric is not None:
        raise ConfigError(f"name = {name}: it belongs to hub=HOST:PORT, and to no other fabric")
    return reach(hub, name, config, print_note, identity=identity, insecure=insecure, has_model=has_model)


def _tell_what_is_taken(taken: Taken, run_dir: Path, device: int, *, quiet: bool) -> None:
    """Leave in the run folder what this device takes from its hub, and say it; a launcher's devices take its own."""
    write_config(run_dir, taken.to_yaml(), device, TAKEN_FILE)
    if not quiet and "WORLD_SIZE" not in os.environ:
        print_note(str(taken))


def _start(
    settings: RunConfig, network: nn.Module, fabric: Fabric, run_dir: Path, attempt: int, *, resume: bool
) -> Start:
    """Return what this device starts from; the network has its first values then, but for those of a checkpoint."""
    place = (run_dir, fabric, settings.checkpoint.keep, hashes_of_kept(settings))
    if isinstance(fabric, ElasticFabric):
        start = come_in(*place, fabric.run)
    elif resume:
        start = start_again(*place, f"{attempt:016x}", replayed=settings.stream.url.startswith("replay:"))
    else:
        start = start_anew(*place, f"{attempt:016x}")
    if fabric.insecure:
        start = start._replace(notices=[*start.notices, PLAIN_TEXT])
    if isinstance(fabric, TorchFabric) and fabric.rank == 0 and (address := public_address()):
        start = start._replace(notices=[*start.notices, f"devices connect by {address}, {PUBLIC}"])
    return start if settings.init_from is None else _with_values(start, settings.init_from, network, fabric)


def _device(
    settings: RunConfig,
    dataset: Dataset,
    network: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer] | None,
    fabric: Fabric,
    clock: Clock | None,
    run_dir: Path,
    start: Start,
    stream: Stream | None,
) -> ConnectedDevice:
    """Return the device with the same values as all others that are there."""
    start_s = start.checkpoint.state["run"]["clock_s"] if start.checkpoint else 0.0
    clock = clock or WallClock(settings.clock.speed, start_s, running=False)  # setting up takes no stream time
    dealt = start.checkpoints.identity.dealt
    device = assembly.build_device(settings, dataset, network, optimizer, fabric, clock, run_dir, dealt, stream)
    fabric.broadcast(list(device.learner.managed.tensors().values()), "initial model")
    share_extra_state(network, fabric.broadcast)
    return device


def _settings(config: ConfigLike | None, fabric: Fabric | None) -> RunConfig:
    """Read the configuration for as many devices as there really are."""
    if config is None:
        raise ConfigError("a run needs its settings: give a config, or hub=HOST:PORT and name=... to join a hub's run")
    if fabric is not None or "WORLD_SIZE" in os.environ:
        return load_config(config, [f"devices={fabric.size if fabric else os.environ['WORLD_SIZE']}"])
    settings = load_config(config)
    if settings.devices != 1:
        raise ConfigError(
            f"devices = {settings.devices}, and this is one process: start it with scadles train CONFIG --local "
            f"{settings.devices}, or under torchrun --nproc-per-node {settings.devices}"
        )
    return with_devices(settings)


def _streaming(config: ConfigLike | None, stream: Stream | None) -> ConfigLike | None:
    """Return settings whose stream is an object, where one is given; not checked yet."""
    if stream is None or config is None:
        return config
    return overridden(settings_tree(config), [f"stream.url={GIVEN}"])


def _own_streaming(config: ConfigLike | None, stream: Stream | None) -> ConfigLike | None:
    """Return the same of what is a device's own at a hub, which may be nothing."""
    return config if stream is None else _streaming(own_settings(config), stream)


def _torch_device(settings: RunConfig, model: nn.Module | None) -> torch.device:
    """Return where the model lives: where the user put it, else on this process's GPU where there is one."""
    if model is not None and (parameter := next(model.parameters(), None)) is not None:
        return parameter.device
    if torch.cuda.is_available() and settings.fabric.backend in ("auto", "nccl"):
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def _materialised(network: nn.Module) -> nn.Module:
    """Return ``network`` once all its parameters are there."""
    lazy = (UninitializedParameter, UninitializedBuffer)
    if any(isinstance(tensor, lazy) for tensor in (*network.parameters(), *network.buffers())):
        raise ConfigError("the model has lazy layers without a shape yet: run its forward on one batch beforehand")
    return network


def _with_values(start: Start, path: Path, network: nn.Module, fabric: Fabric) -> Start:
    """Let the network start from the values at ``path``, unless there is a checkpoint, whose values count."""
    if start.checkpoint is None and isinstance(fabric, ElasticFabric):
        origin = own_start(path, network)
        if origin is None:
            print_note(
                f"init_from = {path} is not on this device: it waits for one that has it, or whose run has begun"
            )
        return start._replace(origin=origin)
    if start.checkpoint is None:
        return start._replace(origin=start_from(path, network, fabric))
    said = f"init_from = {path} is not read: the values are those of the checkpoint after step {start.checkpoint.step}"
    return start._replace(notices=[*start.notices, *([said] if fabric.rank == 0 else [])])


def _run_folder(
    settings: RunConfig, out: Path | str | None, fabric: Fabric, *, resume: bool
) -> tuple[Path, RunLock, Changes]:
    """Return the run folder, the same on all devices, locked and holding the configuration, and what is new in that."""
    stamp = torch.tensor([timestamp_number(), _attempt()])
    fabric.broadcast([stamp], "name of the run folder")
    run_dir = Path(out) if out is not None else new_run_folder(settings.method, int(stamp[0]))
    lock = RunLock(run_dir, int(stamp[1]))

    def look() -> Changes:
        if not resume:
            return Changes(occupied(run_dir, fabric.rank, resumable=True))
        changes = look_for_changes(run_dir / CONFIG_FILE, settings)
        absent = fabric.gather(torch.tensor([float(changes.absent)]), "looking at the run folder")
        # a device that is new may have a folder of its own, on a machine of its own
        return Changes() if changes.absent and not absent[0] else changes

    # all devices look before the first one touches anything
    problem = look().problem
    _agree_on_folder(problem and (lock.in_use() or problem), fabric)
    with ExitStack() as failing:
        failing.callback(lock.release)
        # whoever had the folder may have written to it until now
        problem, changes = lock.acquire(), look()
        changes = Changes(problem) if problem else changes
        _agree_on_folder(changes.problem, fabric)
        if fabric.rank == 0 or changes.said or not (run_dir / CONFIG_FILE).exists():
            write_config(run_dir, settings.to_yaml(), fabric.rank)
        failing.pop_all()
    return run_dir, lock, changes


def _attempt() -> int:
    """Return a number for this start: the same in all devices of one launcher, which may share a folder."""
    meeting = os.environ.get(RENDEZVOUS_FILE, "")
    return derive_seed(0, "attempt", meeting) % (1 << 62) if meeting else secrets.randbits(62)


def _agree_on_folder(problem: str | None, fabric: Fabric) -> None:
    """Go on where no device has a problem with its run folder; all end where one has."""
    problems = gather_texts(problem or "", fabric, "looking at the run folder")
    if problem:
        raise ConfigError(problem)
    if others := [f"device {device}: {text}" for device, text in enumerate(problems) if text]:
        raise ConfigError(others[0])
