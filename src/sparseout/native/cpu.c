// The CPU kernel: forward and backward take one pass each and recompute the mask from the seed.
// The build compiles this file once per instruction set, as RANGE_FUNCTION; cpu_dispatch.c chooses one at run time.
#include "cpu.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define ALIGNED __attribute__((aligned(64)))

enum { BLOCK = 32 };  // elements per block of words

#include "half.h"
#include "philox.h"
#include "power.h"
#if defined(__AVX512F__)
#include "arithmetic_avx512.h"
#define VECTORS vectors
#endif

#define T float
#define NAME(function) function##_float
#define SQRT sqrtf
#define ABS fabsf
#define COPYSIGN copysignf
#define LARGEST FLT_MAX
#include "arithmetic.h"

#define T double
#define NAME(function) function##_double
#define SQRT sqrt
#define ABS fabs
#define COPYSIGN copysign
#define LARGEST DBL_MAX
#include "arithmetic.h"

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
