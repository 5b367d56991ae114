# The README's commands. Both targets make the .venv and install what they need.
PYTHON ?= python3
BIN := .venv/bin
BIOME := npx --yes @biomejs/biome@2.6.8
# Cluster tests mostly wait: one process runs them beside two that compute.
PARALLEL := -n 3 --dist loadgroup --no-loadscope-reorder --durations=10

.PHONY: serve test test-slow lint clean

serve: .venv/serve
	@$(BIN)/python -m deployments.serve serve_config.yaml

test: .venv/dev
	@start=$$(date +%s) && $(MAKE) --no-print-directory lint \
		&& $(BIN)/pytest $(PARALLEL) -m "not slow and not alone" && $(BIN)/pytest -m "alone and not slow" \
		&& echo "make test: $$(( $$(date +%s) - start )) s"

# CI runs these too: tests of minutes, most tests of the page, and repeated claims.
test-slow: .venv/dev
	$(BIN)/pytest $(PARALLEL) -m "slow and not alone" && $(BIN)/pytest -m "slow and alone"

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@# Biome checks the page's JavaScript and CSS. It comes from npm, which only CI requires.
	@if [ "$$CI" = true ] || npm_config_fetch_retries=0 $(BIOME) --version >/dev/null 2>&1; \
		then $(BIOME) ci transport/web; else echo "skipped Biome: no npm, or no registry"; fi

# A stamp says that an extra is installed: an install that stopped half-way runs again.
.venv/serve .venv/dev: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[$(notdir $@)]"
	touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
