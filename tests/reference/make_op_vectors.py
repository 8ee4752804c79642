#!/usr/bin/env python3
"""Small inputs and outputs of every operation, computed by PyTorch and by the reference's own modules:
    make_op_vectors.py OUT_DIR        writes ops.vectors and sampling.vectors

A file is a run of records: u32 length of the name, the name, u32 type (0 float32, 1 int32, 2 bytes), u32 count, the values.
"""
import os, struct, sys
import numpy as np, torch
import torch.nn.functional as F
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from transformers import Qwen3OmniMoeConfig
from transformers.generation.logits_process import (LogitsProcessorList, MinPLogitsWarper, RepetitionPenaltyLogitsProcessor,
                                                    SuppressTokensLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper,
                                                    TopPLogitsWarper)
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as m

torch.manual_seed(7)
rand = lambda *shape: torch.randn(shape)


class Out:
    def __init__(self, path):
        self.f = open(path, "wb")

    def __call__(self, name, value):
        value = value.detach().contiguous().numpy() if isinstance(value, torch.Tensor) else np.ascontiguousarray(value)
        kind = 0 if value.dtype.kind == "f" else 2 if value.dtype == np.uint8 else 1
        value = value.astype([np.float32, np.int32, np.uint8][kind])
        self.f.write(struct.pack("<I", len(name)) + name.encode() + struct.pack("<II", kind, value.size) + value.tobytes())


def linear(out):
    x, w, bias = rand(5, 96), 0.2 * rand(37, 96), rand(37)
    out("linear.x", x), out("linear.w", w), out("linear.bias", bias), out("linear.y", F.linear(x, w, bias))
    for name, kind in (("q8_0", GGMLQuantizationType.Q8_0), ("f16", GGMLQuantizationType.F16), ("bf16", GGMLQuantizationType.BF16)):
        q = quantize(w.numpy(), kind)
        exact = torch.from_numpy(np.array(dequantize(q, kind), dtype=np.float32))
        out(f"linear.w.{name}", q.view(np.uint8)), out(f"linear.y.{name}", F.linear(x, exact, bias))


def convolutions(out):
    # causal, dilated; stored [out][kernel][in], x[time][channels]
    x, w, bias = rand(1, 6, 31), rand(10, 6, 3), rand(10)
    for d in (1, 3):
        out(f"conv1d.y.{d}", F.conv1d(x, w, bias, dilation=d)[0].T)
    out("conv1d.x", x[0].T), out("conv1d.w", w.permute(0, 2, 1)), out("conv1d.bias", bias)
    # depthwise
    w, bias = rand(6, 1, 7), rand(6)
    out("depthwise.w", w[:, 0].T), out("depthwise.bias", bias), out("depthwise.y", F.conv1d(x, w, bias, groups=6)[0].T)
    # transposed, kernel 2r and kernel r; checkpoint [in, out, kernel] becomes [kernel][out][in]
    for kernel, stride in ((6, 3), (2, 2), (5, 3)):
        w, bias = rand(6, 4, kernel), rand(4)
        y = F.conv_transpose1d(x, w, bias, stride=stride)[0].T
        n = f"transposed.{kernel}.{stride}"
        out(n + ".w", w.permute(2, 1, 0)), out(n + ".bias", bias), out(n + ".y", y)
    # two-dimensional, channels last
    for height, width, cin, cout in ((8, 9, 1, 5), (5, 4, 3, 7)):
        x2, w, bias = rand(2, cin, height, width), rand(cout, cin, 3, 3), rand(cout)
        y = F.conv2d(x2, w, bias, stride=2, padding=1)
        n = f"conv2d.{height}.{width}"
        out(n + ".x", x2.permute(0, 2, 3, 1)), out(n + ".w", w.permute(0, 2, 3, 1)), out(n + ".bias", bias), out(n + ".y", y.permute(0, 2, 3, 1))


def elementwise(out):
    x = torch.cat([torch.linspace(-12, 12, 601), 40 * rand(40), torch.tensor([0.0, -0.0, 88.0, -88.0, 1e-20, -1e-20])])
    out("act.x", x), out("act.silu", F.silu(x)), out("act.gelu", F.gelu(x)), out("act.gelu_tanh", F.gelu(x, approximate="tanh"))
    up = rand(x.numel())
    out("act.up", up), out("act.silu_mul", F.silu(x) * up)
    x, w, bias = 3 * rand(4, 45) + 1, rand(45), rand(45)
    out("norm.x", x), out("norm.w", w), out("norm.bias", bias)
    out("norm.layer", F.layer_norm(x, (45,), w, bias, 1e-5))
    norm = m.Qwen3OmniMoeThinkerTextRMSNorm(45, eps=1e-6)
    norm.weight.data = w
    out("norm.rms", norm(x))
    snake = m.Qwen3OmniMoeSnakeBeta(9)
    snake.alpha.data, snake.beta.data = rand(9), rand(9)
    x = 8 * rand(1, 9, 50)
    out("snake.x", x[0].T), out("snake.a", snake.alpha.exp()), out("snake.inv_b", 1 / (snake.beta.exp() + 1e-9)), out("snake.y", snake(x)[0].T)
    x, gate, y, scale = rand(4, 45), rand(4, 1), rand(4, 45), rand(45)
    out("add.x", x), out("add.gate", gate), out("add.y", y), out("add.scale", scale)
    out("add.gated", y + torch.sigmoid(gate) * x), out("add.scaled", y + scale * x), out("add.plain", y + x)
    table, ids = rand(4 * 11, 33), torch.randint(0, 11, (3, 4))
    out("embed.table", table), out("embed.ids", ids)
    out("embed.mean", F.embedding(ids + torch.arange(4) * 11, table).mean(1)), out("embed.rows", F.embedding(ids.flatten(), table))


