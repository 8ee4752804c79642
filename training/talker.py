"""The talker and its code predictor: transformers' own modules, driven by functions that compile well and train on whole batches of packed rows.

Layout of a sentence in the talker's input, one row a position (see docs/architecture.md): `<|im_start|>`, assistant, newline; four times tts_pad;
tts_bos; from row 8 on the text, one token a row, then tts_eos, then tts_pad. Codec embeddings are added from row 3 on: nothink, think_bos,
think_eos, the voice, codec_pad, codec_bos, and from row 9 on the codes of frame 0, 1, ... Row 8 + f predicts frame f.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F
from codec import rope_table, rotate
from sizes import talker_fields, tokenizer

OPENING = 9                                     # rows before the first that holds codes
GUIDED = (1, 3)                                 # layers whose first head is taught where the spoken token is
PHONE_KINDS = 96
MEDIA = -2                                      # in text rows: the place of a picture or a sound


def rms(x, w, eps=1e-6):
    y = x.float()
    return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * w.to(x.dtype)


def lookup(ids, table):
    """Rows of a table; as a matrix product, since the gradient of an ordinary lookup is slow where ids repeat. Ids outside give zeros."""
    hot = ids[..., None] == torch.arange(table.shape[0], device=ids.device)
    return hot.to(torch.bfloat16 if torch.is_autocast_enabled("cuda") else table.dtype) @ table


def attend(x, cos, sin, mask, heads, kv, d, guided, q, k, v, q_norm, k_norm, o):
    B, N, _ = x.shape
    q = rms(F.linear(x, q).view(B, N, heads, d), q_norm).transpose(1, 2)
    k = rms(F.linear(x, k).view(B, N, kv, d), k_norm).transpose(1, 2)
    v = F.linear(x, v).view(B, N, kv, d).transpose(1, 2)
    q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
    k, v = k.repeat_interleave(heads // kv, 1), v.repeat_interleave(heads // kv, 1)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    w = None
    if guided:                                  # log-probabilities of the first head
        w = ((q[:, 0] @ k[:, 0].transpose(1, 2)).float() * d ** -0.5).masked_fill(~mask[:, 0], -1e9).log_softmax(-1)
    return F.linear(y.transpose(1, 2).reshape(B, N, heads * d), o), w


def talker_layer(x, cos, sin, mask, shape, guided, ln1, q, k, v, q_norm, k_norm, o, ln2, router, gate_up, down, s_gate, s_up, s_down, s_scale):
    heads, kv, d, topk = shape
    y, w = attend(rms(x, ln1), cos, sin, mask, heads, kv, d, guided, q, k, v, q_norm, k_norm, o)
    x = x + y
    y = rms(x, ln2)
    y = y.reshape(-1, y.shape[-1])
    p = F.linear(y.float(), router.float()).softmax(-1)
    best, which = p.topk(topk, -1)
    weight = ((which[:, :, None] == torch.arange(p.shape[1], device=x.device)) * (best / best.sum(-1, keepdim=True))[:, :, None]).sum(1)
    gate, up = torch.matmul(y.unsqueeze(0), gate_up.transpose(1, 2)).chunk(2, -1)       # all experts on all rows: there are few
    z = torch.matmul(F.silu(gate) * up * weight.T.unsqueeze(-1).to(gate.dtype), down.transpose(1, 2)).sum(0)
    z = z + torch.sigmoid(F.linear(y, s_scale)) * F.linear(F.silu(F.linear(y, s_gate)) * F.linear(y, s_up), s_down)
    balance = p.shape[1] * ((weight > 0).float().mean(0) * p.mean(0)).sum() / topk
    return x + z.view(x.shape), balance, w


def predictor_layer(x, cos, sin, shape, ln1, q, k, v, q_norm, k_norm, o, ln2, gate, up, down):
    heads, kv, d = shape
    x = x + attend(rms(x, ln1), cos, sin, None, heads, kv, d, False, q, k, v, q_norm, k_norm, o)[0]
    y = rms(x, ln2)
    return x + F.linear(F.silu(F.linear(y, gate)) * F.linear(y, up), down)


def attention_weights(layer):
    a = layer.self_attn
    return [layer.input_layernorm.weight, a.q_proj.weight, a.k_proj.weight, a.v_proj.weight, a.q_norm.weight, a.k_norm.weight, a.o_proj.weight, layer.post_attention_layernorm.weight]


def talker_weights(layer):
    m, s = layer.mlp, layer.mlp.shared_expert
    return attention_weights(layer) + [m.gate.weight, m.experts.gate_up_proj, m.experts.down_proj, s.gate_proj.weight, s.up_proj.weight, s.down_proj.weight, m.shared_expert_gate.weight]


def predictor_weights(layer):
    return attention_weights(layer) + [layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight, layer.mlp.down_proj.weight]


class Talker(nn.Module):
    def __init__(self, v):
        super().__init__()
        from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeTalkerConfig
        from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeTalkerForConditionalGeneration
        _, ids, vocab = tokenizer()
        self.v = v
        self.talker = Qwen3OmniMoeTalkerForConditionalGeneration(Qwen3OmniMoeTalkerConfig(**talker_fields(v, ids)))
        self.text = nn.Embedding(vocab, v["hidden"])                # the thinker's token table
        self.phone = nn.Linear(v["t_hidden"], 4 * PHONE_KINDS)      # training only
        self.layer, self.predictor_layer = talker_layer, predictor_layer
        self.shape = v["t_heads"], v["t_kv"], v["head_dim"], v["t_topk"]
        self.predictor_shape = v["p_heads"], v["p_kv"], v["head_dim"]
        d = v["head_dim"]
        self.register_buffer("frequency", 1.0 / (1e6 ** (torch.arange(0, d, 2).float() / d)), persistent=False)
        axis = [k % 3 if k % 3 and k < 3 * v["mrope"][k % 3] else 0 for k in range(d // 2)]   # interleaved: time, height, width
        self.register_buffer("axis", torch.tensor(axis), persistent=False)
        cos, sin = rope_table(v["groups"] + 2, d, 1e6, "cpu")
        self.register_buffer("p_cos", cos, persistent=False)
        self.register_buffer("p_sin", sin, persistent=False)
        self.initialise()

    @torch.no_grad()
    def initialise(self):
        for name, p in self.talker.named_parameters():
            if name.endswith("bias"):
                p.zero_()
            elif p.dim() >= 2 and "embedding" in name:
                p.normal_(0, 0.25)
            elif p.dim() >= 2:
                s = 0.9 * p.shape[-1] ** -0.5 * (0.5 if "head" in name else 1.0)
                if name.endswith(("o_proj.weight", "down_proj", "down_proj.weight")):
                    s /= (2 * (self.v["p_layers"] if "code_predictor" in name else self.v["t_layers"])) ** 0.5
                p.normal_(0, s)
        self.text.weight.normal_(0, 1.0)
        for p in self.talker.hidden_projection.parameters():        # media rows say nothing until a thinker is trained with it
            p.zero_()
            p.requires_grad_(False)

    def project(self, ids):
        p = self.talker.text_projection
        return p.linear_fc2(F.silu(p.linear_fc1(lookup(ids, self.text.weight))))

    def rope(self, position):                   # [B, T, 3] -> cos, sin [B, 1, T, d]
        angle = position.float()[..., self.axis] * self.frequency
        angle = torch.cat((angle, angle), -1).unsqueeze(1)
        return angle.cos(), angle.sin()

    def core(self, x, cos, sin, mask, guided=True):
        """x [B, T, hidden] -> last hidden state after the norm, load balance, log-probabilities of the guided heads."""
        balance, heads = 0.0, []
        for i, layer in enumerate(self.talker.model.layers):
            x, b, w = self.layer(x, cos, sin, mask, self.shape, guided and i in GUIDED, *talker_weights(layer))
            balance = balance + b
            heads += [w] if w is not None else []
        return rms(x, self.talker.model.norm.weight), balance / self.v["t_layers"], heads

    def predict_core(self, x):
        n = x.shape[1]
        for layer in self.talker.code_predictor.model.layers:
            x = self.predictor_layer(x, self.p_cos[:n], self.p_sin[:n], self.predictor_shape, *predictor_weights(layer))
        return rms(x, self.talker.code_predictor.model.norm.weight)

    def predict(self, h, codes):
        """h [M, hidden], codes [M, k] the first k codes of the frame -> logits of codes 1 .. k, a list of [M, codebook]."""
        cp = self.talker.code_predictor
        rows = [h, lookup(codes[:, 0], self.talker.model.codec_embedding.weight[:self.v["codebook"]]).to(h.dtype)]
        rows += [lookup(codes[:, i], cp.model.codec_embedding[i - 1].weight).to(h.dtype) for i in range(1, codes.shape[1])]
        x = self.predict_core(torch.stack(rows, 1))
        return [cp.lm_head[i](x[:, i + 1]) for i in range(min(codes.shape[1], self.v["groups"] - 1))]

    def code_sum(self, codes):
        """Sum of the embeddings of codes [..., groups]; -1: none."""
        k, g = self.v["codebook"], self.v["groups"]
        table = torch.cat([self.talker.model.codec_embedding.weight[:k]] + [e.weight for e in self.talker.code_predictor.model.codec_embedding])
        flat = codes.reshape(-1, g).long()
        hot = torch.zeros(len(flat), g * k, device=codes.device, dtype=torch.bfloat16 if torch.is_autocast_enabled("cuda") else table.dtype)
        hot.scatter_(1, flat.clamp(min=0) + torch.arange(g, device=codes.device) * k, (flat >= 0).to(hot.dtype))
        return (hot @ table).view(codes.shape[:-1] + (-1,))

    def special(self, codec):
        """Embeddings of the codec's special ids, counted from the size of the codebook; other ids give zeros."""
        top = self.v["codebook"]
        return lookup(codec - top, self.talker.model.codec_embedding.weight[top:top + 32])


