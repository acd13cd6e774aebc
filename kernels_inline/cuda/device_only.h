// What a .cu file needs under NVRTC, which compiles device code only: the launchers are read too, but launch nothing.
// (Their compiled halves come from g++ and driver.h.)
#pragma once
#include "launch.h"

#define LAUNCH(...) ((void)0)
template <class T>
T* scratch(int64_t, void*) { return nullptr; }
inline void release(void*, void*) {}
inline void fill_bytes(void*, int, int64_t, void*) {}
inline int64_t launch_error() { return 0; }
inline bool has_binary_mma() { return false; }
