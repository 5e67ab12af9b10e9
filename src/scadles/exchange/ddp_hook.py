"""Compression and weighting for any script that uses torch's own DistributedDataParallel, as a communication hook.

    model = DistributedDataParallel(network)
    state = scadles.HookState(ratio=0.01)
    model.register_comm_hook(state, scadles.ddp_hook)
    for x, y in loader:
        state.batch_size = len(x)                  # only where batches differ in size
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()

A model has one hook. For comparison, torch's own PowerSGD goes into the same place; on gloo it needs all parameters in
one bucket (``bucket_cap_mb`` above the size of the model)::

    state = PowerSGDState(process_group=None, matrix_approximation_rank=1, start_powerSGD_iter=2)
    model.register_comm_hook(state, powerSGD_hook)
"""

# DDP compares a hook's annotations with the types themselves: here they must not become strings

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from scadles.errors import CheckpointError, ConfigError
from scadles.exchange.aggregation.bucket import all_finite
from scadles.exchange.compression import (
    ErrorFeedback,
    Feedback,
    SampledTopK,
    Sparse,
    WireError,
    add_message,
    budget_bytes,
    encode,
)

# weight, whether it was left out as not finite, whether it has a batch size
_SCALARS = 3
_NOTHING = Sparse(torch.empty(0, dtype=torch.int64), torch.empty(0))


