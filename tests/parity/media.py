"""Pictures, sounds and videos for the comparison with the reference: made from a seed, so nothing needs to be stored."""
import os
import subprocess
import wave

import numpy as np


def picture(path, width, height, seed):
    from PIL import Image
    r = np.random.default_rng(seed)
    small = r.integers(0, 256, (max(2, height // 24), max(2, width // 24), 3), np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.BICUBIC)
    noise = np.asarray(image).astype(np.int16) + r.integers(-12, 13, (height, width, 3))
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path)
    return path


def sound(path, seconds, seed):
    r = np.random.default_rng(seed)
    n = int(seconds * 16000)
    t = np.arange(n) / 16000
    x = np.zeros(n)
    for _ in range(6):
        f, rate, phase = r.uniform(80, 3000), r.uniform(0.2, 6), r.uniform(0, 6)
        x += r.uniform(0.02, 0.15) * np.sin(2 * np.pi * f * t + phase) * (0.6 + 0.4 * np.sin(2 * np.pi * rate * t))
    x += r.normal(0, 0.01, n)
    with wave.open(path, "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(16000)
        w.writeframes((x.clip(-1, 1) * 32000).astype("<i2").tobytes())
    return path


def video(path, frames, width, height, seed):
    r = np.random.default_rng(seed)
    base = r.integers(0, 256, (height, width, 3)).astype(np.int16)
    base = (base + np.roll(base, 1, 0) + np.roll(base, 1, 1)) // 3
    out = np.stack([np.roll(base, 5 * i, 1) + r.integers(-6, 7, base.shape) for i in range(frames)])
    np.save(path, out.clip(0, 255).astype(np.uint8))
    return path


def film(path, frames, sound, fps):
    """Frames and sound as a Matroska file without loss, so that a reader gets exactly what the two hold."""
    _, height, width, _ = np.load(frames).shape
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{width}x{height}", "-framerate", str(fps), "-i", "-",
                    "-i", sound, "-c:v", "ffv1", "-pix_fmt", "gbrp", "-c:a", "pcm_s16le", path], input=np.load(frames).tobytes(), check=True)
    return path


def make(folder, seed):
    """The media of one variant, by name; "films" gives for frames (sampled at 2 a second) a film that has a sound too."""
    os.makedirs(folder, exist_ok=True)
    f = lambda name: os.path.join(folder, name)
    media = dict(
        square=picture(f("square.png"), 224, 224, seed + 1), odd=picture(f("odd.png"), 301, 187, seed + 2),
        wide=picture(f("wide.png"), 512, 64, seed + 3), short=sound(f("short.wav"), 0.7, seed + 4),
        medium=sound(f("medium.wav"), 3.21, seed + 5), long=sound(f("long.wav"), 19.37, seed + 6), exact=sound(f("exact.wav"), 2.0, seed + 7),
        clip=video(f("clip.npy"), 8, 96, 64, seed + 8), clip2=video(f("clip2.npy"), 6, 160, 96, seed + 9), odd_clip=video(f("odd_clip.npy"), 5, 118, 90, seed + 10),
        clip_sound=sound(f("clip_sound.wav"), 4.0, seed + 11), clip2_sound=sound(f("clip2_sound.wav"), 2.7, seed + 12))
    media["films"] = {media[name]: film(f(name + ".mkv"), media[name], media[name + "_sound"], 2) for name in ("clip", "clip2")}
    return media
