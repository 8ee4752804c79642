#!/usr/bin/env python3
"""How much the tests notice: changes one random line of src at a time in a copy of the tree, builds it, and runs the tests until one fails.

    scripts/mutate.py --seed 1 --count 40 -j 2          40 changes, two at a time, judged by `make test`
    scripts/mutate.py --seed 1 --count 40 --asan        what `make test` passes is judged by the sanitizers' build too
    scripts/mutate.py --seed 1 --count 40 --list        shows the changes and ends
    scripts/mutate.py --seed 1 --count 40 --only 'src/media/*' 'src/text/bpe.c'

A line is as likely as any other line of code. A change that gives the same object code does not count, nor does one that does not compile. A test
that fails has to fail twice; one that hangs, is killed, or fills memory or disk has noticed. Results are kept, a JSON line each, in
WORK/SEED.jsonl: the same command goes on where it was stopped. Nothing is written outside WORK (build-mutate) and the temporary folders in it.
The exit code is 0 whatever the score."""
import argparse, collections, difflib, fnmatch, hashlib, json, os, platform, random, re, resource, shutil, signal, subprocess, sys, threading, time

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), ".."))
# Sources for another family of processors. AVX-VNNI and AMX are imitated by the kernel tool, so that they count on every x86-64.
FOREIGN = r"neon" if platform.machine() in ("x86_64", "AMD64") else r"avx|amx|vnni"
KEYWORDS = {"if", "for", "while", "switch", "return", "sizeof", "else", "do", "case", "goto", "break", "continue", "default", "static", "const", "struct",
            "enum", "union", "typedef", "extern", "inline"}


# ---------------------------------------------------------------------------------------------------- changes

