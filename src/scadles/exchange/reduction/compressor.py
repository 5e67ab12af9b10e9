"""One device's compression: what is sent now, what stays behind, and whether the next step is compressed."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scadles.errors import CheckpointError
from scadles.exchange.aggregation import Report, Reports
from scadles.exchange.compression import CostGate, Feedback, NormGate, Selector, Sparse, squared_norm
from scadles.exchange.reduction.contract import Reduction, SparseReducer
from scadles.exchange.reduction.volumes import Volume, dense_volume

SCALARS = len(Report._fields)


class OncePerStep(Selector):
    """A selector that is asked twice a step, for the gate and for the message, and works once."""

    def __init__(self, inner: Selector) -> None:
        self.k = inner.k
        self._inner = inner
        self._step: int | None = None
        self._picked: Sparse | None = None

    def select(self, values: Tensor, step: int | None = None) -> Tensor:
        return self.pick(values, step).indices

    def pick(self, values: Tensor, step: int | None = None) -> Sparse:
        if self._picked is None or step is None or step != self._step:
            self._step, self._picked = step, self._inner.pick(values, step)
        return self._picked

    def state(self) -> list[Any]:
        return self._inner.state()

    def load(self, state: list[Any]) -> None:
        self._inner.load(state)


@dataclass(frozen=True)
class Gates:
    """What must agree before a step is compressed; where there is nothing, every step is.

    Attributes:
        norm: by the energy that stays behind.
        cost: by time.
    """

    norm: NormGate | None = None
    cost: CostGate | None = None


class Compressor:
    """What a device carries from step to step for compression.

    Args:
        feedback: keeps what is not sent.
        selector: picks what is sent.
        reducer: adds up what all devices send; made with the same selector.
        gates: decide alike on all devices, from reports that all have.
        size: how many devices there are.
        reducer_why: why it is this reducer.

    Attributes:
        reducer, reducer_why: as given.
        step: steps begun so far.
        compressed: whether the present step is compressed.
        decisions: how many steps were decided about for which reason.
        why: what decided about the present step, with its numbers.
        revokes: whether a step that was begun can be taken back by :meth:`withdraw`, which costs a copy in each.
    """

    def __init__(
        self,
        feedback: Feedback,
        selector: OncePerStep,
        reducer: SparseReducer,
        gates: Gates,
        size: int,
        reducer_why: str = "as configured",
    ) -> None:
        self.reducer = reducer
        self.reducer_why = reducer_why
        self.step = 0
        self.compressed = False
        self.decisions: dict[str, int] = {}
        self.why = "nothing decided yet"
        self._feedback = feedback
        self._selector = selector
        self._gates = gates
        self._compressed_steps = 0
        self._kept_sum, self._measured = 0.0, 0
        self._present = True
        self._last_compressed: bool | None = None
        self.revokes = False
        self._before: tuple[dict[str, Tensor], int, dict[str, int]] | None = None
        self._withdrawn: tuple[dict[str, Tensor], int, bool] | None = None
        self._begun: Tensor | None = None
        self._waiting: Tensor | None = None
        self._sparse_bytes = reducer.volume(SCALARS).gloo_bytes
        self._dense_bytes = dense_volume(reducer.n + SCALARS * size, size).gloo_bytes

    def charge(self, sparse: Volume, dense: Volume) -> None:
        """Decide by what these messages put on the link, rather than by one's own: those of a simulated model."""
        self._sparse_bytes, self._dense_bytes = sparse.gloo_bytes, dense.gloo_bytes

    def begin(self, update: Tensor, report: np.ndarray, *, present: bool = True) -> Tensor:
        """Return the update with what was kept back, float32 ``[n]``; write the statistics into the report.

        A device that is not present sends nothing, and keeps what it has. Where the reducer sends anything but picked
        entries there are no statistics: what it keeps is known too late for this step's report.
        """
        whole, self._waiting = self._waiting, None
        if whole is None:
            self._withdrawn = None
            if self.revokes:
                self._before = (self._kept(), self.step, dict(self.decisions))
            self.step += 1
            self._present = present
            self.compressed = self._decide()
            whole = self._feedback.add(update) if present else torch.zeros_like(update)
        self._begun = whole
        if present and self.selects and self.reducer.picks:
            picked = self._selector.pick(whole, self.step)
            report[_NORM_SQ], report[_KEPT_SQ] = squared_norm(whole), squared_norm(picked.values)
        return whole

    def again(self) -> None:
        """Let :meth:`begin` begin the same step once more, with what it had: nothing came of the messages."""
        self._waiting = self._begun

    def withdraw(self) -> None:
        """Take back a step that was begun and has not ended: it will be another one, with another update."""
        if self._before is not None:
            self._withdrawn = (self._kept(), self.step, self.compressed)
            kept, self.step, self.decisions = self._before
            self._feedback.load(kept)
        self._before = self._begun = self._waiting = None

    def counted(self) -> None:
        """Keep back only what the step that was withdrawn last did not send: the others have taken it all the same.

        That any device had a gradient in it is taken for granted.
        """
        if self._withdrawn is None:
            return
        (kept, step, compressed), self._withdrawn = self._withdrawn, None
        self._feedback.load(kept)
        if compressed:
            sent = self.reducer.outgoing
            on = next(iter(kept.values())).device
            self._feedback.sent(sent.indices.to(on), sent.values.to(on))
            self.reducer.confirm(step)
        elif self._present:
            self._feedback.sent_all()

    def end(
        self,
        reports: Reports,
        reduction: Reduction | None,
        present: Sequence[int] | None = None,
        *,
        set_aside: bool = False,
    ) -> None:
        """Take note of what came of the step.

        Args:
            reports: of all devices; zeros of those that are absent.
            reduction: what came of the messages; None where all of the update was sent.
            present: who took part, ascending; None where all did.
            set_aside: whether this device's part was left out: then it keeps what it had kept before the step, and
                nothing of the update, whose samples are not trained on.
        """
        before, self._before = self._before, None
        if set_aside and before is not None:
            self._feedback.load(before[0])
        if float(reports.weight.sum()) > 0:  # otherwise nobody applies anything, and nothing counts as sent
            if reduction is not None:
                self.reducer.confirm(self.step)
            if reduction is not None and not set_aside:
                self._feedback.sent(*reduction.taken, reduction.left)
            elif self._present and not set_aside:
                self._feedback.sent_all()
        self._compressed_steps += self.compressed
        norm_sq, kept_sq = float(reports.norm_sq.sum()), float(reports.kept_sq.sum())
        if self.selects and 0 < norm_sq < math.inf:
            self._measured += 1
            self._kept_sum += kept_sq / norm_sq
        if self._gates.norm is not None:
            self._gates.norm.observe(norm_sq, kept_sq)
        if self._gates.cost is not None and self._last_compressed is not None:
            # times are of the step before, which not all present have taken; who was ready last waited for nobody
            here = reports.of(range(len(reports)) if present is None else present).transfer_s
            known = here[here > 0]
            self._gates.cost.observe(
                compressed=self._last_compressed,
                transfer_s=float((known if len(known) else here).min()),
                coding_s=float(reports.coding_s.max()),
            )
        self._last_compressed = self.compressed

    @property
    def selects(self) -> bool:
        """Whether the present step needs a selection: to send it, or for the gate by norm to look at."""
        return self.compressed or self._gates.norm is not None

    @property
    def cnc(self) -> float:
        """Compressed steps over all steps (paper, section IV)."""
        return self._compressed_steps / self.step if self.step else 0.0

    @property
    def kept_energy(self) -> float | None:
        """The mean share of the squared norm that is picked, over the steps in which something was; None before, and
        where the reducer does not pick.
        """
        return self._kept_sum / self._measured if self._measured else None

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and numbers that a checkpoint must hold."""
        tensors = {f"feedback/{name}": tensor for name, tensor in self._feedback.state().items()}
        tensors |= {f"reducer/{name}": tensor for name, tensor in self.reducer.state().items()}
        numbers = {name: getattr(self, f"_{name}") for name in _NUMBERS}
        gates = {name: gate.state() for name, gate in vars(self._gates).items() if gate is not None}
        numbers |= {"step": self.step, "decisions": self.decisions}
        return tensors, {**numbers, "gates": gates, "selector": self._selector.state()}

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned.

        Raises:
            CheckpointError: it is of another model, or of a run without this compression.
        """
        self._feedback.load(_below("feedback/", tensors))
        self.reducer.load(_below("reducer/", tensors))
        self._load_decisions(state)

    def go_on(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on with fewer or more devices: with what this one has kept back, if it has, and the common decisions.

        What the reducer carries from step to step begins anew. ``state`` is empty where nothing was compressed before,
        because there was one device.
        """
        self.take_over(tensors)
        if state:
            self._load_decisions(state)

    def _load_decisions(self, state: dict[str, Any]) -> None:
        self._selector.load(state["selector"])
        for name, gate in vars(self._gates).items():
            if gate is not None:
                gate.load(state["gates"][name])
        self.step, self.decisions = state["step"], dict(state["decisions"])
        for name in _NUMBERS:
            setattr(self, f"_{name}", state[name])

    def select_like(self, other: Compressor) -> None:
        """Let the first selection begin where another device's has come, as that of a device that is new."""
        self._selector.load(other._selector.state())

    def take_over(self, tensors: dict[str, Tensor]) -> None:
        """Begin anew with what a compressor that was set otherwise had kept back, where that fits."""
        with suppress(CheckpointError):
            self._feedback.load(_below("feedback/", tensors))

    def will_compress(self) -> bool:
        """Return whether the next step is going to be compressed; nothing changes."""
        return self._ask(copy.deepcopy(self._gates))[0]

    def _kept(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self._feedback.state().items()}

    def _decide(self) -> bool:
        compress, reason, self.why = self._ask(self._gates)
        self.decisions[reason] = self.decisions.get(reason, 0) + 1
        return compress

    def _ask(self, gates: Gates) -> tuple[bool, str, str]:
        """Return whether to compress, for which reason, and that with its numbers."""
        norm, cost = gates.norm, gates.cost
        answer = True, "always", "every step is compressed"
        if norm is not None:
            answer = norm.decide(), norm.reason, norm.why
        if cost is not None and answer[0]:
            answer = cost.decide(self._sparse_bytes, self._dense_bytes), cost.reason, cost.why
        return answer


_NUMBERS = ("compressed_steps", "kept_sum", "measured", "last_compressed")
_NORM_SQ, _KEPT_SQ = Report._fields.index("norm_sq"), Report._fields.index("kept_sq")


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
