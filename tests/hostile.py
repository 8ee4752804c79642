#!/usr/bin/env python3
"""Runs a command on damaged copies of a file and checks that each is either used or refused cleanly.

    tests/hostile.py [options] FILE -- COMMAND...

In the command, these stand for paths in a scratch folder:
    {}      the damaged copy, under its own name
    {dir}   the folder that holds it, with links to everything else of FILE's folder (for shards, config.json, ...)
    {out}   a path for output; after a refusal nothing may be left there

Damage: the file cut short at random places, single bytes changed, and groups of up to 8 bytes set to extreme values; a
part of the places lies near the start and the end, where file formats keep their counts and offsets. In JSON and GGUF files
also: a value replaced by a strange one, the file still well formed.

Clean means: exit code 0, or 1 with a readable message on standard error; no signal, no report of a sanitizer, no longer than
--timeout and no more memory than --memory. The undamaged file must be accepted. Files that break this are kept in --keep.

    tests/hostile.py model.gguf -- build-asan/omni info {}
    tests/hostile.py checkpoint/config.json -- build-asan/omni convert {dir} {out}
"""
import argparse
import concurrent.futures
import math
import os
import random
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

REPORT = re.compile(rb"(Address|Leak|Thread|Memory|UndefinedBehavior)Sanitizer|runtime error: |internal error")
SANITIZERS = {"ASAN_OPTIONS": "exitcode=99:allocator_may_return_null=1", "UBSAN_OPTIONS": "halt_on_error=1:exitcode=99:print_stacktrace=1",
              "LSAN_OPTIONS": "exitcode=99", "TSAN_OPTIONS": "exitcode=99"}


def place(rng, size):
    """A position in the file: anywhere, or near an end."""
    region = rng.choice(("any", "any", "head", "front", "tail"))
    if region == "any":
        return rng.randrange(size)
    near = min(size, 2048 if region == "head" else 65536 if region == "front" else 4096)
    return size - 1 - rng.randrange(near) if region == "tail" else rng.randrange(near)


JSON_VALUES = [b"0", b"-1", b"1", b"3", b"0.5", b"1e30", b"2147483647", b"4294967296", b"9223372036854775807", b"null", b"true", b'""', b'"x"', b"[]",
               b"{}", b"[0]", b"[1, 2, 3, 4, 5, 6, 7, 8, 9]"]
