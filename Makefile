# Two commands for a fresh machine: `make demo` and `make test`. Everything is installed into .venv.
#   make setup PYTHON=python3.12
#   make setup PIPFLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"   # Linux without a GPU: 4 GB less
PYTHON   ?= python3
PIPFLAGS ?=
JOBS     ?= 2
DEMO_ARGS ?= --task glyphs --heads full random ann --objective cosface --rate 0.1 --seeds 0

VENV  := .venv
BIN   := $(VENV)/bin
# Named after the contents of its inputs, so that a changed dependency installs again and a new checkout does not.
STAMP := $(VENV)/.setup-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
SITE_STAMP := $(subst .setup-,.site-,$(STAMP))
COMMAND := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/annsoftmax
BENCH := $(COMMAND) bench
# One thread for each of the $(JOBS) workers, and where somebody gives them more, threads that sleep soon;
# ninja is looked for on PATH.
QUIET_ENV := PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 GOMP_SPINCOUNT=1000
NBVAL := --nbval --nbval-current-env --nbval-sanitize-with notebooks/sanitize.cfg --nbval-cell-timeout 300

.DEFAULT_GOAL := help
.PHONY: help setup demo test pytest gate lab browser notebooks refresh-notebooks lint format sanitize emulate gpu bench soak kill-test lesson-data site clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile

setup: $(STAMP)  ## create .venv and install the package with everything the tests and notebooks need

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "setup: annsoftmax needs Python 3.11 or newer; $(PYTHON) is not. Name another one:  make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; exit 1; }
	@echo "setup: installing into $(VENV) the versions named in constraints.txt (2.4 GB, or 6.4 GB with the CUDA build of torch; a minute or more)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt $(PIPFLAGS) -e '.[notebooks,dev,peers,train,integrations]'
	@rm -f $(VENV)/.setup-* && touch $@
	@echo "setup: done"

DEMO := results/demo
demo: $(STAMP)  ## train three heads on real drawings, time their steps as classes grow, and say what was seen
	@mkdir -p $(DEMO)
	$(COMMAND) compare $(DEMO_ARGS) --json $(DEMO)/compare.json --plot $(DEMO)/compare.png
	@echo
	$(BENCH) growth --classes 5000 50000 500000 --rate 0.1 --heads full ann \
		--json $(DEMO)/growth.json --plot $(DEMO)/growth.png
	@echo
	@$(BIN)/python tools/demo.py $(DEMO)

test: lint pytest notebooks  ## lint, run the tests, and run every notebook against its stored outputs

XDIST := -n $(JOBS) --dist loadfile --no-loadscope-reorder
pytest: $(STAMP)  ## run the tests only
	$(QUIET_ENV) $(BIN)/python -m pytest $(XDIST)

gate: $(STAMP)  ## plant every fault of the notebooks' gate, of which `make pytest` plants some
	$(QUIET_ENV) $(BIN)/python -m pytest $(XDIST) -m slow tests/notebooks/test_notebook_gate.py

notebooks: $(STAMP)  ## run every notebook and compare each output with the stored one (strict nbval)
	$(BIN)/python tools/notebooks.py check
	$(QUIET_ENV) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(NBVAL) notebooks

refresh-notebooks: $(STAMP)  ## run every notebook and store its outputs (NOTEBOOKS="a.ipynb b.ipynb" for some)
	$(QUIET_ENV) $(BIN)/python tools/notebooks.py refresh $(NOTEBOOKS)

STEP_HEADS := full full_autograd linear_cross_entropy random_dense random ann

