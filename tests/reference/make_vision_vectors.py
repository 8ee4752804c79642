#!/usr/bin/env python3
"""Make the stored media files and vectors that the tests of image, video and vision encoder read.

Expected values come from the reference libraries only: Pillow (decoding), torchvision and transformers (resizing, patches, the
encoder), qwen-omni-utils (choice of frames), PyAV (video frames). Needs those, gguf, safetensors, numpy and the ffmpeg program.

    make_vision_vectors.py [tests/data]
"""
import io, os, struct, subprocess, sys, zlib
import numpy as np

OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data")


def noise(n, seed):
    """The bytes that the C tests make for themselves: a linear congruential generator's high byte."""
    out, s = np.empty(n, np.uint8), seed
    for i in range(n):
        s = (s * 1664525 + 1013904223) & 0xFFFFFFFF
        out[i] = s >> 24
    return out


def picture(h, w, c, rng):
    y, x = np.mgrid[0:h, 0:w]
    a = np.stack([127 + 110 * np.sin(x / (5 + 3 * i) + y / (9 - i)) for i in range(c)], -1) + rng.normal(0, 10, (h, w, c))
    return np.clip(a, 0, 255).astype(np.uint8)


def png(w, h, depth, colour, interlaced, rng, chunks=()):
    """PNG kinds that Pillow does not write: any depth, interlacing, short palettes."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    chunk = lambda t, d: struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d))
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)] if interlaced else [(0, 0, 1, 1)]
    raw = b""
    for x0, y0, dx, dy in passes:
        pw, ph = -(-(w - x0) // dx), -(-(h - y0) // dy)
        if pw > 0 and ph > 0:
            raw += b"".join(b"\0" + rng.integers(0, 256, (pw * channels * depth + 7) // 8, dtype=np.uint8).tobytes() for _ in range(ph))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, interlaced))
            + b"".join(chunk(t, d) for t, d in chunks) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))


def images():
    from PIL import Image
    rng = np.random.default_rng(0)
    files = {}

    def save(name, im, **options):
        b = io.BytesIO()
        im.save(b, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF"}[name.split(".")[-1]], **options)
        files[name] = b.getvalue()
    rgb = lambda h=29, w=37: Image.fromarray(picture(h, w, 3, rng))
    rgba = lambda h=29, w=37: Image.fromarray(picture(h, w, 4, rng), "RGBA")
    save("baseline.jpg", rgb(), quality=85)
    save("subsampled-422.jpg", rgb(), quality=60, subsampling=1)
    save("full-chroma.jpg", rgb(), quality=95, subsampling=0)
    save("progressive.jpg", rgb(), quality=75, progressive=True)
    save("restart.jpg", rgb(), restart_marker_blocks=2)
    save("grey.jpg", rgb().convert("L"))
    save("grey-progressive.jpg", rgb().convert("L"), progressive=True)
    save("rgb.jpg", rgb(), keep_rgb=True)
    cmyk = Image.fromarray(picture(29, 37, 4, rng), "CMYK")
    save("cmyk.jpg", cmyk)
    save("cmyk-progressive.jpg", cmyk, progressive=True)
    data = files["cmyk.jpg"]
    at = data.find(b"\xff\xee")
    files["ycck.jpg"] = data[:at + 15] + b"\2" + data[at + 16:]
    files["cmyk-no-adobe.jpg"] = data[:at] + data[at + 2 + struct.unpack(">H", data[at + 2:at + 4])[0]:]
    exif = Image.Exif()
    exif[0x0112] = 6
    save("orientation.jpg", rgb(), exif=exif)
    for depth in (1, 2, 4, 8, 16):
        files[f"grey{depth}.png"] = png(13, 9, depth, 0, 0, rng)
    files["grey16-interlaced.png"] = png(13, 9, 16, 0, 1, rng)
    for depth in (1, 2, 4, 8):
        palette = rng.integers(0, 256, 3 * min(2 ** depth, 100), dtype=np.uint8).tobytes()
        files[f"palette{depth}.png"] = png(13, 9, depth, 3, 0, rng, [(b"PLTE", palette), (b"tRNS", b"\0\x80")])
    files["palette4-interlaced.png"] = png(13, 9, 4, 3, 1, rng, [(b"PLTE", bytes(range(30)))])
    files["rgb16.png"] = png(13, 9, 16, 2, 0, rng)
    files["rgba16-interlaced.png"] = png(13, 9, 16, 6, 1, rng)
    files["grey-alpha.png"] = png(13, 9, 8, 4, 0, rng)
    files["grey-alpha16.png"] = png(13, 9, 16, 4, 1, rng)
    files["gamma.png"] = png(13, 9, 8, 2, 1, rng, [(b"gAMA", struct.pack(">I", 20000)), (b"sBIT", b"\5\6\5")])
    save("rgba.png", rgba())
    save("rgb.png", rgb())
    save("lossy.webp", rgb(), quality=60)
    save("lossy-alpha.webp", rgba(), quality=60)
    save("lossless.webp", rgb(15, 19), lossless=True)
    save("lossless-alpha.webp", rgba(15, 19), lossless=True, exact=True)
    save("animation.webp", rgba(15, 19), save_all=True, append_images=[rgba(15, 19)], quality=50)
    save("plain.gif", rgb().quantize(20))
    save("not-interlaced.gif", rgb().quantize(20), interlace=0)
    save("grey.gif", rgb(15, 19).convert("L"))
    save("animation.gif", rgba(15, 19).quantize(8), save_all=True, append_images=[rgba(15, 19).quantize(8)])
    small = bytearray(files["plain.gif"])
    small[6:10] = struct.pack("<HH", 50, 40)                        # a screen larger than its picture
    at = small.find(b",")
    small[at + 1:at + 5] = struct.pack("<HH", 7, 9)
    files["offset.gif"] = bytes(small)
    save("transparent.gif", rgb().quantize(20), transparency=3)
    files |= oriented_images() | other_images()
    for name, data in files.items():
        open(f"{OUT}/media/image/{name}", "wb").write(data)
        upright_over_white(Image.open(io.BytesIO(data))).save(f"{OUT}/media/image/{name}.ppm")


def upright_over_white(im):
    """What transformers (load_image) and qwen-omni-utils (to_rgb) do to a picture, together."""
    from PIL import ImageOps
    from qwen_omni_utils.v2_5.vision_process import to_rgb
    return to_rgb(ImageOps.exif_transpose(im))


def exif(orientation, order="<", kind=3, count=1, before=()):
    """TIFF data with the tag Orientation, after others."""
    entries = [struct.pack(order + "HHI", tag, 4, 1) + struct.pack(order + "I", 7) for tag in before]
    value = struct.pack(order + ("HH" if kind == 3 else "I"), *((orientation, 0) if kind == 3 else (orientation,)))
    entries.append(struct.pack(order + "HHI", 0x0112, kind, count) + value)
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries)) + b"".join(entries) + b"\0\0\0\0"


def oriented_images():
    """Every orientation in every kind of file that can state one, in both byte orders; damaged EXIF data; XMP."""
    from PIL import Image
    rng = np.random.default_rng(7)
    im, files = Image.fromarray(picture(10, 17, 3, rng)), {}

    def save(name, data, **options):
        b = io.BytesIO()
        kind = {"jpg": "JPEG", "webp": "WEBP", "png": "PNG"}[name.split(".")[-1]]
        im.save(b, kind, **({"exif": data} if data is not None else {}), **options)
        files[name] = b.getvalue()
    for n in range(1, 9):
        save(f"orientation{n}-little.jpg", b"Exif\0\0" + exif(n, "<"))
        save(f"orientation{n}-big.jpg", b"Exif\0\0" + exif(n, ">", before=(0x0100, 0x0110)))
        save(f"orientation{n}.webp", exif(n, "<>"[n % 2]), lossless=True)
        data = png(17, 10, 8, 2, n % 2, rng, [(b"eXIf", exif(n, "<>"[n % 2]))])
        files[f"orientation{n}.png"] = data
        if n > 1:
            tiff = io.BytesIO()
            im.save(tiff, "TIFF", tiffinfo={0x0112: n})
            files[f"orientation{n}.tiff"] = tiff.getvalue()
    save("exif-long.jpg", b"Exif\0\0" + exif(6, ">", kind=4))
    save("exif-byte.jpg", b"Exif\0\0" + exif(6, kind=1))  # of which Pillow makes no number
    save("exif-signed.jpg", b"Exif\0\0" + exif(6, kind=8))
    save("exif-signed-long.jpg", b"Exif\0\0" + exif(8, ">", kind=9))
    save("exif-nine.jpg", b"Exif\0\0" + exif(9))
    save("exif-zero.jpg", b"Exif\0\0" + exif(0))
    save("exif-cut.webp", exif(6)[:17], lossless=True)
    save("exif-outside.webp", b"II*\0" + struct.pack("<I", 100000), lossless=True)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    save("xmp.webp", None, lossless=True, xmp=xmp)
    save("xmp.jpg", None, xmp=xmp)
    files["xmp.png"] = png(17, 10, 8, 2, 0, rng, [(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)])
    plain = lambda *chunks: png(17, 10, 8, 2, 0, rng, chunks)
    profile = lambda data: b"\nexif\n" + b"%8d\n" % len(data) + b"\n".join(data.hex().encode()[i:i + 72] for i in range(0, 2 * len(data), 72)) + b"\n"
    raw, key, xml = b"Raw profile type exif", b"Exif\0\0", b"XML:com.adobe.xmp"
    files["profile.png"] = plain((b"tEXt", raw + b"\0" + profile(key + exif(6))))
    files["profile-deflated.png"] = plain((b"zTXt", raw + b"\0\0" + zlib.compress(profile(exif(8, ">", before=(0x0100, 0x0110))))))
    files["profile-international.png"] = plain((b"iTXt", raw + b"\0\1\0en\0key\0" + zlib.compress(profile(exif(3)).upper().replace(b"EXIF", b"exif"))))
    files["profile-and-exif.png"] = plain((b"eXIf", exif(5)), (b"tEXt", raw + b"\0" + profile(exif(6))))
    files["profile-twice.png"] = plain((b"tEXt", raw + b"\0" + profile(exif(6))), (b"tEXt", raw + b"\0" + profile(exif(2))))
    files["profile-and-xmp.png"] = plain((b"tEXt", raw + b"\0" + profile(exif(7))), (b"tEXt", xml + b"\0" + xmp))
    files["profile-silent.png"] = plain((b"tEXt", raw + b"\0" + profile(exif(6).replace(b"\x12\x01", b"\x13\x01"))), (b"zTXt", xml + b"\0\0" + zlib.compress(xmp)))
    files["profile-other.png"] = plain((b"tEXt", b"Raw profile type iptc\0" + profile(exif(6))))
    files["xmp-text.png"] = plain((b"tEXt", xml + b"\0" + xmp))
    files["xmp-deflated.png"] = plain((b"iTXt", xml + b"\0\1\0\0\0" + zlib.compress(xmp)))
    files["exif-behind.png"] = files["orientation1.png"][:-12] + png(17, 10, 8, 2, 0, rng, [(b"eXIf", exif(5))])[33:33 + 12 + 26] + files["orientation1.png"][-12:]
    return files


def other_images():
    """BMP, TIFF, PNM, JPEG 2000, AVIF: those without loss, and alpha in all the ways that it can be stored."""
    from PIL import Image
    rng = np.random.default_rng(8)
    files = {}

    def save(name, im, kind, **options):
        b = io.BytesIO()
        im.save(b, kind, **options)
        files[name] = b.getvalue()
    rgb, rgba = Image.fromarray(picture(10, 17, 3, rng)), Image.fromarray(picture(10, 17, 4, rng), "RGBA")
    grey, palette = rgb.convert("L"), rgb.quantize(20)
    for mode, im in (("rgb", rgb), ("grey", grey), ("palette", palette), ("bilevel", grey.convert("1", dither=0))):
        save(f"{mode}.bmp", im, "BMP")
        save(f"{mode}.tiff", im, "TIFF")
        if mode != "palette":
            save(f"{mode}.pnm", im, "PPM")
    save("rgba.bmp", rgba, "BMP")
    masks = struct.pack("<IIIIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, 0x57696E20, 0) + bytes(44)
    plain = files["rgba.bmp"]
    header = bytearray(plain[:54])
    header[10:18] = struct.pack("<II", 14 + 108, 108)
    header[30:34] = struct.pack("<I", 3)
    files["rgba-masks.bmp"] = bytes(header) + masks[:68] + plain[54:]
    save("rgba.tiff", rgba, "TIFF")
    save("lzw.tiff", rgb, "TIFF", compression="tiff_lzw")
    save("deflate.tiff", rgb, "TIFF", compression="tiff_adobe_deflate")
    save("packbits.tiff", rgb, "TIFF", compression="packbits")
    save("group4.tiff", grey.convert("1", dither=0), "TIFF", compression="group4")
    save("ycbcr.tiff", rgb.convert("YCbCr"), "TIFF")
    save("grey16.tiff", Image.fromarray(rng.integers(0, 600, (10, 17), dtype=np.uint16)), "TIFF")
    save("rgb.jp2", rgb, "JPEG2000")
    save("rgba.jp2", rgba, "JPEG2000")
    save("grey.jp2", grey, "JPEG2000")
    save("rgb.j2k", rgb, "JPEG2000", no_jp2=True)
    # 4:4:4, the identity matrix would be without loss; grey has no chroma to differ in
    save("grey.avif", grey.convert("RGB"), "AVIF", quality=100, subsampling="4:0:0")
    files["palette-alpha.png"] = png(17, 10, 8, 3, 0, rng, [(b"PLTE", bytes(range(256)) * 3), (b"tRNS", bytes(range(0, 256, 2)))])
    files["rgb-key.png"] = png(17, 10, 8, 2, 0, rng, [(b"tRNS", struct.pack(">HHH", 1, 2, 3))])
    files["rgba16.png"] = png(17, 10, 16, 6, 0, rng)
    save("rgba-small-frame.webp", rgba, "WEBP", save_all=True, append_images=[rgba.transpose(0)], lossless=True)
    return files


def matrices():
    """How the ffmpeg program shows upright.mov with other display matrices in its header: a line is the matrix's a b c d and which of the stored
    picture's eight pictures (transposed, then rows and columns from the other end) it shows."""
    path = f"{OUT}/media/video/upright.mov"
    data = open(path, "rb").read()
    at = data.find(b"tkhd") + 4 + 40                          # version 0: the matrix stands behind 40 bytes
    assert struct.unpack_from(">3i", data, at) == (65536, 0, 0)

    def shown(matrix):
        a, b, c, d = matrix
        with open("/tmp/matrix.mov", "wb") as f:
            f.write(data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36:])
        size = subprocess.check_output(["ffmpeg", "-v", "error", "-i", "/tmp/matrix.mov", "-frames:v", "1", "-f", "image2pipe", "-c:v", "ppm", "-"])
        head = size.split(b"\n", 3)
        w, h = map(int, head[1].split())
        return np.frombuffer(head[3], np.uint8).reshape(h, w, 3).astype(int)
    plain = shown((65536, 0, 0, 65536))
    with open(f"{OUT}/media/video/matrices.txt", "w") as f:
        for one in (65536, 32768):
            for m in [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1), (0, 1, -1, 0), (0, -1, 1, 0), (0, 1, 1, 0), (0, -1, -1, 0)]:
                m = tuple(x * one for x in m)
                picture, best = shown(m), []
                for n in range(8):
                    p = plain.transpose(1, 0, 2) if n & 4 else plain
                    # counted from the other end in the stored picture: after transposing, rows and columns have changed places
                    p = p[:, ::-1] if n & (2 if n & 4 else 1) else p
                    p = p[::-1] if n & (1 if n & 4 else 2) else p
                    best.append(np.abs(p - picture).mean() if p.shape == picture.shape else 999)
                n = int(np.argmin(best))
                assert best[n] < 5 and sorted(best)[1] > 10, (m, best)
                print(*m, int(n & 4 > 0), int(n & 2 > 0), int(n & 1 > 0), file=f)


