#!/usr/bin/env python3
"""Trains the talker and the code predictor by teacher forcing, in pieces that go on from a checkpoint.

    train_talker.py DATA.pt... CHECKPOINT --steps N [--seconds S] [--test TEST.pt]

DATA is what encode.py wrote. N is the length of the whole schedule; this piece stops after S seconds. Beside the checkpoint, CHECKPOINT with
.small before its suffix holds the averaged weights in half precision.
Two helps are used in training only: a head that predicts the phones of the frame, and attention of two heads guided to the spoken token.
"""
import argparse, math, os, queue, threading, time
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sizes import sizes, tokenizer
from talker import MEDIA, OPENING, PHONE_KINDS, Talker, opening_codec

ROWS = 256                                      # rows of one packed sequence
ARRAYS = ("text", "codec", "low", "high", "phones", "frame", "next")


class Data:
    """Sentences as flat rows on the device; turns of a user, some with pictures and sounds, that may come before them."""

    def __init__(self, parts, v, device, seed, prefixes):
        self.v, self.device = v, device
        _, self.ids, _ = tokenizer()
        rows = {k: [] for k in ARRAYS}
        codes, begin, length, self.all_tokens, first = [], [], [], [], 0
        at = 0
        for d in parts:
            r, b, n = self.sentence_rows(d, first)
            for k in ARRAYS:
                rows[k].append(r[k])
            begin.append(b + at)
            length.append(n)
            at += len(r["text"])
            first += len(d["codes"])
            codes.append(d["codes"])
            self.all_tokens.append((d["tokens"].numpy(), d["token"].numpy()))
        self.begin, self.length = np.concatenate(begin), np.concatenate(length)
        turns, positions = self.user_turns(np.random.default_rng(seed), prefixes)
        self.turn_begin = at + np.concatenate(([0], np.cumsum([len(t) for t in turns])))
        self.turn_next = np.array([p[1] for p in positions], np.int32)
        empty = {"text": -1, "codec": -1, "low": -1, "high": -1, "phones": 255, "frame": -1, "next": -1}
        total = sum(len(t) for t in turns) + 1
        for k in ARRAYS:
            shape = (total,) + rows[k][0].shape[1:]
            tail = np.full(shape, empty[k], rows[k][0].dtype)
            if k == "text":
                tail[:-1] = np.concatenate(turns)
                tail[-1] = 0
            rows[k].append(tail)
        self.pad = at + total - 1               # the row that fills the ends of sequences
        self.rows = {k: torch.from_numpy(np.concatenate(a)).to(device) for k, a in rows.items()}
        self.position = np.zeros((self.pad + 1, 3), np.int16)
        for b, n in zip(self.begin, self.length):
            self.position[b:b + n] = np.arange(n)[:, None]
        self.position[at:-1] = np.concatenate([p[0] for p in positions])
        self.position = torch.from_numpy(self.position).to(device)
        self.codes = torch.cat(codes).to(device)

    def sentence_rows(self, d, first):
        """Rows of all sentences of a part; `frame` is the frame whose codes come in, `next` the one to predict (-2: the end, -1: none)."""
        ids, top = self.ids, self.v["codebook"]
        frames, tokens = np.diff(d["frames"].numpy()), np.diff(d["tokens"].numpy())
        n = OPENING + frames
        begin = np.concatenate(([0], np.cumsum(n)))[:-1]
        R, U = int(n.sum()), len(n)
        k = np.arange(R) - np.repeat(begin, n)                      # row within the sentence
        u = np.repeat(np.arange(U), n)
        frame = k - OPENING                                         # the frame whose codes come in
        text = np.full(R, ids["<tts_pad>"], np.int16)
        for i, t in enumerate((ids["<|im_start|>"], ids["assistant"], ids["Ċ"])):
            text[k == i] = t
        text[k == 7] = ids["<tts_text_bos>"]
        token = k - 8
        inside = (token >= 0) & (token < tokens[u])
        text[inside] = d["token"].numpy()[(d["tokens"].numpy()[:-1][u] + token)[inside]]
        text[token == tokens[u]] = ids["<tts_text_eod>"]
        codec = np.full(R, -1, np.int16)
        for i, c in enumerate(opening_codec(self.v, 0)):
            codec[k == 3 + i] = c
        codec[k == 6] += d["voice"].numpy()[u[k == 6]]
        start = d["frames"].numpy()[:-1][u]
        low, high = np.full(R, -1, np.int16), np.full(R, -1, np.int16)
        phones = np.full((R, 4), 255, np.uint8)
        says = (k >= 8) & (frame + 1 < frames[u])                   # rows that predict a frame
        which = (start + frame + 1)[says]
        spoken = d["spoken"].numpy()[which].astype(np.int64)
        heard = spoken <= frame[says] + 1                           # the token has been read by then
        low[says] = np.where(heard, 8 + np.maximum(spoken - 1, 0), -1)
        high[says] = np.where(heard, np.minimum(8 + spoken + 1, k[says]), -1)
        phones[says] = d["phones"].numpy()[which]
        incoming = np.where(frame >= 0, first + start + frame, -1).astype(np.int32)
        following = np.full(R, -1, np.int32)
        following[says] = first + which
        following[(k >= 8) & (frame + 1 == frames[u])] = -2
        return dict(text=text, codec=codec, low=low, high=high, phones=phones, frame=incoming, next=following), begin, n

    def user_turns(self, rng, count):
        """Turns as the talker sees them: tokens, and MEDIA where a picture or a sound is, with positions [n, 3] and the next free position."""
        ids, turns, positions = self.ids, [], []
        for _ in range(count):
            offsets, token = self.all_tokens[rng.integers(len(self.all_tokens))]
            u = rng.integers(len(offsets) - 1)
            said = token[offsets[u]:offsets[u + 1]][:rng.integers(1, 25)].tolist()
            turn, pos, at = [ids["<|im_start|>"], ids["user"], ids["Ċ"]], [], 3
            pos = [(i, i, i) for i in range(3)]
            kind = rng.random()
            if kind < 0.2:                      # sound: positions go on one by one
                n = int(rng.integers(5, 40))
                turn += [ids["<|audio_start|>"]] + [MEDIA] * n + [ids["<|audio_end|>"]]
                pos += [(at + i,) * 3 for i in range(n + 2)]
                at += n + 2
            elif kind < 0.4:                    # picture: rows and columns
                h, w = int(rng.integers(2, 7)), int(rng.integers(2, 7))
                turn += [ids["<|vision_start|>"]] + [MEDIA] * (h * w) + [ids["<|vision_end|>"]]
                pos += [(at,) * 3] + [(at + 1, at + 1 + i, at + 1 + j) for i in range(h) for j in range(w)]
                at += 1 + max(h, w)
                pos += [(at,) * 3]
                at += 1
            rest = said + [ids["<|im_end|>"], ids["Ċ"]]
            turn += rest
            pos += [(at + i,) * 3 for i in range(len(rest))]
            turns.append(np.array(turn, np.int16))
            positions.append((np.array(pos, np.int16), at + len(rest)))
        return turns, positions

    def epoch(self, rng, batch, share):
        """int32 [4, batches, batch, ROWS]: row, first column of its sequence, of its sentence, and what to add to its position. `share` of the sentences follow a turn."""
        order = rng.permutation(len(self.begin))
        turn = np.where(rng.random(len(order)) < share, rng.integers(0, len(self.turn_next), len(order)), -1)
        placed, at, sequence = [], 0, 0
        for u, t in zip(order, turn):
            p = int(self.turn_begin[t + 1] - self.turn_begin[t]) if t >= 0 else 0
            n = int(self.length[u]) + p
            if n > ROWS:
                p, n, t = 0, int(self.length[u]), -1
                if n > ROWS:
                    continue
            if at + n > ROWS:
                sequence, at = sequence + 1, 0
            placed.append((sequence * ROWS + at, u, t, p, n))
            at += n
        total = max(1, (sequence + 1) // batch) * batch * ROWS
        out = np.zeros((4, total), np.int32)
        out[0], out[1] = self.pad, ROWS - 1
        for o, u, t, p, n in placed:
            if o + n > total:
                continue
            if p:
                out[0, o:o + p] = np.arange(self.turn_begin[t], self.turn_begin[t + 1])
                out[3, o + p:o + n] = self.turn_next[t]
            out[0, o + p:o + n] = np.arange(self.begin[u], self.begin[u] + n - p)
            out[1, o:o + n] = o % ROWS
            out[2, o:o + n] = o % ROWS + p
        return torch.from_numpy(out).view(4, -1, batch, ROWS)


def losses(m, data, batch, noise, chosen):
    """Loss and its parts for int32 [4, B, ROWS]. noise: share of wrong or missing codes in the input; chosen: frames that the predictor learns from."""
    v, index = m.v, batch[0].long()
    f = {k: t[index] for k, t in data.rows.items()}
    column = torch.arange(ROWS, device=index.device)
    sequence, begin = batch[1].long(), batch[2].long()
    real = index != data.pad
    mask = ((sequence[:, :, None] == sequence[:, None, :]) & (column[:, None] >= column) & (real[:, None, :] | (column[:, None] == column))).unsqueeze(1)
    cos, sin = m.rope(data.position[index].long() + batch[3].long()[..., None])
    text = f["text"].long()
    x = m.project(text)
    media = torch.randn_like(x) * torch.rand(x.shape[0], 1, 1, device=x.device) * 0.5
    x = torch.where((text == MEDIA)[..., None], media.to(x.dtype), x) + m.special(f["codec"].long()).to(x.dtype)
    frame, following = f["frame"].long(), f["next"].long()
    codes = torch.where((frame >= 0)[..., None], data.codes[frame.clamp(min=0)].long(), -1)
    if noise:                                   # what the model will hear of itself is not always right
        B = len(codes)
        share = torch.rand(B, 1, 1, device=x.device) ** 2 * noise
        other = codes[torch.rand(B, device=x.device).argsort()]
        both = (codes[..., :1] >= 0) & (other[..., :1] >= 0)
        whole = torch.rand(codes.shape[:2] + (1,), device=x.device) < share * 0.3
        some = torch.rand(codes.shape, device=x.device) < share
        codes = torch.where(both & (whole | some), other, codes)
    heard = m.code_sum(codes)
    if noise:
        heard = heard * (torch.rand(heard.shape[:2] + (1,), device=x.device) >= share * 0.5)
    h, balance, heads = m.core(x + heard.to(x.dtype), cos, sin, mask)

    target = torch.where((following >= 0)[..., None], data.codes[following.clamp(min=0)].long(), -1)
    first = torch.where(following == -2, v["codebook"] + 6, target[..., 0])
    on = first >= 0
    logits = F.linear(h, m.talker.codec_head.weight.to(h.dtype)).float()
    ce = F.cross_entropy(logits.flatten(0, 1), first.flatten(), ignore_index=-1)
    accuracy = ((logits.argmax(-1) == first) & on).sum() / on.sum()

    phones = f["phones"].long()
    guess = m.phone(h).float().view(*h.shape[:2], 4, PHONE_KINDS)
    ce_phone = F.cross_entropy(guess.reshape(-1, PHONE_KINDS), torch.where(phones == 255, -1, phones).reshape(-1), ignore_index=-1)
    known = phones != 255
    accuracy_phone = ((guess.argmax(-1) == phones) & known).sum() / known.sum()

    low, high = f["low"].long(), f["high"].long()
    wanted = (column >= (low + begin)[..., None]) & (column <= (high + begin)[..., None]) & (low >= 0)[..., None]
    guided = low >= 0
    guide = 0.0
    for w in heads:
        mass = torch.logsumexp(w.masked_fill(~wanted, -1e9), -1).clamp(min=-20)
        guide = guide - (mass * guided).sum() / guided.sum().clamp(min=1)

    rows = (following >= 0).flatten().float()
    at = (torch.rand_like(rows) * rows).topk(min(chosen, len(rows)), sorted=False).indices
    c = target.flatten(0, 1)[at]
    guesses = m.predict(h.flatten(0, 1)[at], c.clamp(min=0)[:, :-1])
    ce_rest = torch.stack([F.cross_entropy(g.float(), c[:, i + 1], ignore_index=-1) for i, g in enumerate(guesses)])
    loss = ce + 0.25 * ce_rest.sum() + 0.4 * ce_phone + 0.15 * guide + 0.01 * balance
    return loss, dict(code0=ce, right=accuracy, phone=ce_phone, phone_right=accuracy_phone, guide=guide / max(1, len(heads)), rest=ce_rest.mean(), code1=ce_rest[0], last=ce_rest[-1],
                      balance=balance)


class Trainer:
    def __init__(self, v, device, batch, chosen, noise, compiled, graphs):
        self.device, self.cuda, self.batch, self.chosen, self.noise, self.graphs = device, device == "cuda", batch, chosen, noise, graphs
        self.model = Talker(v).to(device)
        self.eager = self.model.layer, self.model.predictor_layer
        if self.cuda and compiled:
            self.model.layer, self.model.predictor_layer = (torch.compile(f, dynamic=False) for f in self.eager)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.trained]
        self.rate = torch.zeros((), device=device)
        groups = [dict(params=[p for p in self.trained if p.dim() >= 2], weight_decay=0.05), dict(params=[p for p in self.trained if p.dim() < 2], weight_decay=0.0)]
        self.optimiser = torch.optim.AdamW(groups, lr=self.rate, betas=(0.9, 0.98), **(dict(fused=True, capturable=True) if self.cuda else {}))
        self.box = torch.zeros(4, batch, ROWS, dtype=torch.int32, device=device)
        self.step, self.epochs, self.log, self.graph = 0, 0, {}, None

    def state(self):
        return dict(step=self.step, epochs=self.epochs, model=self.model.state_dict(), average=self.average, optimiser=self.optimiser.state_dict())

    def load(self, state, whole):
        self.model.load_state_dict({k: t.float() for k, t in state["model"].items()})
        with torch.no_grad():
            for a, b in zip(self.average, state["average"] if whole else self.trained):
                a.copy_(b)
        if whole:
            self.step, self.epochs = state["step"], state["epochs"]
            self.optimiser.load_state_dict(state["optimiser"])
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate

    def iteration(self, data):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.cuda, cache_enabled=False):
            loss, log = losses(self.model, data, self.box, self.noise, self.chosen)
        loss.backward()
        self.log.update({k: t.detach() for k, t in log.items()})
        self.log["norm"] = nn.utils.clip_grad_norm_(self.trained, 1.0).detach()
        self.optimiser.step()
        torch._foreach_lerp_(self.average, [p.data for p in self.trained], 0.001)

    def run(self, data):
        zero = lambda: self.optimiser.zero_grad(set_to_none=True)
        if not (self.cuda and self.graphs):
            zero()
            return self.iteration(data)
        if self.graph is None:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    zero()
                    self.iteration(data)
            torch.cuda.current_stream().wait_stream(side)
            zero()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.iteration(data)
        self.graph.replay()

    @torch.no_grad()
    def evaluate(self, data, batches):
        functions, total = (self.model.layer, self.model.predictor_layer), {}
        self.model.layer, self.model.predictor_layer = self.eager
        kept = [p.detach().clone() for p in self.trained]
        if self.step > 1500:
            torch._foreach_copy_([p.data for p in self.trained], self.average)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.cuda):
            for b in range(batches.shape[1]):
                for k, t in losses(self.model, data, batches[:, b], 0, 512)[1].items():
                    total[k] = total.get(k, 0) + float(t) / batches.shape[1]
        torch._foreach_copy_([p.data for p in self.trained], kept)
        self.model.layer, self.model.predictor_layer = functions
        return total

    def train(self, data, test, steps, seconds, peak, every, share, seed):
        feed = queue.Queue(1)
        first, stop = self.epochs, threading.Event()

        def prepare():                          # epochs are packed while the device works
            k = first
            while not stop.is_set():
                e = data.epoch(np.random.default_rng((seed, k)), self.batch, share)
                while not stop.is_set():
                    try:
                        feed.put(e, timeout=0.5)
                        break
                    except queue.Full:
                        pass
                k += 1
        thread = threading.Thread(target=prepare)
        thread.start()
        batches = test.epoch(np.random.default_rng(0), min(4, self.batch), 0.0).to(self.device) if test else None
        start = time.time()
        show = lambda d: " ".join(f"{k} {float(t):.3f}" for k, t in d.items())
        try:
            while self.step < steps and time.time() - start < seconds:
                epoch = feed.get().to(self.device)
                self.epochs += 1
                for b in torch.randperm(epoch.shape[1]).tolist():
                    if self.step >= steps or time.time() - start >= seconds:
                        break
                    done = self.step / steps
                    flat = 1 if done < 0.3 else 0.5 * (1 + math.cos(math.pi * (done - 0.3) / 0.7))
                    self.rate.fill_(peak * min(1, (self.step + 1) / 300) * (0.02 + 0.98 * flat))
                    self.box.copy_(epoch[:, b])
                    self.run(data)
                    if self.step == 500:
                        torch._foreach_copy_(self.average, [p.data for p in self.trained])
                    if self.step % every == 0:
                        print(f"{time.time() - start:.0f} s step {self.step} epoch {self.epochs} {show(self.log)}", flush=True)
                        if test and self.step and self.step % (every * 5) == 0:
                            print("   test", show(self.evaluate(test, batches)), flush=True)
                    if self.cuda and self.step % 8 == 0:
                        torch.cuda.synchronize()
                    self.step += 1
        finally:
            stop.set()
            thread.join()
        print(f"{self.step} of {steps} steps, {time.time() - start:.0f} s in this piece", flush=True)
        if test:
            print("   test", show(self.evaluate(test, batches)), flush=True)


