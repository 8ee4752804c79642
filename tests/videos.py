#!/usr/bin/env python3
"""Frames of videos of many codecs and containers, decoded as their packets suggest, must equal those of decoding everything;
videos that say that they are to be turned must come as the ffmpeg program shows them.

    tests/videos.py VIDEO_FRAMES [--keep FOLDER] [NAME...]

Makes short videos with the ffmpeg program (codecs that it lacks are left out and named), and has VIDEO_FRAMES (tests/tools/video_frames.c) compare.
What the packets are expected to tell is stated with each: "planned", or "all" where everything has to be decoded.
"""
import argparse
import os
import struct
import subprocess
import sys
import tempfile

SOURCE = "testsrc2=size=96x64:rate=25:duration=8,noise=alls=12:allf=t"
X265 = "log-level=error:pools=none:"
CASES = {  # options of ffmpeg; what the packets tell; percentage of the pixels that each 41st frame may take at most
    "b-frames.avi": ("-c:v libx264 -bf 3 -g 25", "all", 101),
    "b-frames.mp4": ("-c:v libx264 -bf 3 -g 250 -x264-params b-pyramid=normal", "planned", 75),
    "short-groups.mp4": ("-c:v libx264 -bf 3 -g 12 -sc_threshold 0", "planned", 35),
    "one-second.mkv": ("-c:v libx264 -bf 2 -g 25 -keyint_min 25", "planned", 70),
    "no-b.mp4": ("-c:v libx264 -bf 0 -g 10", "planned", 45),
    "open-groups.mkv": ("-c:v libx264 -bf 3 -g 20 -x264-params open-gop=1", "planned", 75),
    "refresh.mp4": ("-c:v libx264 -bf 0 -g 30 -x264-params intra-refresh=1", "planned", 101),
    "stream.ts": ("-c:v libx264 -bf 3 -g 25", "planned", 70),
    "interlaced.mp4": ("-c:v libx264 -flags +ildct+ilme -x264-params tff=1 -g 25", "all", 101),
    "edited.mp4": ("-c:v libx264 -bf 3 -g 50 -ss 0.7", "planned", 80),
    "cut.mov": ("copy", "planned", 80),
    "hevc.mp4": (f"-c:v libx265 -x265-params {X265}keyint=250:bframes=4:b-pyramid=1", "planned", 80),
    "hevc-open.mkv": (f"-c:v libx265 -x265-params {X265}keyint=12:min-keyint=12:open-gop=1:bframes=4", "planned", 50),
    "hevc-closed.mp4": (f"-c:v libx265 -x265-params {X265}keyint=12:open-gop=0", "planned", 40),
    "hevc-layers.mp4": (f"-c:v libx265 -x265-params {X265}keyint=50:temporal-layers=3", "planned", 101),
    "hevc.ts": (f"-c:v libx265 -x265-params {X265}keyint=20", "planned", 101),
    "mpeg1.mpg": ("-c:v mpeg1video -bf 2 -g 12", "any", 101),
    "mpeg2.ts": ("-c:v mpeg2video -bf 2 -g 12", "planned", 45),
    "mpeg2.mkv": ("-c:v mpeg2video -bf 2 -g 15 -flags +cgop -sc_threshold 1000000000", "planned", 45),
    "mpeg2.mov": ("-c:v mpeg2video -bf 2 -g 15", "planned", 45),
    "mpeg4.mp4": ("-c:v mpeg4 -bf 2 -g 12", "planned", 45),
    "mpeg4.avi": ("-c:v mpeg4 -bf 0 -g 12", "any", 101),
    "xvid.mkv": ("-c:v libxvid -bf 2 -g 20", "all", 101),  # its timestamps are those of decoding
    "vp8.webm": ("-c:v libvpx -g 12 -auto-alt-ref 1 -lag-in-frames 16 -b:v 200k", "planned", 40),
    "vp9.webm": ("-c:v libvpx-vp9 -g 12 -auto-alt-ref 1 -lag-in-frames 16 -b:v 100k", "planned", 40),
    "vp9.mp4": ("-c:v libvpx-vp9 -g 30 -b:v 100k", "planned", 80),
    "av1.mp4": ("-c:v libaom-av1 -cpu-used 8 -g 12 -b:v 100k", "planned", 50),
    "av1.mkv": ("-c:v libsvtav1 -preset 12 -g 12 -b:v 100k", "planned", 50),
    "mjpeg.avi": ("-c:v mjpeg -q:v 5", "planned", 4),
    "prores.mov": ("-c:v prores -pix_fmt yuv422p10le", "planned", 4),
    "png.mov": ("-c:v png", "planned", 4),
    "huffyuv.mkv": ("-c:v huffyuv -pix_fmt yuv422p", "planned", 4),
    "dnxhr.mov": ("-c:v dnxhd -profile:v dnxhr_sq -s 256x128 -pix_fmt yuv422p", "planned", 4),
    "moving.gif": ("-pix_fmt rgb8", "all", 101),
    "moving.apng": ("-plays 0", "all", 101),
    "ffv1.mkv": ("-c:v ffv1 -g 10", "all", 101),
    # every packet claims to be a key frame
    "all-keys.mp4": ("no stss of b-frames.mp4", "planned", 75),
    "all-keys-mpeg4.mp4": ("no stss of mpeg4.mp4", "any", 101),
    "all-keys-mpeg2.mov": ("no stss of mpeg2.mov", "any", 101),
    "all-keys-vp9.mp4": ("no stss of vp9.mp4", "any", 101),
    "varying.mkv": ("-c:v libx264 -bf 2 -g 25 -vf select=not(eq(mod(n\\,7)\\,3)) -vsync vfr", "planned", 80),
}


