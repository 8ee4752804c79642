#!/usr/bin/env python3
"""The teacher: Kokoro-82M (Apache 2.0) in PyTorch, in batches, with the durations of its symbols.

    teacher.py pack KOKORO.onnx VOICES_DIR OUT.npz        int8 weights under PyTorch's names, and the three voices
    teacher.py speak WEIGHTS.npz ITEMS.jsonl OUT_DIR [--hours H] [--parts N]

ITEMS has an object a line: text, voice, symbols (Kokoro's alphabet, phonemes.py writes it). `speak` writes OUT_DIR/audio-N.i16 (24 kHz) and
OUT_DIR/items-N.jsonl, each line the item with "at" and "samples" in that file and "durations", one for each symbol and for the two ends, in
units of 600 samples. Parts are complete once their .jsonl is there; parts that are there already are not made again.

The architecture comes from the PyPI package kokoro (only kokoro/modules.py, istftnet.py, custom_stft.py): put the folder that holds its
unpacked wheel on PYTHONPATH.
"""
import argparse, importlib.util, json, os, re, sys, time, types
import numpy as np
import torch
import torch._dynamo
import torch.nn as nn

VOICES = {"chelsie": "af_heart", "ethan": "am_michael", "aiden": "am_puck"}
UNIT = 600                                      # samples in one unit of duration
STEP = 4                                        # sentences get silence up to a multiple of so many units: fewer shapes, larger batches
CONFIG = dict(style=128, hidden=512, layers=3, kernel=5, symbols=178, longest=50, mels=80,
              bert=dict(hidden_size=768, num_attention_heads=12, intermediate_size=2048, max_position_embeddings=512, num_hidden_layers=12),
              vocoder=dict(upsample_kernel_sizes=[20, 12], upsample_rates=[10, 6], gen_istft_hop_size=5, gen_istft_n_fft=20,
                           resblock_dilation_sizes=[[1, 3, 5]] * 3, resblock_kernel_sizes=[3, 7, 11], upsample_initial_channel=512))
SYMBOLS = {c: i for i, c in enumerate(';:,.!?', 1)} | {"—": 9, "…": 10, '"': 11, "(": 12, ")": 13, "“": 14, "”": 15, " ": 16} | dict(zip(
    "AIOQSTWYᵊabcdefhijklmnopqrstuvwxyz", [24, 25, 31, 33, 35, 36, 39, 41, 42, 43, 44, 45, 46, 47, 48, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68])) | {
    "ɑ": 69, "ɐ": 70, "ɒ": 71, "æ": 72, "ɔ": 76, "ð": 81, "ʤ": 82, "ə": 83, "ɚ": 85, "ɛ": 86, "ɜ": 87, "ɡ": 92, "ɪ": 102, "ŋ": 112, "θ": 119,
    "ɹ": 123, "ɾ": 125, "ʃ": 131, "ʧ": 133, "ʊ": 135, "ʌ": 138, "ʒ": 147, "ʔ": 148, "ˈ": 156, "ˌ": 157, "ː": 158, "ᵻ": 177}


def kokoro_modules():
    """kokoro.modules and kokoro.istftnet without the package's own __init__, which wants a front end that is not needed here."""
    spec = importlib.util.find_spec("kokoro")
    package = types.ModuleType("kokoro")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["kokoro"] = package
    if importlib.util.find_spec("attr") is None:                    # imported there, never used
        sys.modules["attr"] = types.SimpleNamespace(attr=None)
    import kokoro.istftnet
    import kokoro.modules
    return kokoro.modules, kokoro.istftnet


def module_name(node):
    """PyTorch's module name from the path of an ONNX node."""
    out = []
    for part in node.strip("/").split("/")[:-1]:
        part = re.sub(r"(query|key|value|dense|ffn|ffn_output)_\d+$", r"\1", part)
        if out and part.startswith(out[-1] + "."):
            out[-1] = part
        else:
            out.append(part)
    name = ".".join(out)
    return parameter_name(name)


def parameter_name(name):
    name = re.sub(r"^decoder\.decoder\.", "decoder.", name)
    name = re.sub(r"^encoder\.", "", name)
    return "predictor." + name if re.match(r"(F0|N)(\.|_proj)|shared", name) else name


