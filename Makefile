# Short commands over CMake and Ninja. `make help` lists them.
PRESET_FLAGS = -G Ninja
JOBS ?= $(shell nproc)
SHARED ?= ../shared

.PHONY: help all setup build demo test asan tsan clang fuzz parity llama arm64 old-cpu install format clean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1: /p' $(MAKEFILE_LIST) | column -t -s:

all: build

setup: ## install the Debian packages that are missing (root or sudo)
	@scripts/setup.sh

build: setup ## the program and the library, in build/
	@test -f build/build.ninja || cmake -S . -B build $(PRESET_FLAGS) -DCMAKE_BUILD_TYPE=Release
	@ninja -C build -j $(JOBS)

demo: build ## answer a picture and a spoken question with text and speech (tiny model in models/)
	@scripts/demo.sh build/omni

test: build ## unit tests, kernels, stored reference vectors
	@ctest --test-dir build --output-on-failure -j $(JOBS)

asan: setup ## the same under AddressSanitizer and UndefinedBehaviorSanitizer
	@cmake -S . -B build-asan $(PRESET_FLAGS) -DOMNI_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=Debug >/dev/null
	@ninja -C build-asan -j $(JOBS)
	@ctest --test-dir build-asan --output-on-failure -j $(JOBS)

tsan: setup ## the same under ThreadSanitizer
	@cmake -S . -B build-tsan $(PRESET_FLAGS) -DOMNI_SANITIZE=thread -DCMAKE_BUILD_TYPE=Debug >/dev/null
	@ninja -C build-tsan -j $(JOBS)
	@TSAN_OPTIONS=suppressions=$(CURDIR)/tests/tsan.supp ctest --test-dir build-tsan --output-on-failure -j $(JOBS) -E '^kernels$$'

fuzz: setup ## every fuzz target for SECONDS_EACH=60
	@scripts/fuzz.sh -t $(or $(SECONDS_EACH),60)

parity: build ## live comparison with the reference implementation (builds its Python environment outside the tree)
	@scripts/parity.sh build/omni $(SHARED)

llama: build ## llama.cpp (built outside the tree, some minutes the first time) runs the files that omni writes; its quantiser is no better
	@scripts/llama.sh build/omni $(SHARED)

clang: setup ## built by clang, every warning an error, installed and linked against
	@CC=clang cmake -S . -B build-clang $(PRESET_FLAGS) -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_FLAGS=-Werror -DBUILD_TESTING=OFF >/dev/null
	@ninja -C build-clang -j $(JOBS)
	@CC=clang scripts/check-install.sh build-clang

arm64: setup ## cross-compile the kernels and check them under emulation
	@scripts/check-arm64.sh

old-cpu: build ## check kernels and program on emulated x86-64 processors without AVX-512 and without AVX
	@scripts/check-old-cpu.sh

install: build ## into PREFIX (/usr/local)
	@cmake --install build $(if $(PREFIX),--prefix $(PREFIX))

format: ## clang-format over the sources
	@git ls-files '*.c' '*.h' | xargs clang-format -i

clean:
	@rm -rf build build-asan build-tsan build-clang build-fuzz build-arm64 build-old-cpu
