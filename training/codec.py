"""The codec: code2wav (transformers' own modules) with an encoder and a residual quantiser that only training needs.

Sound at 24 kHz -> features, 100 a second -> encoder, 12.5 latent vectors a second -> `groups` codes each -> code2wav -> sound.
"""
import math
import torch
import torch.nn as nn
import torch.nn.functional as F
import transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe as qwen
from sizes import FRAME, RATE, code2wav_config

LATENT = 64                                     # width in which the quantiser works; the projection after it is absorbed into code2wav's table
HOP = 240


def mel_bank(n_fft, bins, top=RATE / 2):
    """Triangular filters [bins, n_fft / 2 + 1], evenly spaced on the mel scale up to `top` Hz, each summing to 1 where it can."""
    hz = lambda m: 700 * (10 ** (m / 2595) - 1)
    mel = lambda f: 2595 * math.log10(1 + f / 700)
    points = torch.tensor([hz(mel(top) * i / (bins + 1)) for i in range(bins + 2)])
    f = torch.linspace(0, RATE / 2, n_fft // 2 + 1)
    low, middle, high = points[:-2, None], points[1:-1, None], points[2:, None]
    return torch.minimum((f - low) / (middle - low), (high - f) / (high - middle)).clamp(min=0)


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def rope_table(n, dim, base, device):
    inverse = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float, device=device) / dim))
    angle = torch.arange(n, device=device).float()[:, None] * inverse
    angle = torch.cat((angle, angle), -1)
    return angle.cos(), angle.sin()


def snake_beta(x, alpha, beta):
    a = torch.exp(alpha)[None, :, None].to(x.dtype)
    b = (1.0 / (torch.exp(beta) + 1e-9))[None, :, None].to(x.dtype)
    return x + b * torch.sin(x * a).square()


def use_snake(function):
    """Lets all SnakeBeta activations run through the function, which may be compiled."""
    qwen.Qwen3OmniMoeSnakeBeta.forward = lambda self, x: function(x, self.alpha, self.beta)


class Decoder(nn.Module):
    """Code2wav's modules, driven from the embeddings, with the convolutions on a random window only, which is where the time goes."""

    def __init__(self, v):
        super().__init__()
        self.w = qwen.Qwen3OmniMoeCode2Wav(code2wav_config(v))
        for m in self.w.modules():
            if isinstance(m, (nn.Linear, nn.Conv1d, nn.ConvTranspose1d)):
                m.reset_parameters()
            if isinstance(getattr(m, "scale", None), nn.Parameter):
                nn.init.constant_(m.scale, 0.2)
            if isinstance(getattr(m, "gamma", None), nn.Parameter):
                nn.init.constant_(m.gamma, 0.3)
        self.heads, self.span = v["w_heads"], v["w_window"]

    def forward(self, h, window=None):
        """h [B, frames, hidden] -> sound [B, samples]. With a window: only that many steps of 1/50 s, and where each row's begins."""
        B, T, C = h.shape
        cos, sin = rope_table(T, C // self.heads, 1e4, h.device)
        i = torch.arange(T, device=h.device)
        mask = (i[:, None] >= i) & (i[:, None] - i < self.span)
        for layer in self.w.pre_transformer.layers:
            a, x = layer.self_attn, layer.input_layernorm(h)
            q, k, v = (p(x).view(B, T, self.heads, -1).transpose(1, 2) for p in (a.q_proj, a.k_proj, a.v_proj))
            x = F.scaled_dot_product_attention(rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype), v, attn_mask=mask)
            h = h + layer.self_attn_layer_scale(a.o_proj(x.transpose(1, 2).reshape(B, T, C)))
            h = h + layer.mlp_layer_scale(layer.mlp(layer.post_attention_layernorm(h)))
        h = self.w.pre_transformer.norm(h).transpose(1, 2)
        for blocks in self.w.upsample:
            for block in blocks:
                h = block(h)
        at = None
        if window is not None:
            at = torch.randint(0, h.shape[2] - window + 1, (B,), device=h.device)
            h = h.gather(2, (at[:, None, None] + torch.arange(window, device=h.device)).expand(-1, C, -1))
        for block in self.w.decoder:
            h = block(h)
        return (h.float().squeeze(1), at) if window is not None else h.float().squeeze(1)


