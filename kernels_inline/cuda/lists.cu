// The inverted lists: sums of the rows of each list (for k-means), new codes into the lists. The C++ twin is
// lists.cpp, whose names and arguments the launchers have.
//
//   function          bytes moved (n rows of d float32, codes of W words)
//   list_sums         reads 4 n d and 8 n list numbers; writes 4 nlist d
//   write_codes       reads 8 n W; writes 8 n W by id and 8 n W in the lists, there a sector of 32 bytes for each word
//
// INDEX OF VERSIONS
//   list_sums_1         a thread a number of the result: it looks at the list number of every row
//   list_sums_2         a block a list: its threads look for rows of the list 256 at a time, and then add these
//   list_sums_3         a counting sort first; then a block a list reads nothing but its own rows
//   write_codes_1       a thread a row
//   write_codes_2       a thread a word, so that neighbouring threads read and write neighbouring words by id
//
// No value is looked at (ids, list numbers): an answer to the host would need a synchronisation. All sums are taken
// in a fixed order, without float atomics.
#include "launch.h"

constexpr int THREADS = 256;

// ---- list_sums ----------------------------------------------------------------------------------------------------
// sums [nlist, dim] and counts [nlist] of rows [count, dim], row i being in list lists[i]. Rows are added in ascending
// order in every version, so all give the same bits, which are also those of list_sums in lists.cpp.

// A thread a pair (list, column). Neighbouring threads at least read neighbouring columns of the same row.
extern "C" __global__ void list_sums_1(const float* rows, const int64_t* lists, int64_t count, int dim, int64_t nlist,
                                       float* sums, int64_t* counts) {
    const int64_t number = global_thread(), list = number / dim, j = number % dim;
    if (list >= nlist) return;
    float sum = 0;
    int64_t found = 0;
    for (int64_t i = 0; i < count; ++i)
        if (lists[i] == list) {
            sum += rows[i * dim + j];
            ++found;
        }
    sums[number] = sum;
    if (j == 0) counts[list] = found;
}

extern "C" __global__ void list_sums_2(const float* rows, const int64_t* lists, int64_t count, int dim, float* sums,
                                       int64_t* counts) {
    __shared__ int room[WARP];
    __shared__ int members[THREADS];  // the rows of this list among those looked at, ascending
    const int64_t list = blockIdx.x;
    float* sum = sums + list * dim;
    for (int j = threadIdx.x; j < dim; j += THREADS) sum[j] = 0;
    int64_t found = 0;
    for (int64_t first = 0; first < count; first += THREADS) {
        const int64_t i = first + threadIdx.x;
        const int member = i < count && lists[i] == list;
        int some;
        const int place = block_scan_exclusive(member, room, &some);
        if (member) members[place] = int(threadIdx.x);
        __syncthreads();
        for (int j = threadIdx.x; j < dim && some > 0; j += THREADS) {
            float partial = sum[j];
            for (int k = 0; k < some; ++k) partial += rows[(first + members[k]) * dim + j];
            sum[j] = partial;
        }
        found += some;  // members are written anew after the barriers of the next block_scan_exclusive
    }
    if (threadIdx.x == 0) counts[list] = found;
}

// The counting sort. A tile is TILE neighbouring rows, the work of one warp. Three kernels:
// before[tile, list] becomes the number of rows of the list in the tile (integer atomics: the order does not matter),
__global__ void count_in_tiles(const int64_t* lists, int64_t count, int tile_rows, int64_t nlist, int* before) {
    const int64_t tile = global_warp(), end = min((tile + 1) * tile_rows, count);
    for (int64_t i = tile * tile_rows + lane_id(); i < end; i += WARP) atomicAdd(before + tile * nlist + lists[i], 1);
}

// then, by one block, the place in the sorted order of the tile's first row of that list,
__global__ void places_of_tiles(int64_t tiles, int64_t nlist, int* before, int64_t* first, int64_t* counts) {
    __shared__ int64_t room[WARP];
    int64_t start = 0;
    for (int64_t base = 0; base < nlist; base += blockDim.x) {
        const int64_t list = base + threadIdx.x;
        int64_t rows = 0, total;
        for (int64_t tile = 0; list < nlist && tile < tiles; ++tile) {
            const int here = before[tile * nlist + list];
            before[tile * nlist + list] = int(rows);
            rows += here;
        }
        const int64_t place = start + block_scan_exclusive(rows, room, &total);
        if (list < nlist) first[list] = place, counts[list] = rows;
        start += total;
    }
    if (threadIdx.x == 0) first[nlist] = start;
}

// and order [count]: the rows sorted by list. Among 32 rows, __match_any_sync finds those of the same list; a row's
// place is after those of its list in earlier tiles, in earlier rows of the tile, and in lower lanes.
__global__ void sort_tiles(const int64_t* lists, int64_t count, int tile_rows, int64_t nlist, const int64_t* first,
                           int* before, int64_t* order) {
    const int64_t tile = global_warp(), end = min((tile + 1) * tile_rows, count);
    for (int64_t base = tile * tile_rows; base < end; base += WARP) {
        const int64_t i = base + lane_id();
        const long long list = i < end ? lists[i] : -1;
        const unsigned same = __match_any_sync(ALL_LANES, list);
        const int rank = __popc(same & ((1u << lane_id()) - 1));
        int* next = before + tile * nlist + list;
        if (list >= 0) order[first[list] + *next + rank] = i;
        __syncwarp();  // all have read *next
        if (list >= 0 && rank == 0) *next += __popc(same);
        __syncwarp();
    }
}