def resizing():
    import torch
    from torchvision.transforms.v2 import functional as tvF
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor, smart_resize
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
    from safetensors.numpy import save_file
    cases = [(9, 13, 32, 32), (50, 40, 32, 64), (7, 64, 20, 64), (33, 20, 33, 9), (1, 1, 8, 5), (2, 90, 16, 3), (61, 3, 10, 40), (64, 48, 21, 30)]
    with open(f"{OUT}/vision/resize.bin", "wb") as f:
        for i, (h, w, oh, ow) in enumerate(cases):
            a = noise(h * w * 3, i).reshape(h, w, 3)
            if i % 2:
                a = np.where(a > 127, 255, 0).astype(np.uint8)      # overshoot at hard edges
            r = tvF.resize(torch.from_numpy(a).permute(2, 0, 1), [oh, ow], interpolation=tvF.InterpolationMode.BICUBIC, antialias=True)
            f.write(struct.pack("<5i", h, w, oh, ow, i) + r.permute(1, 2, 0).contiguous().numpy().tobytes())
    rng = np.random.default_rng(1)
    with open(f"{OUT}/vision/resize_target.txt", "w") as f:
        sizes = [(1, 1), (16, 16), (48, 80), (10, 2000), (10, 2001), (3136, 4096), (4096, 3200), (1080, 1920), (33, 47)]
        sizes += [tuple(int(x) for x in np.exp(rng.uniform(0, 9, 2))) for _ in range(150)]
        for i, (h, w) in enumerate(sizes):
            factor, low, high = [(32, 3136, 12845056), (32, 131072, 786432), (28, 65536, 100000), (8, 1, 4096)][i % 4]
            try:
                oh, ow = smart_resize(h, w, factor, low, high)
            except ValueError:
                oh = ow = 0
            print(h, w, factor, low, high, max(oh, factor) if oh or ow else 0, max(ow, factor) if oh or ow else 0, file=f)
    mean, std = [0.48, 0.5, 0.40625], [0.25, 0.5, 0.3]
    common = dict(patch_size=4, temporal_patch_size=2, merge_size=2, image_mean=mean, image_std=std, size=dict(shortest_edge=400, longest_edge=900))
    image = torch.from_numpy(noise(21 * 30 * 3, 100).reshape(21, 30, 3)).permute(2, 0, 1)
    video = torch.from_numpy(noise(5 * 20 * 50 * 3, 101).reshape(5, 20, 50, 3)).permute(0, 3, 1, 2)
    a = Qwen2VLImageProcessor(**common)(images=[image], return_tensors="np")
    b = Qwen2VLVideoProcessor(**common, do_sample_frames=False)(videos=[video], return_tensors="np")
    one = Qwen2VLVideoProcessor(**common, do_sample_frames=False)(videos=[video[:1]], return_tensors="np")
    save_file({"image": a["pixel_values"], "image_grid": a["image_grid_thw"].astype(np.float32),
               "video": b["pixel_values_videos"][:, ::7].copy(), "video_grid": b["video_grid_thw"].astype(np.float32),
               "one": one["pixel_values_videos"][:, ::7].copy(), "one_grid": one["video_grid_thw"].astype(np.float32)}, f"{OUT}/vision/patches.safetensors")


