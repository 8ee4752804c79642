#!/usr/bin/env python3
"""Check that llama.cpp runs the converted files: the same greedy text as transformers for a text prompt, and that it takes a picture
and a sound through the encoders' file.

    check_llama.py --omni build/omni --llama LLAMA_CPP_BIN_DIR CHECKPOINT_DIR... [--types f32,f16]

llama-completion must give transformers' text for the thinker (F32 files exactly; other types only run). llama-mtmd-cli must load the
encoders' file beside it; a model whose extra feature sets are as many as its layers is left out there, llama.cpp cannot run it.
Needs torch, transformers, numpy, pillow.
"""
import argparse, json, subprocess, tempfile, wave

import numpy as np

PROMPT = "<|im_start|>user\nWhat is this? 123<|im_end|>\n<|im_start|>assistant\n"
TOKENS = 16


def reference(folder):
    import torch
    from transformers import AutoTokenizer, Qwen3OmniMoeForConditionalGeneration
    torch.set_grad_enabled(False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Qwen3OmniMoeForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    out = model.thinker.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False, eos_token_id=None)
    return tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)


def run(command):
    r = subprocess.run(command, capture_output=True, timeout=300)
    assert r.returncode == 0, f"{' '.join(command)}\n{r.stderr.decode(errors='replace')[-2000:]}"
    return r.stdout.decode(errors="replace")


def convert(omni, folder, out, kind):
    run([omni, "convert", folder, "-o", out, "--type", kind])


def media(work):
    from PIL import Image
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (128, 96, 3), dtype=np.uint8)).save(f"{work}/p.png")
    with wave.open(f"{work}/s.wav", "wb") as w:
        w.setnchannels(1); w.setsampwidth(2); w.setframerate(16000)
        w.writeframes((3000 * np.sin(np.arange(32000) / 5)).astype(np.int16).tobytes())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--omni", required=True); p.add_argument("--llama", required=True); p.add_argument("--types", default="f32,f16")
    p.add_argument("checkpoints", nargs="+")
    a = p.parse_args()
    for folder in a.checkpoints:
        want = reference(folder)
        config = json.load(open(f"{folder}/config.json"))["thinker_config"]
        both = len(config["vision_config"]["deepstack_visual_indexes"]) < config["text_config"]["num_hidden_layers"]
        for kind in a.types.split(","):
            with tempfile.TemporaryDirectory() as work:
                convert(a.omni, folder, work, kind)
                thinker, mmproj = f"{work}/qwen3-omni-{kind}.gguf", f"{work}/mmproj-qwen3-omni-{kind}.gguf"
                common = ["-m", thinker, "--temp", "0", "-t", "2", "-c", "1024", "-ctk", "f32", "-ctv", "f32", "-fa", "off"]
                # Two tokens more than compared: on a busy machine llama-completion can end without having written its last one.
                got = run([f"{a.llama}/llama-completion", *common, "-p", PROMPT, "-n", str(TOKENS + 2), "--no-warmup", "-no-cnv", "--ignore-eos",
                           "--no-display-prompt"])
                equal = got.strip().startswith(want.strip().rstrip("\ufffd"))
                if kind == "f32":
                    assert equal, f"{folder}: llama.cpp gives {got!r}, transformers {want!r}"
                line = f"{folder} {kind}: text {'equal' if equal else 'differs'}"
                if both:
                    media(work)
                    for kind_of, file in (("--image", "p.png"), ("--audio", "s.wav")):
                        run([f"{a.llama}/llama-mtmd-cli", *common, "--mmproj", mmproj, kind_of, f"{work}/{file}", "-p", "what", "-n", "4", "--jinja"])
                    line += ", picture and sound taken"
                print(line, flush=True)


main()
