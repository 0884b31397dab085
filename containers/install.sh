#!/bin/sh
# install.sh PREFIX EXTRAS [FILE]: medattn-edge with these extras in a new virtual environment.
#
# The Dockerfiles beside it run this, and so does a test of CI, in a clean environment and without a daemon.
#   PREFIX   a folder that is not there yet
#   EXTRAS   of pyproject.toml, joined by commas, or "" for none
#   FILE     NAME.lock: what to install, each file by its SHA-256; NAME.in: more requirements, and pip takes what these
#            and the bounds of pyproject.toml allow, as it does without a file
# PYTHON               the interpreter; without it python3
# SYSTEM_SITE_PACKAGES 1: the system's packages are seen too (TensorRT of JetPack is such a one)
set -eu

stop() {
    echo "install.sh: $1" >&2
    exit 2
}

if [ $# -lt 2 ] || [ $# -gt 3 ]; then
    stop "found $# arguments, expected PREFIX EXTRAS [FILE]; try: containers/install.sh /opt/medattn node,openvino containers/cpu.lock"
fi
prefix=$1 extras=$2 file=${3:-} python=${PYTHON:-python3}
source=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
[ ! -e "$prefix" ] || stop "$prefix is there, expected a new folder; try: rm -r $prefix"
[ -z "$file" ] || [ -f "$file" ] || stop "found no file $file, expected a NAME.lock or NAME.in; try: ls containers"

set -- -m venv
system=${SYSTEM_SITE_PACKAGES:-0}
[ "$system" != 1 ] || set -- "$@" --system-site-packages
"$python" "$@" "$prefix"

pip() {
    "$prefix/bin/python" -m pip --disable-pip-version-check --no-input "$@"
}

name=medattn-edge${extras:+[$extras]}
case $file in
*.lock)
    pip install --quiet --require-hashes --no-deps --only-binary :all: --requirement "$file"
    # The lock has setuptools, so that nothing comes from an index after the hashes were compared.
    pip install --quiet --no-index --no-deps --no-build-isolation "$source"
    echo "$name: every package by its SHA-256 in $file"
    ;;
*)
    pip install --quiet "$source${extras:+[$extras]}" ${file:+--requirement "$file"}
    echo "$name: without a lock: versions are what ${file:-pyproject.toml} and its bounds allow today, and no hash was compared"
    ;;
esac
# With --no-index pip finds only what is installed: nothing may be missing of what the extras ask for.
pip install --quiet --no-index "$name"
# The system's packages are the system's own business.
[ "$system" = 1 ] || pip check

"$prefix/bin/medattn-edge" --version
# A host that runs things needs nothing that installs things.
for tool in setuptools pip; do
    if pip show --quiet "$tool" 2>/dev/null; then
        pip uninstall --quiet --yes "$tool"
    fi
done
echo "$prefix: $(du -sm "$prefix" | cut -f1) MiB"
