# The commands people type. The work is in CMakeLists.txt and scripts/.
.PHONY: help run test bench format clean

help:
	@echo "make run                 set up, build, bake the small model, chat with it"
	@echo "make run PROMPT=\"...\"     the same, one answer and out"
	@echo "make test                set up, build with sanitizers, run every test"
	@echo "make bench               set up, measure beside other engines (ARGS=--quick, ARGS=--help)"
	@echo "make format              clang-format over the tree"
	@echo "make clean               remove build/ (packages and venv_offering stay)"

run:
	@PROMPT="$(value PROMPT)" SYSTEM="$(value SYSTEM)" bash scripts/run.sh

test:
	@bash scripts/test.sh

bench:
	@bash scripts/bench.sh $(ARGS)

format:
	git ls-files -z '*.c' '*.h' | xargs -0 venv_offering/bin/clang-format -i

clean:
	rm -rf build
