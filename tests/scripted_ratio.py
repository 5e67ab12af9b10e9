"""Ratios by a script in place of what is measured: each in turn, so that every step has messages of another size."""

from scadles.exchange.compression import RATIOS, RatioGate
from scadles.exchange.compression.cost_gate import Took


def take_each_in_turn(gate, sizes):
    """Let a gate choose the next ratio after each step, whatever it has seen."""
    gate.level = gate._home = gate._step % len(RATIOS)


def take_half_as_long_each(gate, level, sizes):
    """Say what messages take, whatever was measured."""
    return Took(0.4 / 2**level, 0.0)


def follow_the_script(set_attribute=setattr):
    """Let all gates do so from now on; a test gives its ``monkeypatch.setattr``."""
    set_attribute(RatioGate, "_decide", take_each_in_turn)
    set_attribute(RatioGate, "_exchange", take_half_as_long_each)
