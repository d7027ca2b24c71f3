// Activations of MLPs, number by number, for CPUs.
//
// All numbers go through the same vector instructions, be they the last ones of an odd count, so that a result's
// bits depend on its number alone. torch takes those left over at the end of each thread's share one by one, with
// another exp: there the bits of a row depend on where in the forward it is.

#include <cstdint>
#include <cstring>

#include "lanes.h"

namespace {

enum Kind { SILU, GELU_TANH };

inline Floats sigmoid(Floats x) {
  const Floats e = exp_of(x < 0.0f ? x : -x);
  return (x < 0.0f ? e : all(1.0f)) / (1.0f + e);
}

// GELU by tanh: x (1 + tanh(u)) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
template <Kind KIND>
inline Floats activated(Floats x) {
  if (KIND == SILU) return x * sigmoid(x);
  return x * sigmoid(x * (x * x * 0.044715f + 1.0f) * 1.59576912f);
}

template <Kind KIND, class Number>
void activate_all(const Number* source, Number* target, int64_t count, int num_threads) {
  const int64_t num_vectors = count / LANES, rest = count % LANES;
#pragma omp parallel for num_threads(num_threads)
  for (int64_t vector = 0; vector < num_vectors; ++vector)
    store(target + vector * LANES, activated<KIND>(load(source + vector * LANES)));
  if (rest == 0) return;
  Number last[LANES] = {};
  std::memcpy(last, source + count - rest, rest * sizeof(Number));
  store(last, activated<KIND>(load(last)));
  std::memcpy(target + count - rest, last, rest * sizeof(Number));
}

template <class Number>
void activate_as(const void* source, void* target, int64_t count, int kind, int num_threads) {
  const Number* const from = static_cast<const Number*>(source);
  Number* const to = static_cast<Number*>(target);
  if (kind == SILU) return activate_all<SILU>(from, to, count, num_threads);
  activate_all<GELU_TANH>(from, to, count, num_threads);
}

}  // namespace

// Numbers are float32, or bfloat16.
extern "C" void activate(const void* source, void* target, int64_t count, int is_bfloat16, int kind,
                         int num_threads) {
  if (is_bfloat16) return activate_as<uint16_t>(source, target, count, kind, num_threads);
  activate_as<float>(source, target, count, kind, num_threads);
}
