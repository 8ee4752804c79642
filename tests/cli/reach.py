"""What files and messages of others can make the program reach for: nothing but themselves. And that docs/security.md names tests that exist."""
import json, os, re, shutil, socket, subprocess

import harness
from harness import Case, THINKER, MMPROJ, PICTURE, QUESTION, VIDEOS, ROOT

SEE = ["run", "-m", THINKER, "--mmproj", MMPROJ, "-n", "1"]
VIDEO = os.path.join(VIDEOS, "one.mp4")


class Reach(Case):
    def setUp(self):
        super().setUp()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(0.2)
        self.addCleanup(self.server.close)
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}/x"

    def nobody_came(self):
        with self.assertRaises(TimeoutError):
            self.server.accept()

    def write(self, name, text):
        with open(self.path(name), "w") as f:
            f.write(text)
        return name

    def test_urls_are_paths(self):
        """A URL where a file is expected is the name of a file, which is not there."""
        for flag in ["--image", "--audio", "--video"]:
            for url in [self.url, self.url.replace("http", "rtsp"), self.url.replace("http", "tcp"), f"concat:{VIDEO}|{VIDEO}", f"subfile,,start,0,end,9,,:{VIDEO}",
                        f"file:{VIDEO}", "data:image/png;base64,AAAA", "lavfi:color=red", "/dev/null"]:
                self.fails(*SEE, "-p", "x", flag, url, say="omni: ")
        self.nobody_came()

    def test_urls_in_messages(self):
        """OpenAI's image_url and input_audio take data: URLs here; nothing is fetched, with and without --no-local-files."""
        for kind, part in [("image", {"type": "image_url", "image_url": {"url": self.url}}), ("image", {"type": "image", "image": self.url}),
                           ("audio", {"type": "audio", "audio": self.url}), ("video", {"type": "video", "video": self.url}),
                           ("video", {"type": "video_url", "video_url": {"url": self.url}}), ("image", {"type": "image", "path": self.url})]:
            text = json.dumps([{"role": "user", "content": [part, {"type": "text", "text": "x"}]}])
            self.fails(*SEE, "--messages", "-", stdin=text, say="messages[0].content[0]")
            self.fails(*SEE, "--messages", "-", "--no-local-files", stdin=text, say="messages[0].content[0]")
        self.nobody_came()

    def test_no_local_files(self):
        """Every way of naming a file in a message is refused, whether it is there or not, and in the same words."""
        for there, missing in [(PICTURE, PICTURE + "x"), (f"file://{PICTURE}", f"file://{PICTURE}x"), ("/etc/passwd", "/etc/passwx")]:
            for key in ["image", "path", "image_url"]:
                said = []
                for name in [there, missing]:
                    part = {"type": "image_url", "image_url": {"url": name}} if key == "image_url" else {"type": "image", key: name}
                    text = json.dumps([{"role": "user", "content": [part, {"type": "text", "text": "x"}]}])
                    said.append(self.omni(*SEE, "--messages", "-", "--no-local-files", stdin=text, status=1)[1].replace(name, "NAME"))
                self.assertEqual(said[0], said[1])
                self.assertIn("data: URL", said[0])

    def test_files_that_name_files(self):
        """Playlists, lists of pieces and descriptions of streams are no media: what they name is not opened."""
        link = os.path.abspath(VIDEO)
        lists = {"hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{link}\n#EXT-X-ENDLIST\n", "hls-url": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{self.url}\n#EXT-X-ENDLIST\n",
                 "concat": f"ffconcat version 1.0\nfile '{link}'\n", "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
                 "dash": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{self.url}</BaseURL></Representation></AdaptationSet></Period></MPD>',
                 "svg": f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="{self.url}"/></svg>'}
        for kind, text in lists.items():
            for suffix in ["mp4", "m3u8", "txt", "wav", "png"]:
                name = self.write(f"{kind}.{suffix}", text)
                for flag in ["--video", "--audio", "--image"]:
                    self.fails(*SEE, "-p", "x", flag, name, say=f"omni: {name}: ")
        self.nobody_came()

    def test_no_sockets(self):
        """Whatever is asked, no socket is made."""
        if not shutil.which("strace") or subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True).returncode != 0:
            self.skipTest("needs strace, and the right to use it")
        env = {**os.environ, "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"}  # leaks cannot be looked for under strace
        subprocess.run(["strace", "-f", "-e", "trace=%network", "-o", self.path("calls"), harness.OMNI, *SEE, "-p", "x", "--image", PICTURE, "--audio", QUESTION,
                        "--video", VIDEO], check=True, stdout=subprocess.DEVNULL, timeout=harness.LONG, env=env)
        with open(self.path("calls")) as f:
            self.assertEqual([line for line in f if "socket(" in line or "connect(" in line], [])

    def test_document(self):
        """docs/security.md: every test, script and flag that it names is there."""
        with open(os.path.join(ROOT, "docs", "security.md")) as f:
            text = f.read()
        names = re.findall(r"`((?:tests|scripts)/[\w./-]+)(?:: ([\w, ]+))?`", text)
        self.assertGreater(len(names), 30)
        for path, inside in names:
            self.assertTrue(os.path.exists(os.path.join(ROOT, path)), path)
            if inside:
                with open(os.path.join(ROOT, path)) as f:
                    code = f.read()
                for name in inside.split(", "):
                    self.assertRegex(code, rf"\b{name}\b", path)
        helps = "".join(self.omni(c, "--help")[0] for c in ["run", "speak", "convert", "quantize", "serve"])
        for flag in set(re.findall(r"`(--[a-z-]+)", text)):
            self.assertIn(flag, helps)
