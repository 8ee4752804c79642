"""What the tests of the command line share: running omni, files of the tree, checks of a WAV file. Standard library only."""
import faulthandler, fcntl, os, pty, re, select, signal, struct, subprocess, sys, tempfile, termios, time, unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OMNI = os.path.join(ROOT, "build", "omni")
TINY = os.path.join(ROOT, "models", "tiny")
THINKER, MMPROJ, TALKER = (os.path.join(TINY, n) for n in
                           ("qwen3-omni-f16.gguf", "mmproj-qwen3-omni-f16.gguf", "talker-qwen3-omni-f16.gguf"))
MEDIA = os.path.join(ROOT, "models", "media")
PICTURE, QUESTION = os.path.join(MEDIA, "picture.jpg"), os.path.join(MEDIA, "question.ogg")
VIDEOS = os.path.join(ROOT, "tests", "data", "media", "video")
os.environ.pop("OMNI_MODEL", None)  # the user's own settings
os.environ["XDG_CONFIG_HOME"] = "/nonexistent"
LONG = int(os.environ.get("OMNI_TEST_SECONDS", 120))  # after which a run counts as hanging: generous, a sanitizer may be on


def use(path):
    global OMNI
    OMNI = os.path.abspath(path)


class Case(unittest.TestCase):
    def setUp(self):
        faulthandler.dump_traceback_later(3 * LONG, exit=True)  # a test that hangs says where
        self.addCleanup(faulthandler.cancel_dump_traceback_later)
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def omni(self, *args, stdin=b"", status=0, text=True, env={}, **how):
        """Runs omni; the exit status must be as given. Returns (standard output, standard error)."""
        if isinstance(stdin, str):
            stdin = stdin.encode()
        r = subprocess.run([OMNI, *map(str, args)], input=stdin, capture_output=True, timeout=LONG, cwd=self.folder.name,
                           env={**os.environ, **env}, **how)
        err = r.stderr.decode(errors="replace")
        self.assertEqual(r.returncode, status, f"omni {' '.join(map(str, args))}: {err}")
        return (r.stdout.decode() if text else r.stdout), err

    def fails(self, *args, say, status=1, stdin=b"", **how):
        """omni must fail with one line on standard error that has every text of say, and write nothing on standard output."""
        out, err = self.omni(*args, status=status, stdin=stdin, **how)
        self.assertEqual(out, "")
        self.assertEqual(err.count("\n"), 1, err)
        for part in [say] if isinstance(say, str) else say:
            self.assertIn(part, err)

    def write(self, name, text):
        """A file of the test's folder; returns its name."""
        with open(self.path(name), "wb") as f:
            f.write(text.encode() if isinstance(text, str) else text)
        return name

    def start(self, *args, **how):
        p = subprocess.Popen([OMNI, *map(str, args)], cwd=self.folder.name, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how})
        self.addCleanup(self.stop, p)
        return p

    def written(self, p):
        """Bytes of the largest file below the test's folder that the process has open, whether it has a name yet or not."""
        largest, fds = 0, f"/proc/{p.pid}/fd"
        for n in os.listdir(fds):
            try:
                if os.readlink(f"{fds}/{n}").startswith(self.folder.name + "/"):
                    largest = max(largest, os.stat(f"{fds}/{n}").st_size)
            except FileNotFoundError:
                pass  # closed meanwhile
        return largest

    def wait_written(self, p, least):
        """Until so many bytes of a file are there; a failure if the process ends before, or takes too long."""
        end = time.monotonic() + LONG
        while self.written(p) < least:
            self.assertIsNone(p.poll(), "ended before it had written that much")
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)

    @staticmethod
    def stop(p):
        if p.poll() is None:
            p.kill()
        p.wait()
        for f in (p.stdin, p.stdout, p.stderr):
            if f:
                f.close()

    def tool(self, *args):
        """What another program prints, run in the folder."""
        return subprocess.run(args, cwd=self.folder.name, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, timeout=LONG).stdout

    def wav(self, path):
        """Samples of a WAV file, after checking its header against its size."""
        with open(path, "rb") as f:
            data = f.read()
        return self.wav_bytes(data, False)

    def wav_bytes(self, data, stream):
        self.assertGreaterEqual(len(data), 44)
        riff, size, kind, fmt_size, fmt, channels, rate, per_second, block, bits, tag, data_size = struct.unpack("<4sI8sIHHIIHH4sI", data[:44])
        self.assertEqual((riff, kind, tag, fmt_size, fmt, channels, rate, per_second, block, bits),
                         (b"RIFF", b"WAVEfmt ", b"data", 16, 1, 1, 24000, 48000, 2, 16))
        self.assertEqual((len(data) - 44) % 2, 0)
        if stream:
            self.assertEqual(size, 0xFFFFFFFF)
        else:
            self.assertEqual((size, data_size), (len(data) - 8, len(data) - 44))
        return struct.unpack(f"<{(len(data) - 44) // 2}h", data[44:])


class Terminal:
    """omni on a pseudo-terminal."""

    def __init__(self, case, *args, stdout=None, **env):
        """stdout: a file of the test's folder that standard output goes to, so that standard error alone is the terminal; env: into the environment."""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(case.folder.name)
            os.environ.pop("XDG_STATE_HOME", None)
            os.environ.update({"TERM": "xterm", "HOME": case.folder.name, **env})
            if stdout:
                os.dup2(os.open(case.path(stdout), os.O_WRONLY | os.O_CREAT, 0o600), 1)
            os.execv(OMNI, [OMNI, *(a if isinstance(a, bytes) else str(a) for a in args)])
        self.seen, self.done = "", None
        case.addCleanup(self.close)

    def send(self, text):
        data = text if isinstance(text, bytes) else text.encode()
        while data:
            data = data[os.write(self.fd, data):]

    def read(self, seconds):
        ready, _, _ = select.select([self.fd], [], [], seconds)
        if not ready:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # the other end is closed
            data = b""
        self.seen += data.decode(errors="replace")
        return bool(data)

    def expect(self, pattern):
        """Reads until the pattern appears; returns the match and forgets everything up to its end."""
        end = time.monotonic() + LONG
        while True:
            found = re.search(pattern, self.seen)
            if found:
                self.seen = self.seen[found.end():]
                return found
            if time.monotonic() > end or not self.read(1) and self.ended():
                raise AssertionError(f"no {pattern!r} in {self.seen!r}; exit status {self.done}")

    def prompt(self):
        """Waits for the prompt, and until the line editor has taken the terminal over: what is typed before may be dropped."""
        self.expect("> ")
        end = time.monotonic() + LONG
        while termios.tcgetattr(self.fd)[3] & termios.ICANON and time.monotonic() < end:
            time.sleep(0.01)

    def resize(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def quiet(self, seconds=0.3):
        """What is written until nothing is for so long."""
        while self.read(seconds):
            pass
        seen, self.seen = self.seen, ""
        return seen

    def ended(self):
        if self.done is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.done = os.waitstatus_to_exitcode(status)
        return self.done is not None

    def wait(self):
        end = time.monotonic() + LONG
        while not self.ended() and time.monotonic() < end:
            self.read(0.1)
        return self.done

    def close(self):
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)
