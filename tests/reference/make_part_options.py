#!/usr/bin/env python3
"""Makes tests/data/vision/part_options.txt and tests/data/audio/stretches.txt: what qwen-omni-utils and librosa make of the options of a message's parts.
usage: PYTHON make_part_options.py, with the reference's Python environment."""
import os, random

import librosa, numpy as np, torch
from PIL import Image
from qwen_omni_utils.v2_5 import vision_process as v

DATA = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data")
r = random.Random(7)
PATCH = 16  # of Qwen3-Omni; two patches a side are merged
shown = lambda ele, keys: " ".join(str(ele.get(k, 0)) for k in keys)


def options(**choices):
    return {k: r.choice(c) for k, c in choices.items() if r.random() < 0.4}


def side():
    return r.choice([r.randint(8, 64), r.randint(64, 700), r.randint(300, 1500)])


def image():
    h, w, ele = side(), side(), options(min_pixels=[1000, 4096, 50000, 300000], max_pixels=[3000, 9000, 100352, 262144, 2000000])
    if r.random() < 0.3:
        ele = {"resized_height": side(), "resized_width": side()}
    try:
        size = v.fetch_image({"image": Image.new("RGB", (w, h)), **ele}, image_patch_size=PATCH).size
        want = f"{size[1]} {size[0]}"
    except Exception:
        want = "0 0"
    return f"image 1 {h} {w} {shown(ele, ['min_pixels', 'max_pixels', 'total_pixels', 'resized_height', 'resized_width'])} {want}"


def video():
    n, h, w = r.randint(1, 12) * 2, r.randint(16, 300), r.randint(16, 300)
    ele = options(min_pixels=[1000, 4096, 50000, 150000], max_pixels=[2000, 9000, 60000, 400000, 2000000], total_pixels=[20000, 200000, 1000000, 8000000])
    if r.random() < 0.2:
        ele = {"resized_height": r.randint(20, 400), "resized_width": r.randint(20, 400)}
    v.VIDEO_READER_BACKENDS = {k: lambda e: (torch.zeros(n, 3, h, w, dtype=torch.uint8), {}, 2.0) for k in ("torchvision", "torchcodec", "decord")}
    try:
        want = "%d %d" % tuple(v.fetch_video({"video": "x", **ele}, image_patch_size=PATCH).shape[2:])
    except Exception:
        want = "0 0"
    return f"video {n} {h} {w} {shown(ele, ['min_pixels', 'max_pixels', 'total_pixels', 'resized_height', 'resized_width'])} {want}"


def frames():
    total, fps = r.randint(2, 5000), r.choice([5.0, 12.5, 24.0, 25.0, 29.97, 30000 / 1001, 60.0])
    ele = options(fps=[0.5, 1.0, 2.5, 4.0], min_frames=[1, 7, 20], max_frames=[2, 5, 16, 64])
    if r.random() < 0.3:
        ele = {"nframes": r.randint(2, 60)}
    length = total / fps
    if r.random() < 0.5:
        ele["video_start"] = round(r.uniform(0, length), 3)
    if r.random() < 0.5:
        ele["video_end"] = round(r.uniform(0.1, length * 1.2), 3)
    try:
        first, last, count = v.calculate_video_frame_range(ele, total, fps)
        n = v.smart_nframes(ele, count, fps)
        index = torch.linspace(first, last, n).round().long().tolist()
    except ValueError:
        n, index = 0, []
    keys = ["fps", "nframes", "min_frames", "max_frames", "video_start", "video_end"]
    return f"{total} {fps!r} {shown(ele, keys)} {n} {sum((i + 1) * x for i, x in enumerate(index))} {index[-2] if n else 0} {index[-1] if n else 0}"


def stretch(name, start, end):
    y, _ = librosa.load(os.path.join(DATA, "audio", name), sr=16000, offset=start, duration=end - start if end else None)
    at = [0, len(y) // 3, len(y) // 2, len(y) - 1]
    return f"{name} {start} {end} {len(y)} " + " ".join(f"{y[i]:.9g}" for i in at) + f" {np.abs(y.astype(np.float64)).sum():.9g}"


if __name__ == "__main__":
    with open(os.path.join(DATA, "vision", "part_options.txt"), "w") as f:
        f.write("\n".join([image() for _ in range(150)] + [video() for _ in range(150)]) + "\n")
    with open(os.path.join(DATA, "vision", "part_frames.txt"), "w") as f:
        f.write("\n".join(frames() for _ in range(400)) + "\n")
    sounds = ["speech16.wav", "s16_22k.wav", "f32_11k.wav", "u8_8k.wav", "s24.flac", "a.ogg", "a.m4a"]
    with open(os.path.join(DATA, "audio", "stretches.txt"), "w") as f:
        for name in sounds:
            length = librosa.get_duration(path=os.path.join(DATA, "audio", name))
            for a, b in [(0, 0.5), (0.3, 0), (0.2, 0.7), (0.11111, 0.77777), (0.9, 2)]:
                start, end = round(a * length, 5), round(b * length, 5)
                f.write(stretch(name, start, end) + "\n")
