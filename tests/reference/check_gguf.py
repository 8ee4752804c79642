#!/usr/bin/env python3
"""Check the files that the conversion writes with the PyPI package `gguf`.

    check_gguf.py --omni build/omni CHECKPOINT_DIR... [--types f32,f16,bf16,q8_0]

Each checkpoint is converted in every type. Checked are: the names of tensors and keys of the thinker and the encoders against
gguf.constants and gguf.tensor_mapping; the name, shape, type and every value of every tensor of the three files, recomputed here from
the checkpoint by the table of docs/formats.md and rounded by gguf.quants; and that the older spelling of config.json, fused experts and
vocab.json with merges.txt in place of tokenizer.json give the same bytes; and that the files split into parts (omni split) are read as the same tensors.
Needs gguf, numpy, safetensors and torch (for BF16 checkpoints).
"""
import argparse, filecmp, json, os, re, shutil, subprocess, tempfile

import gguf
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

ARCH = gguf.MODEL_ARCH
TYPES = dict(f32=gguf.GGMLQuantizationType.F32, f16=gguf.GGMLQuantizationType.F16, bf16=gguf.GGMLQuantizationType.BF16,
             q8_0=gguf.GGMLQuantizationType.Q8_0)


def load(folder):
    out = {}
    for f in sorted(os.listdir(folder)):
        if f.endswith(".safetensors"):
            with safe_open(f"{folder}/{f}", framework="pt") as s:
                for k in s.keys():
                    out[k] = s.get_tensor(k).float().numpy()
    return out


def convert(omni, folder, out, kind):
    subprocess.run([omni, "convert", folder, "-o", out, "--type", kind], check=True, stdout=subprocess.DEVNULL)


def stack_experts(tensors):
    """Experts one by one become [experts, out, in], fused gate_up ones are cut in two."""
    out, lists = {}, {}
    for k, v in tensors.items():
        m = re.fullmatch(r"(.*\.mlp\.experts)\.(\d+)\.(\w+)\.weight", k)
        if m:
            lists.setdefault((m[1], m[3]), {})[int(m[2])] = v
        elif k.endswith("experts.gate_up_proj"):
            half = v.shape[1] // 2
            out[k.replace("gate_up_proj", "gate_proj.weight")] = v[:, :half]
            out[k.replace("gate_up_proj", "up_proj.weight")] = v[:, half:]
        elif k.endswith("experts.down_proj"):
            out[k + ".weight"] = v
        else:
            out[k] = v
    for (base, name), by_index in lists.items():
        out[f"{base}.{name}.weight"] = np.stack([by_index[i] for i in range(len(by_index))])
    return out


def ecosystem_name(name, config, maps):
    """Name in the thinker's or the encoders' file by the package's own mapping, and the file."""
    vision = config["thinker_config"]["vision_config"]
    base, suffix = name.rsplit(".", 1)
    if name.startswith("thinker.visual."):
        t = gguf.TENSOR_NAMES
        m = re.fullmatch(r"thinker\.visual\.merger_list\.(\d+)\.(ln_q|mlp\.0|mlp\.2)", base)
        if m:
            kind = {"ln_q": gguf.MODEL_TENSOR.V_DS_NORM, "mlp.0": gguf.MODEL_TENSOR.V_DS_FC1, "mlp.2": gguf.MODEL_TENSOR.V_DS_FC2}[m[2]]
            return "mmproj", t[kind].format(bid=vision["deepstack_visual_indexes"][int(m[1])]) + "." + suffix
        fixed = {"merger.ln_q": t[gguf.MODEL_TENSOR.V_POST_NORM], "merger.mlp.0": t[gguf.MODEL_TENSOR.V_MMPROJ].format(bid=0),
                 "merger.mlp.2": t[gguf.MODEL_TENSOR.V_MMPROJ].format(bid=2), "patch_embed.proj": t[gguf.MODEL_TENSOR.V_ENC_EMBD_PATCH]}
        rest = base.removeprefix("thinker.visual.")
        return "mmproj", (fixed.get(rest) or maps["mmproj"].get_name("visual." + rest)) + "." + suffix
    if name.startswith("thinker.audio_tower."):
        return "mmproj", maps["mmproj"].get_name(base.removeprefix("thinker.")) + "." + suffix
    return "thinker", maps["thinker"].get_name(base.removeprefix("thinker.")) + "." + suffix


