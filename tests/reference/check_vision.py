#!/usr/bin/env python3
"""Compare image and video input and the vision encoder with transformers, live, on a checkpoint and its converted mmproj file.

    check_vision.py CHECKPOINT_DIR MMPROJ.gguf VISION_DUMP [--quick]

VISION_DUMP is the program that the build makes of tests/tools/vision_dump.c. Prints one line a case; exit status 1 when a patch
value differs, or an embedding by more than 1e-4 of the largest reference value.
"""
import argparse, os, subprocess, sys, tempfile
import numpy as np


def picture(h, w, seed):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:h, 0:w]
    a = np.stack([127 + 90 * np.sin(x / (7 + 5 * i) + y / (11 - i)) for i in range(3)], -1) + rng.normal(0, 25, (h, w, 3))
    return np.clip(a, 0, 255).astype(np.uint8)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checkpoint"); p.add_argument("mmproj"); p.add_argument("program"); p.add_argument("--quick", action="store_true")
    a = p.parse_args()
    import torch
    from PIL import Image
    from safetensors.numpy import load_file
    from transformers import Qwen3OmniMoeForConditionalGeneration, Qwen2VLImageProcessor, Qwen2VLVideoProcessor
    torch.set_grad_enabled(False)
    model = Qwen3OmniMoeForConditionalGeneration.from_pretrained(a.checkpoint, dtype=torch.float32, attn_implementation="eager").thinker.visual.eval()
    shape = dict(patch_size=model.config.patch_size, temporal_patch_size=model.config.temporal_patch_size, merge_size=model.config.spatial_merge_size,
                 image_mean=[0.5] * 3, image_std=[0.5] * 3)
    of_images = Qwen2VLImageProcessor(**shape, size=dict(shortest_edge=3136, longest_edge=12845056))
    of_videos = Qwen2VLVideoProcessor(**shape, do_sample_frames=False, size=dict(shortest_edge=128 * 32 * 32, longest_edge=768 * 32 * 32))
    worst = dict(pixels=0.0, embeds=0.0)
    with tempfile.TemporaryDirectory() as folder:
        # cases: lists of image sizes (height, width) and of video sizes (frames, height, width)
        cases = [([(64, 64)], []), ([(47, 83)], []), ([(1, 1)], []), ([(20, 1000)], []), ([(1000, 33)], []), ([(224, 320), (65, 31), (32, 32)], []),
                 ([], [(2, 64, 96)]), ([], [(1, 400, 300)]), ([], [(5, 131, 77)]), ([(100, 140)], [(4, 360, 480), (3, 50, 50)])]
        if not a.quick:
            cases += [([(700, 900)], []), ([(90, 2500)], []), ([], [(6, 720, 1280)])]
        for n, (images, videos) in enumerate(cases):
            args, frames = [], []
            for i, (h, w) in enumerate(images):
                Image.fromarray(picture(h, w, 100 * n + i)).save(f"{folder}/{n}-{i}.png")
                args += ["--image", f"{folder}/{n}-{i}.png"]
            for i, (t, h, w) in enumerate(videos):
                frames.append(np.stack([picture(h, w, 1000 * n + 10 * i + k) for k in range(t)]))
                np.save(f"{folder}/{n}-{i}.npy", frames[-1])
                args += ["--video", f"{folder}/{n}-{i}.npy"]
            r = subprocess.run([a.program, a.mmproj, f"{folder}/out", *args], capture_output=True, text=True)
            if r.returncode:
                sys.exit(r.stderr)
            got, errors = load_file(f"{folder}/out"), {}
            for kind, want in (("image", of_images(images=[Image.open(f"{folder}/{n}-{i}.png") for i in range(len(images))], return_tensors="pt") if images else None),
                               ("video", of_videos(videos=[torch.from_numpy(f).permute(0, 3, 1, 2) for f in frames], return_tensors="pt") if videos else None)):
                if want is None:
                    continue
                pixels, grid = (want[k] for k in (("pixel_values", "image_grid_thw") if kind == "image" else ("pixel_values_videos", "video_grid_thw")))
                assert (got[f"{kind}.grid"] == grid.numpy()).all(), (kind, got[f"{kind}.grid"], grid)
                errors["pixels"] = max(errors.get("pixels", 0.0), float(np.abs(got[f"{kind}.pixel_values"] - pixels.numpy()).max()))
                out = model(pixels, grid)
                for name, t in [("embeds", out.pooler_output)] + [(f"deepstack_embeds.{k}", t) for k, t in enumerate(out.deepstack_features)]:
                    t = t.numpy()
                    assert t.shape == got[f"{kind}.{name}"].shape
                    errors[f"{kind}.{name}"] = float(np.abs(got[f"{kind}.{name}"] - t).max() / np.abs(t).max())
            for k, e in errors.items():
                key = "pixels" if k == "pixels" else "embeds"
                worst[key] = max(worst[key], e)
            print("images", images, "videos", videos, " ".join(f"{k} {e:.2g}" for k, e in errors.items()), flush=True)
    print(f"largest difference of a patch value {worst['pixels']:.3g}, of an embedding {worst['embeds']:.3g} of the largest")
    sys.exit(worst["pixels"] != 0 or not worst["embeds"] < 1e-4)


if __name__ == "__main__":
    main()
