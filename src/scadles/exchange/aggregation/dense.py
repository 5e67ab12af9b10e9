"""Gradients of all devices become one mean: one message a bucket, and the batch sizes travel inside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from scadles.errors import ConfigError
from scadles.exchange.aggregation.reports import Report, Reports

_WEIGHT, _REDO = Report._fields.index("weight"), Report._fields.index("redo")


class Waitable(Protocol):
    """A reduction on its way."""

    def wait(self) -> None: ...


@dataclass
class _Bucket:
    """Some parameters, and the memory in which their gradients travel."""

    parameters: list[torch.nn.Parameter]
    message: Tensor
    views: list[Tensor]
    missing: int = 0

    def expose(self) -> None:
        """Make what is in the message the parameters' gradients."""
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view

    def receive(self) -> None:
        """Let the backward pass add up the gradients right in the message."""
        self.message.zero_()
        self.expose()

    def forget(self) -> None:
        """Take the parameters' gradients away."""
        for parameter in self.parameters:
            parameter.grad = None

    def pack(self, weight: float) -> bool:
        """Make the message hold the gradients, already multiplied by the weight; return whether all are finite."""
        if weight == 0:
            self.message.zero_()
            return True
        for parameter, view in zip(self.parameters, self.views, strict=True):
            if parameter.grad is None:
                view.zero_()
            elif parameter.grad is not view:
                view.copy_(parameter.grad)
        return all_finite(self.message)


