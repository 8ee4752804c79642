#!/usr/bin/env python3
"""Make the stored HEIC and AVIF pictures in colour, with alpha and turned, and what they should show.

HEIC is written and read by pillow_heif, which is libheif with x265 and libde265; AVIF by Pillow, which is libavif. The turned pictures are also
compared with the picture before it was encoded, turned by Pillow. Needs pillow and pillow-heif.

    make_heif_files.py [tests/data]
"""
import os, sys
import numpy as np
from PIL import Image, ImageOps
import pillow_heif

OUT = os.path.join(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data"), "media", "image")
pillow_heif.register_heif_opener()


def shown(path):
    im = ImageOps.exif_transpose(Image.open(path))
    if im.mode == "RGBA":
        white = Image.new("RGB", im.size, (255, 255, 255))
        white.paste(im, mask=im.split()[3])
        im = white
    return im.convert("RGB")


def save(name, im, **options):
    path = f"{OUT}/{name}"
    im.save(path, **options)
    shown(path).save(path + ".ppm", "PPM")
    size = os.path.getsize(path)
    assert size < 4096, (name, size)
    return np.asarray(shown(path)).astype(int)


y, x = np.mgrid[0:20, 0:28]
a = np.stack([127 + 100 * np.sin(x / (5 + 3 * i) + y / (9 - i)) for i in range(4)], -1).clip(0, 255).astype(np.uint8)
rgb, rgba = Image.fromarray(a[..., :3]), Image.fromarray(a, "RGBA")
grey = rgb.convert("L")
for kind, whole in (("heic", dict(chroma=444)), ("avif", dict(subsampling="4:4:4"))):
    for name, im in (("rgb", rgb), ("rgba", rgba)):
        save(f"{name}.{kind}", im, quality=90, **whole)
    if kind == "avif":
        for name, im, options in (("rgb-420", rgb, {}), ("rgba-420", rgba, {}), ("rgb-422", rgb, dict(subsampling="4:2:2")), ("rgb-limited", rgb, dict(range="limited")),
                                  ("rgb-odd", rgb.crop((0, 0, 27, 19)), {}), ("grey-limited", grey.convert("RGB"), dict(subsampling="4:0:0", range="limited"))):
            save(f"{name}.avif", im, quality=90, **options)
    for n in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = n
        got = save(f"orientation{n}.{kind}", grey if kind == "heic" else grey.convert("RGB"), quality=80, exif=exif.tobytes(), **(dict(subsampling="4:0:0") if kind == "avif" else {}))
        turned = grey.copy()
        turned.getexif()[0x0112] = n
        want = np.asarray(ImageOps.exif_transpose(turned).convert("RGB")).astype(int)
        assert got.shape == want.shape and abs(got - want).mean() < 4, (kind, n, got.shape, abs(got - want).mean())
