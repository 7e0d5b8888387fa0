# make quickstart   environment, small world, training, evaluation, pictures: ten to fifteen minutes on two cores
# make test         the tests, offline once installed
# make check-tiny   ranks a gallery of people that the model in checkpoints/tiny has never seen; a minute
# make tiny         trains that model anew, on a larger small world: half an hour on two cores
# make lint         ruff: faults and formatting
# make clean        removes what the above made, the environment too
#
# Variables:  make PYTHON=python3.12 …    another interpreter (>= 3.11)
#             make VENV=/tmp/env …        another place for the environment
#             make SEED=1 quickstart      another small world and another training run
# On Linux the package index's torch brings CUDA along (several GB). For a machine without a GPU:
#             PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make quickstart

PYTHON ?= python3
VENV ?= .venv
OUT ?= quickstart
SEED ?= 0

BIN := $(VENV)/bin
# Nothing here needs the Hub: tests and quickstart must not wait for it, nor differ with it.
export HF_HUB_OFFLINE = 1
# Threads that have done their share of an operation sleep instead of spinning. Training the small model is made of many
# small operations: beside other busy processes on two cores its steps took six times as long with threads that spin.
OMP_WAIT_POLICY ?= passive
export OMP_WAIT_POLICY
# --no-compile: half of the installation would be compiling modules that nobody imports; Python compiles on first use.
INSTALL := $(BIN)/pip install --disable-pip-version-check --quiet --no-compile -c constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart check-tiny tiny test lint clean

help:
	@awk '!/^#/ { exit } { sub(/^# ?/, ""); print }' Makefile

quickstart: $(VENV)/.installed-train
	$(BIN)/python examples/make_world.py --output $(OUT)/world --seed $(SEED)
	$(BIN)/python examples/train.py --config examples/configs/quickstart.yaml \
	  --data_dir $(OUT)/world/SynCPR --output_dir $(OUT)/model --seed $(SEED)
	$(BIN)/python examples/evaluate_itcpr.py --model $(OUT)/model --data $(OUT)/world/ITCPR --output $(OUT)/results
	$(BIN)/python examples/show_results.py --model $(OUT)/model --data $(OUT)/world/ITCPR --output $(OUT)/results/sheet.png
	@echo
	@echo "Done. Look at:"
	@echo "  $(OUT)/results/sheet.png     ranked results of eight test queries"
	@echo "  $(OUT)/results/results.md    the table above"
	@echo "  $(OUT)/model/README.md       the model's card; the folder is for from_pretrained"
	@echo "Try next:"
	@echo "  $(BIN)/python examples/query.py --model $(OUT)/model --gallery $(OUT)/world/ITCPR --image $(OUT)/world/ITCPR/LAST/000001/000001_0001.jpg --caption 'now in a red coat' --output $(OUT)/results/query.png"
	@echo "  $(BIN)/python examples/show_results.py --model $(OUT)/model --data $(OUT)/world/ITCPR --seed 1 --output $(OUT)/results/more.png"
	@echo "  $(BIN)/python examples/train.py --config examples/configs/quickstart.yaml --data_dir $(OUT)/world/SynCPR --output_dir $(OUT)/model-1 --seed 1"

check-tiny: $(VENV)/.installed-train
	$(BIN)/python examples/make_world.py --output tiny/unseen --diptychs 1 --queries 115 --gallery 500 --seed 1
	$(BIN)/fafa evaluate --model checkpoints/tiny --data tiny/unseen/ITCPR --output tiny/unseen-results

tiny: $(VENV)/.installed-train
	$(BIN)/python examples/make_world.py --output tiny/world --diptychs 24000 --queries 115 --gallery 500
	$(BIN)/fafa train --config examples/configs/tiny.yaml --seed $(SEED)
	$(BIN)/fafa evaluate --model tiny/model --data tiny/world/ITCPR --output tiny/results --update-card
	@# What checkpoints/tiny holds: the same model, stored in half precision; it loads in fp32.
	$(BIN)/python -c "import fafa; model = fafa.FafaModel.from_pretrained('tiny/model'); model.save_pretrained( \
	  'tiny/checkpoint', state_dict={name: tensor.half() for name, tensor in model.state_dict().items()})"
	cp tiny/model/*.md tiny/model/curves.png tiny/model/processor_config.json tiny/model/tokenizer*.json tiny/checkpoint

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) $(OUT) tiny build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per set of extras, renewed when the requirements change.
$(VENV)/.installed-train $(VENV)/.installed-dev: $(VENV)/.installed-%: setup.py constraints.txt | $(BIN)/pip
	@echo "Installing fafa[$*] and the tested set of versions into $(VENV) (about a minute, plus the download) …"
	$(INSTALL) -e ".[$*]"
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "the tested set of versions needs Python >= 3.11, and '$(PYTHON)' is not that. Name another: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu: sudo apt install python3-venv (python3.12-venv for python3.12)." >&2; \
	  echo "Or name an interpreter that has venv: make PYTHON=/path/to/python3 …" >&2; exit 1; }
