# SPDX-License-Identifier: GPL-2.0-or-later
# Each target installs what it needs (tools/setup), so that it runs on a bare Debian.

SECONDS = 2
SOAK_SECONDS = 600

# Where "make install" puts things. With another PREFIX than /usr, dbus-daemon and polkit do not look into its share/.
DESTDIR =
PREFIX = /usr
SYSCONFDIR = /etc
BINDIR = $(PREFIX)/bin
SBINDIR = $(PREFIX)/sbin
DATADIR = $(PREFIX)/share
MANDIR = $(DATADIR)/man
DOCDIR = $(DATADIR)/doc/sockaccel
DBUSDIR = $(DATADIR)/dbus-1
BASHDIR = $(DATADIR)/bash-completion/completions
ZSHDIR = $(DATADIR)/zsh/site-functions
# Where Cockpit looks for pages, and software centres for what extends it. COCKPIT=no leaves the page out.
COCKPITDIR = $(DATADIR)/cockpit/sockaccel
METAINFODIR = $(DATADIR)/metainfo
COCKPIT = yes
PYTHON = /usr/bin/python3
# The first directory below PREFIX in which the interpreter looks for modules.
PYTHONDIR = $(shell $(PYTHON) -c 'import site, sysconfig; \
    found = [path for path in site.getsitepackages() if path.startswith("$(PREFIX)/lib/")]; \
    print(found[0] if found else sysconfig.get_path("purelib", "posix_prefix", {"base": "$(PREFIX)"}))')
UNITDIR = $(or $(if $(filter /usr,$(PREFIX)),$(shell pkg-config --variable=systemdsystemunitdir systemd 2>/dev/null)), \
    $(PREFIX)/lib/systemd/system)
# Whether "systemctl reload" can wait for the end of a reload: systemd 253 and newer.
NOTIFY_RELOAD = $(shell pkg-config --atleast-version=253 systemd 2>/dev/null && echo yes || echo no)

.PHONY: help demo check test test-apps test-cockpit test-containers test-system test-kernels soak bench compatibility \
    lint format deb clean completions translations install install-cockpit uninstall

help:
	@echo 'sudo make demo [SECONDS=10]   real iperf3 traffic, plain and accelerated, side by side'
	@echo '     make check               linters, types, and the tests that need neither root nor BPF; under a minute'
	@echo 'sudo make test                the same, and the tests on this kernel'
	@echo 'sudo make test-system         the package under systemd, in containers of Debian 12 and 13'
	@echo 'sudo make test-kernels        the package on other kernels, under QEMU'
	@echo 'sudo make test-apps           Redis, PostgreSQL, nginx and others, plain and accelerated'
	@echo 'sudo make test-cockpit        the page for Cockpit in a browser, on Debian 12 and 13'
	@echo 'sudo make test-containers     containers of Docker and Podman, on this kernel'
	@echo 'sudo make soak                an hour of compared streams and floods while targets and daemons come and go'
	@echo 'sudo make bench               docs/benchmarks, measured on this machine; a quarter of an hour'
	@echo 'sudo make compatibility       docs/compatibility.md, measured on this kernel'
	@echo '     make lint                linters and types alone'
	@echo '     make format              rewrite the sources in the project style'
	@echo '     make completions         the shell completions, from the argument parser of sockaccelctl'
	@echo '     make translations        the catalogue of the texts of the page, and its translations'
	@echo '     make deb                 the Debian package, in build/'
	@echo 'sudo make install             without a package: DESTDIR=, PREFIX=, NOTIFY_RELOAD=yes|no, COCKPIT=yes|no;'
	@echo '                              make uninstall'

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

# Pictures of the page are left in build/cockpit.
test-cockpit:
	@tools/setup cockpit
	.venv/bin/python -m pytest tests/cockpit $(ARGS)

test-apps:
	@tools/setup apps
	.venv/bin/python -m pytest tests/apps $(ARGS)

test-containers:
	@tools/setup containers
	.venv/bin/python -m pytest tests/containers $(ARGS)

