#!/usr/bin/env python3
"""KL divergence of quantised thinkers from the F32 ones, ours beside llama.cpp's:
    compare_divergence.py --llama LLAMA_CPP_BIN_DIR --omni build/omni --tool build/divergence --corpus TEXT F32.gguf...

Every F32 file is quantised by both programs, without and with the same importance matrix (omni imatrix over TEXT, which llama-quantize
takes too), and all files run in omni over the same 4096 random tokens. Several checkpoints, because one of them decides little: over
eight seeds of variant c the ratio varied by 1.5% around its mean, which leaves the mean of five a standard error of 0.3%. That mean must not be
above 1 by more than half a percent. Types that omni reads but does not make are the peer's alone: their divergence on the first file must stay within
LIMIT. Exits 1 when anything does not hold.
"""
import argparse, os, subprocess, sys, tempfile

COMPARED = ("q4_k_m", "q8_0")
MARGIN = 1.005
# Mean KL on variant c, seed 0: about one and a half times what was measured.
LIMIT = {"q2_k": 6e-2, "q3_k_m": 1.7e-2, "iq4_nl": 5e-3, "iq4_xs": 5e-3, "mxfp4_moe": 1e-4}


def run(command):
    r = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if r.returncode:
        sys.exit(f"{' '.join(command)}\n{r.stdout[-2000:]}")
    return r.stdout


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--llama", "--omni", "--tool", "--corpus"):
        p.add_argument(name, required=True)
    p.add_argument("models", nargs="+")
    a = p.parse_args()
    peer = os.path.join(a.llama, "llama-quantize")
    ratios, wrong = {}, 0
    for number, model in enumerate(a.models):
        with tempfile.TemporaryDirectory() as work:
            matrix, files = f"{work}/imatrix.gguf", {}
            run([a.omni, "imatrix", "-m", model, "-f", a.corpus, "-o", matrix])
            for kind in COMPARED + (tuple(LIMIT) if number == 0 else ()):
                for weights in ([], ["--imatrix", matrix]) if kind in COMPARED else ([],):
                    key = kind + (" weighted" if weights else "")
                    files[key, "llama.cpp"] = f"{work}/{len(files)}.gguf"
                    run([peer, *weights, model, files[key, "llama.cpp"], kind, "2"])
                    if kind in COMPARED:
                        files[key, "omni"] = f"{work}/{len(files)}.gguf"
                        run([a.omni, "quantize", model, files[key, "omni"], kind, *weights])
            lines = run([a.tool, model, *files.values(), "--seed", str(number + 1)]).splitlines()
            kl = {key: float(line.split()[2]) for key, line in zip(files, lines)}
        for (key, by), value in kl.items():
            if by == "omni":
                ratios.setdefault(key, []).append(value / kl[key, "llama.cpp"])
                print(f"{os.path.basename(model)} {key}: mean KL {value:.7f}, llama.cpp's {kl[key, 'llama.cpp']:.7f}")
            elif key in LIMIT:
                good = value <= LIMIT[key]
                wrong += not good
                print(f"{os.path.basename(model)} {key}, made by llama.cpp: mean KL {value:.7f} of {LIMIT[key]:g} {'good' if good else 'WRONG'}", flush=True)
    for key, values in ratios.items():
        mean = sum(values) / len(values)
        wrong += not mean <= MARGIN
        print(f"{key}: {mean:.4f} of llama.cpp's divergence ({min(values):.4f} to {max(values):.4f}, {len(values)} checkpoints)"
              f" {'good' if mean <= MARGIN else 'WRONG'}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
