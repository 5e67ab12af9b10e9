import types

import torch

from scadles.data import torchvision as vision


def test_missing_operators_are_defined_once(monkeypatch):
    defined = []
    monkeypatch.setattr(torch.library, "define", lambda name, schema: defined.append(name))
    monkeypatch.setattr(torch.ops, "torchvision", types.SimpleNamespace(nms=1))
    vision._define_missing_operators()
    assert defined == ["torchvision::qnms"]
