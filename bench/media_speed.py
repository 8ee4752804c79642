#!/usr/bin/env python3
"""How fast media are decoded, in one state of the sources against another.

    bench/media_speed.py BEFORE AFTER [--rounds 7] [--keep FOLDER]

BEFORE and AFTER are folders with the sources, each with a build in build/ (libomni_internal.a; -DBUILD_TESTING=OFF is enough):

    git worktree add ../before bfd7de9^ && cmake -S ../before -B ../before/build -DBUILD_TESTING=OFF && cmake --build ../before/build -j

bfd7de9^ is the last state without a budget for media; what it needs beside is libedit. With the ffmpeg program it makes the files that users have
(four minutes of music as MP3, a picture of 12 megapixels as JPEG, a minute of 1080p as H.264), and loads each in turns, one process for BEFORE, one for
AFTER, --rounds times. Prints the medians of the seconds of CPU. Ends with 1 where AFTER takes over 5% longer.
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
LIBRARIES = "libavformat libavcodec libavfilter libavutil libswscale libjpeg libpng zlib libwebp libwebpdemux libheif soxr jansson libutf8proc libcrypto".split()
MUSIC = "aevalsrc='0.3*sin(440*2*PI*t)*exp(-mod(t,0.5)*4)+0.2*sin((220+40*floor(mod(t,4)))*2*PI*t)+0.05*(random(0)-0.5)|0.3*sin(330*2*PI*t)+0.05*(random(1)-0.5)':s=44100:d=240"
FILES = [
    ("sound", "music.mp3", ["-f", "lavfi", "-i", MUSIC, "-c:a", "libmp3lame", "-b:a", "192k"]),
    ("image", "picture.jpg", ["-f", "lavfi", "-i", "mandelbrot=s=4000x3000:start_scale=0.3", "-frames:v", "1", "-vf", "noise=alls=12", "-q:v", "3", "-pix_fmt", "yuvj420p"]),
    ("video", "minute.mp4", ["-f", "lavfi", "-i", "testsrc2=s=1920x1080:r=30:d=60", "-vf", "noise=alls=6:allf=t", "-c:v", "libx264", "-preset", "veryfast",
                             "-crf", "26", "-pix_fmt", "yuv420p"]),
]


def build(tree, folder, name):
    tool = os.path.join(folder, name)
    packages = [p for p in LIBRARIES if subprocess.run(["pkg-config", "--exists", p]).returncode == 0]
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", *packages], capture_output=True, text=True, check=True).stdout.split()
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-D_GNU_SOURCE", f"-I{tree}/src", f"-I{tree}/include", os.path.join(HERE, "media_time.c"), "-o", tool,
                    f"{tree}/build/libomni_internal.a", *flags, "-lgif", "-lpthread", "-lm", "-ldl"], check=True)
    return tool


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("before")
    a.add_argument("after")
    a.add_argument("--rounds", type=int, default=7)
    a.add_argument("--keep", help="a folder for the files, which stay there for the next time")
    o = a.parse_args()
    slower = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = o.keep or scratch
        os.makedirs(folder, exist_ok=True)
        tools = [build(tree, scratch, name) for tree, name in ((o.before, "before"), (o.after, "after"))]
        print(f"{'file':12} {'MB':>5} {'before':>8} {'after':>8}  seconds of CPU, medians of {o.rounds} each, in turns; least of each")
        for kind, name, how in FILES:
            path = os.path.join(folder, name)
            if not os.path.exists(path):
                subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *how, path], check=True)
            times = [[], []]
            for i in range(o.rounds):
                for k in ((0, 1), (1, 0))[i % 2]:
                    out = subprocess.run([tools[k], kind, path, "1"], capture_output=True, text=True, check=True).stdout
                    times[k].append(float(out))
            before, after = map(statistics.median, times)
            slower += after > 1.05 * before
            print(f"{name:12} {os.path.getsize(path) / 1e6:5.1f} {before:8.3f} {after:8.3f}  {after / before:.2f} times; {min(times[0]):.3f} {min(times[1]):.3f}", flush=True)
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
