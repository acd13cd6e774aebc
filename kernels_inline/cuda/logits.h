// A row of logits, scale * cosine + offset, as softmax.cu and logit_sums.cu go through it: the sum of exponentials in
// one pass, the gradient in another, and the target's column apart.
#pragma once

constexpr int THREADS = 512;                // 4 such blocks on a multiprocessor: 528 rows at a time on an H100
constexpr float LOWEST = -3.402823466e38f;  // below every cosine; not -inf, so that -inf - LOWEST is not a NaN

// The sum of e^{s (z_k - top)} over cosines so far, the target left out; top: the largest of them.
struct Running {
    float top = LOWEST;
    double sum = 0;

    __device__ void rise(float higher, float scale) {  // a NaN does not count as higher, and gets into the sum
        if (higher > top) sum *= expf(scale * (top - higher)), top = higher;
    }
    __device__ void take(float z, float scale) {
        rise(z, scale);
        sum += expf(scale * (z - top));
    }
};

struct Gradient {
    float top, factor;  // of class k: factor e^{s (z_k - top)}
    float target;       // of the sample's own class

    __device__ float of(float z, float scale) const { return factor * expf(scale * (z - top)); }
};

// Cosines [R, n] of all rows, and what is added to their logits: offset [R / rows, n] or null.
template <class T>
struct Columns {
    T* cosine;
    const float* offset;
    int64_t n, rows;
};

// Those of one row.
template <class T>
struct Part {
    T* cosine;
    const float* offset;
    float inverse;  // of the scale
    int64_t n;

    template <class Scaled>  // anything with a scale
    __device__ Part(const Columns<T>& all, int64_t row, const Scaled& by)
        : cosine(all.cosine + row * all.n), offset(all.offset ? all.offset + row / all.rows * all.n : nullptr),
          inverse(float(1.0 / by.scale)), n(all.n) {}
    __device__ float shift(int64_t column) const { return offset ? offset[column] * inverse : 0.0f; }
    __device__ float operator()(int64_t column) const { return widen(cosine[column]) + shift(column); }
};

// ---- 16 bytes at a time -------------------------------------------------------------------------------------------
// 16 bytes: 4 float32 or 8 bfloat16.
template <class T>
struct Pack {
    static constexpr int SIZE = 16 / sizeof(T);
    float x[SIZE];

    __device__ void load(const T* p) {
        const uint4 four = *reinterpret_cast<const uint4*>(p);
        const uint32_t words[4] = {four.x, four.y, four.z, four.w};
        for (int k = 0; k < SIZE; ++k)
            x[k] = sizeof(T) == 4 ? __uint_as_float(words[k % 4])
                                  : __uint_as_float(k % 2 ? words[k / 2] & 0xFFFF0000 : words[k / 2 % 4] << 16);
    }
    __device__ void store(T* p) const {
        uint32_t words[4];
        for (int k = 0; k < 4; ++k) {
            const int low = 2 * k % SIZE;
            words[k] = sizeof(T) == 4 ? __float_as_uint(x[k])
                                      : bf16_of_float(x[low]) | uint32_t(bf16_of_float(x[low + 1])) << 16;
        }
        *reinterpret_cast<uint4*>(p) = make_uint4(words[0], words[1], words[2], words[3]);
    }
};

// A row in packs. It need not begin or end at a multiple of 16 bytes: less than a pack before and behind is left over.
template <class T>
struct Packs {
    int64_t lead, packs, n;

    __device__ Packs(const Part<T>& part) : n(part.n) {
        lead = min(int64_t((16 - reinterpret_cast<uint64_t>(part.cosine) % 16) % 16 / sizeof(T)), n);
        packs = (n - lead) / Pack<T>::SIZE;
    }
    __device__ int64_t place(int64_t pack) const { return lead + pack * Pack<T>::SIZE; }
    // The column of what is left over that this thread has to do; n if none. Blocks have 32 threads or more.
    __device__ int64_t left_over() const {
        const int64_t c = threadIdx.x < lead ? int64_t(threadIdx.x) : place(packs) + threadIdx.x - lead;
        return min(c, n);
    }
};

template <class T>
__device__ void take_all(const Part<T>& part, int64_t target, float scale, Running& mine) {
    const Packs<T> packs(part);
    const int64_t alone = packs.left_over();
    Pack<T> pack;
    if (alone < part.n && alone != target) mine.take(part(alone), scale);
    for (int64_t k = threadIdx.x; k < packs.packs; k += blockDim.x) {
        const int64_t first = packs.place(k), own = target - first;
        pack.load(part.cosine + first);
        float top = LOWEST, sum = 0;
        for (int i = 0; i < Pack<T>::SIZE; ++i) {
            pack.x[i] = i == own ? -INFINITY : pack.x[i] + part.shift(first + i);  // the target's exponential is 0
            top = pack.x[i] > top ? pack.x[i] : top;
        }
        mine.rise(top, scale);
        for (int i = 0; i < Pack<T>::SIZE; ++i) sum += expf(scale * (pack.x[i] - mine.top));
        mine.sum += sum;
    }
}

template <class T>
__device__ void write_all(const Part<T>& part, int64_t target, float scale, const Gradient& gradient) {
    const Packs<T> packs(part);
    const int64_t alone = packs.left_over();
    Pack<T> pack;
    if (alone < part.n)
        narrow(alone == target ? gradient.target : gradient.of(part(alone), scale), part.cosine + alone);
    for (int64_t k = threadIdx.x; k < packs.packs; k += blockDim.x) {
        const int64_t first = packs.place(k), own = target - first;
        pack.load(part.cosine + first);
        for (int i = 0; i < Pack<T>::SIZE; ++i)
            pack.x[i] = i == own ? gradient.target : gradient.of(pack.x[i] + part.shift(first + i), scale);
        pack.store(part.cosine + first);
    }
}

// As many threads as there are pieces of a row to do, a multiple of 32, up to THREADS.
inline int64_t threads_for(int64_t pieces) { return min(blocks_for(pieces, WARP) * WARP, int64_t(THREADS)); }
