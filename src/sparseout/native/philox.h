// Philox-4x32 with 7 rounds: a block of words for 32 elements comes from 8 counters, in the low halves of 64-bit lanes.
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
typedef uint64_t lanes __attribute__((vector_size(64)));
INLINE lanes multiply(lanes a, uint32_t b) { return (lanes)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b)); }
#elif defined(__AVX2__)
#include <immintrin.h>
typedef uint64_t lanes __attribute__((vector_size(32)));
INLINE lanes multiply(lanes a, uint32_t b) { return (lanes)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b)); }
#elif defined(__SSE2__)
#include <emmintrin.h>
typedef uint64_t lanes __attribute__((vector_size(16)));
INLINE lanes multiply(lanes a, uint32_t b) { return (lanes)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b)); }
#else
typedef uint64_t lanes __attribute__((vector_size(16)));
INLINE lanes multiply(lanes a, uint32_t b) { return (a & 0xffffffffu) * (uint64_t)b; }
#endif

// Vectors come in pairs, one of the even and one of the odd counters among 2 LANES. They merge into words in order.
enum { LANES = sizeof(lanes) / 8, PAIRS = LANES < 8 ? 4 / LANES : 1, AT_ONCE = 2 * LANES * PAIRS / 8 };

typedef struct {
  lanes of[7][2], even;  // the key of each round, and 0, 2, 4, ...
} broadcast_keys;

INLINE broadcast_keys broadcast(const settings* s) {
  broadcast_keys keys;
  for (int l = 0; l < LANES; ++l) keys.even[l] = (uint64_t)(2 * l);
  for (int round = 0; round < 7; ++round)
    for (int half = 0; half < 2; ++half) keys.of[round][half] = (lanes){0} + (uint64_t)s->key[round][half];
  return keys;
}

// Blocks first to first + AT_ONCE - 1, of 32 words each; first is a multiple of AT_ONCE. Vector `word` of a pair has the words
// 8 word + 2 LANES pair and following of each block. The upper half of the counter is 0, and the upper word of its lower half is the
// same in all lanes, so the first two rounds need half as many multiplications.
INLINE void some_blocks(uint64_t first, const broadcast_keys* keys, const settings* s, lanes out[PAIRS][4]) {
  uint32_t high = (uint32_t)(8 * first >> 32) ^ s->key[0][0];
  lanes same = (lanes){0} + (uint64_t)high * 0xD2511F53u;
  for (int pair = 0; pair < PAIRS; ++pair) {
    lanes c[2][4];
    for (int odd = 0; odd < 2; ++odd) {
      lanes index = keys->even + (8 * first + (uint64_t)(2 * LANES * pair + odd));
      lanes product0 = multiply(index, 0xD2511F53u), product1 = multiply((product0 >> 32) ^ keys->of[0][1], 0xCD9E8D57u);
      c[odd][0] = (product1 >> 32) ^ keys->of[1][0], c[odd][1] = product1;
      c[odd][2] = (same >> 32) ^ product0 ^ keys->of[1][1], c[odd][3] = same;
    }
    for (int round = 2; round < 7; ++round)
      for (int odd = 0; odd < 2; ++odd) {
        lanes product0 = multiply(c[odd][0], 0xD2511F53u), product1 = multiply(c[odd][2], 0xCD9E8D57u);
        c[odd][0] = (product1 >> 32) ^ c[odd][1] ^ keys->of[round][0];
        c[odd][2] = (product0 >> 32) ^ c[odd][3] ^ keys->of[round][1];
        c[odd][1] = product1, c[odd][3] = product0;
      }
    for (int word = 0; word < 4; ++word) out[pair][word] = (c[0][word] & 0xffffffffu) | (c[1][word] << 32);
  }
}

// The words of elements 32 first to 32 (first + count) - 1; first is a multiple of AT_ONCE. out must have room for AT_ONCE - 1
// further blocks.
static void random_blocks(uint64_t first, int count, const settings* s, uint32_t* out) {
  broadcast_keys keys = broadcast(s);
  for (int block = 0; block < count; block += AT_ONCE) {
    lanes words[PAIRS][4];
    some_blocks(first + (uint64_t)block, &keys, s, words);
    for (int pair = 0; pair < PAIRS; ++pair)
      for (int word = 0; word < 4; ++word)
        for (int part = 0; part < AT_ONCE; ++part)
          memcpy(out + 32 * (block + part) + 8 * word + 2 * LANES * pair, (char*)&words[pair][word] + 32 * part,
                 sizeof(lanes) / AT_ONCE);
  }
}

// Whether each word is at least the threshold: one bit each.
INLINE uint32_t at_least(lanes words, uint32_t threshold) {
#if defined(__AVX512F__)
  return _mm512_cmpge_epu32_mask((__m512i)words, _mm512_set1_epi32((int)threshold));
#elif defined(__AVX2__)
  __m256i larger = _mm256_max_epu32((__m256i)words, _mm256_set1_epi32((int)threshold));
  return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(larger, (__m256i)words)));
#else
  uint32_t each[2 * LANES], bits = 0;
  memcpy(each, &words, sizeof each);
  for (int i = 0; i < 2 * LANES; ++i) bits |= (uint32_t)(each[i] >= threshold) << i;
  return bits;
#endif
}

// Whether each word of `random_blocks` is at least the threshold: 32 bits for each block.
static void random_bits(uint64_t first, int count, const settings* s, uint32_t* out) {
  enum { OF_PART = 2 * LANES / AT_ONCE };
  broadcast_keys keys = broadcast(s);
  for (int block = 0; block < count; block += AT_ONCE) {
    lanes words[PAIRS][4];
    uint32_t bits[AT_ONCE] = {0};
    some_blocks(first + (uint64_t)block, &keys, s, words);
    for (int pair = 0; pair < PAIRS; ++pair)
      for (int word = 0; word < 4; ++word) {
        uint32_t some = at_least(words[pair][word], s->threshold);
        for (int part = 0; part < AT_ONCE; ++part)
          bits[part] |= (some >> OF_PART * part & ((1u << OF_PART) - 1)) << (8 * word + 2 * LANES * pair);
      }
    memcpy(out + block, bits, sizeof bits);
  }
}