def talker_name(name):
    """Name in the talker's file, by the table in docs/formats.md."""
    layer = [(r"input_layernorm", "attn_norm"), (r"post_attention_layernorm", "ffn_norm"), (r"self_attn\.([qkv])_proj", r"attn_\1"),
             (r"self_attn\.o_proj", "attn_output"), (r"self_attn\.([qk])_norm", r"attn_\1_norm"), (r"mlp\.gate", "ffn_gate_inp"),
             (r"mlp\.experts\.(gate|up|down)_proj", r"ffn_\1_exps"), (r"mlp\.shared_expert_gate", "ffn_gate_inp_shexp"),
             (r"mlp\.shared_expert\.(gate|up|down)_proj", r"ffn_\1_shexp"), (r"mlp\.(gate|up|down)_proj", r"ffn_\1")]
    for prefix, to in (("talker.model.layers", "talker.blk"), ("talker.code_predictor.model.layers", "code_predictor.blk"),
                       ("code2wav.pre_transformer.layers", "code2wav.blk")):
        m = re.fullmatch(re.escape(prefix) + r"\.(\d+)\.(.*)\.weight", name)
        if m:
            for pattern, out in layer:
                if re.fullmatch(pattern, m[2]):
                    return f"{to}.{m[1]}." + re.sub(pattern, out, m[2]) + ".weight"
    rules = [(r"talker\.model\.codec_embedding\.(.*)", r"talker.token_embd.\1"), (r"talker\.codec_head\.(.*)", r"talker.output.\1"),
             (r"talker\.model\.norm\.(.*)", r"talker.output_norm.\1"),
             (r"talker\.(text|hidden)_projection\.linear_fc(\d)\.(.*)", r"talker.\1_projection.fc\2.\3"),
             (r"talker\.code_predictor\.model\.codec_embedding\.(\d+)\.weight", r"code_predictor.token_embd.\1.weight"),
             (r"talker\.code_predictor\.lm_head\.(\d+)\.weight", r"code_predictor.output.\1.weight"),
             (r"talker\.code_predictor\.model\.norm\.weight", "code_predictor.output_norm.weight"),
             (r"code2wav\.code_embedding\.weight", "code2wav.token_embd.weight"),
             (r"code2wav\.pre_transformer\.layers\.(\d+)\.self_attn_layer_scale\.scale", r"code2wav.blk.\1.attn_scale.weight"),
             (r"code2wav\.pre_transformer\.layers\.(\d+)\.mlp_layer_scale\.scale", r"code2wav.blk.\1.ffn_scale.weight"),
             (r"code2wav\.pre_transformer\.norm\.weight", "code2wav.output_norm.weight"),
             (r"code2wav\.upsample\.(\d+)\.0\.conv\.(.*)", r"code2wav.upsample.\1.conv.\2"),
             (r"code2wav\.upsample\.(\d+)\.1\.dwconv\.conv\.(.*)", r"code2wav.upsample.\1.dwconv.\2"),
             (r"code2wav\.upsample\.(\d+)\.1\.gamma", r"code2wav.upsample.\1.gamma.weight"),
             (r"code2wav\.upsample\.(\d+)\.1\.(.*)", r"code2wav.upsample.\1.\2"),
             (r"code2wav\.decoder\.0\.conv\.(.*)", r"code2wav.conv_in.\1")]
    for pattern, out in rules:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, out, name)
    m = re.fullmatch(r"code2wav\.decoder\.(\d+)\.block\.(\d+)\.(.*)", name)
    if m:
        stage, block, rest = int(m[1]) - 1, int(m[2]), m[3]
        if block == 0:
            return f"code2wav.decoder.{stage}.snake.{rest}"
        if block == 1:
            return f"code2wav.decoder.{stage}.{rest}"
        rest = re.sub(r"^act(\d)\.", r"snake\1.", re.sub(r"^conv(\d)\.conv\.", r"conv\1.", rest))
        return f"code2wav.decoder.{stage}.res.{block - 2}.{rest}"
    m = re.fullmatch(r"code2wav\.decoder\.\d+\.(alpha|beta)", name)
    if m:
        return f"code2wav.snake_out.{m[1]}"
    return "code2wav.conv_out." + re.fullmatch(r"code2wav\.decoder\.\d+\.conv\.(.*)", name)[1]


def talker_layout(name, to, x):
    """Convolutions are stored time-major."""
    if not to.startswith("code2wav.") or x.ndim != 3:
        return x
    if "dwconv" in to:
        return x[:, 0].T
    if re.fullmatch(r"code2wav\.(upsample|decoder)\.\d+\.conv\.weight", to):
        return x.transpose(2, 1, 0)
    return x.transpose(0, 2, 1)


