// What concerns one thread alone, for emulator.h: vector types, atomics, bits, arithmetic; and the host's side.
// Types that nvcc refuses are refused here too.
#pragma once

// ---- Vector types -------------------------------------------------------------------------------------------------
// A GPU loads and stores a vector in one piece. Where accesses are counted the compiler must not take it apart, as it
// likes to; so there a copy is a function's work, and counts as one access.
#ifdef EMULATOR_COUNT
#define EMULATOR_COPIED(V)                                                                       \
    V() = default;                                                                               \
    V(const V& other) { emulator::copy_whole(this, &other, sizeof other); }                      \
    V& operator=(const V& other) {                                                               \
        emulator::copy_whole(this, &other, sizeof other);                                        \
        return *this;                                                                            \
    }
#define EMULATOR_MADE(V, parts, ...) V parts : __VA_ARGS__ {}
#else
#define EMULATOR_COPIED(V)
#define EMULATOR_MADE(V, parts, ...)
#endif
#define EMULATOR_VECTORS(T, name)                                                                \
    struct alignas(2 * sizeof(T)) name##2 {                                                      \
        T x, y;                                                                                  \
        EMULATOR_COPIED(name##2)                                                                 \
        EMULATOR_MADE(name##2, (T a, T b), x(a), y(b))                                           \
    };                                                                                           \
    struct alignas(sizeof(T) < 8 ? 4 * sizeof(T) : 16) name##4 {                                 \
        T x, y, z, w;                                                                            \
        EMULATOR_COPIED(name##4)                                                                 \
        EMULATOR_MADE(name##4, (T a, T b, T c, T d), x(a), y(b), z(c), w(d))                     \
    };                                                                                           \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                   \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATOR_VECTORS(signed char, char)
EMULATOR_VECTORS(unsigned char, uchar)
EMULATOR_VECTORS(short, short)
EMULATOR_VECTORS(unsigned short, ushort)
EMULATOR_VECTORS(int, int)
EMULATOR_VECTORS(unsigned, uint)
EMULATOR_VECTORS(float, float)
EMULATOR_VECTORS(double, double)
EMULATOR_VECTORS(long long, longlong)
EMULATOR_VECTORS(unsigned long long, ulonglong)

// ---- Atomics ------------------------------------------------------------------------------------------------------
namespace emulator {

// Fibers are left at meetings only, so a plain read and write is atomic. ThreadSanitizer has to be shown a real one.
template <class T, class Change>
T atomically(T* where, Change change_of) {
    static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, unsigned long long> ||
                  std::is_same_v<T, float> || std::is_same_v<T, double>,
                  "CUDA's atomics take int, unsigned, unsigned long long, float and double");
#ifdef EMULATOR_RACES
    std::atomic_ref<T> shared(*where);
    T old = shared.load(std::memory_order_relaxed);
    while (!shared.compare_exchange_weak(old, change_of(old), std::memory_order_relaxed)) {
    }
    return old;
#else
    const T old = *where;
    *where = change_of(old);
    return old;
#endif
}
template <class T>
using Same = std::type_identity_t<T>;  // an argument that follows the type of the pointer

}  // namespace emulator

template <class T>
T atomicAdd(T* p, emulator::Same<T> v) { return emulator::atomically(p, [v](T old) { return T(old + v); }); }
template <class T>
T atomicExch(T* p, emulator::Same<T> v) { return emulator::atomically(p, [v](T) { return v; }); }
template <class T>
T emulator_integer(T* p, auto change_of) {
    static_assert(std::is_integral_v<T>, "CUDA has this atomic for integers only");
    return emulator::atomically(p, change_of);
}
template <class T>
T atomicSub(T* p, emulator::Same<T> v) { return emulator_integer(p, [v](T old) { return T(old - v); }); }
template <class T>
T atomicMax(T* p, emulator::Same<T> v) { return emulator_integer(p, [v](T old) { return old > v ? old : v; }); }
template <class T>
T atomicMin(T* p, emulator::Same<T> v) { return emulator_integer(p, [v](T old) { return old < v ? old : v; }); }
template <class T>
T atomicOr(T* p, emulator::Same<T> v) { return emulator_integer(p, [v](T old) { return old | v; }); }
template <class T>
T atomicAnd(T* p, emulator::Same<T> v) { return emulator_integer(p, [v](T old) { return old & v; }); }
template <class T>
T atomicXor(T* p, emulator::Same<T> v) { return emulator_integer(p, [v](T old) { return old ^ v; }); }
template <class T>
T atomicCAS(T* p, emulator::Same<T> expected, emulator::Same<T> v) {
    return emulator_integer(p, [expected, v](T old) { return old == expected ? v : old; });
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- Shuffles -----------------------------------------------------------------------------------------------------
namespace emulator {

template <class T>
EMULATOR_INSIDE T shuffle(const char* operation, unsigned mask, T value, int from, const Place& place) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    const Thread& self = meet(operation, false, mask, bits, place);
    if (!(self.present >> from & 1))
        fail("reads lane " + std::to_string(from) + " by " + operation + ", in which that lane takes no part", place);
    std::memcpy(&value, &neighbour(from).seen, sizeof value);
    return value;
}

// The lane that a shuffle within groups of `width` lanes reads; its own where that is beyond the group. Only
// __shfl_xor_sync may reach into the groups before: CUDA says so.
EMULATOR_INSIDE inline int within(int source, int width, bool groups_before = false) {
    const int first = lane() & ~(width - 1), end = first + width;
    return source >= end || (source < first && !groups_before) ? lane() : source;
}

}  // namespace emulator

template <class T>
unsigned __match_any_sync(unsigned mask, T value, EMULATOR_PLACE) {
    unsigned same = 0;
    for (int i = 0; i < emulator::LANES; ++i)  // a meeting for each lane, which tells its value
        if (mask >> i & 1) {
            const unsigned present = emulator::meet("__match_any_sync", false, mask, 0, place).present;
            if (!(present >> i & 1)) continue;
            same |= unsigned(emulator::shuffle("__match_any_sync", mask, value, i, place) == value) << i;
        }
    return same;
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATOR_PLACE) {
    const int first = emulator::lane() & ~(width - 1);
    return emulator::shuffle("__shfl_sync", mask, value, first + (source & (width - 1)), place);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, EMULATOR_PLACE) {
    const int source = emulator::within(emulator::lane() - int(by), width);
    return emulator::shuffle("__shfl_up_sync", mask, value, source, place);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, EMULATOR_PLACE) {
    const int source = emulator::within(emulator::lane() + int(by), width);
    return emulator::shuffle("__shfl_down_sync", mask, value, source, place);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, EMULATOR_PLACE) {
    const int source = emulator::within(emulator::lane() ^ with, width, true);
    return emulator::shuffle("__shfl_xor_sync", mask, value, source, place);
}

// ---- Memory and bits ----------------------------------------------------------------------------------------------
template <class T>
T __ldg(const T* p) { return *p; }
template <class T>
T __ldcs(const T* p) { return *p; }
template <class T>
T __ldcg(const T* p) { return *p; }
template <class T>
void __stcs(T* p, emulator::Same<T> v) { *p = v; }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return std::countl_zero(unsigned(x)); }
inline int __clzll(long long x) { return std::countl_zero((unsigned long long)(x)); }
inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1) << (31 - i);
    return reversed;
}
// Four of the bytes 0 to 7 of (y, x); a selector of 8 or more fills a byte with the sign of the one it names.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selectors) {
    const uint64_t bytes = uint64_t(y) << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) {
        const unsigned selector = selectors >> 4 * i & 15, byte = unsigned(bytes >> 8 * (selector & 7)) & 0xFF;
        result |= (selector & 8 ? (byte & 0x80 ? 0xFFu : 0u) : byte) << 8 * i;
    }
    return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    return unsigned((uint64_t(high) << 32 | low) << (by & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return unsigned((uint64_t(high) << 32 | low) >> (by & 31));
}
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

// ---- Arithmetic; the rest comes from <cmath> ----------------------------------------------------------------------
template <class A, class B>
std::common_type_t<A, B> min(A a, B b) { using C = std::common_type_t<A, B>; return C(b) < C(a) ? C(b) : C(a); }
template <class A, class B>
std::common_type_t<A, B> max(A a, B b) { using C = std::common_type_t<A, B>; return C(a) < C(b) ? C(b) : C(a); }
inline int __vimax3_s32(int a, int b, int c) { return max(max(a, b), c); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)(a) * b >> 64);
}
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __powf(float x, float y) { return std::pow(x, y); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }  // a NaN gives 0
// Out of range goes to the nearest integer in range and a NaN to 0, as on the GPU; a cast in C++ promises nothing.
template <class T>
T emulator_to_integer(double whole) {
    constexpr double low = double(std::numeric_limits<T>::min()), high = double(std::numeric_limits<T>::max());
    return whole != whole ? 0 : whole <= low ? std::numeric_limits<T>::min()
                              : whole >= high ? std::numeric_limits<T>::max() : T(whole);
}
inline int __float2int_rn(float x) { return emulator_to_integer<int>(std::nearbyint(x)); }
inline int __float2int_rz(float x) { return emulator_to_integer<int>(std::trunc(x)); }
inline int __float2int_rd(float x) { return emulator_to_integer<int>(std::floor(x)); }
inline int __float2int_ru(float x) { return emulator_to_integer<int>(std::ceil(x)); }
inline unsigned __float2uint_rn(float x) { return emulator_to_integer<unsigned>(std::nearbyint(x)); }
inline unsigned __float2uint_rz(float x) { return emulator_to_integer<unsigned>(std::trunc(x)); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }
inline float __double2float_rn(double x) { return float(x); }

