#!/bin/sh
# triton_venv.sh FOLDER: a virtual environment with a real Triton server and what its Python backend needs for our ONNX
# artifacts: numpy 1.26 and ONNX Runtime, no torch. This package is read from the repository.
# PYTHON: 3.8 to 3.12 with a shared library, as Triton's own processes are; without it python3
set -eu
folder=$1 python=${PYTHON:-python3}
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)

pinned() {
    grep -E "^$1==" "$root/constraints.txt"
}

rm -rf "$folder"
"$python" -m venv "$folder"
# Without what the wheel asks for: that is for clients, and older than the clients here.
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    nvidia-pytriton==0.7.0 numpy==1.26.4 "$(pinned onnxruntime)" "$(pinned flatbuffers)" "$(pinned protobuf)"
packages=$("$folder/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
echo "$root" >"$packages/medattn-edge.pth"
release=$("$folder/bin/python" -c "import sys; print('%d.%d' % sys.version_info[:2])")
server=$packages/pytriton/tritonserver
cp "$server/python_backend_stubs/$release/"* "$server/backends/python/"
"$folder/bin/python" -c "import medattn_edge.serving.python_model"
