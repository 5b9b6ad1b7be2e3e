// What the dispatcher tells the kernel about one call.
#include <stdint.h>

enum { FLOAT32, FLOAT64, BFLOAT16, FLOAT16 };
enum { GENERAL = 100, MAX_DIMS = 64 };
enum { CHUNK = 256, TILE = 1024 };  // elements whose words and powers are made together; of which strided tensors are copied together

// What power.h looks up for x^a, each table of 8 entries written twice.
typedef struct {
  float reciprocal[16];       // 1 / c, for c in the middle of each eighth of [1, 2)
  float middle[16];           // c^a
  float small[16], large[16], largest[16];  // 2^(a e), for three digits of e
  float series[6];            // of (1 + r)^a in r
  uint32_t first, range;      // x lies where no product leaves the range of float: the first one's bits, how far its bits may lie above
} power_tables;

typedef struct {
  uint32_t key[7][2];  // Philox's key in each round
  uint32_t threshold;  // dropped where a word is below
  int all_dropped;     // the threshold is 2^32
  int product;         // y = x * noise
  int path;            // k where the exponent is k / 4, else GENERAL
  double scale;        // 1 / (1 - p)
  double up, down;     // p / (1 - p) and -1; times the coefficient in the forward pass
  double exponent, high, low;  // q / 2 or (q - 2) / 2; as a sum whose first part has few bits
  double eps, coefficient;
  power_tables tables;
} settings;

// One dimension: its size, and how far a step along it goes, in elements of each tensor and in the mask's index.
typedef struct {
  int64_t size, grad, input, output, index;
} dimension;

// grad is null in the forward pass, and input may be where the product needs it not.
typedef struct {
  int dtype;
  const void *grad, *input;
  void* output;
  int64_t count;             // elements
  int ndim;                  // 0: all are contiguous, and the index counts the elements; else at least 2
  dimension dims[MAX_DIMS];  // a tile's rows and columns are along the last two; the last one is innermost in the index
  int64_t rows, columns;     // of a tile
} tensors;

// Items begin to end: elements of contiguous tensors (begin is a multiple of the chunk), else tiles.
typedef void range_function(const tensors* t, int64_t begin, int64_t end, const settings* s);
