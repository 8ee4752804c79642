#!/usr/bin/env python3
"""Random conversations with media, expanded and positioned by the reference implementation.

    positions.py write FILE [--cases N] [--seed N] [--small] [--merge N]     cases as tests/unit/test_positions.c reads them
    positions.py check TEST_POSITIONS [--cases N] [--seed N]     writes cases to a temporary file and runs the test on it

Needs torch and transformers (>= 5.17).
"""
import argparse, os, random, re, subprocess, sys, tempfile
from types import SimpleNamespace

import torch
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as modeling
from transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe import Qwen3OmniMoeProcessor, _get_feat_extract_output_lengths

IDS = {"<|image_pad|>": 10, "<|video_pad|>": 11, "<|audio_pad|>": 12, "<|vision_start|>": 13, "<|vision_end|>": 14,
       "<|audio_start|>": 15, "<|audio_end|>": 16}
MERGE, PER_SECOND = 2, 13
PLACEHOLDER = dict(image="<|vision_start|><|image_pad|><|vision_end|>", video="<|vision_start|><|video_pad|><|vision_end|>",
                   audio="<|audio_start|><|audio_pad|><|audio_end|>")


def ids_of(text):
    return [IDS[t] if t in IDS else int(t[1:]) for t in re.findall(r"<\|[a-z_]+\|>|t\d+", text)]


def processor():
    p = Qwen3OmniMoeProcessor.__new__(Qwen3OmniMoeProcessor)
    p.image_token, p.video_token, p.audio_token = "<|image_pad|>", "<|video_pad|>", "<|audio_pad|>"
    p.vision_bos_token, p.vision_eos_token = "<|vision_start|>", "<|vision_end|>"
    p.audio_bos_token, p.audio_eos_token = "<|audio_start|>", "<|audio_end|>"
    p.image_processor = p.video_processor = SimpleNamespace(merge_size=MERGE)
    return p


def model():
    m = modeling.Qwen3OmniMoePreTrainedModelForConditionalGeneration.__new__(modeling.Qwen3OmniMoePreTrainedModelForConditionalGeneration)
    torch.nn.Module.__init__(m)
    m.spatial_merge_size = MERGE
    m.config = SimpleNamespace(image_token_id=10, video_token_id=11, audio_token_id=12, vision_start_token_id=13, audio_start_token_id=15,
                               position_id_per_seconds=PER_SECOND, audio_config=SimpleNamespace(n_window=50))
    return m


def make_case(rng, p, m, small):
    clips = rng.random() < 0.5                                      # every video brings its sound (use_audio_in_video), or none
    text, marked, media = "", [], []
    grids = dict(image=[], video=[])
    lengths, seconds = [], []                                       # mel frames of the sounds; seconds of the videos

    def words(low, high):
        nonlocal text
        n = rng.randint(low, high)
        ids = [rng.randint(100, 999) for _ in range(n)]
        text += "".join(f"t{i}" for i in ids)
        marked.extend(ids)

    def sound():
        frames = rng.randint(1, 150 if small else 900)
        lengths.append(frames)
        return int(_get_feat_extract_output_lengths(frames))

    words(1, 6)
    for _ in range(rng.choice([0, 1, 1, 2, 3]) if small else rng.randint(0, 5)):
        kind = rng.choice(["image", "video", "audio"])
        text += PLACEHOLDER[kind]
        grid, second, rows = (0, 0, 0), 0.0, -1
        if kind != "audio":
            side = 1 if small and kind == "video" else 2 if small else 6
            grid = (1 if kind == "image" else rng.randint(1, 9), MERGE * rng.randint(1, side), MERGE * rng.randint(1, side))
            grids[kind].append(grid)
        if kind == "video":
            second = 2 / rng.choice([0.5, 1.0, 2.0, 2.0, 3.0, 6.5, 7.0, 13.0, 13.0, 24.0, 26.0, 29.97, rng.uniform(0.2, 30)])
            seconds.append(second)
        if kind == "audio" or (kind == "video" and clips):
            rows = sound()
        marked.extend([15, -1 - len(media), 16] if kind == "audio" else [13, -1 - len(media), 14])
        media.append((dict(image=0, audio=1, video=2)[kind], *grid, second, rows))
        words(0, 5)
    words(2, 5)
    grid_image = torch.tensor(grids["image"], dtype=torch.long) if grids["image"] else None
    grid_video = torch.tensor(grids["video"], dtype=torch.long) if grids["video"] else None
    audio = torch.tensor(lengths, dtype=torch.long) if lengths else None
    expanded = p.replace_multimodal_special_tokens(
        [text], iter(_get_feat_extract_output_lengths(audio)) if lengths else iter([]), iter(grid_image if grid_image is not None else []),
        iter(grid_video if grid_video is not None else []), video_second_per_grid=iter(seconds), use_audio_in_video=clips,
        position_id_per_seconds=13.0, seconds_per_chunk=2.0)[0]
    ids = ids_of(expanded)
    tensor = torch.tensor([ids])
    second_tensor = torch.tensor(seconds) if seconds else None

    def positions(flag):
        try:
            pos, delta = m.get_rope_index(tensor, grid_image, grid_video, torch.ones_like(tensor), flag, audio, second_tensor)
        except (RuntimeError, IndexError, ValueError):
            return None
        return pos[:, 0].tolist(), float(delta.reshape(-1)[0])
    lines = [f"case {len(marked)} {len(media)} {len(ids)}", " ".join(map(str, marked))]
    lines += [" ".join(map(repr, x)) for x in media]
    lines.append(" ".join(map(str, ids)))
    for flag in (clips, False):                                     # the thinker's call, then the talker's
        got = positions(flag)
        if got is None:
            lines.append("refused")
        else:
            lines += [f"positions {got[1]!r}"] + [" ".join(f"{x:.9g}" for x in axis) for axis in got[0]]
    return "\n".join(lines)


def write(path, cases, seed, small):
    rng, p, m = random.Random(seed), processor(), model()
    with open(path, "w") as f:
        f.write(f"# made by tests/reference/positions.py, seed {seed}, merge {MERGE}\n")
        for _ in range(cases):
            f.write(make_case(rng, p, m, small) + "\n")


if __name__ == "__main__":
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("what", choices=["write", "check"])
    a.add_argument("path")
    a.add_argument("--cases", type=int, default=300)
    a.add_argument("--seed", type=int, default=0)
    a.add_argument("--small", action="store_true")
    a.add_argument("--merge", type=int, default=2, help="spatial merge of the vision encoder (2)")
    o = a.parse_args()
    MERGE = o.merge
    if o.what == "write":
        write(o.path, o.cases, o.seed, o.small)
    else:
        with tempfile.TemporaryDirectory() as d:
            file = os.path.join(d, "cases.txt")
            write(file, o.cases, o.seed, o.small)
            sys.exit(subprocess.run([o.path, file]).returncode)
