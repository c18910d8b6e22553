# make demo   everything from nothing to output/demo.mp4, .webp and .jpg; the last line is one JSON object (the report)
# make check  the daily loop: ruff, mypy and every test of the engine that is not marked slow, on two processes
# make test   everything from nothing, then ruff, mypy and the whole test suite, a real ComfyUI included
#             (LiveKit and Pipecat included, unless FRAMEWORKS=0)
# make frameworks  the live avatar's adapters with the real LiveKit and Pipecat packages, from an environment of their own (.frameworks)
# make gpu    on a CUDA machine without network: all GPU measurements in 8 minutes into OUT (default output/gpu); DEVICE=cpu rehearses
#
# Respected: PYTHON (interpreter the environment is made from), VENV (where it goes), COMFYUI_PATH and
# COMFYUI_PYTHON (a ComfyUI of your own instead of .host), TORCH (what pip installs as torch), TORCH_INDEX
# (package index for torch, e.g. https://download.pytorch.org/whl/cpu), PYTEST_ARGS, TEST_PROCESSES.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
TM_HOST ?= .host
TM_FRAMEWORKS ?= .frameworks
FRAMEWORKS ?= 1
OUT ?= output/gpu
DEVICE ?= cuda
PYTEST_ARGS ?=
TEST_PROCESSES ?= 2

DEMO_IMAGE ?= tm_core/assets/portraits/demo.jpg
DEMO_AUDIO ?= tm_core/assets/speech/librivox_sense_and_sensibility_0870.wav

BIN := $(VENV)/bin
ENVIRONMENT := TORCH="$(TORCH)" TORCH_INDEX="$(TORCH_INDEX)" sh scripts/make_venv.sh "$(PYTHON)" "$(VENV)"
RECIPE := pyproject.toml requirements.txt scripts/make_venv.sh

.PHONY: demo check test frameworks gpu lint types host env clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.run.done
	@mkdir -p output
	@echo "== demo: $(DEMO_IMAGE) speaks $(DEMO_AUDIO): output/demo.mp4 (.webp, .jpg), then the report as one line of JSON"
	@$(BIN)/talking-machines animate --image "$(DEMO_IMAGE)" --audio "$(DEMO_AUDIO)" --out output/demo.mp4 --report output/demo.json
	@$(BIN)/python scripts/demo_pictures.py output/demo.mp4

check: $(VENV)/.dev.done lint types
	@echo "== pytest: the engine, quick"
	@$(BIN)/python -m pytest --ignore tests/host --ignore tests/frameworks -m "not slow and not gpu" -n $(TEST_PROCESSES) --durations 5 $(PYTEST_ARGS)

test: $(VENV)/.dev.done host lint types
	@echo "== pytest: everything"
	@TM_HOST="$(TM_HOST)" $(BIN)/python -m pytest --ignore tests/frameworks -n $(TEST_PROCESSES) $(PYTEST_ARGS)
ifeq ($(FRAMEWORKS),0)
	@echo "== left out, because FRAMEWORKS=0: the adapters for LiveKit and Pipecat with the real packages; make frameworks runs them"
else
	@$(MAKE) --no-print-directory frameworks
endif

frameworks: $(TM_FRAMEWORKS)/.done
	@echo "== pytest: the live avatar inside LiveKit and Pipecat"
	@$(TM_FRAMEWORKS)/bin/python -m pytest tests/frameworks

gpu:
	@DEVICE="$(DEVICE)" OUT="$(OUT)" VENV="$(VENV)" PYTHON="$(PYTHON)" sh scripts/gpu.sh

lint: $(VENV)/.dev.done
	@echo "== ruff"
	@$(BIN)/ruff check .

types: $(VENV)/.dev.done
	@echo "== mypy --strict tm_core"
	@$(BIN)/mypy

host: $(VENV)/.dev.done
	@echo "== a real ComfyUI for the host tests"
	@$(BIN)/python scripts/install_host.py --dest "$(TM_HOST)" --python "$(BIN)/python"

env: $(VENV)/.dev.done

$(VENV)/.run.done: $(RECIPE)
	@$(ENVIRONMENT) cli
	@touch $@

$(VENV)/.dev.done: $(RECIPE)
	@$(ENVIRONMENT) dev
	@touch $@ $(VENV)/.run.done

$(TM_FRAMEWORKS)/.done: $(VENV)/.dev.done pyproject.toml scripts/make_frameworks.sh
	@sh scripts/make_frameworks.sh "$(VENV)" "$(TM_FRAMEWORKS)"
	@touch $@

clean:
	rm -rf output build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find tm_core nodes tests parity scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "kept: $(VENV), $(TM_HOST) and $(TM_FRAMEWORKS); remove them by hand to start from nothing"
