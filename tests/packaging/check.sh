#!/usr/bin/env bash
# The distributions as a user gets them: built, compared, installed alone, used from outside.
# check.sh [FOLDER]: where to work, outside the repository; by default a temporary folder.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
if [ $# -gt 0 ]; then
    work=$1
    mkdir -p "$work"
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
work=$(cd "$work" && pwd)
quiet=(--quiet --disable-pip-version-check)

"${PYTHON:-python3}" -m venv "$work/tools"
"$work/tools/bin/pip" install "${quiet[@]}" build
rm -rf "$work/direct" "$work/by-sdist"
"$work/tools/bin/python" -m build --wheel --outdir "$work/direct" "$root"
"$work/tools/bin/python" -m build --outdir "$work/by-sdist" "$root" # the sdist, then its wheel
cmp "$work"/direct/*.whl "$work"/by-sdist/*.whl

"${PYTHON:-python3}" -m venv "$work/user"
"$work/user/bin/pip" install "${quiet[@]}" -c "$root/constraints.txt" mypy "$work"/direct/*.whl
cp "$root/docs/howto/own_model.py" "$(dirname "$0")/check_installed.py" "$work"
cd "$work" # where no source shadows the package
"$work/user/bin/python" -W error check_installed.py direct/*.whl "$root"
"$work/user/bin/python" own_model.py
"$work/user/bin/perturb-nc" metrics measured.safetensors >/dev/null
echo "the wheel is good: $(ls "$work"/direct/*.whl)"
