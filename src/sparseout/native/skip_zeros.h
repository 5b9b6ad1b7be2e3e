// One product y = x Wt + b without its zero inputs, as the dispatcher passes it to the code of an instruction set.
#include <stdint.h>

enum { PART = 512, TILE = 1024 };  // rows and columns of a piece of the weight: the rows in use stay in the cache for all rows of x
enum { LONG_TILE = 4096 };         // columns of y that stay in the fastest cache

// The non-zero entries of x, row after row, each row in ascending order of the index.
typedef struct {
  const int32_t* index;   // of the input
  const float* value;     // of the input
  const int64_t* starts;  // first entry of each part of each row, then the number of entries
  const void* weight;     // transposed: (in, out)
  const float* bias;      // null if there is none
  float* output;          // (rows, out)
  int64_t rows, parts, columns;
  int is_bfloat16;
} product;

// Computes the output columns from begin to end.
typedef void columns_function(const product* p, int64_t begin, int64_t end);
