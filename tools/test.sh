#!/usr/bin/env bash
# Checks format, lint and types, then runs the tests, in an environment that it makes at the first call.
# tools/test.sh          all but the tests marked `exhaustive`
# tools/test.sh --all    these too
# tools/test.sh --fast   without the tests marked `slow`: 2 minutes at most on two quiet cores
# Other arguments go to pytest: tools/test.sh tests/data -k cifar
# Tests on real images need MNEMONICS_TEST_DATA, a folder with the data sets' archives.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_requirements requirements.txt requirements-dev.txt

cd "$repository"
"$environment/bin/ruff" format --check .
"$environment/bin/ruff" check .
"$environment/bin/mypy"

export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
# Many files repay a second process. A file stays in one process, which compiles its graphs once. The
# order is that of tests/conftest.py, not by the number of tests in a file.
two_processes=(-n 2 --dist loadfile --no-loadscope-reorder)
if [[ $# -eq 0 ]]; then
  set -- "${two_processes[@]}"
elif [[ $1 == --fast ]]; then
  set -- "${two_processes[@]}" -m "not slow" "${@:2}"
elif [[ $1 == --all ]]; then
  set -- "${two_processes[@]}" -m "" "${@:2}"
fi
"$environment/bin/python" -m pytest --durations=15 "$@"
