#!/usr/bin/env python3
"""Writes a checkpoint of the smallest sizes, in the released layout, with random values: input for tests/hostile.py. usage: micro_checkpoint.py DIR
Standard library only. The experts of the thinker are fused, those of the talker lie one by one; two shards with an index."""
import itertools, json, os, random, re, shutil, struct, sys

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "convert")


def expand(name):
    """A name for every combination of its {a-b} ranges."""
    parts = re.split(r"\{(\d+)-(\d+)\}", name)
    ranges = [range(int(a), int(b) + 1) for a, b in zip(parts[1::3], parts[2::3])]
    for numbers in itertools.product(*ranges):
        yield parts[0] + "".join(f"{n}{text}" for n, text in zip(numbers, parts[3::3]))


def tensors():
    with open(os.path.join(DATA, "micro_tensors.txt")) as f:
        for line in f:
            pattern, shape = re.fullmatch(r"(\S+) \[(.*)\]\n", line).groups()
            shape = [int(n) for n in shape.split(",") if n.strip()]
            for name in expand(pattern):
                base, kind = name.rsplit(".", 1)
                if name.startswith("talker.") and base.endswith(".experts"):
                    for i in range(shape[0]):
                        for part in ["gate_proj", "up_proj"] if kind == "gate_up_proj" else [kind]:
                            yield f"{base}.{i}.{part}.weight", [shape[1] // 2 if kind == "gate_up_proj" else shape[1], shape[2]]
                else:
                    yield name, shape


def main():
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    rng = random.Random(1)
    everything = list(tensors())
    half, weight_map, total = len(everything) // 2, {}, 0
    for number, part in enumerate([everything[:half], everything[half:]], 1):
        shard, header, data = f"model-{number:05}-of-00002.safetensors", {}, b""
        for name, shape in part:
            n = 1
            for d in shape:
                n *= d
            values = b"".join(struct.pack("<f", rng.gauss(0, 0.1))[2:] for _ in range(n))  # BF16: the upper half of a float
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
            data += values
            weight_map[name] = shard
        total += len(data)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(folder, shard), "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + data)
    with open(os.path.join(DATA, "micro_tokenizer.json")) as f:
        tokenizer = json.load(f)
    tokens = {t["content"]: t for t in tokenizer["added_tokens"]}
    files = {
        "model.safetensors.index.json": {"metadata": {"total_size": total}, "weight_map": weight_map},
        "preprocessor_config.json": {"image_mean": [0.5, 0.25, 0.125], "image_std": [0.5, 0.5, 1], "min_pixels": 64, "max_pixels": 4096, "patch_size": 4,
                                     "sampling_rate": 16000, "n_fft": 400, "hop_length": 160, "feature_size": 20},
        "vocab.json": tokenizer["model"]["vocab"],
        "tokenizer_config.json": {"added_tokens_decoder": {str(t["id"]): t for t in tokens.values()}, "chat_template": "{{ messages }}"},
    }
    for name, value in files.items():
        with open(os.path.join(folder, name), "w") as f:
            json.dump(value, f)
    with open(os.path.join(folder, "merges.txt"), "w") as f:
        f.write("#version: 0.2\n" + "".join((m if isinstance(m, str) else " ".join(m)) + "\n" for m in tokenizer["model"]["merges"]))
    for name in ["config", "tokenizer"]:
        shutil.copy(os.path.join(DATA, f"micro_{name}.json"), os.path.join(folder, f"{name}.json"))


if __name__ == "__main__":
    main()
