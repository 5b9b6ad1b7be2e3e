// The description of one call, which the dispatcher passes to the kernel.
#include <stdint.h>

enum { FLOAT32, FLOAT64, BFLOAT16, FLOAT16 };
enum { GENERAL = 100, MAX_DIMS = 64 };
enum { CHUNK = 256, TILE = 1024, WORDS = 16384 };  // elements per batch of words and powers, per tile, per tile of dense columns

// The tables of power.h for x^a. AVX-512 looks up one of 16 entries, and AVX2 one of 8, which are written twice.
typedef struct {
  float reciprocal[16];       // 1 / c for the centre c of each part of [1, 2)
  float middle[16];           // c^a
  float small[16], large[16], largest[16];  // 2^(a e) for the digits of e: three of 3 bits for 8 entries, two of 4 bits for 16
  float series[6];            // coefficients of (1 + r)^a in powers of r
  uint32_t first, range;      // the bits of x for which no product leaves the range of float: first to first + range
} power_tables;

// What depends on p, q and the gradient is prepared once; each call adds the key, the noise and what depends on its scale to a copy.
typedef struct {
  int dtype, instruction_set;
  uint32_t key[7][2];  // Philox's key in each round
  uint32_t threshold;  // an element is dropped if its word is below this
  int all_dropped;     // the threshold is 2^32
  int multiplicative;  // y = x * noise
  int path;            // k if the exponent is k / 4, else GENERAL
  double scale;        // 1 / (1 - p)
  double ratio;        // p / (1 - p)
  double q, factor;    // the coefficient is factor scale^(1 - q/2)
  double up, down;     // p / (1 - p) and -1, in the forward pass times the coefficient
  double exponent, high, low;  // q / 2 or (q - 2) / 2, also as the sum high + low, with few bits in high
  double eps, coefficient;
  uint64_t first, range;  // the bits of a double x whose power is computed by polynomials: first to first + range
  power_tables tables;
} settings;

// One dimension: its size, and its strides in each tensor and in the index of the mask, in elements.
typedef struct {
  int64_t size, grad, input, output, index;
} dimension;

// grad is null in the forward pass. input may be null if y = x * noise.
typedef struct {
  int dtype;
  const void *grad, *input;
  void* output;
  int64_t count;             // number of elements
  int ndim;                  // 0 if all tensors are contiguous and the index counts the elements, else at least 2
  dimension dims[MAX_DIMS];  // rows and columns of a tile lie along the last two; the last one is innermost in the index
  int64_t rows, columns;     // of one tile
  int dense_columns;         // a column of a tile is dense in all tensors, as channels_last ones are
} tensors;

// Items begin to end: elements of contiguous tensors (begin is a multiple of CHUNK), else tiles.
typedef void range_function(const tensors* t, int64_t begin, int64_t end, const settings* s);
