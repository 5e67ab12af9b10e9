"""Sparse updates of all devices become one sum, by whichever way sends least."""

from scadles.exchange.reduction.compressor import SCALARS, Compressor, Gates, OncePerStep
from scadles.exchange.reduction.contract import Collectives, Reduction, SparseReducer, Sums, reduce_together
from scadles.exchange.reduction.costs import Choice, Volume, choose_reducer, dense_volume, gather_volume, split_volume
from scadles.exchange.reduction.exchange import CompressedExchange
from scadles.exchange.reduction.fleet import FleetExchange
from scadles.exchange.reduction.gather import GatherReducer
from scadles.exchange.reduction.powersgd import PowerSgdReducer, powersgd_volume
from scadles.exchange.reduction.split import SplitReducer
from scadles.exchange.reduction.timed import TimedLink
from scadles.exchange.reduction.whole import All, WholeReducer, whole_volume

__all__ = [
    "SCALARS",
    "All",
    "Choice",
    "Collectives",
    "CompressedExchange",
    "Compressor",
    "FleetExchange",
    "Gates",
    "GatherReducer",
    "OncePerStep",
    "PowerSgdReducer",
    "Reduction",
    "SparseReducer",
    "SplitReducer",
    "Sums",
    "TimedLink",
    "Volume",
    "WholeReducer",
    "choose_reducer",
    "dense_volume",
    "gather_volume",
    "powersgd_volume",
    "reduce_together",
    "split_volume",
    "whole_volume",
]