# Streams that are compared byte by byte while targets and daemons come and go, and a daemon that everybody floods.
soak:
	@tools/setup test
	SOCKACCEL_SOAK_SECONDS=$(SOAK_SECONDS) SOCKACCEL_STRESS_SECONDS=$(SOAK_SECONDS) SOCKACCEL_ROUNDS=50 \
	    SOCKACCEL_IDLE_SECONDS=60 .venv/bin/python -m pytest tests/conformance/test_stress.py tests/live/test_load.py \
	    tests/live/test_targets.py tests/live/test_idle.py tests/live/test_soak.py --capture=tee-sys $(ARGS)

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
	SOCKACCEL_RESULTS=build/conformance SOCKACCEL_NETWORKS=all .venv/bin/python -m pytest \
	    tests/conformance/test_behaviours.py tests/conformance/test_networks.py
	.venv/bin/python -m tests.conformance.table build/conformance docs/compatibility.md

lint:
	@tools/setup check
	.venv/bin/python -m pytest tests/static

format:
	@tools/setup test
	.venv/bin/ruff check --quiet --fix sockaccel tests bench demo tools/generate-completions tools/generate-abi tools/generate-translations
	.venv/bin/ruff format --quiet sockaccel tests bench demo tools/generate-completions tools/generate-abi tools/generate-translations
	clang-format -i bpf/*.c bpf/abi/*.h bpf/lib/*.[ch]

# Checked in, so that an installation needs no run of the program.
completions:
	@tools/setup check
	.venv/bin/python tools/generate-completions

# Checked in too: an installation needs no tool for it.
translations:
	@tools/setup check
	.venv/bin/python tools/generate-translations

deb:
	@tools/setup deb
	packaging/build-deb

clean:
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

# Where the daemon looks for the list of programs, whatever PREFIX is.
LISTDIR = /usr/lib/sockaccel

# Each is SOURCE:DESTINATION. The Python modules, the BPF sources, the unit and the two programs are not among them.
INSTALLED = \
    packaging/catalog/sockaccel.catalog:$(PREFIX)/lib/systemd/catalog/sockaccel.catalog \
    packaging/programs.conf:$(LISTDIR)/programs.conf \
    packaging/sysusers.d/sockaccel.conf:$(PREFIX)/lib/sysusers.d/sockaccel.conf \
    packaging/dbus/org.sockaccel1.conf:$(DBUSDIR)/system.d/org.sockaccel1.conf \
    packaging/dbus/org.sockaccel1.service:$(DBUSDIR)/system-services/org.sockaccel1.service \
    packaging/dbus/org.sockaccel1.Manager.xml:$(DBUSDIR)/interfaces/org.sockaccel1.Manager.xml \
    packaging/polkit/org.sockaccel1.policy:$(DATADIR)/polkit-1/actions/org.sockaccel1.policy \
    packaging/completions/sockaccelctl:$(BASHDIR)/sockaccelctl \
    packaging/completions/_sockaccelctl:$(ZSHDIR)/_sockaccelctl \
    NEWS:$(DOCDIR)/NEWS \
    docs/grafana.json:$(DOCDIR)/grafana.json \
    SECURITY.md:$(DOCDIR)/SECURITY.md \
    docs/sidecar.md:$(DOCDIR)/sidecar.md \
    $(foreach page,$(wildcard packaging/man/*),$(page):$(MANDIR)/man$(subst .,,$(suffix $(page)))/$(notdir $(page)))
# Off until an administrator enables them.
UNITS = sockaccel-metrics.socket sockaccel-metrics@.service sockaccel-textfile.service sockaccel-textfile.timer
PAGE = $(wildcard cockpit/*.js cockpit/*.html cockpit/*.css cockpit/manifest.json)
METAINFO = org.sockaccel1.cockpit.metainfo.xml
CONFIGURATION = $(SYSCONFDIR)/sockaccel/sockaccel.conf
# The line by which a program finds the modules where the interpreter does not look for them.
FIND_MODULES = $(shell $(PYTHON) -I -c 'import sys; \
    print("" if "$(PYTHONDIR)" in sys.path else "sys.path.insert(0, \"$(PYTHONDIR)\")")')
# $(call program,FILE,MODULE): a program that calls main() of a module. -I: root may run it in a directory, and with an
# environment, that others have written, and none of the modules there is imported.
program = install -d '$(DESTDIR)$(dir $(1))' && \
    printf '%s\n' '\#!$(PYTHON) -I' 'import sys' '' $(if $(FIND_MODULES),'$(FIND_MODULES)') \
        'from $(2) import main' '' 'sys.exit(main())' >'$(DESTDIR)$(1)' && \
    chmod 755 '$(DESTDIR)$(1)'

# Needs nothing but Python, and no network: a distribution's package is made of this. Run as root without DESTDIR it
# still leaves to you: systemd-sysusers, systemctl daemon-reload, journalctl --update-catalog.
install: $(if $(filter yes,$(COCKPIT)),install-cockpit)
	find sockaccel -name '*.py' -exec install -D -m 644 '{}' '$(DESTDIR)$(PYTHONDIR)/{}' ';'
	find bpf -name '*.[ch]' -exec install -D -m 644 '{}' '$(DESTDIR)$(DATADIR)/sockaccel/{}' ';'
	set -e; for pair in $(INSTALLED); do install -D -m 644 "$${pair%%:*}" "$(DESTDIR)$${pair#*:}"; done
	$(call program,$(SBINDIR)/sockaccel,sockaccel.__main__)
	$(call program,$(BINDIR)/sockaccelctl,sockaccel.ctl.cli)
	install -d '$(DESTDIR)$(UNITDIR)'
	sed -e 's,=/usr/sbin/,=$(SBINDIR)/,' -e 's,=/usr/share/,=$(DATADIR)/,' \
	    $(if $(filter yes,$(NOTIFY_RELOAD)),-e 's/^Type=notify$$/Type=notify-reload/' -e '/^ExecReload=/d') \
	    packaging/sockaccel.service >'$(DESTDIR)$(UNITDIR)/sockaccel.service'
	chmod 644 '$(DESTDIR)$(UNITDIR)/sockaccel.service'
	set -e; for unit in $(UNITS); do \
	    sed -e 's,=/usr/bin/,=$(BINDIR)/,' packaging/$$unit >"$(DESTDIR)$(UNITDIR)/$$unit"; \
	    chmod 644 "$(DESTDIR)$(UNITDIR)/$$unit"; done
	test -e '$(DESTDIR)$(CONFIGURATION)' || install -D -m 644 packaging/sockaccel.conf '$(DESTDIR)$(CONFIGURATION)'
	$(if $(DESTDIR),,$(PYTHON) -m compileall -q '$(PYTHONDIR)/sockaccel')

# A package of its own: it depends on cockpit-bridge.
install-cockpit:
	install -d '$(DESTDIR)$(COCKPITDIR)'
	install -m 644 $(PAGE) '$(DESTDIR)$(COCKPITDIR)'
	install -D -m 644 cockpit/$(METAINFO) '$(DESTDIR)$(METAINFODIR)/$(METAINFO)'

# Leaves the configuration, the remembered targets and the system user.
uninstall:
	rm -rf '$(DESTDIR)$(PYTHONDIR)/sockaccel' '$(DESTDIR)$(DATADIR)/sockaccel' '$(DESTDIR)$(COCKPITDIR)'
	rm -f '$(DESTDIR)$(METAINFODIR)/$(METAINFO)'
	set -e; for pair in $(INSTALLED); do rm -f "$(DESTDIR)$${pair#*:}"; done
	rm -f '$(DESTDIR)$(SBINDIR)/sockaccel' '$(DESTDIR)$(BINDIR)/sockaccelctl' '$(DESTDIR)$(UNITDIR)/sockaccel.service'
	rm -f $(foreach unit,$(UNITS),'$(DESTDIR)$(UNITDIR)/$(unit)')
