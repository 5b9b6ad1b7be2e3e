// The CPU kernel: forward and backward in one pass each, the mask recomputed from the seed.
// The build compiles this file once for each instruction set, under the name RANGE_FUNCTION; cpu_dispatch.c chooses at run time.
#include "cpu.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum { CHUNK = 1024 };  // elements whose random words and float copies stay in the first-level cache

// Philox-4x32 with 7 rounds, in 64-bit lanes of which the low halves count: the multiplication reads nothing else.
#if defined(__AVX2__)
typedef uint64_t lanes __attribute__((vector_size(32)));
typedef int32_t halves __attribute__((vector_size(32)));
INLINE lanes multiply(lanes a, uint32_t b) { return (lanes)__builtin_ia32_pmuludq256((halves)a, (halves)((lanes){0} + b)); }
#elif defined(__SSE2__)
typedef uint64_t lanes __attribute__((vector_size(16)));
typedef int32_t halves __attribute__((vector_size(16)));
INLINE lanes multiply(lanes a, uint32_t b) { return (lanes)__builtin_ia32_pmuludq128((halves)a, (halves)((lanes){0} + b)); }
#else
typedef uint64_t lanes __attribute__((vector_size(16)));
INLINE lanes multiply(lanes a, uint32_t b) { return (a & 0xffffffffu) * (uint64_t)b; }
#endif

enum { LANES = sizeof(lanes) / 8, VECTORS = 8 / LANES };

// Counters 8 block to 8 block + 7. Vectors come in pairs, one of even and one of odd counters, which merge into words in order.
INLINE void block_words(uint64_t block, const settings* s, uint32_t* out) {
  for (int pair = 0; pair < VECTORS; pair += 2) {
    lanes c[2][4];
    for (int odd = 0; odd < 2; ++odd) {
      lanes index;
      for (int l = 0; l < LANES; ++l) index[l] = 8 * block + (uint64_t)(LANES * pair + 2 * l + odd);
      c[odd][0] = index, c[odd][1] = index >> 32, c[odd][2] = c[odd][3] = (lanes){0};
    }
    for (int round = 0; round < 7; ++round)
      for (int odd = 0; odd < 2; ++odd) {
        lanes product0 = multiply(c[odd][0], 0xD2511F53u), product1 = multiply(c[odd][2], 0xCD9E8D57u);
        c[odd][0] = (product1 >> 32) ^ c[odd][1] ^ (uint64_t)s->key[round][0];
        c[odd][2] = (product0 >> 32) ^ c[odd][3] ^ (uint64_t)s->key[round][1];
        c[odd][1] = product1, c[odd][3] = product0;
      }
    for (int word = 0; word < 4; ++word) {
      lanes merged = (c[0][word] & 0xffffffffu) | (c[1][word] << 32);
      memcpy(out + 8 * word + LANES * pair, &merged, sizeof merged);
    }
  }
}

INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

INLINE float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// x^a = 2^(a log2 x) for x >= 0. log2 x = e + log2 m with m in [sqrt 1/2, sqrt 2), and high e is exact, so that no digit of a e is lost.
INLINE float power_float(float x, const settings* s) {
  float a = (float)s->exponent, high = (float)s->high, low = (float)s->low;
  float scaled = x < FLT_MIN ? x * 16777216.0f : x;
  int32_t bits = (int32_t)bits_of(scaled), e = (bits - 0x3f3504f3) >> 23;
  float m = float_of((uint32_t)(bits - e * 8388608)), exponent = (float)(x < FLT_MIN ? e - 24 : e);
  float z = (m - 1.0f) / (m + 1.0f), z2 = z * z;  // log2 m = 2 / ln 2 (z + z^3 / 3 + z^5 / 5 + ...)
  float log2m = z * (2.88539008f + z2 * (0.961796694f + z2 * (0.577078016f + z2 * (0.412198583f + z2 * 0.320598898f))));
  float whole = high * exponent, part = a * log2m + low * exponent;
  float n = (whole + part + 12582912.0f) - 12582912.0f;  // the nearest integer
  n = n < -300.0f ? -300.0f : n > 300.0f ? 300.0f : n;
  float r = (whole - n) + part, y = 1.52527338e-5f;  // 2^r by its series
  y = y * r + 1.54035304e-4f;
  y = y * r + 1.33335581e-3f;
  y = y * r + 9.61812911e-3f;
  y = y * r + 5.55041087e-2f;
  y = y * r + 2.40226507e-1f;
  y = y * r + 6.93147181e-1f;
  y = y * r + 1.0f;
  int32_t shift = (int32_t)n, quarter = shift >> 2;  // in four steps, so that it may pass the range's ends
  float step = float_of((uint32_t)(quarter + 127) << 23);
  y = y * step * step * step * float_of((uint32_t)(shift - 3 * quarter + 127) << 23);
  y = x == INFINITY ? (a > 0 ? INFINITY : 0.0f) : y;
  y = x == 0.0f ? 0.0f : y;
  return x != x ? x : y;
}

