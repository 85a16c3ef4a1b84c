#!/usr/bin/env bash
# Make tests/gpu/wheels/site.tar.xz (29 MiB): the Python packages that a GPU machine lacks, for Python 3.12 on x86-64 Linux.
#
#     tests/gpu/wheels.sh
#
# Versions are those of requirements.lock. hdf5plugin (45 MB) is not among them, see standin/hdf5plugin.py; numpy, h5py,
# pyarrow, pandas, scipy, pillow, torch, torchvision, timm, safetensors, tqdm, psutil, PyYAML, requests and rich are
# expected on the machine.
set -euo pipefail
cd "$(dirname "$0")"
names="rdkit zstandard isal pydantic pydantic-core annotated-types typing-inspection typing-extensions cyclopts
    docstring-parser attrs rich-rst pebble loky cloudpickle pyspng epam-indigo tenacity"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
wanted=()
for name in $names; do
    wanted+=("$(grep -oE "^$name==[^ ;\\]+" ../../requirements.lock)")
done
platforms=()
for glibc in 2_34 2_28 2_27 2_17; do
    platforms+=(--platform "manylinux_${glibc}_x86_64")
done
"${PYTHON:-python3}" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" --platform manylinux2014_x86_64 --platform manylinux1_x86_64 --dest "$work/wheels" "${wanted[@]}"
for wheel in "$work"/wheels/*.whl; do
    "${PYTHON:-python3}" -m zipfile -e "$wheel" "$work/site"
done
rm -rf "$work"/site/rdkit/Contrib "$work"/site/rdkit-stubs
mkdir -p wheels
tar -cC "$work/site" . | xz -6 > wheels/site.tar.xz
ls -l wheels/site.tar.xz
