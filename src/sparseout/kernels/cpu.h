// What the dispatcher tells the kernel about one call.
#include <stdint.h>

enum { FLOAT32, FLOAT64, BFLOAT16, FLOAT16 };

typedef struct {
  uint32_t key[7][2];  // Philox's key in each round
  uint32_t threshold;  // dropped where a word is below
  int all_dropped;     // the threshold is 2^32
  int product;         // y = x * noise
  int path;            // k where the exponent is k / 4, else GENERAL
  double scale;        // 1 / (1 - p)
  double up;           // p / (1 - p)
  double exponent, high, low;  // q / 2 or (q - 2) / 2; as a sum whose first part has few bits
  double eps, coefficient;
} settings;

enum { GENERAL = 100 };

// Elements begin to end; grad is null in the forward pass, and input may be where the product needs it not.
typedef void range_function(int dtype, const void* grad, const void* input, void* output, int64_t begin, int64_t end,
                            const settings* s);
