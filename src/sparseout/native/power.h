// x^a for any a and x >= 0; 0 for 0.
#include <math.h>

#if defined(__AVX2__)
// A vector instruction looks up one of 8 or 16 numbers. With x = c (1 + r) 2^e and as many values of c, x^a = c^a (1 + r)^a 2^(a e):
// the first factor is from a table, the second is the binomial series, and the third is from a table for each digit of e.
#include <immintrin.h>

#if defined(__AVX512F__)
typedef __m512 floats;
typedef __m512i integers;
#define VECTOR(name) _mm512_##name
#define LOOK_UP(table, index) _mm512_permutexvar_ps(index, table)
#define BITS(x) _mm512_castps_si512(x)
#define FLOATS(x) _mm512_castsi512_ps(x)
#define AND _mm512_and_si512
#define OR _mm512_or_si512
enum { DIGIT = 4, DEGREE = 4 };  // bits of an index of the tables; degree of the series
#else
typedef __m256 floats;
typedef __m256i integers;
#define VECTOR(name) _mm256_##name
#define LOOK_UP(table, index) _mm256_permutevar8x32_ps(table, index)
#define BITS(x) _mm256_castps_si256(x)
#define FLOATS(x) _mm256_castsi256_ps(x)
#define AND _mm256_and_si256
#define OR _mm256_or_si256
enum { DIGIT = 3, DEGREE = 5 };
#endif

enum { WIDTH = sizeof(floats) / 4 };

// Lanes in the range of the tables keep y, and the others become 0. The result marks the lanes that must not be 0.
INLINE unsigned outside(integers bits, floats* y, const power_tables* t) {
  integers above = VECTOR(sub_epi32)(bits, VECTOR(set1_epi32)((int)t->first)), range = VECTOR(set1_epi32)((int)t->range);
#if defined(__AVX512F__)
  __mmask16 out = _mm512_cmp_epu32_mask(above, range, _MM_CMPINT_NLE);
  *y = _mm512_maskz_mov_ps((__mmask16)~out, *y);
  return _mm512_mask_test_epi32_mask(out, bits, bits);
#else
  __m256i inside = _mm256_cmpeq_epi32(_mm256_min_epu32(above, range), above), zero = _mm256_cmpeq_epi32(bits, _mm256_setzero_si256());
  *y = _mm256_and_ps(FLOATS(inside), *y);
  return 0xff & ~(unsigned)_mm256_movemask_ps(FLOATS(_mm256_or_si256(inside, zero)));
#endif
}

INLINE floats power_floats(floats v, const power_tables* t, double exponent) {
  floats one = VECTOR(set1_ps)(1.0f);
  integers bits = BITS(v), digits = VECTOR(srli_epi32)(bits, 23 - DIGIT);
  floats m = FLOATS(OR(AND(bits, VECTOR(set1_epi32)(0x007fffff)), BITS(one)));  // in [1, 2)
  floats c = LOOK_UP(VECTOR(loadu_ps)(t->middle), digits);
  floats r = VECTOR(fmsub_ps)(m, LOOK_UP(VECTOR(loadu_ps)(t->reciprocal), digits), one);
  floats sum = VECTOR(set1_ps)(t->series[DEGREE]);
  for (int k = DEGREE - 1; k > 0; --k) sum = VECTOR(fmadd_ps)(sum, r, VECTOR(set1_ps)(t->series[k]));
  floats y = VECTOR(fmadd_ps)(VECTOR(mul_ps)(c, r), sum, c);
  floats small = LOOK_UP(VECTOR(loadu_ps)(t->small), VECTOR(srli_epi32)(bits, 23));
  floats large = LOOK_UP(VECTOR(loadu_ps)(t->large), VECTOR(srli_epi32)(bits, 23 + DIGIT));
  y = VECTOR(mul_ps)(y, VECTOR(mul_ps)(small, large));
  if (DIGIT == 3) y = VECTOR(mul_ps)(y, LOOK_UP(VECTOR(loadu_ps)(t->largest), VECTOR(srli_epi32)(bits, 29)));
  unsigned rest = outside(bits, &y, t);
  if (__builtin_expect(rest, 0)) {
    float from[WIDTH], to[WIDTH];
    VECTOR(storeu_ps)(from, v);
    VECTOR(storeu_ps)(to, y);
    for (int lane = 0; lane < WIDTH; ++lane)
      if (rest >> lane & 1) to[lane] = (float)pow(from[lane], exponent);
    y = VECTOR(loadu_ps)(to);
  }
  return y;
}

#if !defined(__AVX512F__)  // which has no array of powers: see arithmetic_avx512.h
INLINE void powers_of_floats(const float* x, float eps, float* power, const settings* s) {
  floats size = FLOATS(AND(BITS(VECTOR(loadu_ps)(x)), VECTOR(set1_epi32)(0x7fffffff)));
  VECTOR(storeu_ps)(power, power_floats(VECTOR(add_ps)(size, VECTOR(set1_ps)(eps)), &s->tables, s->exponent));
}

// power[i] = (|x[i]| + eps)^a
static void powers_float(const float* x, float eps, float* power, int count, const settings* s) {
  int whole = count / WIDTH * WIDTH;
  for (int i = 0; i < whole; i += WIDTH) powers_of_floats(x + i, eps, power + i, s);
  if (whole < count) {
    float last[WIDTH] = {0};
    memcpy(last, x + whole, (size_t)(count - whole) * sizeof *x);
    powers_of_floats(last, eps, last, s);
    memcpy(power + whole, last, (size_t)(count - whole) * sizeof *x);
  }
}
#endif