class HookState:
    """What :func:`ddp_hook` keeps between steps; one for each model.

    Residuals belong to parameters. When DDP deals these out to new buckets, as it does after the first step, each takes
    its residual along, so that nothing is lost.

    Args:
        ratio: share of a bucket's entries that is sent, above 0, at most 1.
        value_type: of the values on the wire: ``float32``, ``bfloat16``, ``float16`` or ``int8``.
        process_group: of the DDP model; None: the default one.
        feedback: makes what keeps back the rest of ``n`` entries, for example
            ``lambda n: MomentumCorrection(ErrorFeedback(n), n)``.
        seed: of the samples that selection draws.

    Attributes:
        left_out: buckets that this device has left out because they were not finite.

    Raises:
        ConfigError: a ratio or a batch size that cannot be.
    """

    def __init__(
        self,
        ratio: float,
        *,
        value_type: str = "int8",
        process_group: dist.ProcessGroup | None = None,
        feedback: Callable[[int], Feedback] = ErrorFeedback,
        seed: int = 0,
    ) -> None:
        if not 0 < ratio <= 1:
            raise ConfigError(f"ratio = {ratio:g}: the share of entries that is sent, above 0 and at most 1")
        budget_bytes(1, 1, value_type)  # refuses an unknown value type
        self.ratio = ratio
        self.value_type = value_type
        self.process_group = process_group
        self._batch_size: float | None = None
        self.left_out = 0
        self._feedback = feedback
        self._seed = seed
        self._slots: dict[tuple[int, ...], _Slot] = {}
        # of each parameter what is kept back of it: views of its slot's memory, or what a checkpoint brought
        self._kept: dict[Tensor, dict[str, Tensor]] = {}

    @property
    def batch_size(self) -> float | None:
        """Samples that the next loss is the mean of, to be set before each backward pass; 0 leaves this device out.

        None: all devices count alike. Set it on all devices or on none.
        """
        return self._batch_size

    @batch_size.setter
    def batch_size(self, samples: float | None) -> None:
        size = None if samples is None else float(samples)
        if size is not None and not 0 <= size < math.inf:
            raise ConfigError(f"batch_size = {size:g}: the samples of this device's batch; 0 leaves it out")
        self._batch_size = size

    def state_dict(self, named_parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Return what this device's checkpoint must hold, by parameter; parameters are ``model.named_parameters()``."""
        return {
            f"{name}/{kind}": values.clone()
            for name, parameter in named_parameters
            for kind, values in self._kept.get(parameter, {}).items()
        }

    def load_state_dict(self, named_parameters: Iterable[tuple[str, Tensor]], saved: dict[str, Tensor]) -> None:
        """Go on from what :meth:`state_dict` returned.

        Raises:
            CheckpointError: it is of another model.
        """
        kept: dict[Tensor, dict[str, Tensor]] = {}
        for name, parameter in named_parameters:
            found = {key.removeprefix(f"{name}/"): saved[key] for key in saved if key.startswith(f"{name}/")}
            if any(values.numel() != parameter.numel() for values in found.values()):
                raise CheckpointError(f"what was kept back of {name} does not fit its {parameter.numel()} values")
            kept[parameter] = found
        known = sum(len(found) for found in kept.values())
        if known != len(saved):
            raise CheckpointError(f"{len(saved) - known} of {len(saved)} entries belong to no parameter of this model")
        self._kept = kept
        self._slots.clear()

    def _slot(self, parameters: list[Tensor]) -> "_Slot":
        """Return what belongs to a bucket of these parameters, made anew where DDP has dealt them out anew."""
        key = tuple(id(parameter) for parameter in parameters)
        if key not in self._slots:
            moved = set(key)
            self._slots = {old: slot for old, slot in self._slots.items() if moved.isdisjoint(old)}
            self._slots[key] = self._new_slot(parameters)
        return self._slots[key]

    def _new_slot(self, parameters: list[Tensor]) -> "_Slot":
        sizes = [parameter.numel() for parameter in parameters]
        n = sum(sizes)
        rank, size = dist.get_rank(self.process_group), dist.get_world_size(self.process_group)
        selector = SampledTopK(max(1, math.ceil(self.ratio * n)), self._seed, rank)
        slot = _Slot(n, self._feedback(n), selector, self.value_type, size)
        parts = {kind: torch.split(memory, sizes) for kind, memory in slot.feedback.state().items()}
        for number, parameter in enumerate(parameters):
            mine = {kind: views[number] for kind, views in parts.items()}
            before = self._kept.get(parameter) or mine
            if before.keys() != mine.keys():
                raise CheckpointError(f"the checkpoint holds {', '.join(before)}, this compression {', '.join(mine)}")
            for kind, values in before.items():
                mine[kind].copy_(values.reshape(-1))
            self._kept[parameter] = mine
        return slot


class _Slot:
    """What belongs to one bucket."""

    def __init__(self, n: int, feedback: Feedback, selector: SampledTopK, value_type: str, size: int) -> None:
        self.n = n
        self.size = size
        self.feedback = feedback
        self.selector = selector
        self.value_type = value_type
        self.message_bytes = budget_bytes(n, selector.k, value_type, _SCALARS)
        # an all-gather sends (N - 1) messages, a ring all-reduce 2 (N - 1) / N times the bucket
        self.dense = size * self.message_bytes >= 2 * 4 * n
        self.steps = 0


def ddp_hook(
    state: HookState,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[torch.Tensor]:
    """Give a bucket the mean of all devices' gradients, sum(b g) / sum(b), from the largest entries of each.

    What is not sent is kept and added to the next gradient: over any number of steps, what was sent and what is kept
    are the sum of all b g. With ``state.batch_size`` set, b is the batch size and the mean is the gradient of the union
    batch (paper, section IV, weighted aggregation); otherwise b is 1. It travels in the message. DDP itself does not
    divide where there is a hook.

    Each bucket is one all-gather of messages of one size, or a dense all-reduce where that sends no more bytes. A
    bucket with NaN or infinity is left out, and what was kept back stays; where all devices leave theirs out the mean
    is NaN, as without a hook. A loss scale that changes would mix what is kept with what is new: for mixed precision
    use bfloat16.

    Raises:
        WireError: by way of the future: the devices' models or settings differ, some have a batch size and others
            none, or messages are of another step.
    """
    buffer = bucket.buffer()
    slot = state._slot(bucket.parameters())
    slot.steps += 1
    weight = 1.0 if state.batch_size is None else float(state.batch_size)
    gradient = buffer.detach().to("cpu", torch.float32)
    bad = weight > 0 and not all_finite(gradient)
    if bad:
        state.left_out += 1
        weight = 0.0
    total = slot.feedback.add(gradient * weight) if weight > 0 else None
    exchange = _all_reduce if slot.dense else _all_gather
    return exchange(state, slot, buffer, total, (weight, float(bad), float(state.batch_size is not None)))


def _all_gather(
    state: HookState, slot: _Slot, buffer: Tensor, total: Tensor | None, scalars: tuple[float, ...]
) -> torch.futures.Future[torch.Tensor]:
    picked = _NOTHING if total is None else slot.selector.pick(total, slot.steps)
    encoded = encode(
        picked,
        slot.n,
        value_type=slot.value_type,
        step=slot.steps,
        scalars=scalars,
        budget_bytes=slot.message_bytes,
    )
    if total is not None:
        slot.feedback.sent(*encoded.sent)
    message = encoded.message.to(_place(state, buffer))
    step, size = slot.steps, slot.size
    messages = [torch.empty_like(message) for _ in range(size)]
    work = dist.all_gather(messages, message, group=state.process_group, async_op=True)

    def add_up(done: torch.futures.Future[list[Tensor]]) -> Tensor:
        done.wait()
        total = torch.zeros(slot.n)
        # in the order of ranks, so that all devices end with the same bits
        headers = [add_message(each, total) for each in messages]
        for device, header in enumerate(headers):
            if header.step != step:
                raise WireError(
                    f"device {device} sent a message of step {header.step}, this is step {step}: call backward, and "
                    "load checkpoints, equally often everywhere"
                )
        sums = [sum(column) for column in zip(*(header.scalars for header in headers), strict=True)]
        return buffer.copy_(_mean(total, sums, size))

    return _then(work, add_up)


def _all_reduce(
    state: HookState, slot: _Slot, buffer: Tensor, total: Tensor | None, scalars: tuple[float, ...]
) -> torch.futures.Future[torch.Tensor]:
    message = torch.cat([torch.zeros(slot.n) if total is None else total, torch.tensor(scalars)])
    if total is not None:
        slot.feedback.sent_all()
    message = message.to(_place(state, buffer))
    work = dist.all_reduce(message, group=state.process_group, async_op=True)

    def divide(done: torch.futures.Future[list[Tensor]]) -> Tensor:
        done.wait()
        return buffer.copy_(_mean(message[: slot.n], message[slot.n :].tolist(), slot.size))

    return _then(work, divide)


def _then(work: Any, finish: Callable[[torch.futures.Future[list[Tensor]]], Tensor]) -> torch.futures.Future[Tensor]:
    future: torch.futures.Future[list[Tensor]] = work.get_future()
    return future.then(finish)


def _mean(total: Tensor, sums: Sequence[float], size: int) -> Tensor:
    weight, bad, with_batch_size = sums
    if with_batch_size not in (0, size):
        raise WireError(f"batch_size is set on {with_batch_size:g} of {size} devices: set it on all of them or on none")
    if weight > 0:
        return total.div_(weight)
    return total.fill_(math.nan if bad else 0.0)


def _place(state: HookState, buffer: Tensor) -> torch.device:
    """Return where messages must be for the process group to send them."""
    backend = dist.get_backend(state.process_group)
    return torch.device("cpu") if backend in ("gloo", "mpi") else buffer.device
