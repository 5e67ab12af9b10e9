"""The example with cameras, which plays a video here."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from runs import REPOSITORY
from scadles.observe import RunFolder

cv2 = pytest.importorskip("cv2")
FRAMES = 320


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    return tmp_path


def write_video(path):
    """A bright square that goes round on a dark ground."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    assert writer.isOpened()
    for i in range(FRAMES):
        frame = np.full((48, 64, 3), 40, dtype=np.uint8)
        x, y = int(24 + 20 * np.cos(i / 8)), int(16 + 14 * np.sin(i / 8))
        frame[y : y + 12, x : x + 12] = (60, 200, 240)
        writer.write(frame)
    writer.release()


def test_a_video_is_learnt_to_its_end(start_training, folder, finding):
    write_video(folder / "door.avi")
    more = ("method=ddl", "batch.size=4", "stream.end=stop")
    arguments = [word for setting in more for word in ("--set", setting)]
    command = (Path("examples/camera.yaml"), "--local", 2, "--quiet", "--out", "run", *arguments)
    run = start_training(folder, *command, CAMERA=str(folder / "door.avi"))
    assert run.wait() == 0, run.err
    finding(folder / "run", 2).assert_ended_together("streams")
    summary = RunFolder(folder / "run").summary
    assert [row.samples.trained for row in summary.per_device] == [FRAMES, FRAMES]
    assert summary.measured.final < 0.9  # of a model that says the mean picture it would be about 1


@pytest.mark.skipif(Path("/dev/video0").exists(), reason="there is a camera")
def test_without_a_camera_it_says_so(start_training, folder):
    run = start_training(folder, Path("examples/camera.yaml"), "--local", 2, "--quiet", "--out", "run")
    assert run.wait() == 2
    assert "device 0 finds no camera and no video with CAMERA=0" in run.err
    assert "Traceback" not in run.err