// ---- Tensor cores -------------------------------------------------------------------------------------------------
namespace emulator {

// The host twin of mma.sync m16n8k256 .and.popc; portable.h tells which lane holds what. Each lane gathers the words of
// its two rows and two columns from the lanes that hold them. Of 8 words in a row, lane 4 row + t holds t and t + 4.
inline void binary_mma(int32_t (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const Place& place) {
    const int row = lane() / 4, column = lane() % 4 * 2;
    for (int word = 0; word < 8; ++word) {
        const int holder = word % 4, late = word / 4;
        uint32_t rows[2], columns[2];
        for (int half = 0; half < 2; ++half) {
            const uint32_t held = a[2 * late + half];
            rows[half] = shuffle("mma.sync", ~0u, held, 4 * row + holder, place);
            columns[half] = shuffle("mma.sync", ~0u, b[late], 4 * (column + half) + holder, place);
        }
        for (int i = 0; i < 4; ++i) sums[i] += std::popcount(rows[i / 2] & columns[i % 2]);
    }
}

}  // namespace emulator

// ---- The host side of a launcher ----------------------------------------------------------------------------------
// 0, or minus the number of the first error since the last call.
inline int64_t launch_error() { return std::exchange(emulator::machine.code, 0); }
inline bool has_binary_mma() { return true; }

template <class T>
T* scratch(int64_t count, void*) {
    void* memory = std::malloc(size_t(count) * sizeof(T));
    std::memset(memory, emulator::POISON, size_t(count) * sizeof(T));
    return static_cast<T*>(memory);
}
inline void release(void* memory, void*) { std::free(memory); }
inline void fill_bytes(void* memory, int value, int64_t bytes, void*) { std::memset(memory, value, size_t(bytes)); }

// For emulator.py.
#define EMULATOR_EXPORT extern "C" __attribute__((used, visibility("default"))) inline
EMULATOR_EXPORT const char* emulator_error() { return emulator::machine.error; }
EMULATOR_EXPORT int64_t emulator_clear() {
    emulator::machine.error[0] = 0;
    return launch_error();
}
EMULATOR_EXPORT int64_t emulator_schedule(int64_t reverse) {
    return std::exchange(emulator::machine.reverse, reverse != 0);
}
