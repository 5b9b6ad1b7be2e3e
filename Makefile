PYTHON ?= python3
JOBS ?= 2
VENV := .venv
OLDEST := .venv-oldest
SPARSEOUT := $(VENV)/bin/sparseout
KERNEL := CMakeLists.txt $(wildcard src/sparseout/native/*.[ch])
# Two processes with a thread each: the tensors of the tests are small.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile
ABOVE_THE_LIBRARY := $(foreach part,report training studies runs bench cli,--ignore src/sparseout/$(part))

.DEFAULT_GOAL := help
.PHONY: help demo test test-library test-slow test-oldest bench build format clean \
	study-mnist study-paper study-targets study-warmup study-scale study-glm

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "make %-14s %s\n", $$1, $$2 }'

demo: $(VENV)/.studies  ## train an autoencoder on real digits at several q, print the table, write the report
	$(SPARSEOUT) study autoencoder --dataset digits --q 1 1.5 2 2.5 3 --seed 0 1 2 --epochs 100 --jobs $(JOBS) --out runs/demo

test: $(VENV)/.dev  ## lint, check the types, run the tests
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(PYTEST) --durations 25

test-library: $(VENV)/.test  ## run the tests of the library alone, without the studies' dependencies
	$(PYTEST) tests/library src/sparseout $(ABOVE_THE_LIBRARY)

test-slow: $(VENV)/.dev  ## run all tests, including those that take minutes, with five times as many random examples
	$(PYTEST) -m '' --hypothesis-profile thorough

test-oldest: $(OLDEST)/.test  ## run the tests of the library on the oldest supported torch, in .venv-oldest
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n 2 --dist loadfile tests/library src/sparseout $(ABOVE_THE_LIBRARY)

# Run the published sweep of a study, and publish its results: $(call study,FOLDER)
define study
	$(SPARSEOUT) sweep results/$(1)/sweep.toml --jobs $(JOBS) --out runs/$(1) $(if $(DATA),--data-dir $(DATA))
	cp runs/$(1)/results.jsonl runs/$(1)/sparsity.png results/$(1)
endef

study-mnist: $(VENV)/.studies $(VENV)/.data  ## run the README's study, a few minutes; DATA=folder with mnist/, by default from the Hugging Face hub
	$(call study,autoencoder-mnist)

study-paper: $(VENV)/.studies $(VENV)/.data  ## run the paper's image and language studies, two hours; DATA=folder with cifar10/ and ptb/
	$(call study,image-cifar10)
	$(call study,language-ptb)

study-targets: $(VENV)/.studies $(VENV)/.data  ## run the study of target sparsities in four networks, an hour; DATA=folder with mnist/ and cifar10/
	$(call study,targets/digits)
	$(call study,targets/mnist)
	$(call study,targets/english)
	$(call study,targets/cifar10)

study-warmup: $(VENV)/.studies  ## run the study of warmup and ramp, ten minutes
	$(call study,warmup-english)

study-scale: $(VENV)/.studies  ## run the study of the unit of the activations in an LSTM, ten minutes
	$(call study,scale-english)

study-glm: $(VENV)/.studies  ## run the study of generalized linear models, a few minutes
	$(SPARSEOUT) theorem --out runs/theorem
	cp runs/theorem/*.jsonl runs/theorem/*.png runs/theorem/provenance.json results/glm

bench: $(VENV)/.studies  ## run the README's benchmark, ten minutes on an idle machine
	$(SPARSEOUT) bench --out runs/bench
	rm -rf results/bench
	cp -r runs/bench results/bench

build: $(VENV)/.dev  ## build the sdist and the wheel in dist/
	$(VENV)/bin/python -m build

format: $(VENV)/.dev  ## apply ruff's fixes and format
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

clean:  ## remove the environments and the builds
	rm -rf $(VENV) $(OLDEST) build dist

# An environment has a stamp for each extra that is installed in it.
$(VENV)/.%: pyproject.toml constraints.txt $(KERNEL) | $(VENV)/bin/pip
	$(VENV)/bin/pip install -c constraints.txt -e '.[$*]'
	touch $@

$(OLDEST)/.%: pyproject.toml constraints-oldest.txt $(KERNEL) | $(OLDEST)/bin/pip
	$(OLDEST)/bin/pip install -c constraints-oldest.txt -e '.[$*]'
	touch $@

$(VENV)/bin/pip $(OLDEST)/bin/pip: %/bin/pip:
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --upgrade pip
