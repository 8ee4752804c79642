"""The thinker with its audio and vision encoders: transformers' own modules, driven by functions for batches of fixed shapes, which a GPU runs as one graph.

A batch has B sounds of up to SECONDS, U pictures or pairs of frames of up to MOST_PATCHES patches, and R packed rows of T tokens. The encoders' embeddings
are put where `dest` says: the flat place in the rows, or beyond them for what is not used.
"""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from codec import rotate
from encode import PHONES
from pictures import COLOURS, KINDS, MOST_PATCHES
from sizes import full_config
from talker import attend, rms

SECONDS = 8                                     # longest sound; one window of the encoder's attention
FRAMES, CHUNK, TOKENS = 100 * SECONDS, 100, 13  # frames of log-mel, in a chunk; embeddings of a chunk
CELLS = MOST_PATCHES // 4                       # embeddings of a picture at most
GUIDED = 2                                      # layer whose first head is taught where the word is that is being written


def mel_filters():
    from transformers.audio_utils import mel_filter_bank
    return torch.from_numpy(mel_filter_bank(201, 128, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")).float()


def log_mel(x, frames, filters, window):
    """Sound [B, S] at 16 kHz and its frames [B] -> [B, 128, S / 160], 0 after the end."""
    z = torch.stft(x, 400, 160, window=window, return_complex=True)[..., :-1]
    m = (filters.T @ (z.real ** 2 + z.imag ** 2)).clamp(min=1e-10).log10()
    real = torch.arange(m.shape[-1], device=x.device) < frames[:, None, None]
    top = m.masked_fill(~real, -10.0).amax((1, 2), keepdim=True)
    return (torch.maximum(m, top - 8.0) + 4.0) / 4.0 * real


def sound_tokens(frames):
    """Embeddings of so many frames of log-mel (an int or an array)."""
    last = frames % CHUNK
    return frames // CHUNK * TOKENS + (((last + 1) // 2 + 1) // 2 + 1) // 2


def norm(x, m):
    return F.layer_norm(x, m.normalized_shape, m.weight, m.bias, m.eps)


def audio_layer(x, mask, heads, l):
    a, (B, N, d) = l.self_attn, x.shape
    y = norm(x, l.self_attn_layer_norm)
    q, k, v = (p(y).view(B, N, heads, d // heads).transpose(1, 2) for p in (a.q_proj, a.k_proj, a.v_proj))
    x = x + a.out_proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(B, N, d))
    return x + l.fc2(F.gelu(l.fc1(norm(x, l.final_layer_norm))))


def vision_layer(x, cos, sin, mask, heads, b):
    U, P, d = x.shape
    q, k, v = b.attn.qkv(norm(x, b.norm1)).view(U, P, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
    x = x + b.attn.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(U, P, d))
    return x + b.mlp.linear_fc2(F.gelu(b.mlp.linear_fc1(norm(x, b.norm2)), approximate="tanh"))


def merge(x, m, joined_first):
    U, P, d = x.shape
    x = norm(x.reshape(U, P // 4, 4 * d), m.ln_q) if joined_first else norm(x, m.ln_q).reshape(U, P // 4, 4 * d)
    return m.mlp[2](F.gelu(m.mlp[0](x)))


def text_layer(x, cos, sin, mask, shape, guided, l):
    heads, kv, d, topk = shape
    a, e = l.self_attn, l.mlp.experts
    y, w = attend(rms(x, l.input_layernorm.weight), cos, sin, mask, heads, kv, d, guided, a.q_proj.weight, a.k_proj.weight, a.v_proj.weight, a.q_norm.weight, a.k_norm.weight, a.o_proj.weight)
    x = x + y
    y = rms(x, l.post_attention_layernorm.weight)
    y = y.reshape(-1, y.shape[-1])
    p = F.linear(y.float(), l.mlp.gate.weight.float()).softmax(-1)
    best, which = p.topk(topk, -1)
    weight = ((which[:, :, None] == torch.arange(p.shape[1], device=x.device)) * (best / best.sum(-1, keepdim=True))[:, :, None]).sum(1)
    gate, up = torch.matmul(y.unsqueeze(0), e.gate_up_proj.transpose(1, 2)).chunk(2, -1)
    z = torch.matmul(F.silu(gate) * up * weight.T.unsqueeze(-1).to(gate.dtype), e.down_proj.transpose(1, 2)).sum(0)
    balance = p.shape[1] * ((weight > 0).float().mean(0) * p.mean(0)).sum() / topk
    return x + z.view(x.shape), balance, w


class Grids:
    """Tables for each size of picture, as rows x columns of patches: how the learned positions spread over them, rotation, which patches there are."""

    def __init__(self, v):
        self.number = self.numbers()
        rows = [self.table(h, w, MOST_PATCHES, v["v_grid"]) for h, w in self.number]
        self.spread, self.place, self.real = (torch.from_numpy(np.stack(a)) for a in zip(*rows))

    @staticmethod
    def numbers():
        sizes = [(h, w) for h in range(2, 42, 2) for w in range(2, 42, 2) if h * w <= MOST_PATCHES]
        return {size: i for i, size in enumerate(sizes)}

    @staticmethod
    def table(h, w, most, side):
        r, c = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
        order = lambda x: x.reshape(h // 2, 2, w // 2, 2).transpose(0, 2, 1, 3).reshape(-1)
        r, c = order(r), order(c)
        y, x = r * ((side - 1) / (h - 1)), c * ((side - 1) / (w - 1))
        y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
        y1, x1, fy, fx = np.minimum(y0 + 1, side - 1), np.minimum(x0 + 1, side - 1), y - y0, x - x0
        n = h * w
        spread, place, real = np.zeros((most, side * side), np.float32), np.zeros((most, 2), np.int64), np.zeros(most, bool)
        for at, weight in ((y0 * side + x0, (1 - fy) * (1 - fx)), (y0 * side + x1, (1 - fy) * fx), (y1 * side + x0, fy * (1 - fx)), (y1 * side + x1, fy * fx)):
            np.add.at(spread, (np.arange(n), at), weight)
        place[:n], real[:n] = np.stack([r, c], -1), True
        return spread, place, real


class Thinker(nn.Module):
    def __init__(self, v):
        super().__init__()
        from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeThinkerForConditionalGeneration
        self.v = v
        self.thinker = Qwen3OmniMoeThinkerForConditionalGeneration(full_config(v).thinker_config).float()
        self.phone = nn.Linear(v["a_d"], 4 * len(PHONES))           # training only, as is the next
        self.cell = nn.Linear(v["hidden"], len(KINDS) + len(COLOURS) + 2)
        self.grids = Grids(v)
        for name in ("spread", "place", "real"):
            self.register_buffer("grid_" + name, getattr(self.grids, name), persistent=False)
        self.register_buffer("filters", mel_filters(), persistent=False)
        self.register_buffer("window", torch.hann_window(400), persistent=False)
        d = v["head_dim"]
        self.register_buffer("frequency", 1.0 / (1e6 ** (torch.arange(0, d, 2).float() / d)), persistent=False)
        self.register_buffer("axis", torch.tensor([k % 3 if k % 3 and k < 3 * v["mrope"][k % 3] else 0 for k in range(d // 2)]), persistent=False)
        d = v["v_d"] // v["v_heads"]
        self.register_buffer("v_frequency", 1.0 / (1e4 ** (torch.arange(0, d // 2, 2).float() / (d // 2))), persistent=False)
        self.shape = v["heads"], v["kv"], v["head_dim"], v["topk"]
        self.encode_audio, self.encode_vision, self.decode = self.audio, self.vision, self.text
        self.initialise()

    @torch.no_grad()
    def initialise(self):
        depth = dict(model=self.v["layers"], audio_tower=self.v["a_layers"], visual=self.v["v_layers"])
        for name, p in self.thinker.named_parameters():
            if name.endswith("bias"):
                p.zero_()
            elif p.dim() >= 2:
                s = 0.9 * p[0].numel() ** -0.5 if "experts" not in name else 0.9 * p.shape[-1] ** -0.5
                if name.endswith(("o_proj.weight", "down_proj", "out_proj.weight", "fc2.weight", "attn.proj.weight")) and "merger" not in name:
                    s /= (2 * depth[name.split(".")[0]]) ** 0.5
                p.normal_(0, 0.02 if "pos_embed" in name else s * (0.5 if "lm_head" in name else 1.4 if "conv2d" in name else 0.3 if name.endswith(("proj2.weight", "mlp.2.weight")) else 1.0))
        self.thinker.model.embed_tokens.weight.requires_grad_(False)

    def mel(self, sound, frames):
        with torch.autocast(sound.device.type, enabled=False):
            return self.blur(log_mel(sound, frames, self.filters, self.window), frames)

    def audio(self, mel, frames):
        """Log-mel [B, 128, FRAMES], frames that count [B] -> embeddings [B, TOKENS * SECONDS, hidden], and what the phones are read from."""
        t, B = self.thinker.audio_tower, len(mel)
        x = mel.view(B, 128, -1, CHUNK).transpose(1, 2).reshape(-1, 1, 128, CHUNK)
        for conv in (t.conv2d1, t.conv2d2, t.conv2d3):
            x = F.gelu(conv(x))
        n, c, f, k = x.shape
        x = t.conv_out(x.permute(0, 3, 1, 2).reshape(n, k, c * f))
        x = (x + t.positional_embedding.positional_embedding[:k].to(x.dtype)).reshape(B, -1, x.shape[-1])
        count = frames // CHUNK * TOKENS + (((frames % CHUNK + 1) // 2 + 1) // 2 + 1) // 2
        mask = (torch.arange(x.shape[1], device=x.device) < count[:, None].clamp(min=1))[:, None, None]
        for layer in t.layers:
            x = audio_layer(x, mask, self.v["a_heads"], layer)
        x = norm(x, t.ln_post)
        return t.proj2(F.gelu(t.proj1(x))), x

    def blur(self, mel, frames):
        """In training: another microphone, and short pieces that are missing."""
        if not self.training:
            return mel
        B, dev = len(mel), mel.device
        line = torch.linspace(-1, 1, 128, device=dev)
        u = torch.rand(B, 6, device=dev)
        tilt = (u[:, :1] - 0.5) * 0.3 + (u[:, 1:2] - 0.5) * 0.4 * line + (u[:, 2:3] - 0.5) * 0.3 * torch.cos(3.0 * line + 6.28 * u[:, 3:4])
        time = torch.arange(mel.shape[-1], device=dev)
        band = torch.arange(128, device=dev)
        a, b = (torch.rand(B, 1, device=dev) * frames[:, None]), torch.rand(B, 1, device=dev) * 12 * (u[:, 4:5] < 0.4)
        c, d = torch.rand(B, 1, device=dev) * 120, torch.rand(B, 1, device=dev) * 14 * (u[:, 5:6] < 0.4)
        gone = ((time >= a) & (time < a + b))[:, None, :] | ((band >= c) & (band < c + d))[:, :, None]
        floor = mel.amin((1, 2), keepdim=True)
        real = time < frames[:, None, None]
        return torch.where(real, torch.where(gone, floor, mel + tilt[..., None]), mel)

    def vision(self, pixels, grid):
        """uint8 [U, 2, P, 768], grid numbers [U] -> embeddings [U, P / 4, hidden] and as many for each deepstack."""
        t, (U, _, P, _) = self.thinker.visual, pixels.shape
        w = t.patch_embed.proj
        x = (pixels.float() / 127.5 - 1).view(U, 2, P, 3, 256).permute(0, 2, 3, 1, 4).reshape(U, P, 1536)
        x = F.linear(x, w.weight.view(w.weight.shape[0], -1), w.bias)
        x = x + (self.grid_spread[grid].to(x.dtype) @ t.pos_embed.weight.to(x.dtype))       # a product: lookups of repeated ids have slow gradients
        angle = (self.grid_place[grid].float()[..., None] * self.v_frequency).flatten(2)
        angle = torch.cat((angle, angle), -1)[:, None]
        cos, sin = angle.cos(), angle.sin()
        real = self.grid_real[grid]
        deep = []
        for i, block in enumerate(t.blocks):
            x = vision_layer(x, cos, sin, real[:, None, None], self.v["v_heads"], block)
            if i in self.v["v_deep"]:
                deep.append(merge(x, t.merger_list[self.v["v_deep"].index(i)], True))
        return merge(x, t.merger, False), deep

    def text(self, ids, position, sequence, sound, sound_dest, picture, picture_dest, deep):
        """ids, sequence [R, T] int, position [R, T, 3]; embeddings [n, hidden] and their flat places -> last hidden states, balance, log-probabilities of the guided head."""
        m, (R, T) = self.thinker.model, ids.shape
        dest = torch.cat((sound_dest, picture_dest))
        x = F.embedding(ids, m.embed_tokens.weight).reshape(R * T, -1)
        beyond = x.new_zeros(len(dest), x.shape[1])
        x = torch.cat((x, beyond)).to(sound.dtype).index_copy(0, dest, torch.cat((sound, picture.to(sound.dtype))))[:R * T].view(R, T, -1)
        column = torch.arange(T, device=ids.device)
        mask = ((sequence[:, :, None] == sequence[:, None, :]) & (column[:, None] >= column)).unsqueeze(1)
        angle = position.float()[..., self.axis] * self.frequency
        angle = torch.cat((angle, angle), -1).unsqueeze(1)
        cos, sin = angle.cos(), angle.sin()
        balance, guide = 0.0, None
        for i, layer in enumerate(m.layers):
            x, b, w = text_layer(x, cos, sin, mask, self.shape, i == GUIDED and self.training, layer)
            balance = balance + b / len(m.layers)
            guide = w if w is not None else guide
            if i < len(deep):
                add = x.new_zeros(R * T + len(dest), x.shape[-1]).index_copy(0, picture_dest, deep[i].to(x.dtype))
                x = x + add[:R * T].view(x.shape)
        return rms(x, m.norm.weight), balance, guide

    def forward(self, b):
        """b: a dictionary with sound [B, S], frames [B], pixels [U, 2, P, 768], grid [U], ids, position, sequence, sound_dest, picture_dest."""
        sound, phones = self.encode_audio(self.mel(b["sound"], b["frames"]), b["frames"])
        picture, deep = self.encode_vision(b["pixels"], b["grid"])
        flat = lambda t: t.reshape(-1, t.shape[-1])
        h, balance, guide = self.decode(b["ids"], b["position"], b["sequence"], flat(sound), b["sound_dest"], flat(picture), b["picture_dest"], [flat(d) for d in deep])
        return h, balance, guide, phones, picture
