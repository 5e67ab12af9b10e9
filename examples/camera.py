"""What cameras see, as streams and as a data set, read by OpenCV (extra ``camera``).

In the environment CAMERA is the number of the first device's camera, or a video file that all devices play.
"""

import os
from itertools import islice

import cv2
import numpy as np

SIDE, TESTED = 32, 64


def frames(device=0):
    """Yield what a device's camera sees, uint8 [3, 32, 32], until there is no more."""
    source = os.environ.get("CAMERA", "0")
    camera = cv2.VideoCapture(int(source) + device if source.isdecimal() else source)
    try:
        if not camera.isOpened():
            raise RuntimeError(f"device {device} finds no camera and no video with CAMERA={source}")
        while True:
            there, picture = camera.read()
            if not there:
                return
            yield cv2.resize(picture, (SIDE, SIDE)).transpose(2, 0, 1)
    finally:
        camera.release()


def first_frames():
    """Return the first frames of the first camera: what the model is tested on, and what a sample looks like."""
    seen = np.stack(list(islice(frames(), TESTED)))
    return seen, seen
