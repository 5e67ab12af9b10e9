import random

import numpy as np
import pytest
import torch

from scadles.assembly import build_dataset, build_transform
from scadles.config import load_config
from scadles.device.transform import Transform
from scadles.errors import ConfigError, RunError
from scadles.layout import Layout, Part
from scadles.simulation import simulate

X = torch.arange(12, dtype=torch.float32).reshape(4, 3)


def shuffled(x, seed):
    return x[:, torch.randperm(3)] + random.Random(seed).random()


def test_it_draws_the_same_for_one_step_and_leaves_torchs_generator_alone():
    transform = Transform(shuffled, "mine:shuffled", seed=3)
    before = torch.get_rng_state()
    made = [transform(X, *place) for place in ((0, 1), (0, 1), (1, 1), (0, 2))]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert not torch.equal(made[0], made[3])
    assert not torch.equal(made[0], Transform(shuffled, "mine:shuffled", seed=4)(X, 0, 1))


def test_what_it_is_given_is_its_own():
    kept = X.clone()
    assert torch.equal(Transform(lambda x: x.mul_(0), "mine:zero", seed=0)(kept, 0, 1), torch.zeros(4, 3))
    assert torch.equal(kept, X)


def test_parts_by_name():
    layout = Layout([Part("picture", (2,), torch.uint8), Part("speed", (), torch.float32)])
    rows = layout.pack({"picture": torch.ones(3, 2, dtype=torch.uint8), "speed": torch.ones(3)})
    made = Transform(lambda x: x | {"speed": x["speed"] * 2}, "mine:faster", 0, layout)(rows, 0, 1)
    assert layout.unpack(made)["speed"].tolist() == [2, 2, 2]
    with pytest.raises(RunError, match="'mine:half' returned other parts than it was given: part speed is missing"):
        Transform(lambda x: {"picture": x["picture"]}, "mine:half", 0, layout)(rows, 0, 1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[:1], r"returned float32 \[1, 3\], expected float32 \[4, 3\], as it was given"),
        (lambda x: x.long(), r"returned int64 \[4, 3\], expected float32"),
        (lambda x: None, "returned NoneType, not a tensor"),
        (lambda x: x.nothing, r"raised AttributeError: .*line"),
        (lambda x, strength: x, "raised TypeError"),
    ],
)
def test_what_it_must_not_do_is_one_sentence(function, message):
    with pytest.raises(RunError, match=f"^data.transform 'mine:own' {message}"):
        Transform(function, "mine:own", seed=0)(X, 0, 1)


def test_it_is_tried_before_the_run(tmp_path, monkeypatch):
    (tmp_path / "augmentations.py").write_text("def grey(x):\n    return x.float()\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name, message in (
        ("augmentations:grey", r"returned float32 \[1, 1, 8, 8\], expected uint8"),
        ("augmentations:gray", "has no 'gray'"),
        ("grey", "write your own as MODULE:CALLABLE"),
    ):
        config = load_config({"steps": 1, "data": {"transform": name}})
        with pytest.raises(ConfigError, match=message):
            build_transform(config, build_dataset(config))


def test_a_simulation_refuses_it_where_samples_are_shared(tmp_path):
    np.savez(
        tmp_path / "w.npz",
        train_x=np.ones((20, 2, 4)),
        train_y=np.arange(20) % 2,
        test_x=np.ones((4, 2, 4)),
        test_y=np.arange(4) % 2,
    )
    given = {"devices": 2, "steps": 1, "injection": {"alpha": 0.5, "beta": 0.5}, "model": "mlp", "picture": False}
    given["data"] = {"dataset": f"npz:{tmp_path}/w.npz", "transform": "small_tasks:jittered"}
    with pytest.raises(
        ConfigError, match=r"each would transform it in its own way; leave data\.transform or injection"
    ):
        simulate(given, out=tmp_path / "run", quiet=True)
