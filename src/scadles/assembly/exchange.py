"""From settings to the exchange of gradients, with compression or without."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn
from torch.nn import Parameter

from scadles.assembly.injection import injects
from scadles.clock import wall_seconds
from scadles.config import RunConfig
from scadles.exchange.aggregation import GradientExchange
from scadles.exchange.aggregation.bucket import check_parameters
from scadles.exchange.aggregation.folding import StepFold
from scadles.exchange.aggregation.outliers import Judge
from scadles.exchange.aggregation.report_check import ReportCheck, TailCheck
from scadles.exchange.compression import (
    RATIOS,
    CostGate,
    ErrorFeedback,
    ExactTopK,
    Feedback,
    MomentumCorrection,
    NormGate,
    PerSlice,
    RandomK,
    RatioGate,
    SampledTopK,
    Selector,
)
from scadles.exchange.reduction import (
    SCALARS,
    SCALARS_BY_RATIO,
    All,
    ClusterExchange,
    Collectives,
    CompressedExchange,
    Compressor,
    DenseFold,
    Folding,
    Gates,
    GatheredFold,
    GatherReducer,
    HubFold,
    HubReducer,
    JudgedClusterExchange,
    OncePerStep,
    PowerSgdReducer,
    QuantizedDenseReducer,
    SparseReducer,
    SplitReducer,
    TimedLink,
    VectorOwner,
    choose_reducer,
)
from scadles.fabric import ElasticFabric, Fabric, LocalFabric
from scadles.fabric.local import LocalHubFabric

_FLOAT32 = 4
# steps by which learning is late for each that an entry waits, fitted to runs (docs/log.md, 2026-11-27): where everyone
# gets all entries, and for each device where an owner sums and sends on as many as one device picks
_LAG, _LAG_OF_SUMS = 2.7, 2.0
# Of these tasks a sample weighs as much as it has tokens or pixels.
_COUNT_PLACES = ("language", "segmentation")
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
        compressor = build_compressor(config, parameters, link, speed=config.clock.speed)
        judge = build_judge(config)
        _let_judge(compressor.reducer, judge)
        folding = build_step_fold(config, link, judge)
        return CompressedExchange(parameters, link, compressor, keeps=keeps, folding=folding)
    on_cuda = parameters[0].is_cuda
    overlap = config.fabric.overlap == "on" or (config.fabric.overlap == "auto" and on_cuda)
    folding = build_step_fold(config, fabric, build_judge(config))
    bucket_bytes = int(config.fabric.bucket_mb * 2**20) if overlap and not keeps and folding is None else None
    reduce = fabric.reduce_step if keeps else fabric.reduce
    ends = (reduce, fabric.rank, fabric.size)
    return GradientExchange(parameters, *ends, bucket_bytes, keeps=keeps, folding=folding)


def compressors_of(exchange: GradientExchange) -> Sequence[Compressor]:
    """Return what compresses for the devices of this process; nothing where nobody compresses."""
    if isinstance(exchange, ClusterExchange):
        return exchange.compressors
    return [exchange.compressor] if isinstance(exchange, CompressedExchange) else []


def build_judge(config: RunConfig) -> Judge | None:
    """Return what judges the gradients of each step; None where they are accepted as they are."""
    return None if config.aggregation.outliers == "accept" else Judge(config.aggregation.outliers)


def build_fold(config: RunConfig, judge: Judge | None) -> DenseFold | None:
    """Return what makes one of whole gradients by looking at each; None where they are only added up."""
    mean = config.aggregation.mean
    return (
        DenseFold(judge, mean if mean == "trimmed" or mean == "median" else None) if config.aggregation.folds else None
    )


def build_report_check(config: RunConfig) -> ReportCheck:
    """Return what devices may say in their reports to a hub."""
    own = 1 + (config.batch.size if config.batch.rule == "fixed" else config.batch.max)  # one more where a stream ends
    injection = config.injection
    most = own + (config.devices - 1) * math.ceil(injection.beta * own) if injects(config) else own
    weight = config.aggregation.max_weight
    if weight is None:
        task, given = config.task, config.task.loss_options.get("weight")
        counts_places = task.kind in _COUNT_PLACES or ":" in task.kind  # how many of them only devices know
        weight = max(1.0, *(float(one) for one in given)) if isinstance(given, Sequence) else 1.0
        weight = math.inf if counts_places else weight
    return ReportCheck(most, 1.0 if config.aggregation.mean == "plain" else most * weight)


def build_tail_check(config: RunConfig) -> TailCheck:
    """Return what looks at the reports at the end of dense messages as they come to a hub."""
    return TailCheck(build_report_check(config), config.devices, report_fields(config))


def report_fields(config: RunConfig) -> int:
    """Return how many fields of a report travel with gradients."""
    if config.compression.ratio is None:
        return GradientExchange.fields
    return SCALARS_BY_RATIO if config.compression.ratio == "auto" else SCALARS


def build_step_fold(config: RunConfig, fabric: Collectives, judge: Judge | None) -> StepFold | None:
    """Return where whole gradients are looked at one by one; None where they are only added up, or of one device."""
    fold = build_fold(config, judge)
    if fold is None or fabric.size == 1:
        return None
    if config.fabric.backend == "hub" and isinstance(fabric, Folding):
        return HubFold(fabric)
    return GatheredFold(fabric, fold)


def _let_judge(reducer: SparseReducer, judge: Judge | None) -> None:
    """Let sparse messages be judged: where they are added up, which is at the hub or on this device."""
    if isinstance(reducer, HubReducer):
        reducer.judged = judge is not None
    elif isinstance(reducer, GatherReducer):
        reducer.judge = judge


def build_cluster_exchange(config: RunConfig, parameters: Sequence[Parameter], fabric: Fabric) -> GradientExchange:
    """Return the exchange of all devices of a cluster that share this process, and one end of a fabric."""
    judge = build_judge(config)
    judges = build_fold(config, judge) if config.devices > 1 else None
    if config.compression.ratio is not None and config.devices > 1:
        # reducers that work together send nothing, and ask a fabric only for rank and size
        through_hub, fold = config.fabric.backend == "hub", VectorOwner(judge=judge).fold
        ends: Sequence[LocalFabric] = LocalFabric.create(config.devices)
        if through_hub:
            ends = LocalHubFabric.around(fold, config.devices)
        charged = config.cost.message_bytes
        n = None if charged is None else charged // _FLOAT32
        compressors = [build_compressor(config, parameters, end, n) for end in ends]
        for compressor in compressors:
            _let_judge(compressor.reducer, judge)
        at_owner = fold if compressors[0].reducer.name == HubReducer.name else None
        return ClusterExchange(parameters, compressors, through_hub=through_hub, fold=at_owner, judges=judges)
    if judges is not None:
        return JudgedClusterExchange(parameters, config.devices, judges)
    return GradientExchange(parameters, fabric.reduce, fabric.rank, config.devices)


def build_compressor(
    config: RunConfig,
    model: nn.Module | Sequence[Parameter],
    fabric: Collectives,
    charged: int | None = None,
    speed: float = 1.0,
) -> Compressor:
    """Return what one device carries from step to step for compression.

    Args:
        config: the run.
        model: what is trained, or its parameters.
        fabric: connects the devices.
        charged: how many values a gradient has for whose messages the way is chosen; None: as many as the model's.
        speed: stream seconds in a second of the clock that messages are timed by.
    """
    settings = config.compression
    # gradients travel from the last layer to the first
    parameters = model.parameters() if isinstance(model, nn.Module) else model
    trained = [p for p in parameters if p.requires_grad][::-1]
    check_parameters(trained)
    sizes, device = [p.numel() for p in trained], trained[0].device
    n = sum(sizes)
    selectors = [OncePerStep(_selector(config, sizes, fabric.rank, ratio)) for ratio in sparse_ratios(config)]
    feedback: Feedback = ErrorFeedback(n, device)
    if settings.momentum is not None:
        feedback = MomentumCorrection(feedback, n, settings.momentum, device)
    name, why = _way(config, n, selectors[0].k, fabric, charged)
    gates = Gates(
        NormGate(settings.delta, settings.smoothing) if settings.gate in ("norm", "both") else None,
        CostGate() if settings.gate in ("cost", "both") and settings.ratio != "auto" else None,
        _ratio_gate(config, name, fabric.size) if settings.ratio == "auto" else None,
        speed,
    )
    if settings.method == "powersgd":
        shapes = [tuple(p.shape) for p in trained]
        factors = PowerSgdReducer(fabric, shapes, sparse_ratios(config)[0], settings.values, config.seed)
        why = f"rank {factors.plan.rank}: {factors.k} floats for {n}"
        return Compressor(feedback, selectors, factors, gates, fabric.size, why)
    reducer = _REDUCERS[name](fabric, selectors[0], n, settings.values)
    return Compressor(feedback, selectors, reducer, gates, fabric.size, why)


def _ratio_gate(config: RunConfig, reducer: str, size: int) -> RatioGate:
    """Return what chooses ratios where so many devices' messages are added up in this way."""
    lag = _LAG if reducer == GatherReducer.name else _LAG_OF_SUMS * size
    return RatioGate(lag, config.batch.window_s if config.batch.rule == "rate" else 0.0)