def small(t):
    with torch.no_grad():
        kept = [p.detach().clone() for p in t.trained]
        if t.step > 1500:
            torch._foreach_copy_([p.data for p in t.trained], t.average)
        out = dict(step=t.step, model={k: x.half().cpu().clone() for k, x in t.model.state_dict().items()})
        torch._foreach_copy_([p.data for p in t.trained], kept)
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", nargs="+"); p.add_argument("checkpoint")
    p.add_argument("--steps", type=int, required=True); p.add_argument("--seconds", type=float, default=1e9); p.add_argument("--test")
    p.add_argument("--begin", help="a small checkpoint to start from"); p.add_argument("--seed", type=int, default=0)
    p.add_argument("--batch", type=int, default=32); p.add_argument("--chosen", type=int, default=1536); p.add_argument("--rate", type=float, default=1.2e-3)
    p.add_argument("--noise", type=float, default=0.3); p.add_argument("--turns", type=float, default=0.3); p.add_argument("--prefixes", type=int, default=4000)
    p.add_argument("--every", type=int, default=500); p.add_argument("--no-compile", action="store_true"); p.add_argument("--no-graphs", action="store_true")
    a = p.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(a.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    v = sizes()
    start = time.time()
    data = Data([torch.load(f, weights_only=True) for f in a.data], v, device, a.seed, a.prefixes)
    test = Data([torch.load(a.test, weights_only=True)], v, device, 1, 10) if a.test else None
    t = Trainer(v, device, a.batch, a.chosen, a.noise, not a.no_compile, not a.no_graphs)
    predictor = sum(p.numel() for p in t.model.talker.code_predictor.parameters())
    print(f"{time.time() - start:.0f} s: {len(data.begin)} sentences, {len(data.codes) / 45000:.1f} h; parameters in millions: talker "
          f"{(sum(p.numel() for p in t.model.talker.parameters()) - predictor) / 1e6:.2f}, predictor {predictor / 1e6:.2f}", flush=True)
    if os.path.exists(a.checkpoint):
        t.load(torch.load(a.checkpoint, map_location=device, weights_only=True), True)
        torch.manual_seed(a.seed + t.step)
    elif a.begin:
        t.load(torch.load(a.begin, map_location=device, weights_only=True), False)
    t.train(data, test, a.steps, a.seconds, a.rate, a.every, a.turns, a.seed)
    stem, suffix = os.path.splitext(a.checkpoint)
    torch.save(small(t), stem + ".small" + suffix)
    torch.save(t.state(), a.checkpoint + ".new")
    os.replace(a.checkpoint + ".new", a.checkpoint)


if __name__ == "__main__":
    main()
