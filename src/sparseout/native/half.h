// Conversions between bfloat16 or float16 and float, rounding to the nearest even.
#include <stdint.h>
#include <string.h>

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
