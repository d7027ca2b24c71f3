// Write-then-attend over a paged K/V cache, for CPUs. Compiled at run time with these macros:
//   HEAD_DIM    Dh, a multiple of 16
//   PAGE_SIZE   cells of a page, a multiple of 16
//   REPEATS     query heads per K/V head
//   BF16        defined: numbers are bfloat16, else float32. Sums and weights are float32 either way.
//
// A key is WORDS words of 32 bits, one float32 or two bfloat16 neighbours each. Pages hold keys as
// (Hkv, WORDS, PAGE_SIZE) words, so that neighbouring cells are one vector, and values as (Hkv, PAGE_SIZE, Dh) numbers.
//
// Rows of one sequence walk its cells together, a tile of cells at a time: what is read of keys and values serves
// all of them and all query heads of the K/V head. A query's sums run over its own cells in order of position,
// tiles begin at fixed positions, and nothing of a cell that it does not see enters: its bits depend neither on
// who walks beside it nor on which thread it is.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "lanes.h"

namespace {

constexpr int SUMS = LANES == 16 ? 24 : 12;  // vectors of sums in 32 registers, or 16
constexpr int TILE = 128;  // cells
constexpr int CHUNKS = TILE / LANES;
constexpr int CHUNKS_PER_PAGE = PAGE_SIZE / LANES;
constexpr int DIM_VECTORS = HEAD_DIM / LANES;
constexpr int MOST_ROWS = REPEATS < 96 ? 96 / REPEATS : 1;  // their scores stay in the second-level cache
constexpr int MOST_QUERIES = MOST_ROWS * REPEATS;
constexpr int PARTS = DIM_VECTORS < SUMS / 6 ? DIM_VECTORS : SUMS / 6;  // vectors of a value, taken at once
constexpr int WEIGHED_AT_ONCE = SUMS / PARTS;
constexpr int SCORED_AT_ONCE = 8;

#ifdef BF16
typedef uint16_t Number;
#else
typedef float Number;
#endif

constexpr int WORDS = HEAD_DIM * sizeof(Number) / sizeof(uint32_t);

inline float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

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

// cap * tanh(x / cap), error about 1e-7 * cap.
inline Floats squash(Floats x, float cap) {
  const Floats size = x < 0.0f ? -x : x;
  const Floats fade = exp_of(size * (-2.0f / cap));
  const Floats result = (1.0f - fade) / (1.0f + fade) * cap;
  return x < 0.0f ? -result : result;
}

// QueryWord: a word of a query, made ready to meet keys. add_products: adds it times such words of LANES cells.
#ifndef BF16
typedef float QueryWord;

inline QueryWord ready(uint32_t word) { return as_float(word); }

inline void add_products(Floats& dots, QueryWord query, const Words& keys) {
  multiply_add(dots, all(query), reinterpret_cast<Floats>(keys));
}
#elif defined(__AVX512BF16__)
typedef uint32_t QueryWord;

inline QueryWord ready(uint32_t word) { return word; }

inline void add_products(Floats& dots, QueryWord query, const Words& keys) {
  const auto queries = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int32_t>(query)));
  dots = _mm512_dpbf16_ps(dots, queries, reinterpret_cast<__m512bh>(keys));
}
#else
struct QueryWord {
  float first, second;
};

inline QueryWord ready(uint32_t word) { return {as_float(word << 16), as_float(word & 0xFFFF0000u)}; }

inline void add_products(Floats& dots, const QueryWord& query, const Words& keys) {
  multiply_add(dots, all(query.first), reinterpret_cast<Floats>(keys << 16));
  multiply_add(dots, all(query.second), reinterpret_cast<Floats>(keys & 0xFFFF0000u));
}
#endif

