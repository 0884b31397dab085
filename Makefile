# make demo    segments a real chest CT with an exported network and proves that it agrees with the eager one
# make test    checks and tests; under ten minutes on two cores
# Each sets up .venv by itself, with Python 3.11 or newer; make test PYTHON=python3.13 sets up .venv-python3.13.
ifndef PYTHON
VENV ?= .venv
else
VENV ?= .venv-$(notdir $(PYTHON))
endif
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; break; }; done)
LOWEST_PYTHON ?= python3.11
# Of JetPack 6; a name alone may be pyenv's, which then says that there is none.
PYTHON310 ?= $(shell for name in python3.10 $$HOME/.pyenv/versions/3.10.*/bin/python3.10; do \
	$$name -c 'import ensurepip' 2>/dev/null && { echo $$name; break; }; done)
TRITON_PYTHON ?= $(shell for name in python3.11 python3.12 python3.10; do \
	$$name -c 'import ensurepip' 2>/dev/null && { echo $$name; break; }; done)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
INSTALL := $(PIP) --constraint constraints.txt
# What is installed, by its hashes; --no-deps, because the file is complete but for torch (SECURITY.md says why).
LOCKED := $(PIP) --require-hashes --no-deps --requirement requirements.lock
# torch, and what only its build from PyPI with CUDA needs: SECURITY.md says why they have no hashes.
UNLOCKED := pip torch triton cuda-toolkit $(addprefix nvidia-, cublas cuda-cupti cuda-nvrtc cuda-runtime \
	cudnn-cu13 cufft cufile curand cusolver cusparse cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx)

SHARED := --numprocesses 2 --dist loadfile

# What meets every library that pyproject.toml bounds, in two minutes.
LOWEST := tests/test_floors.py tests/test_benchmarks.py $(addprefix tests/, \
	backends/test_runtimes.py cli/test_infer.py cli/test_node.py exporters/test_onnx_tidy.py inference/test_segment.py \
	inference/test_tiling.py io/dicom/test_pixels.py io/dicom/test_seg.py io/test_image.py io/test_nifti.py io/test_nrrd.py \
	models/test_resnet.py precision/test_quantizers.py scanner/test_metrics.py scanner/test_receive.py \
	scanner/test_tls.py training/test_evaluate.py)

# What a host without torch runs, in half a minute on Python 3.10.
ON_310 := $(addprefix tests/, host process spec/test_model.py spec/test_schema.py test_atomic.py inference/test_tiling.py \
	io/test_nifti.py io/test_numpy.py scanner/test_log.py scanner/test_tasks.py scanner/test_disk.py \
	scanner/test_receive.py cohort/test_cases.py)

.PHONY: demo test test-slow test-gpu test-faults test-lowest test-310 mutants corpus check audit lock sbom format bench \
	bench-published bench-gpu bench-isa bench-curves bench-node bench-scale bench-remote bench-report docs clean

demo: $(VENV)/.demo
	$(BIN)/medattn-edge demo -o demo

test: check
	$(BIN)/python -m pytest -m "not slow and not gpu" $(SHARED)

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m "slow and not gpu" $(SHARED) --no-loadscope-reorder --timeout 1200

# At least 1,000 faults in the node's spool and database; their count is printed.
test-faults: $(VENV)/.dev
	$(BIN)/python -m pytest tests/adversarial/test_fault_machine.py -m "slow or not slow" --timeout 1200

# Every scan below a folder of yours, inspected, segmented and held to other readers: make corpus DIR=/data/scans
corpus: $(VENV)/.dev
	$(BIN)/python -m tests.corpus $(DIR)

test-gpu: $(VENV)/.dev
	$(BIN)/python -m pytest -m gpu --timeout 1200

# The lowest versions that pyproject.toml allows, in an environment of their own.
test-lowest: .venv-lowest/.test
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -m "not slow and not gpu" $(LOWEST)

