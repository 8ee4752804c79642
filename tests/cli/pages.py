"""What is made of the tables of flags: --help, manual pages, completion."""
import os, re, shutil, subprocess, unittest

import harness
from harness import Case, TINY

COMMANDS = ["run", "speak", "serve", "convert", "bench", "imatrix", "quantize", "split", "merge", "synth", "info", "tokenize"]


class Pages(Case):
    def flags(self, command):
        """(name, alias, metavar, help) of every flag that --help lists."""
        out = self.omni(command, "--help")[0]
        out = re.sub(r"\n {28}", "  ", out.split("\n\n")[1])
        found = [re.fullmatch(r"  (?:(-\w+), )?(--[\w-]+)(?: (\S+))?  +(.*)", line) for line in out.rstrip("\n").split("\n")]
        self.assertTrue(all(found), out)
        return [(m[2], m[1], m[3], m[4]) for m in found]

    def test_every_value_has_its_default(self):
        for c in COMMANDS:
            for name, _, metavar, text in self.flags(c):
                if metavar:
                    self.assertRegex(text, r"\(default|default:|\(required|may be repeated|of their flags", f"{c} {name}")

    @unittest.skipUnless(shutil.which("groff"), "needs groff")
    def test_manual_pages(self):
        for c in [[], *([c] for c in COMMANDS)]:
            page = self.omni(*c, "--help=man")[0]
            r = subprocess.run(["groff", "-man", "-ww", "-Tutf8", "-P-c", "-P-b", "-P-u"], input=page, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
            self.assertEqual((r.returncode, r.stderr), (0, ""), c)
            text = re.sub(r"\s+", " ", re.sub("[\u2010-]\n *", "-", r.stdout))
            self.assertIn(f"omni{'-' if c else ''}{''.join(c)} - ", text)
            for name, alias, metavar, _ in self.flags(c[0]) if c else []:
                self.assertIn(f"{alias}, {name}" if alias else name, text)
            for other in COMMANDS if not c else []:
                self.assertIn(f"omni-{other}(1)", text)
        self.fails("run", "--help=html", status=2, say=["html", "man"])
        self.fails("--help=html", status=2, say=["html", "man"])

    def complete(self, *words):
        """What bash offers for the last word."""
        self.write("c.bash", self.omni("--help=bash")[0])
        line = " ".join(f"'{w}'" for w in ("omni", *words))
        script = f"source c.bash; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _omni; printf '%s\\n' \"${{COMPREPLY[@]}}\"; complete -p omni >&2"
        r = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, cwd=self.folder.name)
        self.assertEqual((r.returncode, r.stderr), (0, "complete -F _omni omni\n"), r.stderr)
        return [w for w in r.stdout.split("\n") if w]

    @unittest.skipUnless(shutil.which("bash"), "needs bash")
    def test_bash(self):
        self.write("a b.png", "")
        self.write("c.gguf", "")
        self.assertEqual(self.complete(""), [*COMMANDS, "help", "--help", "--version"])
        self.assertEqual(self.complete("qu"), ["quantize"])
        self.assertEqual(self.complete("help", "to"), ["tokenize"])
        self.assertEqual(self.complete("nothing", "-"), [])
        for c in COMMANDS:
            self.assertEqual(sorted(self.complete(c, "-")), sorted({w for f in self.flags(c) for w in f[:2] if w} - {"-h"}))
        self.assertEqual(self.complete("run", "--max-t"), ["--max-tokens"])
        self.assertEqual(self.complete("run", "--image", "a"), ["a b.png"])
        self.assertEqual(self.complete("run", "-m", ""), sorted(["a b.png", "c.gguf", "c.bash"], key=self.complete("run", "-m", "").index))
        self.assertEqual(self.complete("run", "--model", "=", "c.g"), ["c.gguf"])
        self.assertEqual(self.complete("info", "c.g"), ["c.gguf"])
        self.assertEqual(self.complete("run", "--temp", ""), [])
        self.assertEqual(self.complete("run", "-ctk", ""), ["f32", "f16", "q8_0"])
        self.assertEqual(self.complete("run", "--cache-type-v", "=", "q"), ["q8_0"])
        self.assertEqual(self.complete("synth", "--parts", "t"), ["thinker", "talker"])

    @unittest.skipUnless(shutil.which("zsh"), "needs zsh")
    def test_zsh(self):
        self.write("_omni", self.omni("--help=zsh")[0])
        subprocess.run(["zsh", "-f", "-n", self.path("_omni")], check=True)

    @unittest.skipUnless(shutil.which("fish"), "needs fish")
    def test_fish(self):
        self.write("omni.fish", self.omni("--help=fish")[0])
        subprocess.run(["fish", "--no-execute", self.path("omni.fish")], check=True)
        r = subprocess.run(["fish", "--no-config", "-c", "source omni.fish; complete -C 'omni run --max-t'"], capture_output=True, text=True, cwd=self.folder.name)
        self.assertIn("--max-tokens", r.stdout)

    def test_fish_and_zsh_name_every_flag(self):
        fish, zsh = self.omni("--help=fish")[0], self.omni("--help=zsh")[0]
        for c in COMMANDS:
            ours = [line for line in fish.split("\n") if line.startswith(f"complete -c omni -n '__fish_seen_subcommand_from {c}'")]
            for name, *_ in self.flags(c):
                if name != "--help":
                    self.assertEqual(sum(f" -l {name[2:]} " in line for line in ours), 1, name)
                    self.assertRegex(zsh, rf"'\*?{name}\[")
