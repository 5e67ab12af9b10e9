"""From settings to the exchange of gradients, with compression or without."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn import Parameter

from scadles.clock import wall_seconds
from scadles.config import RunConfig
from scadles.exchange.aggregation import GradientExchange
from scadles.exchange.compression import (
    CostGate,
    ErrorFeedback,
    ExactTopK,
    Feedback,
    MomentumCorrection,
    NormGate,
    PerSlice,
    RandomK,
    SampledTopK,
    Selector,
)
from scadles.exchange.reduction import (
    SCALARS,
    All,
    ClusterExchange,
    Collectives,
    CompressedExchange,
    Compressor,
    Folding,
    Gates,
    GatherReducer,
    HubReducer,
    OncePerStep,
    PowerSgdReducer,
    QuantizedDenseReducer,
    SplitReducer,
    TimedLink,
    VectorOwner,
    choose_reducer,
)
from scadles.fabric import ElasticFabric, Fabric, LocalFabric
from scadles.fabric.local import LocalHubFabric

_FLOAT32 = 4
_REDUCERS: dict[str, type[GatherReducer | SplitReducer | QuantizedDenseReducer]] = {
    "gather": GatherReducer,
    "hub": HubReducer,
    "split": SplitReducer,
    "whole": QuantizedDenseReducer,
}


def build_exchange(config: RunConfig, parameters: Sequence[Parameter], fabric: Fabric) -> GradientExchange:
    """Return the exchange of one device at its end of a fabric."""
    keeps = isinstance(fabric, ElasticFabric)
    if config.compression.ratio is not None and fabric.size > 1:
        link = TimedLink(fabric, wall_seconds)
        return CompressedExchange(parameters, link, build_compressor(config, parameters, link), keeps=keeps)
    on_cuda = parameters[0].is_cuda
    overlap = config.fabric.overlap == "on" or (config.fabric.overlap == "auto" and on_cuda)
    bucket_bytes = int(config.fabric.bucket_mb * 2**20) if overlap and not keeps else None
    return GradientExchange(parameters, fabric.reduce, fabric.rank, fabric.size, bucket_bytes, keeps=keeps)


def build_cluster_exchange(config: RunConfig, parameters: Sequence[Parameter], fabric: Fabric) -> GradientExchange:
    """Return the exchange of all devices of a cluster that share this process, and one end of a fabric."""
    if config.compression.ratio is not None and config.devices > 1:
        # reducers that work together send nothing, and ask a fabric only for rank and size
        through_hub, fold = config.fabric.backend == "hub", VectorOwner().fold
        ends: Sequence[LocalFabric] = LocalFabric.create(config.devices)
        if through_hub:
            ends = LocalHubFabric.around(fold, config.devices)
        charged = config.cost.message_bytes
        n = None if charged is None else charged // _FLOAT32
        compressors = [build_compressor(config, parameters, end, n) for end in ends]
        folds = compressors[0].reducer.name == HubReducer.name
        return ClusterExchange(parameters, compressors, through_hub=through_hub, fold=fold if folds else None)
    return GradientExchange(parameters, fabric.reduce, fabric.rank, config.devices)


def build_compressor(
    config: RunConfig, model: nn.Module | Sequence[Parameter], fabric: Collectives, charged: int | None = None
) -> Compressor:
    """Return what one device carries from step to step for compression.

    Args:
        config: the run.
        model: what is trained, or its parameters.
        fabric: connects the devices.
        charged: how many values a gradient has for whose messages the way is chosen; None: as many as the model's.
    """
    settings = config.compression
    # gradients travel from the last layer to the first
    parameters = model.parameters() if isinstance(model, nn.Module) else model
    trained = [p for p in parameters if p.requires_grad][::-1]
    sizes, device = [p.numel() for p in trained], trained[0].device
    n = sum(sizes)
    selector = OncePerStep(_selector(config, sizes, fabric.rank))
    feedback: Feedback = ErrorFeedback(n, device)
    if settings.momentum is not None:
        feedback = MomentumCorrection(feedback, n, settings.momentum, device)
    gates = Gates(
        NormGate(settings.delta, settings.smoothing) if settings.gate in ("norm", "both") else None,
        CostGate() if settings.gate in ("cost", "both") else None,
    )
    if settings.method == "powersgd":
        shapes = [tuple(p.shape) for p in trained]
        factors = PowerSgdReducer(fabric, shapes, settings.ratio or 1.0, settings.values, config.seed)
        why = f"rank {factors.plan.rank}: {factors.k} floats for {n}"
        return Compressor(feedback, selector, factors, gates, fabric.size, why)
    name, why = _way(config, n, selector.k, fabric, charged)
    reducer = _REDUCERS[name](fabric, selector, n, settings.values)
    return Compressor(feedback, selector, reducer, gates, fabric.size, why)


def _way(config: RunConfig, n: int, k: int, fabric: Collectives, charged: int | None) -> tuple[str, str]:
    """Return the way to add up ``k`` of ``n`` entries of each device, and why it is this one."""
    settings = config.compression
    if settings.method == "whole":
        return "whole", "all entries are sent"
    if config.fabric.backend == "hub":
        if settings.reduction == "gather":
            return "gather", "as configured"
        if not isinstance(fabric, Folding):
            return "gather", "any device may be lost, and none must be missed for its slice"
        return "hub", "the hub adds up, and what it sends does not grow with the number of devices"
    if settings.reduction != "auto":
        return settings.reduction, "as configured"
    if charged is not None:
        n, k = charged, charged_entries(config, charged)
    link = config.cost.link
    return choose_reducer(n, k, fabric.size, settings.values, SCALARS, link.slowest_bps, link.longest_s)


def charged_entries(config: RunConfig, n: int) -> int:
    """Return how many of ``n`` values a device sends in a compressed step, where nobody knows their layers."""
    slices = bucket_sizes(config, n) if config.compression.scope == "bucket" else [n]
    return sum(config.compression.entries(size) for size in slices)


def bucket_sizes(config: RunConfig, n: int) -> list[int]:
    """Return the sizes of consecutive slices of ``n`` float32, of ``fabric.bucket_mb`` each but for the last."""
    size = max(1, int(config.fabric.bucket_mb * 2**20) // 4)
    return [min(size, n - start) for start in range(0, n, size)]


def _selector(config: RunConfig, sizes: list[int], rank: int) -> Selector:
    if config.compression.scope == "gradient":
        return _one_selector(config, sum(sizes), rank)
    slices = sizes if config.compression.scope == "layer" else bucket_sizes(config, sum(sizes))
    return PerSlice(slices, [_one_selector(config, size, rank) for size in slices])


def _one_selector(config: RunConfig, n: int, rank: int) -> Selector:
    settings = config.compression
    k = settings.entries(n)
    if settings.method in ("whole", "powersgd"):
        return All(n)
    if settings.method == "randomk":
        return RandomK(k, config.seed, rank)
    return ExactTopK(k) if settings.selection == "exact" else SampledTopK(k, config.seed, rank)
