#!/usr/bin/env python3
"""Goes through deploy/Dockerfile without a container engine: each stage is a copy of a Debian made by debootstrap, each step runs in it by chroot. Then the
image's command is started as its user, asked, looked at by its HEALTHCHECK and ended by SIGTERM. Needs root and Debian's archive; takes some minutes.

usage: image-check.py [FOLDER]      where the systems lie (default ~/.cache/omni/image); the base in it is kept"""
import glob
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PORT = 18080  # instead of the image's 8080, which somebody on this machine may use


def steps(path):
    """[(instruction, rest)], lines that go on joined, comments left out."""
    with open(path) as f:
        text = re.sub(r"^\s*#.*\n", "", f.read(), flags=re.M)
    return [line.split(None, 1) for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]


def make_base(folder):
    base = os.path.join(folder, "base")
    if not os.path.exists(base + ".complete"):
        shutil.rmtree(base, ignore_errors=True)
        subprocess.run(["debootstrap", "--variant=minbase", "bookworm", base, "http://deb.debian.org/debian"], check=True, stdout=subprocess.DEVNULL)
        open(base + ".complete", "w").close()
    return base


class Stage:
    def __init__(self, folder, name, base):
        self.root, self.where, self.user, self.env, self.config = os.path.join(folder, name), "/", None, {}, {}
        shutil.rmtree(self.root, ignore_errors=True)
        subprocess.run(["cp", "-a", base, self.root], check=True)
        for host in ["/etc/resolv.conf", *glob.glob("/etc/apt/apt.conf.d/*"), *glob.glob("/usr/local/share/ca-certificates/*")]:  # an engine gives the network, too
            subprocess.run(["cp", "-L", "--parents", host, self.root], check=False, stderr=subprocess.DEVNULL)

    def command(self, argv, **how):
        to = ["chroot", *([f"--userspec={self.user}"] if self.user else []), self.root, "/usr/bin/env", "-i", "-C", self.where,
              "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", *(f"{k}={v}" for k, v in self.env.items()), *argv]
        return subprocess.Popen(to, stdin=subprocess.DEVNULL, **how)

    def run(self, shell):
        code = self.command(["/bin/bash", "-o", "pipefail", "-c", shell]).wait()
        if code != 0:
            sys.exit(f"image-check: RUN ended with {code}: {shell}")

    def copy(self, source, to):
        if source == ".":  # the build's context: what .dockerignore lets through
            with open(os.path.join(ROOT, ".dockerignore")) as f:
                wanted = [line[1:].strip() for line in f if line.startswith("!")]
            for name in wanted:
                subprocess.run(["cp", "-a", "--parents", name, self.root + self.where], cwd=ROOT, check=True)
            return
        target = self.root + (to if to.startswith("/") else os.path.join(self.where, to))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        subprocess.run(["cp", "-a", source if source.startswith("/") else os.path.join(ROOT, source), target], check=True)


def build(folder):
    stages, stage = {}, None
    for what, rest in steps(os.path.join(ROOT, "deploy/Dockerfile")):
        print(f"--- {what} {rest}"[:150], flush=True)
        if what == "FROM":
            name = rest.split()[2] if " AS " in rest else "image"
            stage = stages[name] = Stage(folder, name, make_base(folder))
        elif what == "WORKDIR":
            stage.where = rest
            os.makedirs(stage.root + rest, exist_ok=True)
        elif what == "COPY":
            words = rest.split()
            if words[0].startswith("--from="):
                other = stages[words.pop(0)[7:]]
                words[0] = other.root + words[0]
            stage.copy(*words)
        elif what == "RUN":
            stage.run(rest)
        elif what == "USER":
            stage.user = rest
        elif what == "ENV":
            stage.env.update(w.split("=", 1) for w in shlex.split(rest))
        else:
            stage.config[what] = rest
    return stage


def look(image):
    subprocess.run(["cp", "-aT", os.path.join(ROOT, "models/tiny"), image.root + "/model"], check=True)
    image.env["OMNI_PORT"] = str(PORT)
    server = image.command(json.loads(image.config["ENTRYPOINT"]) + json.loads(image.config["CMD"]))
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/ready", timeout=5).read()
                break
            except OSError:
                time.sleep(0.1)
        body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "modalities": ["text", "audio"], "audio": {"voice": "ethan", "format": "mp3"}})
        answer = json.load(urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{PORT}/v1/chat/completions", body.encode()), timeout=60))
        assert len(answer["choices"][0]["message"]["audio"]["data"]) > 1000
        health = [w.replace("8080", str(PORT)) for w in json.loads(image.config["HEALTHCHECK"].split("CMD", 1)[1])]
        assert image.command(health).wait() == 0
        with open(f"/proc/{server.pid}/status") as f:
            assert re.search(r"^Uid:\s+10001\s", f.read(), re.M)
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    assert code == 0, code
    assert image.command(health).wait() != 0  # nobody listens any more
    size = subprocess.run(["du", "-sm", image.root], capture_output=True, text=True, check=True).stdout.split()[0]
    print(f"image-check: answers, speaks, is healthy, ends with 0; {size} MB unpacked")


if __name__ == "__main__":
    folder = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.expanduser("~/.cache/omni/image"))
    os.makedirs(folder, exist_ok=True)
    look(build(folder))
    print("1 passed, 0 failed")
