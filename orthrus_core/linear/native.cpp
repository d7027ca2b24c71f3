// Products of rows with weight matrices as nn.Linear keeps them, for CPUs. Compiled at run time with this macro:
//   BF16        defined: numbers are bfloat16, else float32. Sums are float32 either way.
// Weights are such numbers, or one byte each (int8 or float8 e4m3fn), which widen to such a number without
// rounding, and a float32 scale for each column, by which its finished sum is multiplied.
//
// Every output is the dot product of one row with one row of the weights. Its sum runs over K in LANES partial
// sums, which are added up in one fixed order: its bits depend on these two rows alone, whatever the number of
// rows, the tile that it falls in and the thread that takes it.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "lanes.h"

namespace {

constexpr int TILE_ROWS = LANES == 16 ? 6 : 3;  // 24 sums, 6 rows and a column in 32 vector registers, or 12 in 16
constexpr int TILE_COLUMNS = 4;
constexpr int64_t MOST_WIDENED_TWICE = 12;  // rows that widen weights for themselves, tile by tile
constexpr int64_t AHEAD = 8;  // columns between those in work and those that are fetched from memory
constexpr int64_t PANEL_COLUMNS = 32;       // columns of a task, in the second-level cache while rows pass by
constexpr int64_t PANEL_BYTES = 256 << 10;  // most of a task's weights
constexpr int64_t TASKS_PER_THREAD = 8;     // so that threads end together

typedef int8_t Bytes __attribute__((vector_size(LANES), aligned(1)));
typedef float Four __attribute__((vector_size(TILE_COLUMNS * 4), aligned(4)));
typedef uint32_t FourWords __attribute__((vector_size(TILE_COLUMNS * 4), aligned(4)));

#ifdef BF16
typedef uint16_t Number;
typedef Number Numbers __attribute__((vector_size(TILE_COLUMNS * sizeof(Number)), aligned(2)));
constexpr int STEP = 2 * LANES;  // numbers of K that one multiplication takes

inline Four widen(const Numbers& numbers) {
  return reinterpret_cast<Four>(__builtin_convertvector(numbers, FourWords) << 16);
}

inline Numbers narrow(Four values) {  // to nearest, ties to even
  const FourWords bits = reinterpret_cast<FourWords>(values);
  const FourWords rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const FourWords is_nan = reinterpret_cast<FourWords>(values != values);  // and stays NaN
  return __builtin_convertvector((rounded & ~is_nan) | (is_nan & 0x7FC0u), Numbers);
}
#else
typedef float Number;
typedef Four Numbers;
constexpr int STEP = LANES;

inline Four widen(Numbers numbers) { return numbers; }

inline Numbers narrow(Four values) { return values; }
#endif

// Element: what widened numbers are kept as. step_of: how many of a kind of numbers are an operand.
template <class Any>
constexpr int step_of = STEP;

#if defined(BF16) && defined(__AVX512BF16__)
typedef Number Element;
typedef __m512bh Operand;

inline void multiply(Floats& sum, Operand row, Operand column) {
  sum = reinterpret_cast<Floats>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), row, column));
}

inline Operand operand_of(const Number* source) { return reinterpret_cast<Operand>(load_as<Words>(source)); }

inline void store(Element* target, Operand operand) { store_as(target, operand); }
#elif defined(BF16)
typedef float Element;
struct Operand {  // of each two neighbours of K the first and the second
  Floats first, second;
};

inline void multiply(Floats& sum, const Operand& row, const Operand& column) {
  multiply_add(sum, row.first, column.first);
  multiply_add(sum, row.second, column.second);
}

inline Operand operand_of(const Number* source) {
  const Words pairs = load_as<Words>(source);
  return {reinterpret_cast<Floats>(pairs << 16), reinterpret_cast<Floats>(pairs & 0xFFFF0000u)};
}

template <>
constexpr int step_of<Element> = LANES;  // first ones, then second ones: an operand fits into one register

inline void multiply(Floats& sum, Floats row, Floats column) { multiply_add(sum, row, column); }

inline Floats operand_of(const Element* source) { return load_as<Floats>(source); }

inline void store(Element* target, const Operand& operand) {
  store_as(target, operand.first);
  store_as(target + LANES, operand.second);
}
#else
typedef float Element;
typedef Floats Operand;

