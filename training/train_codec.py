#!/usr/bin/env python3
"""Trains the codec on the teacher's sound, in pieces that go on from a checkpoint.

    train_codec.py SPEECH_DIR CHECKPOINT --steps N [--seconds S] [--frozen] [--hours H]

SPEECH_DIR is what teacher.py wrote. N is the length of the whole schedule; this piece stops after S seconds. The checkpoint holds everything
(weights, averages, optimisers); CHECKPOINT with .small before its suffix holds the codec and the discriminators in half precision, to be carried.
--frozen: the codes no longer change, the decoder with its table is trained on (a schedule of its own).
"""
import argparse, glob, json, math, os, time
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from codec import Codec, LATENT, MelLoss, discriminators, snake_beta, use_snake
from sizes import FRAME, sizes


def load_sound(folder, hours, device):
    """The parts that are complete, as one int16 tensor on the device."""
    arrays, total = [], 0
    for lines in sorted(glob.glob(folder + "/items-*.jsonl")):
        a = np.fromfile(lines.replace("items-", "audio-").replace(".jsonl", ".i16"), np.int16)
        a = a[:max(0, int(hours * 3600 * 24000) - total)]
        arrays.append(torch.from_numpy(a).to(device))
        total += len(a)
        if total >= hours * 3600 * 24000:
            break
    return torch.cat(arrays)


