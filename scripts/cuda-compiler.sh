#!/usr/bin/env bash
# Prints the path of nvcc: the one on the PATH or in /usr/local/cuda, else one from PyPI's wheels in a folder outside the tree (about 330 MB).
# usage: cuda-compiler.sh [FOLDER]   (default: ~/.cache/omni/cuda)
set -eu
for nvcc in "${CUDACXX-}" "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc; do
  if [ -n "$nvcc" ] && [ -x "$nvcc" ]; then echo "$nvcc" && exit 0; fi
done
folder=${1:-$HOME/.cache/omni/cuda}
if [ ! -e "$folder/ready" ]; then
  rm -rf "$folder"
  python3 -m venv "$folder"
  "$folder/bin/pip" install -q --disable-pip-version-check nvidia-cuda-nvcc==13.0.* nvidia-cuda-runtime==13.0.* nvidia-cuda-cccl==13.0.* >&2
  # The wheels have the toolkit's tree but for the folder in which nvcc looks for libraries.
  for tree in "$folder"/lib/python3*/site-packages/nvidia/cu13; do ln -sfn lib "$tree/lib64"; done
  touch "$folder/ready"
fi
echo "$folder"/lib/python3*/site-packages/nvidia/cu13/bin/nvcc
