# SPDX-License-Identifier: GPL-2.0-or-later
# Each target installs what it needs (tools/setup), so that it runs on a bare Debian.

SECONDS = 2
SOAK_SECONDS = 600

.PHONY: help demo check test test-apps test-system test-kernels soak bench compatibility lint format deb clean

help:
	@echo 'sudo make demo [SECONDS=10]   real iperf3 traffic, plain and accelerated, side by side'
	@echo '     make check               linters, types, and the tests that need neither root nor BPF; under a minute'
	@echo 'sudo make test                the same, and the tests on this kernel'
	@echo 'sudo make test-system         the package under systemd, in containers of Debian 12 and 13'
	@echo 'sudo make test-kernels        the package on other kernels, under QEMU'
	@echo 'sudo make test-apps           Redis, PostgreSQL, nginx and others, plain and accelerated'
	@echo 'sudo make soak                half an hour of compared streams while targets and daemons come and go'
	@echo 'sudo make bench               docs/benchmarks, measured on this machine; a quarter of an hour'
	@echo 'sudo make compatibility       docs/compatibility.md, measured on this kernel'
	@echo '     make lint                linters and types alone'
	@echo '     make format              rewrite the sources in the project style'
	@echo '     make deb                 the Debian package, in build/'

demo:
	@tools/setup demo
	@/usr/bin/python3 -m demo --seconds $(SECONDS)

# As an ordinary user, on any distribution.
check:
	@tools/setup check
	.venv/bin/python -m pytest tests/static tests/unit $(ARGS)

# Without ARGS what fails first is what is found fastest.
test:
	@tools/setup test
	$(if $(ARGS),,.venv/bin/python -m pytest tests/static tests/unit)
	.venv/bin/python -m pytest $(or $(ARGS),tests/live tests/conformance)

test-system:
	@tools/setup system
	.venv/bin/python -m pytest tests/system $(ARGS)

# Without ARGS the table in docs/compatibility.md is written anew.
test-kernels:
	@tools/setup kernels
	.venv/bin/python -m pytest tests/kernels $(ARGS)
	$(if $(ARGS),,.venv/bin/python -m tests.kernels.table build/kernels docs/compatibility.md)

test-apps:
	@tools/setup apps
	.venv/bin/python -m pytest tests/apps $(ARGS)

# Streams that are compared byte by byte while targets and daemons come and go.
soak:
	@tools/setup test
	SOCKACCEL_STRESS_SECONDS=$(SOAK_SECONDS) SOCKACCEL_ROUNDS=50 \
	    SOCKACCEL_IDLE_SECONDS=60 .venv/bin/python -m pytest tests/conformance/test_stress.py tests/live/test_load.py \
	    tests/live/test_targets.py tests/live/test_idle.py $(ARGS)

# Everything in docs/benchmarks, measured anew. What fails does not keep the rest from being written.
bench:
	@tools/setup bench
	rm -f docs/benchmarks/results.json
	.venv/bin/python -m bench --json docs/benchmarks/results.json $(ARGS); status=$$?; \
	.venv/bin/python -m bench.report docs/benchmarks/results.json docs/benchmarks; exit $$status

# Measures every behaviour anew, on this kernel.
compatibility:
	@tools/setup test
	rm -rf build/conformance
	mkdir -p build/conformance
	SOCKACCEL_RESULTS=build/conformance .venv/bin/python -m pytest tests/conformance/test_behaviours.py
	.venv/bin/python -m tests.conformance.table build/conformance docs/compatibility.md

lint:
	@tools/setup check
	.venv/bin/python -m pytest tests/static

format:
	@tools/setup test
	.venv/bin/ruff check --quiet --fix sockaccel tests bench demo
	.venv/bin/ruff format --quiet sockaccel tests bench demo
	clang-format -i bpf/*.c bpf/abi/*.h bpf/lib/*.[ch]

deb:
	@tools/setup deb
	packaging/build-deb

clean:
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
