#!/usr/bin/env bash
# Measures again what docs/performance.md and README.md say, on a quiet machine, and writes both. Every line is a run of
# its own of a few minutes on two cores, but for those marked; give the numbers of some to run these alone:
#
#     DATA=path/to/minibench TRAINING=path/to/trainphotos LANDMARKS=path/to/landmarks PYTHON=python3 benchmarks/all.sh [NUMBER…]
#
# After an interruption the same command goes on where `ctxdeploy bench` measures; the scripts begin anew.
set -euo pipefail
PYTHON=$(command -v "${PYTHON:-python3}")
PYTHON=$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON") # as it is: behind its link is no virtual environment
DATA=$(realpath "${DATA:?folder with gnd.json and images/}")
TRAINING=$(realpath "${TRAINING:?folder of photos to calibrate and to train codebooks with}")
LANDMARKS=$(realpath "${LANDMARKS:?folder of folders of photos, one landmark each, for the ablation}")
cd "$(dirname "$0")/.."
WORK=benchmarks/work
BUNDLE=$WORK/precisions/how-R18.ctxbundle CHECKPOINT=$WORK/precisions/how-R18.pth
SMALL=../ctxdeploy/models/ctx-small
RESULTS=benchmarks/results
mkdir -p "$WORK"
unset OPENBLAS_CORETYPE # the scripts choose the fastest for the peer

bench() { "$PYTHON" -m ctxdeploy.cli.main bench "$@" >/dev/null; }
part() { (cd benchmarks && "$PYTHON" "$@" >/dev/null); }

