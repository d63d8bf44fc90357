#!/usr/bin/env bash
# Measures again what docs/performance.md and README.md say, on a quiet machine, and writes both. Every line is a run of
# its own of a few minutes on two cores, but for those marked; give the numbers of some to run these alone:
#
#     DATA=path/to/minibench TRAINING=path/to/trainphotos LANDMARKS=path/to/landmarks PYTHON=python3 benchmarks/all.sh [NUMBER…]
#
# What was interrupted goes on with the same command where it is a result of `ctxdeploy bench`; the scripts begin anew.
set -euo pipefail
PYTHON=$(command -v "${PYTHON:-python3}")
PYTHON=$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON") # as it is: behind its link is no virtual environment
DATA=$(realpath "${DATA:?folder with gnd.json and images/}")
TRAINING=$(realpath "${TRAINING:?folder of photos to calibrate and to train codebooks with}")
LANDMARKS=$(realpath "${LANDMARKS:?folder of folders of photos, one landmark each, for the ablation}")
cd "$(dirname "$0")/.."
WORK=benchmarks/work
BUNDLE=$WORK/precisions/how-R18.ctxbundle CHECKPOINT=$WORK/precisions/how-R18.pth
RESULTS=benchmarks/results
mkdir -p "$WORK"
unset OPENBLAS_CORETYPE # the scripts choose the fastest for the peer

bench() { "$PYTHON" -m ctxdeploy.cli.main bench "$@" >/dev/null; }
part() { (cd benchmarks && "$PYTHON" "$@" >/dev/null); }

steps=(
    "part precisions.py --photos '$DATA' --calibrate '$TRAINING' --export-only" # half an hour: ten networks, once
    "part precisions.py --photos '$DATA' --calibrate '$TRAINING' --rounds 5"    # a quarter of an hour
    "bench extract '$DATA/images' --model $BUNDLE --checkpoint $CHECKPOINT --count 3 --batch-sizes 1,2 --windows 10 --block 2 -o $RESULTS/bench-extract.json --plots $RESULTS"
    "bench extract '$DATA/images' --model $BUNDLE --count 4 --batch-sizes 1 --thread-counts '' --no-peer --against backend=openvino,precision=bf16 --against backend=openvino,precision=int8 -o $RESULTS/bench-engines.json"
    "bench search --queries 30 --windows 10 --block 2 -o $RESULTS/bench-search.json --plots $RESULTS"
    "bench end-to-end '$DATA/images' --model $BUNDLE --count 6 --words 128 --windows 6 --block 2 -o $RESULTS/bench-end-to-end.json"
    "$PYTHON benchmarks/slowdown.py --bundle $BUNDLE --photos '$DATA/images' --parts same-a"
    "$PYTHON benchmarks/slowdown.py --bundle $BUNDLE --photos '$DATA/images' --parts same-b"
    "$PYTHON benchmarks/slowdown.py --bundle $BUNDLE --photos '$DATA/images' --parts slower"
    "$PYTHON benchmarks/slowdown.py --bundle $BUNDLE --photos '$DATA/images' --parts turns"
    "part search.py"
    "part add.py"
    "part assign.py"
    "part batch.py"
    "part query.py"
    "part extract.py --photos '$DATA/images' --count 6"
    "part whole.py --photos '$DATA/images' --bundle ../$BUNDLE --checkpoint ../$CHECKPOINT"  # ten minutes
    "part million.py"                                                                        # a quarter of an hour, 8 GB
    "part whole.py --photos '$DATA/images' --bundle ../ctxdeploy/models/ctx-small --checkpoint ../ctxdeploy/models/ctx-small/ctx-small.pth --out results/whole-small.json"
    "\"$PYTHON\" -m ctxdeploy.cli.main eval '$DATA' --model ctx-small -o $WORK/minibench-small.ctxindex --worst 5 --json >$RESULTS/eval-minibench.json"
    "part ablation.py --init ../ctxdeploy/models/ctx-small/ctx-small.pth --landmarks '$LANDMARKS' --data '$DATA'" # an hour and a half
    "part minibench.py --data '$DATA' --training '$TRAINING'"                                # ten minutes
    "part kills.py --photos '$DATA/images'"
    "part shapes.py --photos '$DATA/images'"                                                 # ten minutes
    "$PYTHON benchmarks/performance.py"
)

wanted=("$@")
[ ${#wanted[@]} -gt 0 ] || wanted=($(seq 1 ${#steps[@]}))
for number in "${wanted[@]}"; do
    echo "$(date -u +%H:%M:%S) $number of ${#steps[@]}: ${steps[number - 1]}" >&2
    eval "${steps[number - 1]}"
done
