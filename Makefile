# Everything a user or a developer does, from a fresh clone. `make help` lists it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PYTHONPATH :=

.DEFAULT_GOAL := help
.PHONY: help demo test methods providers soak faults thorough lint format bench deploy worker clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (once, 1 to 3 minutes) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# torch by pip, which finds local builds; the rest by uv, which is much faster.
	@$(BIN)/python -P -m pip install --quiet --disable-pip-version-check -c constraints.txt torch uv
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e ".[trainer,clouds]"
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "Installing the developers' tools …"
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt --group dev
	@touch $@

demo: $(VENV)/installed ## Fine-tune a tiny model here, as a Prefect flow, in about a minute
	@$(BIN)/python examples/demo.py

# The machines of the tests are private sshd's.
/usr/sbin/sshd:
	@echo "Installing openssh-server with apt-get (the tests start their own sshd) …"
	@test "$$(id -u)" = 0 || { echo "sshd is missing: sudo apt-get install openssh-server"; exit 1; }
	@apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq openssh-server >/dev/null

# Clocks that jump by an hour; without it that row of the faults is skipped.
/usr/bin/faketime:
	@echo "Installing faketime with apt-get …"
	@test "$$(id -u)" = 0 || { echo "faketime is missing: sudo apt-get install faketime"; exit 1; }
	@apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq faketime >/dev/null

# Networks that lose packets; without it that row is skipped.
/usr/sbin/iptables:
	@echo "Installing iptables with apt-get …"
	@test "$$(id -u)" = 0 || { echo "iptables is missing: sudo apt-get install iptables"; exit 1; }
	@apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq iptables >/dev/null

# The deployments are tested on a PostgreSQL server of the tests' own.
/usr/lib/postgresql:
	@echo "Installing postgresql with apt-get (the tests start their own server) …"
	@test "$$(id -u)" = 0 || { echo "PostgreSQL is missing: sudo apt-get install postgresql"; exit 1; }
	@apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >/dev/null

# A cluster of the tests' own: its daemons are not started as services.
/usr/sbin/slurmctld:
	@echo "Installing Slurm with apt-get (the tests start their own cluster) …"
	@test "$$(id -u)" = 0 || { echo "Slurm is missing: sudo apt-get install slurmctld slurmd slurm-client munge"; exit 1; }
	@apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurmctld slurmd slurm-client munge >/dev/null

# The page is tried in it; without it those tests are skipped.
/usr/bin/chromium:
	@echo "Installing chromium with apt-get …"
	@test "$$(id -u)" = 0 || { echo "chromium is missing: sudo apt-get install chromium"; exit 1; }
	@apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null

# What fails is run once more, and named in the summary: see docs/architecture.md.
test: $(VENV)/installed-dev /usr/sbin/sshd /usr/lib/postgresql ## Run all tests, in parallel
	@$(BIN)/python -m pytest --reruns 1 -rfER

faults: $(VENV)/installed-dev /usr/sbin/sshd /usr/sbin/slurmctld /usr/bin/faketime /usr/sbin/iptables ## Inject every kind of fault, and print what came of each
	@$(BIN)/python -m pytest tests --thorough -m fault -n 4

thorough: $(VENV)/installed-dev /usr/sbin/sshd /usr/lib/postgresql /usr/sbin/slurmctld /usr/bin/chromium ## Run the long tests, and those of properties with new examples
	@$(BIN)/python -m pytest --thorough -m "(thorough or hypothesis) and not fault" -n 3

methods: $(VENV)/installed ## Train every method's example, with a kill in between, and print a table
	@$(BIN)/python benchmarks/methods.py

providers: $(VENV)/installed-dev /usr/sbin/sshd /usr/sbin/slurmctld ## Train one job at every provider's local server, and print a table
	@$(BIN)/python benchmarks/providers.py

soak: $(VENV)/installed ## Kill every method's job at 20 random moments, and compare with the undisturbed run
	@$(BIN)/python benchmarks/soak.py

lint: $(VENV)/installed-dev ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/installed-dev ## Mend what can be mended
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/python docs/draw_architecture.py

bench: $(VENV)/installed-dev /usr/sbin/sshd ## Measure; each benchmark ends with its ratio and its goal
	@for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

deploy: $(VENV)/installed ## Make work pools, queues and deployments on the configured Prefect server
	@$(BIN)/trainctl deploy

worker: $(VENV)/installed ## Execute the jobs that are submitted, on this computer and on rented machines
	@exec $(BIN)/trainctl worker

clean: ## Remove what was built here (not the orchestrator's home)
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache build dist
