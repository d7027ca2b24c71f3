// What rows of logits say, for CPUs: the likeliest token, how far the next one is behind, the logsumexp.
//
// A row's result depends on its own logits alone: a row is one thread's, and its sum has one order.

#include <cmath>
#include <cstdint>
#include <limits>

#include "lanes.h"

namespace {

constexpr int64_t CHUNK = 256;                 // weights that are added up in float32, before float64
constexpr int64_t SERIAL_LOGITS = 1 << 14;     // fewer are not worth waking a thread
constexpr float LOWEST = -std::numeric_limits<float>::infinity();

struct Top {
  float first = LOWEST, second = LOWEST;
  int64_t id = 0;

  void offer(float score, int64_t place) {
    if (score > first || (score == first && place < id)) {
      second = first, first = score, id = place;
    } else if (score > second) {
      second = score;
    }
  }
};

template <class Number>
float number(const Number* source) {
  if constexpr (sizeof(Number) == sizeof(float)) return *source;
  const uint32_t bits = static_cast<uint32_t>(*source) << 16;
  return load_as<float>(&bits);
}

// The two largest of a row's numbers and the lowest place of the first; what is NaN does not count.
template <class Number>
Top top_of(const Number* row, int64_t size) {
  const int64_t whole = size / LANES * LANES;
  Floats first = all(LOWEST), second = all(LOWEST);
  Ints ids = lanes(), places = lanes();
  for (int64_t i = 0; i < whole; i += LANES, places += LANES) {
    const Floats score = load(row + i);
    const Ints is_first = score > first;
    second = larger(is_first ? first : score, second);
    ids = is_first ? places : ids;
    first = is_first ? score : first;
  }
  Top top;
  top.id = size;
  for (int lane = 0; lane < LANES && whole > 0; ++lane) {
    top.offer(first[lane], ids[lane]);
    top.second = second[lane] > top.second ? second[lane] : top.second;
  }
  for (int64_t i = whole; i < size; ++i) top.offer(number(row + i), i);
  if (top.id == size) top.id = 0;
  return top;
}

// Sum of e^(number - top), which is not finite where a number is NaN or above all.
template <class Number>
double weight_of(const Number* row, int64_t size, float top) {
  double total = 0;
  for (int64_t start = 0; start < size; start += CHUNK) {
    const int64_t end = start + CHUNK < size ? start + CHUNK : size, whole = start + (end - start) / LANES * LANES;
    Floats weights = {};
    for (int64_t i = start; i < whole; i += LANES) weights += exp_of(load(row + i) - top);
    if (whole < end) {
      Floats rest = all(LOWEST);
      for (int64_t i = whole; i < end; ++i) rest[i - whole] = number(row + i) - top;
      weights += exp_of(rest);
    }
    float sum = 0;
    for (int lane = 0; lane < LANES; ++lane) sum += weights[lane];
    total += sum;
  }
  return total;
}

template <class Number>
void read_rows(const Number* logits, int64_t row_stride, int64_t num_rows, int64_t size, int num_threads, int64_t* ids,
               float* figures) {
  float *const gaps = figures, *const logprobs = gaps + num_rows, *const logsumexps = logprobs + num_rows;
#pragma omp parallel for schedule(dynamic) num_threads(num_threads) if (num_rows > 1 && num_rows * size > SERIAL_LOGITS)
  for (int64_t row = 0; row < num_rows; ++row) {
    const Number* own = logits + row * row_stride;
    const Top top = top_of(own, size);
    ids[row] = top.id;
    gaps[row] = top.first - top.second;
    logsumexps[row] = top.first + static_cast<float>(std::log(weight_of(own, size, top.first)));
    logprobs[row] = top.first - logsumexps[row];
  }
}

}  // namespace

extern "C" void read_out(const void* logits, int64_t row_stride, int64_t num_rows, int64_t size,  // (R, V)
                         int is_half,  // bfloat16, else float32
                         int num_threads,
                         int64_t* ids,      // (R,)
                         float* figures) {  // (3, R): gaps, log-probabilities, logsumexps
  if (is_half)
    return read_rows(static_cast<const uint16_t*>(logits), row_stride, num_rows, size, num_threads, ids, figures);
  read_rows(static_cast<const float*>(logits), row_stride, num_rows, size, num_threads, ids, figures);
}