def sparse_ratios(config: RunConfig) -> list[float]:
    """Return the ratios that steps may be compressed to, the largest first."""
    ratio = config.compression.ratio
    return [each for each in RATIOS if each is not None] if ratio == "auto" else [ratio or 1.0]


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
    if config.aggregation.folds:
        return "gather", "each message is looked at by itself"
    if charged is not None:
        n, k = charged, charged_entries(config, charged, sparse_ratios(config)[0])
    link = config.cost.link
    return choose_reducer(n, k, fabric.size, settings.values, SCALARS, link.slowest_bps, link.longest_s)


def charged_entries(config: RunConfig, n: int, ratio: float) -> int:
    """Return how many of ``n`` values a device sends in a compressed step, where nobody knows their layers."""
    slices = bucket_sizes(config, n) if config.compression.scope == "bucket" else [n]
    return sum(entries(size, ratio) for size in slices)


def bucket_sizes(config: RunConfig, n: int) -> list[int]:
    """Return the sizes of consecutive slices of ``n`` float32, of ``fabric.bucket_mb`` each but for the last."""
    size = max(1, int(config.fabric.bucket_mb * 2**20) // 4)
    return [min(size, n - start) for start in range(0, n, size)]


def entries(n: int, ratio: float) -> int:
    """Return how many of ``n`` entries are sent, at least one."""
    return max(1, math.ceil(ratio * n))


def _selector(config: RunConfig, sizes: list[int], rank: int, ratio: float) -> Selector:
    if config.compression.scope == "gradient":
        return _one_selector(config, sum(sizes), rank, ratio)
    slices = sizes if config.compression.scope == "layer" else bucket_sizes(config, sum(sizes))
    return PerSlice(slices, [_one_selector(config, size, rank, ratio) for size in slices])


def _one_selector(config: RunConfig, n: int, rank: int, ratio: float) -> Selector:
    settings = config.compression
    k = entries(n, ratio)
    if settings.method in ("whole", "powersgd"):
        return All(n)
    if settings.method == "randomk":
        return RandomK(k, config.seed, rank)
    return ExactTopK(k) if settings.selection == "exact" else SampledTopK(k, config.seed, rank)
