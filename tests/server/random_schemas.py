#!/usr/bin/env python3
"""Random JSON Schemas through omni serve: every answer that ends must be valid to the package jsonschema.

random_schemas.py OMNI [COUNT [SEED]]. Needs jsonschema (scripts/clients-env.sh). The tiny model's weights are random, so its answers are whatever the
schema leaves open. Prints what happened and "N passed, N failed"; an answer cut by its limit of tokens, and a schema refused with a reason, pass.
"""
import collections
import json
import random
import sys
import threading

import jsonschema

import harness

NAMES = ["a", "b", "name", "é", 'q"', "x\\y", "ab", "abc", "", "long name with blanks", "日本"]
FORMATS = ["date", "time", "date-time", "uuid", "email", "hostname", "ipv4", "ipv6", "uri"]
PATTERNS = ["^[a-z]{2,5}$", "^(yes|no)+$", "\\d{3}-\\d{2}", "^[^x]*$", "a.c", "^\\w+( \\w+)?$", "^$", "[A-F0-9]{4}", "^é|ü$"]


class Maker:
    def __init__(self, rng):
        self.rng = rng
        self.defs = {}

    def chance(self, p):
        return self.rng.random() < p

    def value(self, depth=0):
        kind = self.rng.randrange(7 if depth < 2 else 5)
        if kind == 5:
            return [self.value(depth + 1) for _ in range(self.rng.randrange(3))]
        if kind == 6:
            return {self.rng.choice(NAMES): self.value(depth + 1) for _ in range(self.rng.randrange(3))}
        return [None, self.chance(0.5), self.rng.randrange(-1000, 1000), self.rng.randrange(-999, 999) / 8, self.rng.choice(NAMES)][kind]

    def number(self):
        s = {"type": self.rng.choice(["integer", "number"])}
        low = self.rng.choice([-1000, -7, 0, 1, 12, 99, 100000]) + (self.rng.choice([0, 0.5]) if s["type"] == "number" else 0)
        if self.chance(0.5):
            s[self.rng.choice(["minimum", "exclusiveMinimum"])] = low
        if self.chance(0.5):
            s[self.rng.choice(["maximum", "exclusiveMaximum"])] = low + self.rng.choice([2, 3, 10, 1234])
        return s

    def string(self):
        s = {"type": "string"}
        kind = self.rng.randrange(4)
        if kind == 0:
            s["pattern"] = self.rng.choice(PATTERNS)
        elif kind == 1:
            s["format"] = self.rng.choice(FORMATS)
        else:
            low = self.rng.randrange(4)
            s["minLength"] = low
            if self.chance(0.8):
                s["maxLength"] = low + self.rng.randrange(12)
        return s

    def array(self, depth):
        s = {"type": "array"}
        if self.chance(0.8):
            s["items"] = self.schema(depth + 1)
        if self.chance(0.3):
            s["prefixItems"] = [self.schema(depth + 1) for _ in range(self.rng.randrange(1, 3))]
            if self.chance(0.5):
                s["items"] = False
        if self.chance(0.4):
            s["minItems"] = self.rng.randrange(3)
        if self.chance(0.8):
            s["maxItems"] = s.get("minItems", 0) + self.rng.randrange(3)
        return s

    def object(self, depth):
        names = self.rng.sample(NAMES, self.rng.randrange(4))
        s = {"type": "object", "properties": {n: self.schema(depth + 1) for n in names}}
        if self.chance(0.7):
            s["required"] = [n for n in names if self.chance(0.6)]
        if self.chance(0.6):
            s["additionalProperties"] = self.rng.choice([False, False, True, self.schema(depth + 1)])
        if self.chance(0.15):
            s["maxProperties"] = len(names) + self.rng.randrange(2)
        if self.chance(0.15):
            s["minProperties"] = self.rng.randrange(1 + len(names))
        return s

    def schema(self, depth=0):
        deep = depth >= 3
        kind = self.rng.randrange(7 if deep else 12)
        if kind < 2:
            return self.number()
        if kind < 4:
            return self.string()
        if kind == 4:
            return {"enum": [self.value() for _ in range(self.rng.randrange(1, 5))]}
        if kind == 5:
            return {"const": self.value()}
        if kind == 6:
            return self.rng.choice([{"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"], "maxLength": 5}, {"type": ["integer", "boolean"]}])
        if kind < 9:
            return self.object(depth)
        if kind == 9:
            return self.array(depth)
        if kind == 10:
            several = [self.schema(depth + 1) for _ in range(self.rng.randrange(1, 4))]
            return {self.rng.choice(["anyOf", "anyOf", "oneOf", "allOf"]): several}
        name = f"d{self.rng.randrange(3)}"
        if name not in self.defs:
            self.defs[name] = {}
            self.defs[name] = self.schema(depth + 1)
        return {"$ref": f"#/$defs/{name}"}

    def whole(self):
        s = self.schema()
        return {**s, "$defs": self.defs} if self.defs else s


def main():
    harness.OMNI = sys.argv[1]
    count, seed = int(sys.argv[2]) if len(sys.argv) > 2 else 200, int(sys.argv[3]) if len(sys.argv) > 3 else 1
    server = harness.Server("--parallel", 4)
    word = lambda text: server.json("POST", "/tokenize", {"content": text})["tokens"][0]
    # Strings and lists end sooner; what may come is the schema's affair all the same.
    bias = {str(word(t)): 4 for t in ('"', "]", "}", '"}', '"]')}
    numbers, lock = iter(range(count)), threading.Lock()
    seen, wrong, refusals = collections.Counter(), [], collections.Counter()

    def work():
        while (i := next_number()) is not None:
            schema = Maker(random.Random(f"{seed}/{i}")).whole()
            jsonschema.Draft202012Validator.check_schema(schema)
            status, _, data = server.ask("POST", "/v1/chat/completions", {
                "messages": [{"role": "user", "content": "x"}], "max_tokens": 400, "seed": i, "temperature": 1, "top_p": 1, "top_k": 0, "logit_bias": bias,
                "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}})
            result, why = judge(schema, status, data)
            with lock:
                seen[result] += 1
                if result == "wrong":
                    wrong.append((i, json.dumps(schema, ensure_ascii=False), why))
                if result == "refused":
                    refusals[why] += 1

    def next_number():
        with lock:
            return next(numbers, None)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    server.stop()
    for i, schema, why in wrong[:10]:
        print(f"schema {i}: {schema}\n  {why}")
    for why, n in refusals.most_common(12):
        print(f"refused {n} times: {why}")
    print(", ".join(f"{n} {what}" for what, n in sorted(seen.items())))
    print(f"{count - len(wrong)} passed, {len(wrong)} failed")
    sys.exit(1 if wrong or seen["valid"] < count / 3 else 0)


def judge(schema, status, data):
    if status == 400:
        message = json.loads(data)["error"]["message"]
        return ("refused", message.split(": ", 1)[-1][:90]) if "JSON schema" in message else ("wrong", message)
    if status != 200:
        return "wrong", f"{status}: {data[:300]}"
    choice = json.loads(data)["choices"][0]
    text = choice["message"]["content"]
    if choice["finish_reason"] != "stop":
        return "cut", ""
    try:
        jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError) as e:
        return "wrong", f"{text!r}: {str(e).splitlines()[0]}"
    return "valid", ""


if __name__ == "__main__":
    main()
