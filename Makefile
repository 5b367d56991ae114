# The README's commands. Both targets make the .venv and install what they need.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: serve test lint clean

serve: .venv/installed
	$(BIN)/python -m deployments.config serve_config.yaml
	@echo "the page opens at http://127.0.0.1:8000/ once the world has warmed up"
	@# Serve gives its proxies 5 s to come up; busy cores take longer.
	RAY_AUTH_MODE=disabled RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S=60 \
		RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=deployments.proxy:configure_sockets \
		$(BIN)/serve run serve_config.yaml

test: .venv/installed
	@start=$$(date +%s) && $(MAKE) --no-print-directory lint && $(BIN)/pytest --durations=10 \
		&& echo "make test: $$(( $$(date +%s) - start )) s"

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One file says that the install is whole: a half-made .venv is made again.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
