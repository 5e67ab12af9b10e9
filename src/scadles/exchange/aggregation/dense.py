"""Gradients of all devices become one mean: one message a bucket, and the batch sizes travel inside it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scadles.errors import RunError
from scadles.exchange.aggregation.bucket import Bucket, check_parameters, make_buckets, on_gradient
from scadles.exchange.aggregation.buffers import ForwardBuffers
from scadles.exchange.aggregation.folding import Layout, StepFold, Waitable
from scadles.exchange.aggregation.reports import NEWLY_CHANGED, Report, Reports, disagreement

_WEIGHT, _REDO = Report._fields.index("weight"), Report._fields.index("redo")


class GradientExchange:
    """The weighted mean sum(w g) / sum(w) of all devices' gradients, which is the gradient of the union batch when
    each device's weight w is its batch size (paper, section IV, weighted aggregation).

    A device multiplies its loss by its weight before the backward pass, so that weighting costs nothing; the weights
    travel in the last bucket, in a slot for each device, together with the rest of its :class:`Report`.

    Args:
        parameters: those that may require gradients sooner or later; those that do are of one floating dtype and
            device.
        reduce: starts an in-place sum over all devices.
        rank, size: this device, and how many there are. A process that is several devices gives its first one, adds up
            their weighted gradients, and ends with :meth:`finish_many`.
        bucket_bytes: None sends one message after the backward pass; otherwise messages of about this size leave while
            the backward pass runs.
        keeps: whether gradients stay outside of the messages, so that :meth:`again` can send them once more.
        folding: takes the place of ``reduce`` where each gradient is looked at by itself; there is one message then.

    Attributes:
        parameters: those that require gradients, or did since the start, in the order of the model. A parameter that no
            loss of any device used has a gradient of None, as in torch.
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
        *,
        keeps: bool = False,
        folding: StepFold | None = None,
    ) -> None:
        self._keeps = keeps
        self._folding = folding
        self._managed = list(parameters)
        self._reduce = reduce
        self._rank = rank
        self._size = size
        self._bucket_bytes = bucket_bytes
        self._launched: list[Waitable] = []
        self._weight = 0.0
        self._phase = ""
        self._finite = True
        self._listening = False
        self._wish = 0.0
        self._hooks: list[Any] = []
        self._buffers: ForwardBuffers | None = None
        self.parameters: list[torch.nn.Parameter] = []
        self._plan()

    def manage(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Take these parameters, of which those of before are the first, from the next step on."""
        self._managed = list(parameters)

    def watch(self, buffers: ForwardBuffers) -> None:
        """Make buffers the same on all devices with every step; on all of them the same ones are active."""
        self._buffers = buffers
        self._lay_out()

    @property
    def found(self) -> Mapping[int, float]:
        """What was wrong with gradients of the last step, by device, as in :class:`.Judgement`."""
        return {} if self._folding is None else self._folding.found

    @property
    def message_bytes(self) -> int:
        """Bytes of one step's messages, before the collective multiplies them."""
        return sum(bucket.message.nbytes for bucket in self._buckets)

    def begin(self, weight: float, phase: str, *, in_parts: bool = False) -> None:
        """Get ready for a backward pass of ``weight * loss``; none must follow where ``weight`` is 0.

        Where parameters have begun to require gradients, nothing leaves before all devices have agreed on that.

        Args:
            weight: of this device's gradient.
            phase: named in errors.
            in_parts: whether several backward passes follow, so that no gradient is ready before the last of them.
        """
        self._weight = weight
        self._phase = phase
        self._finite = True
        self._launched.clear()
        self._wish = self._new_plan()
        overlaps = self._bucket_bytes is not None
        self._listening = overlaps and weight > 0 and not in_parts and not self._wish
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)
        if overlaps or self._wish or self._keeps:
            # what has left is overwritten by the sum; gradients that may have to be sent again stay outside
            for parameter in self._managed:
                parameter.grad = None
        elif weight > 0:
            for bucket in self._buckets:
                bucket.receive()

    def reweigh(self, weight: float, factor: float) -> None:
        """Take ``weight`` for the one of this device's gradient, and multiply by ``factor`` what is there of that."""
        self._weight = weight
        if weight and factor != 1:
            for parameter in self._managed:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)

    def again(self) -> None:
        """Get ready to send once more what :meth:`finish` could not, because devices came or went."""
        self._launched.clear()

    def withdraw(self) -> None:
        """Give up what :meth:`finish` could not send: the step will be another one, with another gradient."""
        self._launched.clear()

    def counted(self) -> None:
        """Hear that what was given up last has reached the others, who have taken that step."""

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

        Raises:
            RunError: some devices train other parameters than others from this step on.
        """
        self._listening = False
        said = mine[:, _REDO].copy()
        while True:
            early = len(self._launched)
            if self._wish:
                reports = self._propose(mine)
            else:
                self._pack_rest()
                if not self._finite:
                    mine[:, _WEIGHT] = 0.0
                mine[:, _REDO] = said + self._news() if self._finite or not early else 1.0
                reports = self._send_rest(mine)
            if not bool((reports.redo > 0).any()):
                break
            self._take_up(reports.redo)
            self._launched.clear()
            self._weight = float(mine[:, _WEIGHT].sum())
        self._hand_out(float(reports.weight.sum()), more_buffers=reports.take(NEWLY_CHANGED))
        return reports

    def _news(self) -> float:
        """Say that buffers have changed that nobody knew to do so; from the next step on all are made the same."""
        if self._buffers is None or not self._weight or self._size == 1:
            return 0.0
        return NEWLY_CHANGED * bool(set(self._buffers.changed()).difference(self._buffers.active))

    def _propose(self, mine: np.ndarray) -> Reports:
        """Send no gradient, but the wish to send more of them; return what all devices wish."""
        void = mine.copy()
        void[:, _WEIGHT], void[:, _REDO] = 0.0, self._wish
        return self._send_rest(void)

    def _take_up(self, wishes: np.ndarray) -> None:
        """Take up the parameters that have begun to require gradients, where all devices wish that."""
        if not (wishes > 1).any():
            return
        if (wishes != wishes[0]).any():
            raise RunError(disagreement(wishes.tolist(), self._phase))
        self._plan()
        self._wish = 0.0

    def _new_plan(self) -> float:
        """Return 0, or a number from 2 on that stands for the parameters to take up: the same on devices that agree."""
        new = [i for i, p in enumerate(self._managed) if p.requires_grad and id(p) not in self._planned]
        if not new:
            return 0.0
        return float(2 + zlib.crc32(repr((len(self._managed), new)).encode()) % (2**24 - 2))

    def _plan(self) -> None:
        """Give a place in the message to what requires gradients, or ever did."""
        was = {id(p) for p in self.parameters}
        trained = [p for p in self._managed if p.requires_grad or id(p) in was]
        check_parameters(trained)
        self.parameters = trained
        self._planned = {id(p) for p in trained}
        self._lay_out()

    def _lay_out(self) -> None:
        size_of_reports, beside = self._size * self.fields, self._buffers.size if self._buffers is not None else 0
        # gradients become ready from the last layer to the first
        self._buckets = make_buckets(self.parameters[::-1], self._bucket_bytes, beside + size_of_reports)
        message = self._buckets[-1].message
        self._reports = message[-size_of_reports:].view(self._size, -1)
        self._beside = message[len(message) - size_of_reports - beside : -size_of_reports]

        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if self._bucket_bytes is not None:
            for bucket in self._buckets:
                for parameter in bucket.parameters:
                    self._hooks.append(on_gradient(parameter, self._listener(bucket)))

    def _listener(self, bucket: Bucket) -> Callable[[Tensor], None]:
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

    def _pack(self, bucket: Bucket) -> None:
        if self._buffers is not None and bucket is self._buckets[-1]:
            self._buffers.pack(self._beside, self._weight)
        if not bucket.pack(self._weight):
            self._finite = False
            bucket.clear()

    def _launch(self, bucket: Bucket) -> None:
        if self._folding is None:
            self._launched.append(self._reduce(bucket.message, self._phase))
            return
        values = sum(parameter.numel() for parameter in bucket.parameters)
        layout = Layout(values, len(bucket.message), self._size, self.fields)
        self._launched.append(self._folding.start(bucket.message, layout, self._phase))

    def _pack_rest(self) -> None:
        for bucket in self._buckets[len(self._launched) :]:
            self._pack(bucket)

    def _send_rest(self, mine: np.ndarray) -> Reports:
        rest = self._buckets[len(self._launched) :]
        if not mine[:, _WEIGHT].any():
            for bucket in rest:
                bucket.clear()
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

    def forget(self) -> None:
        """Let go what is kept back of gradients, on all devices alike: the model has gone back to an earlier state."""

    def notices(self) -> list[str]:
        """Return lines about the last steps for whoever looks at the run, each once."""
        return []

    def ratio_changes(self) -> list[tuple[float | None, str]]:
        """Return each change of the share of the gradient that is sent, None for all of it, and why; each once."""
        return []

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and numbers that a checkpoint must hold for the next step to be the same."""
        judged = {} if self._folding is None else self._folding.state()
        return {}, {"judged": judged} if judged else {}

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        if self._folding is not None and "judged" in state:
            self._folding.load(state["judged"])

    def go_on(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned of an exchange between fewer or more devices."""
        GradientExchange.load(self, tensors, state)

    def take_over(self, tensors: dict[str, Tensor]) -> None:
        """Begin anew with what an exchange that was set otherwise had kept, as far as it fits."""

    def _hand_out(self, total: float, *, more_buffers: bool) -> None:
        for bucket in self._buckets:
            if total > 0:
                bucket.hand_out(total, self._absent(bucket))
            else:
                bucket.forget()
        if self._buffers is None:
            return
        if total == 0:
            self._buffers.restore()
        elif self._size == 1:
            self._buffers.take_own()
        else:
            self._buffers.take_up(self._beside)
        if more_buffers:
            self._buffers.active = list(range(len(self._buffers)))
            self._lay_out()

    def _absent(self, bucket: Bucket) -> Collection[int]:
        """Return the places of the parameters for which no device had a gradient, told from the sum."""
        return bucket.absent()
