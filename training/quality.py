#!/usr/bin/env python3
"""What each type of file costs: sound, speech, answers and logits of omni-tiny in every type, against the same weights in float32.

    quality.py OMNI [--out DIR] [--model DIR] [--parts LIST] [--types LIST] [--sentences N] [--questions N] [--write] [--keep]
    quality.py OMNI --quick                                                  the check of a change, some minutes: fails where speech is no longer clear

Parts: sound (the same codes by every file's code2wav), speech (sentences said freely), answers (questions of ask.py), logits (KL divergence, and what
smaller keys and values cost), reference (sound of transformers' Code2Wav in float32: needs the interpreter of scripts/python-env.sh in $OMNI_REFERENCE).
--keep goes on with what an earlier call left in DIR; --write puts tables and plots into docs/. decode_codes is looked for beside OMNI. Needs numpy, scipy, pocketsphinx, pesq, pystoi, pillow.

The float weights of the shipped files are not kept: F32 is the shipped Q8_0 files with their weights written out as float32. So F32 and Q8_0 have the same
weights, and what Q8_0 costs here is the rounding of inputs alone.
"""
import argparse, collections, json, os, random, shutil, statistics, struct, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from evaluate import TEST, VOICES, distance, grammar, load, recognise, words

HERE = os.path.dirname(os.path.abspath(__file__))
DOCS = os.path.join(os.path.dirname(HERE), "docs")
TYPES = ["f32", "bf16", "f16", "q8_0", "q6_k", "q5_k_m", "q5_k", "q5_1", "q5_0", "q4_k_m", "q4_k", "q4_1", "q4_0"]
FILES = ["qwen3-omni", "mmproj-qwen3-omni", "talker-qwen3-omni"]
RATE, FRAME = 24000, 1920
PITCH = dict(chelsie=199, ethan=116, aiden=126)                    # Hz, median of what the shipped files said on 2026-11-27
WORKERS = os.cpu_count() or 1


def command(*args):
    got = subprocess.run([str(a) for a in args], capture_output=True, text=True)
    if got.returncode:
        raise SystemExit(f"{' '.join(map(str, args))}: {got.stderr.strip()}")
    return got.stdout


def together(work, items):
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(work, items))


def read_trace(path):
    """Tensors of a file that --trace wrote."""
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    kinds = {"F32": np.float32, "I64": np.int64, "I32": np.int32}
    return {k: np.frombuffer(data[slice(*v["data_offsets"])], kinds[v["dtype"]]).reshape(v["shape"]) for k, v in header.items() if k != "__metadata__"}


class Models:
    """The model in every type, made when it is first asked for."""
    def __init__(self, omni, shipped, out):
        self.omni, self.shipped, self.out = omni, shipped, out

    def file(self, kind, part):
        return f"{self.folder(kind)}/{FILES[part]}-{kind}.gguf"

    def folder(self, kind):
        if kind == "q8_0":
            return self.shipped
        folder = f"{self.out}/models/{kind}"
        os.makedirs(folder, exist_ok=True)
        for name in FILES:
            if not os.path.exists(f"{folder}/{name}-{kind}.gguf"):
                command(self.omni, "quantize", f"{self.shipped}/{name}-q8_0.gguf", f"{folder}/{name}-{kind}.gguf", kind)
        return folder

    def size(self, kind):
        return sum(os.path.getsize(self.file(kind, i)) for i in range(3)) / 1e6


# ---- sound of the same codes ----

def si_sdr(want, got):
    want, got = want - want.mean(), got - got.mean()
    target = want * (want @ got) / (want @ want)
    noise = got - target
    return 10 * np.log10((target @ target) / max(noise @ noise, 1e-20))


def compare_sound(want, got):
    """(PESQ, STOI, SI-SDR in dB) of two sounds of one length at 24 kHz."""
    from pesq import pesq
    from pystoi import stoi
    from scipy.signal import resample_poly
    a, b = (resample_poly(x.astype(np.float64), 2, 3) for x in (want, got))
    return pesq(16000, a, b, "wb"), stoi(a, b, 16000), si_sdr(want.astype(np.float64), got.astype(np.float64))