def masked(text):
    """The text with comments, strings and character constants blanked out, every other character in its place."""
    def blank(m):
        return re.sub(r"[^\n]", " ", m.group())
    return re.sub(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", blank, text, flags=re.S)


def replacements(code, pattern, table):
    for m in re.finditer(pattern, code):
        for new in table(m):
            if new is not None:
                yield m.start(), m.end(), new


def closing(code, start):
    """Index of the bracket that closes the one at start, on the same line; -1 when there is none."""
    depth = 0
    for i in range(start, len(code)):
        depth += (code[i] in "([{") - (code[i] in ")]}")
        if depth == 0:
            return i
    return -1


def number(m):
    t = m.group()
    if re.fullmatch(r"0[xX][0-9a-fA-F]+[uUlL]*", t):
        digits = re.match(r"0[xX][0-9a-fA-F]+", t).group()
        return [hex(int(digits, 16) ^ 1) + t[len(digits):]]
    if re.fullmatch(r"\d+[uUlL]*", t):
        digits = re.match(r"\d+", t).group()
        n = int(digits)
        return [f"{v}{t[len(digits):]}" for v in (n + 1, n - 1) if v >= 0]
    return [f"({t} * 2)", f"({t} + 1)"]


def arguments(code):
    """Neighbouring arguments of a call that are plain names or members, changed for each other; the compiler refuses unlike types."""
    for call in re.finditer(r"\b(\w+)\(", code):
        if call.group(1) in KEYWORDS:
            continue
        end = closing(code, call.end() - 1)
        if end < 0:
            continue
        begin, parts, depth = call.end(), [], 0
        for i in range(call.end(), end + 1):
            depth += (code[i] in "([{") - (code[i] in ")]}" and i < end)
            if (code[i] == "," and depth == 0) or i == end:
                parts.append((begin, i))
                begin = i + 1
        for (a, b), (c, d) in zip(parts, parts[1:]):
            x, y = code[a:b].strip(), code[c:d].strip()
            if x != y and re.fullmatch(r"[\w.>\[\]-]+", x) and re.fullmatch(r"[\w.>\[\]-]+", y) and "err" not in (x, y):
                yield a, d, (" " if code[a] == " " else "") + f"{y}, {x}"


def statement(code):
    """Whether the line is one whole statement without a declaration, a jump or a block."""
    t = code.strip()
    if not t.endswith(";") or t.count("(") != t.count(")") or re.match(r"(return|goto|case|default|typedef|static|const|extern|else|for|while|if|do|\}|\))", t):
        return False
    return bool(re.match(r"(\*|\+\+|--|\()?[\w.>\[\]()+ *-]*?(\s*[-+*/%&|^]?=(?!=)|\+\+|--)", t) and not re.match(r"[A-Za-z_]\w*(\s+\*?|\s*\*\s*)[A-Za-z_]\w*(\[.*?\])?\s*(=|;|,)", t)
                or re.match(r"[A-Za-z_]\w*(->\w+|\.\w+)*\(", t) or t in ("break;", "continue;"))


def changes(code, returns):
    """Every change of one masked line: (operator, start, end, new). returns: what the function around it would return early."""
    def each(name, found):
        return [(name, *f) for f in found]

    out = []
    out += each("relation", replacements(code, r"(?<=\s)(<=|>=|==|!=|<|>)(?=\s)", lambda m: {
        "<": ["<=", ">"], "<=": ["<", ">"], ">": [">=", "<"], ">=": [">", "<"], "==": ["!="], "!=": ["=="]}[m.group()]))
    out += each("and/or", replacements(code, r"&&|\|\|", lambda m: ["||" if m.group() == "&&" else "&&"]))
    out += each("arithmetic", replacements(code, r"(?<=[\w\])] )(\+|-|\*|/|%|&|\||\^|<<|>>)(?= [\w(*&-])", lambda m: {
        "+": ["-"], "-": ["+"], "*": ["/", "+"], "/": ["*"], "%": ["/"], "&": ["|"], "|": ["&"], "^": ["|"], "<<": [">>"], ">>": ["<<"]}[m.group()]))
    out += each("assignment", replacements(code, r"(?<= )(\+=|-=|\*=|/=|\|=|&=)(?= )", lambda m: {
        "+=": ["-=", "="], "-=": ["+="], "*=": ["/="], "/=": ["*="], "|=": ["&=", "="], "&=": ["|="]}[m.group()]))
    out += each("step", replacements(code, r"\+\+|--", lambda m: ["--" if m.group() == "++" else "++"]))
    out += each("constant", replacements(code, r"(?<![\w.])(0[xX][0-9a-fA-F]+[uUlL]*|\d+\.\d*(?:[eE][-+]?\d+)?[fF]?|\d+(?:[eE][-+]?\d+)|\d+[uUlL]*)(?![\w.])", number))
    out += each("truth", replacements(code, r"\b(true|false)\b", lambda m: ["false" if m.group() == "true" else "true"]))
    for m in re.finditer(r"\b(?:if|while) \(", code):
        end = closing(code, m.end() - 1)
        if end > 0:
            inner = (m.end(), end)
            text = code[slice(*inner)]
            out.append(("negated condition", *inner, f"!({text})"))
            if m.group().startswith("if"):
                out += [("dropped check", *inner, f"0 && ({text})"), ("taken always", *inner, f"1 || ({text})")]
    out += each("choice", replacements(code, r"\? ([^?:,;()]+) : ([^?:,;()]+)(?=[;,)])", lambda m: [f"? {m.group(2)} : {m.group(1)}"]))
    out += each("swapped arguments", arguments(code))
    m = re.match(r"(\s*)TRY\((.*)\);\s*$", code)
    if m:
        out.append(("dropped check", m.start(), len(code.rstrip()), f"{m.group(1)}(void)({m.group(2)});"))
    m = re.match(r"(\s*)return fail(_in)?\(.*;\s*$", code)
    if m:
        out.append(("dropped error", m.start(), len(code.rstrip()), f"{m.group(1)}return OMNI_OK;"))
    if statement(code):
        out.append(("deleted statement", len(code) - len(code.lstrip()), len(code.rstrip()), ";"))
        if returns is not None:
            at = len(code) - len(code.lstrip())
            out.append(("early return", at, at, f"if (1) {{ return{' ' + returns if returns else ''}; }} "))
    return out


def returned(lines, i):
    """What an early return at line i would return, from the head of the function around it; None when that is not known."""
    for k in range(i - 1, -1, -1):
        if re.match(r"\w.*\)\s*\{\s*$", lines[k]) or (re.match(r"\s+.*\)\s*\{\s*$", lines[k]) and k > 0 and re.match(r"\w.*,\s*$", lines[k - 1])):
            head = lines[k] if re.match(r"\w", lines[k]) else lines[k - 1]
            m = re.match(r"(?:static |inline |const |unsigned |struct )*(\w+)\s*(\**)\s*\w+\(", head)
            if not m:
                return None
            if m.group(2):
                return "NULL"
            return {"void": "", "omni_status": "OMNI_OK", "bool": "false"}.get(m.group(1), "0" if re.match(r"(u?int|size_t|float|double|long)", m.group(1)) else None)
        if lines[k].startswith("}"):
            return None
    return None


class Change(collections.namedtuple("Change", "file line operator old new")):
    @property
    def id(self):
        return hashlib.sha1("\0".join(map(str, self)).encode()).hexdigest()[:12]

    def diff(self):
        return "\n".join([f"{self.file}:{self.line}  {self.operator}", "-" + self.old, "+" + self.new])


def sources(only):
    found = []
    for folder, _, names in os.walk(os.path.join(ROOT, "src")):
        for name in names:
            path = os.path.relpath(os.path.join(folder, name), ROOT)
            if name.endswith((".c", ".h")) and not re.search(FOREIGN, name) and (not only or any(fnmatch.fnmatch(path, o) for o in only)):
                found.append(path)
    return sorted(found)


def pick(seed, count, only):
    """count different changes, the same ones for the same seed and the same sources."""
    files, lines = {}, []
    for path in sources(only):
        text = open(os.path.join(ROOT, path), encoding="utf-8").read()
        code = masked(text).split("\n")
        files[path] = (text.split("\n"), code)
        macro = False
        for i, line in enumerate(code):
            directive = macro or line.lstrip().startswith("#")
            macro = directive and line.rstrip().endswith("\\")
            if not directive and re.search(r"\w", line) and not re.match(r"\w.*\)\s*[;{]\s*$", line):
                lines.append((path, i))
    if not lines:
        sys.exit("mutate: no lines of code in the files named by --only")
    rng, picked, tries = random.Random(seed), {}, 0
    while len(picked) < count and tries < 100 * count + 1000:
        tries += 1
        path, i = rng.choice(lines)
        text, code = files[path]
        possible = changes(code[i], returned(code, i))
        if not possible:
            continue
        operator = rng.choice(sorted({p[0] for p in possible}))
        _, start, end, new = rng.choice([p for p in possible if p[0] == operator])
        # Changes that quote the masked line take strings and comments from the real one.
        old, inner = text[i], text[i][start:end]
        new = new.replace(code[i][start:end].strip(), inner.strip()) if inner.strip() and inner != code[i][start:end] else new
        if operator == "dropped check" and "TRY(" in inner and inner != code[i][start:end]:
            new = re.sub(r"TRY\((.*)\);", r"(void)(\1);", inner)
        changed = old[:start] + new + old[end:]
        c = Change(path, i + 1, operator, old, changed)
        picked.setdefault(c.id, c)
    return list(picked.values())


# ---------------------------------------------------------------------------------------------------- building and testing

def limits():
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 30, 4 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(command, cwd, env, seconds):
    """(exit code or "hung", output's end)."""
    with open(os.path.join(env["TMPDIR"], "output"), "w+b") as output:
        p = subprocess.Popen(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=limits)
        try:
            rc = p.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            rc = "hung"
        try:
            os.killpg(p.pid, signal.SIGKILL)  # what it left running, or itself
        except ProcessLookupError:
            pass
        p.wait()
        output.seek(max(0, output.seek(0, 2) - 6000))
        return rc, output.read().decode(errors="replace")


class Tree:
    """A worker's copy of the sources, built plainly and under the sanitizers."""

    def __init__(self, work, number, jobs):
        self.top = os.path.join(work, f"w{number:02}")
        self.jobs = jobs
        os.makedirs(self.top, exist_ok=True)
        tree = os.path.join(self.top, "tree")
        keep = lambda folder, names: [n for n in names if n == ".git" or n == "__pycache__" or (folder == ROOT and n.startswith((".", "build")))]
        shutil.rmtree(tree, ignore_errors=True)
        shutil.copytree(ROOT, tree, ignore=keep, symlinks=True)  # with the times, so that a second run builds little
        self.tree, self.env = tree, dict(os.environ, TMPDIR=os.path.join(self.top, "tmp"), CCACHE_BASEDIR=self.top, CCACHE_NOHASHDIR="1")
        self.env.setdefault("ASAN_OPTIONS", "allocator_may_return_null=1")
        self.fresh()

    def fresh(self):
        shutil.rmtree(self.env["TMPDIR"], ignore_errors=True)
        os.makedirs(self.env["TMPDIR"])

    def configure(self, kind):
        build = os.path.join(self.top, kind)
        flags = ["-DCMAKE_BUILD_TYPE=Release"] if kind == "build" else ["-DCMAKE_BUILD_TYPE=Debug", "-DOMNI_SANITIZE=address,undefined"]
        # What only C's leniency lets through is no change that a programmer could overlook.
        flags += ["-DCMAKE_C_FLAGS=-Werror=incompatible-pointer-types -Werror=int-conversion"]
        launcher = ["-DCMAKE_C_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
        return run(["cmake", "-S", self.tree, "-B", build, "-G", "Ninja", *flags, *launcher], self.tree, self.env, 300)

    def build(self, kind):
        return run(["ninja", "-C", os.path.join(self.top, kind), "-j", str(self.jobs)], self.tree, self.env, 1800)

    def objects(self):
        """A digest of every object file that is made from src."""
        found = {}
        for folder, _, names in os.walk(os.path.join(self.top, "build", "CMakeFiles")):
            for n in names:
                path = os.path.join(folder, n)
                if n.endswith(".o") and ("/src/" in path or "/emulated/" in path):
                    found[path] = hashlib.sha1(open(path, "rb").read()).digest()
        return found

    def tests(self, kind):
        text = subprocess.run(["ctest", "--show-only=json-v1"], cwd=os.path.join(self.top, kind), env=self.env, capture_output=True, check=True).stdout
        found = {}
        for t in json.loads(text)["tests"]:
            properties = {p["name"]: p["value"] for p in t.get("properties", [])}
            found[t["name"]] = (t["command"], properties.get("WORKING_DIRECTORY", self.tree), dict(e.split("=", 1) for e in properties.get("ENVIRONMENT", [])))
        return found

    def test(self, kind, name, seconds):
        command, cwd, more = self.tests_of[kind][name]
        result = run(command, cwd, {**self.env, **more}, seconds)
        self.fresh()
        return result


def related(change, name):
    """How near a test is to a source: tests named after the file come first, then those of the folder's usual subjects."""
    stem = os.path.splitext(os.path.basename(change.file))[0]
    words = set(re.split("_", stem)) | {change.file.split("/")[1]}
    own = set(re.split("_", name)) - {"test"}
    near = {"cpu": {"ops", "packed", "rows", "kernels"}, "engine": {"session"}, "cli": {"cli"}, "bench": {"bench"}, "convert": {"convert", "quantize"}}
    return -2 * len(words & own) - len(near.get(change.file.split("/")[1], set()) & own)


def judge(tree, change, kinds, seconds_of):
    path = os.path.join(tree.tree, change.file)
    original = open(path, encoding="utf-8").read()
    lines = original.split("\n")
    lines[change.line - 1] = change.new
    try:
        open(path, "w", encoding="utf-8").write("\n".join(lines))
        for kind in kinds:
            rc, output = tree.build(kind)
            if rc != 0:
                return ("unbuilt", "", output[-400:]) if kind == "build" else ("survived", "", "does not build with sanitizers")
            if kind == "build" and tree.objects() == tree.originals:
                return "same", "", ""
            names = sorted(seconds_of[kind], key=lambda n: (related(change, n) if seconds_of[kind][n] < 25 else 0, seconds_of[kind][n]))
            for name in names:
                limit = 30 + 8 * seconds_of[kind][name]
                rc, output = tree.test(kind, name, limit)
                if rc == "hung" or (rc != 0 and tree.test(kind, name, limit)[0] != 0):
                    return ("test" if kind == "build" else "asan"), name + (" (hung)" if rc == "hung" else ""), output[-400:]
        return "survived", "", ""
    finally:
        open(path, "w", encoding="utf-8").write(original)


# ---------------------------------------------------------------------------------------------------- the whole

def report(changes_, results, asan):
    folders = collections.defaultdict(collections.Counter)
    for c in changes_:
        if c.id in results:
            folders[c.file.split("/")[1]][results[c.id]["verdict"]] += 1
    total = sum(folders.values(), collections.Counter())
    survivors = [c for c in changes_ if c.id in results and results[c.id]["verdict"] == "survived"]
    print("\nsurvivors\n" if survivors else "\nno survivors")
    for c in survivors:
        print(c.diff() + "\n")
    print(f"{'':10}{'tried':>8}{'unbuilt':>9}{'same code':>11}{'by test':>9}{'by asan':>9}{'survived':>10}{'noticed':>9}")
    for name, n in [*sorted(folders.items()), ("all", total)]:
        counted = n["test"] + n["asan"] + n["survived"]
        share = f"{100 * (n['test'] + n['asan']) / counted:.0f}%" if counted else "-"
        print(f"{name:10}{sum(n.values()):8}{n['unbuilt']:9}{n['same']:11}{n['test']:9}{n['asan'] if asan else '-':>9}{n['survived']:10}{share:>9}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--count", type=int, default=20, help="changes to try (20)")
    p.add_argument("--only", nargs="+", metavar="FILE", help="patterns of sources, as src/media/*")
    p.add_argument("--asan", action="store_true", help="run what survives under AddressSanitizer and UndefinedBehaviorSanitizer")
    p.add_argument("-j", type=int, default=1, metavar="N", help="changes at a time (1)")
    p.add_argument("--seconds", type=float, default=float("inf"), help="begin no change after so many seconds")
    p.add_argument("--work", default=os.path.join(ROOT, "build-mutate"), help="folder to work in (build-mutate)")
    p.add_argument("--list", action="store_true", help="show the changes, build nothing")
    o = p.parse_args()
    began = time.monotonic()
    todo = pick(o.seed, o.count, o.only)
    if o.list:
        for c in todo:
            print(c.diff() + "\n")
        return
    os.makedirs(o.work, exist_ok=True)
    work = os.path.realpath(o.work)
    log = os.path.join(work, f"{o.seed}.jsonl")
    results = {r["id"]: r for r in map(json.loads, open(log))} if os.path.exists(log) else {}
    kinds = ["build", "asan"] if o.asan else ["build"]

    def ready(number, jobs):
        tree = Tree(work, number, jobs)
        for kind in kinds:
            for rc, output in (tree.configure(kind), tree.build(kind)):
                if rc != 0:
                    sys.exit(f"mutate: the unchanged sources do not build:\n{output}")
        tree.tests_of = {kind: tree.tests(kind) for kind in kinds}
        tree.originals = tree.objects()
        tree.jobs = 2
        return tree

    trees = [ready(0, os.cpu_count())]
    # The unchanged sources say how long each test takes, and which ones fail here anyway: those are left out.
    times = os.path.join(work, "seconds.json")
    seconds_of = json.load(open(times)) if os.path.exists(times) else {}
    lock = threading.Lock()
    for kind in [k for k in kinds if k not in seconds_of]:
        seconds_of[kind] = {}
        for name in trees[0].tests_of[kind]:
            if kind == "asan" and name == "kernels":
                continue  # minutes of arithmetic on whole buffers, which the plain build has checked
            start = time.monotonic()
            rc, output = trees[0].test(kind, name, 1200)
            if rc == 0:
                seconds_of[kind][name] = round(time.monotonic() - start, 2)
            else:
                print(f"{name} fails on the unchanged sources ({kind}) and is left out:\n{output[-600:]}", flush=True)
    json.dump(seconds_of, open(times, "w"))
    for kind in kinds:
        print(f"{kind}: {len(seconds_of[kind])} tests, {sum(seconds_of[kind].values()):.0f} s one after the other", flush=True)

    def write(c, verdict, by, output, seconds):
        with lock:
            results[c.id] = {"id": c.id, "verdict": verdict, "by": by, "seconds": round(seconds, 1), "file": c.file, "line": c.line, "operator": c.operator,
                             "diff": c.diff(), "output": output}
            with open(log, "a") as f:
                f.write(json.dumps(results[c.id]) + "\n")
            print(f"{verdict:9}{by:28}{seconds:6.0f} s  {c.file}:{c.line}  {c.operator}", flush=True)

    waiting = [c for c in todo if c.id not in results]

    def worker(number):
        tree = trees[number] if number < len(trees) else ready(number, 2)
        while True:
            with lock:
                if not waiting or time.monotonic() - began > o.seconds:
                    return
                c = waiting.pop(0)
            start = time.monotonic()
            try:
                verdict = judge(tree, c, kinds, seconds_of)
            except Exception as e:  # one odd change must not end the others
                verdict = "unbuilt", "", f"mutate itself: {e!r}"
            write(c, *verdict, time.monotonic() - start)

    workers = [threading.Thread(target=worker, args=(i,), daemon=True) for i in range(o.j)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    report(todo, results, o.asan)


if __name__ == "__main__":
    main()