def expected(folder, kind):
    """File -> name -> values in PyTorch's order, before rounding."""
    config = json.load(open(f"{folder}/config.json"))
    text = config["thinker_config"]["text_config"]
    maps = dict(thinker=gguf.get_tensor_name_map(ARCH.QWEN3VLMOE, text["num_hidden_layers"]), mmproj=gguf.get_tensor_name_map(ARCH.MMPROJ, 128))
    files = dict(thinker={}, mmproj={}, talker={})
    deepstacks = len(config["thinker_config"]["vision_config"]["deepstack_visual_indexes"])
    announced = deepstacks if deepstacks < text["num_hidden_layers"] else 0
    for name, x in stack_experts(load(folder)).items():
        if not name.startswith("thinker."):
            to = talker_name(name)
            files["talker"][to] = talker_layout(name, to, x)
            continue
        file, to = ecosystem_name(name, config, maps)
        if to == "v.patch_embd.weight":
            files[file]["v.patch_embd.weight.1"] = x[:, :, 1]
            x = x[:, :, 0]
        if re.fullmatch(r"a\.conv2d\.\d\.bias", to):
            x = x[:, None, None]
        if to.startswith("mm.a.mlp.2."):
            x = np.concatenate([x] + [np.zeros_like(x)] * announced)
        files[file][to] = x
    a = config["thinker_config"]["audio_config"]
    half = a["d_model"] // 2
    angle = np.arange(a["max_source_positions"])[:, None] * np.exp(-np.log(10000) / (half - 1) * np.arange(half))[None]
    files["mmproj"]["a.position_embd.weight"] = np.concatenate([np.sin(angle), np.cos(angle)], 1).astype(np.float32)
    return files


def stored_type(name, x, kind):
    T = gguf.GGMLQuantizationType
    if x.ndim == 1 or name.endswith((".bias", ".alpha", ".beta")) or re.search(r"norm\.weight$|ffn_gate_inp|position_embd|dwconv|\.ln\d\.|post_ln", name):
        return T.F32
    if re.search(r"^talker\.(token_embd|output)\.|^code_predictor\.(token_embd|output)\.|^code2wav\.token_embd|^a\.conv|patch_embd", name) or (
            re.search(r"^code2wav\.(conv_in|conv_out|decoder|upsample\.\d+\.conv\.)", name)):
        return T.F32 if kind in ("f32", "bf16") else T.F16
    if kind == "q8_0" and x.shape[-1] % 32:
        return T.F16
    return TYPES[kind]


def known_keys(arch):
    out = set()

    def walk(c):
        for k, v in vars(c).items():
            if isinstance(v, str) and not k.startswith("_"):
                out.add(v.replace("{arch}", arch))
            elif isinstance(v, type) and not k.startswith("_"):
                walk(v)
    walk(gguf.Keys)
    return out


def check_parts(omni, path, folder):
    """A file split by its number of tensors and by size: what the package reads of the parts, by its own names of the keys, is the file."""
    whole = gguf.GGUFReader(path)
    S = gguf.Keys.Split
    for flag in ("--split-max-tensors=7", "--split-max-size=1M"):
        prefix = os.path.join(folder, "parts")
        subprocess.run([omni, "split", path, prefix, flag], check=True, stdout=subprocess.DEVNULL)
        names = sorted(n for n in os.listdir(folder) if n.startswith("parts-"))
        order = iter(whole.tensors)
        for i, name in enumerate(names):
            assert name == f"parts-{i + 1:05d}-of-{len(names):05d}.gguf", names
            r = gguf.GGUFReader(os.path.join(folder, name))
            assert r.fields[S.LLM_KV_SPLIT_NO].contents() == i and r.fields[S.LLM_KV_SPLIT_COUNT].contents() == len(names), name
            assert r.fields[S.LLM_KV_SPLIT_TENSORS_COUNT].contents() == len(whole.tensors), name
            assert [f.types[0].name for f in (r.fields[S.LLM_KV_SPLIT_NO], r.fields[S.LLM_KV_SPLIT_COUNT], r.fields[S.LLM_KV_SPLIT_TENSORS_COUNT])] \
                == ["UINT16", "UINT16", "INT32"], name
            keys = [k for k in r.fields if not k.startswith(("split.", "GGUF."))]
            assert keys == ([k for k in whole.fields if not k.startswith("GGUF.")] if i == 0 else []), name
            for t in r.tensors:
                w = next(order)
                assert t.name == w.name and t.tensor_type == w.tensor_type and list(t.shape) == list(w.shape) and t.data.tobytes() == w.data.tobytes()
            os.remove(os.path.join(folder, name))
        assert next(order, None) is None and len(names) > (1 if "tensors" in flag else 0), names