// Calls act(size, begin) for groups of `begin` to `end`, each as large as can be and MOST at most; a group's
// size is a constant to the compiler.
template <int MOST, typename Act>
inline void in_groups(int begin, int end, const Act& act) {
  for (; begin + MOST <= end; begin += MOST) act(std::integral_constant<int, MOST>{}, begin);
  if constexpr (MOST > 1) in_groups<(MOST > 6 ? MOST / 2 : MOST - 1)>(begin, end, act);
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t greater(int64_t a, int64_t b) { return a > b ? a : b; }

// One query head of one row: what it sees and how far it is.
struct Query {
  int64_t first, last;  // cells that it sees
  int begin, end;       // those of the tile at hand, counted from the tile's first; begin >= end: none
  float top;            // highest score so far
  Floats total;         // sum of weights so far, by lane
};

// Where the keys and values of a tile's chunks `first` to `end` are.
struct Tile {
  int first, end;
  const uint32_t* keys[CHUNKS];
  const Number* values[CHUNKS];
};

// Pages of one sequence and one K/V head.
struct Pages {
  const int64_t* ids;
  const uint32_t* keys;
  const Number* values;
  int64_t stride;

  // The tile that begins at cell `start`, as far as it holds cells `first` to `last`.
  Tile tile(int64_t start, int64_t first, int64_t last) const {
    Tile tile;
    tile.first = greater(first - start, 0) / LANES;
    tile.end = smaller(last - start + LANES, TILE) / LANES;
    for (int chunk = tile.first; chunk < tile.end; ++chunk) {
      const int64_t place = start / LANES + chunk, page = ids[place / CHUNKS_PER_PAGE] * stride;
      const int64_t cell = place % CHUNKS_PER_PAGE * LANES;
      tile.keys[chunk] = keys + page * WORDS / HEAD_DIM + cell;
      tile.values[chunk] = values + page + cell * HEAD_DIM;
    }
    return tile;
  }
};

// Has memory bring a tile: pages lie anywhere, so the processor does not guess what comes next. Always inlined:
// GCC drops calls of a function that does nothing but this.
__attribute__((always_inline)) inline void fetch(const Tile& tile) {
  for (int chunk = tile.first; chunk < tile.end; ++chunk) {
    for (int word = 0; word < WORDS; ++word) __builtin_prefetch(tile.keys[chunk] + word * PAGE_SIZE, 0, 2);
    for (size_t byte = 0; byte < LANES * HEAD_DIM * sizeof(Number); byte += 64)
      __builtin_prefetch(reinterpret_cast<const char*>(tile.values[chunk]) + byte, 0, 2);
  }
}

struct Workspace {
  Query queries[MOST_QUERIES];
  QueryWord words[MOST_QUERIES][WORDS];
  float scores[MOST_QUERIES][TILE];  // later weights
  float sums[MOST_QUERIES][HEAD_DIM];
};

// Dot products of NUM_QUERIES queries with CHUNKS_AT_ONCE * LANES cells.
template <int NUM_QUERIES, int CHUNKS_AT_ONCE>
void score(Workspace& work, int query, const uint32_t* const* keys, int chunk) {
  Floats dots[NUM_QUERIES][CHUNKS_AT_ONCE] = {};
  for (int word = 0; word < WORDS; ++word)
    for (int c = 0; c < CHUNKS_AT_ONCE; ++c) {
      const Words cells = *reinterpret_cast<const Words*>(keys[chunk + c] + word * PAGE_SIZE);
      for (int i = 0; i < NUM_QUERIES; ++i) add_products(dots[i][c], work.words[query + i][word], cells);
    }
  for (int i = 0; i < NUM_QUERIES; ++i)
    for (int c = 0; c < CHUNKS_AT_ONCE; ++c)
      *reinterpret_cast<Floats*>(work.scores[query + i] + (chunk + c) * LANES) = dots[i][c];
}

// Turns a query's dot products with its cells of a tile into weights, and fades what it has so far to them.
void soften(Query& query, float* scores, float* sums, float scaling, float softcap) {
  const int first_chunk = query.begin / LANES, end_chunk = (query.end + LANES - 1) / LANES;
  Floats tops = all(query.top);
  for (int chunk = first_chunk; chunk < end_chunk; ++chunk) {
    Floats& dots = *reinterpret_cast<Floats*>(scores + chunk * LANES);
    Floats score = dots * scaling;
    if (softcap != 0.0f) score = squash(score, softcap);
    const Ints cell = lanes() + chunk * LANES;
    dots = (cell >= query.begin) & (cell < query.end) ? score : all(-__builtin_inff());
    tops = larger(dots, tops);
  }
  const float top = largest(tops);
  if (top != query.top) {
    const Floats fade = exp_of(all(query.top - top));
    query.total *= fade;
    for (int part = 0; part < DIM_VECTORS; ++part) *reinterpret_cast<Floats*>(sums + part * LANES) *= fade;
    query.top = top;
  }
  for (int chunk = first_chunk; chunk < end_chunk; ++chunk) {
    Floats& weights = *reinterpret_cast<Floats*>(scores + chunk * LANES);
    weights = exp_of(weights - top);
    query.total += weights;
  }
}

// Adds up NUM_PARTS vectors of the values of cells `begin` to `end` by the weights of NUM_QUERIES queries.
template <int NUM_QUERIES, int NUM_PARTS>
void weigh(Workspace& work, int query, const Tile& tile, int part, int64_t begin, int64_t end) {
  if (begin >= end) return;
  Floats sums[NUM_QUERIES][NUM_PARTS];
  for (int i = 0; i < NUM_QUERIES; ++i)
    for (int p = 0; p < NUM_PARTS; ++p)
      sums[i][p] = *reinterpret_cast<Floats*>(work.sums[query + i] + (part + p) * LANES);
  for (int64_t cell = begin; cell < end; ++cell) {
    const Number* value = tile.values[cell / LANES] + cell % LANES * HEAD_DIM + part * LANES;
    Floats numbers[NUM_PARTS];
    for (int p = 0; p < NUM_PARTS; ++p) numbers[p] = load(value + p * LANES);
    for (int i = 0; i < NUM_QUERIES; ++i)
      for (int p = 0; p < NUM_PARTS; ++p) multiply_add(sums[i][p], all(work.scores[query + i][cell]), numbers[p]);
  }
  for (int i = 0; i < NUM_QUERIES; ++i)
    for (int p = 0; p < NUM_PARTS; ++p)
      *reinterpret_cast<Floats*>(work.sums[query + i] + (part + p) * LANES) = sums[i][p];
}

// Walks the cells that all of NUM_QUERIES queries see together, those before and after alone: a cell that a
// query does not see may hold anything.
template <int NUM_QUERIES, int NUM_PARTS>
void weigh_together(Workspace& work, int query, const Tile& tile, int part) {
  int64_t begin = 0, end = TILE;
  for (int i = 0; i < NUM_QUERIES; ++i) {
    begin = greater(begin, work.queries[query + i].begin);
    end = smaller(end, work.queries[query + i].end);
  }
  for (int i = 0; i < NUM_QUERIES; ++i) {
    const Query& own = work.queries[query + i];
    weigh<1, NUM_PARTS>(work, query + i, tile, part, own.begin, smaller(begin, own.end));
  }
  weigh<NUM_QUERIES, NUM_PARTS>(work, query, tile, part, begin, end);
  for (int i = 0; i < NUM_QUERIES; ++i)
    weigh<1, NUM_PARTS>(work, query + i, tile, part, greater(begin, end), work.queries[query + i].end);
}

// One tile for all queries.
void walk(Workspace& work, int num_queries, const Tile& tile, float scaling, float softcap) {
  in_groups<SCORED_AT_ONCE>(0, num_queries, [&](auto size, int query) {
    constexpr int FITTING = SUMS / size, AT_ONCE = FITTING >= 8 ? 8 : FITTING >= 4 ? 4 : FITTING >= 2 ? 2 : 1;
    in_groups<AT_ONCE>(tile.first, tile.end, [&](auto count, int chunk) {
      score<decltype(size)::value, decltype(count)::value>(work, query, tile.keys, chunk);
    });
  });
  for (int i = 0; i < num_queries; ++i)
    if (work.queries[i].begin < work.queries[i].end)
      soften(work.queries[i], work.scores[i], work.sums[i], scaling, softcap);
  in_groups<WEIGHED_AT_ONCE>(0, num_queries, [&](auto size, int query) {
    in_groups<PARTS>(0, DIM_VECTORS, [&](auto count, int part) {
      weigh_together<decltype(size)::value, decltype(count)::value>(work, query, tile, part);
    });
  });
}

// Attention of the queries that `work` holds, of one sequence and one K/V head.
void attend(Workspace& work, int num_queries, const Pages& pages, float scaling, float softcap) {
  int64_t first = work.queries[0].first, last = work.queries[0].last;
  for (int i = 0; i < num_queries; ++i) {
    first = smaller(first, work.queries[i].first);
    last = greater(last, work.queries[i].last);
    work.queries[i].top = -__builtin_inff();
    work.queries[i].total = Floats{};
  }
  std::memset(work.sums, 0, sizeof work.sums[0] * num_queries);
  Tile tile = pages.tile(first / TILE * TILE, first, last);
  for (int64_t start = first / TILE * TILE; start <= last; start += TILE) {
    const Tile next = pages.tile(start + TILE, first, last);
    fetch(next);
    for (int i = 0; i < num_queries; ++i) {
      work.queries[i].begin = greater(work.queries[i].first - start, 0);
      work.queries[i].end = smaller(work.queries[i].last - start, TILE - 1) + 1;
    }
    walk(work, num_queries, tile, scaling, softcap);
    tile = next;
  }
}

void take(const Number* query, QueryWord* words) {
  for (int word = 0; word < WORDS; ++word) {
    uint32_t bits;
    std::memcpy(&bits, query + word * (HEAD_DIM / WORDS), sizeof bits);
    words[word] = ready(bits);
  }
}

void write(const Number* k, const Number* v, int64_t cell, uint32_t* keys, Number* values, int64_t page_stride) {
  const int64_t page = cell / PAGE_SIZE * page_stride;
  uint32_t* key = keys + page * WORDS / HEAD_DIM + cell % PAGE_SIZE;
  for (int word = 0; word < WORDS; ++word)
    std::memcpy(key + word * PAGE_SIZE, k + word * (HEAD_DIM / WORDS), sizeof(uint32_t));
  std::memcpy(values + page + cell % PAGE_SIZE * HEAD_DIM, v, HEAD_DIM * sizeof(Number));
}

// Neighbouring rows of one sequence.
struct Group {
  int64_t first_row, num_rows;
};

// Cuts the rows that see anything into groups of `most` rows, those of a sequence as evenly as can be.
std::vector<Group> group(const int64_t* slots, const int64_t* limits, int64_t num_rows, int64_t most) {
  std::vector<Group> groups;
  for (int64_t row = 0, end; row < num_rows; row = end) {
    for (end = row + 1; end < num_rows && slots[end] == slots[row] && (limits[end] < 0) == (limits[row] < 0);)
      ++end;
    const int64_t parts = (end - row + most - 1) / most, count = (end - row + parts - 1) / parts;
    if (limits[row] >= 0)
      for (int64_t first = row; first < end; first += count)
        groups.push_back({first, smaller(count, end - first)});
  }
  return groups;
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
    int64_t num_rows, int64_t window,  // window 0: none
    float scaling, float softcap,      // softcap 0: none
    int num_threads,
    Number* out) {  // (T, Hkv * REPEATS, HEAD_DIM), contiguous
  const int64_t head_size = static_cast<int64_t>(PAGE_SIZE) * HEAD_DIM;
  const int64_t page_stride = num_kv_heads * head_size;
  const int64_t num_tasks = num_rows * num_kv_heads;
  uint32_t* words = reinterpret_cast<uint32_t*>(keys);
  // two tasks for each thread at least: a lone block does not leave the other threads idle
  const int64_t rows_at_once = greater(1, smaller(MOST_ROWS, num_tasks / (2 * num_threads)));
  const std::vector<Group> groups = group(slots, limits, num_rows, rows_at_once);
#pragma omp parallel num_threads(num_threads)
  {
#pragma omp for schedule(static)
    for (int64_t task = 0; task < num_tasks; ++task) {
      const int64_t row = task / num_kv_heads, head = task % num_kv_heads;
      write(k + row * k_row_stride + head * k_head_stride, v + row * v_row_stride + head * v_head_stride,
            cells[row], words + head * WORDS * PAGE_SIZE, values + head * head_size, page_stride);
      if (limits[row] < 0)
        std::memset(out + task * REPEATS * HEAD_DIM, 0, REPEATS * HEAD_DIM * sizeof(Number));
    }
    const std::unique_ptr<Workspace> work(new Workspace);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < static_cast<int64_t>(groups.size()) * num_kv_heads; ++task) {
      // neighbours in this order may be rows of one sequence, whose keys are in the processor's cache by now
      const int64_t head = task / groups.size();
      const Group& rows = groups[task % groups.size()];
      const int num_queries = rows.num_rows * REPEATS;
      for (int i = 0; i < num_queries; ++i) {
        const int64_t row = rows.first_row + i / REPEATS;
        work->queries[i].first = window ? greater(positions[row] - window + 1, 0) : 0;
        work->queries[i].last = limits[row];
        take(q + row * q_row_stride + (head * REPEATS + i % REPEATS) * q_head_stride, work->words[i]);
      }
      const Pages pages{page_tables + slots[rows.first_row] * pages_per_slot, words + head * WORDS * PAGE_SIZE,
                        values + head * head_size, page_stride};
      attend(*work, num_queries, pages, scaling, softcap);
      for (int i = 0; i < num_queries; ++i) {
        const int64_t row = rows.first_row + i / REPEATS;
        Number* target = out + ((row * num_kv_heads + head) * REPEATS + i % REPEATS) * HEAD_DIM;
        const float total = sum(work->queries[i].total);
        for (int part = 0; part < HEAD_DIM; part += LANES)
          store(target + part, *reinterpret_cast<Floats*>(work->sums[i] + part) / total);
      }
    }
  }
}
