"""What a device makes of its samples before it trains on them: augmentation."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from scadles.errors import RunError, ScadlesError
from scadles.importing import blame, parameter_names
from scadles.layout import Layout
from scadles.seeding import derive_seed

# torch's generator is one for all devices that are threads of a process
_GENERATOR = Lock()


class Transform:
    """A function of the user's for batches that are trained on, which draws the same whenever a step is done again.

    It is given raw samples ``[b, *shape]``, those of several parts by name or in order, and returns as many of the same
    form. torch's random generator is seeded by (seed of the run, device, step) meanwhile; one with a parameter ``seed``
    is given that number as well, for generators of its own.

    Args:
        function: the user's.
        name: of it, for messages.
        seed: of the run.
        layout: where the parts are in samples that have several.

    >>> noise = Transform(lambda x: x + torch.rand(x.shape), "mine:noise", seed=0)
    >>> x = torch.zeros(2, 3)
    >>> torch.equal(noise(x, 1, 5), noise(x, 1, 5)), torch.equal(noise(x, 1, 5), noise(x, 1, 6))
    (True, False)
    """

    def __init__(self, function: Callable[..., Any], name: str, seed: int, layout: Layout | None = None) -> None:
        self._function = function
        self._name = name
        self._seed = seed
        self._layout = layout
        self._takes_seed = "seed" in parameter_names(function)

    def __call__(self, x: Tensor, device: int, step: int) -> Tensor:
        """Return what becomes of a device's batch in a step.

        Args:
            x: raw samples ``[b, *shape]``, at least one.
            device: its number.
            step: counted from 1.

        Raises:
            RunError: the function raises, or returns something else.
        """
        seed = derive_seed(self._seed, "transform", device, step)
        more = {"seed": seed} if self._takes_seed else {}
        given = x.clone() if self._layout is None else self._layout.unpack(x.clone())
        with _GENERATOR, torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            try:
                made = self._function(given, **more)
            except (ScadlesError, KeyboardInterrupt, MemoryError):
                raise
            except BaseException as error:
                raise RunError(f"data.transform {self._name!r} raised {blame(error)}") from error
        return self._checked(made, x)

    def _checked(self, made: Any, x: Tensor) -> Tensor:
        if self._layout is not None:
            try:
                made = self._layout.pack(made)
            except (ValueError, AttributeError, IndexError, RuntimeError) as error:
                raise RunError(
                    f"data.transform {self._name!r} returned other parts than it was given: {error}"
                ) from None
        if not isinstance(made, Tensor):
            raise RunError(f"data.transform {self._name!r} returned {type(made).__name__}, not a tensor")
        same = made.dtype == x.dtype or (made.is_floating_point() and x.is_floating_point())
        if made.shape != x.shape or not same:
            raise RunError(
                f"data.transform {self._name!r} returned {_form(made)}, expected {_form(x)}, as it was given"
            )
        return made.to("cpu", x.dtype)


def _form(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
