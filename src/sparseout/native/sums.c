// The sums of zeros, hoyer and rms over contiguous vectors, in one pass and in double precision.
#include <math.h>
#include <stdint.h>

#include "dispatch.h"

#if defined(__GLIBC__) && defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FAST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FAST
#endif

#if defined(__GNUC__)
#define FETCH(address) __builtin_prefetch((const void*)(address), 0, 2)
#else
#define FETCH(address) (void)(address)
#endif

enum { FLOAT32, FLOAT64, BFLOAT16 };
enum { ZEROS, SQUARES, HOYER, ZERO_VECTORS, NONFINITE, SUMS };
enum { GRAIN = 32768 };  // fewer elements are not worth another thread
enum { MOST_THREADS = 256 };
enum { RUN = 256 };    // elements per 32-bit count of zeros
enum { AHEAD = 8192 };  // bytes ahead of the loop; the hardware prefetcher covers less
enum { LINE = 64 };

static inline double widened(uint16_t bfloat16) {
  union {
    uint32_t bits;
    float value;
  } single = {(uint32_t)bfloat16 << 16};
  return single.value;
}

#define VECTOR_SUMS(name, type, value)                                                                         \
  FAST static void name(const type* x, int64_t units, double* absolute, double* squares, double* zeros) {      \
    double sum = 0, square = 0;                                                                                \
    int64_t count = 0;                                                                                         \
    for (int64_t begin = 0; begin < units; begin += RUN) {                                                     \
      int64_t end = begin + RUN < units ? begin + RUN : units;                                                 \
      int32_t zero = 0;                                                                                        \
      uintptr_t next = (uintptr_t)(x + begin) + AHEAD, stop = (uintptr_t)(x + end) + AHEAD;                     \
      for (; next < stop; next += LINE) FETCH(next);                                                           \
      _Pragma("omp simd reduction(+ : sum, square, zero)") for (int64_t i = begin; i < end; ++i) {             \
        double magnitude = fabs(value(x[i]));                                                                  \
        sum += magnitude;                                                                                      \
        square += magnitude * magnitude;                                                                       \
        zero += magnitude == 0;                                                                                \
      }                                                                                                        \
      count += zero;                                                                                           \
    }                                                                                                          \
    *absolute = sum, *squares = square, *zeros = (double)count;                                                \
  }

VECTOR_SUMS(of_float32, float, (double))
VECTOR_SUMS(of_float64, double, (double))
VECTOR_SUMS(of_bfloat16, uint16_t, widened)

static void of_vectors(int dtype, const void* x, int64_t units, int64_t begin, int64_t end, double* sums) {
  double root = sqrt((double)units);
  for (int64_t vector = begin; vector < end; ++vector) {
    double absolute, squares, zeros;
    int64_t first = vector * units;
    if (dtype == FLOAT32) of_float32((const float*)x + first, units, &absolute, &squares, &zeros);
    if (dtype == FLOAT64) of_float64((const double*)x + first, units, &absolute, &squares, &zeros);
    if (dtype == BFLOAT16) of_bfloat16((const uint16_t*)x + first, units, &absolute, &squares, &zeros);
    double ratio = absolute == 0 ? 1 : absolute / sqrt(squares);
    if (ratio < 1) ratio = 1;  // fmin and fmax would drop a NaN
    if (ratio > root) ratio = root;
    sums[ZEROS] += zeros;
    sums[SQUARES] += squares;
    sums[HOYER] += units > 1 ? (root - ratio) / (root - 1) : 0;
    sums[ZERO_VECTORS] += absolute == 0;
    sums[NONFINITE] += !isfinite(squares);
  }
}

EXPORT void sparseout_basic_sums(int dtype, const void* x, int64_t vectors, int64_t units, int threads, double* sums) {
  int64_t shares = (vectors * units + GRAIN - 1) / GRAIN;
  if (shares > vectors) shares = vectors;
  if (shares > MOST_THREADS) shares = MOST_THREADS;
  if (threads > shares) threads = (int)shares;
  if (threads < 2 || forked) {
    of_vectors(dtype, x, units, 0, vectors, sums);
    return;
  }
  double shared[MOST_THREADS][SUMS];
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int thread = 0; thread < threads; ++thread) {
    double own[SUMS] = {0};  // on the stack of each thread, to avoid false sharing
    of_vectors(dtype, x, units, vectors * thread / threads, vectors * (thread + 1) / threads, own);
    for (int i = 0; i < SUMS; ++i) shared[thread][i] = own[i];
  }
  for (int thread = 0; thread < threads; ++thread)
    for (int i = 0; i < SUMS; ++i) sums[i] += shared[thread][i];
}