INTEGERS = [0, 1, 2, 3, 7, 33, 1000, 65536, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
FLOATS = [0.0, -1.0, 1e-30, 1e30, math.inf, math.nan]


def json_spots(data):
    """(start, end) of every number, string value and literal of a JSON text."""
    return [m.span(1) for m in re.finditer(rb'(?<=[:,\[{])\s*(-?[\d.]+(?:[eE][-+]?\d+)?|true|false|null|"[^"\\]*"(?!\s*:))(?=\s*[,\]}])', data)]


def gguf_spots(data):
    """Two lists of (start, struct format): numbers alone and first numbers of arrays; tensors' dimensions and types."""
    spots, shapes, at = [], [], 8
    formats = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

    def take(form):
        nonlocal at
        v = struct.unpack_from("<" + form, data, at)[0]
        at += struct.calcsize("<" + form)
        return v

    def skip_string():
        nonlocal at
        n = take("Q")
        at += n

    def skip_value(kind, wanted):
        if kind == 8:
            skip_string()
        else:
            if wanted:
                spots.append((at, formats[kind]))
            take(formats[kind])

    tensors, keys = take("Q"), take("Q")
    for _ in range(keys):
        skip_string()
        kind = take("I")
        if kind == 9:
            kind, n = take("I"), take("Q")
            for i in range(n):
                skip_value(kind, i < 4)
        else:
            skip_value(kind, True)
    for _ in range(tensors):
        skip_string()
        for _ in range(take("I")):
            shapes.append((at, "Q"))
            take("Q")
        shapes.append((at, "I"))
        take("I")
        take("Q")
    return spots, shapes


def strange_values(rng, data, n):
    """(name, function from bytes to bytes): well-formed files with one value replaced."""
    if data[:4] == b"GGUF":
        spots = [kind for kind in gguf_spots(data) if kind]
        for _ in range(n if spots else 0):
            at, form = rng.choice(rng.choice(spots))
            size = struct.calcsize("<" + form)
            if form in "fd":
                new = struct.pack("<" + form, rng.choice(FLOATS))
            elif form == "?":
                new = bytes([1 - data[at]])
            else:
                new = (rng.choice(INTEGERS) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
            yield f"value-{at}-{new.hex()}", lambda d, at=at, new=new: d[:at] + new + d[at + len(new):]
    elif data.lstrip()[:1] in (b"{", b"["):
        spots = json_spots(data)
        for _ in range(n if spots else 0):
            (start, end), new = rng.choice(spots), rng.choice(JSON_VALUES)
            yield f"value-{start}-{new.hex()}", lambda d, start=start, end=end, new=new: d[:start] + new + d[end:]


def damages(rng, size, cuts, flips, smashes):
    """(name, function from bytes to damaged bytes) in random order of places, repeatable by the seed."""
    for _ in range(cuts):
        n = place(rng, size)
        yield f"cut-{n}", lambda data, n=n: data[:n]
    for _ in range(flips):
        at, change = place(rng, size), rng.randrange(1, 256)
        yield f"flip-{at}-{change:02x}", lambda data, at=at, change=change: data[:at] + bytes([data[at] ^ change]) + data[at + 1:]
    for _ in range(smashes):
        at, n = place(rng, size), rng.choice((1, 2, 4, 8))
        new = rng.choice((b"\xff" * 8, b"\0" * 8, b"\xff" * 7 + b"\x7f", b"\0" * 7 + b"\x80", b"\x7f" * 8, b"\1" + b"\0" * 7, b'"[{}],:0'))[:n]
        yield f"set-{at}-{new.hex()}", lambda data, at=at, new=new: (data[:at] + new + data[at + len(new):])[:len(data)]


class Runner:
    def __init__(self, args):
        self.args = args
        self.local = threading.local()
        self.root = tempfile.mkdtemp(prefix="hostile-")
        self.name = os.path.basename(args.file)
        self.source = os.path.dirname(os.path.abspath(args.file))
        self.env = {**SANITIZERS, **os.environ}

    def folder(self):
        """This thread's scratch folder."""
        if not hasattr(self.local, "folder"):
            self.local.folder = tempfile.mkdtemp(dir=self.root)
            os.mkdir(os.path.join(self.local.folder, "in"))
            if any("{dir}" in word for word in self.args.command):
                for entry in os.listdir(self.source):
                    if entry != self.name:
                        os.symlink(os.path.join(self.source, entry), os.path.join(self.local.folder, "in", entry))
        return self.local.folder

    def command(self, folder):
        paths = {"{}": os.path.join(folder, "in", self.name), "{dir}": os.path.join(folder, "in"), "{out}": os.path.join(folder, "out")}
        return [re.sub(r"\{(dir|out|)\}", lambda m: paths[m.group()], word) for word in self.args.command]

    def run(self, data):
        """(faults, exit code, stderr, seconds, peak kB)"""
        folder = self.folder()
        out, errors = os.path.join(folder, "out"), os.path.join(folder, "stderr")
        shutil.rmtree(out, ignore_errors=True)
        if os.path.lexists(out):
            os.remove(out)
        with open(os.path.join(folder, "in", self.name), "wb") as f:
            f.write(data)
        start = time.monotonic()
        with open(errors, "wb") as err:
            p = subprocess.Popen(self.command(folder), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err, env=self.env,
                                 start_new_session=True)
            late = threading.Event()

            def stop():
                late.set()
                os.killpg(p.pid, signal.SIGKILL)

            timer = threading.Timer(self.args.timeout, stop)
            timer.start()
            _, status, usage = os.wait4(p.pid, 0)
            timer.cancel()
            p.returncode = code = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - start
        with open(errors, "rb") as f:
            text = f.read(1 << 20)
        faults = []
        if late.is_set():
            faults.append(f"ran longer than {self.args.timeout} s")
        elif code < 0:
            faults.append(f"ended by signal {signal.Signals(-code).name}")
        elif code not in (0, 1):
            faults.append(f"exit code {code}")
        if REPORT.search(text):
            faults.append("a sanitizer or the program's own checks reported an error")
        if code == 1 and not text.strip():
            faults.append("refused without a message")
        if code == 1 and re.search(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]", text):
            faults.append("control characters in the message")
        try:
            text.decode()
        except UnicodeDecodeError:
            faults.append("the message is not UTF-8")
        if usage.ru_maxrss > self.args.memory * 1024:
            faults.append(f"{usage.ru_maxrss // 1024} MB of memory")
        if code != 0 and os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
            faults.append("left output behind after a refusal")
        return faults, code, text.decode(errors="replace"), seconds, usage.ru_maxrss


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cuts", type=int, default=200)
    arguments.add_argument("--flips", type=int, default=200)
    arguments.add_argument("--smashes", type=int, default=100)
    arguments.add_argument("--values", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("-j", "--jobs", type=int, default=os.cpu_count())
    arguments.add_argument("--timeout", type=float, default=10, help="seconds")
    arguments.add_argument("--memory", type=int, default=2000, help="MB")
    arguments.add_argument("--keep", default="hostile-findings", help="folder for inputs that were not handled cleanly")
    arguments.add_argument("-v", "--verbose", action="store_true", help="print every different message")
    arguments.add_argument("file")
    if "--" not in sys.argv:
        arguments.error("no command: FILE -- COMMAND...")
    split = sys.argv.index("--")
    args = arguments.parse_args(sys.argv[1:split])
    args.command = sys.argv[split + 1:]
    if not args.command or not any(re.search(r"\{(dir)?\}", word) for word in args.command):
        arguments.error("the command does not mention {} or {dir}")

    with open(args.file, "rb") as f:
        data = f.read()
    runner = Runner(args)
    try:
        faults, code, text, seconds, _ = runner.run(data)
        if faults or code != 0:
            print(f"{args.file}: the undamaged file is not accepted: {', '.join(faults) or f'exit code {code}'}\n{text}", file=sys.stderr)
            return 1
        failed, messages, accepted, refused, slowest, largest = 0, {}, 0, 0, seconds, 0
        rng = random.Random(args.seed)
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            cases = list(damages(rng, len(data), args.cuts, args.flips, args.smashes)) + list(strange_values(rng, data, args.values))
            for (name, damage), result in zip(cases, pool.map(lambda case: runner.run(case[1](data)), cases)):
                faults, code, text, seconds, peak = result
                accepted += code == 0
                refused += code == 1
                slowest, largest = max(slowest, seconds), max(largest, peak)
                # With the folder's name and all numbers taken out, equal messages count as one.
                messages.setdefault(re.sub(r"\d+", "N", re.sub(re.escape(runner.root) + r"/[^/ ]*", "", text)).strip(), name)
                if faults:
                    failed += 1
                    os.makedirs(args.keep, exist_ok=True)
                    kept = os.path.join(args.keep, f"{name}-{runner.name}")
                    with open(kept, "wb") as f:
                        f.write(damage(data))
                    print(f"{runner.name} {name}: {', '.join(faults)}\n    kept as {kept}; command: {shlex.join(args.command)}", file=sys.stderr)
                    print("".join(f"    {line}\n" for line in text.splitlines()[:15]), end="", file=sys.stderr)
        if args.verbose:
            for message, name in sorted(messages.items()):
                print(f"  {name}: {message[:600]}")
        print(f"{runner.name}: {len(cases)} damaged files, {refused} refused, {accepted} accepted, {failed} not handled cleanly; "
              f"slowest {slowest:.2f} s, largest {largest // 1024} MB")
        return 1 if failed else 0
    finally:
        shutil.rmtree(runner.root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
