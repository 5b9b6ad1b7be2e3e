// The kernel's one entry: prepares the settings, chooses the instruction set, and shares the elements among threads.
#include <float.h>
#include <math.h>
#include <stddef.h>

#include "cpu.h"

#if !defined(_WIN32)
#include <pthread.h>
#endif

range_function sparseout_baseline;
#ifdef SPARSEOUT_AVX2
range_function sparseout_avx2;
#endif

enum { GRAIN = 32768 };  // elements below which threads cost more than they save; a multiple of the kernel's chunk

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

// A forked child has none of its parent's OpenMP threads, and would wait for them forever.
static int forked = 0;
#if !defined(_WIN32)
static void in_child(void) { forked = 1; }
__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }
#endif

static range_function* chosen(int baseline) {
  if (baseline) return sparseout_baseline;
#ifdef SPARSEOUT_AVX2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return sparseout_avx2;
#endif
  return sparseout_baseline;
}

EXPORT const char* sparseout_instruction_set(void) { return chosen(0) == sparseout_baseline ? "baseline" : "avx2"; }

// baseline: insist on the instruction set that every machine has.
// exponent: q / 2 forward, (q - 2) / 2 backward. threshold: round(p 2^32), up to 2^32. grad is null in the forward pass.
EXPORT void sparseout_run(int dtype, const void* grad, const void* input, void* output, int64_t count, uint64_t seed,
                          uint64_t threshold, int product, double p, double exponent, double eps, double coefficient, int threads,
                          int baseline) {
  settings s = {.threshold = (uint32_t)threshold, .product = product, .exponent = exponent, .eps = eps, .coefficient = coefficient};
  if (threshold > UINT32_MAX) s.all_dropped = 1, s.threshold = 1;
  for (uint32_t round = 0; round < 7; ++round) {
    s.key[round][0] = (uint32_t)seed + round * 0x9E3779B9u;
    s.key[round][1] = (uint32_t)(seed >> 32) + round * 0xBB67AE85u;
  }
  int wide = dtype == FLOAT64;
  s.scale = p < 1 ? (wide ? 1 / (1 - p) : (double)(1.0f / (float)(1 - p))) : 1;
  s.up = p < 1 ? fmax(p / (1 - p), wide ? DBL_MIN : FLT_MIN) : 0;  // never 0: an infinite power would make NaN of it
  double quarters = 4 * exponent;
  s.path = quarters == floor(quarters) && quarters >= -4 && quarters <= 8 ? (int)quarters : GENERAL;
  s.high = floor(exponent * 4096) / 4096;  // at most 16 bits for exponents up to 16
  s.low = exponent - s.high;
  range_function* run = chosen(baseline);
  int64_t shares = (count + GRAIN - 1) / GRAIN;
  if (threads > shares) threads = (int)shares;
  if (threads < 2 || forked) {
    run(dtype, grad, input, output, 0, count, &s);
    return;
  }
  int64_t share = (count + threads - 1) / threads;
  share = (share + 1023) / 1024 * 1024;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int thread = 0; thread < threads; ++thread) {
    int64_t begin = thread * share, end = begin + share < count ? begin + share : count;
    if (begin < end) run(dtype, grad, input, output, begin, end, &s);
  }
}
