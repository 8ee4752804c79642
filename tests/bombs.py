#!/usr/bin/env python3
"""Small files that stand for a lot, of every kind: each must cost little, or be refused with the limit and the flag that raises it.

    tests/bombs.py MEDIA_COST [--quick] [--keep FOLDER] [NAME...]

Makes the files (with the ffmpeg program those that need an encoder; --quick leaves these out), has MEDIA_COST (tests/tools/media_cost.c) load each
alone and, where it is accepted, ten times in one message (files below 1 KB 64 times, too), and prints a table. Fails where a load takes more than --seconds of CPU time (2) or
--megabytes of memory (1024) for 100 KB of input and in proportion above, or ends in anything but success or one line of error.
"""
import argparse
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

made, slow = {}, set()


def bomb(kind, name, needs_encoder=False):
    def add(make):
        made[name] = (kind, make)
        if needs_encoder:
            slow.add(name)
        return make
    return add


# ---- PNG ----

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def zeros(size):
    """size zero bytes, deflated, without making them at once."""
    c, out, block = zlib.compressobj(9), [], bytes(1 << 20)
    while size > 0:
        out.append(c.compress(block[:min(size, len(block))]))
        size -= len(block)
    return b"".join(out) + c.flush()


def png(width, height, depth, colour, interlaced=0, before=b"", chunks=()):
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)] if interlaced else [(0, 0, 1, 1)]
    size = sum(-(-(height - y) // dy) * (1 + (-(-(width - x) // dx) * channels * depth + 7) // 8) for x, y, dx, dy in passes)
    palette = chunk(b"PLTE", bytes(6)) if colour == 3 else b""
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)) + before + palette
            + chunk(b"IDAT", zeros(size)) + chunk(b"IEND", b""))


bomb("image", "palette.png")(lambda: png(9900, 9900, 8, 3))
bomb("image", "bilevel.png")(lambda: png(11500, 11500, 1, 0))
bomb("image", "rgb.png")(lambda: png(5800, 5800, 8, 2))
bomb("image", "interlaced-rgba16.png")(lambda: png(3500, 3500, 16, 6, 1))
bomb("image", "interlaced-bilevel.png")(lambda: png(11500, 11500, 1, 0, 1))
bomb("image", "padded-bilevel.png")(lambda: png(11000, 11000, 1, 0) + bytes(80000))
bomb("image", "huge.png")(lambda: png(60000, 60000, 1, 0))
bomb("image", "wide.png")(lambda: png(2000000, 60, 1, 0))
bomb("image", "texts.png")(lambda: png(8, 8, 8, 2, before=b"".join(chunk(b"zTXt", b"k%d\0\0" % i + zeros(7 << 20)) for i in range(14))))
bomb("image", "profile.png")(lambda: png(8, 8, 8, 2, before=chunk(b"iCCP", b"p\0\0" + zeros(95 << 20))))
bomb("image", "chunks.png")(lambda: png(8, 8, 8, 2, before=chunk(b"teXt", b"") * 8000))


# ---- GIF ----

def lzw_run(count):
    """GIF's LZW of `count` zeros, 8-bit."""
    bits, n, width, table, at, length = 0, 0, 9, 258, 0, 1
    out = bytearray()

    def put(code):
        nonlocal bits, n
        bits |= code << n
        n += width
        while n >= 8:
            out.append(bits & 255)
            bits >>= 8
            n -= 8
    put(256)
    put(0)
    at = 1
    while at < count:
        if table < 4096:
            code, length = table, length + 1
            table += 1
        else:
            code = 4095
        put(code)
        at += length
        if table in (512, 1024, 2048) and width < 12:
            width += 1
    put(257)
    out.append(bits & 255)
    return bytes(out)


def gif(width, height, frames):
    """frames: (left, top, width, height)"""
    out = [b"GIF89a", struct.pack("<HHBBB", width, height, 0xF7, 0, 0), bytes(range(256)) * 3]
    known = {}
    for left, top, w, h in frames:
        if (w, h) not in known:
            data = lzw_run(w * h)
            known[w, h] = b"\x08" + b"".join(bytes([len(data[i:i + 255])]) + data[i:i + 255] for i in range(0, len(data), 255)) + b"\0"
        out += [b"\x21\xf9\x04\x04\x04\0\0\0", b",", struct.pack("<HHHHB", left, top, w, h, 0), known[w, h]]
    return b"".join(out) + b";"


