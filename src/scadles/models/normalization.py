"""BatchNorm made GroupNorm: a normalisation that does not depend on what else is in the batch.

In synchronous SGD the mean gradient of all devices is that of their union batch, however labels are split; BatchNorm
breaks this, because it normalises each device's batch by that batch's own statistics, which differ where labels do.
GroupNorm (Wu and He, 2018) takes its statistics from one sample alone.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from scadles.errors import ConfigError, did_you_mean

MOST_GROUPS = 32
FEWEST_CHANNELS = 8


def convert_batchnorm(model: nn.Module, to: str = "group") -> nn.Module:
    """Replace every BatchNorm layer of ``model``, in place, and return it.

    BatchNorm1d (on ``[b, c]`` as on ``[b, c, l]``), BatchNorm2d, BatchNorm3d and SyncBatchNorm become GroupNorm, at
    any depth. Weights and biases go on as the same parameters, so an optimizer that was made before stays valid; eps
    and the train or eval mode are kept; running statistics have no counterpart and are gone, so a network that is
    trained already has to go on training. A layer without weights makes one without weights.

    Args:
        model: any network; a layer that is used in several places is used in the same places afterwards.
        to: ``group``, which is all there is.

    Returns:
        ``model`` itself, or the new layer where ``model`` is nothing but a BatchNorm layer.

    Raises:
        ConfigError: another ``to``; a lazy layer that does not know its channels yet; or a BatchNorm1d of one
            channel, of which a sample alone may be a single number.

    >>> model = nn.Sequential(nn.Conv2d(3, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    >>> layer = convert_batchnorm(model)[1]
    >>> type(layer).__name__, layer.num_groups, layer.num_channels
    ('GroupNorm', 8, 64)
    """
    if to != "group":
        raise ConfigError(f"convert_batchnorm(to={to!r}): BatchNorm cannot become that{did_you_mean(to, ['group'])}")
    made: dict[nn.Module, nn.Module] = {}
    for layer in [part for part in model.modules() if isinstance(part, _BatchNorm)]:
        made[layer] = _group_norm(layer)
    for part in list(model.modules()):
        for name, child in part._modules.items():  # named_children() tells a shared layer once only
            if child in made:
                part._modules[name] = made[child]
    return made.get(model, model)


def groups_of(channels: int) -> int:
    """Return into how many groups channels are put: at most 32, of at least 8 channels, all of the same size.

    It is the largest divisor of ``channels`` of this kind. Wu and He use 32 groups; narrow layers would be left with
    groups of one or two numbers.

    >>> [groups_of(channels) for channels in (16, 32, 64, 256, 2048, 48, 7)]
    [2, 4, 8, 32, 32, 6, 1]
    """
    most = min(MOST_GROUPS, channels // FEWEST_CHANNELS)
    return next((groups for groups in range(most, 1, -1) if channels % groups == 0), 1)


def _group_norm(layer: _BatchNorm) -> nn.GroupNorm:
    channels = layer.num_features
    if channels < 1 or any(is_lazy(parameter) for parameter in layer.parameters()):
        raise ConfigError("the model has lazy layers without a shape yet: run its forward on one batch beforehand")
    if channels == 1 and isinstance(layer, nn.BatchNorm1d):
        raise ConfigError(
            "a BatchNorm1d of one channel cannot become GroupNorm: of a single number nothing is left when its mean "
            "is taken off; leave the layer out"
        )
    norm = nn.GroupNorm(groups_of(channels), channels, eps=layer.eps, affine=False)
    if layer.affine:
        norm.affine = True
        norm.weight, norm.bias = layer.weight, layer.bias
    return norm.train(layer.training)