def pack(onnx_path, voices, out):
    import onnx
    from onnx import numpy_helper
    graph = onnx.load(onnx_path).graph
    init = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    weights = {}                                # name -> (int8 or float array, scale, zero point); scale None: floats

    def keep(name, source, zero=None, transpose=None):
        if source.endswith("_quantized"):
            q, stem = init[source], source[:-len("_quantized")]
            scale, zero = init[stem + "_scale"].reshape(-1), init[zero or stem + "_zero_point"].reshape(-1)      # one, or one an output
            q = q.astype(np.int16)
            outputs = [1] * q.ndim
            outputs[q.ndim - 1 if transpose else 0] = -1
            q = q - zero.astype(np.int16).reshape(outputs if len(zero) > 1 else -1)
        else:
            q, scale = init[source], None
        weights[name] = (q if transpose is None else q.transpose(transpose), scale)

    made = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        sources = [i for i in node.input if i in init and not i.endswith(("_scale", "_zero_point"))]
        if node.op_type in ("ConvInteger", "ConvTranspose", "Conv") and sources and "/stft/" not in node.name:
            keep(module_name(node.name) + ".weight", sources[0], node.input[3] if node.op_type == "ConvInteger" else None)
        elif node.op_type in ("MatMulInteger", "MatMul") and sources:
            keep(module_name(node.name) + ".weight", sources[0], node.input[3] if node.op_type == "MatMulInteger" else None, (1, 0))
        elif node.op_type == "DequantizeLinear":    # of rows gathered from an embedding
            table = made[node.input[0]].input[0]
            keep(parameter_name(table.replace("_quantized", "")), table, node.input[2])
        elif node.op_type == "DynamicQuantizeLSTM":
            name = module_name(node.name)
            h = init[sources[1]].shape[1]
            gates = np.concatenate([np.arange(k * h, (k + 1) * h) for k in (0, 2, 3, 1)])      # ONNX: i o f c; PyTorch: i f c o
            for d, side in enumerate(("", "_reverse")):
                for source, scale, zero, what in ((node.input[1], *node.input[8:10], "ih"), (node.input[2], *node.input[10:12], "hh")):
                    scale, zero = (np.broadcast_to(init[x].reshape(2, -1) if init[x].size > 1 else init[x], (2, 4 * h))[d] for x in (scale, zero))
                    q = init[source][d].astype(np.int16) - zero.astype(np.int16)
                    weights[f"{name}.weight_{what}_l0{side}"] = (q.T[gates], scale[gates])
                for k, what in enumerate(("ih", "hh")):
                    weights[f"{name}.bias_{what}_l0{side}"] = (init[sources[2]][d, 4 * h * k:4 * h * (k + 1)][gates], None)
    for name in init:
        if re.match(r"(encoder|decoder)\.", name) and re.search(r"(bias|gamma|beta|LayerNorm\.weight|layer_norm\.weight|alpha[12]\.\d)$", name):
            keep(parameter_name(name), name)
    arrays = {}
    for name, (q, scale) in weights.items():
        if scale is None:
            arrays[name] = q.astype(np.float32)
        else:                                   # differences to the zero point may need 9 bits: kept as int8 when they fit
            arrays[name] = q.astype(np.int8) if np.abs(q).max() < 128 else q
            arrays[name + ":scale"] = np.float32(scale).reshape(-1)
    for voice, source in VOICES.items():
        arrays["voice:" + voice] = np.fromfile(f"{voices}/{source}.bin", np.float32).reshape(-1, 256)
    np.savez(out, **arrays)
    print(f"{out}: {len(weights)} tensors, {sum(a.nbytes for a in arrays.values()) / 1e6:.1f} MB")


def fused_residual(adain_snake):
    """AdaINResBlock1.forward with its norm, affine map and Snake in one function, which is where the time goes on a GPU."""
    def forward(self, x, s):
        for c1, c2, n1, n2, a1, a2 in zip(self.convs1, self.convs2, self.adain1, self.adain2, self.alpha1, self.alpha2):
            x = c2(adain_snake(c1(adain_snake(x, n1.fc(s), a1)), n2.fc(s), a2)) + x
        return x
    return forward


def adain_snake(x, h, alpha):
    """Instance norm of x [B, C, T], scale and shift from h [B, 2 C], then Snake."""
    y = x.float()
    var, mean = torch.var_mean(y, -1, unbiased=False, keepdim=True)
    gamma, beta = h.float().unsqueeze(-1).chunk(2, 1)
    y = (1 + gamma) * ((y - mean) * torch.rsqrt(var + 1e-5)) + beta
    return (y + torch.sin(alpha * y).square() / alpha).to(x.dtype)