#else
// 2^(a log2 x) by polynomials. log2 x = e + log2 m with m in [sqrt 1/2, sqrt 2), and high e is exact, so a e loses no digit.
#include <float.h>

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
  int32_t shift = (int32_t)n, quarter = shift >> 2;  // in four steps, since the result may leave the range
  float step = float_of((uint32_t)(quarter + 127) << 23);
  y = y * step * step * step * float_of((uint32_t)(shift - 3 * quarter + 127) << 23);
  y = x == INFINITY ? (a > 0 ? INFINITY : 0.0f) : y;
  y = x == 0.0f ? 0.0f : y;
  return x != x ? x : y;
}

static void powers_float(const float* x, float eps, float* power, int count, const settings* s) {
  for (int i = 0; i < count; ++i) power[i] = power_float(fabsf(x[i]) + eps, s);
}
#endif

#if defined(__AVX2__)
typedef double doubles __attribute__((vector_size(sizeof(lanes))));

INLINE doubles polynomial(doubles x, const double* coefficients, int degree) {
  doubles sum = x * coefficients[degree] + coefficients[degree - 1];
  for (int k = degree - 2; k >= 0; --k) sum = sum * x + coefficients[k];
  return sum;
}

// 2^(a log2 x) by polynomials fitted to rounding. log2 x = e + log2 m with m in [sqrt 1/2, sqrt 2), and high e is exact.
INLINE doubles power_doubles(doubles x, const settings* s) {
  static const double log2_m[8] = {0x1.71547652b82fep+1, 0x1.ec709dc3a047dp-1, 0x1.2776c50ee39a4p-1, 0x1.a61762d699b46p-2,
                                   0x1.484afb77d8797p-2, 0x1.0ca160eda205bp-2, 0x1.c46df723fd2ebp-3, 0x1.b594042f590e9p-3};
  static const double exp2_r[12] = {0x1p+0,                0x1.62e42fefa39efp-1,  0x1.ebfbdff82c5afp-3,  0x1.c6b08d704a0c6p-5,
                                    0x1.3b2ab6fb9f026p-7,  0x1.5d87fe78a3ef9p-10, 0x1.4309131178d73p-13, 0x1.ffcbfc6de821dp-17,
                                    0x1.62bfc20435122p-20, 0x1.b524eb29e2f30p-24, 0x1.e623e6f24eb1cp-28, 0x1.e9ed48b35dbf1p-32};
  const uint64_t one = 0x3ff0000000000000, root = 0x3fe6a09e667f3bcd, large = 0x4330000000000000;  // 1, sqrt 1/2 and 2^52
  const double nearest = 0x1.8p52;  // a sum with it is rounded to an integer, which its low bits hold
  lanes bits = (lanes)x, biased = (bits - root + one) >> 52;  // e + 1023
  doubles e = (doubles)(biased | large) - (0x1p52 + 1023), m = (doubles)(bits - (biased << 52) + one), z = (m - 1) / (m + 1);
  doubles log2m = z * polynomial(z * z, log2_m, 7), whole = s->high * e, part = s->exponent * log2m + s->low * e;
  doubles sum = whole + part + nearest, r = (whole - (sum - nearest)) + part;
  return polynomial(r, exp2_r, 11) * (doubles)(((lanes)sum << 52) + one);
}

#if defined(__AVX512F__)
#define ANY(mask) (_mm512_test_epi64_mask((__m512i)(mask), (__m512i)(mask)) != 0)
#else
#define ANY(mask) (!_mm256_testz_si256((__m256i)(mask), (__m256i)(mask)))
#endif

// (|x| + eps)^a. The few numbers whose power may leave the range, or is not precise, go to pow.
INLINE void powers_of_lanes(const double* x, double eps, double* power, const settings* s) {
  doubles size;
  memcpy(&size, x, sizeof size);
  size = (doubles)((lanes)size & INT64_MAX) + eps;
  lanes outside = (lanes)((lanes)size - s->first > s->range), rest = outside & (lanes)size;
  doubles y = (doubles)((lanes)power_doubles(size, s) & ~outside);
  memcpy(power, &y, sizeof y);
  if (__builtin_expect(ANY(rest), 0))
    for (int lane = 0; lane < LANES; ++lane)
      if (rest[lane]) power[lane] = pow(size[lane], s->exponent);
}

static void powers_double(const double* x, double eps, double* power, int count, const settings* s) {
  int whole = count / LANES * LANES;
  for (int i = 0; i < whole; i += LANES) powers_of_lanes(x + i, eps, power + i, s);
  if (whole < count) {
    double last[LANES] = {0};
    memcpy(last, x + whole, (size_t)(count - whole) * sizeof *x);
    powers_of_lanes(last, eps, last, s);
    memcpy(power + whole, last, (size_t)(count - whole) * sizeof *x);
  }
}
#else
static void powers_double(const double* x, double eps, double* power, int count, const settings* s) {
  for (int i = 0; i < count; ++i) {
    double size = fabs(x[i]) + eps;
    power[i] = size == 0 ? 0 : pow(size, s->exponent);
  }
}
#endif
