/* Which blocks of the compiled core run, and what it compares, told to the libFuzzer in atheris.

   gcc calls these functions at the start of each block and before each comparison, where it is told
   to: fuzz/run.py says how.  libFuzzer is there only when it runs, so it is given later, as what
   dlopen returns. */
#include <dlfcn.h>
#include <stdint.h>

#define BLOCKS (1 << 16)
#define HIDDEN __attribute__((visibility("hidden")))

static uint8_t counters[BLOCKS];
static uintptr_t places[2 * BLOCKS]; /* of which libFuzzer wants one for each counter */

#define COMPARED(name, type)                                   \
    static void (*tell_##name)(type, type);                    \
    HIDDEN void __sanitizer_cov_trace_##name(type a, type b) { \
        if (tell_##name) tell_##name(a, b);                    \
    }
#define EACH(DO)                                                        \
    DO(cmp1, uint8_t) DO(cmp2, uint16_t) DO(cmp4, uint32_t)             \
    DO(cmp8, uint64_t) DO(const_cmp1, uint8_t) DO(const_cmp2, uint16_t) \
    DO(const_cmp4, uint32_t) DO(const_cmp8, uint64_t)
EACH(COMPARED)

/* Nobody asks for these. */
HIDDEN void __sanitizer_cov_trace_cmpf(float a, float b) { (void)a, (void)b; }
HIDDEN void __sanitizer_cov_trace_cmpd(double a, double b) { (void)a, (void)b; }
HIDDEN void __sanitizer_cov_trace_switch(uint64_t value, uint64_t *cases) {
    (void)value, (void)cases;
}

HIDDEN void __sanitizer_cov_trace_pc(void) {
    uintptr_t at = (uintptr_t)__builtin_return_address(0) - (uintptr_t)__sanitizer_cov_trace_pc;
    counters[(at ^ at >> 16) % BLOCKS]++;
}

void tell_libfuzzer(void *library) {
    void (*add)(uint8_t *, uint8_t *) = dlsym(library, "__sanitizer_cov_8bit_counters_init");
    void (*name)(uintptr_t *, uintptr_t *) = dlsym(library, "__sanitizer_cov_pcs_init");
    for (uintptr_t i = 0; i < BLOCKS; i++) places[2 * i] = (uintptr_t)&counters[i];
    add(counters, counters + BLOCKS);
    name(places, places + 2 * BLOCKS);
#define FIND(name, type) tell_##name = dlsym(library, "__sanitizer_cov_trace_" #name);
    EACH(FIND)
}