class Trainer:
    WARM_UP, UNQUANTISED = 200, 300             # steps

    def __init__(self, sound, v, device, batch, critic_rows, frames, window, frozen, compiled, graphs):
        self.sound, self.device, self.cuda, self.frozen, self.graphs = sound, device, device == "cuda", frozen, graphs
        self.batch, self.critic_rows, self.frames, self.window, self.context = batch, critic_rows, frames, window, window // 5
        self.codec, self.critics, self.mel = Codec(v).to(device), discriminators(v).to(device), MelLoss().to(device)
        use_snake(torch.compile(snake_beta, dynamic=True) if self.cuda and compiled else snake_beta)
        trained = list(self.codec.decoder.parameters()) if frozen else [p for n, p in self.codec.named_parameters() if "code_embedding" not in n]
        self.trained = [p for p in trained if p.requires_grad]
        self.averaged = list(self.codec.decoder.parameters()) + list(self.codec.out.parameters())
        self.average = [p.detach().clone() for p in self.averaged]
        self.rate, self.critic_rate, self.ramp = (torch.zeros((), device=device) for _ in range(3))
        options = dict(betas=(0.8, 0.98), weight_decay=0.01, **(dict(fused=True, capturable=True) if self.cuda else {}))
        self.optimiser = torch.optim.AdamW(self.trained, lr=self.rate, **options)
        self.critic_optimiser = torch.optim.AdamW(self.critics.parameters(), lr=self.critic_rate, **options)
        self.mel_weight = 15.0
        self.step, self.captured, self.log, self.begun = 0, {}, {}, frozen

    def state(self):
        return dict(step=self.step, codec=self.codec.state_dict(), critics=self.critics.state_dict(), average=self.average,
                    optimisers=[self.optimiser.state_dict(), self.critic_optimiser.state_dict()])

    def load(self, state, whole):
        self.codec.load_state_dict({k: t.float() for k, t in state["codec"].items()})
        self.begun = bool(self.codec.quantiser.codes.any())
        self.critics.load_state_dict({k: t.float() for k, t in state["critics"].items()})
        with torch.no_grad():
            for a, b in zip(self.average, state["average"] if whole else self.averaged):
                a.copy_(b)
        if whole:
            self.step = state["step"]
            for o, s, rate in zip((self.optimiser, self.critic_optimiser), state["optimisers"], (self.rate, self.critic_rate)):
                o.load_state_dict(s)
                for group in o.param_groups:    # the captured steps read the rate from this tensor
                    group["lr"] = rate

    def cast(self):
        return torch.autocast(self.device, torch.bfloat16, enabled=self.cuda, cache_enabled=False)

    def sample(self):
        n = self.frames * FRAME
        at = torch.randint(0, len(self.sound) - n, (self.batch,), device=self.device)
        x = self.sound[at[:, None] + torch.arange(n, device=self.device)].float() / 32768
        return x * 10 ** ((torch.rand(self.batch, 1, device=self.device) * 6 - 3) / 20)

    def iteration(self, quantise, adversarial):
        """One step without a word to the host, so that it can be captured as a graph."""
        x, groups = self.sample(), self.codec.v["groups"]
        if self.frozen:
            with self.cast():
                h = self.codec.embed(self.codec.encode(x))
            commitment = torch.zeros((), device=self.device)
        else:
            with self.cast():
                z = self.codec.encoder(x)
            commitment = torch.zeros((), device=self.device)
            if quantise:                        # a quarter of the rows uses only the first groups, so that these carry what matters most
                some = torch.rand(self.batch, device=self.device) < 0.25
                keep = torch.where(some, torch.randint(1, groups, (self.batch,), device=self.device), torch.full((self.batch,), groups, device=self.device))
                z, self.log["codes"], commitment = self.codec.quantiser(z, keep)
            h = self.codec.out(z)
        with self.cast():
            y, at = self.codec.decoder(h, self.window)
        x = x.gather(1, at[:, None] * 480 + torch.arange(y.shape[1], device=self.device))
        x, y = x[:, self.context * 480:], y[:, self.context * 480:]     # the first steps lack what was before the window
        clamped = y.clamp(-1, 1)
        mel = self.mel(clamped, x)
        loss = self.mel_weight * mel + 0.5 * commitment + 2.0 * F.relu(y.abs() - 1).mean()
        self.log.update(mel=mel.detach(), commitment=commitment.detach())
        if adversarial:                         # on some of the rows: the discriminators take most of the time
            x, clamped = x[:self.critic_rows], clamped[:self.critic_rows]
            with self.cast():
                critic_loss = 0.0
                for d in self.critics:
                    score = d(torch.cat((x, clamped.detach())))[0].float()
                    real, fake = score.chunk(2)
                    critic_loss = critic_loss + (1 - real).square().mean() + fake.square().mean()
            critic_loss.backward()
            nn.utils.clip_grad_norm_(self.critics.parameters(), 10.0)
            self.critic_optimiser.step()
            self.critics.requires_grad_(False)
            with self.cast():
                fooled = matched = 0.0
                for d in self.critics:
                    with torch.no_grad():
                        real_maps = d(x)[1]
                    fake, fake_maps = d(clamped)
                    fooled = fooled + (1 - fake.float()).square().mean()
                    matched = matched + sum((a.float() - b.float()).abs().mean() / b.float().abs().mean().clamp(min=0.05) for a, b in zip(fake_maps, real_maps)) / len(fake_maps)
            self.critics.requires_grad_(True)
            loss = loss + self.ramp * (0.5 * fooled + matched)
            self.log.update(critics=critic_loss.detach(), fooled=fooled.detach(), matched=matched.detach())
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 5.0)
        self.optimiser.step()
        torch._foreach_lerp_(self.average, [p.data for p in self.averaged], 0.001)

    def zero(self):
        self.optimiser.zero_grad(set_to_none=True)
        self.critic_optimiser.zero_grad(set_to_none=True)

    def run(self, *kind):
        """iteration(*kind), as a captured graph once it has been seen."""
        if not (self.cuda and self.graphs):
            self.zero()
            return self.iteration(*kind)
        if kind not in self.captured:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self.zero()
                    self.iteration(*kind)
            torch.cuda.current_stream().wait_stream(side)
            self.zero()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.iteration(*kind)
            self.captured[kind] = graph, dict(self.log)
        graph, log = self.captured[kind]
        graph.replay()
        self.log.update(log)

    def train(self, steps, seconds, peak, every, adversarial_from):
        start = time.time()
        while self.step < steps and time.time() - start < seconds:
            done = self.step / steps
            shape = min(1, (self.step + 1) / self.WARM_UP) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * done)))
            self.rate.fill_(peak * shape)
            self.critic_rate.fill_(0.7 * peak * shape)
            first = int(adversarial_from * steps)
            self.ramp.fill_(min(1.0, max(0.0, (self.step - first) / max(1, 0.05 * steps))))
            quantise = self.frozen or self.step >= min(self.UNQUANTISED, steps // 4)
            if quantise and not self.begun:
                with torch.no_grad():
                    self.begun = True
                    self.codec.quantiser.begin(torch.cat([self.codec.encoder(self.sample()).reshape(-1, LATENT) for _ in range(40)]))
            self.run(quantise, self.step >= first)
            if self.step == 400:                # an average that still holds the first weights is worth nothing
                torch._foreach_copy_(self.average, [p.data for p in self.averaged])
            if self.step % every == 0 or self.step in (1, 10):
                numbers = {k: float(t) for k, t in self.log.items() if k != "codes"}
                if "codes" in self.log:
                    numbers["used"] = [int(len(self.log["codes"][..., g].unique())) for g in (0, self.codec.v["groups"] - 1)]
                print(f"{time.time() - start:.0f} s step {self.step} " + " ".join(f"{k} {x:.3f}" if isinstance(x, float) else f"{k} {x}" for k, x in numbers.items()), flush=True)
            if self.cuda and self.step % 8 == 0:
                torch.cuda.synchronize()
            self.step += 1
        print(f"{self.step} of {steps} steps, {time.time() - start:.0f} s in this piece", flush=True)


def small(trainer):
    """The codec with averaged weights and an absorbed projection, and the discriminators, in half precision (the code vectors stay in float32)."""
    with torch.no_grad():
        kept = [p.detach().clone() for p in trainer.averaged]
        if trainer.step > 1500:
            torch._foreach_copy_([p.data for p in trainer.averaged], trainer.average)
        if not trainer.frozen:
            trainer.codec.absorb()
        half = lambda d: {k: (t if k.startswith("quantiser") else t.half()).cpu().clone() for k, t in d.items()}
        out = dict(step=trainer.step, codec=half(trainer.codec.state_dict()), critics=half(trainer.critics.state_dict()))
        torch._foreach_copy_([p.data for p in trainer.averaged], kept)
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("speech"); p.add_argument("checkpoint")
    p.add_argument("--steps", type=int, required=True); p.add_argument("--seconds", type=float, default=1e9); p.add_argument("--hours", type=float, default=20)
    p.add_argument("--frozen", action="store_true"); p.add_argument("--begin", help="a small checkpoint to start from"); p.add_argument("--seed", type=int, default=0)
    p.add_argument("--batch", type=int, default=32); p.add_argument("--critic-rows", type=int); p.add_argument("--frames", type=int, default=24); p.add_argument("--window", type=int, default=50)
    p.add_argument("--rate", type=float, default=6e-4); p.add_argument("--mel", type=float, default=15.0); p.add_argument("--adversarial-from", type=float, default=0.2); p.add_argument("--every", type=int, default=250)
    p.add_argument("--no-compile", action="store_true"); p.add_argument("--no-graphs", action="store_true")
    a = p.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(a.seed)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    sound = load_sound(a.speech, a.hours, device)
    t = Trainer(sound, sizes(), device, a.batch, a.critic_rows or max(1, a.batch // 2), a.frames, a.window, a.frozen, not a.no_compile, not a.no_graphs)
    count = lambda m: sum(p.numel() for p in m.parameters()) / 1e6
    print(f"{len(sound) / 24000 / 3600:.2f} h of sound; parameters in millions: code2wav {count(t.codec.decoder):.2f}, encoder {count(t.codec.encoder):.2f}, discriminators {count(t.critics):.2f}", flush=True)
    t.mel_weight = a.mel
    if os.path.exists(a.checkpoint):
        t.load(torch.load(a.checkpoint, map_location=device, weights_only=True), True)
        torch.manual_seed(a.seed + t.step)
    elif a.begin:
        t.load(torch.load(a.begin, map_location=device, weights_only=True), False)
    t.train(a.steps, a.seconds, a.rate, a.every, a.adversarial_from)
    stem, suffix = os.path.splitext(a.checkpoint)
    torch.save(small(t), stem + ".small" + suffix)
    torch.save(t.state(), a.checkpoint + ".new")
    os.replace(a.checkpoint + ".new", a.checkpoint)


if __name__ == "__main__":
    main()
