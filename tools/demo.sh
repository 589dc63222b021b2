#!/usr/bin/env bash
# Trains with the flags given, in an environment that it makes at the first call:
#   tools/demo.sh --run_dir=runs/demo --method=joint
# Works from any directory; paths in the flags are taken from the directory it is called in.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_requirements requirements.txt

# -P keeps files of the current directory from standing in for packages.
PYTHONPATH=$repository exec "$environment/bin/python" -P -m mnemonics_tf.train "$@"