class Features(nn.Module):
    """100 frames a second: 100 log-mel bins, and the low bins of a longer window (the pitch), each of about unit size."""

    def __init__(self, low=80):
        super().__init__()
        self.register_buffer("mel", mel_bank(1024, 100), persistent=False)
        self.register_buffer("short", torch.hann_window(1024), persistent=False)
        self.register_buffer("long", torch.hann_window(2048), persistent=False)
        self.low, self.dim = low, 100 + low

    def magnitude(self, x, window):
        side = window.numel() // 2 - HOP // 2
        x = F.pad(x.unsqueeze(1), (side, side), mode="reflect").squeeze(1)
        return torch.stft(x, window.numel(), HOP, window=window, center=False, return_complex=True).abs()

    def forward(self, x):                       # [B, T], T a multiple of FRAME -> [B, dim, T / HOP]
        n = x.shape[-1] // HOP
        a = torch.log((self.mel @ self.magnitude(x, self.short)[..., :n]).clamp(min=1e-3))
        b = torch.log(self.magnitude(x, self.long)[:, 1:self.low + 1, :n].clamp(min=1e-2))
        return torch.cat(((a + 1.0) / 2.5, (b + 0.5) / 2.5), 1)


class ChannelNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Residual(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm, self.a, self.b = ChannelNorm(c), nn.Conv1d(c, c, 5, padding=2), nn.Conv1d(c, c, 1)

    def forward(self, x):
        return x + self.b(F.gelu(self.a(self.norm(x))))


class Encoder(nn.Module):
    """Sound [B, T] -> latent vectors [B, T / FRAME, LATENT]. Looks ahead: it never runs in use."""

    def __init__(self, width):
        super().__init__()
        self.features = Features()
        layers = [nn.Conv1d(self.features.dim, width, 3, padding=1), Residual(width)]
        for _ in range(3):
            layers += [nn.Conv1d(width, width, 4, stride=2, padding=1), Residual(width), Residual(width)]
        self.net = nn.Sequential(*layers, ChannelNorm(width), nn.Conv1d(width, LATENT, 1))

    def forward(self, x):
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            f = self.features(x.float())
        return self.net(f).transpose(1, 2).float()


class Quantiser(nn.Module):
    """Residual vector quantiser: moving averages of the vectors that chose a code, codes that nobody chooses start anew from a vector of the batch."""

    def __init__(self, groups, size, decay=0.98):
        super().__init__()
        self.groups, self.size, self.decay = groups, size, decay
        self.register_buffer("codes", torch.zeros(groups, size, LATENT))
        self.register_buffer("count", torch.ones(groups, size))
        self.register_buffer("total", torch.zeros(groups, size, LATENT))

    def nearest(self, r, g):
        return (self.codes[g].square().sum(1) - 2 * r @ self.codes[g].T).argmin(1)

    @torch.no_grad()
    def begin(self, z):
        """k-means, group after group, over z [N, LATENT]."""
        r = z.clone()
        pick = lambda: r[torch.randint(len(r), (self.size,), device=r.device)]
        for g in range(self.groups):
            self.codes[g] = pick()
            for _ in range(12):
                i = self.nearest(r, g)
                n = torch.bincount(i, minlength=self.size).float()
                s = torch.zeros_like(self.codes[g]).index_add_(0, i, r)
                self.codes[g] = torch.where(n[:, None] > 0, s / n.clamp(min=1)[:, None], pick())
            self.count[g], self.total[g] = 4.0, self.codes[g] * 4.0
            r = r - self.codes[g][self.nearest(r, g)]

    def forward(self, z, keep=None):
        """z [B, F, LATENT], keep [B] how many groups each row may use in training -> quantised z with a straight-through gradient, ids [B, F, groups], commitment loss."""
        flat = z.reshape(-1, LATENT)
        r = flat.detach()
        q, ids, commitment, chosen = torch.zeros_like(r), [], 0.0, []
        for g in range(self.groups):
            i = self.nearest(r, g)
            ids.append(i)
            v = self.codes[g][i]
            if self.training:
                live = (keep > g).repeat_interleave(z.shape[1]).float()[:, None]
                chosen.append((i, r, live))
                v = v * live
            q, r = q + v, r - v
            if self.training:
                commitment = commitment + ((flat - q).square().mean(1) * live[:, 0]).mean()
        if self.training:
            self.learn(chosen)
        return z + (q.view_as(z) - z).detach(), torch.stack(ids, 1).view(z.shape[0], z.shape[1], -1), commitment / self.groups

    @torch.no_grad()
    def learn(self, chosen):
        for g, (i, r, live) in enumerate(chosen):
            n = torch.zeros(self.size, device=r.device).index_add_(0, i, live[:, 0])
            s = torch.zeros_like(self.total[g]).index_add_(0, i, r * live)
            self.count[g].lerp_(n, 1 - self.decay)
            self.total[g].lerp_(s, 1 - self.decay)
            dead = self.count[g] < 0.05
            fresh = r[torch.randint(len(r), (self.size,), device=r.device)]
            self.total[g] = torch.where(dead[:, None], fresh, self.total[g])
            self.count[g] = torch.where(dead, torch.ones_like(self.count[g]), self.count[g])
            self.codes[g] = self.total[g] / self.count[g][:, None]


class Codec(nn.Module):
    def __init__(self, v):
        super().__init__()
        self.v = v
        self.encoder, self.quantiser, self.decoder = Encoder(v["encoder"]), Quantiser(v["groups"], v["codebook"]), Decoder(v)
        self.out = nn.Linear(LATENT, v["w_hidden"])

    @torch.no_grad()
    def encode(self, x):                        # sound [B, T] -> codes [B, T / FRAME, groups]
        z = self.encoder(x).reshape(-1, LATENT)
        r, ids = z, []
        for g in range(self.v["groups"]):
            i = self.quantiser.nearest(r, g)
            ids.append(i)
            r = r - self.quantiser.codes[g][i]
        return torch.stack(ids, 1).view(x.shape[0], -1, self.v["groups"])

    @torch.no_grad()
    def absorb(self):
        """Writes code2wav's table: the mean over a frame's rows must be out(sum of its codes)."""
        g = self.v["groups"]
        rows = [g * (self.quantiser.codes[i] @ self.out.weight.T) + self.out.bias for i in range(g)]
        self.decoder.w.code_embedding.weight.copy_(torch.cat(rows))

    def embed(self, ids):
        """Code2wav's embedding of ids [B, F, groups]."""
        offset = torch.arange(self.v["groups"], device=ids.device) * self.v["codebook"]
        return self.decoder.w.code_embedding(ids + offset).mean(2)


def norm(module):
    return nn.utils.parametrizations.weight_norm(module)


class PeriodDiscriminator(nn.Module):
    def __init__(self, period, width):
        super().__init__()
        self.period = period
        channels = (width * 3 // 4, width * 2, width * 4, width * 8)
        widths = (1,) + channels
        self.layers = nn.ModuleList([norm(nn.Conv2d(i, o, (5, 1), (3, 1), (2, 0))) for i, o in zip(widths, channels)] + [norm(nn.Conv2d(channels[-1], channels[-1], (5, 1), 1, (2, 0)))])
        self.out = nn.Conv2d(channels[-1], 1, (3, 1), 1, (1, 0))

    def forward(self, x):
        x = F.pad(x, (0, -x.shape[-1] % self.period)).view(x.shape[0], 1, -1, self.period)
        maps = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            maps.append(x)
        return self.out(x), maps


class SpectrumDiscriminator(nn.Module):
    """Over the complex spectrum, halved in frequency early to stay cheap."""

    def __init__(self, n, c):
        super().__init__()
        self.n = n
        self.register_buffer("window", torch.hann_window(n), persistent=False)
        self.layers = nn.ModuleList([norm(nn.Conv2d(2, c, (3, 8), (1, 2), (1, 3))), norm(nn.Conv2d(c, c, (3, 8), (1, 2), (1, 3))), norm(nn.Conv2d(c, 2 * c, (3, 8), (1, 2), (1, 3))),
                                     norm(nn.Conv2d(2 * c, 2 * c, (3, 3), padding=1))])
        self.out = nn.Conv2d(2 * c, 1, (3, 3), padding=1)

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            s = torch.stft(x.float(), self.n, self.n // 4, window=self.window, return_complex=True)
            x = torch.stack((s.real, s.imag), 1).transpose(2, 3) * (32 / self.n)
        maps = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            maps.append(x)
        return self.out(x), maps


def discriminators(v):
    return nn.ModuleList([PeriodDiscriminator(p, v["critics"]) for p in (2, 3, 5, 7, 11)] + [SpectrumDiscriminator(n, v["critics"]) for n in (2048, 1024, 512)])


class MelLoss(nn.Module):
    """Distance of log-mel spectra over seven window lengths, and a little of the spectra themselves."""
    SCALES = [(32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 120), (2048, 200)]

    def __init__(self):
        super().__init__()
        for n, bins in self.SCALES:
            self.register_buffer(f"bank{n}", mel_bank(n, bins), persistent=False)
            self.register_buffer(f"window{n}", torch.hann_window(n), persistent=False)

    def forward(self, x, y):
        total = 0.0
        for n, _ in self.SCALES:
            window, bank = getattr(self, f"window{n}"), getattr(self, f"bank{n}")
            a, b = (bank @ torch.stft(s, n, n // 4, window=window, return_complex=True).abs() for s in (x, y))
            total = total + (torch.log10(a.clamp(min=1e-3)) - torch.log10(b.clamp(min=1e-3))).abs().mean() + 0.3 * (a - b).abs().mean() / math.sqrt(n / 64)
        return total / len(self.SCALES)


def load_codec(path, v, device):
    c = Codec(v).to(device)
    c.load_state_dict({k: t.float() for k, t in torch.load(path, map_location=device, weights_only=True)["codec"].items()})
    return c.eval()
