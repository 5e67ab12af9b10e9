"""What comes from others by way of a hub, looked at before anything is made of it: the common state, and notes.

A state is safetensors: numbers with names, shapes and types, and JSON. It is of the same model and optimizer as this
device's, and its JSON has the form of this device's own; nothing else is taken up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from scadles.device.buffer import Ledger
from scadles.device.connected import ConnectedDevice
from scadles.device.intake import IntakeState
from scadles.device.optimizers import parts_of
from scadles.errors import CheckpointError, UntrustedError
from scadles.observe import Away
from scadles.training.checkpoint import Checkpoint
from scadles.training.packing import BESIDE, MODEL, OPTIMIZER, kept_beside
from scadles.training.portable import model_tensors, unflatten
from scadles.training.run_statistics import RunStatistics

_INTAKE = TypeAdapter(IntakeState)
# their slots are as their parameters, or one number; those of others may be of any shape
_SAME_SHAPE = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
_UNLIKE = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RuntimeError)


class AnotherModelError(CheckpointError):
    """A state is of another network or optimizer than this device's."""


@contextmanager
def of_others(what: str) -> Iterator[None]:
    """Turn whatever goes wrong with what others have sent into one sentence.

    Raises:
        UntrustedError: it has another form than what devices send.
    """
    try:
        yield
    except _UNLIKE as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UntrustedError(f"{what} that comes from the hub is none that a device sends ({said})") from None


def check_state(state: Checkpoint, device: ConnectedDevice) -> None:
    """Refuse a common state that is none of this device's run.

    Raises:
        AnotherModelError: its model or optimizer has other names, shapes or types.
        CheckpointError: there is something else in it than in those that devices send.
    """
    _check_tensors(state, device)
    run, groups = state.state["run"], state.state["optimizer"]["param_groups"]
    known = device.learner.optimizer.state_dict()["param_groups"]
    if not isinstance(groups, list) or len(groups) != len(known):
        raise AnotherModelError("its optimizer has other groups of parameters")
    _check_form(_form(device), run, "run")
    for mine, theirs in zip(known, groups, strict=True):
        if isinstance(theirs, Mapping) and (lacking := mine.keys() - theirs.keys()):
            raise AnotherModelError(f"its optimizer knows nothing of {', '.join(sorted(lacking))}")
        _check_form(mine, theirs, "optimizer")
    for moment in (run["clock_s"], run["next_evaluation_s"], run["carried"]["clock_s"]):
        if not math.isfinite(moment) or moment < 0:
            raise CheckpointError(f"a moment of {moment}")
    for kept in run["hooks"].values():
        unflatten(kept, kept_beside(state))
    for account in run["carried"]["accounts"]:
        Away(**{"device": 0, "after_step": 0, "model_sha256": "", **account})


def is_note(note: Mapping[str, Any]) -> bool:
    """Whether this is what a device has said of itself with a step."""
    intake, device = note.get("intake"), note.get("device")
    if not (_is_count(note.get("step")) and isinstance(intake, Mapping) and isinstance(device, Mapping)):
        return False
    try:
        found = _INTAKE.validate_json(json.dumps(intake), strict=True)
    except ValidationError:
        return False
    counts = (found.position, device.get("non_finite_steps"), *found.ledger.values())
    return found.ledger.keys() <= Ledger().as_dict().keys() and all(map(_is_count, counts))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_tensors(state: Checkpoint, device: ConnectedDevice) -> None:
    learner = device.learner
    wanted = {f"{MODEL}{name}": (t.shape, t.dtype) for name, t in model_tensors(learner.model).items()}
    found = {name: (t.shape, t.dtype) for name, t in state.tensors.items() if name.startswith(MODEL)}
    if found != wanted:
        raise AnotherModelError("its model has tensors of other names, shapes or types")
    parameters = [
        (p, isinstance(one, _SAME_SHAPE))
        for one in parts_of(learner.optimizer)
        for g in one.param_groups
        for p in g["params"]
    ]
    for name, tensor in state.tensors.items():
        if name.startswith(OPTIMIZER):
            number, _, slot = name.removeprefix(OPTIMIZER).partition("/")
            if not (number.isdecimal() and number.isascii() and int(number) < len(parameters) and slot.isidentifier()):
                raise CheckpointError(f"{name[:80]!r} is no slot of the optimizer")
            parameter, is_alike = parameters[int(number)]
            if is_alike and tensor.dim() and tensor.shape != parameter.shape:
                raise AnotherModelError(f"{name} has shape {list(tensor.shape)}")
        elif not name.startswith((MODEL, BESIDE)):
            raise CheckpointError(f"{name[:80]!r} is no part of a state")


def _form(device: ConnectedDevice) -> dict[str, Any]:
    """Return of what form the JSON of a state must be, by an example."""
    return {
        "trained": [""],
        "device": device.state(),
        "intake": {},
        "exchange": device.learner.exchange.state()[1],
        "tally": RunStatistics().as_dict(),
        "next_evaluation_s": 0.0,
        "clock_s": 0.0,
        "hooks": {},
        "carried": {"asked_to_stop": False, "accounts": [{}], "clock_s": 0.0},
    }


def _check_form(mine: Any, theirs: Any, where: str) -> None:
    """Refuse what is of another form than this device's own: text for a number, a list for a mapping, no such part."""
    if mine is None or theirs is None:
        return
    if isinstance(mine, Mapping):
        _check_kind(isinstance(theirs, Mapping), where)
        for name, value in mine.items():
            if name in theirs:
                _check_form(value, theirs[name], f"{where}.{name}")
            elif where == "run":
                raise CheckpointError(f"run lacks {name}")
    elif isinstance(mine, Sequence) and not isinstance(mine, str):
        _check_kind(isinstance(theirs, list | tuple), where)
        for part in theirs if mine else ():
            _check_form(mine[0], part, where)
    elif isinstance(mine, bool | str):
        _check_kind(isinstance(theirs, type(mine)), where)
    elif isinstance(mine, int | float | torch.Tensor):
        _check_kind(isinstance(theirs, int | float), where)


def _check_kind(fits: bool, where: str) -> None:  # noqa: FBT001 - a condition
    if not fits:
        raise CheckpointError(f"{where} is of another form")
