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
//
// As the functions are called before the access, they can do two things more, which `emulator_watch` turns on: record
// who uses what, and end a launch that would use global memory outside the arrays that it was given.
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

// An access as watching.py reads it. block, thread: numbers, x first; code: where in the library.
struct Use { int64_t block, thread, code, address, bytes, store, shared; };
struct Array { uintptr_t begin, bytes; };
struct Watching {
    bool arrays_known = false, recording = false, counting = true;
    std::vector<Array> arrays;
    std::vector<Use> uses;
    Use fault = {};                        // the access outside all arrays that ended a launch; bytes: 0 if none did
};
EMULATOR_KEPT static Watching* watching = nullptr;
extern "C" char __ehdr_start[] __attribute__((visibility("hidden")));  // where this library begins

EMULATOR_INSIDE inline bool lies_in(uintptr_t address, const void* begin, size_t bytes) {
    return address - reinterpret_cast<uintptr_t>(begin) < bytes;
}

// Tables of constants lie in the library itself.
EMULATOR_INSIDE inline bool may_be_used(uintptr_t address, size_t bytes) {
    if (lies_in(address, __ehdr_start, _end - __ehdr_start)) return true;
    for (const Array& array : watching->arrays)
        if (address >= array.begin && address + bytes <= array.begin + array.bytes) return true;
    return false;
}

// A thread that must not go on: its fiber is left for good, and made anew for the next launch.
EMULATOR_INSIDE inline void end_launch(const Use& fault) {
    watching->fault = fault;
    note(LAUNCH_FAILURE, "an access outside of all arrays");
    machine.current->state = ENDED;
    machine.current->fiber.stack = nullptr;
    busy = false;
    change(machine.current->fiber, machine.host);
}

EMULATOR_INSIDE inline void watch(uintptr_t address, size_t bytes, bool store, bool shared, void* code) {
    const uint3 block = machine.block_index;
    const int64_t number = (int64_t(block.z) * machine.grid.y + block.y) * machine.grid.x + block.x;
    const uintptr_t place = reinterpret_cast<uintptr_t>(code) - reinterpret_cast<uintptr_t>(__ehdr_start);
    const int64_t thread = number_of(*machine.current);
    const Use use = {number, thread, int64_t(place), int64_t(address), int64_t(bytes), store, shared};
    if (watching->recording) watching->uses.push_back(use);
    if (watching->arrays_known && !shared && !may_be_used(address, bytes)) end_launch(use);
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
    if (watching != nullptr) {
        watch(address, bytes, store, shared, code);
        if (!watching->counting) {
            busy = false;
            return;
        }
    }
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

// What a copy of a vector type does (builtins.h): a load and a store. Those of a thread's own memory do not count.
__attribute__((noinline)) EMULATOR_INSIDE inline void copy_whole(void* to, const void* from, size_t bytes) {
    void* const code = __builtin_return_address(0);
    count(from, bytes, false, code);
    count(to, bytes, true, static_cast<char*>(code) - 1);  // another place than the load's
    std::memcpy(to, from, bytes);
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

// From now on launches may use these arrays only (null: any memory), and are recorded and counted or not. What was
// recorded before is forgotten. For watching.py, as the next two.
extern "C" __attribute__((used, visibility("default"))) EMULATOR_INSIDE inline void emulator_watch(
    const emulator::Array* arrays, int64_t count, int64_t recording, int64_t counting) {
    delete emulator::watching;
    emulator::watching = new emulator::Watching{arrays != nullptr, recording != 0, counting != 0, {}, {}, {}};
    if (arrays != nullptr) emulator::watching->arrays.assign(arrays, arrays + count);
}

// How many uses were recorded; the first `room` of them are written to `out`.
extern "C" __attribute__((used, visibility("default"))) EMULATOR_INSIDE inline int64_t emulator_uses(
    emulator::Use* out, int64_t room) {
    if (emulator::watching == nullptr) return 0;
    const auto& uses = emulator::watching->uses;
    std::copy_n(uses.begin(), std::min<int64_t>(room, int64_t(uses.size())), out);
    return int64_t(uses.size());
}

// The access that ended the last launch; its bytes are 0 if none did.
extern "C" __attribute__((used, visibility("default"))) EMULATOR_INSIDE inline void emulator_fault(emulator::Use* out) {
    *out = emulator::watching == nullptr ? emulator::Use{} : emulator::watching->fault;
}
