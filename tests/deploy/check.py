#!/usr/bin/env python3
"""What the files of deploy/ say about the program, against the program itself: tests/deploy/check.py OMNI. Needs PyYAML."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import yaml

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEPLOY = os.path.join(ROOT, "deploy")
sys.path.insert(0, os.path.join(ROOT, "tests/server"))
import harness  # noqa: E402


def read(name):
    with open(os.path.join(DEPLOY, name)) as f:
        return f.read()


def objects(name):
    return {o["kind"]: o for o in yaml.safe_load_all(read("kubernetes/" + name))}


class Metrics(unittest.TestCase):
    """Every name of a metric in these files is one that the server has."""

    @classmethod
    def setUpClass(cls):
        server = harness.Server()
        server.chat(max_tokens=2)
        text = server.ask("GET", "/metrics")[2].decode()
        assert server.stop() == 0
        cls.names = set(re.findall(r"^(omni_\w+)", text, re.M))

    def check(self, text, at_least):
        used = set(re.findall(r"\bomni_[a-z0-9_]+\b", text))
        self.assertGreaterEqual(len(used), at_least)
        self.assertEqual(used - self.names, set())

    def test_dashboard(self):
        board = json.loads(read("grafana.json"))
        targets = [t["expr"] for p in board["panels"] for t in p["targets"]]
        self.check("\n".join(targets), 15)
        places = [tuple(sorted(p["gridPos"].items())) for p in board["panels"]]
        self.assertEqual(len(places), len(set(places)))
        self.check(board["templating"]["list"][1]["query"], 1)

    def test_dashboard_is_promql(self):
        """promtool reads expressions as rules do; Grafana's variables are filled in."""
        rules = [{"record": f"panel:{i}", "expr": e.replace("$__rate_interval", "1m").replace("$instance", ".*")}
                 for i, e in enumerate(t["expr"] for p in json.loads(read("grafana.json"))["panels"] for t in p["targets"])]
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as f:
            yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}, f)
            f.flush()
            r = subprocess.run(["promtool", "check", "rules", f.name], capture_output=True, text=True)
        self.assertEqual(r.returncode, 0, r.stderr)

    def test_alerts(self):
        rules = [r for g in yaml.safe_load(read("prometheus/alerts.yml"))["groups"] for r in g["rules"]]
        self.check("\n".join(r["expr"] for r in rules), 8)
        told = set(re.findall(r"\bomni_[a-z0-9_]+\b", "\n".join(r["annotations"]["action"] for r in rules)))
        self.assertEqual({n for n in told if n not in self.names and n + "_count" not in self.names}, set())

    def test_kubernetes(self):
        self.check(objects("autoscale.yaml")["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["pods"]["metric"]["name"], 1)
        plugins = yaml.safe_load(objects("inference-pool.yaml")["ConfigMap"]["data"]["omni-plugins.yaml"])
        extractor = next(p for p in plugins["plugins"] if p["type"] == "core-metrics-extractor")["parameters"]
        self.assertEqual([e["name"] for e in extractor["engineConfigs"]], [extractor["defaultEngine"]])
        self.check(" ".join(extractor["engineConfigs"][0].values()), 4)
        used = {p["pluginRef"] for profile in plugins["schedulingProfiles"] for p in profile["plugins"]}
        self.assertEqual(used - {p["type"] for p in plugins["plugins"]}, set())


class Settings(unittest.TestCase):
    """Flags exist, and what must fit together does."""

    @classmethod
    def setUpClass(cls):
        cls.flags = set(re.findall(r"^  (?:-\w+, )?(--[\w-]+)", subprocess.run([harness.OMNI, "serve", "--help"], capture_output=True, text=True).stdout, re.M))
        cls.pod = objects("omni.yaml")["Deployment"]["spec"]["template"]
        cls.args = dict(a[2:].split("=", 1) for a in cls.pod["spec"]["containers"][0]["args"] if a.startswith("--"))

    def test_flags(self):
        self.assertEqual({"--" + name for name in self.args} - self.flags, set())
        env = dict(line.split("=", 1) for line in read("omni.env").splitlines() if line and not line.startswith("#"))
        in_image = re.findall(r"\b(OMNI_[A-Z_]+)=", read("Dockerfile"))
        self.assertGreaterEqual(len(in_image), 4)
        self.assertEqual({"--" + v[5:].lower().replace("_", "-") for v in [*env, *in_image]} - self.flags, set())
        stop = int(re.search(r"^TimeoutStopSec=(\d+)$", read("omni.service"), re.M)[1])
        self.assertGreater(stop, int(env["OMNI_DRAIN"]) + int(env["OMNI_GRACE"]))

    def test_pods_have_time_to_end(self):
        self.assertGreater(self.pod["spec"]["terminationGracePeriodSeconds"], int(self.args["drain"]) + int(self.args["grace"]))
        ready = self.pod["spec"]["containers"][0]["readinessProbe"]
        self.assertGreater(int(self.args["drain"]), 2 * ready["periodSeconds"] * ready["failureThreshold"])

    def test_names_fit(self):
        labels = self.pod["metadata"]["labels"]
        service, budget = (objects("omni.yaml")[k]["spec"] for k in ["Service", "PodDisruptionBudget"])
        pool = objects("inference-pool.yaml")["InferencePool"]["spec"]
        self.assertEqual(set(pool), {"targetPorts", "selector", "endpointPickerRef"})  # of inference.networking.k8s.io/v1: no schema of it can be had offline
        for selector in [service["selector"], budget["selector"]["matchLabels"], pool["selector"]["matchLabels"]]:
            self.assertEqual(selector, {k: labels[k] for k in selector})
        container = self.pod["spec"]["containers"][0]
        self.assertEqual(container["ports"][0]["containerPort"], int(self.args["port"]))
        self.assertEqual(pool["targetPorts"], [{"number": int(self.args["port"])}])
        self.assertEqual(service["ports"][0]["targetPort"], container["ports"][0]["name"])
        self.assertEqual(objects("autoscale.yaml")["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"], objects("omni.yaml")["Deployment"]["metadata"]["name"])

    def test_user_of_the_image(self):
        self.assertIn(f"USER {self.pod['spec']['securityContext']['runAsUser']}:", read("Dockerfile"))

    @unittest.skipUnless(shutil.which("strace"), "needs strace")
    def test_system_calls_that_the_unit_allows(self):
        """A session under strace asks the kernel for nothing that the unit's filter forbids."""
        listed = {}
        group = None
        for line in subprocess.run(["systemd-analyze", "syscall-filter"], capture_output=True, text=True, check=True).stdout.splitlines():
            if line.startswith("@"):
                group = listed.setdefault(line.strip(), set())
            elif line.strip() and not line.strip().startswith("#"):
                group.add(line.strip())

        def calls(names):
            return {c for n in names for c in (calls([*listed[n]]) if n.startswith("@") else [n])}

        allowed, forbidden = set(), set()
        for line in re.findall(r"^SystemCallFilter=(.*)$", read("omni.service"), re.M):
            if line.startswith("~"):
                forbidden |= calls(line[1:].split())
            else:
                allowed |= calls(line.split())
        with tempfile.TemporaryDirectory() as folder:
            log = os.path.join(folder, "calls")
            omni, harness.OMNI = harness.OMNI, os.path.join(folder, "omni")
            try:
                with open(harness.OMNI, "w") as f:
                    f.write(f"#!/bin/sh\nexec strace -D -f -qq -o {log} {omni} \"$@\"\n")
                os.chmod(harness.OMNI, 0o755)
                server = harness.Server()
                server.chat("Hi", modalities=["text", "audio"])
                server.ask("POST", "/v1/audio/speech", {"input": "Hi", "response_format": "mp3"})
                self.assertEqual(server.stop(), 0)
            finally:
                harness.OMNI = omni
            with open(log) as f:
                used = set(re.findall(r"^\d+ +(\w+)\(", f.read(), re.M))
        self.assertGreater(len(used), 20)
        self.assertEqual(used - (allowed - forbidden), set())


if __name__ == "__main__":
    harness.OMNI = os.path.abspath(sys.argv.pop(1))
    program = unittest.main(exit=False, argv=sys.argv)
    r = program.result
    print(f"{r.testsRun - len(r.failures) - len(r.errors) - len(r.skipped)} passed, {len(r.failures) + len(r.errors)} failed")
    sys.exit(0 if r.wasSuccessful() and r.testsRun > 0 else 1)