def check(path, tensors, kind, arch):
    r = gguf.GGUFReader(path)
    assert r.fields["general.architecture"].contents() == arch, path
    if arch != "qwen3omni_talker":
        keys = known_keys(arch)
        odd = [k for k in r.fields if not k.startswith(("GGUF.", "omni.")) and k not in keys]
        assert not odd, f"{path}: keys that gguf.constants does not have: {odd}"
    found = {t.name: t for t in r.tensors}
    assert set(found) == set(tensors), f"{path}: {sorted(set(found) ^ set(tensors))}"
    for name, x in tensors.items():
        t, want = found[name], stored_type(name, x, kind)
        assert t.tensor_type == want, f"{path}: {name} is {t.tensor_type.name}, not {want.name}"
        assert [int(n) for n in t.shape] == list(x.shape[::-1]), f"{path}: {name} has the shape {t.shape}, not {x.shape[::-1]}"
        if name == "a.position_embd.weight":
            d = np.abs(t.data.reshape(x.shape) - x)
            assert d[:13].max() < 2e-6 and d.max() < 5e-4, f"{path}: {name} differs by {d[:13].max()}"
            continue
        raw = gguf.quants.quantize(np.ascontiguousarray(x, np.float32), want)
        same = np.array_equal(np.asarray(t.data).reshape(-1).view(np.uint8), np.ascontiguousarray(raw).reshape(-1).view(np.uint8))
        assert same, f"{path}: values of {name} differ"
    return len(tensors)


def old_spelling(v):
    if not isinstance(v, dict):
        return v
    out = {k: old_spelling(x) for k, x in v.items()}
    rope = out.pop("rope_parameters", None)
    if rope and rope.get("rope_type") != "axial":
        out["rope_theta"] = int(rope["rope_theta"])
        out["rope_scaling"] = None
        if "mrope_section" in rope:
            out["rope_scaling"] = dict(interleaved=True, mrope_section=rope["mrope_section"], rope_type="default", type="default")
    if "num_local_experts" in out:
        out["num_experts"] = out.pop("num_local_experts")
    return dict(reversed(list(out.items())))


def respell(folder, out):
    """The same checkpoint: older config.json, fused experts, one file, vocab.json and merges.txt."""
    os.makedirs(out)
    for f in os.listdir(folder):
        if not f.endswith(".safetensors") and f not in ("model.safetensors.index.json", "tokenizer.json"):
            shutil.copy(f"{folder}/{f}", out)
    json.dump(old_spelling(json.load(open(f"{folder}/config.json"))), open(f"{out}/config.json", "w"))
    tensors = stack_experts(load(folder))
    for k in [k for k in tensors if k.endswith("experts.gate_proj.weight")]:
        base = k.removesuffix(".gate_proj.weight")
        tensors[base + ".gate_up_proj"] = np.concatenate([tensors.pop(k), tensors.pop(base + ".up_proj.weight")], 1)
        tensors[base + ".down_proj"] = tensors.pop(base + ".down_proj.weight")
    save_file(tensors, f"{out}/model.safetensors")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--omni", required=True)
    p.add_argument("--types", default="f32,f16,bf16,q8_0")
    p.add_argument("checkpoints", nargs="+")
    a = p.parse_args()
    for folder in a.checkpoints:
        with tempfile.TemporaryDirectory() as work:
            files = expected(folder, "f32")
            respell(folder, f"{work}/old")
            for kind in a.types.split(","):
                convert(a.omni, folder, f"{work}/new-out", kind)
                n = check(f"{work}/new-out/qwen3-omni-{kind}.gguf", files["thinker"], kind, "qwen3vlmoe")
                n += check(f"{work}/new-out/mmproj-qwen3-omni-{kind}.gguf", files["mmproj"], kind, "clip")
                n += check(f"{work}/new-out/talker-qwen3-omni-{kind}.gguf", files["talker"], kind, "qwen3omni_talker")
                convert(a.omni, f"{work}/old", f"{work}/old-out", kind)
                for f in sorted(os.listdir(f"{work}/new-out")):
                    assert filecmp.cmp(f"{work}/new-out/{f}", f"{work}/old-out/{f}", shallow=False), f"{folder}: {f} differs with the older spelling"
                for f in sorted(os.listdir(f"{work}/new-out")):
                    check_parts(a.omni, f"{work}/new-out/{f}", work)
                shutil.rmtree(f"{work}/new-out")
                shutil.rmtree(f"{work}/old-out")
                print(f"{folder} {kind}: {n} tensors equal, names and keys known, older spelling the same bytes, parts equal", flush=True)


main()