# The core without torch on Python 3.10, in an environment of its own; where there is none, that is said and nothing is run.
test-310:
ifeq ($(PYTHON310),)
	@echo "NOT RUN on Python 3.10: there is no python3.10 here; its types were checked. apt-get install python3.10-venv"
else
	$(MAKE) --no-print-directory .venv-310/.test
	OMP_NUM_THREADS=1 .venv-310/bin/python -m pytest -m "not slow and not gpu" $(ON_310)
endif

# Half an hour of one-line faults in a copy of the tree, drawn by a fixed seed: how many do the tests notice? tests/mutants.md
mutants: $(VENV)/.mutants
	$(BIN)/python -m tests.support.mutants

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m tests.support.audit

# Known vulnerabilities of what is locked; make check does the same, and says so where the database cannot be reached.
audit: $(VENV)/.dev
	$(BIN)/python -m tests.support.audit

# Everything that a scanner host gets with the wheel, as a bill of materials in CycloneDX: dist/medattn-edge.cdx.json
sbom: $(VENV)/.dev
	test -x .venv-lock/bin/cyclonedx-py || { $(PYTHON) -m venv .venv-lock && \
		.venv-lock/bin/python -m pip install --quiet cyclonedx-bom==7.5.0; }
	rm -rf .venv-sbom && $(PYTHON) -m venv .venv-sbom
	$(BIN)/python -m build --wheel --outdir dist .
	.venv-sbom/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		"$$(ls -t dist/medattn_edge-*.whl | head -1)[onnxruntime,openvino,dicom-codecs,node,nifti,nrrd,image,itk,tiff,zstd,cleanup]"
	.venv-lock/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible \
		--output-file dist/medattn-edge.cdx.json .venv-sbom/bin/python

# Writes the hashes of constraints.txt anew, after a change of a pin or of a bound, and those of the images.
UV_COMPILE := .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-header --constraint constraints.txt
# What an image installs, as its Dockerfile says.
extras_of = $(addprefix --extra ,$(subst $(comma), ,$(shell sed -n 's/^ARG EXTRAS=//p' containers/Dockerfile.$(1))))
comma := ,
lock: $(VENV)/.dev
	test -x .venv-lock/bin/uv || { $(PYTHON) -m venv .venv-lock && .venv-lock/bin/python -m pip install --quiet uv==0.13.9; }
	$(UV_COMPILE) --extra dev --extra mutants --extra peers $(addprefix --no-emit-package , $(UNLOCKED)) \
		--output-file requirements.lock pyproject.toml
	$(UV_COMPILE) $(call extras_of,cpu) --output-file containers/cpu.lock pyproject.toml containers/cpu.in
	$(UV_COMPILE) $(call extras_of,cuda) --output-file containers/cuda.lock pyproject.toml containers/cuda.in

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(INSTALL) --editable ".[dev,peers]"
	$(BIN)/python -m pytest benchmarks -m "not gpu" --benchmark-only -s --timeout 3600
	$(BIN)/python benchmarks/report.py

# Networks of the published width, trained to be measured; with CT=SCAN CT_LABELS=LABELS the 3-D one too. About an hour.
bench-published: $(VENV)/.dev
	$(BIN)/python benchmarks/train_published.py $(CT) $(CT_LABELS)

# On a host that has a Python and an NVIDIA driver. Its environment is one of its own, because ONNX Runtime for CUDA
# writes over the one for CPUs; TensorRT and Torch-TensorRT are measured where they are added to it:
# .venv-gpu/bin/python -m pip install 'medattn-edge[tensorrt]' --extra-index-url https://pypi.nvidia.com
bench-gpu: .venv-gpu/.made
	.venv-gpu/bin/python benchmarks/gpu.py $(CASE)

# The instruction sets of other CPUs, on 1, 2 and 4 threads; of another case with CASE=NAME. Ten minutes on two cores.
bench-isa: $(VENV)/.dev
	$(BIN)/python benchmarks/instruction_sets.py $(CASE)
	$(BIN)/python benchmarks/report.py

