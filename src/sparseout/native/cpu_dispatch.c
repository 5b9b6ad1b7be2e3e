// The entry point of the kernel: prepares the settings, chooses the instruction set and divides the elements among threads.
#include <float.h>
#include <math.h>
#include <string.h>

#include "cpu.h"
#include "dispatch.h"

#if !defined(_WIN32)
#include <sys/mman.h>
#endif

enum { GRAIN = 16384 };  // fewer elements are not worth another thread; a multiple of CHUNK

INSTRUCTION_SETS(range_function, sparseout)

// The number of instruction sets that this machine supports, in the order baseline, avx2, avx512.
EXPORT int sparseout_instruction_sets(void) {
#ifdef SPARSEOUT_X86
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 1;
  // Older processors with AVX-512 reduce their clock when they use it; those with VBMI2 do not.
  return __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512dq") ? 3 : 2;
#else
  return 1;
#endif
}

// Whether the library divides its work among threads.
EXPORT int sparseout_has_threads(void) {
#ifdef _OPENMP
  return 1;
#else
  return 0;
#endif
}

static void prepare_power(settings* s) {
  double a = s->exponent, size = fabs(a), coefficient = 1;
  power_tables* t = &s->tables;
  s->high = floor(a * 4096) / 4096;  // at most 16 bits for exponents up to 16
  s->low = a - s->high;
  int wide = s->instruction_set > 1, entries = wide ? 16 : 8;
  for (int n = 0; n < 16; ++n) {
    int i = n % entries;
    t->reciprocal[n] = (float)(1 / (1 + (i + 0.5) / entries));
    t->middle[n] = (float)pow(1 / (double)t->reciprocal[n], a);
    // e + 127 = i + 16 j, or i + 8 j + 64 k
    t->small[n] = (float)exp2(a * (wide ? i - 8 : i));
    t->large[n] = (float)exp2(a * (wide ? 16 * i - 119 : 8 * (i - 4)));
    t->largest[n] = (float)exp2(a * (64 * (i % 4) - 95));
  }
  for (int k = 0; k < 6; ++k) {
    t->series[k] = (float)coefficient;
    coefficient *= (a - k) / (k + 1);
  }
  // The factors in the tables are finite and normal for x between 2^-most and 2^most, and never for |a| beyond 3.6.
  double most = wide ? fmin(126, 126 / size - 8) : fmin(size > 1.25 ? 63 : 126, 120 / size);
  float last = (float)exp2(most), first = 1 / last;
  memcpy(&t->first, &first, sizeof first);
  memcpy(&t->range, &last, sizeof last);
  t->range -= t->first;
  if (size > 3.6) t->first = UINT32_MAX, t->range = 0;
  double highest = exp2(fmin(1021, 1020 / size)), lowest = 1 / highest;
  memcpy(&s->first, &lowest, sizeof lowest);
  memcpy(&s->range, &highest, sizeof highest);
  s->range -= s->first;
  if (size > 4) s->first = UINT64_MAX, s->range = 0;  // the error grows with |a|
}

// The bytes that sparseout_prepare writes.
EXPORT size_t sparseout_settings_size(void) { return 2 * sizeof(settings); }

// Writes the settings of all forward passes with this dtype, p and q, and after them those of all backward passes.
// threshold: round(p 2^32), up to 2^32. factor: 1 for the detached gradient and q / 2 for the exact one.
EXPORT void sparseout_prepare(settings* s, int dtype, uint64_t threshold, int multiplicative, double p, double q, double factor,
                              int instruction_set) {
  int wide = dtype == FLOAT64;
  for (int backward = 0; backward < 2; ++backward, ++s) {
    *s = (settings){.dtype = dtype, .instruction_set = instruction_set, .threshold = (uint32_t)threshold, .q = q};
    s->multiplicative = multiplicative, s->factor = backward ? factor : 1, s->exponent = backward ? (q - 2) / 2 : q / 2;
    if (threshold > UINT32_MAX) s->all_dropped = 1, s->threshold = 1;
    s->scale = p < 1 ? (wide ? 1 / (1 - p) : (double)(1.0f / (float)(1 - p))) : 1;
    s->ratio = p < 1 ? p / (1 - p) : 0;
    double quarters = 4 * s->exponent;
    s->path = quarters == floor(quarters) && quarters >= -4 && quarters <= 8 ? (int)quarters : GENERAL;
    // The tables are faster than a fourth root or a reciprocal.
    if (!wide && instruction_set > 0 && (s->path < 0 || s->path % 2)) s->path = GENERAL;
    if (s->path == GENERAL && !multiplicative) prepare_power(s);
  }
}

static double clamped(double x, double low, double high) { return fmin(fmax(x, low), high); }