class Teacher(nn.Module):
    """Kokoro's parts under its own names. Sentences of one call of `decode` have the same length, so that no padding enters its norms."""

    def __init__(self, path):
        super().__init__()
        modules, istftnet = kokoro_modules()
        from transformers import AlbertConfig
        c = CONFIG
        self.bert = modules.CustomAlbert(AlbertConfig(vocab_size=c["symbols"], **c["bert"]))
        self.bert_encoder = nn.Linear(c["bert"]["hidden_size"], c["hidden"])
        self.predictor = modules.ProsodyPredictor(style_dim=c["style"], d_hid=c["hidden"], nlayers=c["layers"], max_dur=c["longest"], dropout=0.2)
        self.text_encoder = modules.TextEncoder(channels=c["hidden"], kernel_size=c["kernel"], depth=c["layers"], n_symbols=c["symbols"])
        self.decoder = istftnet.Decoder(dim_in=c["hidden"], style_dim=c["style"], dim_out=c["mels"], **c["vocoder"])
        for m in self.modules():
            if hasattr(m, "weight_g"):
                nn.utils.remove_weight_norm(m)
        z = np.load(path)
        own, missing = self.state_dict(), []
        for name, p in own.items():
            if name in z:
                w = z[name].astype(np.float32)
                if name + ":scale" in z:
                    w = w * z[name + ":scale"].reshape((-1,) + (1,) * (w.ndim - 1))
                assert w.shape == tuple(p.shape), (name, w.shape, tuple(p.shape))
                p.copy_(torch.from_numpy(w))
            else:
                missing.append(name)
        allowed = r"bert\.pooler|\.norm\.(weight|bias)$|position_ids|bias_hh|norm[12]\.norm"
        assert not [n for n in missing if not re.search(allowed, n)], [n for n in missing if not re.search(allowed, n)]
        extra = [n for n in z.files if n not in own and ":" not in n]
        assert not extra, extra
        generator = self.decoder.generator      # phases and spectra need float32, whatever the convolutions run in
        for owner, name in ((generator.m_source, "forward"), (generator.stft, "transform"), (generator.stft, "inverse")):
            setattr(owner, name, in_float32(getattr(owner, name)))
        self.styles = {v: torch.from_numpy(z["voice:" + v]) for v in VOICES}
        self.eval().requires_grad_(False)

    def style(self, voice, symbols):
        return self.styles[voice][min(symbols, len(self.styles[voice])) - 1]

    def prosody(self, ids, lengths, style):
        """ids [B, N] padded with 0, lengths [B] -> durations [B, N] (0 in the padding), text features d [B, N, C], t [B, N, C]."""
        mask = torch.arange(ids.shape[1], device=ids.device)[None] >= lengths[:, None]
        s = style[:, 128:]
        h = self.bert_encoder(self.bert(ids, attention_mask=(~mask).int())).transpose(1, 2)
        d = self.predictor.text_encoder(h, s, lengths.cpu(), mask)
        x = nn.utils.rnn.pack_padded_sequence(d, lengths.cpu(), batch_first=True, enforce_sorted=False)
        x = nn.utils.rnn.pad_packed_sequence(self.predictor.lstm(x)[0], batch_first=True, total_length=ids.shape[1])[0]
        durations = torch.sigmoid(self.predictor.duration_proj(x)).sum(-1).round().clamp(min=1).long().masked_fill(mask, 0)
        t = self.text_encoder(ids, lengths.cpu(), mask).transpose(1, 2)
        return durations, d, t

    def decode(self, d, t, durations, style):
        """All rows of durations [B, N] have the same sum U -> sound [B, 600 U]."""
        units = int(durations[0].sum())
        ends = durations.cumsum(1)
        index = torch.searchsorted(ends, torch.arange(units, device=d.device).expand(len(d), -1).contiguous(), right=True)
        spread = lambda x: x.gather(1, index[..., None].expand(-1, -1, x.shape[-1])).transpose(1, 2)
        with torch.autocast(d.device.type, enabled=False):
            f0, n = self.predictor.F0Ntrain(spread(d), style[:, 128:])
        return self.decoder(spread(t), f0, n, style[:, :128]).squeeze(1)


def in_float32(function):
    def call(*tensors):
        with torch.autocast(tensors[0].device.type, enabled=False):
            return function(*(t.float() for t in tensors))
    return call


def symbol_ids(symbols):
    return [0] + [SYMBOLS[c] for c in symbols] + [0]


