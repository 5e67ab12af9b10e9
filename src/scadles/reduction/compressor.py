"""One device's compression: what is sent now, what stays behind, and whether the next step is compressed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scadles.aggregation import Report, Reports
from scadles.compression import CostGate, Feedback, NormGate, Selector, Sparse, squared_norm
from scadles.reduction.contract import Reduction, SparseReducer
from scadles.reduction.costs import dense_volume

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

    Attributes:
        reducer: as given.
        step: steps begun so far.
        compressed: whether the present step is compressed.
    """

    def __init__(
        self, feedback: Feedback, selector: OncePerStep, reducer: SparseReducer, gates: Gates, size: int
    ) -> None:
        self.reducer = reducer
        self.step = 0
        self.compressed = False
        self._feedback = feedback
        self._selector = selector
        self._gates = gates
        self._compressed_steps = 0
        self._present = True
        self._last_bytes = 0
        self._last_compressed = False
        self._sparse_bytes = reducer.volume(SCALARS).bytes_sent
        self._dense_bytes = dense_volume(reducer.n + SCALARS * size, size).bytes_sent

    def begin(self, update: Tensor, report: np.ndarray, *, present: bool = True) -> Tensor:
        """Return the update with what was kept back, float32 ``[n]``; write the gate's statistics into the report.

        A device that is not present sends nothing, and keeps what it has.
        """
        self.step += 1
        self._present = present
        self.compressed = self._decide()
        whole = self._feedback.add(update) if present else torch.zeros_like(update)
        if self._gates.norm is not None:
            picked = self._selector.pick(whole, self.step)
            report[_NORM_SQ], report[_KEPT_SQ] = squared_norm(whole), squared_norm(picked.values)
        return whole

    def end(self, reports: Reports, reduction: Reduction | None) -> None:
        """Take note of what came of the step.

        Args:
            reports: of all devices.
            reduction: what came of the messages; None where all of the update was sent.
        """
        if float(reports.weight.sum()) > 0:  # otherwise nobody applies anything, and nothing counts as sent
            if reduction is not None:
                self._feedback.sent(*reduction.taken, reduction.left)
            elif self._present:
                self._feedback.sent_all()
        self._compressed_steps += self.compressed
        if self._gates.norm is not None:
            totals = (float(reports.norm_sq.sum()), float(reports.kept_sq.sum()))
            self._gates.norm.observe(*totals, compressed=self.compressed)
        if self._gates.cost is not None:
            # times are of the step before; who was ready last waited for nobody
            coding_s = float(reports.coding_s.max()) if self._last_compressed else None
            transfer_s = float(reports.transfer_s.min()) if self._last_bytes else None
            self._gates.cost.observe(coding_s=coding_s, transfer_s=transfer_s, transfer_bytes=self._last_bytes or None)
        self._last_bytes, self._last_compressed = self.bytes_sent, self.compressed

    @property
    def bytes_sent(self) -> int:
        """What the present step's messages put on this device's link."""
        return self._sparse_bytes if self.compressed else self._dense_bytes

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
        """The mean share of the squared norm that is sent; None without a gate by norm."""
        return self._gates.norm.kept_energy if self._gates.norm is not None else None

    @property
    def why(self) -> str:
        """What decided about the last step, in words."""
        if self._gates.cost is not None:
            return self._gates.cost.why
        if self._gates.norm is not None:
            return f"{self._gates.norm.left_out or 0.0:.3f} of the squared norm stays behind on average"
        return "every step is compressed"

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and numbers that a checkpoint must hold."""
        tensors = {f"feedback/{name}": tensor for name, tensor in self._feedback.state().items()}
        tensors |= {f"reducer/{name}": tensor for name, tensor in self.reducer.state().items()}
        gates = {name: gate.state() for name, gate in vars(self._gates).items() if gate is not None}
        last = {"last_bytes": self._last_bytes, "last_compressed": self._last_compressed}
        return tensors, {"step": self.step, "gates": gates, "compressed_steps": self._compressed_steps, **last}

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned.

        Raises:
            CheckpointError: it is of another model, or of a run without this compression.
        """
        self._feedback.load(_below("feedback/", tensors))
        self.reducer.load(_below("reducer/", tensors))
        for name, gate in vars(self._gates).items():
            if gate is not None:
                gate.load(state["gates"][name])
        self.step, self._compressed_steps = state["step"], state["compressed_steps"]
        self._last_bytes, self._last_compressed = state["last_bytes"], state["last_compressed"]

    def _decide(self) -> bool:
        norm, cost = self._gates.norm, self._gates.cost
        by_norm = norm is None or norm.decide()
        return by_norm and (cost is None or cost.decide(self._sparse_bytes, self._dense_bytes))


_NORM_SQ, _KEPT_SQ = Report._fields.index("norm_sq"), Report._fields.index("kept_sq")


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