inline void multiply(Floats& sum, Operand row, Operand column) { multiply_add(sum, row, column); }

inline Operand operand_of(const Number* source) { return load_as<Floats>(source); }
#endif

struct Int8 {
  int8_t value;
};

struct Float8 {  // e4m3fn: a sign, 4 bits of exponent with a bias of 7, 3 bits of mantissa
  uint8_t bits;
};

inline Ints widen_bytes(const void* source) {  // GCC's own conversion goes number by number
#if defined(__AVX512F__)
  return reinterpret_cast<Ints>(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(source))));
#elif defined(__AVX2__)
  return reinterpret_cast<Ints>(_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(source))));
#else
  Bytes bytes;
  std::memcpy(&bytes, source, sizeof bytes);
  return __builtin_convertvector(bytes, Ints);
#endif
}

inline Floats load_lanes(const Int8* source) { return __builtin_convertvector(widen_bytes(source), Floats); }

// Its bits at their places in a float, whose exponent has a bias of 127; holds below the normal ones too.
inline Floats load_lanes(const Float8* source) {
  const Words bits = reinterpret_cast<Words>(widen_bytes(source));
  return reinterpret_cast<Floats>((bits & 0x80000000u) | ((bits & 0x7Fu) << 20)) * 0x1p120f;
}

template <class Byte>
inline Operand operand_of(const Byte* source) {
#if defined(BF16) && defined(__AVX512BF16__)
  typedef Number Halves __attribute__((vector_size(LANES * 4), aligned(4)));
  const Halves first = reinterpret_cast<Halves>(load_lanes(source));
  const Halves second = reinterpret_cast<Halves>(load_lanes(source + LANES));
  return reinterpret_cast<Operand>(
      __builtin_shufflevector(first, second, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 33, 35, 37, 39,
                              41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63));
#elif defined(BF16)
  const Floats low = load_lanes(source), high = load_lanes(source + LANES);
#if defined(__AVX512F__)
  return {__builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
          __builtin_shufflevector(low, high, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)};
#else
  return {__builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14),
          __builtin_shufflevector(low, high, 1, 3, 5, 7, 9, 11, 13, 15)};
#endif
#else
  return load_lanes(source);
#endif
}

// Adds up the lanes of four vectors, all in the same order.
inline Four add_lanes(const Floats sums[TILE_COLUMNS]) {
#if defined(__AVX512F__)
#define PAIRS(a, b, x, y) \
  __builtin_shufflevector(a, b, x, 16 + x, y, 16 + y, 4 + x, 20 + x, 4 + y, 20 + y, 8 + x, 24 + x, 8 + y, \
                          24 + y, 12 + x, 28 + x, 12 + y, 28 + y)
#define HALVES(a, b, x) \
  __builtin_shufflevector(a, b, x, x + 1, 16 + x, 17 + x, 4 + x, 5 + x, 20 + x, 21 + x, 8 + x, 9 + x, \
                          24 + x, 25 + x, 12 + x, 13 + x, 28 + x, 29 + x)
#else
#define PAIRS(a, b, x, y) __builtin_shufflevector(a, b, x, 8 + x, y, 8 + y, 4 + x, 12 + x, 4 + y, 12 + y)
#define HALVES(a, b, x) __builtin_shufflevector(a, b, x, x + 1, 8 + x, 9 + x, 4 + x, 5 + x, 12 + x, 13 + x)
#endif
  const Floats first = PAIRS(sums[0], sums[1], 0, 1) + PAIRS(sums[0], sums[1], 2, 3);
  const Floats second = PAIRS(sums[2], sums[3], 0, 1) + PAIRS(sums[2], sums[3], 2, 3);
  const Floats quarters = HALVES(first, second, 0) + HALVES(first, second, 2);
  Four parts[LANES / 4];
  std::memcpy(parts, &quarters, sizeof parts);
#if defined(__AVX512F__)
  return (parts[0] + parts[2]) + (parts[1] + parts[3]);
#else
  return parts[0] + parts[1];
#endif
}

struct Product {
  const Number* rows;  // (M, K)
  const float* scale;  // (N,) or null
  const Number* bias;  // (N,) or null
  Number* out;         // (M, N)
  int64_t M, N, K;
};

