# Sourced by scripts/demo and scripts/test: makes .venv with everything in it, or uses the one that is up to date.
# Needs bash and python3 (3.11 or newer).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 2; }

stamp=.venv/.made-from
python=${PYTHON:-python3}

command -v "$python" >/dev/null || die "$python is not installed; install Python 3.11 or newer, or set PYTHON"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  die "$("$python" --version) is too old; sparsense needs Python 3.11 or newer: set PYTHON"
wanted=$("$python" -c 'import hashlib, pathlib; print(hashlib.sha256(pathlib.Path("pyproject.toml").read_bytes()).hexdigest())')

if [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]; then
  say "using .venv, which is up to date"
else
  if [ ! -x .venv/bin/python ]; then
    say "making .venv with $("$python" --version)"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
      die "this Python has no venv module; install it (on Debian and Ubuntu: apt install python3-venv)"
    "$python" -m venv .venv
  fi
  say "installing torch, then sparsense with all extras (some minutes the first time)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[all,dev]'
  printf '%s\n' "$wanted" >"$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