def opening_codec(v, voice):
    """Codec ids of rows 3 to 8."""
    top = v["codebook"]
    return [top + 11, top + 12, top + 13, top + 20 + voice, top + 4, top + 5]


def pick(logits, temperature, top_k, top_p, greedy):
    if greedy:
        return logits.argmax(-1)
    value, index = (logits.float() / temperature).topk(min(top_k, logits.shape[-1]), -1)
    p = value.softmax(-1)
    if top_p < 1:
        p = torch.where(p.cumsum(-1) - p < top_p, p, torch.zeros_like(p))
    return index.gather(1, torch.multinomial(p / p.sum(-1, keepdim=True), 1))[:, 0]


@torch.no_grad()
def generate(m, texts, voices, most, greedy=False, penalty=1.05):
    """Codes [B, frames, groups] for texts, and how many frames each has: as omni does it, but in a batch and without caches."""
    tok, ids, _ = tokenizer()
    v, device, B, top = m.v, m.text.weight.device, len(texts), m.v["codebook"]
    text = torch.full((B, OPENING + most), ids["<tts_pad>"])
    codec = torch.full((B, OPENING + most), -1)
    for b, t in enumerate(texts):
        e = tok.encode(t, add_special_tokens=False).ids
        text[b, :3] = torch.tensor([ids["<|im_start|>"], ids["assistant"], ids["Ċ"]])
        text[b, 7] = ids["<tts_text_bos>"]
        text[b, 8:8 + len(e)] = torch.tensor(e)
        text[b, 8 + len(e)] = ids["<tts_text_eod>"]
        codec[b, 3:9] = torch.tensor(opening_codec(v, voices[b]))
    text, codec = text.to(device), codec.to(device)
    x = m.project(text) + m.special(codec)
    codes = torch.full((B, most, v["groups"]), -1, device=device)
    end = torch.full((B,), -1, device=device)
    seen = torch.zeros(B, top + 1024, dtype=torch.bool, device=device)
    cos, sin = m.rope(torch.arange(OPENING + most, device=device)[None, :, None].expand(B, -1, 3))
    for f in range(most):
        n = OPENING + f
        mask = torch.ones(n, n, dtype=torch.bool, device=device).tril()[None, None]
        h = m.core(x[:, :n], cos[:, :, :n], sin[:, :, :n], mask, False)[0][:, -1]
        logits = F.linear(h, m.talker.codec_head.weight).float()
        logits[:, top:top + 6] = -1e9
        logits[:, top + 7:] = -1e9
        logits = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
        first = pick(logits, 0.9, 50, 1.0, greedy)
        end = torch.where((end < 0) & (first == top + 6), torch.full_like(end, f), end)
        if (end >= 0).all():
            break
        seen[torch.arange(B), first] = True
        c = first.clamp(max=top - 1)[:, None]
        for g in range(1, v["groups"]):
            c = torch.cat((c, pick(m.predict(h, c)[-1], 1.0, 50, 0.8, greedy)[:, None]), 1)
        codes[:, f] = c
        if n < x.shape[1]:
            x[:, n] += m.code_sum(c)
    return codes, torch.where(end < 0, torch.full_like(end, most), end)
