"""Rendered video, as H.264 in MP4 by GStreamer, which `make setup` installs. Nobody real is in it."""
import subprocess
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .errors import KitError


def encode(path: Path, pictures: Iterable[np.ndarray], fps: int, quantizer: int = 24) -> None:
    """`pictures`: uint8 [h,w,3], all of one size."""
    pictures = list(pictures)
    height, width, _ = pictures[0].shape
    command = ["gst-launch-1.0", "-q", "fdsrc", "fd=0", "!", "rawvideoparse", "format=rgb", f"width={width}", f"height={height}",
               f"framerate={fps}/1", "!", "videoconvert", "!", "video/x-raw,format=I420,colorimetry=bt709", "!",
               "x264enc", "bframes=0", f"key-int-max={fps}", "pass=quant", f"quantizer={quantizer}", "threads=1", "!",
               "h264parse", "!", "mp4mux", "!", "filesink", f"location={path}"]
    try:
        done = subprocess.run(command, input=b"".join(p.tobytes() for p in pictures), capture_output=True)
    except FileNotFoundError:
        raise KitError("no gst-launch-1.0: run `make setup`, or install Debian's gstreamer1.0-tools and gstreamer1.0-plugins-ugly") from None
    if done.returncode != 0 or not path.is_file() or path.stat().st_size == 0:
        raise KitError(f"GStreamer could not write {path}: {done.stderr.decode(errors='replace').strip()}")
