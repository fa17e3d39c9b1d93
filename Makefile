# Needs python3 (3.11 to 3.13), make, a package index; uses uv where it is installed.

# cpu (Apple silicon, Linux), cuda12, cuda13, or none: Moshi runs elsewhere, no MLX is installed. Without: what is installed.
ACCELERATOR ?= $(or $(patsubst .venv/.ready-%,%,$(firstword $(wildcard .venv/.ready-*))),cpu)
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo $$p; break; }; done)
LOCKED = requirements/$(strip $(ACCELERATOR)).txt requirements/dev.txt
READY = .venv/.ready-$(strip $(ACCELERATOR))
RUN = .venv/bin/

.PHONY: setup demo test test-slow serve check bench lock clean

setup: $(READY)

$(READY): $(LOCKED) pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed: set PYTHON=…"; exit 2; }
	@rm -f .venv/.ready-*
	@if command -v uv >/dev/null; then \
		uv venv -q --clear --python "$(PYTHON)" .venv && \
		VIRTUAL_ENV=.venv uv pip install --no-deps --require-hashes $(LOCKED:%=-r %) && \
		VIRTUAL_ENV=.venv uv pip install -q --no-deps --no-build-isolation -e . ; \
	else \
		"$(PYTHON)" -m venv --clear .venv && \
		$(RUN)pip install --no-deps --require-hashes $(LOCKED:%=-r %) && \
		$(RUN)pip install -q --no-deps --no-build-isolation -e . ; \
	fi
	@touch $@
	@test ! -e /dev/nvidia0 || test "$(strip $(ACCELERATOR))" != cpu || \
		echo "This computer has an NVIDIA card, MLX was installed without CUDA: to use it, add ACCELERATOR=cuda13"

demo: setup
	$(RUN)moshi-bridge demo

serve: setup
	$(RUN)moshi-bridge serve

# In two processes, a file in one: some tests compute, others wait for real time to pass.
test: setup
	$(RUN)pytest -m "not slow" -n 2 --dist loadfile

# What takes longer. SHARE=0.1 runs soaks at a tenth of their length.
SHARE ?= 1
test-slow: setup
	TEST_SHARE=$(SHARE) $(RUN)pytest -m slow

check: setup
	$(RUN)ruff format --check .
	$(RUN)ruff check .
	$(RUN)mypy

bench: setup
	$(RUN)moshi-bridge bench line
	$(RUN)moshi-bridge bench trouble
	$(RUN)moshi-bridge bench codec
	$(RUN)moshi-bridge bench engine

# Resolve the locked requirements anew; needs uv.
COMPILE = uv pip compile -q --upgrade --universal --generate-hashes --no-annotate --no-header --python-version 3.11
lock:
	$(COMPILE) --extra cpu --extra cluster pyproject.toml -o requirements/cpu.txt
	for a in cuda12 cuda13; do \
		$(COMPILE) --extra $$a --extra cluster -c requirements/cpu.txt pyproject.toml -o requirements/$$a.txt || exit; done
	$(COMPILE) --extra cluster -c requirements/cpu.txt pyproject.toml -o requirements/none.txt
	$(COMPILE) --group dev -c requirements/cpu.txt -o requirements/dev.txt

clean:
	rm -rf .venv demo out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
