// Vectors of numbers as this machine has them, for the kernels of CPUs.
#pragma once

#include <cstdint>

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif

typedef float Floats __attribute__((vector_size(LANES * 4), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4), aligned(4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2), aligned(2)));

// At once: a copy of bytes may come in halves by way of the stack, and whoever reads the whole waits for both.
template <class Vector>
inline Vector load_as(const void* source) {
  typedef Vector Anywhere __attribute__((may_alias, aligned(1)));
  return *static_cast<const Anywhere*>(source);
}

template <class Vector>
inline void store_as(void* target, Vector vector) {
  typedef Vector Anywhere __attribute__((may_alias, aligned(1)));
  *static_cast<Anywhere*>(target) = vector;
}

inline Floats load(const float* source) { return load_as<Floats>(source); }

inline Floats load(const uint16_t* source) {  // bfloat16
#if defined(__AVX2__) && !defined(__AVX512F__)  // GCC would take it in two pieces
  const Words words = reinterpret_cast<Words>(_mm256_cvtepu16_epi32(load_as<__m128i>(source)));
#else
  const Words words = __builtin_convertvector(load_as<Halves>(source), Words);
#endif
  return reinterpret_cast<Floats>(words << 16);
}

inline void store(float* target, Floats values) { store_as(target, values); }

inline void store(uint16_t* target, Floats values) {  // bfloat16, to nearest, ties to even
  const Words bits = reinterpret_cast<Words>(values);
  const Words rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const Words is_nan = reinterpret_cast<Words>(values != values);  // and stays NaN
  store_as(target, __builtin_convertvector((rounded & ~is_nan) | (is_nan & 0x7FC0u), Halves));
}

inline Floats all(float value) { return value - Floats{}; }  // what is added to zeros would lose -0

// One rounding or two is said here: where a compiler contracts products and sums as it likes, it does so in one
// tile and not in another.
inline void multiply_add(Floats& sum, Floats a, Floats b) {
#if defined(__AVX512F__)
  sum = reinterpret_cast<Floats>(_mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b),
                                                 reinterpret_cast<__m512>(sum)));
#elif defined(__x86_64__) && defined(__FMA__)
  sum = reinterpret_cast<Floats>(_mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b),
                                                 reinterpret_cast<__m256>(sum)));
#elif defined(__FP_FAST_FMAF) || defined(__ARM_FEATURE_FMA)
  for (int lane = 0; lane < LANES; ++lane) sum[lane] = __builtin_fmaf(a[lane], b[lane], sum[lane]);
#else
  sum += a * b;
#endif
}

inline Ints lanes() {
  Ints result;
  for (int lane = 0; lane < LANES; ++lane) result[lane] = lane;
  return result;
}

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

// e^x for x <= 0, relative error about 2e-7; 0 below -87, NaN for NaN. As filters.py has it, bit for bit, where
// products and sums are not contracted.
// x = n ln 2 + r, |r| <= ln 2 / 2; e^r by its Taylor series.
inline Floats exp_of(Floats x) {
  const Floats clamped = x < -87.0f ? all(-87.0f) : x;
  const Floats n = (clamped * 1.44269504f + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23: rounds to a whole number
  const Floats r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  Floats e = r * static_cast<float>(1.0 / 5040) + static_cast<float>(1.0 / 720);
  e = e * r + static_cast<float>(1.0 / 120);
  e = e * r + static_cast<float>(1.0 / 24);
  e = e * r + static_cast<float>(1.0 / 6);
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  const Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
  const Floats result = e * reinterpret_cast<Floats>(exponent);
  return x < -87.0f ? Floats{} : result;
}

}  // namespace
