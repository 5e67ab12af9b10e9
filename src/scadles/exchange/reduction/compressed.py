"""The exchange of gradients with compression: one collective a step, or two, with everything in them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scadles.errors import ConfigError, RunError
from scadles.exchange.aggregation import GradientExchange, Report, Reports
from scadles.exchange.aggregation.bucket import Bucket
from scadles.exchange.aggregation.folding import StepFold
from scadles.exchange.aggregation.reports import NEWLY_USED
from scadles.exchange.reduction.compressor import Compressor
from scadles.exchange.reduction.through_hub import HubReducer
from scadles.exchange.reduction.timed import TimedLink
from scadles.exchange.reduction.used import Used

_REDO, _WEIGHT = Report._fields.index("redo"), Report._fields.index("weight")
_CODING_S, _TRANSFER_S = Report._fields.index("coding_s"), Report._fields.index("transfer_s")


class CompressedExchange(GradientExchange):
    """The weighted mean of all devices' gradients, of which each step sends what its compressor picks.

    Args:
        parameters: those that require gradients, float32.
        link: connects the devices, and tells waiting for them from coding, for the gate that decides by cost.
        compressor: what this device carries from step to step; its reducer must use the same link.
        keeps: whether :meth:`again` can send once more.
        folding: takes the place of a sum in steps that send everything, where gradients are judged; its reducer judges
            as well then.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        link: TimedLink,
        compressor: Compressor,
        *,
        keeps: bool = False,
        folding: StepFold | None = None,
    ) -> None:
        self.fields = compressor.scalars
        super().__init__(parameters, link.reduce_step, link.rank, link.size, keeps=keeps, folding=folding)
        check_compressible(self.parameters)
        self.compressor = compressor
        compressor.revokes = keeps or folding is not None
        self._link = link
        self._used = Used(len(self.parameters))
        self._coding_s = self._transfer_s = 0.0
        self._found: Mapping[int, float] = {}

    @property
    def found(self) -> Mapping[int, float]:
        return self._found

    def _exchange(self, mine: np.ndarray) -> Reports:
        report, update = mine[0], self._buckets[0].message[: self.compressor.reducer.n]
        began_s, waited_s = self._link.seconds(), self._link.transfer_s
        # decoding ends after the messages: both times are of the step before
        report[_CODING_S], report[_TRANSFER_S] = self._coding_s, self._transfer_s
        report[_REDO] += NEWLY_USED * self._used.look(self._buckets[0], report[_WEIGHT])
        takes_part, reducer = self._link.rank in self._link.present, self.compressor.reducer
        whole = self.compressor.begin(update, report, present=takes_part)
        reduction = None
        if self.compressor.compressed:
            about = (self.compressor.step, self._phase)
            if takes_part:
                reduction = reducer.reduce(whole, report[: self.fields].tolist(), *about)
            came = reduction or reducer.follow(self.fields, *about)
            update.copy_(came.total)
            reports, self._found = Reports(came.scalars), came.found
            self._link.reduce(self._beside, self._phase).wait() if len(self._beside) else None
        else:
            update.copy_(whole)
            reports = super()._exchange(mine)
            self._found = super().found
        sent_s = self._link.transfer_s
        reports = self._hear_of_use(reports)  # what may fail comes before anything counts as sent
        heard_s = self._link.transfer_s - sent_s
        set_aside = report[_WEIGHT] > 0 and not reports.weight[self._link.rank]
        self.compressor.end(reports, reduction, self._link.present, set_aside=bool(set_aside))
        self._transfer_s = sent_s - waited_s
        self._coding_s = self._link.seconds() - began_s - self._transfer_s - heard_s
        return reports

    def again(self) -> None:
        super().again()
        self.compressor.again()

    def withdraw(self) -> None:
        super().withdraw()
        self.compressor.withdraw()

    def forget(self) -> None:
        self.compressor.forget()

    def counted(self) -> None:
        self.compressor.counted()

    def _hear_of_use(self, reports: Reports) -> Reports:
        """Hear of parameters that are used for the first time, where any device says that there are some."""
        if reports.take(NEWLY_USED):
            presence = self._used.presence().to(self._buckets[0].message.device)
            self._link.reduce(presence, self._phase).wait()
            self._used.take_up(presence)
        return reports

    def notices(self) -> list[str]:
        reducer = self.compressor.reducer
        if not isinstance(reducer, HubReducer):
            return []
        said, reducer.notices = reducer.notices, []
        return said

    def ratio_changes(self) -> list[tuple[float | None, str]]:
        return self.compressor.ratio_changes()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, numbers = self.compressor.state()
        times = {"coding_s": self._coding_s, "transfer_s": self._transfer_s}
        return tensors, {**numbers, **times, **self._used.state(), **super().state()[1]}

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.compressor.load(tensors, state)
        self._coding_s, self._transfer_s = state["coding_s"], state["transfer_s"]
        self._used.load(state)
        super().load(tensors, state)

    def go_on(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.compressor.go_on(tensors, state)
        if state:
            self._used.load(state)
        super().go_on(tensors, state)

    def take_over(self, tensors: dict[str, Tensor]) -> None:
        self.compressor.take_over(tensors)

    def _absent(self, bucket: Bucket) -> Collection[int]:
        return self._used.unused

    def _plan(self) -> None:
        if self.parameters:
            raise RunError(
                f"{self._phase}: parameters have begun to require gradients, and compression.ratio is set, which keeps "
                "back parts of the gradient of a fixed set: let them require gradients from the start, or set "
                "compression.ratio to null"
            )
        super()._plan()


def check_compressible(parameters: list[torch.nn.Parameter]) -> None:
    """Refuse parameters that are not float32."""
    if parameters[0].dtype != torch.float32:
        raise ConfigError(
            f"the model's parameters are {parameters[0].dtype}: compression is for float32; set compression.ratio to "
            "null"
        )
