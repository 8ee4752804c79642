# Short commands over CMake and Ninja. `make help` lists them.
PRESET_FLAGS = -G Ninja
JOBS ?= $(shell nproc)
SHARED ?= ../shared

.DEFAULT_GOAL = all
.PHONY: help all setup build demo test asan tsan clang fuzz parity llama arm64 old-cpu training quality cuda cuda-check server-check agents-check page-check deploy-check router-check image-check install format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

all: build ## the same as build, and what make does without a target

setup: ## install the Debian packages that building needs and that are missing (root or sudo); other targets install what they need
	@scripts/setup.sh build

build: setup ## the program and the library, in build/
	@test -f build/build.ninja || cmake -S . -B build $(PRESET_FLAGS) -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF
	@ninja -C build -j $(JOBS)

demo: build ## answer a picture and a spoken question with text and speech (tiny model in models/)
	@scripts/demo.sh build/omni

test: ## unit tests against stored vectors of the reference, kernels, the command line, an installation
	@scripts/setup.sh test
	@cmake -S . -B build $(PRESET_FLAGS) -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=ON >/dev/null
	@ninja -C build -j $(JOBS)
	@ctest --test-dir build --output-on-failure -j $(JOBS) $(CTEST_FLAGS)

asan: ## the same under AddressSanitizer and UndefinedBehaviorSanitizer
	@scripts/setup.sh sanitize
	@cmake -S . -B build-asan $(PRESET_FLAGS) -DOMNI_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=Debug >/dev/null
	@ninja -C build-asan -j $(JOBS)
	@ctest --test-dir build-asan --output-on-failure -j $(JOBS) $(CTEST_FLAGS)

tsan: ## the same under ThreadSanitizer
	@scripts/setup.sh sanitize
	@cmake -S . -B build-tsan $(PRESET_FLAGS) -DOMNI_SANITIZE=thread -DCMAKE_BUILD_TYPE=Debug >/dev/null
	@ninja -C build-tsan -j $(JOBS)
	@TSAN_OPTIONS=suppressions=$(CURDIR)/tests/tsan.supp ctest --test-dir build-tsan --output-on-failure -j $(JOBS) $(CTEST_FLAGS) -E '^(kernels|bombs|videos|cuda_.*|cli_.*|test_(long_text|failures|bench|formats|json_schema|grammar|convert.*|tokenizer|sampler|params|part_options))$$'

fuzz: ## every fuzz target for SECONDS_EACH=60
	@scripts/setup.sh fuzz
	@scripts/fuzz.sh -t $(or $(SECONDS_EACH),60)

parity: build ## live comparison with the reference implementation (builds its Python environment outside the tree)
	@scripts/setup.sh parity
	@scripts/parity.sh build/omni $(SHARED)

llama: build ## llama.cpp (built outside the tree, some minutes the first time) runs the files that omni writes; its quantiser is no better
	@scripts/setup.sh parity test
	@scripts/llama.sh build/omni $(SHARED)

clang: ## built by clang, every warning an error, installed and linked against
	@scripts/setup.sh clang
	@CC=clang cmake -S . -B build-clang $(PRESET_FLAGS) -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_FLAGS=-Werror -DBUILD_TESTING=OFF >/dev/null
	@ninja -C build-clang -j $(JOBS)
	@CC=clang scripts/check-install.sh build-clang

arm64: ## cross-compile the kernels and check them under emulation
	@scripts/setup.sh arm64
	@scripts/check-arm64.sh

old-cpu: build ## check kernels and program on emulated x86-64 processors without AVX-512 and without AVX
	@scripts/setup.sh old-cpu
	@scripts/check-old-cpu.sh

page-check: build ## the server's page in headless Chromium (npm's packages go outside the tree)
	@scripts/setup.sh page
	@scripts/page-check.sh

training: ## the training code at toy size on the CPU (builds the reference's Python environment outside the tree)
	@$$(scripts/python-env.sh "$${OMNI_PYTHON_ENV:-$$HOME/.cache/omni/reference}") training/check.py

quality: ## what each type of file costs in sound, speech, answers and logits; QUICK=1: the check of a change, minutes (environment outside the tree)
	@scripts/setup.sh test parity
	@cmake -S . -B build $(PRESET_FLAGS) -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=ON >/dev/null
	@ninja -C build -j $(JOBS) omni decode_codes
	@scripts/quality.sh build/omni $(if $(QUICK),--quick,--write)

cuda: ## the CUDA backend, build-cuda/libomni-cuda.so, for the cards CARDS=90a-real (all: see src/cuda/CMakeLists.txt); every warning an error
	@scripts/setup.sh cuda
	@CUDACXX=$$(scripts/cuda-compiler.sh) cmake -S . -B build-cuda $(PRESET_FLAGS) -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=ON -DOMNI_CUDA=ON \
	  -DCMAKE_CUDA_ARCHITECTURES="$(or $(CARDS),90a-real)" -DCMAKE_CUDA_FLAGS="-Werror all-warnings" >/dev/null
	@ninja -C build-cuda -j $(JOBS) omni omni_cuda check_operations_card check_model_card

cuda-check: cuda ## the CUDA backend on this machine's card: operations and conversations against the processor's
	@scripts/check-cuda.sh build-cuda

server-check: build ## the server through the official clients, held to its OpenAPI description, and random JSON Schemas (environments outside the tree)
	@scripts/setup.sh parity node
	@scripts/server-check.sh build/omni

agents-check: build ## the server through LiteLLM, Pipecat and LiveKit's agents (0.6 GB of their packages outside the tree)
	@scripts/setup.sh parity
	@scripts/agents-check.sh build/omni

deploy-check: build ## deploy/: each file by its own checker and against the program; three servers behind HAProxy, one killed, one drained
	@scripts/setup.sh deploy
	@scripts/deploy-check.sh build/omni

router-check: build ## three servers behind the model router smg (fetched) while one is killed, one drained and one stopped
	@scripts/setup.sh deploy
	@scripts/router-check.sh build/omni

image-check: ## deploy/Dockerfile step by step in systems made by debootstrap (root; some minutes, 2 GB in ~/.cache/omni/image)
	@scripts/setup.sh image
	@scripts/image-check.py

install: build ## into PREFIX (/usr/local)
	@cmake --install build $(if $(PREFIX),--prefix $(PREFIX))

format: ## clang-format over the sources
	@scripts/setup.sh format
	@git ls-files '*.c' '*.h' '*.cu' '*.cuh' '*.cc' | xargs clang-format -i

clean: ## remove what was built
	@rm -rf build build-asan build-tsan build-clang build-fuzz build-arm64 build-old-cpu build-cuda