// What meets in a task: rows and columns of K each, as they lie in the tensors or widened.
template <class Row, class Weight>
struct Panel {
  const Row* rows;
  const Weight* columns;
  int64_t K;
  int64_t first, end;  // columns of the product
};

// The last numbers of rows that are no whole step, filled up with zeros.
template <int COUNT, int STEPS, class Any>
void fill_up(const Any* source, int64_t stride, int64_t count, Any (&target)[COUNT][STEPS]) {
  std::memset(target, 0, sizeof target);
  for (int i = 0; i < COUNT; ++i) std::memcpy(target[i], source + i * stride, count * sizeof(Any));
}

// ROWS x COLUMNS outputs, the first of them at `row` and `column` of the product.
// FIRST: no row has met these columns yet.
template <int ROWS, int COLUMNS, bool FIRST, class Row, class Weight>
void compute_tile(const Product& product, const Panel<Row, Weight>& panel, int64_t row, int64_t column) {
  constexpr int step = step_of<Row>;
  static_assert(step == step_of<Weight>);
  const int64_t K = panel.K;
  const Row* rows = panel.rows + row * K;
  const Weight* columns = panel.columns + (column - panel.first) * K;
  Row last_rows[ROWS][step];
  Weight last_columns[COLUMNS][step];
  int64_t stride = K;
  Floats sums[ROWS][TILE_COLUMNS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < TILE_COLUMNS; ++c) sums[r][c] = Floats{};
  for (int64_t left = K; left > 0; left -= step, rows += step, columns += step) {
    if (__builtin_expect(left < step, 0)) {
      fill_up(rows, K, left, last_rows);
      fill_up(columns, K, left, last_columns);
      rows = last_rows[0], columns = last_columns[0], stride = step;
    }
    decltype(operand_of(rows)) operands[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) operands[r] = operand_of(rows + r * stride);
#pragma GCC unroll 8
    for (int c = 0; c < COLUMNS; ++c) {
      const auto operand = operand_of(columns + c * stride);
      if (FIRST) __builtin_prefetch(columns + (c + AHEAD) * stride, 0, 2);  // into the second-level cache
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) multiply(sums[r][c], operands[r], operand);
    }
  }
  Numbers bias = {};
  if (product.bias) std::memcpy(&bias, product.bias + column, COLUMNS * sizeof(Number));
  Four scale = {};
  if (product.scale) std::memcpy(&scale, product.scale + column, COLUMNS * sizeof(float));
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
    const Four sum = add_lanes(sums[r]);
    const Numbers results = narrow((product.scale ? sum * scale : sum) + widen(bias));
    std::memcpy(product.out + (row + r) * product.N + column, &results, COLUMNS * sizeof(Number));
  }
}

template <int ROWS, bool FIRST, class Row, class Weight>
void compute_rows(const Product& product, const Panel<Row, Weight>& panel, int64_t row) {
  int64_t column = panel.first;
  for (; column + TILE_COLUMNS <= panel.end; column += TILE_COLUMNS)
    compute_tile<ROWS, TILE_COLUMNS, FIRST>(product, panel, row, column);
  for (; column < panel.end; ++column) compute_tile<ROWS, 1, FIRST>(product, panel, row, column);
}

template <int ROWS, class Row, class Weight>
void compute_up_to(int count, const Product& product, const Panel<Row, Weight>& panel, int64_t row) {
  if (count == ROWS && row == 0)
    compute_rows<ROWS, true>(product, panel, row);
  else if (count == ROWS)
    compute_rows<ROWS, false>(product, panel, row);
  else if constexpr (ROWS > 1)
    compute_up_to<ROWS - 1>(count, product, panel, row);
}

// All rows against the panel's columns, in tiles of about the same number of rows.
template <class Row, class Weight>
void compute_panel(const Product& product, const Panel<Row, Weight>& panel) {
  const int64_t num_tiles = (product.M + TILE_ROWS - 1) / TILE_ROWS;
  for (int64_t tile = 0; tile < num_tiles; ++tile) {
    const int64_t row = tile * product.M / num_tiles, next = (tile + 1) * product.M / num_tiles;
    compute_up_to<TILE_ROWS>(static_cast<int>(next - row), product, panel, row);
  }
}

