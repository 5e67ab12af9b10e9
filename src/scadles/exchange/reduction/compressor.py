"""One device's compression: what is sent now, what stays behind, and whether the next step is compressed."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scadles.errors import CheckpointError
from scadles.exchange.aggregation import Report, Reports
from scadles.exchange.compression import RATIOS, Feedback, Times, WindowChoice, energy, squared_norm
from scadles.exchange.reduction.contract import Reduction, SparseReducer
from scadles.exchange.reduction.gates import Gates, OncePerStep
from scadles.exchange.reduction.volumes import Volume, dense_volume, summed_volume
from scadles.seeding import numpy_generator

#: How many fields of a report travel with compressed messages, and where the ratio is chosen by what they say.
SCALARS, SCALARS_BY_RATIO = Report._fields.index("wait_s"), Report._fields.index("wait_s") + 1


class Compressor:
    """What a device carries from step to step for compression.

    Args:
        feedback: keeps what is not sent.
        selectors: pick what is sent: one, or one for each of :data:`.RATIOS` that compresses, where a gate chooses.
        reducer: adds up what all devices send; made with the first of them.
        gates: decide alike on all devices, from reports that all have.
        size: how many devices there are.
        reducer_why: why it is this reducer.

    Attributes:
        reducer, reducer_why: as given.
        scalars: how many fields of a report travel.
        step: steps begun so far.
        ratio: of the present step, where a gate chooses; None where all of the gradient is sent.
        ratios: how many steps each was chosen for.
        compressed: whether the present step is compressed.
        decisions: how many steps were decided about for which reason.
        why: what decided about the present step, with its numbers.
        revokes: whether a step that was begun can be taken back by :meth:`withdraw`, which costs a copy in each.
    """

    def __init__(
        self,
        feedback: Feedback,
        selectors: Sequence[OncePerStep],
        reducer: SparseReducer,
        gates: Gates,
        size: int,
        reducer_why: str = "as configured",
    ) -> None:
        self.reducer = reducer
        self.reducer_why = reducer_why
        self.scalars = SCALARS if gates.ratio is None else SCALARS_BY_RATIO
        self.step = 0
        self.ratio: float | None = None
        self.ratios: dict[str, int] = {}
        self.compressed = False
        self.decisions: dict[str, int] = {}
        self.why = "nothing decided yet"
        self._feedback = feedback
        self._selectors = selectors
        self._selector = selectors[0]
        self._gates = gates
        self._compressed_steps = 0
        self._kept_sum, self._measured = 0.0, 0
        self._present = True
        self._last_compressed: bool | None = None
        self.revokes = False
        self._before: tuple[dict[str, Tensor], int, dict[str, int], dict[str, int]] | None = None
        self._withdrawn: tuple[dict[str, Tensor], int, bool] | None = None
        self._begun: Tensor | None = None
        self._waiting: Tensor | None = None
        self._sizes: list[int] = []
        values = reducer.n + self.scalars * size
        at_hub = gates.ratio is not None and reducer.name == "hub"
        self.charge(self._volumes(), summed_volume(values) if at_hub else dense_volume(values, size))

    def charge(self, sparse: Sequence[Volume], dense: Volume) -> None:
        """Decide by what these messages put on the link, rather than by one's own: those of a simulated model.

        Args:
            sparse: of a compressed step, one for each selector.
            dense: of one that sends everything.
        """
        self._sizes = [dense.gloo_bytes, *(volume.gloo_bytes for volume in sparse)]

    def _volumes(self) -> list[Volume]:
        """Return what a step sends by each of the selectors."""
        volumes = []
        for selector in self._selectors[::-1]:  # the first one stays
            if self._gates.ratio is not None:
                self.reducer.select_by(selector)
            volumes.append(self.reducer.volume(self.scalars))
        return volumes[::-1]

    def begin(self, update: Tensor, report: np.ndarray, *, present: bool = True) -> Tensor:
        """Return the update with what was kept back, float32 ``[n]``; write the statistics into the report.

        A device that is not present sends nothing, and keeps what it has. Where the reducer sends anything but picked
        entries there are no statistics: what it keeps is known too late for this step's report.
        """
        whole, self._waiting = self._waiting, None
        if whole is None:
            self._withdrawn = None
            if self.revokes:
                self._before = (self._kept(), self.step, dict(self.decisions), dict(self.ratios))
            self.step += 1
            self._present = present
            self.compressed = self._decide()
            whole = self._feedback.add(update) if present else torch.zeros_like(update)
        self._begun = whole
        if present and self._gates.ratio is not None:
            generator = numpy_generator(0, "energy", self.step)
            report[_NORM_SQ], report[_KEPT_SQ] = energy(whole, self._gates.ratio.rated(self.step), generator)
        elif present and self.selects and self.reducer.picks:
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
            kept, self.step, self.decisions, self.ratios = self._before
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

    def forget(self) -> None:
        """Let go all that is kept back: it is of gradients on the way to a state that is no more."""
        self._feedback.load({name: torch.zeros_like(tensor) for name, tensor in self._feedback.state().items()})
        self.reducer.forget()

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
                self._feedback.sent(*reduction.taken)
            elif self._present and not set_aside:
                self._feedback.sent_all()
        self._compressed_steps += self.compressed
        norm_sq, kept_sq = float(reports.norm_sq.sum()), float(reports.kept_sq.sum())
        says = self.selects if self._gates.ratio is None else self.ratio == self._gates.ratio.rated(self.step)
        if says and 0 < norm_sq < math.inf:
            self._measured += 1
            self._kept_sum += kept_sq / norm_sq
        if self._gates.norm is not None:
            self._gates.norm.observe(norm_sq, kept_sq)
        # times are of the step before, which not all present have taken; who was ready last waited for nobody
        here = reports.of(range(len(reports)) if present is None else present)
        known = here.transfer_s[here.transfer_s > 0]
        transfer_s, coding_s = float((known if len(known) else here.transfer_s).min()), float(reports.coding_s.max())
        if self._gates.cost is not None and self._last_compressed is not None:
            self._gates.cost.observe(compressed=self._last_compressed, transfer_s=transfer_s, coding_s=coding_s)
        if self._gates.ratio is not None:
            speed, computed_s = self._gates.speed, here.ready_s - here.wait_s
            times = Times(speed * transfer_s, speed * coding_s, float(here.ready_s.max()), float(computed_s.max()))
            self._gates.ratio.observe(self.step, self._sizes, times, norm_sq, kept_sq)
        self._last_compressed = self.compressed

    @property
    def selects(self) -> bool:
        """Whether the present step needs a selection: to send it, or for the gate by norm to look at."""
        return self.compressed or self._gates.norm is not None

    @property
    def next_ratio(self) -> float | None:
        """The ratio of the next step, where a gate chooses; None where it sends everything."""
        return None if self._gates.ratio is None else self._gates.ratio.ratio

    @property
    def exchange_s(self) -> float | None:
        """What coding and messages take at the ratio that is chosen; None where none is, or nobody knows yet."""
        return None if self._gates.ratio is None else self._gates.ratio.exchange_s(self._sizes)

    def heed(self, windows: WindowChoice) -> None:
        """Let ratios be compared at the best window of each, where both are chosen."""
        if self._gates.ratio is not None:
            self._gates.ratio.windows = windows

    def ratio_changes(self) -> list[tuple[float | None, str]]:
        """Return another ratio and why it is taken, as often as that has happened since the last time."""
        if self._gates.ratio is None:
            return []
        said, self._gates.ratio.changes = self._gates.ratio.changes, []
        return said

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
        gates = {name: gate.state() for name, gate in self._gates.there.items()}
        numbers |= {"step": self.step, "decisions": self.decisions, "ratios": self.ratios}
        selector = self._selector.state() if self._gates.ratio is None else [one.state() for one in self._selectors]
        return tensors, {**numbers, "gates": gates, "selector": selector}

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
        selector = [state["selector"]] if self._gates.ratio is None else state["selector"]
        for mine, theirs in zip(self._selectors, selector, strict=True):
            mine.load(theirs)
        for name, gate in self._gates.there.items():
            gate.load(state["gates"][name])
        self.step, self.decisions, self.ratios = state["step"], dict(state["decisions"]), dict(state.get("ratios", {}))
        for name in _NUMBERS:
            setattr(self, f"_{name}", state[name])

    def select_like(self, other: Compressor) -> None:
        """Let the first selection begin where another device's has come, as that of a device that is new."""
        for mine, theirs in zip(self._selectors, other._selectors, strict=True):
            mine.load(theirs.state())

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
        if self._gates.ratio is not None:
            self.ratio = self._gates.ratio.ratio
            name = "none" if self.ratio is None else f"{self.ratio:g}"
            self.ratios[name] = self.ratios.get(name, 0) + 1
            if compress:
                self._selector = self._selectors[RATIOS.index(self.ratio) - 1]
                self.reducer.select_by(self._selector)
        return compress

    def _ask(self, gates: Gates) -> tuple[bool, str, str]:
        """Return whether to compress, for which reason, and that with its numbers."""
        norm, cost, ratio = gates.norm, gates.cost, gates.ratio
        if ratio is not None:
            return ratio.ratio is not None, ratio.reason, ratio.why
        answer = True, "always", "every step is compressed"
        if norm is not None:
            answer = norm.decide(), norm.reason, norm.why
        if cost is not None and answer[0]:
            dense, sparse = self._sizes
            answer = cost.decide(sparse, dense), cost.reason, cost.why
        return answer


_NUMBERS = ("compressed_steps", "kept_sum", "measured", "last_compressed")
_NORM_SQ, _KEPT_SQ = Report._fields.index("norm_sq"), Report._fields.index("kept_sq")


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
