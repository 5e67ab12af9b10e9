"""What the messages of a step cost: dense or compressed, of the model that is trained or of the one that is charged."""

from __future__ import annotations

import numpy as np

from scadles.assembly.exchange import charged_entries, report_fields, sparse_ratios
from scadles.config import RunConfig
from scadles.device.measuring import message_bytes
from scadles.exchange.aggregation import GradientExchange
from scadles.exchange.reduction import (
    ClusterExchange,
    HubReducer,
    JudgedClusterExchange,
    PowerSgdReducer,
    SparseReducer,
    Volume,
    answer_bytes,
    dense_volume,
    gather_volume,
    hub_volume,
    packed_bytes,
    powersgd_volume,
    quantized_dense_volume,
    reply_bytes,
    split_volume,
    summed_volume,
    whole_volume,
)
from scadles.simulation.costs import Costs, ExchangeCost

_FLOAT32 = 4


class Charge:
    """The costs of a run, and the message that they are charged for.

    Args:
        config: the run.
        costs: of its devices and links.
        exchange: of its gradients.

    Attributes:
        costs: as given.
        message_bytes: the size of a dense gradient message that is charged.
        collectives: that have been charged so far.
    """

    def __init__(self, config: RunConfig, costs: Costs, exchange: GradientExchange) -> None:
        self.costs = costs
        self.message_bytes = costs.charged_bytes(exchange.message_bytes)
        self._exchange = exchange
        self._config = config
        # as many values as the charged message has
        self._n = self.message_bytes // _FLOAT32 if config.cost.message_bytes is not None else _values(exchange)
        self.collectives = 0
        self._is_hub = config.fabric.backend == "hub"
        self._folds = bool(config.aggregation.folds) and config.devices > 1
        if isinstance(exchange, ClusterExchange):
            dense = dense_volume(self.message_bytes // _FLOAT32, config.devices)
            if self._folds:
                dense = whole_volume(self.message_bytes, config.devices)
            if self._is_hub and config.compression.ratio == "auto":
                dense = summed_volume(self.message_bytes // _FLOAT32)
            reducer = exchange.compressor.reducer
            sparse = [self._volume(reducer, config.devices, ratio) for ratio in sparse_ratios(config)]
            for compressor in exchange.compressors:
                compressor.charge(sparse, dense)

    @property
    def ways(self) -> str:
        """The collectives that are charged, in words."""
        exchange = self._exchange
        collective = "gather" if self._folds and not self._is_hub else self.costs.collective
        sparse = f" and {exchange.compressor.reducer.name}" if isinstance(exchange, ClusterExchange) else ""
        return collective + sparse

    def announce(self, present: np.ndarray) -> None:
        """Say which devices take part in the exchange that comes next, bool ``[N]``."""
        if isinstance(self._exchange, ClusterExchange | JudgedClusterExchange):
            self._exchange.present = present

    def exchange(self, present: np.ndarray, step: int, now_s: float) -> ExchangeCost:
        """Return time and bytes of the exchange that these devices have done, bool ``[N]``."""
        members, exchange = np.flatnonzero(present), self._exchange
        self.collectives += 1
        if not isinstance(exchange, ClusterExchange):
            return self._dense(members, step, now_s)
        if exchange.compressor.compressed:
            reducer, ratio = exchange.compressor.reducer, exchange.compressor.ratio
            volume = self._volume(reducer, len(members), ratio)
            if self._is_hub:
                reply_bytes = self._reply(reducer, ratio)
                cost = self.costs.through_hub(members, volume.message_bytes, reply_bytes, step, now_s)
            else:
                cost = self.costs.sparse(members, volume, step, now_s)
            self.collectives += volume.first_message_bytes > 0  # a swap before the gathering
        else:
            cost = self._dense(members, step, now_s)
        selects = exchange.compressor.selects
        exchange.coding_s = self.costs.coding_s(members, step, now_s) if selects else 0.0
        exchange.transfer_s = cost.seconds
        return cost._replace(seconds=cost.seconds + exchange.coding_s)

    def measurement(self, present: np.ndarray, step: int, now_s: float) -> ExchangeCost:
        """Return time and bytes of the message by which these devices measure a step together, bool ``[N]``."""
        members, nbytes = np.flatnonzero(present), message_bytes(len(present))
        self.collectives += 1
        summed = self.costs.summed_by_hub if self._is_hub else self.costs.dense
        return summed(members, nbytes, step, now_s)

    def sending_s(self, present: np.ndarray, step: int, now_s: float) -> float:
        """Return for how long these devices code and send to the hub in the exchange that comes next, bool ``[N]``."""
        nbytes = packed_bytes(self.message_bytes) if self._folds else self.message_bytes
        members, coding_s = np.flatnonzero(present), 0.0
        if isinstance(exchange := self._exchange, ClusterExchange) and exchange.compressor.will_compress():
            compressor = exchange.compressor
            nbytes = self._volume(compressor.reducer, len(members), compressor.next_ratio).message_bytes
            coding_s = self.costs.coding_s(members, step, now_s)
        return coding_s + self.costs.sending_s(members, nbytes, step, now_s)

    def _dense(self, members: np.ndarray, step: int, now_s: float) -> ExchangeCost:
        if self._folds and self._is_hub:
            up, down = packed_bytes(self.message_bytes), answer_bytes(self.message_bytes, self._config.devices)
            return self.costs.through_hub(members, up, down, step, now_s)
        if self._folds:
            return self.costs.sparse(members, whole_volume(self.message_bytes, len(members)), step, now_s)
        if self._is_hub:  # one device alone sends its message there, too
            return self.costs.summed_by_hub(members, self.message_bytes, step, now_s)
        return self.costs.dense(members, self.message_bytes, step, now_s)

    def fetch_s(self, device: int, step: int, now_s: float, *, source: int | None = None, beside: float = 0.0) -> float:
        """Return how long a device that comes back loads the model.

        Args:
            device: which one.
            step: that goes on meanwhile.
            now_s: stream time.
            source: the device that gives it; None where it comes from a server.
            beside: how much is loaded with the model, as a multiple of it.
        """
        return self.costs.fetch_s(device, round((1 + beside) * self.message_bytes), step, now_s, source)

    def _volume(self, reducer: SparseReducer, members: int, ratio: float | None) -> Volume:
        """Return what a device sends in a compressed step of the charged model; None: by the ratio in the settings."""
        values, scalars = self._config.compression.values, report_fields(self._config)
        if reducer.name == "whole":
            return quantized_dense_volume(self._n, members, values, scalars)
        if isinstance(reducer, PowerSgdReducer):
            # nobody knows the layers of a model that is only charged: its factors are as large a share as the trained's
            scale, plan = self._n / reducer.n, reducer.plan
            to_owner, to_all = (round(scale * floats) for floats in (plan.left_factor_floats, plan.message_floats))
            return powersgd_volume(to_owner, to_all, members, values, scalars)
        if reducer.name == HubReducer.name:
            return hub_volume(self._n, self._k(reducer, ratio), values, scalars)
        way = gather_volume if reducer.name == "gather" else split_volume
        return way(self._n, self._k(reducer, ratio), members, values, scalars)

    def _reply(self, reducer: SparseReducer, ratio: float | None) -> int:
        """Return the bytes that a hub answers each device with in a compressed step."""
        config = self._config
        if reducer.name == HubReducer.name:
            judged = config.aggregation.outliers != "accept"
            sizes = (self._n, self._k(reducer, ratio), config.devices, config.compression.values, report_fields(config))
            return reply_bytes(*sizes, judged=judged)
        return config.devices * self._volume(reducer, config.devices, ratio).message_bytes

    def _k(self, reducer: SparseReducer, ratio: float | None) -> int:
        if ratio is None:
            [ratio] = sparse_ratios(self._config)
            if self._n == reducer.n:
                return reducer.k
        return charged_entries(self._config, self._n, ratio)


def _values(exchange: GradientExchange) -> int:
    return sum(parameter.numel() for parameter in exchange.parameters)
