// CUDA on a CPU: g++ compiles a .cu file with this header in front, and its kernels run here as they would on a GPU,
// slowly but under watch. emulator.py does the compiling.
//
//     thread     a fiber (fibers.h): a stack of its own, left and resumed where it waits
//     warp       32 threads; its shuffles, votes and __syncwarp are meetings of the lanes of a mask
//     block      at most 1024 threads; __syncthreads is a meeting of all of them
//     grid       its blocks, one after another
//
// Everything that waits is one thing here, a *meeting*: a thread says for whom it waits, brings a value, and sleeps.
// When all the threads concerned that have not ended are there, all can see all the values and go on. That threads
// which have ended no longer count is what GPUs do since Volta.
//
// A GPU promises nothing about the order of the threads between two meetings, so a kernel has to work for any. Two
// are tried: forward, where a thread runs as far as it can before the next one starts, and reverse, from the last
// thread to the first. So where a barrier is missing, and one thread reads what another writes, the reader comes first
// under one of them. Shared memory is filled with 0xCD before each block: nothing is found there that the block has
// not written. What is always a mistake ends the launch with a sentence (`emulator_error`): threads that wait for
// different things, a shuffle from a lane that takes no part in it, a launch that no GPU allows.
//
// Not imitated: time, caches, the weak order of memory accesses, and blocks that run at the same time.
#pragma once
#include "fibers.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <mutex>
#include <source_location>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
// One block runs at a time, so one copy. It has no initial value, so it lies in .bss, and nothing is done when it is
// first met (`constinit`); `used`: its value is not guessed.
#define __shared__ static __constinit __attribute__((used))
#define EMULATOR_KEPT __attribute__((section("emulator_kept")))  // not in .bss
#define __constant__ static EMULATOR_KEPT

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulator {

// ---- The machine --------------------------------------------------------------------------------------------------
constexpr int LANES = 32, MOST_THREADS = 1024;
constexpr size_t MOST_SHARED = 227 * 1024;                      // bytes that a block can have on an H100
constexpr int OUT_OF_MEMORY = 2, INVALID_CONFIGURATION = 9, LAUNCH_FAILURE = 719;  // numbers of cudaError_t
constexpr int POISON = 0xCD;
using Place = std::source_location;                             // a line of a kernel

enum State { READY, WAITING, ENDED };
struct Stop {};              // thrown in every thread of a launch that has gone wrong

struct Thread {
    uint3 index;             // threadIdx
    State state;
    const char* operation;   // a thread that waits: for what,
    Place place;             // where,
    bool whole_block;        // with all threads of the block, or
    unsigned mask;           // with the lanes of this mask,
    uint64_t brought;        // and what it brings to the meeting
    uint64_t seen;           // after the meeting: what it brought, for the others to read,
    unsigned present, yes;   // who was there, and whose value was not 0: masks of lanes, or numbers of threads
    Fiber fiber;
};

struct Machine {
    dim3 grid, block;
    uint3 block_index;       // blockIdx
    int count;               // threads of a block
    Thread* current;         // null while the host's stack is in use
    Thread threads[MOST_THREADS];
    Fiber host;              // the stack that LAUNCH was called on
    char* stacks;
    void (*kernel)(void*);
    void* arguments;
    size_t argument_bytes;
    unsigned char* dynamic;  // dynamic shared memory, no longer than asked for: AddressSanitizer sees its end
    size_t dynamic_bytes;
    bool reverse, failed;
    int64_t code;            // what launch_error will return
    char error[2000];
};
EMULATOR_KEPT static Machine machine = {};
EMULATOR_KEPT static std::mutex one_at_a_time;
extern "C" char __bss_start[] __attribute__((visibility("hidden"))), _end[] __attribute__((visibility("hidden")));

EMULATOR_INSIDE inline int number_of(const Thread& thread) { return int(&thread - machine.threads); }
EMULATOR_INSIDE inline int lane() { return number_of(*machine.current) % LANES; }
EMULATOR_INSIDE inline Thread& neighbour(int number) {
    return machine.threads[number_of(*machine.current) / LANES * LANES + number];
}

// "x.cu:12" of the file's own name.
EMULATOR_INSIDE inline std::string line_of(const Place& place) {
    const std::string file = place.file_name();
    return file.substr(file.rfind('/') + 1) + ":" + std::to_string(place.line());
}

// The first mistake of a launch is the one that is told.
EMULATOR_INSIDE inline void note(int64_t code, const std::string& message) {
    machine.failed = true;
    if (machine.code == 0) {
        machine.code = -code;
        std::snprintf(machine.error, sizeof machine.error, "%s", message.c_str());
    }
}

EMULATOR_INSIDE inline std::string triple(const auto& i) {
    return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

[[noreturn]] EMULATOR_INSIDE inline void fail(const std::string& message, const Place& place) {
    note(LAUNCH_FAILURE, line_of(place) + ": thread " + triple(machine.current->index) + " of block " +
                             triple(machine.block_index) + " " + message);
    throw Stop();
}

// ---- Meetings -----------------------------------------------------------------------------------------------------
EMULATOR_INSIDE inline Thread& meet(const char* operation, bool whole_block, unsigned mask, uint64_t value,
                                    const Place& place) {
    Thread& self = *machine.current;
    if (!whole_block && !(mask >> lane() & 1)) fail("is not in the mask of its " + std::string(operation), place);
    self.operation = operation;
    self.place = place;
    self.whole_block = whole_block;
    self.mask = mask;
    self.brought = value;
    self.state = WAITING;
    change(self.fiber, machine.host);
    if (machine.failed) throw Stop();
    return self;
}

// Two threads wait for the same. Only __syncwarp may be met from different lines: CUDA says so.
EMULATOR_INSIDE inline bool same_meeting(const Thread& a, const Thread& b) {
    return a.state == WAITING && b.state == WAITING && a.whole_block == b.whole_block && a.mask == b.mask &&
           std::strcmp(a.operation, b.operation) == 0 &&
           (a.place.line() == b.place.line() || std::strcmp(a.operation, "__syncwarp") == 0);
}

// Holds the meeting that `caller` waits for if everybody is there; false if not.
EMULATOR_INSIDE inline bool hold(const Thread& caller) {
    const bool block = caller.whole_block;
    const int first = block ? 0 : number_of(caller) / LANES * LANES;
    const int last = block ? machine.count : std::min(first + LANES, machine.count);
    const unsigned mask = caller.mask;
    auto invited = [&](int i) EMULATOR_INSIDE {
        return (block || mask >> (i - first) & 1) && machine.threads[i].state != ENDED;
    };
    unsigned present = 0, yes = 0;
    for (int i = first; i < last; ++i) {
        if (!invited(i)) continue;
        if (!same_meeting(machine.threads[i], caller)) return false;
        const unsigned one = block ? 1u : 1u << (i - first);
        present += one;
        yes += machine.threads[i].brought != 0 ? one : 0;
    }
    put_in_order(machine.host, last - first, [&](int i) EMULATOR_INSIDE {
        return invited(first + i) ? &machine.threads[first + i].fiber : nullptr;
    });
    for (int i = first; i < last; ++i) {
        Thread& thread = machine.threads[i];
        if (!invited(i)) continue;
        thread.seen = thread.brought;
        thread.present = present;
        thread.yes = yes;
        thread.state = READY;
    }
    return true;
}

// Nobody can go on: say who waits where.
EMULATOR_INSIDE inline void note_standstill() {
    std::string text;
    for (int i = 0, from = 0; i < machine.count; from = i) {
        const Thread& first = machine.threads[i];
        while (i < machine.count && (machine.threads[i].state == ENDED ? first.state == ENDED
                                                                       : same_meeting(machine.threads[i], first)))
            ++i;
        text += (from ? ", " : "") + ("threads " + std::to_string(from)) + " to " + std::to_string(i - 1);
        char mask[16];
        std::snprintf(mask, sizeof mask, "(0x%08x)", first.mask);
        text += first.state == ENDED ? " have ended"
                                     : " wait at " + std::string(first.operation) + (first.whole_block ? "" : mask) +
                                           " in " + line_of(first.place);
    }
    note(LAUNCH_FAILURE,
         "divergent barrier: no thread of block " + triple(machine.block_index) + " can go on: " + text);
}

#ifdef EMULATOR_COUNT
}  // namespace emulator
#include "counting.h"
namespace emulator {
#endif

// ---- Running a grid -----------------------------------------------------------------------------------------------
EMULATOR_INSIDE inline void run_thread() {  // what each fiber does, for one block after another
    entered(machine.host);
    for (;;) {
        Thread& self = *machine.current;
        try {
            if (!machine.failed) machine.kernel(machine.arguments);
        } catch (const Stop&) {
        }
        self.state = ENDED;
        change(self.fiber, machine.host);
    }
}

EMULATOR_INSIDE inline void resume(Thread& thread) {
    machine.current = &thread;
    change(machine.host, thread.fiber);
    machine.current = nullptr;
}

// Lets the lanes of a warp run until every one of them has ended or waits for lanes of other warps.
EMULATOR_INSIDE inline void run_warp(int first) {
    const int last = std::min(first + LANES, machine.count);
    for (bool again = true; again;) {
        for (int i = first; i < last; ++i) {
            Thread& thread = machine.threads[machine.reverse ? first + last - 1 - i : i];
            if (thread.state == READY) resume(thread);
        }
        again = false;
        for (int i = first; i < last && !machine.failed; ++i) {
            const Thread& thread = machine.threads[i];
            if (thread.state == WAITING && !thread.whole_block) again |= hold(thread);
        }
    }
}

// Not memset, to which AddressSanitizer would object where it keeps guards between the arrays.
__attribute__((no_sanitize("address", "thread"))) inline void poison(volatile void* memory, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) static_cast<volatile unsigned char*>(memory)[i] = POISON;
}

EMULATOR_INSIDE inline void run_block() {
    const int warps = (machine.count + LANES - 1) / LANES;
    Thread* const end = machine.threads + machine.count;
    poison(__bss_start, _end - __bss_start);  // the static shared arrays
    poison(machine.dynamic, machine.dynamic_bytes);
    for (Thread* thread = machine.threads; thread < end; ++thread) thread->state = READY;
    auto everybody = [](int i) EMULATOR_INSIDE {
        return i < machine.count ? &machine.threads[i].fiber : &machine.host;
    };
    put_in_order(machine.host, machine.count + 1, everybody);
    for (;;) {
        for (int w = 0; w < warps && !machine.failed; ++w) run_warp((machine.reverse ? warps - 1 - w : w) * LANES);
        if (machine.failed) break;
        const Thread* first = machine.threads;
        while (first < end && first->state == ENDED) ++first;
        if (first == end) break;
        if (!first->whole_block || !hold(*first)) note_standstill();
    }
    for (Thread* thread = machine.threads; thread < end; ++thread)  // after a mistake: let Stop unwind what is left
        if (thread->state != ENDED) resume(*thread);
    put_in_order(machine.host, machine.count + 1, everybody);
#ifdef EMULATOR_COUNT
    count_block();
#endif
}

EMULATOR_INSIDE inline void run_grid(const char* name) {
    if (machine.stacks == nullptr)
        machine.stacks = static_cast<char*>(mmap(nullptr, MOST_THREADS * STACK, PROT_READ | PROT_WRITE,
                                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (machine.stacks == MAP_FAILED) {
        machine.stacks = nullptr;
        return note(OUT_OF_MEMORY, "kernel " + std::string(name) + ": no memory for the stacks of the threads");
    }
#ifdef EMULATOR_RACES
    machine.host.as_thread = __tsan_get_current_fiber();
#endif
    machine.host.begun = true;
    const dim3 block = machine.block, grid = machine.grid;
    for (int i = 0; i < machine.count; ++i) {
        Thread& thread = machine.threads[i];
        thread.index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
        if (thread.fiber.stack == nullptr)  // the tops at different offsets, for the sake of the cache
            make_fiber(thread.fiber, machine.stacks + i * STACK, STACK - i % LANES * 192, run_thread);
    }
    for (unsigned z = 0; z < grid.z && !machine.failed; ++z)
        for (unsigned y = 0; y < grid.y && !machine.failed; ++y)
            for (unsigned x = 0; x < grid.x && !machine.failed; ++x) {
                machine.block_index = {x, y, z};
                run_block();
            }
    if (machine.failed) {
        const std::string message = machine.error;
        std::snprintf(machine.error, sizeof machine.error, "kernel %s, %s", name, message.c_str());
    }
}

// What LAUNCH does. After a mistake the launches that follow do nothing, until the launcher has asked launch_error.
template <class... P, class... A>
EMULATOR_INSIDE void launch(const char* name, dim3 grid, dim3 block, size_t shared, void (*kernel)(P...), A... given) {
    static_assert(sizeof...(P) == sizeof...(A), "LAUNCH: the kernel has another number of arguments");
    std::lock_guard<std::mutex> guard(one_at_a_time);
    if (machine.code != 0) return;
    const uint64_t threads = uint64_t(block.x) * block.y * block.z;
    if (threads < 1 || threads > MOST_THREADS || block.z > 64 || grid.x < 1 || grid.x > 0x7FFFFFFF || grid.y < 1 ||
        grid.y > 65535 || grid.z < 1 || grid.z > 65535 || shared > MOST_SHARED)
        return note(INVALID_CONFIGURATION, "kernel " + std::string(name) + ": no GPU can launch a grid of " +
                    triple(grid) + " blocks of " + triple(block) + " threads with " + std::to_string(shared) +
                    " bytes of dynamic shared memory");
    std::pair<void (*)(P...), std::tuple<P...>> call(kernel, {static_cast<P>(given)...});
    machine.kernel = [](void* what) {
        auto& [kernel, arguments] = *static_cast<decltype(call)*>(what);
        std::apply(kernel, arguments);
    };
    machine.arguments = &call;
    machine.argument_bytes = sizeof call;
    machine.grid = grid;
    machine.block = block;
    machine.count = int(threads);
    machine.failed = false;
    machine.dynamic_bytes = shared;
    machine.dynamic = shared ? static_cast<unsigned char*>(std::malloc(shared)) : nullptr;
    run_grid(name);
    std::free(machine.dynamic);
    machine.dynamic = nullptr;
}

}  // namespace emulator

// ---- What kernels see ---------------------------------------------------------------------------------------------
#define threadIdx (emulator::machine.current->index)
#define blockIdx (emulator::machine.block_index)
#define blockDim (emulator::machine.block)
#define gridDim (emulator::machine.grid)
constexpr int warpSize = 32;

#define EMULATOR_PLACE emulator::Place place = emulator::Place::current()
#define DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(emulator::machine.dynamic)
#define LAUNCH(kernel, grid, block, shared, stream, ...) \
    ((void)(stream), emulator::launch(#kernel, grid, block, shared, kernel __VA_OPT__(, ) __VA_ARGS__))

inline void __syncthreads(EMULATOR_PLACE) { emulator::meet("__syncthreads", true, 0, 0, place); }
inline int __syncthreads_count(int yes, EMULATOR_PLACE) {
    return int(emulator::meet("__syncthreads_count", true, 0, yes != 0, place).yes);
}
inline int __syncthreads_or(int yes, EMULATOR_PLACE) {
    return emulator::meet("__syncthreads_or", true, 0, yes != 0, place).yes != 0;
}
inline int __syncthreads_and(int yes, EMULATOR_PLACE) {
    const emulator::Thread& self = emulator::meet("__syncthreads_and", true, 0, yes != 0, place);
    return self.yes == self.present;
}
inline void __syncwarp(unsigned mask = ~0u, EMULATOR_PLACE) { emulator::meet("__syncwarp", false, mask, 0, place); }
inline unsigned __ballot_sync(unsigned mask, int yes, EMULATOR_PLACE) {
    return emulator::meet("__ballot_sync", false, mask, yes != 0, place).yes;
}
inline int __any_sync(unsigned mask, int yes, EMULATOR_PLACE) {
    return emulator::meet("__any_sync", false, mask, yes != 0, place).yes != 0;
}
inline int __all_sync(unsigned mask, int yes, EMULATOR_PLACE) {
    const emulator::Thread& self = emulator::meet("__all_sync", false, mask, yes != 0, place);
    return self.yes == self.present;
}
inline unsigned __activemask() { return 1u << emulator::lane(); }  // a GPU may say more, but need not
#include "builtins.h"
#include "portable.h"
#include "blocks.h"
#include "codes.h"
#include "loads.h"