steps=(
    "part networks.py export --photos '$DATA' --calibrate '$TRAINING'" # half an hour: ten networks, once
    "part networks.py precisions --photos '$DATA'"                     # a quarter of an hour: precisions.json
    "part families.py --photo \"\$(find '$DATA/images' -name '*.jpg' | sort | head -1)\" --calibrate '$TRAINING'" # an hour: families.json
    "bench extract '$DATA/images' --model $BUNDLE --checkpoint $CHECKPOINT --count 3 --batch-sizes 1,2 --windows 10 --block 2 -o $RESULTS/bench-extract.json --plots $RESULTS"
    "bench extract '$DATA/images' --model $BUNDLE --count 4 --batch-sizes 1 --thread-counts '' --no-peer --against backend=openvino,precision=bf16 --against backend=openvino,precision=int8 -o $RESULTS/bench-engines.json"
    "bench search --queries 30 --windows 10 --block 2 -o $RESULTS/bench-search.json --plots $RESULTS"
    "bench end-to-end '$DATA/images' --model $BUNDLE --count 6 --words 128 --windows 6 --block 2 -o $RESULTS/bench-end-to-end.json"
    "part slowdown.py --bundle ../$BUNDLE --photos '$DATA/images' --parts same-a"
    "part slowdown.py --bundle ../$BUNDLE --photos '$DATA/images' --parts same-b"
    "part slowdown.py --bundle ../$BUNDLE --photos '$DATA/images' --parts slower"
    "part slowdown.py --bundle ../$BUNDLE --photos '$DATA/images' --parts turns"
    "part index.py search"
    "part index.py add"
    "part index.py batch"
    "part index.py query"
    "part geometry.py --photos '$DATA/images'"
    "part assign.py"
    "part all_pairs.py"
    "part global_search.py" # half an hour, 17 GB of disk, 12 GB of memory
    "part million.py" # a quarter of an hour, 8 GB
    "part simulation.py" # two minutes, of what the others found
    "part networks.py extract --photos '$DATA/images'"
    "part indexing.py whole --photos '$DATA/images' --bundle ../$BUNDLE --checkpoint ../$CHECKPOINT" # half an hour
    "part indexing.py whole --photos '$DATA/images' --bundle $SMALL --checkpoint $SMALL/ctx-small.pth --output results/whole-small.json"
    "part turns.py --photos '$DATA/images'"
    "part indexing.py kills --photos '$DATA/images'"
    "part indexing.py shapes --photos '$DATA/images'" # ten minutes
    "\"$PYTHON\" -m ctxdeploy.cli.main eval '$DATA' --model ctx-small -o $WORK/minibench-small.ctxindex --worst 5 --json >$RESULTS/eval-minibench-ctx-small.json"
    "\"$PYTHON\" -m ctxdeploy.cli.main eval '$DATA' --model lite-small -o $WORK/minibench-lite.ctxindex --worst 5 --json >$RESULTS/eval-minibench.json"
    "part ablation.py --init $SMALL/ctx-small.pth --landmarks '$LANDMARKS' --data '$DATA'" # an hour and a half
    "part minibench.py --data '$DATA' --training '$TRAINING'"                              # ten minutes
    "part pairs.py '$DATA' --archive work/minibench-pairs.ctxindex --work work/pairs"                   # pycolmap
    "part serve.py --photos '$DATA' --archive work/minibench-pairs.ctxindex" # half an hour
    "part serve.py --only-memory --memory-requests 10000 --archive work/minibench-pairs.ctxindex --output results/serve-memory.json"
    "part latency.py --photos '$DATA' --archive work/minibench-pairs.ctxindex"
    "part names.py"
    "part cluster.py rate"          # half an hour: cluster_rate.json
    "part cluster.py memory"        # ten minutes: cluster_memory.json
    "part cluster.py ledger"        # ten minutes: cluster_ledger.json
    "part cluster_kills.py"         # an hour or less
    "part shards.py"                # a quarter of an hour
    "part operating_points.py '$DATA'" # half an hour or more
    "part duplicates.py --photos '$TRAINING' --work work/duplicates --minibench work/minibench-pairs.ctxindex"
    "part judgement.py --data '$DATA' --model lite-small"                                               # ten minutes
    "part judgement.py --data '$DATA' --model ctx-small --output results/judgement-ctx-small.json"      # ten minutes
    "part turned.py --data '$DATA' --model lite-small" # ten minutes
    "part dark.py '$DATA'" # ten minutes
    "part ranking.py '$DATA' ../$WORK/lite-small.npz ../ctxdeploy/models/lite-small/codebook.safetensors" # ten minutes
    "part ranking.py '$DATA' ../$WORK/ctx-small.npz $SMALL/codebook.safetensors --model ctx-small --expansion --output results/ranking-ctx-small.json"
    "part verification.py '$DATA' ../$WORK/lite-small.npz ../ctxdeploy/models/lite-small/codebook.safetensors"
    "part frameworks.py '$DATA' ../$WORK/lite-small.npz ../ctxdeploy/models/lite-small/codebook.safetensors"
    "part frameworks.py '$DATA' ../$WORK/ctx-small.npz ../ctxdeploy/models/ctx-small/codebook.safetensors --model ctx-small --output results/frameworks-ctx-small.json"
    "part operator_limits.py --trunks R18 R50- --precisions fp16 --parts 'smoothing, k=3' 'smoothing, k=7' 'graph, threshold' 'graph, attention'" # minutes
    # hours: the study of docs/study.md; its commands stand on that page (context_study.json, context_study_whole.json, selection.json)
    "part gpu_words.py --photos '$DATA/images' --descriptors work/descriptors.npy" # ten minutes
    "part graph_forms.py" # two minutes
    # on a machine with a GPU: benchmarks/h200.sh (h200.json)
    "$PYTHON benchmarks/performance.py"
)

wanted=("$@")
[ ${#wanted[@]} -gt 0 ] || wanted=($(seq 1 ${#steps[@]}))
for number in "${wanted[@]}"; do
    echo "$(date -u +%H:%M:%S) $number of ${#steps[@]}: ${steps[number - 1]}" >&2
    eval "${steps[number - 1]}"
done
