#!/usr/bin/env bash
# Everything that ocsrflow was never seen doing on a GPU, in one command:
#
#     tests/gpu/run.sh [--minutes 9] [--out FOLDER] [--toy]
#
# Tables (gpu.md, gpu.json), a log and the trained model go to FOLDER, by default $OUT or results/gpu. Exit status: 0
# all is as it should be, 1 something failed (gpu.md says what and why), 2 no GPU here. --toy: tiny, on the CPU.
# Nothing is downloaded. Python packages that the machine lacks are taken from tests/gpu/wheels/site.tar.xz, which
# tests/gpu/wheels.sh makes beforehand where there is a network.
set -euo pipefail
export GPU_BEGAN=$(date +%s)
cd "$(dirname "$0")/../.."
python=${PYTHON:-$(test -x .venv/bin/python && echo .venv/bin/python || echo python3)}
site=""
if ! "$python" -c 'import rdkit, pydantic, zstandard, pyspng, pebble, loky, isal, tenacity' 2> /dev/null; then
    test -f tests/gpu/wheels/site.tar.xz || { echo "no RDKit here: bring tests/gpu/wheels/site.tar.xz along" >&2; exit 1; }
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    tar -xJf tests/gpu/wheels/site.tar.xz -C "$site" 2> /dev/null \
        || "$python" -m tarfile -e tests/gpu/wheels/site.tar.xz "$site" # no xz there
fi
# The benchmarks' functions are used; standin/ has what stands for hdf5plugin.
export PYTHONPATH="$PWD/workflow:$PWD/tests/gpu:$PWD/tests/benchmarks:$PWD/tests/gpu/standin:$site:${PYTHONPATH:-}"
# By -c: the processes that it spawns must not import a main module, and PyTorch with it.
"$python" -c 'import check; check.main()' "$@"