def codes_of(m, count):
    """Files of codes that F32 draws for the first sentences, voices in turn."""
    folder = f"{m.out}/codes"
    os.makedirs(folder, exist_ok=True)

    def make(i):
        path = f"{folder}/{i:02d}.i32"
        if not os.path.exists(path):
            trace = f"{folder}/{i:02d}.safetensors"
            command(m.omni, "speak", "-m", m.folder("f32"), "-p", TEST[i], "--voice", VOICES[i % 3], "--seed", i + 1, "-t", 1, "-o", trace + ".wav", "--trace", trace)
            read_trace(trace)["codes"][0].T.astype(np.int32).tofile(path)
            os.remove(trace)
            os.remove(trace + ".wav")
        return path
    m.folder("f32")
    return together(make, range(count))


def decoded(m, kind, codes):
    folder = f"{m.out}/sound/{kind}"
    os.makedirs(folder, exist_ok=True)
    m.folder(kind)

    def make(path):
        out = f"{folder}/{os.path.basename(path)[:-4]}.f32"
        command(os.path.join(os.path.dirname(m.omni), "decode_codes"), m.file(kind, 2), path, out)
        return np.fromfile(out, np.float32)
    return together(make, codes)


def measure_sound(m, types, count):
    codes = codes_of(m, count)
    want, rows = decoded(m, "f32", codes), {}
    for kind in types:
        if kind != "f32":
            s = np.array(together(lambda p: compare_sound(*p), zip(want, decoded(m, kind, codes))))
            rows[kind] = dict(files=count, pesq=s[:, 0].mean(), pesq_least=s[:, 0].min(), stoi=s[:, 1].mean(), stoi_least=s[:, 1].min(),
                              si_sdr=s[:, 2].mean(), si_sdr_least=s[:, 2].min())
            print(f"sound {kind}: PESQ {s[:, 0].mean():.3f} (least {s[:, 0].min():.3f}), STOI {s[:, 1].mean():.4f} ({s[:, 1].min():.4f}), "
                  f"SI-SDR {s[:, 2].mean():.1f} dB ({s[:, 2].min():.1f})", flush=True)
    return rows


# ---- speech ----

def pitch(x):
    """Median fundamental in Hz of sound at 16 kHz, by autocorrelation in windows of 40 ms; 0 without voiced ones."""
    step, size, low, high = 160, 640, 40, 267                      # 400 to 60 Hz
    loud, found = np.abs(x).max() / 12, []
    for at in range(0, len(x) - size - high, step):
        a, b = x[at:at + size], x[at:at + size + high]
        if np.sqrt((a * a).mean()) < loud:
            continue
        corr = np.correlate(b, a, "valid")
        power = np.convolve(b * b, np.ones(size), "valid")
        n = corr[low:] / np.sqrt(power[low:] * power[0] + 1e-9)
        best = n.max()
        if best > 0.6:
            found.append(16000 / (low + int(np.flatnonzero(n > 0.9 * best)[0])))
    return statistics.median(found) if found else 0.0


