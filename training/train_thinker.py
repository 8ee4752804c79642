#!/usr/bin/env python3
"""Trains the thinker and its encoders on all skills at once, in pieces that go on from a checkpoint.

    train_thinker.py TALKER.small.pt CHECKPOINT --speech FOLDER... --steps N [--seconds S] [--test FOLDER...]

The token table is the one that the talker was trained with (a GGUF that has it does, too) and stays as it is. Folders are those of sounds.py and teacher.py; pictures and
videos are drawn first, into --scratch. Beside the checkpoint, CHECKPOINT with .small before its suffix holds the averaged weights in half precision.
Helps in training only: the phones of each embedding of a sound, figure and colour of each embedding of a picture, attention of one head guided to the word that
is being written.
"""
import argparse, math, os, time
import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F
from encode import PHONES
from pictures import COLOURS, KINDS
from sizes import sizes
from tasks import Mixer, Pictures, Shape, Sounds
from thinker import CELLS, CHUNK, FRAMES, MOST_PATCHES, SECONDS, TOKENS, Thinker


def token_table(path):
    """The table that the talker was trained with: from its checkpoint, or from the GGUF of a thinker that has it (as .npy for a machine without gguf)."""
    if path.endswith(".pt"):
        return torch.load(path, map_location="cpu", weights_only=True)["model"]["text.weight"].float()
    if path.endswith(".npy"):
        return torch.from_numpy(np.load(path)).float()
    import gguf
    t = next(t for t in gguf.GGUFReader(path).tensors if t.name == "token_embd.weight")
    return torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type))).float()


def resampled(x):
    """24 to 16 kHz: two phases of one filter, each every third sample."""
    taps, centre = 48, 24
    j = torch.arange(taps, device=x.device).float() - centre
    h = []
    for phase in (0.0, 1.5):
        t = j - phase
        h.append(torch.sinc(t * 0.62) * 0.62 * torch.cos(math.pi * (t / (taps + 2))).clamp(min=0) ** 2)
    w = torch.stack(h)[:, None]
    w = w / w.sum(-1, keepdim=True)
    x = F.pad(x, (centre, taps))
    y = F.conv1d(x[None, None], w.to(x.dtype), stride=3)[0]
    return y.T.reshape(-1)


