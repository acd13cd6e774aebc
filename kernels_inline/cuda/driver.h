// The launchers of .cu files under g++, for kernels that NVRTC has compiled: LAUNCH goes to the GPU's driver.
//
// The kernels' bodies are compiled for the CPU too, as the emulator would, but never run: their addresses stand for
// the kernels. nvrtc.py tells which function of the driver belongs to which address, and where the driver's calls are.
#pragma once
#define scratch emulated_scratch
#define release emulated_release
#define fill_bytes emulated_fill_bytes
#define launch_error emulated_launch_error
#define has_binary_mma emulated_has_binary_mma
#include "emulator.h"
#undef scratch
#undef release
#undef fill_bytes
#undef launch_error
#undef has_binary_mma
#undef LAUNCH
#include <unordered_map>

namespace driver {

// The driver's calls, in the order in which nvrtc.py gives their addresses. Handles and addresses are pointers here.
struct Calls {
    int (*launch)(void* kernel, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned shared,
                  void* stream, void** arguments, void** extra);                    // cuLaunchKernel
    int (*set_attribute)(int attribute, int value, void* kernel, int device);       // cuKernelSetAttribute
    int (*get_device)(int* device);                                                 // cuCtxGetDevice
    int (*get_attribute)(int* value, int attribute, int device);                    // cuDeviceGetAttribute
    int (*allocate)(void** memory, size_t bytes, void* stream);                     // cuMemAllocAsync
    int (*free)(void* memory, void* stream);                                        // cuMemFreeAsync
    int (*fill)(void* memory, unsigned char value, size_t bytes, void* stream);     // cuMemsetD8Async
    int (*error_text)(int code, const char** text);                                 // cuGetErrorString
};
constexpr int MAX_DYNAMIC_SHARED_SIZE_BYTES = 8, COMPUTE_CAPABILITY_MAJOR = 75, NOT_FOUND = 500;
inline Calls calls;
inline std::unordered_map<const void*, void*> kernels;
inline thread_local int first_error = 0;

inline void note(int code) {
    if (first_error == 0) first_error = code;
}

template <class... P, class... A>
void launch(dim3 grid, dim3 block, size_t shared, void* stream, void (*kernel)(P...), A... given) {
    static_assert(sizeof...(P) == sizeof...(A), "LAUNCH: the kernel has another number of arguments");
    if (first_error != 0) return;
    const auto found = kernels.find(reinterpret_cast<const void*>(kernel));
    if (found == kernels.end()) return note(NOT_FOUND);
    if (shared > 48 * 1024) {
        int device = 0;
        note(calls.get_device(&device));
        note(calls.set_attribute(MAX_DYNAMIC_SHARED_SIZE_BYTES, int(shared), found->second, device));
        if (first_error != 0) return;
    }
    std::tuple<P...> values{static_cast<P>(given)...};
    std::apply([&](P&... value) {
        void* arguments[] = {const_cast<void*>(static_cast<const void*>(&value))..., nullptr};
        note(calls.launch(found->second, grid.x, grid.y, grid.z, block.x, block.y, block.z, unsigned(shared), stream,
                          arguments, nullptr));
    }, values);
}

}  // namespace driver

#define LAUNCH(kernel, grid, block, shared, stream, ...) \
    driver::launch(grid, block, shared, stream, kernel __VA_OPT__(, ) __VA_ARGS__)

inline int64_t launch_error() { return -int64_t(std::exchange(driver::first_error, 0)); }

inline bool has_binary_mma() {
    int device = 0, major = 0;
    driver::note(driver::calls.get_device(&device));
    driver::note(driver::calls.get_attribute(&major, driver::COMPUTE_CAPABILITY_MAJOR, device));
    return major == 8 || major == 9;
}

template <class T>
T* scratch(int64_t count, void* stream) {
    void* memory = nullptr;
    driver::note(driver::calls.allocate(&memory, size_t(count) * sizeof(T), stream));
    return static_cast<T*>(memory);
}
inline void release(void* memory, void* stream) {
    if (memory != nullptr) driver::note(driver::calls.free(memory, stream));
}
inline void fill_bytes(void* memory, int value, int64_t bytes, void* stream) {
    if (driver::first_error == 0)
        driver::note(driver::calls.fill(memory, static_cast<unsigned char>(value), size_t(bytes), stream));
}

// For nvrtc.py.
EMULATOR_EXPORT int64_t driver_connect(const driver::Calls* calls) {
    driver::calls = *calls;
    return 0;
}
EMULATOR_EXPORT int64_t driver_kernel(const void* address, void* kernel) {
    driver::kernels[address] = kernel;
    return 0;
}
EMULATOR_EXPORT const char* cuda_error_text(int64_t code) {
    const char* text = nullptr;
    return driver::calls.error_text(int(code), &text) == 0 && text != nullptr ? text : "unknown error";
}