def audible_seconds(x):
    """From the first to the last 5 ms above a fiftieth of the peak, 16 kHz."""
    level = np.abs(x[:len(x) // 80 * 80]).reshape(-1, 80).max(1)
    loud = np.flatnonzero(level > level.max() / 50)
    return (loud[-1] + 1 - loud[0]) / 200 if len(loud) else 0.0


def stutters(want, got):
    """Words or pairs of words that are there twice in a row and should not be."""
    count = 0
    for n in (1, 2):
        twice = lambda w: collections.Counter(tuple(w[i:i + n]) for i in range(len(w) - 2 * n + 1) if w[i:i + n] == w[i + n:i + 2 * n])
        count += sum((twice(got) - twice(want)).values())
    return count


class Ear:
    """pocketsphinx with its own general English model; and, told which sentences there are, which of them it was."""
    def __init__(self):
        from pocketsphinx import Decoder
        self.free = Decoder(samprate=16000, loglevel="FATAL")
        self.choice = Decoder(samprate=16000, loglevel="FATAL", lm=None)
        if self.choice.lookup_word("omni") is None:
            self.choice.add_word("omni", "AA M N IY", True)
        self.choice.add_jsgf_string("s", grammar())
        self.choice.activate_search("s")


def listen(task):
    """What is heard in one file; in a process of its own, which keeps its recogniser."""
    global ear
    if "ear" not in globals():
        ear = Ear()
    path, i = task
    x, want = load(path), words(TEST[i])
    got = words(recognise(ear.free, x))
    return dict(sentence=i, errors=distance(want, got), words=len(want), picked=recognise(ear.choice, x).split() == want, last=want[-1] in got[-2:],
                stutters=stutters(want, got), pitch=pitch(x), seconds=audible_seconds(x))


def hear(pool, files):
    """files: {sentence: path}. Sums over the files, medians of pitch by voice, words a second."""
    heard = list(pool.map(listen, [(path, i) for i, path in files.items()]))
    row = {k: sum(h[k] for h in heard) for k in ("errors", "words", "picked", "last", "stutters")}
    row["sentences"] = len(heard)
    row["wer"] = row["errors"] / row["words"]
    for v, voice in enumerate(VOICES):
        own = [h for h in heard if h["sentence"] % 3 == v]
        if own:
            row["wer_" + voice] = sum(h["errors"] for h in own) / sum(h["words"] for h in own)
            row["pitch_" + voice] = statistics.median(h["pitch"] for h in own)
    rates = [h["words"] / max(h["seconds"], 0.01) for h in heard]
    row.update(rate=row["words"] / sum(h["seconds"] for h in heard), rate_least=min(rates), rate_most=max(rates))
    return row


def say(m, kind, way, which):
    """Lets omni say these sentences; way: greedy or sampled. {sentence: path}, and how many were cut at --max-frames."""
    folder = f"{m.out}/speech/{kind}-{way}"
    os.makedirs(folder, exist_ok=True)
    model = m.folder(kind)

    def one(i):
        path = f"{folder}/{i:02d}.wav"
        got = command(m.omni, "speak", "-m", model, "-p", TEST[i], "--voice", VOICES[i % 3], "-t", 1, "--max-frames", 200, "-o", path, "--json",
                      *(["--greedy"] if way == "greedy" else ["--seed", i + 1]))
        return json.loads(got)["speech_cut"]
    cut = together(one, which)
    return {i: f"{folder}/{i:02d}.wav" for i in which}, sum(cut)


def measure_speech(m, pool, types, which, ways=("sampled", "greedy")):
    rows = {}
    for kind in types:
        for way in ways:
            files, cut = say(m, kind, way, which)
            row = rows[f"{kind} {way}"] = dict(hear(pool, files), cut=cut)
            print(f"speech {kind} {way}: word error rate {row['wer']:.3f}, picked {row['picked']} of {row['sentences']}, last words {row['last']}, stutters {row['stutters']}, "
                  f"cut {cut}, pitch " + ", ".join(f"{row['pitch_' + v]:.0f}" for v in VOICES) + f" Hz, {row['rate']:.2f} ({row['rate_least']:.2f} to {row['rate_most']:.2f}) words/s", flush=True)
    return rows


# ---- questions ----

def asked(m):
    """Pictures, videos, tones, sounds and questions that ask.py makes."""
    folder = f"{m.out}/asked"
    if not os.path.exists(folder + "/questions.jsonl"):
        command(sys.executable, f"{HERE}/ask.py", "make", folder)
    return folder


def questions_of(m, count):
    """count questions, as many of each group (text, picture, video, sound) as can be."""
    folder, groups = asked(m), collections.defaultdict(list)
    for line in open(folder + "/questions.jsonl"):
        x = json.loads(line)
        groups["picture" if "image" in x else "video" if "video" in x else "sound" if "audio" in x else "text"].append(x)
    out = []
    for group, items in groups.items():
        random.Random(3).shuffle(items)
        out += [dict(x, group=group) for x in items[:-(-count // 4)]]
    return folder, out


def media_flags(folder, x):
    return [f for kind in ("image", "video", "audio") if kind in x for f in ("--" + kind, f"{folder}/{x[kind]}")]


def measure_answers(m, types, count):
    folder, questions = questions_of(m, count)
    rows = {}
    for kind in types:
        model = m.folder(kind)

        def ask(x):
            got = command(m.omni, "run", "-m", model, *media_flags(folder, x), "-p", x["question"], "--greedy", "--max-tokens", 120, "-t", 1, "--json")
            return json.loads(got)["text"].strip()
        row = rows[kind] = {}
        for x, a in zip(questions, together(ask, questions)):
            right, of = row.get(x["group"], (0, 0))
            row[x["group"]] = right + (a == x["answer"]), of + 1
            if x["category"].startswith("dictation"):
                e = row.setdefault("dictation", [0, 0])
                e[0] += distance(x["answer"].split(), a.lower().replace(".", "").split())
                e[1] += len(x["answer"].split())
        print(f"answers {kind}: " + ", ".join(f"{g} {a} of {n}" + (" words wrong" if g == "dictation" else "") for g, (a, n) in row.items()), flush=True)
    return rows


# ---- logits ----

def logits(m, model, folder, x, path, flags):
    command(m.omni, "run", "-m", model, *media_flags(folder, x), "-p", x["question"], "--greedy", "--max-tokens", 120, "-t", 1, "--trace", path, *flags)
    t = read_trace(path)
    os.remove(path)
    return t["sequences"][0], t["logits"][0].astype(np.float64)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def divergence(want, got):
    """KL divergences in nats of the tokens of an answer that both read after the same history, and at how many of them the likeliest token is the same."""
    (a, p), (b, q) = want, got
    n = min(len(p), len(q))
    start = len(a) - len(p)                                         # logits[i] are of the token sequences[start + i]
    differ = np.flatnonzero(a[start:start + n] != b[start:start + n])
    n = int(differ[0]) + 1 if len(differ) else n
    p, q = log_softmax(p[:n]), log_softmax(q[:n])
    return (np.exp(p) * (p - q)).sum(-1), (p.argmax(-1) == q.argmax(-1)).sum()


def measure_logits(m, types, count):
    folder, questions = questions_of(m, count)
    os.makedirs(m.out + "/traces", exist_ok=True)

    def all_of(kind, flags=()):
        model = m.folder(kind)
        return together(lambda p: logits(m, model, folder, p[1], f"{m.out}/traces/{kind}-{p[0]}.safetensors", flags), enumerate(questions))
    want, rows = all_of("f32"), {}
    caches = [("f16", "f16"), ("q8_0", "f32"), ("f32", "q8_0"), ("q8_0", "q8_0")]
    for name, kind, flags in [(k, k, ()) for k in types if k != "f32"] + [(f"f32, keys {a}, values {b}", "f32", ("-ctk", a, "-ctv", b)) for a, b in caches]:
        got = [divergence(a, b) for a, b in zip(want, all_of(kind, flags))]
        kl = np.concatenate([k for k, _ in got])
        rows[name] = dict(tokens=len(kl), kl=kl.mean(), kl_most=kl.max(), same=sum(int(s) for _, s in got) / len(kl))
        print(f"logits {name}: KL {kl.mean():.6f} nats (most {kl.max():.4f}), the same choice {100 * rows[name]['same']:.2f} % of {len(kl)}", flush=True)
    return rows


# ---- the reference's code2wav ----


REFERENCE = """
import re, sys, numpy as np, torch, gguf
sys.path.insert(0, sys.argv[1])
from sizes import SIZES, code2wav_config
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeCode2Wav
model = Qwen3OmniMoeCode2Wav(code2wav_config(SIZES)).eval().float()
layer = dict(attn_norm="input_layernorm", ffn_norm="post_attention_layernorm", attn_q="self_attn.q_proj", attn_k="self_attn.k_proj", attn_v="self_attn.v_proj",
             attn_output="self_attn.o_proj", attn_scale="self_attn_layer_scale", ffn_scale="mlp_layer_scale", ffn_gate="mlp.gate_proj", ffn_up="mlp.up_proj",
             ffn_down="mlp.down_proj")
last = 4                                                             # upsampling rates
def name(n):
    if m := re.match(r"blk[.](\\d+)[.](\\w+)[.]weight", n):
        return f"pre_transformer.layers.{m[1]}.{layer[m[2]]}." + ("scale" if m[2].endswith("_scale") else "weight")
    if m := re.match(r"upsample[.](\\d+)[.](\\w+)[.](.*)", n):
        return f"upsample.{m[1]}." + dict(conv="0.conv." + m[3], dwconv="1.dwconv.conv." + m[3], gamma="1.gamma").get(m[2], f"1.{m[2]}.{m[3]}")
    if m := re.match(r"decoder[.](\\d+)[.]res[.](\\d+)[.](snake|conv)(\\d)[.](.*)", n):
        return f"decoder.{int(m[1]) + 1}.block.{int(m[2]) + 2}." + (f"act{m[4]}.{m[5]}" if m[3] == "snake" else f"conv{m[4]}.conv.{m[5]}")
    if m := re.match(r"decoder[.](\\d+)[.](snake|conv)[.](.*)", n):
        return f"decoder.{int(m[1]) + 1}.block." + (f"0.{m[3]}" if m[2] == "snake" else f"1.conv.{m[3]}")
    stem, end = n.rsplit(".", 1)
    return {"token_embd": "code_embedding.", "output_norm": "pre_transformer.norm.", "conv_in": "decoder.0.conv.", "snake_out": f"decoder.{last + 1}.",
            "conv_out": f"decoder.{last + 2}.conv."}[stem.replace("decoder.", "")] + end
state = model.state_dict()
given = {}
for t in gguf.GGUFReader(sys.argv[2]).tensors:
    if t.name.startswith("code2wav."):
        to, x = name(t.name[9:]), torch.from_numpy(np.array(t.data, dtype=np.float32).reshape([int(k) for k in reversed(t.shape)]))
        want = state[to].shape
        if x.dim() == 3:                                            # [out, kernel, in], of transposed convolutions [kernel, out, in]
            x = x.permute(2, 1, 0) if re.search("block.1.conv|upsample.*0.conv", to) else x.permute(0, 2, 1)
        given[to] = x.reshape(want)
missing = [k for k in state if k not in given and not k.endswith(("code_offset", "inv_freq"))]
assert not missing, missing
model.load_state_dict(given, strict=False)
with torch.no_grad():
    for path in sys.argv[3:]:
        codes = torch.from_numpy(np.fromfile(path, np.int32).reshape(-1, SIZES["groups"]).T.astype(np.int64))[None]
        model(codes).reshape(-1).numpy().tofile(path[:-4] + ".reference")
"""


def measure_reference(m, count):
    """F32 of omni against transformers in float32, the same weights and codes."""
    python = os.environ.get("OMNI_REFERENCE")
    if not python:
        print("reference: left out, needs OMNI_REFERENCE=$(scripts/python-env.sh ~/.cache/omni/reference)")
        return {}
    codes = codes_of(m, count)
    command(python, "-c", REFERENCE, HERE, m.file("f32", 2), *codes)
    got, worst, least = decoded(m, "f32", codes), 0.0, 1e9
    for path, x in zip(codes, got):
        want = np.fromfile(path[:-4] + ".reference", np.float32)
        n = min(len(want), len(x))
        assert n and len(want) - len(x) in range(0, FRAME), (len(want), len(x))
        worst, least = max(worst, float(np.abs(want[:n] - x[:n]).max())), min(least, float(si_sdr(want[:n].astype(np.float64), x[:n].astype(np.float64))))
    print(f"reference: {count} sounds, largest difference {worst:.2g}, SI-SDR at least {least:.1f} dB")
    return dict(files=count, largest=worst, si_sdr_least=least)


# ---- what must hold ----

def faults(r):
    """What is wrong with the results, a line each. The limits leave room for chance: another processor rounds otherwise, and then other codes are drawn."""
    out = []
    check = lambda ok, text: ok or out.append(text)
    for kind, s in r.get("sound", {}).items():
        check(s["pesq_least"] > 3.5 and s["stoi_least"] > 0.9 and s["si_sdr_least"] > 15,
              f"sound {kind}: PESQ {s['pesq_least']:.2f}, STOI {s['stoi_least']:.3f}, SI-SDR {s['si_sdr_least']:.1f} dB; more than 3.5, 0.9 and 15 must be")
    for kind, s in r.get("speech", {}).items():
        n = s["sentences"]
        check(s["wer"] < 0.42, f"speech {kind}: word error rate {s['wer']:.3f}; less than 0.42 must be")
        check(s["picked"] >= n - 1 - n // 20, f"speech {kind}: {s['picked']} of {n} sentences can be told from the others")
        check(s["last"] >= n // 3, f"speech {kind}: the last word was found {s['last']} times of {n}")
        check(s["stutters"] <= 1 + n // 20, f"speech {kind}: {s['stutters']} words said twice")
        check(s["cut"] == 0, f"speech {kind}: {s['cut']} sentences did not end")
        check(2 < s["rate_least"] and s["rate_most"] < 7 and 3 < s["rate"] < 4.6, f"speech {kind}: {s['rate']:.2f} ({s['rate_least']:.2f} to {s['rate_most']:.2f}) words a second")
        for voice, hz in PITCH.items():
            check(0.85 * hz < s["pitch_" + voice] < 1.15 * hz, f"speech {kind}: {voice} speaks at {s['pitch_' + voice]:.0f} Hz, not {hz}")
    for kind, row in r.get("answers", {}).items():
        right, of = (sum(row[g][k] for g in row if g != "dictation") for k in (0, 1))
        check(kind not in ("q8_0", "f32") or right >= 0.85 * of, f"answers {kind}: {right} of {of} right")
    for name, row in r.get("logits", {}).items():
        check("keys" in name or name not in ("bf16", "f16", "q8_0") or row["kl"] < 0.01, f"logits {name}: KL divergence {row['kl']:.4f}")
    if r.get("reference"):
        check(r["reference"]["largest"] < 1e-3, f"reference: the largest difference is {r['reference']['largest']:.2g}")
    return out


# ---- what docs/quality.md shows ----

def tables(m, r):
    """Markdown by part."""
    out = {}
    if "sound" in r:
        n = next(iter(r["sound"].values()))["files"]
        out["sound"] = f"{n} sentences, mean and least of them:\n\n| type | PESQ | STOI | SI-SDR, dB |\n|---|---:|---:|---:|\n" + "".join(
            f"| {k.upper()} | {s['pesq']:.2f}, {s['pesq_least']:.2f} | {s['stoi']:.4f}, {s['stoi_least']:.4f} | {s['si_sdr']:.1f}, {s['si_sdr_least']:.1f} |\n" for k, s in r["sound"].items())
        if r.get("reference"):
            x = r["reference"]
            out["sound"] += f"\nF32 against transformers' Code2Wav in float32, same weights and codes: largest difference of a sample {x['largest']:.1e}, SI-SDR at least {x['si_sdr_least']:.0f} dB.\n"
    if "speech" in r:
        n = next(iter(r["speech"].values()))["sentences"]
        out["speech"] = (f"{n} sentences each, voices in turn.\n\n| type | | word error rate | chelsie | ethan | aiden | picked | last word | stutters | pitch of each, Hz | words a second |\n"
                         "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
        for k, s in r["speech"].items():
            kind, way = k.split()
            out["speech"] += (f"| {kind.upper()} | {way} | {s['wer']:.3f} | " + " | ".join(f"{s['wer_' + v]:.3f}" for v in VOICES) + f" | {s['picked']} | {s['last']} | {s['stutters']} | "
                              + ", ".join(f"{s['pitch_' + v]:.0f}" for v in VOICES) + f" | {s['rate']:.2f} ({s['rate_least']:.2f} to {s['rate_most']:.2f}) |\n")
    if "answers" in r:
        groups = [g for g in next(iter(r["answers"].values())) if g != "dictation"]
        out["answers"] = "| type | " + " | ".join(groups) + " | words of dictation wrong |\n|---|" + "---:|" * (len(groups) + 1) + "\n" + "".join(
            f"| {k.upper()} | " + " | ".join("{} of {}".format(*row[g]) for g in groups) + " | {} of {} |\n".format(*row.get("dictation", (0, 0))) for k, row in r["answers"].items())
    if "logits" in r:
        out["logits"] = "| type | KL divergence, mean | most | same first choice | tokens |\n|---|---:|---:|---:|---:|\n" + "".join(
            f"| {k.upper() if ',' not in k else 'F32' + k[3:]} | {x['kl']:.6f} | {x['kl_most']:.4f} | {100 * x['same']:.2f} % | {x['tokens']} |\n" for k, x in r["logits"].items())
    out["size"] = "| type | three files, MB |\n|---|---:|\n" + "".join(f"| {k.upper()} | {m.size(k):.1f} |\n" for k in TYPES if k == "q8_0" or os.path.isdir(f"{m.out}/models/{k}"))
    return out


def bars(path, title, values, digits):
    """A small plot: one bar a name."""
    most, rows = max(v for _, v in values) or 1, []
    for i, (name, v) in enumerate(values):
        y = 28 + 20 * i
        rows.append(f'<text x="92" y="{y + 12}" text-anchor="end">{name}</text><rect x="100" y="{y}" width="{300 * v / most:.1f}" height="15" fill="#4a7ab5"/>'
                    f'<text x="{104 + 300 * v / most:.1f}" y="{y + 12}">{v:.{digits}f}</text>')
    height = 36 + 20 * len(values)
    with open(path, "w") as f:
        f.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="480" height="{height}" font-family="sans-serif" font-size="12"><rect width="480" height="{height}" fill="white"/>'
                f'<text x="8" y="17" font-weight="bold">{title}</text>\n' + "\n".join(rows) + "\n</svg>\n")


def write(m, r):
    path = DOCS + "/quality.md"
    text = open(path, encoding="utf-8").read()
    for part, table in tables(m, r).items():
        begin, end = f"<!-- {part} -->\n", f"<!-- end of {part} -->"
        if begin in text:
            text = text[:text.index(begin) + len(begin)] + table + text[text.index(end):]
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    if "speech" in r:
        bars(DOCS + "/quality-speech.svg", "Word error rate of sampled speech", [(k.split()[0].upper(), s["wer"]) for k, s in r["speech"].items() if k.endswith("sampled")], 3)
    if "logits" in r:
        bars(DOCS + "/quality-logits.svg", "KL divergence from F32, millinats", [(k.upper(), 1000 * x["kl"]) for k, x in r["logits"].items() if "," not in k], 2)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("omni"); p.add_argument("--model", default=os.path.join(os.path.dirname(HERE), "models/omni-tiny")); p.add_argument("--out")
    p.add_argument("--quick", action="store_true"); p.add_argument("--write", action="store_true"); p.add_argument("--keep", action="store_true");
    p.add_argument("--parts"); p.add_argument("--types"); p.add_argument("--sentences", type=int); p.add_argument("--questions", type=int)
    a = p.parse_args()
    q = a.quick
    parts = (a.parts or ("sound,speech,answers,logits" if q else "sound,reference,speech,answers,logits")).split(",")
    out = os.path.abspath(a.out or os.path.expanduser("~/.cache/omni/quality-work")) + ("/quick" if q else "/all")
    if not a.keep:
        shutil.rmtree(out, ignore_errors=True)                     # nothing of another program is taken for this one's
    os.makedirs(out, exist_ok=True)
    m = Models(os.path.abspath(a.omni), os.path.abspath(a.model), out)
    few = lambda types: a.types.split(",") if a.types else types if q else TYPES
    from multiprocessing import get_context
    with get_context("spawn").Pool(WORKERS) as pool:
        r = {}
        n = a.sentences or (18 if q else 30)
        if "sound" in parts:
            r["sound"] = measure_sound(m, few(["f16", "q8_0", "q4_k_m"]), 6 if q else min(n, 21))
        if "reference" in parts:
            r["reference"] = measure_reference(m, min(n, 12))
        if "speech" in parts:
            r["speech"] = measure_speech(m, pool, few(["q8_0"]), range(n), ["sampled"] if q else ["sampled", "greedy"])
        if "answers" in parts:
            r["answers"] = measure_answers(m, few(["q8_0"]), a.questions or (60 if q else 240))
        if "logits" in parts:
            r["logits"] = measure_logits(m, few(["q8_0"]), 16 if q else 120)
    with open(out + "/results.json", "w") as f:
        json.dump(r, f, indent=1)
    if a.write:
        write(m, r)
    wrong = faults(r)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    checks = sum(len(v) if k != "reference" else 1 for k, v in r.items() if v)
    print(f"{max(checks - len(wrong), 0)} passed, {len(wrong)} failed")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