// Widens a row of K, zeros to a whole step behind it; the next one begins there.
template <class Any>
Element* widen_row(const Any* source, int64_t K, Element* target) {
  for (; K >= STEP; K -= STEP, source += STEP, target += STEP) store(target, operand_of(source));
  if (K == 0) return target;
  Any last[1][STEP];
  fill_up(source, 0, K, last);
  store(target, operand_of(last[0]));
  return target + STEP;
}

// Memory of a thread that begins at a line of the cache.
class Scratch {
 public:
  Element* of(int64_t count) {
    if (held_.size() < count + LINE) held_ = std::vector<Element>(count + LINE);
    const auto begin = reinterpret_cast<std::uintptr_t>(held_.data());
    return reinterpret_cast<Element*>((begin + LINE - 1) / LINE * LINE);
  }

 private:
  static constexpr std::size_t LINE = 64;
  std::vector<Element> held_;
};

int64_t whole_steps(int64_t K) { return (K + STEP - 1) / STEP * STEP; }

// Whether the weights, and the rows with them, are widened before they meet: once for many rows, else where they
// are used.
template <class Weight>
bool widens_first(const Product& product) {
  return !std::is_same_v<Weight, Element> && product.M > MOST_WIDENED_TWICE;
}

int64_t panel_columns(const Product& product, int num_threads) {
  const int64_t fitting = PANEL_BYTES / (product.K * static_cast<int64_t>(sizeof(Element)) + 1);
  const int64_t fair = product.N / (TASKS_PER_THREAD * num_threads);
  const int64_t columns = std::min({PANEL_COLUMNS, fitting, fair});
  return std::max<int64_t>(columns / TILE_COLUMNS, 1) * TILE_COLUMNS;
}

// Calls act(first, end) for all columns, on so many threads.
template <class Act>
void in_panels(const Product& product, int num_threads, const Act& act) {
  const int64_t width = panel_columns(product, num_threads);
  const int64_t num_panels = (product.N + width - 1) / width;
#pragma omp parallel for schedule(dynamic) num_threads(num_threads)
  for (int64_t panel = 0; panel < num_panels; ++panel)
    act(panel * width, std::min(product.N, (panel + 1) * width));
}

template <class Weight>
void multiply_widened(const Product& product, const Weight* weights, int num_threads) {
  const int64_t width = whole_steps(product.K);
  static thread_local Scratch for_rows;
  Element* const rows = for_rows.of(product.M * width);
#pragma omp parallel for num_threads(num_threads)
  for (int64_t row = 0; row < product.M; ++row) widen_row(product.rows + row * product.K, product.K, rows + row * width);
  in_panels(product, num_threads, [&](int64_t first, int64_t end) {
    static thread_local Scratch for_columns;
    Element *const columns = for_columns.of((end - first) * width), *target = columns;
    for (int64_t column = first; column < end; ++column)
      target = widen_row(weights + column * product.K, product.K, target);
    compute_panel(product, Panel<Element, Element>{rows, columns, width, first, end});
  });
}

template <class Weight>
void multiply_rows(const Product& product, const void* start, int num_threads) {
  const Weight* const weights = static_cast<const Weight*>(start);
  if (widens_first<Weight>(product)) return multiply_widened(product, weights, num_threads);
  in_panels(product, num_threads, [&](int64_t first, int64_t end) {
    compute_panel(product, Panel<Number, Weight>{product.rows, weights + first * product.K, product.K, first, end});
  });
}

}  // namespace

// What the caller has to bring.
extern "C" const int64_t bytes_of_a_number = sizeof(Number);

enum Kind { NUMBERS, INT8, FLOAT8 };

// out = scale * (rows weights^T) + bias; all contiguous, weights of the kind.
extern "C" void row_linear(const Number* rows, const void* weights, const float* scale, const Number* bias,
                           Number* out, int64_t M, int64_t N, int64_t K, int kind, int num_threads) {
  const Product product{rows, scale, bias, out, M, N, K};
  if (kind == INT8) return multiply_rows<Int8>(product, weights, num_threads);
  if (kind == FLOAT8) return multiply_rows<Float8>(product, weights, num_threads);
  multiply_rows<Number>(product, weights, num_threads);
}
