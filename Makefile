SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export MODEL ?= smollm2-135m-instruct
SERVABLE ?= unary
BASE_IMAGE ?= openvino/model_server:latest
PROFILE ?= cpu
# Index of PyTorch's CPU builds, as for the image; by default pip's own index, whose builds may add CUDA.
TORCH_INDEX ?=
COMPOSE := docker compose --profile cpu --profile gpu
export PORT REST_PORT CHAT_PORT

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z_-]+:.*## / { printf "%-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/installed: requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --requirement requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(BIN)/pip install --requirement requirements-dev.txt
	touch $@

.PHONY: demo
demo: $(VENV)/installed examples/chat_page/.venv/installed  ## the whole demo: download, compress and serve a chat model, and ask it questions (PORT=, REST_PORT=)
	./demo.sh
	@printf '\nmake chat serves this model with a chat page.\n'

examples/chat_page/.venv/installed: examples/chat_page/requirements.txt
	$(PYTHON) -m venv examples/chat_page/.venv
	examples/chat_page/.venv/bin/pip install --requirement examples/chat_page/requirements.txt
	touch $@

.PHONY: chat
chat: $(VENV)/installed examples/chat_page/.venv/installed  ## serve the demo's model with a chat page (MODEL=, PORT=, REST_PORT=, CHAT_PORT=)
	examples/chat_page/run.sh

.PHONY: serve
serve: $(VENV)/installed  ## serve a model folder: MODEL=folder SERVABLE=unary|stream|chat|all PORT=9000 REST_PORT=8000
	MODEL_PATH="$$MODEL" exec $(BIN)/python -m ovms_local --config_path servable_$(SERVABLE)/config.json \
	    --port $(or $(PORT),9000) --rest_port $(or $(REST_PORT),8000)

.PHONY: python_image
python_image:  ## build openvino/model_server:py (BASE_IMAGE=)
	docker build --build-arg BASE_IMAGE=$(BASE_IMAGE) --tag openvino/model_server:py .

.PHONY: up
up:  ## start all servables in one server with compose (PROFILE=cpu|gpu, or "cpu chat" for the page; see deploy/README.md)
	RENDER_GROUP=$${RENDER_GROUP:-$$(stat -c %g /dev/dri/render* 2>/dev/null | head -1 || true)} \
	    docker compose $(addprefix --profile ,$(PROFILE)) up --detach --wait

.PHONY: down
down:  ## stop them once the running answers are finished
	for service in $$($(COMPOSE) ps --services --status running); do \
	    $(COMPOSE) exec -T $$service python3.12 /opt/text_generation/deploy/image/drain.py </dev/null & \
	done; wait
	$(COMPOSE) --profile chat down

.PHONY: test
test: $(VENV)/installed-dev  ## lint and all tests, with the real model (SYSTEM_PACKAGES=no installs nothing with apt)
	$(MAKE) --no-print-directory --jobs 2 lint pytest

.PHONY: pytest
pytest: $(VENV)/installed-dev
	./tests/install_system_packages.sh
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

.PHONY: test-fast
test-fast: $(VENV)/installed-dev  ## only the tests that start no process and load no model
	$(BIN)/pytest -m "not slow" tests

.PHONY: stress
stress: $(VENV)/installed-dev  ## the long versions of the robustness tests, with a report (STRESS_MINUTES=)
	STRESS=long KILLS=30 $(BIN)/pytest --timeout 7200 -o faulthandler_timeout=7500 tests/stress \
	    tests/test_download_model.py::TestSource::test_killed tests/test_compress_model.py::test_killed

.PHONY: lint
lint: $(VENV)/installed-dev  ## ruff and mypy as configured in pyproject.toml, and hadolint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile examples/chat_page/Dockerfile

.PHONY: models
models: $(VENV)/installed  ## regenerate what depends on the table of models: overlays, sizing tables, lists
	$(BIN)/python -m deploy.models

.PHONY: bench
bench: $(VENV)/installed-dev  ## compare engines, server and peers (ARGS=--quick, ARGS="--peer llama.cpp")
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: bench-open-loop
bench-open-loop: $(VENV)/installed-dev  ## requests at a rising rate, to our server and to llama.cpp's
	$(BIN)/python -m benchmarks.open_loop $(ARGS)

.PHONY: bench-server
bench-server: $(VENV)/installed-dev  ## measure the overhead of ovms_local with an echo node
	$(BIN)/python -m benchmarks.server

.PHONY: clean
clean:  ## remove the virtual environments, caches and the demo's models
	rm -rf $(VENV) examples/chat_page/.venv .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info \
	    smollm2-135m-instruct{,_FP16,_INT8*,_INT4*}
	find . -name __pycache__ -prune -exec rm -rf {} +
