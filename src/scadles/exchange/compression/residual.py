"""What is not sent is kept and added to the next update."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from scadles.errors import CheckpointError, ConfigError


class Feedback(ABC):
    """What a device keeps back between steps.

    A step is ``add``, then ``sent`` for what left it or ``sent_all`` where the whole vector did.
    """

    @abstractmethod
    def add(self, update: Tensor) -> Tensor:
        """Return the update plus what was kept back, float32 ``[n]``.

        The result is memory of this object: it changes with ``sent`` and ``sent_all``, so that what of it travels must
        be copied before. An update that is not finite must not get here.
        """

    @abstractmethod
    def sent(self, indices: Tensor, values: Tensor) -> None:
        """Keep what is left after these entries went out.

        Args:
            indices: int64, each at most once.
            values: as the receiver decodes them.
        """

    @abstractmethod
    def sent_all(self, values: Tensor | None = None) -> None:
        """Keep nothing after all of it went out, or the rounding, where ``values`` is what the receiver decodes."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold; memory of this object."""

    @abstractmethod
    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a state.

        Raises:
            CheckpointError: it is of another model, or of none.
        """


class ErrorFeedback(Feedback):
    """The residual: updates so far minus what was sent of them (paper, section IV, adaptive compression).

    At any time the sum of all that was sent plus the residual is the sum of all updates, to rounding. In the paper's
    program the residual also survives a step that sends the whole gradient, which then counts twice; here it goes out
    with that gradient.

    Args:
        n: values of an update.
        device: where updates are.

    >>> feedback = ErrorFeedback(3)
    >>> total = feedback.add(torch.tensor([1.0, -4.0, 2.0]))
    >>> feedback.sent(torch.tensor([1]), torch.tensor([-4.0]))
    >>> feedback.add(torch.tensor([0.5, 0.5, 0.5])).tolist()
    [1.5, 0.5, 2.5]
    """

    def __init__(self, n: int, device: torch.device | str = "cpu") -> None:
        self._residual = torch.zeros(n, device=device)

    def add(self, update: Tensor) -> Tensor:
        return self._residual.add_(update)

    def sent(self, indices: Tensor, values: Tensor) -> None:
        self._residual.index_add_(0, indices, values, alpha=-1)

    def sent_all(self, values: Tensor | None = None) -> None:
        if values is None:
            self._residual.zero_()
        else:
            self._residual.sub_(values)

    def state(self) -> dict[str, Tensor]:
        return {"residual": self._residual}

    def load(self, state: dict[str, Tensor]) -> None:
        _restore(self._residual, state, "residual")


class MomentumCorrection(Feedback):
    """Momentum before selection rather than after it (Lin et al., Deep Gradient Compression, section 3.1).

    What an entry gathers while it waits is then what momentum SGD would have applied: v = m v + u, and v goes to the
    residual in place of u. The optimizer itself runs without momentum. An entry that is sent goes on with its momentum:
    the masking of that paper (section 3.2) takes most of it from entries that are sent often, which costs 1.5 to 3.5
    times the steps at a ratio of 0.1 (docs/log.md, 2026-11-27).

    Args:
        inner: keeps the residual.
        n: values of an update.
        momentum: at least 0, below 1.
        device: where updates are.
    """

    def __init__(self, inner: Feedback, n: int, momentum: float = 0.9, device: torch.device | str = "cpu") -> None:
        if not 0 <= momentum < 1:
            raise ConfigError(f"momentum = {momentum:g}: at least 0 and below 1")
        self._inner = inner
        self._velocity = torch.zeros(n, device=device)
        self._momentum = momentum

    def add(self, update: Tensor) -> Tensor:
        return self._inner.add(self._velocity.mul_(self._momentum).add_(update))

    def sent(self, indices: Tensor, values: Tensor) -> None:
        self._inner.sent(indices, values)

    def sent_all(self, values: Tensor | None = None) -> None:
        self._inner.sent_all(values)

    def state(self) -> dict[str, Tensor]:
        return {**self._inner.state(), "velocity": self._velocity}

    def load(self, state: dict[str, Tensor]) -> None:
        self._inner.load(state)
        _restore(self._velocity, state, "velocity")


def _restore(memory: Tensor, state: dict[str, Tensor], name: str) -> None:
    saved = state.get(name)
    if saved is None:
        raise CheckpointError(f"the checkpoint has no {name}: it was written without this compression")
    if saved.shape != memory.shape:
        raise CheckpointError(
            f"the checkpoint's {name} has {saved.numel()} values, this model {memory.numel()}: it is another model's"
        )
    memory.copy_(saved)
