"""What a user wants to be called after every step, with its state in checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from scadles.errors import CheckpointError
from scadles.observe import Step
from scadles.training.portable import flatten, unflatten

Hook = Callable[[Step], Any]


class StepHooks:
    """Hooks in the order in which they were added, which a resumed run must keep."""

    def __init__(self) -> None:
        self._hooks: list[tuple[Hook, Any]] = []
        self._waiting: dict[str, Any] = {}
        self._tensors: Mapping[str, Tensor] = {}

    def add(self, hook: Hook, state: Any = None) -> None:
        """Add a hook.

        Args:
            hook: called with the step that has been taken.
            state: has ``state_dict()`` and ``load_state_dict()``, which checkpoints go by; None takes the hook itself
                where it has them.
        """
        owner = state if state is not None else hook if hasattr(hook, "state_dict") else None
        if owner is not None and not (hasattr(owner, "state_dict") and hasattr(owner, "load_state_dict")):
            raise CheckpointError(
                f"a {type(owner).__name__} cannot be kept: a state has state_dict() and load_state_dict()"
            )
        self._hooks.append((hook, owner))
        self._restore(len(self._hooks) - 1)

    def __call__(self, step: Step) -> None:
        for hook, _ in self._hooks:
            hook(step)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what a checkpoint must hold: JSON and tensors; states that no hook has come for yet are kept."""
        tensors: dict[str, Tensor] = {}
        states = {}
        for place, (_, owner) in enumerate(self._hooks):
            if owner is not None:
                states[str(place)] = flatten(owner.state_dict(), f"on_step/{place}", tensors)
        for late, waiting in self._waiting.items():
            states[late] = flatten(unflatten(waiting, self._tensors), f"on_step/{late}", tensors)
        return states, tensors

    def load(self, states: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state` returned; hooks that are added later get theirs then."""
        self._waiting, self._tensors = dict(states), tensors
        for place in range(len(self._hooks)):
            self._restore(place)

    def _restore(self, place: int) -> None:
        owner = self._hooks[place][1]
        if owner is not None and str(place) in self._waiting:
            try:
                owner.load_state_dict(unflatten(self._waiting.pop(str(place)), self._tensors))
            except (RuntimeError, ValueError, KeyError, TypeError) as error:
                raise CheckpointError(
                    f"the checkpoint's state of on_step hook {place} is not one of a {type(owner).__name__}: {error}; "
                    "add the same hooks in the same order"
                ) from None
