// A linear layer that reads only the weights of non-zero inputs: y += x_j Wt[j, :] for each x_j that is not zero.
// The build compiles this file once for each instruction set, under the name COLUMNS_FUNCTION.
#include "skip_zeros.h"

#include <string.h>

#if defined(__GNUC__)
#define FETCH(address) __builtin_prefetch((const void*)(address), 0, 2)
#else
#define FETCH(address) (void)(address)
#endif

enum { LINE = 64 };   // bytes of a cache line
enum { GROUP = 8 };   // weight rows added at once: y is loaded and stored once for all of them
enum { STRIP = 64 };  // columns of a group added before the same columns of the next group are fetched

static inline float same(float weight) { return weight; }

static inline float widened(uint16_t bfloat16) {
  uint32_t bits = (uint32_t)bfloat16 << 16;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// y += sum over the entries n of x[n] Wt[index[n], :], over `count` columns. y, weight: at the first of these columns.
#define ADD_ENTRIES(type, value)                                                                                    \
  static void add_entries_##type(float* restrict y, const type* weight, int64_t stride, const int32_t* index,       \
                                 const float* x, int64_t entries, int64_t count) {                                  \
    const type *w[GROUP], *next[GROUP];                                                                             \
    for (; entries >= GROUP; entries -= GROUP, index += GROUP, x += GROUP) {                                        \
      for (int k = 0; k < GROUP; ++k) {                                                                             \
        w[k] = weight + index[k] * stride;                                                                          \
        next[k] = weight + index[GROUP + k < entries ? GROUP + k : k] * stride;                                     \
      }                                                                                                             \
      for (int64_t first = 0; first < count; first += STRIP) {                                                      \
        int64_t last = first + STRIP < count ? first + STRIP : count;                                               \
        for (int k = 0; k < GROUP; ++k)                                                                             \
          for (size_t ahead = 0; ahead < STRIP * sizeof(type); ahead += LINE) FETCH((uintptr_t)(next[k] + first) + ahead); \
        for (int64_t i = first; i < last; ++i) {                                                                    \
          float sum = y[i] + x[0] * value(w[0][i]);                                                                 \
          sum += x[1] * value(w[1][i]), sum += x[2] * value(w[2][i]), sum += x[3] * value(w[3][i]);                 \
          sum += x[4] * value(w[4][i]), sum += x[5] * value(w[5][i]), sum += x[6] * value(w[6][i]);                 \
          y[i] = sum + x[7] * value(w[7][i]);                                                                       \
        }                                                                                                           \
      }                                                                                                             \
    }                                                                                                               \
    for (; entries >= 2; entries -= 2, index += 2, x += 2) {                                                        \
      w[0] = weight + index[0] * stride, w[1] = weight + index[1] * stride;                                         \
      for (int64_t i = 0; i < count; ++i) y[i] += x[0] * value(w[0][i]) + x[1] * value(w[1][i]);                    \
    }                                                                                                               \
    if (!entries) return;                                                                                           \
    w[0] = weight + index[0] * stride;                                                                              \
    for (int64_t i = 0; i < count; ++i) y[i] += x[0] * value(w[0][i]);                                              \
  }

ADD_ENTRIES(float, same)
ADD_ENTRIES(uint16_t, widened)

static void add_parts(const product* p, int64_t row, int64_t first, int64_t last, int64_t begin, int64_t count) {
  int64_t start = p->starts[row * p->parts + first], entries = p->starts[row * p->parts + last] - start;
  const int32_t* index = p->index + start;
  const float* x = p->value + start;
  float* y = p->output + row * p->columns + begin;
  if (p->is_bfloat16)
    add_entries_uint16_t(y, (const uint16_t*)p->weight + begin, p->columns, index, x, entries, count);
  else
    add_entries_float(y, (const float*)p->weight + begin, p->columns, index, x, entries, count);
}

void COLUMNS_FUNCTION(const product* p, int64_t begin, int64_t end) {
  // A single row uses each weight once: long stretches of memory are then faster than a part that fits the cache.
  int64_t tile = p->rows > 1 ? TILE : LONG_TILE, step = p->rows > 1 ? 1 : p->parts;
  for (int64_t column = begin; column < end; column += tile) {
    int64_t count = column + tile < end ? tile : end - column;
    for (int64_t row = 0; row < p->rows; ++row) {
      float* y = p->output + row * p->columns + column;
      if (p->bias)
        memcpy(y, p->bias + column, (size_t)count * sizeof *y);
      else
        memset(y, 0, (size_t)count * sizeof *y);
    }
    for (int64_t part = 0; part < p->parts; part += step)
      for (int64_t row = 0; row < p->rows; ++row) add_parts(p, row, part, part + step, column, count);
  }
}
