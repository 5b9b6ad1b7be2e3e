PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
ENGLISH := --dataset english --batch-size 10 --p 0.5 --p-hidden 0.5 --p-input 0 --p-weight 0 --p-embedding 0 --alpha 0 --beta 0
KERNEL := CMakeLists.txt $(wildcard src/sparseout/native/*.[ch])

.PHONY: demo test test-slow test-oldest figures questions targets warmup scale glm bench build format clean

demo: $(VENV)/installed  ## train an autoencoder on real digits at several q, print the table, write the report
	$(VENV)/bin/sparseout study autoencoder --dataset digits --q 1 1.5 2 2.5 3 --seed 0 1 2 --epochs 100 --out runs/demo

test: $(VENV)/installed  ## lint, check the types, run the tests
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --durations 25

test-slow: $(VENV)/installed  ## all tests, those that take minutes too, with five times the drawn examples
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m '' --hypothesis-profile thorough

test-oldest: $(OLDEST)/installed  ## the library half's tests on the oldest torch, in an environment of its own
	$(OLDEST)/bin/python -m pytest tests/library src/sparseout $(foreach part,report training studies runs bench cli,--ignore src/sparseout/$(part))

figures: $(VENV)/installed  ## the README's study on MNIST; DATA=folder with mnist/, by default from the Hugging Face hub
	$(VENV)/bin/sparseout study autoencoder --dataset mnist $(if $(DATA),--data-dir $(DATA)) --epochs 4 --seed 0 1 2 \
		--q 1 1.25 1.5 1.75 2 2.25 2.5 3 --gradient detached exact --noise sparseout none --out runs/autoencoder-mnist
	mkdir -p results/autoencoder-mnist
	cp runs/autoencoder-mnist/results.jsonl runs/autoencoder-mnist/sparsity.png results/autoencoder-mnist

questions: $(VENV)/installed  ## the paper's two questions, small enough for two cores, about two hours; DATA=folder with cifar10/ and ptb/
	$(VENV)/bin/sparseout study image --dataset cifar10 $(if $(DATA),--data-dir $(DATA)) --train-images 500 --valid-images 1000 \
		--batch-size 32 --epochs 100 --p 0.3 --q 1.5 2 2.5 --noise sparseout dropout none --seed 0 1 2 3 4 --out runs/image-cifar10
	$(VENV)/bin/sparseout study language --dataset ptb $(if $(DATA),--data-dir $(DATA)) --train-tokens 50000 --hidden-size 200 --embedding-size 100 \
		--epochs 24 --p 0.5 --p-hidden 0.5 --p-input 0 --p-weight 0 --p-embedding 0 --alpha 0 --beta 0 \
		--q 1.5 2 2.5 --noise sparseout dropout none --seed 0 1 2 3 4 --out runs/language-ptb
	for study in image-cifar10 language-ptb; do mkdir -p results/$$study; cp runs/$$study/results.jsonl runs/$$study/sparsity.png results/$$study; done

targets: $(VENV)/installed  ## five target sparsities in four networks, and what a fixed q reaches, an hour on two cores; DATA=folder with mnist/ and cifar10/
	$(VENV)/bin/sparseout study autoencoder --dataset digits --epochs 300 --q 0.3 1 2 4 --target-sparsity 0 0.41 0.54 0.67 0.80 0.92 \
		--seed 0 1 2 --jobs 2 --out runs/targets/digits
	$(VENV)/bin/sparseout study autoencoder --dataset mnist $(if $(DATA),--data-dir $(DATA)) --epochs 10 --q 0.3 1 2 4 \
		--target-sparsity 0 0.39 0.52 0.64 0.77 0.90 --seed 0 1 2 --jobs 2 --out runs/targets/mnist
	$(VENV)/bin/sparseout study language $(ENGLISH) --epochs 10 --scale rms --target-q-min 1 --q 1 2 3 \
		--target-sparsity 0 0.48 0.55 0.61 0.68 0.74 --seed 0 1 2 --jobs 2 --out runs/targets/english
	$(VENV)/bin/sparseout study image --dataset cifar10 $(if $(DATA),--data-dir $(DATA)) --train-images 500 --valid-images 100 --batch-size 50 \
		--epochs 160 --p 0.5 --target-q-min 1 --q 1 2 4 --target-sparsity 0 0.60 0.65 0.70 0.75 0.80 --seed 0 1 2 --jobs 2 --out runs/targets/cifar10
	for study in digits mnist english cifar10; do mkdir -p results/targets/$$study; \
		cp runs/targets/$$study/results.jsonl runs/targets/$$study/sparsity.png results/targets/$$study; done

warmup: $(VENV)/installed  ## what a slow way to a target saves a language model, ten minutes on two cores
	$(VENV)/bin/sparseout study language $(ENGLISH) --epochs 10 --scale rms --target-q-min 1 --q 1 2 3 \
		--target-sparsity 0 0.55 0.68 --target-warmup 150 --target-ramp 450 --seed 0 1 2 --jobs 2 --out runs/warmup-english
	mkdir -p results/warmup-english
	cp runs/warmup-english/results.jsonl runs/warmup-english/sparsity.png results/warmup-english

scale: $(VENV)/installed  ## what the unit of the activations makes of a q in an LSTM, ten minutes on two cores
	$(VENV)/bin/sparseout study language $(ENGLISH) --scale 1 rms --q 1 1.5 2 3 --seed 0 1 2 --jobs 2 --out runs/scale-english
	mkdir -p results/scale-english
	cp runs/scale-english/results.jsonl runs/scale-english/sparsity.png results/scale-english

glm: $(VENV)/installed  ## the study of generalized linear models, some minutes on two cores
	$(VENV)/bin/sparseout study glm --out runs/glm
	mkdir -p results/glm
	cp runs/glm/*.jsonl runs/glm/*.png runs/glm/provenance.json results/glm

bench: $(VENV)/installed  ## the README's benchmark, about ten minutes on two cores
	$(VENV)/bin/sparseout bench --out runs/bench
	rm -rf results/bench
	cp -r runs/bench results/bench

build: $(VENV)/installed  ## sdist and wheel in dist/
	$(VENV)/bin/python -m build

format: $(VENV)/installed
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

clean:
	rm -rf $(VENV) $(OLDEST) build dist

$(VENV)/installed: pyproject.toml constraints.txt $(KERNEL)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --upgrade pip
	$(VENV)/bin/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@

$(OLDEST)/installed: pyproject.toml constraints-oldest.txt $(KERNEL)
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --upgrade pip
	$(OLDEST)/bin/python -m pip install -c constraints-oldest.txt -e '.[test]'
	touch $@
