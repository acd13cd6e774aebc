// A fiber: a stack of its own, on which a function runs until it is left for another fiber, and later goes on.
//
// The first entry is makecontext's; after that a change is a _setjmp and a _longjmp, ten times as fast as swapcontext,
// which asks the kernel about signals. The sanitizers have to be told of each change, and want swapcontext.
//
//   AddressSanitizer   is told which stack is in use.
//   ThreadSanitizer    is given a thread of its own for each fiber, and no order between them other than the one that
//                      `put_in_order` states. So it finds a missing barrier in whatever order the fibers run.
#pragma once
#undef _FORTIFY_SOURCE  // it takes a jump from one stack to another for an attack
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdlib>

// With EMULATOR_COUNT the compiler's hooks for ThreadSanitizer are those of counting.h instead.
#if defined(__SANITIZE_THREAD__) && !defined(EMULATOR_COUNT)
#define EMULATOR_RACES
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_acquire(void*);
extern "C" void __tsan_release(void*);
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif
#define EMULATOR_INSIDE __attribute__((no_sanitize("thread")))  // the emulator's own accesses are nobody's business

namespace emulator {

constexpr size_t STACK = 256 * 1024;  // bytes of address space; pages that are never touched cost no memory

struct Fiber {
    ucontext_t context;
    jmp_buf registers;       // while another fiber runs
    bool begun;
    const void* stack;
    size_t stack_bytes;
    void* as_thread;         // what ThreadSanitizer knows it as
};

// Makes a fiber that will run `function`, which must not return.
EMULATOR_INSIDE inline void make_fiber(Fiber& fiber, char* stack, size_t bytes, void (*function)()) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stack;
    fiber.context.uc_stack.ss_size = bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, function, 0);
    fiber.stack = stack;
    fiber.stack_bytes = bytes;
    fiber.begun = false;
#ifdef EMULATOR_RACES
    if (fiber.as_thread == nullptr) fiber.as_thread = __tsan_create_fiber(0);
#endif
}

// Leaves `from`, which runs, for `to`. Comes back when somebody changes to `from`.
EMULATOR_INSIDE inline void change(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
    void* hidden = nullptr;
    __sanitizer_start_switch_fiber(&hidden, to.stack, to.stack_bytes);
    swapcontext(&from.context, &to.context);
    __sanitizer_finish_switch_fiber(hidden, nullptr, nullptr);
#elif defined(EMULATOR_RACES)
    __tsan_switch_to_fiber(to.as_thread, __tsan_switch_to_fiber_no_sync);
    swapcontext(&from.context, &to.context);
#else
    if (_setjmp(from.registers) != 0) return;
    if (to.begun) _longjmp(to.registers, 1);
    to.begun = true;
    setcontext(&to.context);
#endif
}

// The first thing that a new fiber does; `host` is the fiber it was entered from.
EMULATOR_INSIDE inline void entered([[maybe_unused]] Fiber& host) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, &host.stack, &host.stack_bytes);
#endif
}

// Whatever one of these fibers has done so far comes before whatever another one of them will do.
// fiber_at(i) is the i-th of `count` fibers, or null; `running` is the fiber that runs now.
template <class Choose>
EMULATOR_INSIDE inline void put_in_order([[maybe_unused]] Fiber& running, [[maybe_unused]] int count,
                                         [[maybe_unused]] Choose fiber_at) {
#ifdef EMULATOR_RACES
    void* meeting = std::malloc(8);
    for (auto act : {__tsan_release, __tsan_acquire})
        for (int i = 0; i < count; ++i)
            if (Fiber* fiber = fiber_at(i)) {
                __tsan_switch_to_fiber(fiber->as_thread, __tsan_switch_to_fiber_no_sync);
                act(meeting);
            }
    __tsan_switch_to_fiber(running.as_thread, __tsan_switch_to_fiber_no_sync);
    std::free(meeting);
#endif
}

}  // namespace emulator
