// What the entry points share: exported names, the choice of the instruction set, and the guard of forked processes.
#include <stddef.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#include <pthread.h>
#define EXPORT __attribute__((visibility("default")))
#endif

// A forked child lacks the OpenMP threads of its parent and would wait for them forever.
static int forked = 0;
#if !defined(_WIN32)
static void in_child(void) { forked = 1; }
__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }
#endif

// Declares the code of each instruction set, NAME_baseline and so on, and the function that chooses one by its number.
#ifdef SPARSEOUT_X86
#define INSTRUCTION_SETS(type, name)                                                 \
  type name##_baseline, name##_avx2, name##_avx512;                                  \
  static type* chosen(int instruction_set) {                                         \
    if (instruction_set > 0) return instruction_set > 1 ? name##_avx512 : name##_avx2; \
    return name##_baseline;                                                          \
  }
#else
#define INSTRUCTION_SETS(type, name)           \
  type name##_baseline;                        \
  static type* chosen(int instruction_set) {   \
    (void)instruction_set;                     \
    return name##_baseline;                    \
  }
#endif
