"""omni convert where the system ends it: a limit of file sizes, a full disk, signals. All of its files are there in the end, or what was there before."""
import os, resource, shutil, signal, subprocess, sys, time

import harness
from harness import Case, ROOT
from descriptors import file_limit


class Convert(Case):
    NAMES = {"m-f32.gguf", "mmproj-m-f32.gguf", "talker-m-f32.gguf"}
    ARGS = ["convert", "checkpoint", "-o", "out", "--name", "m", "--type", "f32"]

    def setUp(self):
        super().setUp()
        subprocess.run([sys.executable, os.path.join(ROOT, "tests", "micro_checkpoint.py"), self.path("checkpoint")], check=True)

    def older(self):
        """Files of two of the three names."""
        os.makedirs(self.path("out"), exist_ok=True)
        for n in sorted(self.NAMES)[::2]:
            self.write(f"out/{n}", "older")

    def contents(self):
        out = {}
        for n in os.listdir(self.path("out")) if os.path.exists(self.path("out")) else []:
            with open(self.path(f"out/{n}"), "rb") as f:
                out[n] = f.read()
        return out

    def nothing_happened(self, what):
        self.assertEqual(self.contents(), {n: b"older" for n in sorted(self.NAMES)[::2]}, what)

    def test_file_limit(self):
        self.omni(*self.ARGS)
        sizes = sorted(os.path.getsize(self.path(f"out/{n}")) for n in self.NAMES)
        for limit in [100, sizes[0] - 1, sizes[1] - 1, sizes[2] - 1]:  # in turn, three, two and one of them are too large
            shutil.rmtree(self.path("out"))
            self.older()
            self.fails(*self.ARGS, say="File too large", preexec_fn=file_limit(limit))
            self.nothing_happened(limit)
        self.omni(*self.ARGS, preexec_fn=file_limit(sizes[2]))
        self.assertEqual(set(self.contents()), self.NAMES)

    def test_full_disk(self):
        """A file system of a few pages, in a name space of its own. Everything is said to be full, and nothing is there."""
        mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size="$1" none out && shift && "$@"; s=$?; ls out >listing; exit $s', "sh"]
        os.makedirs(self.path("out"))
        if subprocess.run([*mount, "100k", "true"], cwd=self.folder.name, capture_output=True).returncode != 0:
            self.skipTest("no file system can be mounted here")
        for size in ["4k", "40k", "150k", "250k", "1m"]:
            r = subprocess.run([*mount, size, harness.OMNI, *self.ARGS], cwd=self.folder.name, capture_output=True, timeout=harness.LONG)
            with open(self.path("listing")) as f:
                left = set(f.read().split())
            if r.returncode == 0:
                self.assertEqual(left, self.NAMES)
            else:
                self.assertRegex(r.stderr.decode(), "the disk is full|No space left on device")
                self.assertEqual((r.stderr.count(b"\n"), left), (1, set()), size)
            self.assertEqual(r.returncode == 0, size == "1m", size)

    def test_signals(self):
        """Whenever it comes: all files, or none."""
        whole = time.monotonic()
        self.omni(*self.ARGS)
        whole = time.monotonic() - whole
        made, ended = self.contents(), set()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            for i in range(9):
                shutil.rmtree(self.path("out"))
                self.older()
                p = self.start(*self.ARGS, "-t", 1)
                time.sleep(whole * i / 8)
                p.send_signal(number)
                p.communicate(timeout=harness.LONG)
                self.assertIn(p.returncode, (128 + number, -number, 0))  # -number: before omni listened
                ended.add(p.returncode == 0)
                if p.returncode == 0:
                    self.assertEqual(self.contents(), made)
                else:
                    self.nothing_happened((number, i))
        self.assertIn(False, ended)
