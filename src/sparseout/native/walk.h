// Visits the elements in a cache-friendly order: by chunks if all tensors are contiguous, else by tiles. The rows of a tile lie
// along the innermost dimension of the index, so words come in runs, and their number makes full use of each cache line.
// If the columns of a tile are dense in memory instead, columns.h visits it.

static const int64_t BYTES[] = {4, 8, 2, 2};

INLINE const void* at(const void* tensor, int64_t element, int dtype) {
  return tensor ? (const char*)tensor + element * BYTES[dtype] : 0;
}

static void chunks(int dtype, const void* g, const void* x, void* y, const uint32_t* words, int count, const settings* s) {
  for (int i = 0; i < count; i += CHUNK)
    chunk(dtype, at(g, i, dtype), at(x, i, dtype), (void*)at(y, i, dtype), words + i, count - i < CHUNK ? count - i : CHUNK, s);
}

#include "columns.h"

static void walk_contiguous(const tensors* t, int64_t begin, int64_t end, const settings* s) {
  uint32_t words[CHUNK + BLOCK * AT_ONCE] ALIGNED;
  if (s->all_dropped) memset(words, 0, sizeof words);
  for (int64_t i = begin; i < end; i += CHUNK) {
    int count = end - i < CHUNK ? (int)(end - i) : CHUNK;
    if (!s->all_dropped) random_blocks((uint64_t)i / BLOCK, (count + BLOCK - 1) / BLOCK, s, words);
    chunk(t->dtype, at(t->grad, i, t->dtype), at(t->input, i, t->dtype), (void*)at(t->output, i, t->dtype), words, count, s);
  }
}

// The word of one element. Most calls need a word of the blocks that the previous call made.
typedef struct {
  uint64_t first, count;
  uint32_t words[BLOCK * AT_ONCE];
} recent_blocks;

INLINE uint32_t word_of(uint64_t index, recent_blocks* recent, const settings* s) {
  uint64_t block = index / BLOCK;
  if (block - recent->first >= recent->count) {
    recent->first = block / AT_ONCE * AT_ONCE, recent->count = AT_ONCE;
    random_blocks(recent->first, AT_ONCE, s, recent->words);
  }
  return recent->words[index - recent->first * BLOCK];
}

// The words index to index + count - 1.
INLINE void run_of_words(uint64_t index, int count, const settings* s, uint32_t* out) {
  uint32_t blocks[TILE + BLOCK * 2 * AT_ONCE] ALIGNED;
  uint64_t first = index / BLOCK / AT_ONCE * AT_ONCE, last = (index + (uint64_t)count - 1) / BLOCK;
  random_blocks(first, (int)(last - first) + 1, s, blocks);
  memcpy(out, blocks + (index - first * BLOCK), (size_t)count * 4);
}

static void tile_words(uint64_t index, int64_t row, int64_t column, int rows, int columns, recent_blocks* recent, const settings* s,
                       uint32_t* out) {
  if (s->all_dropped)
    memset(out, 0, TILE * sizeof *out);
  else if (column == 1 && (row == columns || rows == 1))
    run_of_words(index, rows * columns, s, out);
  else
    for (int r = 0; r < rows; ++r) {
      uint64_t start = index + (uint64_t)(r * row);
      if (column == 1) {
        run_of_words(start, columns, s, out + r * columns);
      } else {
        uint32_t word = word_of(start, recent, s);
        for (int c = 0; c < columns; ++c) out[r * columns + c] = word;
      }
    }
}

#define COPIES(T)                                                                                                     \
  static void gather_##T(const T* from, int64_t row, int64_t column, int rows, int columns, T* to) {                  \
    for (int r = 0; r < rows; ++r)                                                                                    \
      for (int c = 0; c < columns; ++c) to[r * columns + c] = from[r * row + c * column];                             \
  }                                                                                                                   \
  static void scatter_##T(const T* from, int64_t row, int64_t column, int rows, int columns, T* to) {                 \
    for (int r = 0; r < rows; ++r)                                                                                    \
      for (int c = 0; c < columns; ++c) to[r * row + c * column] = from[r * columns + c];                             \
  }                                                                                                                   \
  static void tile_##T(int dtype, const T* g, const T* x, T* y, const dimension* u, const dimension* v, int rows,     \
                       int columns, const uint32_t* words, const settings* s) {                                       \
    T tile_g[TILE] ALIGNED, tile_x[TILE] ALIGNED, tile_y[TILE] ALIGNED;                                               \
    if (g) gather_##T(g, u->grad, v->grad, rows, columns, tile_g);                                                    \
    if (x) gather_##T(x, u->input, v->input, rows, columns, tile_x);                                                  \
    chunks(dtype, g ? tile_g : 0, x ? tile_x : 0, tile_y, words, rows* columns, s);                                   \
    scatter_##T(tile_y, u->output, v->output, rows, columns, y);                                                      \
  }
COPIES(uint16_t)
COPIES(uint32_t)
COPIES(uint64_t)

static void walk_tiles(const tensors* t, int64_t begin, int64_t end, const settings* s) {
  uint32_t words[TILE] ALIGNED;
  recent_blocks recent = {.count = 0};
  settings of_bits = *s;
  of_bits.threshold = 1u << 31;
  const dimension *u = &t->dims[t->ndim - 2], *v = &t->dims[t->ndim - 1];
  int64_t across = (v->size + t->columns - 1) / t->columns, down = (u->size + t->rows - 1) / t->rows;
  int runs = (!t->grad || v->grad == 1) && (!t->input || v->input == 1) && v->output == 1 && t->columns >= 2 * BLOCK;
  for (int64_t tile = begin; tile < end; ++tile) {
    int64_t outer = tile / across / down, r0 = tile / across % down * t->rows, c0 = tile % across * t->columns;
    int64_t g = r0 * u->grad + c0 * v->grad, x = r0 * u->input + c0 * v->input, y = r0 * u->output + c0 * v->output;
    int64_t index = r0 * u->index + c0 * v->index;
    for (const dimension* d = u - 1; d >= t->dims; --d) {
      int64_t coordinate = outer % d->size;
      outer /= d->size;
      g += coordinate * d->grad, x += coordinate * d->input, y += coordinate * d->output, index += coordinate * d->index;
    }
    int rows = (int)(u->size - r0 < t->rows ? u->size - r0 : t->rows);
    int columns = (int)(v->size - c0 < t->columns ? v->size - c0 : t->columns);
    const void *from_g = at(t->grad, g, t->dtype), *from_x = at(t->input, x, t->dtype);
    void* to = (void*)at(t->output, y, t->dtype);
    if (t->dense_columns) {
      dense_columns(t->dtype, from_g, from_x, to, u, v, rows, columns, (uint64_t)index, s, &of_bits);
      continue;
    }
    tile_words((uint64_t)index, u->index, v->index, rows, columns, &recent, s, words);
    if (runs)
      for (int r = 0; r < rows; ++r)
        chunks(t->dtype, at(from_g, r * u->grad, t->dtype), at(from_x, r * u->input, t->dtype),
               (void*)at(to, r * u->output, t->dtype), words + r * columns, columns, s);
    else if (BYTES[t->dtype] == 2)
      tile_uint16_t(t->dtype, from_g, from_x, to, u, v, rows, columns, words, s);
    else if (BYTES[t->dtype] == 4)
      tile_uint32_t(t->dtype, from_g, from_x, to, u, v, rows, columns, words, s);
    else
      tile_uint64_t(t->dtype, from_g, from_x, to, u, v, rows, columns, words, s);
  }
}
