# The virtual environment that demo.sh and test.sh share; to be sourced.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
environment=$repository/.venv

# Prints the first Python on the PATH that the pinned packages support.
find_python() {
  local candidate
  for candidate in python3.11 python3.12 python3.13 python3 python; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
      2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "mnemonics_tf needs Python 3.11, 3.12 or 3.13, and the PATH holds none of them" \
    "(python3: $(python3 --version 2>&1 || true)); install one and try again" >&2
  return 1
}

# install_requirements FILE...: makes .venv hold what the files at the root of the repository pin.
# A copy of each installed file stays in .venv: nothing is done while the copies equal the files.
install_requirements() {
  local file current=yes arguments=()
  for file in "$@"; do
    arguments+=(-r "$repository/$file")
    cmp -s "$repository/$file" "$environment/$file" || current=no
  done
  if [[ $current == yes ]]; then
    return
  fi
  # An environment whose making was interrupted has no pip that works.
  if ! "$environment/bin/python" -m pip --version >/dev/null 2>&1; then
    local python
    python=$(find_python)
    echo "Making $environment with $("$python" --version)" >&2
    "$python" -m venv --clear "$environment"
  fi
  echo "Installing $* (a minute or two)" >&2
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile "${arguments[@]}"
  # Compiling every module would take minutes. But where PYTHONDONTWRITEBYTECODE is set each start
  # would compile TensorFlow's anew, more than half of its time: what it imports is compiled here.
  local told
  told=$(PYTHONDONTWRITEBYTECODE='' "$environment/bin/python" \
    -c 'import tensorflow, tensorboard.summary, sklearn.datasets' 2>&1) || {
    echo "$told" >&2
    return 1
  }
  for file in "$@"; do
    cp "$repository/$file" "$environment/$file"
  done
}