extern "C" __global__ void list_sums_3(const float* rows, int dim, const int64_t* first, const int64_t* order,
                                       float* sums) {
    const int64_t list = blockIdx.x, end = first[list + 1];
    for (int j = threadIdx.x; j < dim; j += blockDim.x) {
        float sum = 0;
#pragma unroll 8  // so that 8 rows are on their way at a time
        for (int64_t k = first[list]; k < end; ++k) sum += rows[order[k] * dim + j];
        sums[list * dim + j] = sum;
    }
}

// Tiles of 256 rows at least, and so many that the table of tiles and lists has about 16 million entries at most.
static int64_t rows_of_tile(int64_t count, int64_t nlist) {
    const int64_t tiles = max(int64_t(1), (int64_t(1) << 24) / nlist);
    return max(int64_t(256), blocks_for(count, tiles));
}

static void list_sums_by_sorting(const float* rows, const int64_t* lists, int64_t count, int64_t dim, int64_t nlist,
                                 float* sums, int64_t* counts, void* stream) {
    const int64_t tile_rows = rows_of_tile(count, nlist), tiles = max(int64_t(1), blocks_for(count, tile_rows));
    int* before = scratch<int>(tiles * nlist, stream);
    int64_t* first = scratch<int64_t>(nlist + 1, stream);
    int64_t* order = scratch<int64_t>(max(count, int64_t(1)), stream);
    fill_bytes(before, 0, tiles * nlist * int64_t(sizeof(int)), stream);
    const int64_t blocks = blocks_for(tiles * WARP, THREADS);
    LAUNCH(count_in_tiles, blocks, THREADS, 0, stream, lists, count, int(tile_rows), nlist, before);
    LAUNCH(places_of_tiles, 1, 1024, 0, stream, tiles, nlist, before, first, counts);
    LAUNCH(sort_tiles, blocks, THREADS, 0, stream, lists, count, int(tile_rows), nlist, first, before, order);
    const int64_t threads = min(blocks_for(dim, WARP) * WARP, int64_t(THREADS));
    LAUNCH(list_sums_3, nlist, threads, 0, stream, rows, int(dim), first, order, sums);
    release(before, stream);
    release(first, stream);
    release(order, stream);
}

extern "C" int64_t list_sums_v(int64_t version, const float* rows, const int64_t* lists, int64_t count, int64_t dim,
                               int64_t nlist, float* sums, int64_t* counts, void* stream) {
    if (version < 1 || version > 3) return NO_SUCH_VERSION;
    if (nlist == 0 || dim == 0) return launch_error();
    if (version == 1)
        LAUNCH(list_sums_1, blocks_for(nlist * dim, THREADS), THREADS, 0, stream, rows, lists, count, int(dim), nlist,
               sums, counts);
    if (version == 2) LAUNCH(list_sums_2, nlist, THREADS, 0, stream, rows, lists, count, int(dim), sums, counts);
    if (version == 3) list_sums_by_sorting(rows, lists, count, dim, nlist, sums, counts, stream);
    return launch_error();
}

// ---- write_codes --------------------------------------------------------------------------------------------------
// ids [n] distinct, fresh [n, W] -> codes [N, W] and slot_codes [nlist, W, capacity] at (assignment[id], place[id]),
// written[id] = *clock.

struct Lists {
    int64_t *codes, *slot_codes;
    int32_t* written;
    const int64_t *assignment, *place;
    int64_t words, capacity;
    const int32_t* clock;

    __device__ void write(int64_t id, int64_t w, int64_t word) const {
        codes[id * words + w] = word;
        slot_codes[(assignment[id] * words + w) * capacity + place[id]] = word;
        if (w == 0) written[id] = *clock;
    }
};

extern "C" __global__ void write_codes_1(Lists to, const int64_t* ids, const int64_t* fresh, int64_t n) {
    const int64_t i = global_thread();
    if (i >= n) return;
    for (int64_t w = 0; w < to.words; ++w) to.write(ids[i], w, fresh[i * to.words + w]);
}

extern "C" __global__ void write_codes_2(Lists to, const int64_t* ids, const int64_t* fresh, int64_t n) {
    const int64_t k = global_thread();
    if (k < n * to.words) to.write(ids[k / to.words], k % to.words, fresh[k]);
}

extern "C" int64_t write_codes_v(int64_t version, int64_t* codes, int64_t* slot_codes, int32_t* written,
                                 const int64_t* assignment, const int64_t* place, const int64_t* ids,
                                 const int64_t* fresh, int64_t n, int64_t N, int64_t W, int64_t capacity,
                                 const int32_t* clock, void* stream) {
    const Lists to = {codes, slot_codes, written, assignment, place, W, capacity, clock};
    if (version < 1 || version > 2) return NO_SUCH_VERSION;
    if (n == 0 || W == 0) return launch_error();
    if (version == 1) LAUNCH(write_codes_1, blocks_for(n, THREADS), THREADS, 0, stream, to, ids, fresh, n);
    if (version == 2) LAUNCH(write_codes_2, blocks_for(n * W, THREADS), THREADS, 0, stream, to, ids, fresh, n);
    return launch_error();
}

// ---- The launchers that the ops use: the last versions ------------------------------------------------------------
extern "C" int64_t list_sums(const float* rows, const int64_t* lists, int64_t count, int64_t dim, int64_t nlist,
                             float* sums, int64_t* counts, void* stream) {
    return list_sums_v(3, rows, lists, count, dim, nlist, sums, counts, stream);
}

extern "C" int64_t write_codes(int64_t* codes, int64_t* slot_codes, int32_t* written, const int64_t* assignment,
                               const int64_t* place, const int64_t* ids, const int64_t* fresh, int64_t n, int64_t N,
                               int64_t W, int64_t capacity, const int32_t* clock, void* stream) {
    return write_codes_v(2, codes, slot_codes, written, assignment, place, ids, fresh, n, N, W, capacity, clock,
                         stream);
}
