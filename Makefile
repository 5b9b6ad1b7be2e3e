PYTHON ?= python3
JOBS ?= 2
VENV := .venv
OLDEST := .venv-oldest
NEWEST := .venv-newest
SPARSEOUT := $(VENV)/bin/sparseout
KERNEL := CMakeLists.txt $(wildcard src/sparseout/native/*.[ch])
# Two processes with a thread each: the tensors of the tests are small.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile
# The pins of every Python from 3.10 on, on every system.
COMPILE := $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.10 --no-annotate \
	--custom-compile-command 'make constraints' $(UPGRADE)
ABOVE_THE_LIBRARY := $(foreach part,report training studies runs bench cli,--ignore src/sparseout/$(part))

.DEFAULT_GOAL := help
.PHONY: help demo test test-library test-slow test-oldest test-newest sdist wheels wheels-portable docs \
	release-check constraints format clean \
	study-mnist study-paper study-factors study-targets study-warmup study-scale study-wide-resnet study-methods study-inference \
	study-glm bench bench-op bench-awd-lstm bench-target bench-probe bench-methods bench-glm bench-inference

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "make %-15s %s\n", $$1, $$2 }'

demo: $(VENV)/.studies  ## train an autoencoder on real digits at several q, print the table, write the report
	$(SPARSEOUT) study autoencoder --dataset digits --q 1 1.5 2 2.5 3 --seed 0 1 2 --epochs 100 --jobs $(JOBS) --out runs/demo

test: $(VENV)/.dev  ## lint, check the types, run the tests
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(PYTEST) --durations 25

test-library: $(VENV)/.test  ## run the tests of the library alone, without the studies' dependencies
	$(PYTEST) tests/library src/sparseout $(ABOVE_THE_LIBRARY)

test-slow: $(VENV)/.dev $(VENV)/.release  ## run all tests, including those that take minutes, with five times as many random examples
	$(PYTEST) -m '' --hypothesis-profile thorough

test-oldest: $(OLDEST)/.test  ## run the tests of the library on the oldest supported torch, in .venv-oldest
	$(subst $(VENV),$(OLDEST),$(PYTEST)) tests/library src/sparseout $(ABOVE_THE_LIBRARY)

test-newest: $(NEWEST)/.test  ## run the tests of the library on the newest torch, in .venv-newest
	$(subst $(VENV),$(NEWEST),$(PYTEST)) tests/library src/sparseout $(ABOVE_THE_LIBRARY)

# Run the published sweep of a study, and publish its results: $(call study,FOLDER)
define study
	$(SPARSEOUT) sweep results/$(1)/sweep.toml --jobs $(JOBS) --out runs/$(1) $(if $(DATA),--data-dir $(DATA))
	cp runs/$(1)/results.jsonl runs/$(1)/*.png results/$(1)
	if [ -f runs/$(1)/choice.json ]; then mkdir -p results/$(1)/tune && cp runs/$(1)/choice.json results/$(1) && \
		cp runs/$(1)/tune/results.jsonl results/$(1)/tune; fi
endef

study-mnist: $(VENV)/.studies $(VENV)/.data  ## run the README's study, a few minutes; DATA=folder with mnist/, by default from the Hugging Face hub
	$(call study,autoencoder-mnist)

# The same for one of the paper's questions, with the figure of its best q: $(call question,NAME)
define question
	$(call study,questions/$(1))
	$(SPARSEOUT) optimum results/questions/$(1) --score test_loss --figure results/questions/$(1)/best-q.png
endef

study-paper: $(VENV)/.studies $(VENV)/.data  ## run the paper's image and language studies, four hours; DATA=folder with cifar10/ and ptb/
	$(call question,image)
	$(call question,language)

study-factors: $(VENV)/.studies $(VENV)/.data  ## ask the paper's questions with one thing changed, five hours; DATA=folder with cifar10/ and ptb/
	$(call question,image-plain)
	$(call question,image-exact)
	$(call question,image-convolution)
	$(call question,image-5000)
	$(call question,language-ar)

study-targets: $(VENV)/.studies $(VENV)/.data  ## run the study of target sparsities in four networks, an hour; DATA=folder with mnist/ and cifar10/
	$(call study,targets/digits)
	$(call study,targets/mnist)
	$(call study,targets/english)
	$(call study,targets/cifar10)

study-warmup: $(VENV)/.studies  ## run the study of warmup and ramp, ten minutes
	$(call study,warmup-english)

study-scale: $(VENV)/.studies  ## run the study of the unit of the activations in an LSTM, ten minutes
	$(call study,scale-english)

study-wide-resnet: $(VENV)/.studies $(VENV)/.data  ## run the study of the noise before a normalisation, ten minutes; DATA=folder with cifar10/
	$(call study,wide-resnet)

study-methods: $(VENV)/.studies $(VENV)/.data  ## compare ways to reach one sparsity in three networks, two hours; DATA=folder with mnist/ and cifar10/
	$(call study,methods/autoencoder)
	$(call study,methods/image)
	$(call study,methods/language)

study-inference: $(VENV)/.all  ## train two networks to 60, 80 and 90 % zeros and measure what that buys, half an hour; DATA=folder with mnist/
	$(VENV)/bin/python examples/cash_in.py --out runs/inference $(if $(DATA),--data-dir $(DATA))
	mkdir -p results/inference
	cp runs/inference/cash-in.jsonl runs/inference/cash-in.png results/inference
	$(VENV)/bin/python tests/studies/test_published_inference.py

study-glm: $(VENV)/.studies  ## run the study of generalized linear models, a few minutes
	$(SPARSEOUT) theorem --out runs/theorem
	cp runs/theorem/*.jsonl runs/theorem/*.png runs/theorem/provenance.json results/glm

# Measure a part of the benchmark three times in runs/bench/NAME: $(call measure,NAME,ITS FLAGS,OPTIONS)
define measure
	$(SPARSEOUT) bench $(filter-out $(2),--sizes --models --targets --probes --methods --samples --inference) $(3) \
		--runs 3 --out runs/bench/$(1)
endef

# Replace files of results/bench, the provenance of each CSV file among them, and the tables of the page:
# $(call publish,NAME,FILES)
define publish
	mkdir -p results/bench
	cp $(addprefix runs/bench/$(1)/,$(2)) results/bench
	for part in $(basename $(filter %.csv,$(2))); do cp runs/bench/$(1)/provenance.json results/bench/$$part-provenance.json; done
	$(VENV)/bin/python tests/studies/test_published_speed.py
endef

bench:  ## make results/bench anew, with each of the parts below, three runs of each, half an hour on an idle machine
	for part in op awd-lstm target probe methods glm inference; do $(MAKE) bench-$$part || exit 1; done

bench-op: $(VENV)/.studies  ## measure the op and training steps anew, twenty minutes on an idle machine
	$(call measure,op,--sizes --models,--models autoencoder mlp lstm wide_resnet --seconds 3)
	$(call publish,op,op.csv steps.csv bench.png)

bench-awd-lstm: $(VENV)/.studies  ## measure the training step of the AWD-LSTM anew, three minutes
	$(call measure,awd_lstm,--models,--models awd_lstm --seconds 40)
	mv runs/bench/awd_lstm/steps.csv runs/bench/awd_lstm/awd_lstm.csv
	$(call publish,awd_lstm,awd_lstm.csv)

bench-target: $(VENV)/.studies  ## measure the cost of a sparsity target anew, seven minutes
	$(call measure,target,--targets,--seconds 20)
	$(call publish,target,target.csv)

bench-probe: $(VENV)/.studies  ## measure the cost of a probe anew, one minute
	$(call measure,probe,--probes,--seconds 6)
	$(call publish,probe,probe.csv)

bench-methods: $(VENV)/.studies  ## measure what each method adds to a training step anew, one minute
	$(call measure,methods,--methods,--seconds 4)
	$(call publish,methods,methods.csv methods.png)

bench-glm: $(VENV)/.studies  ## measure the fits of generalized linear models anew, half a minute
	$(call measure,glm,--samples,--seconds 8)
	$(call publish,glm,glm.csv)

bench-inference: $(VENV)/.studies  ## measure layers that skip zeros anew, one minute
	OMP_NUM_THREADS=1 $(call measure,inference,--inference,--seconds 4)
	$(call publish,inference,inference.csv inference.png)
	$(VENV)/bin/python tests/studies/test_published_inference.py

sdist: $(VENV)/.release  ## build the sdist in dist/
	rm -rf dist build/wheels
	$(VENV)/bin/python -m build --sdist

wheels: sdist  ## build the sdist, and from it the wheel for this machine, in dist/, as PyPI takes them
	$(VENV)/bin/pip wheel --no-deps --build-constraint constraints.txt --wheel-dir build/wheels dist/*.tar.gz
	if [ "$$(uname)" = Linux ]; then PATH="$(CURDIR)/$(VENV)/bin:$$PATH" auditwheel repair --wheel-dir dist build/wheels/*.whl; \
	else cp build/wheels/*.whl dist; fi

wheels-portable: $(VENV)/.release  ## build and test this system's wheel in dist/ as a release does; on Linux it needs Docker
	$(VENV)/bin/cibuildwheel --output-dir dist

docs: $(VENV)/.dev $(VENV)/.docs  ## build the site in build/site and check its links; then test the pages and the code in them
	$(VENV)/bin/sphinx-build --fail-on-warning --keep-going --fresh-env --quiet docs build/site
	$(PYTEST) README.md docs tests/docs tests/library/test_documentation.py tests/library/test_reference_page.py

release-check: $(VENV)/.dev $(VENV)/.release  ## run all checks of a release, and print a table; TAG=v1.2.3 also compares the tag
	$(VENV)/bin/python tests/release/check.py $(if $(TAG),--tag "$(TAG)") $(CHECKS)

constraints: $(VENV)/.release  ## pin what is new in pyproject.toml; UPGRADE=--upgrade raises all pins but those in [tool.uv]
	$(COMPILE) --all-extras --group release -o constraints.txt pyproject.toml
	echo 'torch==2.6.0' | $(COMPILE) --no-config --extra test -o constraints-oldest.txt pyproject.toml -

format: $(VENV)/.dev  ## apply ruff's fixes and format
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

clean:  ## remove the environments and the builds
	rm -rf $(VENV) $(OLDEST) $(NEWEST) build dist

# An environment has a stamp for each extra that is installed in it.
$(VENV)/.%: pyproject.toml constraints.txt $(KERNEL) | $(VENV)/bin/pip
	$(VENV)/bin/pip install -c constraints.txt --build-constraint constraints.txt -e '.[$*]'
	touch $@

$(VENV)/.release: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(VENV)/bin/pip install -c constraints.txt --group release
	touch $@

$(OLDEST)/.%: pyproject.toml constraints-oldest.txt $(KERNEL) | $(OLDEST)/bin/pip
	$(OLDEST)/bin/pip install -c constraints-oldest.txt -e '.[$*]'
	touch $@

$(NEWEST)/.%: pyproject.toml $(KERNEL) | $(NEWEST)/bin/pip
	$(NEWEST)/bin/pip install --upgrade -e '.[$*]'
	touch $@

$(VENV)/bin/pip $(OLDEST)/bin/pip $(NEWEST)/bin/pip: %/bin/pip:
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --upgrade -c constraints.txt pip