class Pools:
    """Sounds and pictures on the device."""

    def __init__(self, sounds, pictures, videos, device):
        self.device = device
        self.quarters = torch.tensor([-0.03, -0.01, 0.01, 0.03], device=device)
        self.sound = torch.zeros(sounds.samples + 1, dtype=torch.int16, device=device)
        for path, rate, at, n in sounds.files:
            x = np.memmap(path, np.int16, "r")
            if rate == 16000:
                self.sound[at:at + n] = torch.from_numpy(np.array(x)).to(device)
                continue
            for a in range(0, n, 4000000):      # in pieces, each begun a little before
                b = min(n, a + 4000000)
                first = max(0, a // 2 * 3 - 300)
                piece = torch.from_numpy(np.array(x[first:b // 2 * 3 + 303])).to(device).float()
                y = resampled(piece)
                skip = (a // 2 * 3 - first) // 3 * 2
                self.sound[at + a:at + b] = y[skip:skip + b - a].round().clamp(-32767, 32767).to(torch.int16)
        self.phones = torch.from_numpy(sounds.phones).to(device)
        load = lambda path: torch.cat([torch.from_numpy(part).to(device) for part in np.array_split(np.load(path, mmap_mode="r"), 16)])
        self.pictures, self.labels, self.videos = load(pictures.pixels), load(pictures.labels), load(videos.pixels)

    def inputs(self, b, shape, noisy):
        """Tensors of thinker.Thinker.forward and of the losses from a batch's numbers on the device."""
        begin, samples, phones, frames = b["clip"].unbind(1)
        lead, speed, gain, noise = b["heard"].unbind(1)
        t = torch.arange(160 * FRAMES, device=self.device).float()
        at = (t / 16000 - lead[:, None]) * speed[:, None] * 16000
        inside = (at >= 0) & (at < samples[:, None] - 1)
        low = at.clamp(min=0).minimum((samples[:, None] - 2).clamp(min=0).float())
        place = begin[:, None] + low.long()
        part = low - low.floor()
        x = self.sound[place].float() * (1 - part) + self.sound[place + 1].float() * part
        x = torch.where(inside, x, torch.zeros_like(x)) / 32768 * gain[:, None]
        x = x + torch.randn_like(x) * (noise[:, None] if noisy else 1e-5)
        B = len(begin)
        k = torch.arange(SECONDS * TOKENS, device=self.device)
        centre = (k // TOKENS).float() + (k % TOKENS).float() * 0.08
        when = centre[:, None] + self.quarters
        src = ((when - lead[:, None, None]) * speed[:, None, None] / 0.02).floor()
        known = phones[:, None, None] >= 0
        within = (src >= 0) & (src < (samples[:, None, None] / 320 - 0.5).floor())
        label = self.phones[(phones[:, None, None] + src.long()).clamp(min=0, max=len(self.phones) - 1)].long()
        label = torch.where(within, label, torch.zeros_like(label))
        ended = centre[:, None] * 100 >= frames[:, None, None]
        phone = torch.where(known & ~ended, label, torch.full_like(label, -1))
        U, V = shape.pictures, shape.videos
        pixels = torch.zeros(shape.units, 2, MOST_PATCHES, 768, dtype=torch.uint8, device=self.device)
        pixels[:U] = self.pictures[b["picture"][:, 0]][:, None]
        which = b["video"][:, :1] * 4 + torch.arange(4, device=self.device)
        pixels[U:, :, :100] = self.videos[which.reshape(-1)]
        grid = torch.cat((b["picture"][:, 1], b["video"][:, 1].repeat_interleave(4)))
        return dict(sound=x, frames=frames, pixels=pixels, grid=grid, ids=b["ids"].long(), position=b["position"].long(), sequence=b["sequence"].long(), sound_dest=b["sound_dest"].long(),
                    picture_dest=b["picture_dest"].long(), target=b["target"].long(), low=b["low"].long(), high=b["high"].long(), phone=phone, cell=self.labels[b["picture"][:, 0]].long())


def losses(m, b):
    h, balance, guide, phones, picture = m(b)
    logits = F.linear(h, m.thinker.lm_head.weight.to(h.dtype)).float()
    target = b["target"]
    ce = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-1)
    right = (logits.argmax(-1) == target)
    log = dict(ce=ce, token=(right & (target >= 0)).sum() / (target >= 0).sum())
    guess = m.phone(phones).float().view(*phones.shape[:2], 4, len(PHONES))
    wanted = b["phone"]
    ce_phone = F.cross_entropy(guess.reshape(-1, len(PHONES)), wanted.reshape(-1), ignore_index=-1) if bool(m.training) else torch.zeros_like(ce)
    log["phone"] = ((guess.argmax(-1) == wanted) & (wanted >= 0)).sum() / (wanted >= 0).sum().clamp(min=1)
    U = len(b["cell"])
    cell = m.cell(picture[:U]).float()
    kind, colour = cell[..., :len(KINDS) + 1], cell[..., len(KINDS) + 1:]
    label = torch.where(b["cell"] == 255, -1, b["cell"])
    ce_cell = F.cross_entropy(kind.flatten(0, 1), label[..., 0].flatten(), ignore_index=-1) + F.cross_entropy(colour.flatten(0, 1), label[..., 1].flatten(), ignore_index=-1)
    log["cell"] = ((kind.argmax(-1) == label[..., 0]) & (label[..., 0] > 0)).sum() / (label[..., 0] > 0).sum().clamp(min=1)
    loss = ce + 0.3 * ce_phone + 0.3 * ce_cell + 0.01 * balance
    if guide is not None:
        column = torch.arange(target.shape[1], device=target.device)
        inside = (column >= b["low"][..., None]) & (column <= b["high"][..., None]) & (b["low"] >= 0)[..., None]
        mass = torch.logsumexp(guide.masked_fill(~inside, -1e9), -1).clamp(min=-20)
        on = b["low"] >= 0
        ce_guide = -(mass * on).sum() / on.sum().clamp(min=1)
        loss = loss + 0.1 * ce_guide
        log["guide"] = ce_guide
    return loss, log, right


def produce(mixer, seed, feed):
    """A worker: batches without end."""
    import random
    torch.set_num_threads(1)
    mixer.r.seed(seed)
    while True:
        feed.put(mixer.batch()[0])


class Trainer:
    def __init__(self, v, table, device, compiled, shape):
        self.device, self.cuda, self.shape = device, device == "cuda", shape
        self.model = Thinker(v).to(device).train()
        with torch.no_grad():
            self.model.thinker.model.embed_tokens.weight.copy_(table)
        self.eager = self.model.encode_audio, self.model.encode_vision, self.model.decode
        if self.cuda and compiled:
            torch._dynamo.config.recompile_limit = 64
            self.model.encode_audio, self.model.encode_vision, self.model.decode = (torch.compile(f, dynamic=False) for f in self.eager)
        self.compiled = self.model.encode_audio, self.model.encode_vision, self.model.decode
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.trained]
        self.rate = torch.zeros((), device=device)
        groups = [dict(params=[p for p in self.trained if p.dim() >= 2], weight_decay=0.05), dict(params=[p for p in self.trained if p.dim() < 2], weight_decay=0.0)]
        self.optimiser = torch.optim.AdamW(groups, lr=self.rate, betas=(0.9, 0.98), **(dict(fused=True, capturable=True) if self.cuda else {}))
        self.step, self.log, self.graph, self.box = 0, {}, None, None

    def state(self):
        return dict(step=self.step, model=self.model.state_dict(), average=self.average, optimiser=self.optimiser.state_dict())

    def load(self, state):
        self.model.load_state_dict(state["model"], strict=True)
        with torch.no_grad():
            for a, b in zip(self.average, state["average"]):
                a.copy_(b)
        self.step = state["step"]
        self.optimiser.load_state_dict(state["optimiser"])
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate

    def fill(self, batch):
        """A batch into the buffers that the graph reads."""
        t = {k: torch.from_numpy(a) for k, a in batch.items()}
        if self.box is None:
            self.box = {k: a.to(self.device) for k, a in t.items()}
        for k, a in t.items():
            self.box[k].copy_(a)

    def iteration(self, pools):
        b = pools.inputs(self.box, self.shape, True)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.cuda, cache_enabled=False):
            loss, log, _ = losses(self.model, b)
        loss.backward()
        self.log.update({k: t.detach() for k, t in log.items()})
        self.log["norm"] = nn.utils.clip_grad_norm_(self.trained, 1.0).detach()
        self.optimiser.step()
        torch._foreach_lerp_(self.average, [p.data for p in self.trained], 0.001)

    def run(self, pools):
        zero = lambda: self.optimiser.zero_grad(set_to_none=True)
        if not self.cuda:
            zero()
            return self.iteration(pools)
        if self.graph is None:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    zero()
                    self.iteration(pools)
            torch.cuda.current_stream().wait_stream(side)
            zero()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.iteration(pools)
        self.graph.replay()

    @torch.no_grad()
    def evaluate(self, pools, batches):
        """Share of the answers all of whose tokens are the likeliest, by category: greedy answers would be these, word for word."""
        m, total = self.model, {}
        m.encode_audio, m.encode_vision, m.decode = self.eager
        kept = [p.detach().clone() for p in self.trained]
        if self.step > 2000:
            torch._foreach_copy_([p.data for p in self.trained], self.average)
        m.eval()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.cuda):
            for batch, answers in batches:
                b = pools.inputs({k: torch.from_numpy(a).to(self.device) for k, a in batch.items()}, self.shape, False)
                right = losses(m, b)[2].cpu().numpy()
                for category, row, first, end in answers:
                    n = total.setdefault(category, [0, 0])
                    n[0] += right[row, first:end].all()
                    n[1] += 1
        m.train()
        torch._foreach_copy_([p.data for p in self.trained], kept)
        m.encode_audio, m.encode_vision, m.decode = self.compiled
        return " ".join(f"{k} {a / n:.3f}" + (f"/{n}" if n < 100 else "") for k, (a, n) in sorted(total.items()))

    def train(self, pools, mixer, test, steps, seconds, peak, warm, every, workers, seed):
        context = mp.get_context("fork")
        feed = context.Queue(3 * workers)
        made = [context.Process(target=produce, args=(mixer, seed * 1000003 + self.step * 64 + i, feed), daemon=True) for i in range(workers)]
        for p in made:
            p.start()
        start, waited = time.time(), 0.0
        show = lambda d: " ".join(f"{k} {float(t):.3f}" for k, t in d.items())
        while self.step < steps and time.time() - start < seconds:
            done = self.step / steps
            flat = 1 if done < 0.3 else 0.5 * (1 + math.cos(math.pi * (done - 0.3) / 0.7))
            self.rate.fill_(peak * min(1, (self.step + 1) / warm) * (0.02 + 0.98 * flat))
            t = time.time()
            batch = feed.get()
            waited += time.time() - t
            self.fill(batch)
            self.run(pools)
            if self.step == 1000:
                torch._foreach_copy_(self.average, [p.data for p in self.trained])
            if self.step % every == 0:
                print(f"{time.time() - start:.0f} s (waited {waited:.0f}) step {self.step} {show(self.log)}", flush=True)
                if test and self.step and self.step % (every * 10) == 0:
                    print("   test", self.evaluate(*test), flush=True)
            self.step += 1
        for p in made:
            p.terminate()
        print(f"{self.step} of {steps} steps, {time.time() - start:.0f} s in this piece, {waited:.0f} of them waiting for batches", flush=True)

    def small(self):
        with torch.no_grad():
            kept = [p.detach().clone() for p in self.trained]
            if self.step > 2000:
                torch._foreach_copy_([p.data for p in self.trained], self.average)
            out = dict(step=self.step, model={k: x.half().cpu().clone() for k, x in self.model.state_dict().items()})
            torch._foreach_copy_([p.data for p in self.trained], kept)
        return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("table"); p.add_argument("checkpoint")
    p.add_argument("--speech", nargs="+", required=True); p.add_argument("--test", nargs="+", default=[])
    p.add_argument("--steps", type=int, required=True); p.add_argument("--seconds", type=float, default=1e9); p.add_argument("--seed", type=int, default=0)
    p.add_argument("--begin", help="a small checkpoint to start from")
    p.add_argument("--scratch", default="scratch"); p.add_argument("--pictures", type=int, default=60000); p.add_argument("--videos", type=int, default=6000)
    p.add_argument("--rate", type=float, default=1.2e-3); p.add_argument("--warm", type=int, default=600, help="steps until the rate is reached"); p.add_argument("--every", type=int, default=200); p.add_argument("--workers", type=int, default=8)
    p.add_argument("--sounds-in-batch", type=int, default=64); p.add_argument("--pictures-in-batch", type=int, default=44); p.add_argument("--videos-in-batch", type=int, default=8)
    p.add_argument("--rows", type=int, default=36); p.add_argument("--tokens", type=int, default=512); p.add_argument("--test-batches", type=int, default=8); p.add_argument("--no-compile", action="store_true")
    a = p.parse_args()
    device, start = "cuda" if torch.cuda.is_available() else "cpu", time.time()
    torch.manual_seed(a.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    v = sizes()
    shape = Shape(a.sounds_in_batch, a.pictures_in_batch, a.videos_in_batch, a.rows, a.tokens)
    drawn = lambda n, k, seed, video: Pictures(a.scratch, n, seed, video, k)
    speech, pictures, videos = Sounds(a.speech), drawn(a.pictures, a.workers, a.seed, False), drawn(a.videos, a.workers, a.seed, True)
    print(f"{time.time() - start:.0f} s: {len(speech.clips)} clips, {speech.samples / 16000 / 3600:.2f} h: " + " ".join(f"{k} {len(x)}" for k, x in speech.kinds.items()), flush=True)
    mixer = Mixer(shape, speech, pictures, videos, a.seed)
    test = None
    if a.test:
        held = Sounds(a.test), drawn(max(20, a.pictures // 60), a.workers, 1000, False), drawn(max(10, a.videos // 60), a.workers, 1000, True)
        tester = Mixer(shape, *held, 7, training=False)
        batches = [tester.batch() for _ in range(a.test_batches)]
    pools = Pools(speech, pictures, videos, device)
    if a.test:
        test = Pools(*held, device), batches
    t = Trainer(v, token_table(a.table), device, not a.no_compile, shape)
    count = lambda m: sum(p.numel() for p in m.parameters()) / 1e6
    print(f"{time.time() - start:.0f} s; parameters in millions: thinker {count(t.model.thinker):.2f}, of them audio {count(t.model.thinker.audio_tower):.2f}, vision {count(t.model.thinker.visual):.2f}", flush=True)
    if os.path.exists(a.checkpoint):
        t.load(torch.load(a.checkpoint, map_location=device, weights_only=True))
        torch.manual_seed(a.seed + t.step)
    elif a.begin:
        small = torch.load(a.begin, map_location=device, weights_only=True)
        t.load(dict(step=small["step"], model={k: x.float() for k, x in small["model"].items()}, average=t.trained, optimiser=t.optimiser.state_dict()))
    t.train(pools, mixer, test, a.steps, a.seconds, a.rate, a.warm, a.every, a.workers, a.seed)
    stem, suffix = os.path.splitext(a.checkpoint)
    torch.save(t.small(), stem + ".small" + suffix)
    torch.save(t.state(), a.checkpoint + ".new")
    os.replace(a.checkpoint + ".new", a.checkpoint)
    if test:
        print("   test", t.evaluate(*test), flush=True)


if __name__ == "__main__":
    main()