INLINE double power_double(double x, const settings* s) { return pow(x, s->exponent); }

#define ARITHMETIC(T, SQRT, ABS, COPYSIGN, LARGEST)                                                                           \
  /* x^(k / 4) for x >= 0 by square roots and products, or the general power */                                               \
  INLINE T power_of_##T(T x, const settings* s, int k) {                                                                      \
    if (k == GENERAL) return power_##T(x, s);                                                                                 \
    int size = k < 0 ? -k : k;                                                                                                \
    T root = SQRT(x), result = size & 2 ? root : 1;                                                                           \
    if (size & 1) result *= SQRT(root);                                                                                       \
    for (int i = 0; i < size / 4; ++i) result *= x;                                                                           \
    return k < 0 ? 1 / result : result;                                                                                       \
  }                                                                                                                           \
  /* y = x m / (1 - p), and the same for the gradient */                                                                      \
  static void product_##T(const T* x, T* y, const uint32_t* words, int count, const settings* s) {                            \
    T scale = (T)s->scale;                                                                                                    \
    for (int i = 0; i < count; ++i) y[i] = x[i] * (words[i] >= s->threshold ? scale : (T)0);                                  \
  }                                                                                                                           \
  /* y = x + sign(x) |x|^(q/2) n */                                                                                           \
  INLINE void forward_##T(const T* x, T* y, const uint32_t* words, int count, const settings* s, int k) {                     \
    T up = (T)s->up;                                                                                                          \
    for (int i = 0; i < count; ++i) {                                                                                         \
      T power = power_of_##T(ABS(x[i]), s, k);                                                                                \
      power = x[i] == 0 ? (T)0 : power;                                                                                       \
      y[i] = x[i] + COPYSIGN(power, x[i]) * (words[i] >= s->threshold ? up : (T)-1);                                          \
    }                                                                                                                         \
  }                                                                                                                           \
  /* dL/dx = dL/dy (1 + c (|x| + eps)^((q-2)/2) n), the factor kept finite: 0 * inf would be NaN */                           \
  INLINE void backward_##T(const T* g, const T* x, T* out, const uint32_t* words, int count, const settings* s, int k) {      \
    T up = (T)s->up, eps = (T)s->eps, coefficient = (T)s->coefficient;                                                        \
    for (int i = 0; i < count; ++i) {                                                                                         \
      T factor = 1 + coefficient * power_of_##T(ABS(x[i]) + eps, s, k) * (words[i] >= s->threshold ? up : (T)-1);             \
      factor = factor > LARGEST ? LARGEST : factor;                                                                           \
      factor = factor < -LARGEST ? -LARGEST : factor;                                                                         \
      out[i] = g[i] * factor;                                                                                                 \
    }                                                                                                                         \
  }                                                                                                                           \
  static void chunk_##T(const T* g, const T* x, T* y, const uint32_t* words, int count, const settings* s) {                  \
    if (s->product) {                                                                                                         \
      product_##T(g ? g : x, y, words, count, s);                                                                             \
      return;                                                                                                                 \
    }                                                                                                                         \
    switch (s->path) {                                                                                                        \
      CASE(T, -4) CASE(T, -3) CASE(T, -2) CASE(T, -1) CASE(T, 0) CASE(T, 1) CASE(T, 2) CASE(T, 3) CASE(T, 4) CASE(T, 5)       \
      CASE(T, 6) CASE(T, 7) CASE(T, 8) CASE(T, GENERAL)                                                                       \
    }                                                                                                                         \
  }