def ffmpeg(*arguments):
    return subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)


def make(folder, name):
    path = os.path.join(folder, name)
    options = CASES[name][0]
    if options.startswith("no stss of "):
        honest = make(folder, options.split()[-1])
        if honest:
            with open(honest, "rb") as f:
                data = f.read()
            assert data.count(b"stss") == 1
            with open(path, "wb") as f:
                f.write(data.replace(b"stss", b"free"))
        return honest and path
    if options == "copy":  # cut between key frames without decoding: an edit list hides the first frames
        whole = os.path.join(folder, "whole.mov")
        made = ffmpeg("-f", "lavfi", "-i", SOURCE, "-c:v", "libx264", "-bf", "3", "-g", "40", whole)
        made = made if made.returncode else ffmpeg("-ss", "2.3", "-i", whole, "-c", "copy", path)
    else:
        made = ffmpeg("-f", "lavfi", "-i", SOURCE, "-threads", "2", "-pix_fmt", "yuv420p", *options.split(), path)
    if made.returncode and "Unknown encoder" in made.stderr:
        return None
    if made.returncode:
        sys.exit(f"videos.py: {name}: {made.stderr}")
    return path


def shown(command):
    """Width, height and bytes of a PPM file on standard output."""
    data = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout.split(b"\n", 3)
    return (*map(int, data[1].split()), data[3])


def turned(tool, folder):
    """Display matrices in MP4, MOV and Matroska: the picture must be the one that the ffmpeg program shows. Names of those that are not."""
    wrong = []
    colour = "-colorspace bt709 -color_primaries bt709 -color_trc bt709 -color_range tv"
    for kind in ("mp4", "mov", "mkv"):
        plain = os.path.join(folder, "plain." + kind)
        made = ffmpeg("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=5:duration=0.2", *f"-c:v mpeg4 -qscale:v 2 {colour}".split(), plain)
        if made.returncode:
            sys.exit(f"videos.py: plain.{kind}: {made.stderr}")
        with open(plain, "rb") as f:
            data = f.read()
        for degrees in (0, 90, 180, 270):
            c, s = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
            path = os.path.join(folder, f"turned{degrees}.{kind}")
            with open(path, "wb") as f:
                if kind == "mkv":  # the description of colours gives its place to a projection that is rolled
                    at = data.index(b"\x55\xb0")
                    end = at + 3 + (data[at + 2] & 0x7F)
                    assert data[at + 2] & 0x80
                    roll = b"\x76\x71\x81\0" + b"\x76\x75\x84" + struct.pack(">f", -degrees if degrees < 270 else 90)
                    roll = b"\x76\x70" + bytes([0x80 | len(roll)]) + roll
                    rest = end - at - len(roll)
                    assert rest >= 2
                    f.write(data[:at] + roll + bytes([0xEC, 0x80 | (rest - 2)]) + bytes(rest - 2) + data[end:])
                else:
                    at = data.index(b"tkhd") + 44
                    f.write(data[:at] + struct.pack(">9i", c << 16, s << 16, 0, -s << 16, c << 16, 0, 0, 0, 1 << 30) + data[at + 36:])
            want = shown(["ffmpeg", "-v", "error", "-i", path, "-frames:v", "1", "-f", "image2pipe", "-c:v", "ppm", "-"])
            got = shown([tool, "--first", path])
            apart = sum(abs(a - b) for a, b in zip(got[2], want[2])) / len(want[2]) if got[:2] == want[:2] else 255
            print(f"turned{degrees}.{kind}: {got[0]} x {got[1]}, {apart:.2f} levels from what ffmpeg shows")
            if apart > 4 or (got[0] == 64) != (degrees % 180 == 90):
                wrong.append(f"turned{degrees}.{kind}")
    return wrong


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("video_frames")
    options.add_argument("--keep", metavar="FOLDER")
    options.add_argument("names", nargs="*", metavar="NAME")
    args = options.parse_args()
    failed, compared = [], 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or temporary
        os.makedirs(folder, exist_ok=True)
        for name in args.names or CASES:
            path = make(folder, name)
            if not path:
                print(f"{name}: left out: this ffmpeg has no encoder for it")
                continue
            run = subprocess.run([args.video_frames, path], capture_output=True, text=True, timeout=300)
            line = run.stdout.replace(folder + "/", "").strip()
            print(line or f"{name}: {run.stderr}", flush=True)
            _, tells, most = CASES[name]
            words = line.split()
            plans = [w for w in words[1:] if w in ("planned", "all", "broken")]
            shares = [float(w[:-1]) for w in words if w.endswith("%")]
            right = run.returncode == 0 and line.endswith("equal") and len(plans) == 7
            if tells == "planned":
                right = right and set(plans) == {"planned"} and shares[3] <= most
            elif tells == "all":
                right = right and "planned" not in plans
            failed += [] if right else [name]
            compared += 1
        failed += turned(args.video_frames, folder)
    if failed or not compared:
        sys.exit(f"videos.py: wrong: {', '.join(failed) or 'nothing was compared'}")


main()
