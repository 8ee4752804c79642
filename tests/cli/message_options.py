"""Keys of --messages beside texts and media: each acts, or is refused by its name."""
import base64, json

from harness import Case, THINKER, TINY, PICTURE, QUESTION, VIDEOS

SIDE = 32  # pixels of a merged patch
VIDEO = f"{VIDEOS}/sound.mp4"
NAMES = {"image": PICTURE, "audio": QUESTION, "video": VIDEO}


class MessageOptions(Case):
    ASK = ["run", "-m", TINY, "--messages", "-"]

    def ask(self, request, *flags, **how):
        return json.loads(self.omni(*self.ASK, "--json", *flags, stdin=json.dumps(request), **how)[0])

    def tokens(self, kind, **options):
        return self.ask([{"role": "user", "content": [{"type": kind, "path": NAMES[kind], **options}]}], "-n", 1, "--greedy")["prompt_tokens"]

    def refused(self, say, request):
        self.fails(*self.ASK, "-n", 1, stdin=json.dumps(request), say=say)

    def part_refused(self, say, kind, **options):
        self.refused(["messages[0].content[0]: ", *([say] if isinstance(say, str) else say)],
                     [{"role": "user", "content": [{"type": kind, "path": NAMES[kind], **options}]}])

    def test_pictures(self):
        base = self.tokens("image", resized_height=SIDE * 2, resized_width=SIDE * 2) - 4
        for h, w in [(64, 96), (130, 95), (96, 320)]:
            self.assertEqual(self.tokens("image", resized_height=h, resized_width=w) - base, round(h / SIDE) * round(w / SIDE))
        self.assertLessEqual(self.tokens("image", max_pixels=9000) - base, 9000 // SIDE ** 2)
        self.assertGreaterEqual(self.tokens("image", min_pixels=400000) - base, 400000 // SIDE ** 2)
        r = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE, "detail": d}}]} for d in ("auto", "high", "low")]
        self.assertEqual(len({self.ask([m], "-n", 1)["prompt_tokens"] for m in r}), 1)  # the picture is smaller than low's 512 x 512

    def test_videos(self):
        size = {"resized_height": 64, "resized_width": 64}  # four tokens a pair of frames
        base = self.tokens("video", nframes=2, **size) - 4
        for n, pairs in [(4, 2), (5, 2), (7, 4), (8, 4)]:  # halves round to even, as Python's
            self.assertEqual(self.tokens("video", nframes=n, **size) - base, 4 * pairs, n)
        self.assertEqual(self.tokens("video", fps=1000, max_frames=6, **size) - base, 12)
        self.assertEqual(self.tokens("video", fps=0.1, min_frames=9, **size) - base, 20)
        whole = self.tokens("video", fps=10, **size)
        self.assertLess(self.tokens("video", fps=10, video_end=0.6, **size), whole)
        self.assertLess(self.tokens("video", fps=10, video_start=0.4, **size), whole)
        self.assertLess(self.tokens("video", fps=2, total_pixels=20000, min_pixels=1024), self.tokens("video", fps=2))

    def test_sounds(self):
        whole, half = self.tokens("audio"), self.tokens("audio", audio_end=0.9)
        self.assertLess(half, whole)
        self.assertEqual(self.tokens("audio", audio_start=0.4, audio_end=1.3), half)
        self.assertLess(self.tokens("audio", audio_start=1), whole)
        self.part_refused("no sound is within the stretch", "audio", audio_start=50)

    def test_a_video_and_its_sound(self):
        """The sound is cut where the pictures are."""
        def both(**options):
            part = {"type": "video", "path": VIDEO, "nframes": 2, "resized_height": 64, "resized_width": 64, **options}
            return self.ask({"use_audio_in_video": True, "messages": [{"role": "user", "content": [part]}]}, "-n", 1)["prompt_tokens"]
        self.assertLess(both(video_end=0.5), both())
        self.assertEqual(both(video_start=0.2, video_end=0.7), both(video_end=0.5))

    def test_refused_parts(self):
        for kind, options, say in [("image", {"fps": 2}, '"fps" cannot act in an image'), ("audio", {"max_pixels": 9}, '"max_pixels" cannot act in an audio'),
                                   ("video", {"audio_start": 1}, '"audio_start" cannot act'), ("video", {"fps": 2, "nframes": 4}, '"fps" cannot act beside nframes'),
                                   ("video", {"nframes": 4, "max_frames": 8}, '"max_frames" cannot act beside nframes'), ("video", {"fps": 0}, '"fps" must be above 0'),
                                   ("video", {"fps": "2"}, '"fps" must be a number'), ("video", {"nframes": 2.5}, '"nframes" must be a whole number'),
                                   ("video", {"video_start": 2, "video_end": 1}, '"video_end" must be later'), ("video", {"nframes": 5000}, "--max-video-frames"),
                                   ("video", {"video_start": 99}, "video_start"), ("image", {"resized_height": 64}, '"resized_height" needs'),
                                   ("image", {"resized_height": 64, "resized_width": 64, "max_pixels": 5000}, '"max_pixels" cannot act beside'),
                                   ("image", {"max_pixels": 100}, "less than min_pixels"), ("image", {"detail": "tiny"}, '"detail" must be'),
                                   ("image", {"resized_height": 32, "resized_width": 32 * 201}, "200 times"), ("image", {"cache_control": {}}, '"cache_control" cannot act')]:
            self.part_refused(say, kind, **options)
        self.refused('"cache_control" cannot act in a text', [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]}])
        self.refused('"fps" cannot act in image_url', [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE, "fps": 1}}]}])
        self.assertGreater(self.tokens("image", max_pixels=None, fps=None), 0)  # null says nothing

    def test_messages(self):
        """What other programs put beside role and content."""
        with open(PICTURE, "rb") as f:
            picture = base64.b64encode(f.read()).decode()
        part = [{"role": "user", "content": [{"type": "image", "path": PICTURE}, {"type": "text", "text": "What is it?"}]}]
        ollama = [{"role": "user", "content": "What is it?", "images": [picture]}]
        want, got = (self.ask(m, "-n", 8, "--greedy", "--ignore-eos") for m in (part, ollama))
        self.assertEqual((got["text"], got["prompt_tokens"]), (want["text"], want["prompt_tokens"]))
        call = {"name": "f", "arguments": "{}"}
        forms = [([{"role": "assistant", "content": None, "refusal": None, "annotations": [], "tool_calls": [{"id": "i", "type": "function", "function": call}]},
                   {"role": "tool", "tool_call_id": "i", "content": "3"}]),
                 ([{"role": "assistant", "content": None, "function_call": call}, {"role": "function", "name": "f", "content": "3"}])]
        new, old = (self.ask([{"role": "user", "content": "x"}, *f], "-n", 8, "--greedy", "--ignore-eos") for f in forms)
        self.assertEqual((new["text"], new["prompt_tokens"]), (old["text"], old["prompt_tokens"]))
        self.assertGreater(new["prompt_tokens"], self.ask([{"role": "user", "content": "x"}], "-n", 1)["prompt_tokens"] + 10)
        self.refused(['messages[0]: "name" cannot act', "its keys are: role content images"], [{"role": "user", "name": "Ann", "content": "x"}])
        self.refused('messages[0].images[0]: ', [{"role": "user", "content": "x", "images": [PICTURE]}])

    def test_request(self):
        messages = [{"role": "user", "content": "x"}]
        plain = lambda *flags: json.loads(self.omni("run", "-m", THINKER, "-p", "x", "--json", *flags)[0])
        for keys, flags in [({"temperature": 0, "max_tokens": 7}, ["--temp", 0, "-n", 7]), ({"max_completion_tokens": 5, "seed": 3}, ["-n", 5, "-s", 3]),
                            ({"temperature": 3, "top_p": 1, "top_k": 0, "seed": 1, "max_tokens": 20}, ["--temp", 3, "--top-p", 1, "--top-k", 0, "-s", 1, "-n", 20]),
                            ({"temperature": 3, "top_p": 1, "top_k": -1, "min_p": 0.01, "repetition_penalty": 1.5, "seed": 1, "max_tokens": 20},
                             ["--temp", 3, "--top-p", 1, "--top-k", 0, "--min-p", 0.01, "--repeat-penalty", 1.5, "-s", 1, "-n", 20])]:
            r, want = self.ask({"messages": messages, **keys}), plain(*flags)
            self.assertEqual((r["text"], r["answer_tokens"]), (want["text"], want["answer_tokens"]), keys)
        for keys, flags in [({"presence_penalty": 1.5, "frequency_penalty": 0.5}, ["--presence-penalty", 1.5, "--frequency-penalty", 0.5]),
                            ({"logit_bias": {"7": 50, "9": -100}}, ["-l", "7+50", "-l", "9-inf"]), ({"logprobs": True}, ["--logprobs", 0]),
                            ({"logprobs": True, "top_logprobs": 4}, ["--logprobs", 4]), ({"logprobs": False, "top_logprobs": 0}, [])]:
            r, want = self.ask({"messages": messages, "temperature": 0, "max_tokens": 20, **keys}), plain("--temp", 0, "-n", 20, *flags)
            self.assertEqual((r["text"], r.get("logprobs")), (want["text"], want.get("logprobs")), keys)
        r = self.ask({"messages": messages, "temperature": 0, "max_tokens": 5, "logit_bias": {"7": 100}, "presence_penalty": 2}, "--logprobs", 1, "-l", "8+99", "--presence-penalty", 0)
        self.assertEqual([c["id"] for c in r["logprobs"]["content"]], [8] * 5)  # the command line comes first
        whole = plain("--temp", 0, "-n", 30)["text"]
        for stop in [whole[8:11], ["not in it", whole[8:11]]]:
            r = self.ask({"messages": messages, "temperature": 0, "max_tokens": 30, "stop": stop})
            self.assertEqual((r["text"], r["finish"]), (whole[:whole.find(whole[8:11])], "stop"))
        r = self.ask({"messages": messages, "temperature": 2, "max_tokens": 30, "seed": 4, "stop": ["never"]}, "-n", 3, "--temp", 0, "-s", 9)
        self.assertEqual((r["answer_tokens"], r["seed"]), (3, 9))  # the command line comes first
        self.ask({"messages": messages, "max_tokens": 2, "model": "qwen", "n": 1, "stream": True, "user": "me", "logit_bias": {}, "tool_choice": "auto", "presence_penalty": 0,
                  "response_format": {"type": "text"}, "top_logprobs": None})

    def test_refused_requests(self):
        for key, value, say in [("n", 2, '"n" cannot act with more than 1'), ("presence_penalty", 101, '"presence_penalty" must be'),
                                ("frequency_penalty", "1", '"frequency_penalty" must be'), ("logprobs", 3, '"logprobs" must be true or false'),
                                ("logprobs", True, ['"logprobs"', "--json"]), ("top_logprobs", 2, '"top_logprobs" needs'), ("top_logprobs", 21, '"top_logprobs" must be'),
                                ("logit_bias", [[5, 1]], '"logit_bias" must be an object'), ("logit_bias", {"x": 1}, '"x" is no token'), ("logit_bias", {"-5": 1}, '"-5" is no token'),
                                ("logit_bias", {"5": 101}, "token 5 must be a number from -100 to 100"), ("logit_bias", {"5": None}, "token 5 must be"),
                                ("logit_bias", {"99999999": 1}, "logit bias of token 99999999"),
                                ("tool_choice", "perhaps", '"tool_choice" must be'), ("response_format", {"type": "xml"}, '"response_format" must be'),
                                ("tool_choice", "required", "there are no tools"), ("json_schema", {"not": {}}, '"not" is not supported'),
                                ("temprature", 1, '"temprature" cannot act'), ("temperature", -1, '"temperature" must be'), ("temperature", "1", '"temperature" must be'),
                                ("max_tokens", 0, '"max_tokens" must be'), ("seed", 1.5, '"seed" must be'), ("stop", "", '"stop" must be'), ("stop", ["a", 1], '"stop" must be'),
                                ("top_k", 1.5, '"top_k" must be'), ("max_completion_tokens", 9, '"max_tokens" contradicts')]:
            self.refused(say, {"messages": [{"role": "user", "content": "x"}], **({"max_tokens": 3} if key == "max_completion_tokens" else {}), key: value})
