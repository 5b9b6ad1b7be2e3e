// The op on one chunk of floats by vectors: each power is computed where it is used.

// x^(-1/2) and x^(1/2): an estimate of 14 bits and one step of Newton's method, which is quicker than the exact instructions.
// The step would make NaN of 0 and infinity, whose estimate is exact.
INLINE floats inverse_root(floats x) {
  floats y = _mm512_rsqrt14_ps(x), error = _mm512_fnmadd_ps(_mm512_mul_ps(x, y), y, _mm512_set1_ps(1.0f));
  __mmask16 finite = _mm512_cmp_ps_mask(error, error, _CMP_ORD_Q);
  return _mm512_mask_fmadd_ps(y, finite, _mm512_mul_ps(error, _mm512_set1_ps(0.5f)), y);
}

INLINE floats root(floats x) {
  floats y = _mm512_rsqrt14_ps(x), z = _mm512_mul_ps(x, y), error = _mm512_fnmadd_ps(z, y, _mm512_set1_ps(1.0f));
  __mmask16 finite = _mm512_cmp_ps_mask(error, error, _CMP_ORD_Q);
  return _mm512_mask_mov_ps(x, finite, _mm512_fmadd_ps(z, _mm512_mul_ps(error, _mm512_set1_ps(0.5f)), z));
}

// x^(k / 4), or x^a if k is GENERAL. The exact root and the quick one run on different units, so a fourth root is one of each.
INLINE floats power_of(floats x, const settings* s, int k) {
  floats one = _mm512_set1_ps(1.0f);
  if (k == GENERAL) return power_floats(x, &s->tables, s->exponent);
  if (k % 4 == 0) return k < 0 ? _mm512_div_ps(one, x) : k == 0 ? one : k == 4 ? x : _mm512_mul_ps(x, x);
  if (k == -2) return inverse_root(x);
  floats half = _mm512_sqrt_ps(x), y = k % 2 == 0 ? half : k < 0 ? inverse_root(half) : root(half);
  if (k == -3) y = _mm512_mul_ps(y, inverse_root(x));
  if (k == 3 || k == 7) y = _mm512_mul_ps(y, half);
  return k > 4 ? _mm512_mul_ps(y, x) : y;
}

// The elements of one vector that are set in `lanes`: backward with the gradient `g`, or forward, which does not read it.
INLINE void one_vector(const float* g, const float* x, float* y, const uint32_t* words, __mmask16 lanes, const settings* s,
                       int backward, int k) {
  floats up = _mm512_set1_ps((float)s->up), down = _mm512_set1_ps(backward ? -1.0f : (float)s->down);
  floats one = _mm512_set1_ps(1.0f), largest = _mm512_set1_ps(FLT_MAX);
  integers threshold = _mm512_set1_epi32((int)s->threshold), sign = _mm512_set1_epi32(INT32_MIN);
  __mmask16 kept = _mm512_cmpge_epu32_mask(_mm512_maskz_loadu_epi32(lanes, words), threshold);
  floats noise = _mm512_mask_blend_ps(kept, down, up);
  floats value = _mm512_maskz_loadu_ps(lanes, x), size = _mm512_abs_ps(value);
  if (backward) {
    floats power = power_of(_mm512_add_ps(size, _mm512_set1_ps((float)s->eps)), s, k);
    floats factor = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_set1_ps((float)s->coefficient), power), noise, one);
    factor = _mm512_max_ps(_mm512_set1_ps(-FLT_MAX), _mm512_min_ps(largest, factor));  // NaN stays: it is the second operand
    value = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, g), factor);
  } else {
    floats power = power_of(size, s, k);
    if (k == 0) power = _mm512_maskz_mov_ps(_mm512_test_epi32_mask(BITS(size), BITS(size)), power);
    floats change = FLOATS(_mm512_ternarylogic_epi32(BITS(power), BITS(value), sign, 0xd8));  // the power with the sign of x
    value = _mm512_fmadd_ps(change, noise, value);
  }
  _mm512_mask_storeu_ps(y, lanes, value);
}

INLINE void vectors(const float* g, const float* x, float* y, const uint32_t* words, int count, const settings* s, int backward,
                    int k) {
  int i = 0;
  for (; i + WIDTH <= count; i += WIDTH) one_vector(g + i, x + i, y + i, words + i, (__mmask16)-1, s, backward, k);
  if (i < count) one_vector(g + i, x + i, y + i, words + i, (__mmask16)((1 << (count - i)) - 1), s, backward, k);
}
