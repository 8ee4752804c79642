"""Answers that a grammar or a JSON schema constrains, by flags and by requests."""
import json, re

from harness import Case, THINKER

RUN = ["run", "-m", THINKER, "-p", "x", "--temp", 2, "-n", 200]
SCHEMA = {"type": "object", "properties": {"color": {"enum": ["red", "blue"]}, "size": {"type": "integer", "minimum": 1, "maximum": 3}}, "required": ["color", "size"],
          "additionalProperties": False}


class Constrained(Case):
    def check(self, text):
        v = json.loads(text)
        self.assertEqual(list(v), ["color", "size"])
        self.assertTrue(v["color"] in ("red", "blue") and v["size"] in (1, 2, 3), v)

    def test_flags(self):
        grammar, schema = 'root ::= ("yes" | "no") [!?]{2}\n', json.dumps(SCHEMA)
        self.write("g.gbnf", grammar), self.write("s.json", schema)
        for args, stdin in [(["--grammar", grammar], b""), (["--grammar-file", "g.gbnf"], b""), (["--grammar-file", "-"], grammar)]:
            out = json.loads(self.omni(*RUN, "--json", *args, stdin=stdin)[0])
            self.assertRegex(out["text"], r"^(yes|no)[!?]{2}$")
            self.assertEqual(out["finish"], "stop")
        for args, stdin in [(["-j", schema], b""), (["--json-schema", schema], b""), (["-jf", "s.json"], b""), (["--json-schema-file", "-"], schema)]:
            for seed in range(3):
                self.check(self.omni(*RUN, "-s", seed, *args, stdin=stdin)[0])

    def test_flags_come_before_a_request(self):
        self.write("r.json", json.dumps({"messages": [{"role": "user", "content": "x"}], "grammar": 'root ::= "a"'}))
        self.assertEqual(self.omni("run", "-m", THINKER, "--messages", "r.json")[0].strip(), "a")
        self.assertEqual(self.omni("run", "-m", THINKER, "--messages", "r.json", "-j", '{"const": 5}')[0].strip(), "5")

    def test_mistakes(self):
        self.fails(*RUN, "--grammar", 'root ::= "a', say="grammar, line 1, column 10")
        self.fails(*RUN, "-j", '{"properties": {"a": {"not": {}}}}', say=["#/properties/a", '"not" is not supported'])
        self.fails(*RUN, "-j", "{", say="JSON schema")
        self.fails(*RUN, "-j", "{}", "--grammar", 'root ::= "a"', status=2, say="one grammar or one schema")
        self.fails(*RUN, "--grammar-file", "none.gbnf", say="none.gbnf")

    def test_tools(self):
        tools = [{"type": "function", "function": {"name": "paint", "parameters": SCHEMA}}]
        for choice in ["required", {"type": "function", "function": {"name": "paint"}}]:
            r = {"messages": [{"role": "user", "content": "x"}], "tools": tools, "tool_choice": choice, "parallel_tool_calls": False, "max_tokens": 100}
            self.write("r.json", json.dumps(r))
            out = self.omni("run", "-m", THINKER, "--messages", "r.json", "-s", 1)[0]
            m = re.fullmatch(r"\[tool call\] paint (\{.*\})\s*", out, re.S)
            self.assertTrue(m, out)
            self.check(m[1])
