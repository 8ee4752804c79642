#!/usr/bin/env python3
"""Write a checkpoint with the released model's layer shapes and random BF16 values, of about the size asked for.

    make_large_checkpoint.py CONFIG.json TOKENIZER.json OUT_DIR [--gigabytes 8] [--fused] [--shard-gigabytes 4]

The number of thinker layers follows from the size; the other parts keep few layers. Nothing is held in memory: the values repeat a
random block. For measuring the conversion's memory:
    /usr/bin/time -v build/omni convert OUT_DIR -o SOMEWHERE
Needs torch and transformers >= 5.17 (for the list of tensors), numpy.
"""
import argparse, json, os

import numpy as np
import torch
from transformers import Qwen3OmniMoeConfig, Qwen3OmniMoeForConditionalGeneration


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config"); p.add_argument("tokenizer"); p.add_argument("out")
    p.add_argument("--gigabytes", type=float, default=8); p.add_argument("--shard-gigabytes", type=float, default=4)
    p.add_argument("--fused", action="store_true", help="experts as one tensor a layer, instead of one by one")
    a = p.parse_args()
    config = json.load(open(a.config))
    text = config["thinker_config"]["text_config"]
    config["thinker_config"]["audio_config"]["encoder_layers"] = 2
    config["thinker_config"]["vision_config"].update(depth=4, deepstack_visual_indexes=[0, 1, 2])
    config["talker_config"]["text_config"]["num_hidden_layers"] = 2
    layer = 2 * (text["num_experts"] * 3 * text["moe_intermediate_size"] * text["hidden_size"])
    rest = 2 * 2 * text["vocab_size"] * text["hidden_size"] + 0.9e9
    text["num_hidden_layers"] = max(4, round((a.gigabytes * 1e9 - rest) / layer))
    config["talker_config"]["accept_hidden_layer"] = 2
    cfg = Qwen3OmniMoeConfig(**config)
    with torch.device("meta"):
        model = Qwen3OmniMoeForConditionalGeneration(cfg)
    tensors = []
    for name, t in model.named_parameters():
        shape = list(t.shape)
        if not a.fused and name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            base, kind = name.rsplit(".", 1)
            for e in range(shape[0]):
                for one in ("gate_proj", "up_proj") if kind == "gate_up_proj" else ("down_proj",):
                    tensors.append((f"{base}.{e}.{one}.weight", [shape[1] // (2 if kind == "gate_up_proj" else 1), shape[2]]))
        else:
            tensors.append((name, shape))
    os.makedirs(a.out, exist_ok=True)
    block = (np.random.default_rng(0).standard_normal(1 << 24, np.float32) * 0.02).view(np.uint32) >> 16
    block = block.astype(np.uint16).tobytes()
    shards, size = [[]], 0
    for name, shape in tensors:
        n = 2 * int(np.prod(shape))
        if size and size + n > a.shard_gigabytes * 1e9:
            shards.append([])
            size = 0
        shards[-1].append((name, shape, n))
        size += n
    weight_map, total = {}, 0
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        header, at = {}, 0
        for name, shape, n in shard:
            header[name] = dict(dtype="BF16", shape=shape, data_offsets=[at, at + n])
            at += n
            weight_map[name] = file
        text_header = json.dumps(header).encode()
        text_header += b" " * (-len(text_header) % 8)
        with open(f"{a.out}/{file}", "wb") as f:
            f.write(len(text_header).to_bytes(8, "little") + text_header)
            left = at
            while left:
                left -= f.write(block[:min(left, len(block))])
        total += at
    json.dump(dict(metadata=dict(total_size=total), weight_map=weight_map), open(f"{a.out}/model.safetensors.index.json", "w"))
    json.dump(cfg.to_dict(), open(f"{a.out}/config.json", "w"))
    json.dump(json.load(open(a.tokenizer)), open(f"{a.out}/tokenizer.json", "w"))
    json.dump(dict(image_mean=[0.5] * 3, image_std=[0.5] * 3, min_pixels=3136, max_pixels=12845056, patch_size=16, temporal_patch_size=2, merge_size=2,
                   feature_size=128, sampling_rate=16000, n_fft=400, hop_length=160), open(f"{a.out}/preprocessor_config.json", "w"))
    print(f"{a.out}: {total / 1e9:.2f} GB in {len(shards)} shards, {len(tensors)} tensors, {text['num_hidden_layers']} thinker layers")


main()