def attention(out):
    rows, heads, kv, dim = 75, 4, 2, 18
    q, k, v = rand(rows, heads, dim), rand(rows, kv, dim), rand(rows, kv, dim)
    out("attention.q", q), out("attention.k", k), out("attention.v", v)
    at = lambda mask: F.scaled_dot_product_attention(q.transpose(0, 1)[None], k.repeat_interleave(heads // kv, 1).transpose(0, 1)[None],
                                                     v.repeat_interleave(heads // kv, 1).transpose(0, 1)[None], attn_mask=mask,
                                                     scale=0.3)[0].transpose(0, 1)
    i, j = torch.arange(rows)[:, None], torch.arange(rows)[None]
    out("attention.causal", at(j <= i)), out("attention.window", at((j <= i) & (j > i - 40))), out("attention.full", at(None))
    norm = m.Qwen3OmniMoeThinkerTextRMSNorm(dim, eps=1e-6)
    norm.weight.data = rand(dim)
    angle = 10 * rand(rows, dim // 2)
    both = torch.cat([angle, angle], -1)
    x = norm(q).transpose(0, 1)[None]
    turned, _ = m.apply_rotary_pos_emb(x, x, both.cos()[None], both.sin()[None])
    out("rope.weight", norm.weight), out("rope.cos", angle.cos()), out("rope.sin", angle.sin()), out("rope.y", turned[0].transpose(0, 1))


def experts(out):
    cfg = Qwen3OmniMoeConfig().thinker_config.text_config
    cfg.hidden_size, cfg.moe_intermediate_size, cfg.num_experts, cfg.num_local_experts, cfg.num_experts_per_tok = 26, 18, 7, 7, 3
    router, block = m.Qwen3OmniMoeThinkerTextTopKRouter(cfg), m.Qwen3OmniMoeThinkerTextExperts(cfg)
    router.weight.data, block.gate_up_proj.data, block.down_proj.data = rand(7, 26), 0.2 * rand(7, 36, 26), 0.2 * rand(7, 26, 18)
    x = rand(11, 26)
    logits, weights, ids = router(x)
    out("moe.x", x), out("moe.logits", logits), out("moe.ids", ids), out("moe.weights", weights)
    cfg.norm_topk_prob = False
    router.norm_topk_prob = False
    out("moe.plain_weights", router(x)[1])
    gate, up = block.gate_up_proj.data.chunk(2, 1)
    out("moe.gate", gate), out("moe.up", up), out("moe.down", block.down_proj), out("moe.y", block(x, ids, weights))


def sampling(out):
    n = 300
    cases = [dict(), dict(temperature=0.7), dict(top_k=50), dict(top_k=1), dict(top_k=1000), dict(top_p=0.8), dict(top_p=0.05),
             dict(min_p=0.1), dict(temperature=0.9, top_k=50, top_p=0.8), dict(temperature=1.3, top_k=20, top_p=0.95, min_p=0.05),
             dict(penalty=1.05, suppress=(200, 250), temperature=0.9, top_k=50), dict(penalty=1.7, top_p=0.9), dict(suppress=(0, 3), top_k=5)]
    out("cases", np.array([len(cases)]))
    for i, c in enumerate(cases):
        logits, seen = 3 * rand(1, n), torch.randint(0, n, (1, 40))
        steps = LogitsProcessorList()
        if "penalty" in c:
            steps.append(RepetitionPenaltyLogitsProcessor(c["penalty"]))
        if "suppress" in c:
            start, keep = c["suppress"]
            steps.append(SuppressTokensLogitsProcessor([t for t in range(start, n) if t != keep]))
        for key, step in (("temperature", TemperatureLogitsWarper), ("top_k", TopKLogitsWarper), ("top_p", TopPLogitsWarper),
                          ("min_p", MinPLogitsWarper)):
            if key in c:
                steps.append(step(c[key]))
        done = steps(seen, logits.clone())
        suppress = c.get("suppress", (n, -1))
        out(f"{i}.numbers", np.array([c.get("temperature", 1), c.get("top_p", 1), c.get("min_p", 0), c.get("penalty", 1)], np.float32))
        out(f"{i}.integers", np.array([c.get("top_k", 0), *suppress]))
        out(f"{i}.seen", seen), out(f"{i}.logits", logits), out(f"{i}.probabilities", done.softmax(-1))


if __name__ == "__main__":
    with torch.no_grad():
        ops = Out(os.path.join(sys.argv[1], "ops.vectors"))
        for part in (linear, convolutions, elementwise, attention, experts):
            part(ops)
        sampling(Out(os.path.join(sys.argv[1], "sampling.vectors")))
