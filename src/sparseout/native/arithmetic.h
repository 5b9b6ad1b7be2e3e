// The op on one chunk in the type T. Included once per type, with the names of the type in NAME, SQRT, ABS, COPYSIGN, LARGEST.
// VECTORS is a function for all exponents, if there is one.

#define EACH _Pragma("GCC ivdep") for (int i = 0; i < count; ++i)

// x^(k / 4) by square roots and products
INLINE T NAME(power_by)(int k, T x) {
  int size = k < 0 ? -k : k;
  T root = SQRT(x), result = size & 2 ? root : 1;
  if (size & 1) result *= SQRT(root);
  for (int i = 0; i < size / 4; ++i) result *= x;
  return k < 0 ? 1 / result : result;
}

// y = x m / (1 - p); the gradient has the same form
static void NAME(product)(const T* x, T* y, const uint32_t* words, int count, const settings* s) {
  T scale = (T)s->scale;
  EACH y[i] = x[i] * (words[i] >= s->threshold ? scale : (T)0);
}

// y = x + sign(x) |x|^(q/2) (c n)
INLINE void NAME(forward)(const T* x, const T* powers, T* y, const uint32_t* words, int count, const settings* s, int k) {
  T up = (T)s->up, down = (T)s->down;
  EACH {
    T power = k == GENERAL ? powers[i] : NAME(power_by)(k, ABS(x[i]));
    if (k == 0) power = x[i] == 0 ? (T)0 : power;
    y[i] = x[i] + COPYSIGN(power, x[i]) * (words[i] >= s->threshold ? up : down);
  }
}

// dL/dx = dL/dy (1 + c (|x| + eps)^((q-2)/2) n), the factor kept finite: 0 * inf would be NaN
INLINE void NAME(backward)(const T* g, const T* x, const T* powers, T* out, const uint32_t* words, int count, const settings* s,
                           int k) {
  T up = (T)s->up, eps = (T)s->eps, coefficient = (T)s->coefficient;
  EACH {
    T power = k == GENERAL ? powers[i] : NAME(power_by)(k, ABS(x[i]) + eps);
    T factor = 1 + coefficient * power * (words[i] >= s->threshold ? up : (T)-1);
    factor = factor > LARGEST ? LARGEST : factor;
    factor = factor < -LARGEST ? -LARGEST : factor;
    out[i] = g[i] * factor;
  }
}

// Each exponent has its own loops, in which it is a compile-time constant.
#ifdef VECTORS
#define CASE(K)                                       \
  case K:                                             \
    if (g)                                            \
      VECTORS(g, x, y, words, count, s, 1, K);        \
    else                                              \
      VECTORS(x, x, y, words, count, s, 0, K);        \
    break;
#else
#define CASE(K)                                             \
  case K:                                                   \
    if (g)                                                  \
      NAME(backward)(g, x, powers, y, words, count, s, K);  \
    else                                                    \
      NAME(forward)(x, powers, y, words, count, s, K);      \
    break;
#endif

static void NAME(chunk)(const T* g, const T* x, T* y, const uint32_t* words, int count, const settings* s) {
  if (s->multiplicative) {
    NAME(product)(g ? g : x, y, words, count, s);
    return;
  }
#ifndef VECTORS
  T powers[CHUNK] ALIGNED;
  if (s->path == GENERAL) NAME(powers)(x, g ? (T)s->eps : 0, powers, count, s);
#endif
  switch (s->path) {
    CASE(-4) CASE(-3) CASE(-2) CASE(-1) CASE(0) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
    CASE(GENERAL)
  }
}
#undef CASE
#undef EACH
#undef T
#undef NAME
#undef SQRT
#undef ABS
#undef COPYSIGN
#undef LARGEST
#undef VECTORS