// Each exponent has loops of its own, in which the compiler knows it.
#define CASE(T, K)                                  \
  case K:                                           \
    if (g)                                          \
      backward_##T(g, x, y, words, count, s, K);    \
    else                                            \
      forward_##T(x, y, words, count, s, K);        \
    break;

ARITHMETIC(float, sqrtf, fabsf, copysignf, FLT_MAX)
ARITHMETIC(double, sqrt, fabs, copysign, DBL_MAX)

INLINE float from_bfloat16(uint16_t h) { return float_of((uint32_t)h << 16); }

INLINE uint16_t to_bfloat16(float x) {
  uint32_t bits = bits_of(x), rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  return (uint16_t)(x != x ? 0x7fc0u : rounded);
}

INLINE float from_float16(uint16_t h) {
  uint32_t exponent_and_digits = (h & 0x7fffu) << 13;
  float x = float_of(exponent_and_digits) * 0x1p112f;
  uint32_t bits = (h & 0x7c00u) == 0x7c00u ? exponent_and_digits | 0x7f800000u : bits_of(x);
  return float_of(bits | (h & 0x8000u) << 16);
}

INLINE uint16_t to_float16(float x) {
  uint32_t bits = bits_of(x), size = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
  uint32_t subnormal = bits_of(float_of(size) + 0.5f) - 0x3f000000u;  // the addition rounds at 2^-24
  uint32_t normal = (size + 0xfffu + (size >> 13 & 1) - 0x38000000u) >> 13;
  uint32_t result = size < 0x38800000u ? subnormal : normal;
  result = size >= 0x477ff000u ? 0x7c00u : result;
  result = size > 0x7f800000u ? 0x7e00u : result;
  return (uint16_t)(sign | result);
}

#define CONVERSIONS(KIND)                                                              \
  static void widen_##KIND(const uint16_t* from, float* to, int count) {              \
    for (int i = 0; i < count; ++i) to[i] = from_##KIND(from[i]);                      \
  }                                                                                    \
  static void narrow_##KIND(const float* from, uint16_t* to, int count) {             \
    for (int i = 0; i < count; ++i) to[i] = to_##KIND(from[i]);                        \
  }
CONVERSIONS(bfloat16)
CONVERSIONS(float16)

#define AT(T, pointer, i) ((pointer) ? (const T*)(pointer) + (i) : (const T*)0)

static void chunk_half(int dtype, const uint16_t* g, const uint16_t* x, uint16_t* y, const uint32_t* words, int count,
                       const settings* s) {
  float wide_g[CHUNK], wide_x[CHUNK], wide_y[CHUNK];
  void (*widen)(const uint16_t*, float*, int) = dtype == BFLOAT16 ? widen_bfloat16 : widen_float16;
  if (g) widen(g, wide_g, count);
  if (x) widen(x, wide_x, count);
  chunk_float(g ? wide_g : 0, x ? wide_x : 0, wide_y, words, count, s);
  (dtype == BFLOAT16 ? narrow_bfloat16 : narrow_float16)(wide_y, y, count);
}

void RANGE_FUNCTION(int dtype, const void* grad, const void* input, void* output, int64_t begin, int64_t end, const settings* s) {
  uint32_t words[CHUNK];
  if (s->all_dropped) memset(words, 0, sizeof words);
  for (int64_t i = begin; i < end; i += CHUNK) {
    int count = end - i < CHUNK ? (int)(end - i) : CHUNK;
    if (!s->all_dropped)
      for (int block = 0; block < (count + 31) / 32; ++block) block_words((uint64_t)i / 32 + (uint64_t)block, s, words + 32 * block);
    if (dtype == FLOAT32)
      chunk_float(AT(float, grad, i), AT(float, input, i), (float*)output + i, words, count, s);
    else if (dtype == FLOAT64)
      chunk_double(AT(double, grad, i), AT(double, input, i), (double*)output + i, words, count, s);
    else
      chunk_half(dtype, AT(uint16_t, grad, i), AT(uint16_t, input, i), (uint16_t*)output + i, words, count, s);
  }
}
