#!/usr/bin/env python3
"""Compare omni with the reference implementation (transformers) on tiny random checkpoints, live.

    run.py --omni build/omni [--shared ../shared] [--work DIR] [--variants a,b,c] [--only TEXT] [--types f32,f16,bf16,q8_0,q6_k,q5_k_m,q4_k_m]

For each variant: build a checkpoint, convert it, let the reference compute every case (one process), run `omni run` on each and
compare the traces (compare.py). Ends with the line "N passed, N failed"; exits 1 on any failure. --work keeps checkpoints and
references between runs; without it everything lies in a temporary folder.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import media
from compare import compare

LONG_TEXT = " ".join(f"Item {i}: the quick brown fox #{i * 7919 % 1000} jumps; 那隻狐狸跳了 {i} 次 — très élégant, nicht wahr?" for i in range(30))


def cases(m):
    """Name -> case, in the form that tiny_omni.py takes."""
    turns = [
        dict(role="system", content="You are a careful listener."),
        dict(role="user", content=[dict(type="image", path=m["odd"]), dict(type="text", text="What is in this picture?")]),
        dict(role="assistant", content="A field of colours."),
        dict(role="user", content=[dict(type="audio", path=m["medium"]), dict(type="text", text="And in this sound?")]),
        dict(role="assistant", content="Some tones."),
        dict(role="user", content="Thank you! Please say both again."),
    ]
    mixed = [
        dict(role="user", content=[dict(type="text", text="First a sound: "), dict(type="audio", path=m["short"]), dict(type="image", path=m["wide"]),
                                   dict(type="text", text="then a picture and a film "), dict(type="video", path=m["clip"]),
                                   dict(type="audio", path=m["exact"]), dict(type="text", text="what do they share?")])]
    films = [  # sounds of the videos are given beside the conversation; one sound of its own comes before them
        dict(role="user", content=[dict(type="audio", path=m["short"]), dict(type="video", path=m["clip2"]), dict(type="text", text="What happens here?")]),
        dict(role="assistant", content="Something moves."),
        dict(role="user", content=[dict(type="video", path=m["clip"]), dict(type="text", text="And here?")])]
    return {
        "text": dict(prompt="What is this? 這是什麼？ 123", tokens=16),
        "text-system": dict(system="You are a pirate.", prompt="  Hello,\n\n\tworld!  \U0001F600 café cafe\u0301 1234567", tokens=12),
        "text-long": dict(prompt=LONG_TEXT, tokens=8),
        "image": dict(image=[m["square"]], prompt="Describe the picture.", tokens=12),
        "image-odd": dict(image=[m["odd"]], prompt="Describe the picture.", tokens=8),
        "images": dict(image=[m["wide"], m["odd"], m["square"]], prompt="Compare them.", tokens=8),
        "sound": dict(audio=[m["medium"]], prompt="What do you hear?", tokens=12),
        "sound-short": dict(audio=[m["short"]], prompt="What do you hear?", tokens=8),
        "sounds": dict(audio=[m["long"], m["short"], m["exact"]], prompt="Which is the longest?", tokens=8),
        "image-sound": dict(image=[m["square"]], audio=[m["medium"]], prompt="Do they fit?", tokens=10),
        "everything": dict(image=[m["wide"], m["square"]], video=[m["clip"]], audio=[m["short"], m["medium"]], prompt="Sort them.", tokens=8),
        "mixed-order": dict(messages=mixed, tokens=8),
        "video": dict(video=[m["clip"]], prompt="What happens?", tokens=12),
        "video-fps": dict(video=[m["odd_clip"]], fps=1.0, prompt="What happens?", tokens=8),
        "videos": dict(video=[m["clip2"], m["clip"]], prompt="Which one moves faster?", tokens=8),
        "video-sound": dict(video=[m["clip"]], audio=[m["clip_sound"]], use_audio_in_video=True, prompt="What happens and what is said?", tokens=12),
        "videos-sound": dict(video=[m["clip2"], m["clip"]], audio=[m["clip2_sound"], m["clip_sound"]], use_audio_in_video=True,
                             prompt="Which one is louder?", tokens=8),
        "turns": dict(messages=turns, tokens=12),
        "turns-video-sound": dict(messages=films, audio=[m["clip2_sound"], m["clip_sound"]], use_audio_in_video=True, tokens=8),
        "turns-film-file": dict(messages=films, audio=[m["clip2_sound"], m["clip_sound"]], use_audio_in_video=True, tokens=8, files=m["films"]),
        "video-file": dict(video=[m["clip2"], m["clip"]], prompt="Which one moves faster?", tokens=8, files=m["films"]),
        "speak-chelsie": dict(prompt="Say hello to everybody.", tokens=12, speak=True, speaker="Chelsie", frames=30),
        "speak-ethan": dict(image=[m["square"]], audio=[m["short"]], prompt="Describe both.", tokens=10, speak=True, speaker="Ethan", frames=20),
        "speak-aiden": dict(video=[m["clip"]], audio=[m["clip_sound"]], use_audio_in_video=True, prompt="Tell me.", tokens=10, speak=True,
                            speaker="Aiden", frames=20),
        "speak-turns": dict(messages=turns, tokens=8, speak=True, speaker="Chelsie", frames=16),
        "speak-long": dict(prompt="Count.", tokens=40, speak=True, speaker="Ethan", frames=90, penalty=1.05),
    }


def random_variant(seed):
    """Sizes drawn at random: what holds for a, b and c must hold for others."""
    import numpy as np
    r = np.random.default_rng(seed)
    pick = lambda *xs: int(r.choice(xs))
    half = pick(8, 16, 24)
    w = half // 3 - pick(0, 1)
    groups, codebook = pick(3, 6, 12), pick(32, 96, 160)
    kv, a_heads, v_heads, t_kv, p_kv = pick(1, 2, 3), pick(2, 3, 5), pick(2, 3), pick(1, 2), pick(1, 2)
    layers, v_layers, experts, t_experts, w_heads = pick(3, 5, 6), pick(3, 4, 6), pick(5, 9, 16), pick(4, 7), pick(2, 4)
    sizes = dict(hidden=32 * pick(2, 3, 5), layers=layers, heads=kv * pick(1, 2, 4), kv=kv, head_dim=2 * half, mrope=[half - 2 * w, w, w],
                moe=8 * pick(3, 5, 9), experts=experts, topk=pick(1, 3, 5), accept=int(r.integers(1, layers)), a_d=a_heads * 2 * pick(6, 8, 10),
                a_layers=pick(1, 2, 4), a_heads=a_heads, a_ffn=pick(40, 56, 100), a_down=pick(4, 6, 20), v_d=v_heads * 4 * pick(5, 6, 9), v_layers=v_layers,
                v_heads=v_heads, v_ffn=pick(44, 70, 90), v_deep=sorted(int(x) for x in r.choice(v_layers, min(3, layers), False)), v_grid=pick(5, 11, 20),
                t_hidden=16 * pick(2, 3, 5), t_layers=pick(2, 3, 5), t_heads=t_kv * pick(1, 2, 3), t_kv=t_kv, t_moe=8 * pick(1, 3, 5), t_shared=8 * pick(1, 2, 4),
                t_experts=t_experts, t_topk=pick(1, 2, 4), p_layers=pick(1, 2, 4), p_heads=p_kv * pick(1, 3), p_kv=p_kv, p_ffn=pick(24, 72), codebook=codebook,
                groups=groups, t_vocab=codebook + 1024, w_hidden=w_heads * 2 * pick(5, 8), w_layers=pick(1, 3), w_heads=w_heads, w_ffn=pick(24, 56),
                w_window=pick(3, 8, 15), w_dim=16 * pick(2, 3, 5))
    if seed > 2:  # the ends: no deepstack or one from every layer, every expert used
        sizes.update(v_deep=[] if seed % 2 else list(range(v_layers)), topk=experts if seed % 3 == 0 else sizes["topk"], t_topk=t_experts if seed % 3 == 1 else sizes["t_topk"])
    return sizes


def omni_command(omni, files, case, trace):
    command = [omni, "run", "--model", files["model"], "--mmproj", files["mmproj"], "--talker", files["talker"], "--greedy", "--ignore-eos",
               "--max-tokens", str(case.get("tokens", 12)), "--trace", trace]
    files = case.get("files") or {}  # frames -> the same as a film with its sound, which only we can read
    if case.get("messages"):
        path = trace + ".messages.json"
        conversation = json.loads(json.dumps(case["messages"]))
        for part in (x for message in conversation if isinstance(message["content"], list) for x in message["content"] if x["type"] == "video"):
            part["path"] = files.get(part["path"], part["path"])
        if case.get("audio") and not files:
            conversation = dict(messages=conversation, audio=case["audio"])
        json.dump(conversation, open(path, "w"))
        command += ["--messages", path]
    else:
        for kind in ("image", "video", "audio"):
            for path in case.get(kind) or []:
                command += ["--" + kind, files.get(path, path)]
        command += ["-p", case["prompt"]]
        if case.get("system"):
            command += ["--system", case["system"]]
    if case.get("fps"):
        command += ["--fps", str(case["fps"])]
    if case.get("use_audio_in_video"):
        command += ["--use-audio-in-video"]
    if case.get("speak"):
        command += ["-o", trace + ".wav", "--voice", case["speaker"], "--max-frames", str(case["frames"] - 1)]  # the reference counts the talker's tokens
    return command


# Largest error over the largest reference value, of logits, embeddings and hidden states; twice what was measured for the block types.
TOLERANCE = {"f32": 1e-4, "f16": 1e-2, "bf16": 1e-2, "q8_0": 5e-2, "q6_k": 8e-2, "q5_k_m": 0.12, "q4_k_m": 0.2,
             "q5_1": 0.12, "q5_0": 0.15, "q4_1": 0.25, "q4_0": 0.25, "q5_k": 0.12, "q4_k": 0.25}


class Parity:
    def __init__(self, a):
        self.a = a
        self.tool = os.path.join(a.shared, "reference", "tiny_omni.py")
        self.passed = self.failed = 0

    def check(self, name, ok, text):
        self.passed, self.failed = self.passed + bool(ok), self.failed + (not ok)
        print(f"{'ok  ' if ok else 'FAIL'} {name}: {text}", flush=True)

    def run(self, command, **kwargs):
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, **kwargs)

    def reference(self, folder, variant, seed):
        """Checkpoint and reference traces of a variant; both are kept when --work is given."""
        checkpoint, stamp = os.path.join(folder, "checkpoint"), os.path.join(folder, "cases.json")
        chosen = cases(media.make(os.path.join(folder, "media"), 100 * seed))
        if self.a.only:
            chosen = {k: c for k, c in chosen.items() if self.a.only in k}
        if not os.path.exists(os.path.join(checkpoint, "chat_template.jinja")):
            subprocess.run([sys.executable, self.tool, "build", checkpoint, "--seed", str(seed), "--variant", variant], check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for name, case in chosen.items():
            case["out"] = os.path.join(folder, name + ".reference.safetensors")
        todo = [c for c in chosen.values() if not os.path.exists(c["out"])]
        if todo:
            json.dump(todo, open(stamp, "w"))
            r = self.run([sys.executable, self.tool, "cases", checkpoint, stamp])
            if r.returncode:
                sys.stderr.write(r.stderr.decode(errors="replace")[-3000:])
                raise SystemExit(f"the reference failed on variant {variant}")
        return checkpoint, chosen

    def variant(self, label, variant, seed):
        from safetensors.numpy import load_file
        start = time.time()
        folder = os.path.join(self.a.work, label)
        os.makedirs(folder, exist_ok=True)
        checkpoint, chosen = self.reference(folder, variant, seed)
        print(f"-- {label}: reference ready after {time.time() - start:.1f} s", flush=True)
        for kind in self.a.types.split(","):
            out = os.path.join(folder, "gguf-" + kind)
            r = self.run([self.a.omni, "convert", checkpoint, "-o", out, "--type", kind])
            self.check(f"{label}/{kind}/convert", r.returncode == 0, (r.stderr.decode(errors="replace").strip().splitlines() or ["converted"])[-1])
            if r.returncode:
                continue
            files = {k: os.path.join(out, p + "qwen3-omni-" + kind + ".gguf") for k, p in (("model", ""), ("mmproj", "mmproj-"), ("talker", "talker-"))}
            tolerance = TOLERANCE[kind]
            for name, case in chosen.items():
                trace = os.path.join(folder, f"{name}.{kind}.ours.safetensors")
                if os.path.exists(trace):
                    os.remove(trace)
                begin = time.time()
                r = self.run(omni_command(self.a.omni, files, case, trace))
                took = time.time() - begin
                if r.returncode or not os.path.exists(trace):
                    self.check(f"{label}/{kind}/{name}", False, f"exit {r.returncode}: {r.stderr.decode(errors='replace').strip()[-300:]}")
                    continue
                rows = compare(load_file(case["out"]), load_file(trace), tolerance, kind != "f32")
                faults = [f"{n}: {text}" for n, fault, text in rows if fault]
                worst = max((text for n, _, text in rows if text.startswith("error")), key=lambda s: float(s.split()[1]), default="")
                self.check(f"{label}/{kind}/{name}", not faults, "; ".join(faults) or f"{len(rows)} tensors, worst {worst} ({took:.1f} s)")
        print(f"-- {label}: {time.time() - start:.1f} s", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--omni", required=True)
    p.add_argument("--shared", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "shared"))
    p.add_argument("--work", default="")
    p.add_argument("--variants", default="a,b,c,a:7,random:1,random:2", help="NAME or NAME:SEED, random:SEED draws the sizes too")
    p.add_argument("--types", default="f32")
    p.add_argument("--only", default="", help="cases whose name contains this")
    a = p.parse_args()
    a.omni, a.shared = os.path.abspath(a.omni), os.path.abspath(a.shared)
    if not os.path.exists(os.path.join(a.shared, "reference", "tiny_omni.py")):
        sys.exit(f"{a.shared}/reference/tiny_omni.py is missing: give the folder that holds the reference tool with --shared")
    temporary = None
    if not a.work:
        temporary = tempfile.TemporaryDirectory()
        a.work = temporary.name
    a.work = os.path.abspath(a.work)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    parity = Parity(a)
    for item in a.variants.split(","):
        name, _, seed = item.partition(":")
        seed = int(seed or 0)
        label = name + (f"-{seed}" if seed else "")
        if name == "random":
            os.makedirs(os.path.join(a.work, label), exist_ok=True)
            name = os.path.join(a.work, label, "variant.json")
            json.dump(random_variant(seed), open(name, "w"))
        parity.variant(label, name, seed)
    print(f"{parity.passed} passed, {parity.failed} failed")
    sys.exit(parity.failed > 0)


if __name__ == "__main__":
    main()
