// Write-then-attend over a paged K/V cache, for CPUs. Compiled at run time with these macros:
//   HEAD_DIM    Dh, a multiple of 16
//   PAGE_SIZE   cells of a page, a multiple of 16
//   REPEATS     query heads per K/V head
//   BF16        defined: numbers are bfloat16, else float32. Arithmetic is float32 either way.
//
// Pages hold keys as (Hkv, Dh, PAGE_SIZE), so that 16 cells are one vector, and values as (Hkv, PAGE_SIZE, Dh).
// A row's sums run over its own cells in order of position, whatever the other rows are and whichever thread
// takes it: its bits depend on its own sequence alone.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

namespace {

constexpr int LANES = 16;
constexpr int CHUNKS_PER_PAGE = PAGE_SIZE / LANES;
constexpr int DIM_VECTORS = HEAD_DIM / LANES;
constexpr int HEADS_THAT_FIT = DIM_VECTORS >= 16 ? 1 : 16 / DIM_VECTORS;  // output in 16 vector registers
constexpr int HEADS_AT_ONCE = REPEATS < HEADS_THAT_FIT ? REPEATS : HEADS_THAT_FIT;

typedef float Floats __attribute__((vector_size(LANES * 4), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4), aligned(4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2), aligned(2)));

#ifdef BF16
typedef uint16_t Number;

