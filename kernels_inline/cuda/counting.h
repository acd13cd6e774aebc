// How often kernels use memory: the part of a kernel's cost that can be known without a GPU.
//
// With -fsanitize=thread the compiler calls a function at every access that is left after its optimisations, as
// __tsan_read4(address). Here these functions do not look for races: they count. So kernels need no change.
//
//   shared   static and dynamic shared memory
//   local    the stack of a thread, arguments, threadIdx: not counted, as a GPU has them in registers
//   global   all the rest
//
// A warp issues one request for its 32 lanes together. Lanes run one by one here, so the k-th time that a lane comes
// to an instruction is taken to be the k-th request of its warp there (which is so unless the lanes go separate ways).
// A request to global memory moves whole sectors of 32 bytes: 4 when 32 lanes read neighbouring floats, 32 when they
// read a column. A request to shared memory takes one wavefront, or several where lanes want different words of the
// same one of its 32 banks. Those are the names and numbers of NVIDIA's profiler. Atomics count as a load and a store.
#pragma once
#include <map>
#include <utility>
#include <vector>

namespace emulator {

enum Total { LOADS, STORES, LOAD_BYTES, STORE_BYTES, REQUESTS, TRANSFERS, TOTALS };  // transfers: sectors or wavefronts
constexpr uintptr_t SECTOR = 32, BANKS = 32, WORD = 4;

struct Request { std::vector<std::pair<int, uintptr_t>> uses; };  // (lane, address)
struct Instruction {
    bool shared;
    size_t bytes;                          // of an access
    std::vector<Request> requests;
    int times[LANES] = {};                 // how often each lane was there
};
struct Counting {
    int64_t totals[2][TOTALS] = {};        // of global memory, of shared memory
    std::map<std::pair<int, void*>, Instruction> instructions;  // of the present block, by warp and place in the code
};
EMULATOR_KEPT static Counting* counting = nullptr;
EMULATOR_KEPT static bool busy = false;    // its own accesses are not counted

EMULATOR_INSIDE inline bool lies_in(uintptr_t address, const void* begin, size_t bytes) {
    return address - reinterpret_cast<uintptr_t>(begin) < bytes;
}

EMULATOR_INSIDE inline void count(const void* pointer, size_t bytes, bool store, void* code) {
    const auto address = reinterpret_cast<uintptr_t>(pointer);
    if (busy || machine.current == nullptr || lies_in(address, &machine, sizeof machine) ||
        lies_in(address, machine.stacks, MOST_THREADS * STACK) ||
        lies_in(address, machine.arguments, machine.argument_bytes))
        return;
    busy = true;
    if (counting == nullptr) counting = new Counting;
    const bool shared = lies_in(address, __bss_start, _end - __bss_start) ||
                        lies_in(address, machine.dynamic, machine.dynamic_bytes);
    int64_t* totals = counting->totals[shared];
    totals[store ? STORES : LOADS] += 1;
    totals[store ? STORE_BYTES : LOAD_BYTES] += int64_t(bytes);
    // Shared and global memory can come to the same instruction, and a range in any length: these are kept apart.
    const uintptr_t place = reinterpret_cast<uintptr_t>(code) * 2 + shared;
    Instruction& instruction =
        counting->instructions[{number_of(*machine.current) / LANES, reinterpret_cast<void*>(place)}];
    instruction.shared = shared;
    instruction.bytes = bytes;
    const size_t time = size_t(instruction.times[lane()]++);
    if (instruction.requests.size() <= time) instruction.requests.resize(time + 1);
    instruction.requests[time].uses.emplace_back(lane(), address);
    busy = false;
}

// The number of different values of part(address) among the lanes first to last - 1 of a request.
template <class Part>
std::vector<uintptr_t> distinct(const Request& request, int first, int last, size_t bytes, Part part) {
    std::vector<uintptr_t> found;
    for (const auto& [lane, address] : request.uses)
        if (first <= lane && lane < last)
            for (uintptr_t i = part(address); i <= part(address + bytes - 1); ++i) found.push_back(i);
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    return found;
}

// A wavefront serves 128 bytes: all lanes if each wants up to 4 bytes, 16 of them at 8 bytes, 8 at 16 bytes.
inline int64_t wavefronts(const Request& request, size_t bytes) {
    const int lanes = bytes <= WORD ? LANES : std::max(1, int(LANES * WORD / bytes));
    int64_t sum = 0;
    for (int first = 0; first < LANES; first += lanes) {
        int64_t of_bank[BANKS] = {}, most = 0;
        for (uintptr_t word : distinct(request, first, first + lanes, bytes, [](uintptr_t a) { return a / WORD; }))
            most = std::max(most, ++of_bank[word % BANKS]);
        sum += most;
    }
    return sum;
}

EMULATOR_INSIDE inline void count_block() {
    if (counting == nullptr) return;
    busy = true;
    for (const auto& [place, instruction] : counting->instructions)
        for (const Request& request : instruction.requests) {
            int64_t* totals = counting->totals[instruction.shared];
            totals[REQUESTS] += 1;
            totals[TRANSFERS] += instruction.shared ? wavefronts(request, instruction.bytes)
                                                    : int64_t(distinct(request, 0, LANES, instruction.bytes,
                                                                       [](uintptr_t a) { return a / SECTOR; }).size());
        }
    counting->instructions.clear();
    busy = false;
}

}  // namespace emulator

// What the compiler calls. They are not exported, so that a real ThreadSanitizer would not be disturbed.
#define EMULATOR_HOOK extern "C" __attribute__((used, noinline, visibility("hidden"))) EMULATOR_INSIDE void
#define EMULATOR_COUNTED(p, bytes, store) emulator::count(p, bytes, store, __builtin_return_address(0))
#define EMULATOR_HOOKS(bytes)                                                                   \
    EMULATOR_HOOK __tsan_read##bytes(void* p) { EMULATOR_COUNTED(p, bytes, false); }            \
    EMULATOR_HOOK __tsan_write##bytes(void* p) { EMULATOR_COUNTED(p, bytes, true); }            \
    EMULATOR_HOOK __tsan_unaligned_read##bytes(void* p) { EMULATOR_COUNTED(p, bytes, false); }  \
    EMULATOR_HOOK __tsan_unaligned_write##bytes(void* p) { EMULATOR_COUNTED(p, bytes, true); }
EMULATOR_HOOKS(1)
EMULATOR_HOOKS(2)
EMULATOR_HOOKS(4)
EMULATOR_HOOKS(8)
EMULATOR_HOOKS(16)
EMULATOR_HOOK __tsan_read_range(void* p, size_t bytes) { EMULATOR_COUNTED(p, bytes, false); }
EMULATOR_HOOK __tsan_write_range(void* p, size_t bytes) { EMULATOR_COUNTED(p, bytes, true); }
EMULATOR_HOOK __tsan_vptr_update(void*, void*) {}
EMULATOR_HOOK __tsan_func_entry(void*) {}
EMULATOR_HOOK __tsan_func_exit() {}
EMULATOR_HOOK __tsan_init() {}

// The totals since the last call: those of global memory, then those of shared memory. For emulator.py.
extern "C" __attribute__((used, visibility("default"))) EMULATOR_INSIDE inline void emulator_counts(int64_t* out) {
    if (emulator::counting == nullptr) emulator::counting = new emulator::Counting;
    std::memcpy(out, emulator::counting->totals, sizeof emulator::counting->totals);
    std::memset(emulator::counting->totals, 0, sizeof emulator::counting->totals);
}
