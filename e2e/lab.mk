# The lab: a real cluster on this machine. LAB_NODES, LAB_PROFILE, LAB_TOPOLOGY and LAB_DIR are read from the environment
# or given to make; «.cache/bin/lab» without arguments says what else it can do.

LAB_BIN := .cache/bin/lab

export LAB_NODES LAB_PROFILE LAB_TOPOLOGY LAB_DIR LAB_SKIP_CLARION

.PHONY: lab-bin lab-up lab-down lab-status lab-clarion lab-test e2e

lab-bin:
	@mkdir -p $(dir $(LAB_BIN))
	@cd e2e && CGO_ENABLED=0 go build -trimpath -buildvcs=false -o ../$(LAB_BIN) ./cmd/lab

lab-up: lab-bin ## bring the lab up
	@$(LAB_BIN) up

lab-down: lab-bin ## remove every trace of it
	@$(LAB_BIN) down

lab-status: lab-bin ## show hosts, nodes, pods and Services
	@$(LAB_BIN) status

lab-clarion: lab-bin ## build Clarion anew and replace it in the running lab
	@$(LAB_BIN) clarion

e2e: ## end-to-end tests against the lab that is up
	cd e2e && go test -count=1 -tags lab ./...

lab-test: ## test the lab itself: up, down, killed starts; takes down a lab that is up
	@! [ -e .lab ] || $(MAKE) --no-print-directory lab-down
	cd e2e && go test -count=1 -tags labcycle -timeout 20m ./cmd/lab
