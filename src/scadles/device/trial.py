"""Passes through a model before the clocks start, which leave no trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from scadles.exchange.aggregation import BatchNormStatistics, ForwardBuffers
from scadles.structures import Structure, answer, concatenate, pick, tensors_in


def changed_buffers(model: nn.Module, buffers: ForwardBuffers, x: Structure) -> list[int]:
    """Return the numbers of the buffers that a training pass writes to; all of them where the model does not like x."""
    try:
        with _training(model, buffers) as found:
            answer(model, x)
    except Exception:  # noqa: BLE001 - whatever a user's model raises for two samples, the loop will show it
        return list(range(len(buffers)))
    return found


def compile_now(model: nn.Module, buffers: ForwardBuffers, x: Structure) -> None:
    """Let a model that torch compiles be compiled, forward and backward, and for tests, for batches of any size.

    Nothing happens where no part of it is to be compiled, or where it does not like x: it is then compiled when the
    first batch comes.
    """
    if not any(_is_compiled(part) for part in model.modules()):
        return
    gradients = [(p, p.grad) for p in model.parameters()]
    try:
        batches = (x, concatenate([x, pick(x, slice(1))]))  # two sizes: torch then takes the size for a variable
        with _training(model, buffers), torch.enable_grad():
            for batch in batches:
                tensors = [t for t in tensors_in(answer(model, batch)) if t.requires_grad]
                if tensors:
                    torch.stack([t.float().sum() for t in tensors]).sum().backward()  # type: ignore[no-untyped-call]
            model.eval()
            with torch.no_grad():
                for batch in batches:
                    answer(model, batch)
    except Exception:  # noqa: BLE001, S110 - as above
        pass
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient


@contextmanager
def _training(model: nn.Module, buffers: ForwardBuffers) -> Iterator[list[int]]:
    """Let passes leave no trace; yields a list that then holds the buffers that they wrote to."""
    statistics, modes = BatchNormStatistics(model), [(part, part.training) for part in model.modules()]
    statistics.remember()
    try:
        with torch.random.fork_rng(), buffers.untouched() as found:
            model.train()
            yield found
    finally:
        statistics.restore()
        for part, training in modes:
            part.training = training


def _is_compiled(part: nn.Module) -> bool:
    # by name, so that torch's compiler need not be imported to find out
    return type(part).__name__ == "OptimizedModule" or getattr(part, "_compiled_call_impl", None) is not None