bench: $(STAMP)  ## measure steps, growth, search and upkeep on this CPU into results/cpu/ (about half an hour, idle machine)
	$(BENCH) step --classes 1000000 --rate 0.1 --heads $(STEP_HEADS) --json results/cpu/step_1m_bf16.json
	$(BENCH) step --classes 1000000 --rate 0.1 --heads $(STEP_HEADS) --precision fp32 --json results/cpu/step_1m_fp32.json
	$(BENCH) step --classes 1000000 --rate 0.01 --json results/cpu/step_1m_001.json
	$(BENCH) step --classes 1000000 --rate 0.1 --heads full random ann --groups 8 --json results/cpu/step_1m_groups8.json
	$(BENCH) step --classes 1000000 --rate 0.01 --heads full random ann --groups 8 \
		--json results/cpu/step_1m_001_groups8.json
	$(BENCH) step --classes 1000000 --rate 0.1 --groups 1 --rounds 9 --heads full random random_captured ann ann_captured \
		--json results/cpu/step_1m_captured.json
	$(BENCH) step --classes 1000000 --rate 0.1 --heads full ann ann_priority ann_tail \
		--json results/cpu/step_1m_weighted.json
	$(BENCH) step --classes 200000 --dim 512 --rate 0.1 --json results/cpu/step_200k_512.json
	$(BENCH) step --classes 100000 --rate 0.1 --heads full linear_cross_entropy linear_cross_entropy_chunked ann \
		--json results/cpu/step_100k_chunked.json
	$(BENCH) step --classes 5000000 --dim 64 --rate 0.01 --heads ann --rounds 3 --json results/cpu/step_5m.json
	$(BENCH) step --classes 5204 --rate 0.1 --heads full random ann ann_priority ann_tail --groups 8 --rounds 31 \
		--json results/cpu/step_5k.json
	$(BENCH) step --classes 5204 --rate 0.1 --heads full random ann --groups 8 --rounds 31 --busy 1 \
		--json results/cpu/step_5k_busy.json
	$(BENCH) step --classes 100000 --rate 0.1 --heads full random ann --rounds 15 --busy 1 \
		--json results/cpu/step_100k_busy.json
	$(BENCH) growth --json results/cpu/growth.json
	$(BENCH) search --classes 1000000 --k 100 --nlist 512 1024 --nprobe 1 2 4 8 16 46 \
		--candidates 100 200 500 1000 2000 --against faiss \
		--json results/cpu/search_1m.json --plot results/cpu/search_1m.png
	$(BENCH) predict --classes 1000000 --against faiss hnsw --threads 1 --json results/cpu/predict_1m.json
	$(BENCH) search --vectors glyphs --k 50 --nprobe 4 8 16 --against faiss --json results/search/glyphs.json
	$(BENCH) ranks --classes 1000000 --ranks 2 --heads full random ann --rounds 9 --json results/cpu/ranks_1m.json
	$(BENCH) training --classes 600000 1000000 --rates 0.1 0.01 --json results/cpu/million.json
	$(BENCH) searches --classes 20000 200000 1000000 --rates 0.05 0.02 0.005 --rounds 9 \
		--json results/cpu/searches.json
	$(BENCH) upkeep --steps 2000 --json results/cpu/upkeep.json --plot results/cpu/upkeep.png
	$(BENCH) capacity --classes 1000000 --dim 128 --batch 256 --rate 0.1 --device cpu --json results/cpu/capacity.json
	$(BENCH) cluster --classes 300000000 --dim 512 --batch 16384 --rate 0.1 --ranks 256 \
		--json results/cluster/simulated_256.json

lesson-data: $(STAMP)  ## train the head that the notebooks look at (about a minute)
	$(BIN)/python -m annsoftmax_ref.lessons.trained

kill-test: $(STAMP)  ## kill a training run twenty times, and see that nothing is lost (half an hour), into results/cluster/
	PYTHONPATH=. $(QUIET_ENV) $(BIN)/python tools/kill_test.py --seed 7 --json results/cluster/kill_test.json -- \
		--rate 0.1 --epochs 2 --steps 80 --save-every 8 --device cpu

soak: $(STAMP)  ## half an hour of uneven steps, watched for leaks, NaN and decay, into results/cpu/soak.json
	$(BENCH) soak --minutes 30 --json results/cpu/soak.json

lab: $(STAMP)  ## open the first notebook in JupyterLab, the others beside it
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" \
		--LabApp.default_url=/lab/tree/notebooks/00_quickstart.ipynb

browser: $(STAMP)  ## run the notebooks in JupyterLab in a headless Chromium and move their controls, into results/browser/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/browser.py

site: $(SITE_STAMP)  ## build a static site of notebooks, tables and API into build/site (nothing is executed)
	$(QUIET_ENV) $(BIN)/python tools/website/make_site.py

$(SITE_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt $(PIPFLAGS) -e '.[site]'
	@rm -f $(VENV)/.site-* && touch $@

lint: $(STAMP)  ## check code and notebooks with ruff, and who imports whom with import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo

format: $(STAMP)  ## let ruff fix and format code and notebooks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

sanitize: $(STAMP)  ## run the C++ kernels' tests under AddressSanitizer and UndefinedBehaviorSanitizer
	PYTHONPATH=. $(QUIET_ENV) $(BIN)/python tools/sanitize.py

EMULATED := $(addprefix tests/kernels_inline/test_,emulator*.py watching.py cuda_*.py index_of_versions.py compile.py)

emulate: $(STAMP)  ## run the CUDA kernels on the CPU: their tests, the compile check, and counts of memory accesses
	$(QUIET_ENV) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(EMULATED)
	$(BENCH) compile --json results/cuda/compile.json
	$(BENCH) kernels --device cpu --json results/cpu/kernels_emulated.json

# With a python of one's own that has a CUDA build of torch:  make gpu GPU_PYTHON=python3
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
gpu:  ## with a GPU: its tests, compute-sanitizer, and the benchmarks, into results/gpu/ or $$OUT (SECTIONS="tests steps" for some)
	PYTHONPATH=. $(GPU_PYTHON) tools/gpu.py $(SECTIONS)

clean:  ## remove what builds, tests and the demo left behind (.venv stays; delete it to start afresh)
	rm -rf build dist *.egg-info results/demo results/browser .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -prune -exec rm -rf {} +
