# Every target does its own set-up: a fresh clone needs Python 3.11 or newer and make, nothing else.
PYTHON ?= python3
VENV ?= .venv
# Tests run in so many processes at a time; 0 is none but pytest's own.
WORKERS ?= 2
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
FAMILIES := $(VENV)/.families
EXTRAS := $(VENV)/.extras
SITE := $(VENV)/.site

.DEFAULT_GOAL := help
.PHONY: help setup demo web test test-slow lint types docs bench bench-methods bench-passes matrix scenes wsol faithfulness demo-weights demo-detectors clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[export,run,evaluate,test,bench,dev]'
	touch $@

# Model libraries beside torchvision.
$(FAMILIES): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[families]'
	touch $@

# What tests use where it is there: other runtimes, servers, clusters, medical images.
$(EXTRAS): $(FAMILIES)
	$(BIN)/python -m pip install --quiet --editable '.[convert,detectors,medical,parquet,ray,serving]'
	touch $@

setup: $(INSTALLED)  ## make the virtual environment and install everything into it

# The README's picture is the demo's own, made again by adding --picture docs/demo.png.
demo: $(INSTALLED)  ## export the shipped classifier, run it, write overlays to demo-output/
	$(BIN)/python -m camcore.adapters.demo --output demo-output

# Needs npm, which fetches onnxruntime-web.
web: $(INSTALLED)  ## the shipped classifier in the browser: writes demo-output/page and serves it, until Ctrl-C
	$(BIN)/python -m camcore.adapters.demo.dataset --output demo-output/scenes --count 8 --seed 7
	$(BIN)/python -m camcore export scenes --output demo-output/page.onnx
	$(BIN)/python -m camcore serve demo-output/page.onnx --web demo-output/page --example demo-output/scenes/images
	$(BIN)/python -m http.server --directory demo-output/page --bind 127.0.0.1 8000

test: $(INSTALLED)  ## the test suite
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow'

test-slow: $(EXTRAS)  ## the long tail: every model family, format and optional extra
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow

lint: $(INSTALLED)  ## format and lint check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# From another folder and on the installed copy: in the repository root mypy would take the local camcore/, without
# its two sub-packages, for the whole package.
types: $(INSTALLED)  ## static types, checked on an installed copy
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/types-copy .
	cd $(VENV)/types-copy && MYPYPATH=. ../bin/python -m mypy --config-file ../../pyproject.toml -p camcore

bench: $(INSTALLED)  ## camcore beside plain onnxruntime and pytorch-grad-cam; writes benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks.gradcam

# The two below keep what other runs measured; METHODS="--models vit_b_16" and
# PASSES="--cases 'scorecam/*'" do a part, or what takes longest.
bench-methods: $(FAMILIES)  ## each method in each family of models, beside its peers; writes benchmarks/METHODS.md
	$(BIN)/python -m benchmarks.methods $(METHODS)

bench-passes: $(INSTALLED)  ## methods of many passes beside their floor and their peers; writes benchmarks/PASSES.md
	$(BIN)/python -m benchmarks.passes $(PASSES)

# A sample says what fails that did not. MATRIX="--all" runs whatever is not known yet from the same
# versions (days), MATRIX="--methods gradcam --minutes 30" a part of it.
matrix: $(FAMILIES)  ## which models, methods and formats work, a sample (an hour at most); writes docs/SUPPORT.md
	$(BIN)/python -m benchmarks.matrix $(MATRIX)

# SCENES="--output elsewhere --count 5000 --seed 7" paints others.
SCENES ?= --output scenes
scenes: $(INSTALLED)  ## paint scenes and write them as a data set in COCO's format
	$(BIN)/python -m camcore.adapters.demo.dataset $(SCENES)

# The data sets, the weights, the files and the figures go to wsol/.
wsol: $(INSTALLED)  ## fine-tune the shipped classifier for larger scenes, and evaluate its boxes (minutes)
	$(BIN)/python -m camcore.adapters.demo.dataset --output wsol/train --count 1000 --seed 5 --side 224
	$(BIN)/python -m camcore.adapters.demo.dataset --output wsol/val --count 300 --side 224
	$(BIN)/camcore train scenes --images wsol/train/images --annotations wsol/train/instances.json \
		--size 224 --epochs 3 --learning-rate 1e-3 --output wsol/tuned.safetensors
	$(BIN)/camcore export scenes $(EXPLAINED) --output wsol/shipped.onnx
	$(BIN)/camcore export scenes --weights wsol/tuned.safetensors $(EXPLAINED) --output wsol/tuned.onnx
	for name in shipped tuned; do $(BIN)/camcore evaluate wsol/$$name.onnx --images wsol/val/images \
		--annotations wsol/val/instances.json --above 0.1 --json wsol/$$name.json || exit 1; done
EXPLAINED := --size 224 --method cam --class-ids all --boxes 5 \
	--probabilities sigmoid --box-confidence sigmoid

# What was done before it was stopped is in build/faithfulness. FAITHFULNESS="--limit 50" takes more images.
# Two methods are many Score-CAMs each, hours of it.
FAITHFULNESS ?= --limit 12 --minutes 1
COMPARED := $(BIN)/python -c "from camcore import METHODS; print(*(f'--method {name}' for name in METHODS if name not in ('sscam', 'iscam')))"
faithfulness: $(INSTALLED)  ## all methods of the shipped classifier beside each other; writes docs/FAITHFULNESS.md and methods.png
	test -f scenes/instances.json || $(MAKE) scenes
	mkdir -p build
	$(BIN)/camcore compare scenes --images scenes/images --annotations scenes/instances.json $(FAITHFULNESS) \
		$$($(COMPARED)) --probabilities sigmoid --files build/faithfulness --output build/faithfulness.md
	sed '/^| method/,$$d' docs/FAITHFULNESS.md > build/head.md
	cat build/head.md build/faithfulness.md > docs/FAITHFULNESS.md
	$(BIN)/python -m benchmarks.gallery build/faithfulness

demo-detectors: $(INSTALLED)  ## train the demo's detectors again (minutes each on one core)
	$(BIN)/python -m camcore.adapters.demo.train_detectors

$(SITE): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

# Pages link each other as they lie in the repository, so that is how they are laid out. A link to nothing fails.
docs: $(SITE)  ## the README and docs/ as a site, in build/site
	rm -rf build/pages && mkdir -p build/pages/benchmarks
	cp -R README.md docs build/pages && cp benchmarks/*.md benchmarks/*.tsv build/pages/benchmarks
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

demo-weights: $(INSTALLED)  ## train the demo classifier again (minutes on two cores)
	$(BIN)/python -m camcore.adapters.demo.train

clean:  ## remove what the other targets made
	rm -rf $(VENV) demo-output scenes wsol build *.egg-info
