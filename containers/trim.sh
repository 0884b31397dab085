#!/bin/sh
# trim.sh PREFIX: takes out of an installation what a host that only runs networks on its CPU never opens.
#
# OpenVINO's plugins for GPUs and NPUs with their cache of kernels, its readers of other formats than its own and ONNX,
# and the test suites of packages. Every group must be there: a package that was laid out anew stops the build.
set -eu

[ $# = 1 ] && [ -d "$1/lib" ] || { echo "trim.sh: expected the folder of an installation; try: containers/install.sh" >&2; exit 2; }
packages=$(find "$1/lib" -maxdepth 2 -name site-packages)
before=$(du -sm "$1" | cut -f1)

remove() {
    what=$1
    shift
    found=$(find "$packages" "$@" -prune -print)
    [ -n "$found" ] || { echo "trim.sh: found no $what below $packages, expected some; look at: find $*" >&2; exit 2; }
    echo "$found" | while IFS= read -r one; do rm -r "$one"; done
    echo "left out: $what"
}

remove "OpenVINO's plugin for GPUs" -name 'libopenvino_intel_gpu_plugin.so'
remove "OpenVINO's kernels for GPUs" -path '*/openvino/libs/cache.json'
remove "OpenVINO's plugin for NPUs" -name 'libopenvino_intel_npu_plugin.so'
remove "OpenVINO's readers of other formats" \
    -regextype posix-extended -regex '.*/libopenvino_(tensorflow|tensorflow_lite|pytorch|paddle|jax|gguf)_frontend\.so.*'
remove "test suites of packages" -type d -name tests -not -path '*/medattn_edge/*'
echo "$1: $before MiB, now $(du -sm "$1" | cut -f1) MiB"
