# Two commands: `make run` and `make test`. CMakePresets.json does the work.
#   CUDA=1    build the CUDA kernels where no GPU is found (AUTO builds them where nvcc and a GPU are)
#   PYTHON=0  leave the Python tests out
#   JOBS=n    parallel compile jobs (default: all processors)

JOBS ?= $(shell nproc)
PYTHON ?= 1
PRESET := $(if $(filter 1,$(CUDA)),cuda,release)
BUILD := build
MODEL := $(firstword $(wildcard models/arith-llama-*))

.PHONY: run test test-cpp test-python build deps bench wheel test-wheel clean

run: build
	@rm -rf $(BUILD)/demo-nvfp4
	@$(BUILD)/bin/halfbyte quantize $(MODEL) $(BUILD)/demo-nvfp4 --format nvfp4
	@echo
	@$(BUILD)/bin/halfbyte bench rmsnorm_quantize --model $(MODEL)

test: test-cpp test-python

test-cpp: build
	@cmake --build $(BUILD) --target all -j $(JOBS)
	@ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS)

test-python: build
ifeq ($(PYTHON),0)
	@echo "Python tests left out (PYTHON=0)"
else
	@sh cmake/python_tests.sh $(BUILD)
endif

build: deps
	@[ -f $(BUILD)/build.ninja ] && [ "$$(cat $(BUILD)/preset 2>/dev/null)" = "$(PRESET)" ] \
	  || { cmake --preset $(PRESET) && echo $(PRESET) > $(BUILD)/preset; }
	@cmake --build $(BUILD) --target halfbyte_program halfbyte halfbyte_torch -j $(JOBS)

deps:
	@sh cmake/install_packages.sh

# Every operator on this CPU: the table here, the figures in $(BUILD)/bench_*.json.
BENCH_OPS := quantize dequantize amax rmsnorm rmsnorm_quantize silu_mul silu_mul_quantize rope
bench: build
	@for op in $(BENCH_OPS); do echo "$$op"; \
	  $(BUILD)/bin/halfbyte bench $$op --shapes cpu --json $(BUILD)/bench_$$op.json || exit 1; done
	@for op in gemm gemm_silu_mul_quantize; do echo "$$op"; \
	  $(BUILD)/bin/halfbyte bench $$op --json $(BUILD)/bench_$$op.json || exit 1; done

wheel: deps
	@sh cmake/make_wheel.sh dist

test-wheel: wheel
	@sh cmake/test_wheel.sh dist/halfbyte-*.whl

clean:
	rm -rf $(BUILD)