// s |x/s|^(q/2) = c |x|^(q/2) and (|x|/s + eps)^((q-2)/2) = c (|x| + s eps)^((q-2)/2) with c = s^(1 - q/2): see op/scale.py.
static settings of_call(const settings* prepared, int is_forward, uint64_t seed, double scale, double eps) {
  settings s = prepared[is_forward ? 0 : 1];
  for (uint32_t round = 0; round < 7; ++round) {
    s.key[round][0] = (uint32_t)seed + round * 0x9E3779B9u;
    s.key[round][1] = (uint32_t)(seed >> 32) + round * 0xBB67AE85u;
  }
  int wide = s.dtype == FLOAT64;
  double smallest = wide ? DBL_MIN : FLT_MIN, largest = wide ? DBL_MAX : FLT_MAX;
  double c = scale == 1 ? 1 : clamped(pow(scale, 1 - s.q / 2), smallest, largest), coefficient = fmin(s.factor * c, largest);
  s.eps = scale == 1 ? eps : clamped(eps * scale, smallest, largest), s.coefficient = coefficient;
  if (!is_forward && coefficient < smallest) s.path = 0;  // the product with an infinite power would be infinite or NaN
  // Neither 0 nor infinite, since the product with an infinite power, or with a power that is 0, would be NaN.
  s.up = s.all_dropped ? 0 : clamped(s.ratio * (is_forward ? coefficient : 1), smallest, largest);
  s.down = is_forward ? -coefficient : -1;
  return s;
}

static int continues(const dimension* outer, const dimension* inner) {
  int64_t n = inner->size;
  return outer->grad == n * inner->grad && outer->input == n * inner->input && outer->output == n * inner->output &&
         outer->index == n * inner->index;
}

// layout: ndim, then ndim sizes, then ndim strides each of grad, input, output and the index.
static void lay_out(tensors* t, const int64_t* layout) {
  int ndim = (int)*layout++, n = 0;
  for (int d = 0; d < ndim; ++d) {
    dimension next = {layout[d], layout[ndim + d], layout[2 * ndim + d], layout[3 * ndim + d], layout[4 * ndim + d]};
    if (next.size == 1) continue;
    if (n && continues(&t->dims[n - 1], &next)) {
      next.size *= t->dims[n - 1].size;
      --n;
    }
    t->dims[n++] = next;
  }
  dimension one = {.size = 1};
  if (n == 0) t->dims[n++] = one;
  if (n == 1) t->dims[1] = t->dims[0], t->dims[0] = one, ++n;
  dimension columns = t->dims[n - 1];
  int densest = n - 2;
  if (columns.output != 1)
    for (int d = 0; d < n - 1; ++d)
      if (t->dims[d].output < t->dims[densest].output) densest = d;
  dimension rows = t->dims[densest];
  memmove(&t->dims[densest], &t->dims[densest + 1], (size_t)(n - 2 - densest) * sizeof rows);
  t->dims[n - 2] = rows, t->ndim = n;
  t->dense_columns = columns.output != 1 && rows.output == 1 && (!t->grad || rows.grad == 1) && (!t->input || rows.input == 1);
  if (t->dense_columns) {  // long runs of words, and of elements
    t->rows = rows.size < CHUNK ? rows.size : CHUNK;
    t->columns = columns.size < WORDS / t->rows ? columns.size : WORDS / t->rows;
    int64_t fewer = WORDS / columns.size / 16 * 16;  // rows of a tile with all columns, whose words are made without a gap
    if (columns.size % 64 && fewer >= 64 && fewer < t->rows) t->rows = fewer, t->columns = columns.size;
    return;
  }
  int64_t wide = columns.output == 1 ? TILE : TILE / 16;
  t->columns = columns.size < wide ? columns.size : wide;
  t->rows = rows.size < TILE / t->columns ? rows.size : TILE / t->columns;
}

static int64_t count_tiles(const tensors* t) {
  int64_t tiles = (t->dims[t->ndim - 1].size + t->columns - 1) / t->columns;
  tiles *= (t->dims[t->ndim - 2].size + t->rows - 1) / t->rows;
  for (int d = 0; d < t->ndim - 2; ++d) tiles *= t->dims[d].size;
  return tiles;
}

// Huge pages for a large output: page faults of small pages would cost more than the arithmetic.
EXPORT void sparseout_advise(void* output, size_t bytes) {
#ifdef MADV_HUGEPAGE
  const uintptr_t page = 1 << 21;
  uintptr_t begin = ((uintptr_t)output + page - 1) / page * page, end = ((uintptr_t)output + bytes) / page * page;
  if (end > begin) madvise((void*)begin, end - begin, MADV_HUGEPAGE);
#else
  (void)output, (void)bytes;
#endif
}

// prepared: of both passes. grad is null in the forward pass. layout is null if all tensors are contiguous.
EXPORT void sparseout_run(const settings* prepared, const void* grad, const void* input, void* output, int64_t count,
                          const int64_t* layout, uint64_t seed, double scale, double eps, int threads) {
  if (count == 0) return;
  int dtype = prepared->dtype;
  tensors t = {.dtype = dtype, .grad = grad, .input = input, .output = output, .count = count};
  if (layout) lay_out(&t, layout);
  settings s = of_call(prepared, grad == NULL, seed, scale, eps);
  range_function* run = chosen(s.instruction_set);
  sparseout_advise(output, (size_t)count * (dtype == FLOAT64 ? 8 : dtype == FLOAT32 ? 4 : 2));
  int64_t items = layout ? count_tiles(&t) : count, step = layout ? 1 : CHUNK, shares = (count + GRAIN - 1) / GRAIN;
  if (threads > shares) threads = (int)shares;
  if (threads < 2 || forked) {
    run(&t, 0, items, &s);
    return;
  }
  int64_t share = ((items + threads - 1) / threads + step - 1) / step * step;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int thread = 0; thread < threads; ++thread) {
    int64_t begin = thread * share, end = begin + share < items ? begin + share : items;
    if (begin < end) run(&t, begin, end, &s);
  }
}