bench-curves: $(VENV)/.dev
	$(BIN)/python benchmarks/curves.py
	$(BIN)/python benchmarks/report.py

# A node with the shipped 2-D network, from the last object's C-STORE to the segmentation in an archive.
bench-node: $(VENV)/.dev
	mkdir -p .benchmarks
	checkpoint=$$($(BIN)/python -c "from medattn_edge.data import shipped_checkpoints as s; print(s()['lungs-attention-unet-2d'])") && \
	scan=$$($(BIN)/python -c "from medattn_edge.data.samples import sample_scan; print(sample_scan())") && \
	$(BIN)/medattn-edge export "$$checkpoint" -o .benchmarks/lungs.onnx && \
	$(BIN)/python benchmarks/node.py .benchmarks/lungs.onnx "$$scan" -o benchmarks/results/node-lungs-attention-unet-2d.json

# Two workers against one, each with one thread: sessions, and cohorts of copies of a scan; a quarter of an hour on two quiet
# cores.
bench-scale: $(VENV)/.dev
	mkdir -p .benchmarks
	checkpoint=$$($(BIN)/python -c "from medattn_edge.data import shipped_checkpoints as s; print(s()['lungs-attention-unet-2d'])") && \
	scan=$$($(BIN)/python -c "from medattn_edge.data.samples import sample_scan; print(sample_scan())") && \
	$(BIN)/medattn-edge export "$$checkpoint" -o .benchmarks/lungs.onnx && \
	$(BIN)/python benchmarks/scale.py .benchmarks/lungs.onnx "$$scan" -o .benchmarks/scale.json

# A real Triton server against a session of this host, near and far away; ten minutes on two quiet cores.
bench-remote: $(VENV)/.dev .venv-triton/.made
	$(BIN)/python benchmarks/remote.py -o benchmarks/results/remote.json

bench-report: $(VENV)/.dev
	$(BIN)/python benchmarks/report.py

# The pages in docs/, in site/: open site/index.html
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf demo build dist site work *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

# A real Triton server for its tests; its wheel has processes for Python 3.8 to 3.12.
.venv-triton/.made: tests/support/triton_venv.sh constraints.txt
	PYTHON=$(TRITON_PYTHON) tests/support/triton_venv.sh .venv-triton
	@touch $@

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "medattn-edge needs Python 3.11 or newer: apt-get install python3.11-venv"; exit 3; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/.python
	$(INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt requirements.lock | $(VENV)/.python
	$(LOCKED)
	$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.mutants: pyproject.toml constraints.txt | $(VENV)/.python
	$(INSTALL) --editable '.[mutants]'
	@touch $@ $(VENV)/.dev $(VENV)/.demo

.venv-gpu/.made: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "medattn-edge needs Python 3.11 or newer: apt-get install python3.11-venv"; exit 3; }
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[peers,gpu,tensorrt-rtx]'
	.venv-gpu/bin/python -m pip uninstall --quiet --yes onnxruntime
	.venv-gpu/bin/python -m pip install --quiet onnxruntime-gpu==1.31.1
	@touch $@

.venv-310/.test: pyproject.toml constraints-3.10.txt
	$(PYTHON310) -m venv --clear .venv-310
	.venv-310/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: \
		--constraint constraints-3.10.txt --editable '.[onnxruntime,openvino,nifti,nrrd,node]' \
		cryptography hypothesis pytest pytest-timeout slicerio
	@touch $@

.venv-lowest/.test: pyproject.toml floors.txt
	@command -v $(LOWEST_PYTHON) >/dev/null || { echo "the lowest versions run on Python 3.11: apt-get install python3.11-venv"; exit 3; }
	$(LOWEST_PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --constraint floors.txt \
		--editable '.[test]'
	@touch $@
