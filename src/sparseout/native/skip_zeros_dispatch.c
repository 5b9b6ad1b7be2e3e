// The entry of the linear layer that skips zeros: lists the non-zero inputs and shares the output columns among threads.
#include <math.h>
#include <stdlib.h>

#include "dispatch.h"
#include "skip_zeros.h"

enum { GRAIN = 65536 };  // products below which threads cost more than they save
enum { ALIGNED = 16 };   // columns of a cache line, which no two threads write
enum { ROWS = 64 };      // rows of x whose entries are listed at a time

INSTRUCTION_SETS(columns_function, sparseout_columns)

// Lists the inputs of magnitude above the cutoff, including NaN, and the first entry in each part of a row. Returns their number.
// An entry is written before it is known to count, so there is room for one more than all of them.
static int64_t list_entries(const float* x, int64_t rows, int64_t inputs, float cutoff, int32_t* index, float* value, int64_t* starts) {
  int64_t n = 0;
  for (int64_t row = 0; row < rows; ++row, x += inputs)
    for (int64_t first = 0; first < inputs; first += PART) {
      int64_t last = first + PART < inputs ? first + PART : inputs;
      *starts++ = n;
      for (int64_t j = first; j < last; ++j) {
        index[n] = (int32_t)j;
        value[n] = x[j];
        n += !(fabsf(x[j]) <= cutoff);
      }
    }
  *starts = n;
  return n;
}

static void multiply(const product* p, int64_t used, int threads, int instruction_set) {
  columns_function* run = chosen(instruction_set);
  int64_t shares = used * p->columns / GRAIN + 1, lines = (p->columns + ALIGNED - 1) / ALIGNED;
  if (shares > lines) shares = lines;
  if (threads > shares) threads = (int)shares;
  if (threads < 2 || forked) {
    run(p, 0, p->columns);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int thread = 0; thread < threads; ++thread) {
    int64_t begin = lines * thread / threads * ALIGNED, end = lines * (thread + 1) / threads * ALIGNED;
    run(p, begin, end < p->columns ? end : p->columns);
  }
}

// y = sum over |x_j| > cutoff of x_j Wt[j, :] + b, in float32. bias may be null. Returns 1 if there is no memory for the entries.
EXPORT int sparseout_skip_zeros(const float* input, const void* weight, const float* bias, float* output, int64_t rows, int64_t inputs,
                                int64_t columns, float cutoff, int is_bfloat16, int threads, int instruction_set) {
  int64_t parts = (inputs + PART - 1) / PART, most = rows < ROWS ? rows : ROWS;
  size_t starts_bytes = (size_t)(most * parts + 1) * sizeof(int64_t), entries = (size_t)(most * inputs + 1);
  char* workspace = malloc(starts_bytes + entries * (sizeof(float) + sizeof(int32_t)));
  if (!workspace) return 1;
  int64_t* starts = (int64_t*)workspace;
  float* value = (float*)(workspace + starts_bytes);
  int32_t* index = (int32_t*)(value + entries);
  for (int64_t first = 0; first < rows; first += ROWS) {
    int64_t count = first + ROWS < rows ? ROWS : rows - first;
    int64_t used = list_entries(input + first * inputs, count, inputs, cutoff, index, value, starts);
    product p = {index, value, starts, weight, bias, output + first * columns, count, parts, columns, is_bfloat16};
    multiply(&p, used, threads, instruction_set);
  }
  free(workspace);
  return 0;
}
