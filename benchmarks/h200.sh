#!/usr/bin/env bash
# What is to be shown on an NVIDIA GPU, in one run of ten minutes or less: results in benchmarks/results/h200.json.
#
#     benchmarks/h200.sh                    # on the machine with the GPU; the same command again goes on
#     benchmarks/h200.sh --rehearse         # every step with tiny sizes on a CPU: finds the mistakes before the day
#     benchmarks/h200.sh pack LOADS         # where there is a network: wheels for a machine without one, in pieces
#     benchmarks/h200.sh take LOADS/1       # on that machine, for each load: keep its pieces; the last one installs
#
# Steps run in the order of what they prove. Each is a process of its own with a time limit; one that fails or hangs does
# not stop the others. Every figure is in the JSON file as soon as it is known, so that a run that is cut off leaves what
# it found, and the next one measures only what is missing. `--help` names the options; PYTHON names the interpreter.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "$0")/h200/main.py" "$@"
