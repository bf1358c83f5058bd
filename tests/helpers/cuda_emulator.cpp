// CUDA's words for a C++ compiler: kernels.cu, unchanged, runs on the CPU a warp at a time. See cuda_emulator.py.
//
// The 32 lanes of a warp are coroutines. A lane runs until it shuffles, puts its value down and waits; when all have,
// each goes on with its partner's value. Lanes that do not shuffle equally often would hang or misread on a GPU.

#include <math.h>
#include <string.h>
#include <ucontext.h>

#include <tuple>
#include <utility>

#define __global__
#define __device__

struct Index {
    unsigned x;
};
static Index threadIdx, blockIdx, blockDim;

const int LANES = 32, STACK = 1 << 16;
static ucontext_t scheduler, lanes[LANES];
static char stacks[LANES][STACK];
static double down[2][LANES];  // of this shuffle and of the one before, which a slower lane may still have to read
static int lane, shuffles[LANES];
static bool done[LANES];

template <class T>
T __shfl_xor_sync(unsigned mask, T x, int offset) {
    const int me = lane, turn = shuffles[me]++ % 2;
    down[turn][me] = x;
    swapcontext(&lanes[me], &scheduler);
    return down[turn][me ^ offset];
}

#include "kernels.cu"

template <class... A>
struct Work {
    static void (*kernel)(A...);
    static std::tuple<A...> arguments;

    static void one_lane() {
        std::apply(kernel, arguments);
        done[lane] = true;
    }

    // -> false if the lanes of a warp disagree about the number of shuffles
    static bool one_warp(unsigned warp, bool backwards) {
        for (int k = 0; k < LANES; k++) {
            getcontext(&lanes[k]);
            lanes[k].uc_stack.ss_sp = stacks[k];
            lanes[k].uc_stack.ss_size = STACK;
            lanes[k].uc_link = &scheduler;
            makecontext(&lanes[k], one_lane, 0);
            shuffles[k] = 0;
            done[k] = false;
        }
        for (bool going = true; going;) {
            going = false;
            for (int k = 0; k < LANES; k++) {
                lane = backwards ? LANES - 1 - k : k;
                threadIdx.x = warp * LANES + lane;
                if (!done[lane]) swapcontext(&scheduler, &lanes[lane]);
                going |= !done[lane];
            }
            for (int k = 0; k < LANES; k++)
                if (shuffles[k] != shuffles[0] || done[k] != done[0]) return false;
        }
        return true;
    }
};
template <class... A>
void (*Work<A...>::kernel)(A...);
template <class... A>
std::tuple<A...> Work<A...>::arguments;

template <class T>
T from_word(unsigned long long word) {
    static_assert(sizeof(T) == 8, "arguments are pointers, 64-bit integers and doubles");
    T value;
    memcpy(&value, &word, 8);
    return value;
}

template <class... A, size_t... I>
bool run(void (*kernel)(A...), std::index_sequence<I...>, unsigned blocks, unsigned threads,
         const unsigned long long* words, bool backwards) {
    Work<A...>::kernel = kernel;
    Work<A...>::arguments = std::make_tuple(from_word<A>(words[I])...);
    blockDim.x = threads;
    for (unsigned n = 0; n < blocks * (threads / LANES); n++) {
        const unsigned at = backwards ? blocks * (threads / LANES) - 1 - n : n;
        blockIdx.x = at / (threads / LANES);
        if (!Work<A...>::one_warp(at % (threads / LANES), backwards)) return false;
    }
    return true;
}

template <class... A>
bool run_kernel(void (*kernel)(A...), unsigned count, unsigned blocks, unsigned threads,
                const unsigned long long* words, bool backwards) {
    return count == sizeof...(A) &&
           run(kernel, std::index_sequence_for<A...>(), blocks, threads, words, backwards);
}

#define KERNEL(name)                                                                                       \
    extern "C" bool emulate_##name(unsigned count, unsigned blocks, unsigned threads,                      \
                                   const unsigned long long* words, bool backwards) {                      \
        return run_kernel(name, count, blocks, threads, words, backwards);                                 \
    }
KERNELS