inline float widen(Number number) {
  const uint32_t bits = static_cast<uint32_t>(number) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline Floats load(const Number* source) {
  const Halves halves = *reinterpret_cast<const Halves*>(source);
  return reinterpret_cast<Floats>(__builtin_convertvector(halves, Words) << 16);
}

inline void store(Number* target, Floats values) {  // to nearest, ties to even
  const Words bits = reinterpret_cast<Words>(values);
  const Words rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const Words quiet = reinterpret_cast<Words>(values != values) & 0x7FC0u;  // NaN stays NaN
  const Words keep = ~reinterpret_cast<Words>(values != values);
  *reinterpret_cast<Halves*>(target) = __builtin_convertvector((rounded & keep) | quiet, Halves);
}
#else
typedef float Number;

inline float widen(Number number) { return number; }

inline Floats load(const Number* source) { return *reinterpret_cast<const Floats*>(source); }

inline void store(Number* target, Floats values) { *reinterpret_cast<Floats*>(target) = values; }
#endif

inline Floats all(float value) { return Floats{} + value; }

inline Ints lanes() { return Ints{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

inline float largest(Floats values) {
  float result = values[0];
  for (int lane = 1; lane < LANES; ++lane) result = values[lane] > result ? values[lane] : result;
  return result;
}

inline float sum(Floats values) {
  float result = 0;
  for (int lane = 0; lane < LANES; ++lane) result += values[lane];
  return result;
}

// e^x for x <= 0, relative error about 2e-7; 0 below -87, NaN for NaN.
// x = n ln 2 + r, |r| <= ln 2 / 2; e^r by its Taylor series.
inline Floats exp_of(Floats x) {
  const Floats clamped = x < -87.0f ? all(-87.0f) : x;
  const Floats shift = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const Floats n = (clamped * 1.44269504f + shift) - shift;
  const Floats r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  Floats e = r * (1.0f / 5040) + 1.0f / 720;
  e = e * r + 1.0f / 120;
  e = e * r + 1.0f / 24;
  e = e * r + 1.0f / 6;
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  const Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
  const Floats result = e * reinterpret_cast<Floats>(exponent);
  return x < -87.0f ? Floats{} : result;
}

// cap * tanh(x / cap), error about 1e-7 * cap.
inline Floats squash(Floats x, float cap) {
  const Floats size = x < 0.0f ? -x : x;
  const Floats fade = exp_of(size * (-2.0f / cap));
  const Floats result = (1.0f - fade) / (1.0f + fade) * cap;
  return x < 0.0f ? -result : result;
}

struct Row {
  const int64_t* pages;  // page ids in order of position
  int64_t first;         // first cell that the row sees
  int64_t limit;         // last cell that the row sees
};

// Scores of one row's REPEATS query heads against cells `first` to `limit`, in whole chunks of 16 cells;
// scores[head * stride + i] belongs to cell i of the first chunk on, unseen cells get -infinity.
void score(const Row& row, const float* queries, float softcap, const Number* keys, int64_t page_stride,
           float* scores, int64_t stride) {
  const int64_t first_chunk = row.first / LANES, last_chunk = row.limit / LANES;
  for (int64_t chunk = first_chunk; chunk <= last_chunk; ++chunk) {
    const Number* page = keys + row.pages[chunk / CHUNKS_PER_PAGE] * page_stride;
    const Number* cells = page + (chunk % CHUNKS_PER_PAGE) * LANES;
    Floats dots[REPEATS] = {};
    for (int dim = 0; dim < HEAD_DIM; ++dim) {
      const Floats key = load(cells + dim * PAGE_SIZE);
      for (int head = 0; head < REPEATS; ++head) dots[head] += queries[head * HEAD_DIM + dim] * key;
    }
    if (softcap != 0.0f)
      for (int head = 0; head < REPEATS; ++head) dots[head] = squash(dots[head], softcap);
    const Ints cell = lanes() + static_cast<int32_t>(chunk * LANES);
    const Ints seen = (cell >= static_cast<int32_t>(row.first)) & (cell <= static_cast<int32_t>(row.limit));
    for (int head = 0; head < REPEATS; ++head) {
      const Floats masked = seen ? dots[head] : all(-__builtin_inff());
      *reinterpret_cast<Floats*>(scores + head * stride + (chunk - first_chunk) * LANES) = masked;
    }
  }
}

// Turns `count` scores (a multiple of 16) into weights in place and returns their sum.
float soften(float* scores, int64_t count) {
  Floats top = *reinterpret_cast<Floats*>(scores);
  for (int64_t i = LANES; i < count; i += LANES) top = larger(*reinterpret_cast<Floats*>(scores + i), top);
  const Floats highest = all(largest(top));
  Floats total = {};
  for (int64_t i = 0; i < count; i += LANES) {
    Floats& chunk = *reinterpret_cast<Floats*>(scores + i);
    chunk = exp_of(chunk - highest);
    total += chunk;
  }
  return sum(total);
}

// Adds up values by weight for HEADS query heads. Cells past the limit are not touched: they may hold anything.
template <int HEADS>
void weigh(const Row& row, const float* weights, int64_t stride, const Number* values, int64_t page_stride,
           const float* norms, Number* out) {
  const int64_t offset = row.first / LANES * LANES;
  Floats totals[HEADS][DIM_VECTORS] = {};
  for (int64_t cell = row.first; cell <= row.limit; ++cell) {
    const Number* value = values + row.pages[cell / PAGE_SIZE] * page_stride + cell % PAGE_SIZE * HEAD_DIM;
    for (int part = 0; part < DIM_VECTORS; ++part) {
      const Floats numbers = load(value + part * LANES);
      for (int head = 0; head < HEADS; ++head)
        totals[head][part] += weights[head * stride + cell - offset] * numbers;
    }
  }
  for (int head = 0; head < HEADS; ++head)
    for (int part = 0; part < DIM_VECTORS; ++part)
      store(out + head * HEAD_DIM + part * LANES, totals[head][part] / norms[head]);
}

// One row's REPEATS query heads of one K/V head.
void attend(const Row& row, const Number* q, int64_t q_head_stride, float scaling, float softcap,
            const Number* keys, const Number* values, int64_t page_stride, float* scores, Number* out) {
  float queries[REPEATS * HEAD_DIM];
  for (int head = 0; head < REPEATS; ++head)
    for (int dim = 0; dim < HEAD_DIM; ++dim)
      queries[head * HEAD_DIM + dim] = widen(q[head * q_head_stride + dim]) * scaling;
  const int64_t count = (row.limit / LANES - row.first / LANES + 1) * LANES;
  score(row, queries, softcap, keys, page_stride, scores, count);
  float norms[REPEATS];
  for (int head = 0; head < REPEATS; ++head) norms[head] = soften(scores + head * count, count);
  int head = 0;
  for (; head + HEADS_AT_ONCE <= REPEATS; head += HEADS_AT_ONCE)
    weigh<HEADS_AT_ONCE>(row, scores + head * count, count, values, page_stride, norms + head,
                         out + head * HEAD_DIM);
  for (; head < REPEATS; ++head)
    weigh<1>(row, scores + head * count, count, values, page_stride, norms + head, out + head * HEAD_DIM);
}

void write(const Number* k, const Number* v, int64_t cell, Number* keys, Number* values, int64_t page_stride) {
  Number* key = keys + cell / PAGE_SIZE * page_stride + cell % PAGE_SIZE;
  for (int dim = 0; dim < HEAD_DIM; ++dim) key[dim * PAGE_SIZE] = k[dim];
  std::memcpy(values + cell / PAGE_SIZE * page_stride + cell % PAGE_SIZE * HEAD_DIM, v,
              HEAD_DIM * sizeof(Number));
}

}  // namespace

// What the caller has to bring: HEAD_DIM, REPEATS, PAGE_SIZE and the bytes of a number.
extern "C" const int64_t compiled_for[4] = {HEAD_DIM, REPEATS, PAGE_SIZE, sizeof(Number)};

// Strides count numbers. A row whose limit is negative gets zeros.
extern "C" void paged_attend(
    const Number* q, int64_t q_row_stride, int64_t q_head_stride,  // (T, Hkv * REPEATS, HEAD_DIM)
    const Number* k, int64_t k_row_stride, int64_t k_head_stride,  // (T, Hkv, HEAD_DIM)
    const Number* v, int64_t v_row_stride, int64_t v_head_stride,  // (T, Hkv, HEAD_DIM)
    Number* keys, Number* values, int64_t num_kv_heads,
    const int64_t* cells,      // (T,) where each row's key and value go
    const int64_t* slots,      // (T,) line of each row in the page tables
    const int64_t* limits,     // (T,)
    const int64_t* positions,  // (T,)
    const int64_t* page_tables, int64_t pages_per_slot,
    int64_t num_rows, int64_t max_cells, int64_t window,  // window 0: none
    float scaling, float softcap,                         // softcap 0: none
    int num_threads,
    Number* out) {  // (T, Hkv * REPEATS, HEAD_DIM), contiguous
  const int64_t head_size = static_cast<int64_t>(PAGE_SIZE) * HEAD_DIM;
  const int64_t page_stride = num_kv_heads * head_size;
  const int64_t num_tasks = num_rows * num_kv_heads;
#pragma omp parallel num_threads(num_threads)
  {
#pragma omp for schedule(static)
    for (int64_t task = 0; task < num_tasks; ++task) {
      const int64_t row = task / num_kv_heads, head = task % num_kv_heads;
      write(k + row * k_row_stride + head * k_head_stride, v + row * v_row_stride + head * v_head_stride,
            cells[row], keys + head * head_size, values + head * head_size, page_stride);
    }
    const std::unique_ptr<float[]> scores(new float[REPEATS * (max_cells + LANES)]);
#pragma omp for schedule(dynamic, 4)
    for (int64_t task = 0; task < num_tasks; ++task) {
      // neighbours in this order are rows of one sequence, whose keys are in the processor's cache by now
      const int64_t head = task / num_rows, row = task % num_rows;
      Number* target = out + (row * num_kv_heads + head) * REPEATS * HEAD_DIM;
      if (limits[row] < 0) {
        std::memset(target, 0, REPEATS * HEAD_DIM * sizeof(Number));
        continue;
      }
      const int64_t first = window ? positions[row] - window + 1 : 0;
      const Row seen{page_tables + slots[row] * pages_per_slot, first < 0 ? 0 : first, limits[row]};
      attend(seen, q + row * q_row_stride + head * REPEATS * q_head_stride, q_head_stride, scaling, softcap,
             keys + head * head_size, values + head * head_size, page_stride, scores.get(), target);
    }
  }
}
