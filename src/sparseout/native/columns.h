// Visits a tile whose columns are dense in memory while its rows have consecutive words, as those of channels_last tensors are. Each
// element needs one bit of its word, whether it is kept. So the bits of the rows are made first, and are read across rows.

enum { ROW_PAD = 2 * AT_ONCE + 2 };  // words of bits of a row beyond those that are full
enum { SPREAD = 2048, PAD = 16 };    // words at once, at least CHUNK, and those that `spread` writes in a step

// Writes the bits of the elements index to index + count - 1, and returns the position of the first one.
INLINE uint32_t run_of_bits(uint64_t index, int count, const settings* s, uint32_t* out) {
  uint64_t first = index / BLOCK / AT_ONCE * AT_ONCE;
  random_bits(first, (int)((index + (uint64_t)count - 1) / BLOCK - first) + 1, s, out);
  return (uint32_t)(index - first * BLOCK);
}

typedef struct {
  uint32_t bits[WORDS / BLOCK + CHUNK * ROW_PAD];
  uint32_t start[CHUNK];  // the position of each row's first bit
} tile_bits;

static void bits_of_tile(uint64_t index, int64_t row, int64_t column, int rows, int columns, const settings* s, tile_bits* tile) {
  int length = columns / BLOCK + ROW_PAD, joined = column == 1 && row == columns && !s->all_dropped;
  uint32_t start = joined ? run_of_bits(index, rows * columns, s, tile->bits) : 0;
  for (int r = 0; r < rows; ++r) {
    uint32_t* bits = tile->bits + r * length;
    uint64_t first = index + (uint64_t)(r * row);
    if (joined) {
      tile->start[r] = start + (uint32_t)(r * columns);
    } else if (column == 1 && !s->all_dropped) {
      tile->start[r] = (uint32_t)(r * length * BLOCK) + run_of_bits(first, columns, s, bits);
    } else {
      uint32_t position = s->all_dropped ? 0 : run_of_bits(first, 1, s, bits);
      int is_kept = !s->all_dropped && bits[position / BLOCK] >> position % BLOCK & 1;
      memset(bits, is_kept ? 0xff : 0, (size_t)length * sizeof *bits);
      tile->start[r] = (uint32_t)(r * length * BLOCK);
    }
  }
}

// Turns the bits first to first + columns - 1 of each row into words, by columns: the highest bit of a word is the element's. A step
// may write beyond its column, into one that is written later or into the PAD.
static void spread(const uint32_t* of_row, int first, int rows, int columns, uint32_t* words) {
  for (int r = (rows - 1) / PAD * PAD; r >= 0; r -= PAD) {
    uint32_t shifts[PAD] ALIGNED;
    for (int i = 0; i < PAD; ++i) shifts[i] = (uint32_t)(31 - first);
    for (int c = 0; c < columns; ++c)
      for (int i = 0; i < PAD; ++i) words[c * rows + r + i] = of_row[r + i] << shifts[i]--;
  }
}

static void dense_columns(int dtype, const void* g, const void* x, void* y, const dimension* u, const dimension* v, int rows,
                          int columns, uint64_t index, const settings* s, const settings* of_bits) {
  uint32_t of_row[CHUNK] ALIGNED, words[SPREAD + PAD] ALIGNED;
  tile_bits tile;
  bits_of_tile(index, u->index, v->index, rows, columns, s, &tile);
  int joined = (!g || v->grad == rows) && (!x || v->input == rows) && v->output == rows;
  int most = SPREAD / rows < BLOCK ? SPREAD / rows : BLOCK;
  for (int c0 = 0; c0 < columns; c0 += BLOCK) {
    for (int r = 0; r < rows; ++r) {
      uint32_t position = tile.start[r] + (uint32_t)c0;
      __asm__("" : "+r"(position));  // no vectors: to gather these bits takes longer
      const uint32_t* bits = tile.bits + position / BLOCK;
      of_row[r] = (uint32_t)((bits[0] | (uint64_t)bits[1] << 32) >> position % BLOCK);
    }
    int end = columns - c0 < BLOCK ? columns - c0 : BLOCK;
    for (int c = 0; c < end; c += most) {
      int some = end - c < most ? end - c : most, at_once = joined ? some : 1;
      spread(of_row, c, rows, some, words);
      for (int i = 0; i < some; i += at_once) {
        int64_t column = c0 + c + i;
        chunks(dtype, at(g, column * v->grad, dtype), at(x, column * v->input, dtype),
               (void*)at(y, column * v->output, dtype), words + i * rows, rows * at_once, of_bits);
      }
    }
  }
}
