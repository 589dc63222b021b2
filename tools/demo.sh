#!/usr/bin/env bash
# Shows what learned exemplars are: trains on scikit-learn's handwritten digits twice, with one
# exemplar a class, first chosen by herding and then learned, and compares the two runs.
#   tools/demo.sh                     everything goes to runs/demo
#   tools/demo.sh runs/other --seed=1 to another folder, and flags for both trainings
# Works from any directory; paths are taken from the directory it is called in. Called again it goes
# on where it was stopped.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_requirements requirements.txt

folder=runs/demo
if [[ $# -gt 0 && $1 != -* ]]; then
  folder=$1
  shift
fi

# -P keeps files of the current directory from standing in for packages.
run() {
  PYTHONPATH=$repository "$environment/bin/python" -P -m "$@"
}

train() {
  run mnemonics_tf.train --flagfile="$repository/configs/digits_demo.flags" "${@:2}" \
    --run_dir="$folder/$1"
}

train herding "$@" --exemplars=herding
train learned "$@" --exemplars=mnemonics --phase0_from="$folder/herding"

runs=("herding=$folder/herding" "learned=$folder/learned")
run mnemonics_tf.report "${runs[@]}" --output="$folder/report.html"
run tools.show_learning "${runs[@]}" --output="$folder/exemplars.png"
echo "report:  $folder/report.html"