class GradientExchange:
    """The weighted mean sum(w g) / sum(w) of all devices' gradients, which is the gradient of the union batch when
    each device's weight w is its batch size (paper, section IV, weighted aggregation).

    A device multiplies its loss by its weight before the backward pass, so that weighting costs nothing; the weights
    travel in the last bucket, in a slot for each device, together with the rest of its :class:`Report`.

    Args:
        parameters: those that require gradients, all of one floating dtype and device.
        reduce: starts an in-place sum over all devices.
        rank, size: this device, and how many there are. A process that is several devices gives its first one, adds up
            their weighted gradients, and ends with :meth:`finish_many`.
        bucket_bytes: None sends one message after the backward pass; otherwise messages of about this size leave while
            the backward pass runs.

    Attributes:
        parameters: those that are trained, in the order of the model.
        fields: how many fields of a report travel, from the first on.

    Example, with loss the mean over ``batch`` samples::

        exchange.begin(weight=batch, phase="gradients of step 7")
        (loss * batch).backward()
        reports = exchange.finish(Report(batch=batch, weight=batch))   # parameters now hold the mean gradient
    """

    fields = Report._fields.index("redo") + 1

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        reduce: Callable[[Tensor, str], Waitable],
        rank: int,
        size: int,
        bucket_bytes: int | None = None,
    ) -> None:
        size_of_reports = size * self.fields
        trainable = [p for p in parameters if p.requires_grad]
        _check_parameters(trainable)
        self.parameters = trainable
        self._reduce = reduce
        self._rank = rank
        # gradients become ready from the last layer to the first
        self._buckets = _make_buckets(trainable[::-1], bucket_bytes, size_of_reports)
        self._reports = self._buckets[-1].message[-size_of_reports:].view(size, -1)
        self._launched: list[Waitable] = []
        self._weight = 0.0
        self._phase = ""
        self._finite = True
        self._listening = False
        self._overlaps = bucket_bytes is not None
        if self._overlaps:
            for bucket in self._buckets:
                for parameter in bucket.parameters:
                    parameter.register_post_accumulate_grad_hook(self._listener(bucket))  # type: ignore[no-untyped-call]

    @property
    def message_bytes(self) -> int:
        """Bytes of one step's messages, before the collective multiplies them."""
        return sum(bucket.message.nbytes for bucket in self._buckets)

    def begin(self, weight: float, phase: str) -> None:
        """Get ready for a backward pass of ``weight * loss``; none must follow where ``weight`` is 0."""
        self._weight = weight
        self._phase = phase
        self._finite = True
        self._launched.clear()
        self._listening = self._overlaps and weight > 0
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)
            if self._overlaps:
                # what has left is overwritten by the sum; gradients that may have to be sent again stay outside
                bucket.forget()
            elif weight > 0:
                bucket.receive()

    def finish(self, report: Report) -> Reports:
        """Send what has not left yet, wait for everybody, and give the parameters the mean gradient.

        A gradient with NaN or infinity is left out on all devices: the returned report of its device has weight 0.
        Where all weights are 0, the parameters' gradients are None.

        Raises:
            PeerLostError: a device did not answer; parameters are as they were, gradients undefined.
        """
        return self.finish_many(np.array([report], dtype=np.float64))

    def finish_many(self, mine: np.ndarray) -> Reports:
        """Do what :meth:`finish` does for several devices that share this process.

        Args:
            mine: a row of each, in the order of :class:`Report`, float64 ``[k, fields]``.
        """
        self._listening = False
        early = len(self._launched)
        self._pack_rest()
        if not self._finite:
            mine[:, _WEIGHT], mine[:, _REDO] = 0.0, float(early > 0)
        reports = self._send_rest(mine)
        if bool(reports.redo.any()):
            self._launched.clear()
            self._weight = float(mine[:, _WEIGHT].sum())
            self._pack_rest()
            mine[:, _REDO] = 0.0
            reports = self._send_rest(mine)
        self._hand_out(float(reports.weight.sum()))
        return reports

    def _listener(self, bucket: _Bucket) -> Callable[[Tensor], None]:
        def on_gradient(_: Tensor) -> None:
            if not self._listening:
                return
            bucket.missing -= 1
            # all devices must send in the same order; the last bucket leaves in finish(), with the report
            while len(self._launched) < len(self._buckets) - 1 and not self._buckets[len(self._launched)].missing:
                ready = self._buckets[len(self._launched)]
                self._pack(ready)
                self._launch(ready)

        return on_gradient

    def _pack(self, bucket: _Bucket) -> None:
        if not bucket.pack(self._weight):
            self._finite = False
            bucket.message.zero_()

    def _launch(self, bucket: _Bucket) -> None:
        self._launched.append(self._reduce(bucket.message, self._phase))

    def _pack_rest(self) -> None:
        for bucket in self._buckets[len(self._launched) :]:
            self._pack(bucket)

    def _send_rest(self, mine: np.ndarray) -> Reports:
        rest = self._buckets[len(self._launched) :]
        if not mine[:, _WEIGHT].any():
            for bucket in rest:
                bucket.message.zero_()
        return self._exchange(mine)

    def _exchange(self, mine: np.ndarray) -> Reports:
        """Send what is in the messages, and these reports, and wait for the sum over all devices."""
        self._reports.zero_()
        self._reports[self._rank : self._rank + len(mine)] = torch.from_numpy(mine[:, : self.fields]).to(self._reports)
        for bucket in self._buckets[len(self._launched) :]:
            self._launch(bucket)
        for pending in self._launched:
            pending.wait()
        rows = np.zeros((len(self._reports), len(Report._fields)))
        rows[:, : self.fields] = self._reports.detach().to("cpu", torch.float64).numpy()
        return Reports(rows)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and numbers that a checkpoint must hold for the next step to be the same."""
        return {}, {}

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""

    def _hand_out(self, total: float) -> None:
        for bucket in self._buckets:
            if total > 0:
                bucket.message.div_(total)
                bucket.expose()
            else:
                bucket.forget()


def all_finite(values: Tensor) -> bool:
    """Whether a tensor has neither NaN nor infinity."""
    # the sum is cheap and says enough, unless large finite values overflow it
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def _check_parameters(parameters: Sequence[torch.nn.Parameter]) -> None:
    if not parameters:
        raise ConfigError("the model has no parameter that requires a gradient")
    kinds = {(p.dtype, p.device) for p in parameters}
    if len(kinds) > 1:
        named = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise ConfigError(f"the model's parameters must have one dtype on one device, found {named}")
    dtype = parameters[0].dtype
    if dtype not in (torch.float32, torch.float64):
        raise ConfigError(
            f"the model's parameters are {dtype}, which cannot hold a sum of batch sizes: keep them in float32 and "
            "compute in less with torch.autocast"
        )


def _make_buckets(parameters: list[torch.nn.Parameter], bucket_bytes: int | None, extra: int) -> list[_Bucket]:
    groups: list[list[torch.nn.Parameter]] = [[]]
    filled = 0
    for parameter in parameters:
        if bucket_bytes is not None and groups[-1] and filled + parameter.nbytes > bucket_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(parameter)
        filled += parameter.nbytes
    buckets = []
    for i, group in enumerate(groups):
        tail = extra if i == len(groups) - 1 else 0
        message = group[0].new_zeros(sum(p.numel() for p in group) + tail)
        parts = torch.split(message, [*(p.numel() for p in group), tail])[: len(group)]
        views = [part.view_as(p) for part, p in zip(parts, group, strict=True)]
        buckets.append(_Bucket(group, message, views))
    return buckets