@torch.no_grad()
def speak(teacher, items, device, half):
    """Yields (index in items, durations, int16 sound) for every item, longest batches that fit, in no particular order."""
    order = sorted(range(len(items)), key=lambda i: len(items[i]["symbols"]))
    ready = []                                  # units, index, durations, d, t: features stay on the device in half precision
    for at in range(0, len(order), 512):
        batch = order[at:at + 512]
        ids = [symbol_ids(items[i]["symbols"]) for i in batch]
        lengths = torch.tensor([len(x) for x in ids], device=device)
        n = -(-int(lengths.max()) // 16) * 16
        padded = torch.tensor([x + [0] * (n - len(x)) for x in ids], device=device)
        style = torch.stack([teacher.style(items[i]["voice"], len(items[i]["symbols"])) for i in batch]).to(device)
        durations, d, t = teacher.prosody(padded, lengths, style)
        last = (lengths - 1)[:, None]
        durations.scatter_add_(1, last, -durations.sum(1, keepdim=True) % STEP)
        d, t, sums, durations = d.half(), t.half(), durations.sum(1).tolist(), durations.cpu()
        for k, i in enumerate(batch):
            m = len(ids[k])
            ready.append((sums[k], i, durations[k, :m], d[k, :m], t[k, :m]))
    ready.sort(key=lambda r: r[0])
    at = 0
    while at < len(ready):
        units, to = ready[at][0], at
        while to < len(ready) and ready[to][0] == units and to - at < max(1, 16000 // units):
            to += 1
        rows, taken, at = ready[at:to], to - at, to
        rows += rows[-1:] * (-len(rows) % 8)    # repeated to fill: the library prepares each new shape for a while
        n = max(len(r[2]) for r in rows)
        pad = lambda x: nn.functional.pad(x, (0, 0) * (x.dim() - 1) + (0, n - len(x)))
        durations = torch.stack([pad(r[2]) for r in rows]).to(device)
        d, t = (torch.stack([pad(r[k]) for r in rows]).float() for k in (3, 4))
        style = torch.stack([teacher.style(items[r[1]]["voice"], len(items[r[1]]["symbols"])) for r in rows]).to(device)
        with torch.autocast(device, torch.float16, enabled=half):
            sound = teacher.decode(d, t, durations, style)
        sound = (sound.float().clamp(-1, 1) * 32767).round().to(torch.int16).cpu().numpy()
        for r, x in zip(ready[at - taken:at], sound):
            yield r[1], r[2].tolist(), x


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="what", required=True)
    a = sub.add_parser("pack")
    a.add_argument("onnx"); a.add_argument("voices"); a.add_argument("out")
    a = sub.add_parser("speak")
    a.add_argument("weights"); a.add_argument("items"); a.add_argument("out")
    a.add_argument("--hours", type=float, default=1e9); a.add_argument("--part-items", type=int, default=16384); a.add_argument("--seed", type=int, default=0)
    a.add_argument("--limit", type=int); a.add_argument("--float32", action="store_true")
    a = p.parse_args()
    if a.what == "pack":
        return pack(a.onnx, a.voices, a.out)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(a.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    teacher = Teacher(a.weights).to(device)
    if device == "cuda":
        torch._dynamo.config.recompile_limit = 64
        sys.modules["kokoro.istftnet"].AdaINResBlock1.forward = fused_residual(torch.compile(adain_snake, dynamic=True))
    items = [json.loads(line) for line in open(a.items, encoding="utf-8")][:a.limit]
    os.makedirs(a.out, exist_ok=True)
    total, start = 0, time.time()
    for part in range(0, (len(items) + a.part_items - 1) // a.part_items):
        mine, stem = items[part * a.part_items:(part + 1) * a.part_items], f"{a.out}/%s-{part:03d}"
        if not os.path.exists(stem % "items" + ".jsonl"):
            at = 0
            with open(stem % "audio" + ".i16", "wb") as sound, open(stem % "items" + ".part", "w", encoding="utf-8") as lines:
                for i, durations, x in speak(teacher, mine, device, device == "cuda" and not a.float32):
                    sound.write(x.tobytes())
                    lines.write(json.dumps(dict(mine[i], at=at, samples=len(x), durations=durations), ensure_ascii=False) + "\n")
                    at += len(x)
            os.rename(stem % "items" + ".part", stem % "items" + ".jsonl")
        total += os.path.getsize(stem % "audio" + ".i16") / 2
        print(f"{time.time() - start:.0f} s: part {part}, {total / 24000 / 3600:.2f} h", flush=True)
        if total / 24000 / 3600 > a.hours:
            break


if __name__ == "__main__":
    main()