bomb("image", "solid.gif")(lambda: gif(8000, 8000, [(0, 0, 8000, 8000)]))
bomb("image", "huge.gif")(lambda: gif(65535, 65535, [(0, 0, 1, 1)]))
bomb("video", "whole-frames.gif")(lambda: gif(2000, 2000, [(0, 0, 2000, 2000)] * 30))
bomb("video", "specks.gif")(lambda: gif(4000, 4000, [(i, i, 1, 1) for i in range(3000)]))
bomb("video", "few-specks.gif")(lambda: gif(4000, 4000, [(i, i, 1, 1) for i in range(17)]))


# ---- JPEG ----

def jpeg_bits(fields):
    """(value, bits) ... packed, with stuffed zeros."""
    v = "".join(f"{value:0{bits}b}" for value, bits in fields if bits)
    v += "1" * (-len(v) % 8)
    return bytes(int(v[i:i + 8], 2) for i in range(0, len(v), 8)).replace(b"\xff", b"\xff\0")


def progressive(width, height, scans):
    """Grey, all the same: one DC scan, then scans that say of all blocks that they end here."""
    segment = lambda marker, data: struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data
    blocks = -(-width // 8) * -(-height // 8)
    out = [b"\xff\xd8", segment(0xDB, b"\0" + b"\1" * 64), segment(0xC2, struct.pack(">BHHBBBB", 8, height, width, 1, 1, 0x11, 0)),
           segment(0xC4, b"\0" + b"\1" + bytes(15) + b"\0"), segment(0xC4, b"\x10" + b"\1" + bytes(15) + b"\xe0")]
    out += [segment(0xDA, b"\1\1\0\0\0\0"), bytes(-(-blocks // 8))]
    runs = jpeg_bits([(0, 1), (0x3FFF, 14)] * -(-blocks // 32767))
    for i in range(scans):
        k = 1 + i % 63
        out += [segment(0xDA, bytes([1, 1, 0, k, k, 0])), runs]
    return b"".join(out) + b"\xff\xd9"


bomb("image", "scans.jpg")(lambda: progressive(4000, 4000, 490))
bomb("image", "large-scans.jpg")(lambda: progressive(6000, 6000, 59))
bomb("image", "large.jpg")(lambda: progressive(65500, 65500, 1)[:60000])


# ---- other pictures ----

def webp_chunk(kind, data):
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1)


def webp_solid(width, height):
    """Lossless, of one colour: five codes of one symbol each."""
    fields = [(0x2F, 8), (width - 1, 14), (height - 1, 14), (1, 1), (0, 3), (0, 1), (0, 1), (0, 1)]
    for _ in range(5):
        fields += [(1, 1), (0, 1), (0, 1), (0, 1)]
    v = n = 0
    for value, bits in fields:
        v |= value << n
        n += bits
    return webp_chunk(b"VP8L", v.to_bytes(-(-n // 8) + 4, "little"))


def webp(width, height, animated=0):
    body = webp_solid(width, height)
    if animated:
        size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
        frame = bytes(6) + size + struct.pack("<I", 100)[:3] + b"\0"
        body = (webp_chunk(b"VP8X", b"\x12\0\0\0" + size) + webp_chunk(b"ANIM", bytes(6))
                + webp_chunk(b"ANMF", frame + body) * animated)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def bmp(width, height):
    """Run lengths that end at once."""
    data = b"\0\1"
    return (b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0) + bytes(1024) + data)


def tiff(width, height, compression, data, bits=8):
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, compression), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, len(data))]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", t, k, 1, v) for t, k, v in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


bomb("image", "solid.webp")(lambda: webp(9000, 9000))
bomb("image", "largest.webp")(lambda: webp(16383, 16383))
bomb("image", "animated.webp")(lambda: webp(13000, 13000, 1))
bomb("image", "animated-many.webp")(lambda: webp(6000, 6000, 1000))
bomb("image", "runs.bmp")(lambda: bmp(11000, 11000))
bomb("image", "huge.bmp")(lambda: bmp(30000, 30000))
bomb("image", "deflate.tiff")(lambda: tiff(9900, 9900, 8, zeros(9900 * 9900)))
bomb("image", "packbits.tiff")(lambda: tiff(2500, 2500, 32773, b"\x81\0" * (2500 * 2500 // 128 + 1)))
bomb("image", "header.pnm")(lambda: b"P6 11000 11000 255\n" + bytes(1000))
bomb("image", "jpeg2000.jp2", True)(lambda: encode("jp2", "color=black:s=5000x5000", "-frames:v", "1", "-c:v", "jpeg2000"))
bomb("image", "j2k-header.j2k")(lambda: b"\xff\x4f\xff\x51" + struct.pack(">HHIIIIIIIIH", 41, 0, 11000, 11000, 0, 0, 1, 1, 0, 0, 1) + b"\7\1\1" + bytes(60))


# ---- video ----

def encode(kind, source, *options):
    path = tempfile.mktemp(suffix="." + kind)
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, *options, path], check=True, stdin=subprocess.DEVNULL)
    with open(path, "rb") as f:
        data = f.read()
    os.unlink(path)
    return data


def box(kind, *parts):
    data = b"".join(parts)
    return struct.pack(">I", len(data) + 8) + kind + data


def mp4(codec, width, height, stsz, stsc, stts, chunks, data, edits=b"", extra=b""):
    full = lambda kind, *parts: box(kind, bytes(4), *parts)
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    entry = box(codec, bytes(6), b"\0\1", bytes(16), struct.pack(">HHIIIH", width, height, 0x480000, 0x480000, 0, 1), bytes(32), b"\0\x18\xff\xff", extra)
    table = box(b"stbl", full(b"stsd", struct.pack(">I", 1), entry), full(b"stts", stts), full(b"stsc", stsc), full(b"stsz", stsz), full(b"stco", chunks))
    media = box(b"mdia", full(b"mdhd", struct.pack(">IIIIHH", 0, 0, 25, 1000, 0, 0)), full(b"hdlr", bytes(4), b"vide", bytes(13)),
                box(b"minf", box(b"vmhd", b"\0\0\0\1", bytes(8)), box(b"dinf", full(b"dref", struct.pack(">I", 1), box(b"url ", b"\0\0\0\1"))), table))
    track = box(b"trak", box(b"tkhd", b"\0\0\0\3", struct.pack(">IIIII", 0, 0, 1, 0, 1000), bytes(16), matrix, struct.pack(">II", width << 16, height << 16)), edits, media)
    head = box(b"ftyp", b"isom\0\0\2\0isom")
    movie = full(b"mvhd", struct.pack(">IIII", 0, 0, 1000, 1000), b"\0\1\0\0\1\0", bytes(10), matrix, bytes(24), struct.pack(">I", 2))
    return head + box(b"mdat", data) + box(b"moov", movie, track)


def index_bomb():
    n = 100_000_000
    return mp4(b"jpeg", 64, 64, struct.pack(">II", 1, n), struct.pack(">IIII", 1, 1, n, 1), struct.pack(">III", 1, n, 1), struct.pack(">II", 1, 36), bytes(64))


def edit_bomb():
    n, edits = 20000, 5000
    elst = box(b"edts", box(b"elst", bytes(4), struct.pack(">I", edits), struct.pack(">IiHH", 800000, 0, 1, 0) * edits))
    return mp4(b"jpeg", 64, 64, struct.pack(">II", 1, n), struct.pack(">IIII", 1, 1, n, 1), struct.pack(">III", 1, n, 1), struct.pack(">II", 1, 36), bytes(n), elst)


def same_sample():
    """Thousands of samples that are the same bytes: one large picture."""
    picture, n = progressive(4000, 4000, 1), 6000
    return mp4(b"jpeg", 4000, 4000, struct.pack(">II", len(picture), n), struct.pack(">IIII", 1, 1, 1, 1), struct.pack(">III", 1, n, 1),
               struct.pack(">I", n) + struct.pack(">I", 36) * n, picture)


bomb("video", "index.mp4")(index_bomb)
bomb("video", "edits.mp4")(edit_bomb)
bomb("video", "same-sample.mp4")(same_sample)


def tracks(n):
    """Matroska with many tracks."""
    def element(name, data):
        return name + struct.pack(">I", 0x10000000 | len(data)) + data
    track = element(b"\xae", b"\xd7\x81\1" + b"\x73\xc5\x81\1" + b"\x83\x81\1" + b"\x86\x87V_MJPEG" + element(b"\xe0", b"\xb0\x81\x40\xba\x81\x40"))
    header = element(b"\x1a\x45\xdf\xa3", b"\x42\x82\x88matroska")
    return header + element(b"\x18\x53\x80\x67", element(b"\x15\x49\xa9\x66", b"") + element(b"\x16\x54\xae\x6b", track * n))


bomb("video", "tracks.mkv")(lambda: tracks(2500))
bomb("video", "header.npy")(lambda: b"\x93NUMPY\1\0" + struct.pack("<H", 118) + b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 8000, 8000, 3), }".ljust(117) + b"\n" + bytes(90000))
bomb("video", "header.y4m")(lambda: b"YUV4MPEG2 W16000 H16000 F25:1 C420\n" + b"FRAME\n" * 1000)
bomb("video", "junk.ts")(lambda: (b"\x47\x40\0\x10" + bytes(184)) * 500)

V = "color=black:r=25"
X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-threads", "1", "-pix_fmt", "yuv420p")
bomb("video", "static-1080p.mp4", True)(lambda: encode("mp4", f"{V}:s=1920x1080:d=40", *X264))
bomb("video", "static-1fps.mp4", True)(lambda: encode("mp4", "color=black:s=1920x1080:r=2:d=500", *X264))
bomb("video", "references.mp4", True)(lambda: encode("mp4", f"{V}:s=8192x8192:d=1", *X264, "-refs", "16", "-x264-params", "ref=16:keyint=100"))
bomb("video", "references.ts", True)(lambda: encode("ts", f"{V}:s=8192x8192:d=1", *X264, "-refs", "16", "-x264-params", "ref=16:keyint=100"))
bomb("video", "references.mpg", True)(lambda: encode("mpg", f"{V}:s=8192x8192:d=1", *X264, "-f", "vob", "-x264-params", "ref=16:keyint=100"))
bomb("video", "large.hevc", True)(lambda: encode("hevc", f"{V}:s=8192x4320:d=0.8", "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none"))
bomb("video", "large.webm", True)(lambda: encode("webm", f"{V}:s=8192x8192:d=0.6", "-c:v", "libvpx-vp9", "-cpu-used", "8", "-deadline", "realtime"))
bomb("video", "large-av1.mp4", True)(lambda: encode("mp4", f"{V}:s=7680x4320:d=0.8", "-c:v", "libsvtav1", "-preset", "12"))
bomb("video", "pictures.avi", True)(lambda: encode("avi", f"{V}:s=1920x1080:d=3", "-c:v", "mjpeg", "-q:v", "31"))
bomb("video", "lossless.mkv", True)(lambda: encode("mkv", f"{V}:s=4000x4000:d=1", "-c:v", "ffv1"))
bomb("video", "animated.apng", True)(lambda: encode("apng", f"{V}:s=4000x4000:d=4", "-plays", "0"))
bomb("video", "flash.flv", True)(lambda: encode("flv", f"{V}:s=4000x4000:d=1", "-c:v", "flv1"))
bomb("video", "mpeg2.mpg", True)(lambda: encode("mpg", f"{V}:s=4000x2800:d=2", "-c:v", "mpeg2video", "-q:v", "31"))


# ---- sound ----

def wav(rate, channels, seconds):
    return b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * channels, channels, 8) + b"data\xff\xff\xff\x7f" + bytes([128]) * (rate * channels * seconds)


def flac(rate, channels, frames, block=65535):
    """FLAC of silence by hand: each subframe is one constant, so that a frame of 50 bytes stands for 8 * 65535 samples."""
    def crc(data, bits, polynomial):
        value, top = 0, 1 << (bits - 1)
        for byte in data:
            value ^= byte << (bits - 8)
            for _ in range(8):
                value = (value << 1 ^ polynomial if value & top else value << 1) & (2 * top - 1)
        return value.to_bytes(bits // 8, "big")
    samples = frames * block
    info = struct.pack(">HH", block, block) + bytes(6) + (rate << 44 | (channels - 1) << 41 | 15 << 36 | samples).to_bytes(8, "big") + bytes(16)
    out = [b"fLaC", b"\x80" + len(info).to_bytes(3, "big"), info]
    for n in range(frames):
        number = chr(n).encode() if n < 0xD800 else chr(n + 0x800).encode()
        head = b"\xff\xf8" + bytes([0x7E, (channels - 1) << 4 | 8]) + number + struct.pack(">HH", block - 1, rate // 10)
        frame = head + crc(head, 8, 0x07) + b"\0\0\0" * channels
        out.append(frame + crc(frame, 16, 0x8005))
    return b"".join(out)


bomb("sound", "claims.wav")(lambda: wav(1000, 64, 1))
bomb("sound", "channels.flac")(lambda: flac(655350, 8, 105))
bomb("sound", "channels-short.flac")(lambda: flac(655350, 8, 3))
bomb("sound", "channels-long.flac")(lambda: flac(655350, 8, 2000))
bomb("sound", "silence.flac", True)(lambda: encode("flac", "anullsrc=r=48000:cl=stereo:d=240"))
bomb("sound", "silence.opus", True)(lambda: encode("opus", "anullsrc=r=48000:cl=stereo:d=200", "-c:a", "libopus", "-b:a", "500", "-frame_duration", "60"))


def run(tool, kind, paths):
    r = subprocess.run([tool, kind, *paths], capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
    out = r.stdout.decode(errors="replace").strip().split(" ", 2)
    if r.returncode not in (0, 1) or len(out) != 3:
        return None, None, f"ended with {r.returncode}: {r.stderr.decode(errors='replace')[-300:]}"
    return float(out[0]), float(out[1]), out[2]


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("tool")
    a.add_argument("names", nargs="*")
    a.add_argument("--quick", action="store_true")
    a.add_argument("--keep")
    a.add_argument("--seconds", type=float, default=2)
    a.add_argument("--megabytes", type=float, default=1024)
    o = a.parse_args()
    folder = o.keep or tempfile.mkdtemp()
    os.makedirs(folder, exist_ok=True)
    failures = count = 0
    print(f"{'file':24} {'bytes':>8} {'times':>5} {'CPU s':>7} {'MB':>7}  outcome")
    for name, (kind, make) in made.items():
        if (o.names and name not in o.names) or (o.quick and name in slow):
            continue
        path = os.path.join(folder, name)
        try:
            if not os.path.exists(path):
                data = make()
                with open(path, "wb") as f:
                    f.write(data)
        except (subprocess.CalledProcessError, FileNotFoundError):
            print(f"{name:24} left out: this ffmpeg cannot make it")
            continue
        size = os.path.getsize(path)
        for times in (1, 10, 64) if size < 1000 else (1, 10):
            cpu, memory, outcome = run(o.tool, kind, [path] * times)
            allowed = o.seconds * max(1, size * times / 100_000)
            bad = cpu is None or cpu > allowed or memory > o.megabytes or (outcome != "ok" and name not in outcome)
            failures += bad
            count += 1
            print(f"{name:24} {size:8} {times:5} {cpu or 0:7.2f} {memory or 0:7.0f}  {'TOO MUCH: ' if bad else ''}{outcome.replace(folder + '/', '')[:150]}", flush=True)
            if outcome != "ok":
                break
    if not o.keep:
        shutil.rmtree(folder)
    print(f"{count - failures} passed, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