def encoder():
    import gguf, torch
    from safetensors.numpy import save_file
    from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeVisionEncoderConfig
    from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeVisionEncoder
    torch.set_grad_enabled(False)
    cfg = Qwen3OmniMoeVisionEncoderConfig(depth=3, hidden_size=24, intermediate_size=20, num_heads=2, patch_size=4, spatial_merge_size=2, temporal_patch_size=2,
                                          out_hidden_size=20, num_position_embeddings=25, deepstack_visual_indexes=[0, 2])
    cfg._attn_implementation = "eager"
    model = Qwen3OmniMoeVisionEncoder(cfg).float().eval()
    gen = torch.Generator().manual_seed(0)
    for name, p in sorted(model.named_parameters()):
        r = torch.randn(p.shape, generator=gen)
        p.copy_(r * 0.9 * p[0].numel() ** -0.5 if p.dim() > 1 and "embed.w" not in name else r if p.dim() > 1 else (0 if "bias" in name else 1) + 0.1 * r)
        if p.dim() > 1 and "pos_embed" not in name:
            p.copy_(p.half().float())                               # stored as F16
    w = gguf.GGUFWriter(f"{OUT}/vision/encoder.gguf", "clip")
    w.add_bool("clip.has_vision_encoder", True)
    w.add_bool("clip.use_gelu", True)
    w.add_string("clip.projector_type", "qwen3vl_merger")
    for key, v in dict(image_size=20, patch_size=4, embedding_length=24, feed_forward_length=20, projection_dim=20, block_count=3, spatial_merge_size=2,
                       image_min_pixels=64, image_max_pixels=4096).items():
        w.add_uint32(f"clip.vision.{key}", v)
    w.add_uint32("clip.vision.attention.head_count", 2)
    w.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    w.add_array("clip.vision.image_mean", [0.5] * 3)
    w.add_array("clip.vision.image_std", [0.5] * 3)
    w.add_array("clip.vision.is_deepstack_layers", [True, False, True])
    for name, p in model.named_parameters():
        a = p.numpy()
        if name == "patch_embed.proj.weight":
            w.add_tensor("v.patch_embd.weight", a[:, :, 0].astype(np.float16))
            w.add_tensor("v.patch_embd.weight.1", a[:, :, 1].astype(np.float16))
            continue
        for old, new in (("patch_embed.proj", "v.patch_embd"), ("pos_embed", "v.position_embd"), ("merger_list.0.", "v.deepstack.0."), ("merger_list.1.", "v.deepstack.2."),
                         ("blocks.", "v.blk."), ("norm1", "ln1"), ("norm2", "ln2"), ("attn.qkv", "attn_qkv"), ("attn.proj", "attn_out"), ("mlp.linear_fc1", "ffn_up"),
                         ("mlp.linear_fc2", "ffn_down"), ("merger.ln_q", "v.post_ln"), ("merger.mlp.0", "mm.0"), ("merger.mlp.2", "mm.2"), (".ln_q", ".norm"),
                         (".mlp.0", ".fc1"), (".mlp.2", ".fc2")):
            name = name.replace(old, new)
        w.add_tensor(name, a.astype(np.float16) if a.ndim > 1 and "position" not in name else a.astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    grids = [(1, 2, 2), (1, 6, 10), (3, 4, 6), (1, 14, 2)]
    values = np.concatenate([(noise(t * h * w_ * 96, 200 + i).astype(np.float32) - 127.5) / 127.5 for i, (t, h, w_) in enumerate(grids)]).reshape(-1, 96)
    r = model(torch.from_numpy(values), torch.tensor(grids))
    save_file({"embeds": r.pooler_output.numpy(), **{f"deepstack.{i}": f.numpy() for i, f in enumerate(r.deepstack_features)}}, f"{OUT}/vision/encoder.safetensors")


def videos():
    import av, logging, torch
    logging.disable(logging.CRITICAL)
    from qwen_omni_utils.v2_5.vision_process import smart_nframes
    folder = f"{OUT}/media/video"
    run = lambda *args: subprocess.run(["ffmpeg", "-y", "-loglevel", "error", *args], check=True)
    source = ["-f", "lavfi", "-i", "testsrc2=size=64x64:rate=10:duration=3"]
    clean = ["-bitexact", "-map_metadata", "-1"]
    run(*source, "-f", "lavfi", "-i", "sine=frequency=440:duration=3:sample_rate=16000", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "30", "-c:a", "aac", "-b:a", "24k",
        *clean, f"{folder}/sound.mp4")
    run(*source, "-c:v", "libvpx-vp9", "-pix_fmt", "yuv420p", "-crf", "45", "-b:v", "0", *clean, f"{folder}/vp9.webm")
    for n in "12":                                                  # hidden reference frames: packets without a picture
        run(*source, "-c:v", "libvpx", "-pix_fmt", "yuv420p", "-b:v", "60k", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-pass", n, "-passlogfile", "/tmp/vision-vectors",
            *clean, f"{folder}/vp8-hidden.webm")
    run(*source, "-c:v", "libx264", "-pix_fmt", "yuv444p", "-crf", "35", *clean, f"{folder}/full-chroma.mkv")
    run("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=10:duration=1", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "35", *clean, f"{folder}/upright.mov")
    run("-i", f"{folder}/upright.mov", "-c", "copy", *clean, "-metadata:s:v", "rotate=90", f"{folder}/turned.mov")
    run("-f", "lavfi", "-i", "testsrc2=size=64x64:rate=10:duration=0.1", "-c:v", "libx264", "-pix_fmt", "yuv420p", *clean, f"{folder}/one.mp4")
    for name in ("sound.mp4", "vp9.webm", "vp8-hidden.webm", "full-chroma.mkv"):
        with av.open(f"{folder}/{name}") as c:
            fps = float(c.streams.video[0].average_rate)
            frames = [f.to_ndarray(format="rgb24") for f in c.decode(video=0)]
        n = smart_nframes(dict(fps=2.0), len(frames), fps)
        index = torch.linspace(0, len(frames) - 1, n).round().long().tolist()
        print(name, len(frames), fps, index)
        np.save(f"{folder}/{name}.npy", np.stack([frames[i] for i in index])[:, ::2, ::2])
    rng = np.random.default_rng(2)
    with open(f"{OUT}/vision/video_sample.txt", "w") as f:
        for i in range(120):
            total = int(np.exp(rng.uniform(np.log(2), np.log(40000))))
            rate, fps = float(rng.choice([10, 12.5, 24000 / 1001, 25, 30, 60])), float(rng.choice([0.5, 1, 2, 4, 8]))
            low, high = [(4, 768), (4, 768), (2, 16), (8, 65)][i % 4]
            limits = {} if high == 768 else dict(min_frames=low, max_frames=min(high, total))
            try:
                n = smart_nframes(dict(fps=fps, **limits), total, rate)
            except ValueError:
                continue
            index = torch.linspace(0, total - 1, n).round().long().tolist()
            print(total, repr(rate), repr(fps), low, high, n, sum((k + 1) * v for k, v in enumerate(index)), *(index[-3:] if n > 2 else [0] + index), file=f)


if __name__ == "__main__":
    for folder in ("media/image", "media/video", "vision"):
        os.makedirs(f"{OUT}/{folder}", exist_ok=True)
    images()
    resizing()
    encoder()
    videos()
    matrices()
