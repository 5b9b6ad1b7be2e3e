// The moments of a sample of activations at the norms of op/moments.py, and their running means: `update` there is the oracle.
// The running root mean square alone is that of op/running_rms.py.
#include <float.h>
#include <math.h>
#include <stdint.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#if defined(__GLIBC__) && defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FAST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FAST
#endif

enum { NORMS = 12, TWO = 6 };  // the number of norms, and the index of norm 2
enum { BLOCK = 512 };          // elements that are copied together, and added in float

static const double norms[NORMS] = {0, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 4, 6, 8};

#define READ(name, type)                                                                                          \
  FAST static double squares_##name(const type* x, int64_t count, int64_t step) {                                 \
    double sum = 0;                                                                                               \
    if (step == 1) {                                                                                              \
      _Pragma("omp simd reduction(+ : sum)") for (int64_t i = 0; i < count; ++i) sum += (double)x[i] * (double)x[i]; \
    } else {                                                                                                      \
      _Pragma("omp simd reduction(+ : sum)") for (int64_t i = 0; i < count; ++i)                                  \
          sum += (double)x[i * step] * (double)x[i * step];                                                       \
    }                                                                                                             \
    return sum;                                                                                                   \
  }                                                                                                               \
  static void copy_##name(const type* x, int64_t count, int64_t step, double factor, float* block) {              \
    for (int64_t i = 0; i < count; ++i) block[i] = (float)(fabs((double)x[i * step]) * factor);                   \
  }

READ(float32, float)
READ(float64, double)

// Adds the powers of the magnitudes of a block, which are at most the root of the sample's size.
FAST static void add_powers(const float* block, int64_t count, double* sums) {
  float zeroth = 0, quarter = 0, half = 0, three_quarters = 0, first = 0, one_and_half = 0, two_and_half = 0, third = 0;
  float fourth = 0, sixth = 0, eighth = 0;
#pragma omp simd reduction(+ : zeroth, quarter, half, three_quarters, first, one_and_half, two_and_half, third, fourth, \
                               sixth, eighth)
  for (int64_t i = 0; i < count; ++i) {
    float x = block[i], root = sqrtf(x), fourth_root = sqrtf(root), square = x * x, cube = square * x;
    zeroth += x > 0 ? 1.0f : 0.0f;
    quarter += fourth_root;
    half += root;
    three_quarters += root * fourth_root;
    first += x;
    one_and_half += x * root;
    two_and_half += square * root;
    third += cube;
    fourth += square * square;
    sixth += cube * cube;
    eighth += (square * square) * (square * square);
  }
  const float powers[NORMS] = {zeroth,       quarter, half,         three_quarters, first, one_and_half,
                               0,            two_and_half, third,   fourth,         sixth, eighth};
  for (int i = 0; i < NORMS; ++i) sums[i] += powers[i];
}

static inline int is_scale(double number) { return number > 0 && number <= FLT_MAX; }

static double root_mean_square(int is_double, const void* x, int64_t count, int64_t step) {
  double squares = is_double ? squares_float64(x, count, step) : squares_float32(x, count, step);
  return count > 0 ? sqrt(squares / (double)count) : 0;
}

static double moved(double old, double size, double momentum) { return hypot(sqrt(1 - momentum) * old, sqrt(momentum) * size); }

// Returns the scale of a call, and moves the running root mean square to that of the sample if `learns`.
EXPORT double sparseout_running_rms(int is_double, const void* x, int64_t count, int64_t step, float* value, double momentum,
                                    int learns) {
  double old = *value, size = root_mean_square(is_double, x, count, step);
  int known = is_scale(old), counts = is_scale(size);
  if (counts && learns) *value = (float)(known ? moved(old, size, momentum) : size);
  return known ? old : counts ? (float)size : 1;
}

// Writes mean |x/r|^k for each norm k, where r^2 = mean x^2, but r itself for k = 2, and zeros if r is not positive and finite.
EXPORT void sparseout_moments(int is_double, const void* x, int64_t count, int64_t step, double* moments) {
  for (int i = 0; i < NORMS; ++i) moments[i] = 0;
  double size = root_mean_square(is_double, x, count, step);
  moments[TWO] = size;
  if (!is_scale(size)) return;
  moments[TWO] = 0;
  float block[BLOCK];
  for (int64_t begin = 0; begin < count; begin += BLOCK) {
    int64_t length = count - begin < BLOCK ? count - begin : BLOCK;
    if (is_double)
      copy_float64((const double*)x + begin * step, length, step, 1 / size, block);
    else
      copy_float32((const float*)x + begin * step, length, step, 1 / size, block);
    add_powers(block, length, moments);
  }
  for (int i = 0; i < NORMS; ++i) moments[i] /= (double)count;
  moments[TWO] = size;
}

static double shape_factor(const double* moments, const double* weights) {
  double sum = 0;
  for (int i = 0; i < NORMS; ++i)
    if (weights[i] != 0) sum += weights[i] * log(moments[i]);
  return exp(sum);
}

// Returns the scale of a call, and moves the running moments to those of the sample if `learns`.
EXPORT double sparseout_matched_scale(int is_double, const void* x, int64_t count, int64_t step, float* value, float* moments,
                                      const double* weights, double momentum, int learns) {
  double batch[NORMS], before[NORMS], old = *value;
  sparseout_moments(is_double, x, count, step, batch);
  double size = is_scale(batch[TWO]) ? batch[TWO] : 0;
  batch[TWO] = 1;
  int known = is_scale(old), complete = known;
  for (int i = 0; i < NORMS; ++i) {
    before[i] = moments[i];
    complete &= is_scale(before[i]);
  }
  double scale = known ? old : size > 0 ? size : 1;
  if (complete || size > 0) scale *= shape_factor(complete ? before : batch, weights);
  scale = (float)scale;  // as the operator returns it, for a call that is computed again
  if (!(size > 0 && learns)) return scale;
  double after = known ? moved(old, size, momentum) : size;
  *value = (float)after;
  for (int i = 0; i < NORMS; ++i)
    moments[i] = (float)(complete ? (1 - momentum) * before[i] * pow(old / after, norms[i]) +
                                        momentum * batch[i] * pow(size / after, norms[i])
                                  : batch[i]);
  return scale;
}
