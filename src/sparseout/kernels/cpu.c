// The CPU kernel: forward and backward in one pass each, the mask recomputed from the seed.
// The build compiles this file once for each instruction set, under the name RANGE_FUNCTION; cpu_dispatch.c chooses at run time.
#include "cpu.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define ALIGNED __attribute__((aligned(64)))

enum { CHUNK = 1024, BLOCK = 32 };  // elements whose words and copies stay in the first-level cache; elements a block of words

#include "half.h"
#include "philox.h"
#include "power.h"

#define EACH _Pragma("GCC ivdep") for (int i = 0; i < count; ++i)

#define ARITHMETIC(T, SQRT, ABS, COPYSIGN, LARGEST)                                                                           \
  /* x^(k / 4) by square roots and products */                                                                                \
  INLINE T power_##T##_by(int k, T x) {                                                                                       \
    int size = k < 0 ? -k : k;                                                                                                \
    T root = SQRT(x), result = size & 2 ? root : 1;                                                                           \
    if (size & 1) result *= SQRT(root);                                                                                       \
    for (int i = 0; i < size / 4; ++i) result *= x;                                                                           \
    return k < 0 ? 1 / result : result;                                                                                       \
  }                                                                                                                           \
  /* y = x m / (1 - p), and the same for the gradient */                                                                      \
  static void product_##T(const T* x, T* y, const uint32_t* words, int count, const settings* s) {                            \
    T scale = (T)s->scale;                                                                                                    \
    EACH y[i] = x[i] * (words[i] >= s->threshold ? scale : (T)0);                                                             \
  }                                                                                                                           \
  /* y = x + sign(x) |x|^(q/2) n */                                                                                           \
  INLINE void forward_##T(const T* x, const T* powers, T* y, const uint32_t* words, int count, const settings* s, int k) {    \
    T up = (T)s->up;                                                                                                          \
    EACH {                                                                                                                    \
      T power = k == GENERAL ? powers[i] : power_##T##_by(k, ABS(x[i]));                                                      \
      if (k == 0) power = x[i] == 0 ? (T)0 : power;                                                                           \
      y[i] = x[i] + COPYSIGN(power, x[i]) * (words[i] >= s->threshold ? up : (T)-1);                                          \
    }                                                                                                                         \
  }                                                                                                                           \
  /* dL/dx = dL/dy (1 + c (|x| + eps)^((q-2)/2) n), the factor kept finite: 0 * inf would be NaN */                           \
  INLINE void backward_##T(const T* g, const T* x, const T* powers, T* out, const uint32_t* words, int count,                 \
                           const settings* s, int k) {                                                                        \
    T up = (T)s->up, eps = (T)s->eps, coefficient = (T)s->coefficient;                                                        \
    EACH {                                                                                                                    \
      T power = k == GENERAL ? powers[i] : power_##T##_by(k, ABS(x[i]) + eps);                                                \
      T factor = 1 + coefficient * power * (words[i] >= s->threshold ? up : (T)-1);                                           \
      factor = factor > LARGEST ? LARGEST : factor;                                                                           \
      factor = factor < -LARGEST ? -LARGEST : factor;                                                                         \
      out[i] = g[i] * factor;                                                                                                 \
    }                                                                                                                         \
  }                                                                                                                           \
  static void chunk_##T(const T* g, const T* x, T* y, const uint32_t* words, int count, const settings* s) {                  \
    T powers[CHUNK] ALIGNED;                                                                                                  \
    if (s->product) {                                                                                                         \
      product_##T(g ? g : x, y, words, count, s);                                                                             \
      return;                                                                                                                 \
    }                                                                                                                         \
    if (s->path == GENERAL) powers_##T(x, g ? (T)s->eps : 0, powers, count, s);                                               \
    switch (s->path) {                                                                                                        \
      CASE(T, -4) CASE(T, -3) CASE(T, -2) CASE(T, -1) CASE(T, 0) CASE(T, 1) CASE(T, 2) CASE(T, 3) CASE(T, 4) CASE(T, 5)       \
      CASE(T, 6) CASE(T, 7) CASE(T, 8) CASE(T, GENERAL)                                                                       \
    }                                                                                                                         \
  }

// Each exponent has loops of its own, in which the compiler knows it.
#define CASE(T, K)                                       \
  case K:                                                \
    if (g)                                               \
      backward_##T(g, x, powers, y, words, count, s, K); \
    else                                                 \
      forward_##T(x, powers, y, words, count, s, K);     \
    break;

ARITHMETIC(float, sqrtf, fabsf, copysignf, FLT_MAX)
ARITHMETIC(double, sqrt, fabs, copysign, DBL_MAX)

static void chunk_half(int dtype, const uint16_t* g, const uint16_t* x, uint16_t* y, const uint32_t* words, int count,
                       const settings* s) {
  float wide_g[CHUNK] ALIGNED, wide_x[CHUNK] ALIGNED, wide_y[CHUNK] ALIGNED;
  void (*widen)(const uint16_t*, float*, int) = dtype == BFLOAT16 ? widen_bfloat16 : widen_float16;
  if (g) widen(g, wide_g, count);
  if (x) widen(x, wide_x, count);
  chunk_float(g ? wide_g : 0, x ? wide_x : 0, wide_y, words, count, s);
  (dtype == BFLOAT16 ? narrow_bfloat16 : narrow_float16)(wide_y, y, count);
}

static void chunk(int dtype, const void* g, const void* x, void* y, const uint32_t* words, int count, const settings* s) {
  if (dtype == FLOAT32)
    chunk_float(g, x, y, words, count, s);
  else if (dtype == FLOAT64)
    chunk_double(g, x, y, words, count, s);
  else
    chunk_half(dtype, g, x, y, words, count, s);
}

#include "walk.h"

void RANGE_FUNCTION(const tensors* t, int64_t begin, int64_t end, const settings* s) {
  if (t->ndim == 0)
    walk_contiguous(t, begin, end, s);
  else
    walk_tiles(t, begin, end, s);
}
