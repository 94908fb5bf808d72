/* Random values in compiled code: words, the values made of them, and the keys they belong to.
 *
 * What.  A variable has a key of 128 bits.  A key has a stream of 64-bit words, the output of
 * Philox4x64-10, and an element of the variable is computed from a fixed place in that stream:
 *
 *     float32, float16, bfloat16     a 32-bit half of word i / 2, the low one for even i
 *     float64, integers              word i
 *     normal                         the places of elements 2k and 2k + 1 give both of these
 *
 * So any part can be computed alone, in any order, on any machine, and is the same as in the
 * whole.  There is no rejection: it would make the place of an element depend on those before it.
 *
 * Why these transforms.  A value must not depend on where it is computed, and log and sin of the
 * C library do, in their last bits.  Here are only + - * / and sqrt, which IEEE 754 defines to
 * the bit, conversions and operations on integers, in an order that the source fixes.  The
 * compiler must not contract a * b + c into one rounding (setup.py: -ffp-contract=off), and the
 * x87 unit with its longer registers cannot be used.  Elements are independent of each other, so
 * a compiler may compute as many at a time as the machine has lanes, and no bit changes.
 *
 *     uniform      low + (high - low) u, u = half / 2**32 or (word >> 11) / 2**53
 *     normal       mean + stddev z; sqrt(-2 ln u) times cos and sin of 2 pi v (Box and Muller, "A
 *                  note on the generation of random normal deviates", 1958); u and v are the
 *                  halves + 0.5, over 2**32, or the upper 52 bits of the words + 0.5, over 2**52
 *     truncated    mean + stddev z; z is the inverse distribution function of the normal
 *                  distribution within [-2, 2], of u as above
 *     integers     low + the upper word of the product of the word and high - low
 *
 * float32 values are computed in float32, except that low + (high - low) u is computed in float64
 * and rounded once; float16 and bfloat16 values are the float32 ones rounded to nearest even.
 * The relative error of z is below 5e-7 in float32 and below 2e-15 in float64.  ln u is computed
 * from the distance to the nearer end of [0, 1], which is exact, so the smallest values of the
 * normal distribution are as fine as the others.  The largest |z| is 6.8 in float32 and 8.6
 * in float64.
 *
 * The approximations interpolate at Chebyshev points; bench/coefficients.py computes and prints
 * them with their errors.
 *
 * Cost.  Philox takes 20 multiplications of 64 bits for 4 words, that is for 8 float32: these are
 * what the machine is busy with, and an upper bound for everything that is not vectorised.
 * Values are made in chunks that stay in the first cache, the words first and then the values,
 * each by one loop over arrays that compilers vectorise.  The same body is compiled twice, once
 * for AVX2; which one runs is decided when the module is loaded.  In nanoseconds, one thread of a
 * Xeon of 2023: float32 uniform 1.2, normal and truncated 1.6; float64 2.1, 4.2 and 4.5; a variable
 * of 16 float32 25, its key 35, or 60 without AVX-512. */
#ifndef VARSCOPE_KERNELS_H
#define VARSCOPE_KERNELS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__FLT_EVAL_METHOD__) && (__FLT_EVAL_METHOD__ == 1 || __FLT_EVAL_METHOD__ == 2)
#error "values would depend on the machine: compile with -msse2 -mfpmath=sse"
#endif

#if defined(__FAST_MATH__)
#error "values would depend on the compiler: compile without -ffast-math"
#endif

/* What setup.py asks for by a flag, for compilers that can be told here. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif

#if defined(__GNUC__)
#define VARSCOPE_BODY static inline __attribute__((always_inline))
#elif defined(_MSC_VER)
#include <intrin.h>
#define VARSCOPE_BODY static __forceinline
#else
#define VARSCOPE_BODY static inline
#endif

/* A second copy of the bodies for machines that have AVX2. */
#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>
#define VARSCOPE_TWICE 1
#define VARSCOPE_WIDE __attribute__((target("avx2,bmi2")))
#define VARSCOPE_WIDER __attribute__((target("avx512f")))
#else
#define VARSCOPE_TWICE 0
#endif

/* Which copies run: 0 the plain ones, 1 those for AVX2, 2 BLAKE2b with AVX-512 too.  Set once when
 * the module is loaded, and by tests. */
static int varscope_wide = 0;

static int varscope_widest(void) {
#if VARSCOPE_TWICE
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi2")) return 0;
    return __builtin_cpu_supports("avx512f") ? 2 : 1;
#else
    return 0;
#endif
}

enum { LAW_CONSTANT, LAW_UNIFORM, LAW_NORMAL, LAW_TRUNCATED, LAW_INTEGERS };
enum { TYPE_F16, TYPE_BF16, TYPE_F32, TYPE_F64, TYPE_INT };

/* What an element is, as a function of its place in the stream.
 *
 *     LAW_UNIFORM    a + b u, brought into [bottom, top]
 *     LAW_NORMAL     a + b z
 *     LAW_TRUNCATED  a + b z, brought into [bottom, top]
 *     LAW_INTEGERS   low + the upper word of word * range; range 0 stands for 2**64
 *     LAW_CONSTANT   the itemsize bytes of pattern, 16 at most
 *
 * bottom and top are values of the type: rounding can lead out of the interval, by one value. */
typedef struct {
    int kind, type;
    unsigned itemsize;
    double a, b, bottom, top;
    int64_t low;
    uint64_t range;
    unsigned char pattern[16];
} varscope_law;

/* --- Philox4x64-10 -----------------------------------------------------------------------------
 * Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011.  NumPy counts
 * before its first block, so word w is in the block of counter w / 4 + 1. */

VARSCOPE_BODY uint64_t varscope_product(uint64_t a, uint64_t b, uint64_t *low) {
#if defined(__SIZEOF_INT128__)
    unsigned __int128 product = (unsigned __int128)a * b;
    *low = (uint64_t)product;
    return (uint64_t)(product >> 64);
#elif defined(_MSC_VER) && defined(_M_X64)
    uint64_t high;
    *low = _umul128(a, b, &high);
    return high;
#elif defined(_MSC_VER) && defined(_M_ARM64)
    *low = a * b;
    return __umulh(a, b);
#else
    uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    uint64_t middle = a1 * b0 + (a0 * b0 >> 32), other = a0 * b1 + (uint32_t)middle;
    *low = a * b;
    return a1 * b1 + (middle >> 32) + (other >> 32);
#endif
}

typedef struct { uint64_t a, b, c, d; } varscope_block;

VARSCOPE_BODY varscope_block varscope_round(varscope_block x, uint64_t k, uint64_t l) {
    varscope_block y;
    uint64_t high0 = varscope_product(x.a, 0xD2E7470EE14C6C93ULL, &y.d);
    uint64_t high1 = varscope_product(x.c, 0xCA5A826395121157ULL, &y.b);
    y.a = high1 ^ x.b ^ k;
    y.c = high0 ^ x.d ^ l;
    return y;
}

VARSCOPE_BODY varscope_block varscope_philox(const uint64_t key[2], varscope_block x) {
    uint64_t k = key[0], l = key[1];
    for (int i = 0; i < 10; i++) {
        x = varscope_round(x, k, l);
        k += 0x9E3779B97F4A7C15ULL;
        l += 0xBB67AE8584CAA73BULL;
    }
    return x;
}

/* Words in groups of eight, two blocks: groups first .. first+count-1 of the stream. */
VARSCOPE_BODY void varscope_groups(const uint64_t key[2], uint64_t first, size_t count,
                                   uint64_t *out) {
    for (size_t i = 0; i < 2 * count; i++) {
        varscope_block x = {2 * first + i + 1, 0, 0, 0};
        x = varscope_philox(key, x);
        out[4 * i] = x.a, out[4 * i + 1] = x.b, out[4 * i + 2] = x.c, out[4 * i + 3] = x.d;
    }
}

/* The blocks behind a counter of 256 bits, wherever that is. */
static void varscope_words_behind(const uint64_t key[2], const uint64_t counter[4],
                                  uint64_t blocks, uint64_t *out) {
    varscope_block at = {counter[0], counter[1], counter[2], counter[3]};
    for (uint64_t i = 0; i < blocks; i++, out += 4) {
        if (++at.a == 0 && ++at.b == 0 && ++at.c == 0) at.d++;
        varscope_block x = varscope_philox(key, at);
        out[0] = x.a, out[1] = x.b, out[2] = x.c, out[3] = x.d;
    }
}

/* --- float32 -----------------------------------------------------------------------------------
 * The distances and angles are integers first, so nothing is lost where they are small. */

VARSCOPE_BODY uint32_t varscope_bits32(float x) { uint32_t b; memcpy(&b, &x, 4); return b; }
VARSCOPE_BODY float varscope_float32(uint32_t b) { float x; memcpy(&x, &b, 4); return x; }

/* -2 ln u, u = (h + 0.5) / 2**32.
 *
 * t is the distance from the nearer end of [0, 1], in units: from 0, u = 2**k m with m in [2/3,
 * 4/3) and f = m - 1; from 1, f = u - 1.  Then ln(1 + f) = 2 atanh(s), s = f / (2 + f), and s**2
 * is at most 1/9. */
VARSCOPE_BODY float varscope_log32(uint32_t h) {
    static const float p[] = {
        0x1.555556p-2f, 0x1.9998d4p-3f, 0x1.24c926p-3f, 0x1.bc8cf8p-4f, 0x1.dba26p-4f};
    int upper = (int32_t)h < 0;
    float t = (float)(int32_t)(upper ? ~h : h) + 0.5f;
    uint32_t offset = varscope_bits32(t) - 0x3F2AAAABu; /* of 2/3 */
    float m = varscope_float32((offset & 0x7FFFFFu) + 0x3F2AAAABu);
    float k = upper ? 0.0f : (float)(((int32_t)offset >> 23) - 32);
    float f = upper ? t * -0x1p-32f : m - 1.0f;
    float s = f / (2.0f + f), z = s * s;
    float tail = z * (p[0] + z * (p[1] + z * (p[2] + z * (p[3] + z * p[4]))));
    return k * -0x1.62e43p+0f - 4.0f * (s + s * tail);
}

/* The angle of h in the quarter turn around the nearest multiple of a quarter: x = 2 pi v less
 * that multiple, in quarters, v = (h + 0.5) / 2**32.  The multiple is in the upper two bits. */
VARSCOPE_BODY void varscope_turn32(uint32_t h, float *cosine, float *sine) {
    static const float p[] = {
        0x1.921fb6p+0f, -0x1.4abbbap-1f, 0x1.465ec4p-4f, -0x1.2d9b4p-8f};
    static const float q[] = {
        -0x1.3bd3ccp+0f, 0x1.03c1eap-2f, -0x1.55cb98p-6f, 0x1.db6492p-11f};
    uint32_t quarter = h + 0x20000000u;
    float x = ((float)((int32_t)(quarter & 0x3FFFFFFFu) - 0x20000000) + 0.5f) * 0x1p-30f;
    float z = x * x;
    float s = x * (p[0] + z * (p[1] + z * (p[2] + z * p[3])));
    float c = 1.0f + z * (q[0] + z * (q[1] + z * (q[2] + z * q[3])));
    int odd = (quarter & 0x40000000u) != 0;
    uint32_t sign = quarter & 0x80000000u, other = (quarter ^ quarter << 1) & 0x80000000u;
    *cosine = varscope_float32(varscope_bits32(odd ? s : c) ^ other);
    *sine = varscope_float32(varscope_bits32(odd ? c : s) ^ sign);
}

/* v = 2u - 1, and z = v P(w) / Q(w), w = 1 - v**2.  No coefficient is negative. */
VARSCOPE_BODY float varscope_truncated32(uint32_t h) {
    static const float p[] = {
        0x1p+1f, 0x1.10303ap+5f, 0x1.740218p+7f, 0x1.81aa18p+8f, 0x1.1ef3c8p+8f, 0x1.e44772p+5f,
        0x1.a5509cp+0f};
    static const float q[] = {
        0x1p+0f, 0x1.2b8bc8p+4f, 0x1.d21e18p+6f, 0x1.2144bcp+8f, 0x1.171accp+8f, 0x1.649c16p+6f,
        0x1.834e7p+2f};
    float v = ((float)(int32_t)(h ^ 0x80000000u) + 0.5f) * 0x1p-31f, w = 1.0f - v * v;
    float above = p[0] + w * (p[1] + w * (p[2] + w * (p[3] + w * (p[4] + w * (p[5] + w * p[6])))));
    float below = q[0] + w * (q[1] + w * (q[2] + w * (q[3] + w * (q[4] + w * (q[5] + w * q[6])))));
    return v * above / below;
}

VARSCOPE_BODY float varscope_clamped32(float x, float bottom, float top) {
    x = bottom > x ? bottom : x;
    return top < x ? top : x;
}

VARSCOPE_BODY void varscope_uniform32(const varscope_law *law, const uint64_t *words, size_t count,
                                      float *out) {
    double a = law->a, b = law->b * 0x1p-32;
    float bottom = (float)law->bottom, top = (float)law->top;
    for (size_t i = 0; i < count; i++) {
        double low = (double)(int32_t)((uint32_t)words[i] ^ 0x80000000u) + 0x1p31;
        double high = (double)(int32_t)((uint32_t)(words[i] >> 32) ^ 0x80000000u) + 0x1p31;
        out[2 * i] = varscope_clamped32((float)(a + b * low), bottom, top);
        out[2 * i + 1] = varscope_clamped32((float)(a + b * high), bottom, top);
    }
}

VARSCOPE_BODY void varscope_normal32(const varscope_law *law, const uint64_t *words, size_t count,
                                     float *out) {
    float a = (float)law->a, b = (float)law->b;
    for (size_t i = 0; i < count; i++) {
        float cosine, sine, r = sqrtf(varscope_log32((uint32_t)words[i]));
        varscope_turn32((uint32_t)(words[i] >> 32), &cosine, &sine);
        out[2 * i] = a + b * (r * cosine);
        out[2 * i + 1] = a + b * (r * sine);
    }
}

VARSCOPE_BODY void varscope_normal32_within(const varscope_law *law, const uint64_t *words,
                                            size_t count, float *out) {
    float a = (float)law->a, b = (float)law->b;
    float bottom = (float)law->bottom, top = (float)law->top;
    for (size_t i = 0; i < count; i++) {
        float low = a + b * varscope_truncated32((uint32_t)words[i]);
        float high = a + b * varscope_truncated32((uint32_t)(words[i] >> 32));
        out[2 * i] = varscope_clamped32(low, bottom, top);
        out[2 * i + 1] = varscope_clamped32(high, bottom, top);
    }
}

/* --- float64 -----------------------------------------------------------------------------------
 * The same with 52 bits.  Integers below 2**52 become numbers through the bits of 2**52 + n, which
 * every machine has lanes for. */

VARSCOPE_BODY uint64_t varscope_bits64(double x) { uint64_t b; memcpy(&b, &x, 8); return b; }
VARSCOPE_BODY double varscope_float64(uint64_t b) { double x; memcpy(&x, &b, 8); return x; }
VARSCOPE_BODY double varscope_number(uint64_t n) {
    return varscope_float64(n | 0x4330000000000000ULL) - 0x1p52;
}

VARSCOPE_BODY double varscope_log64(uint64_t word) {
    static const double p[] = {
        0x1.5555555555555p-2, 0x1.9999999999944p-3, 0x1.2492492499d46p-3, 0x1.c71c71bedea97p-4,
        0x1.745d19937b1fcp-4, 0x1.3b13515f6f9efp-4, 0x1.111abdc8abe16p-4, 0x1.e0a2d581ab68fp-5,
        0x1.bc37f0140c19ep-5, 0x1.32e0d25c9c761p-5, 0x1.401d3e65cdc48p-4};
    uint64_t n = word >> 12, upper = 0 - (word >> 63); /* all ones, or none */
    double t = varscope_number((n ^ upper) & 0xFFFFFFFFFFFFFULL) + 0.5;
    uint64_t offset = varscope_bits64(t) - 0x3FE5555555555555ULL; /* of 2/3 */
    double m = varscope_float64((offset & 0xFFFFFFFFFFFFFULL) + 0x3FE5555555555555ULL);
    /* the exponent, -1 to 51, made positive before the shift */
    double k = varscope_number((offset + 0x10000000000000ULL) >> 52) - 53.0;
    k = upper ? 0.0 : k;
    double f = upper ? t * -0x1p-52 : m - 1.0;
    double s = f / (2.0 + f), z = s * s;
    double tail = p[5] + z * (p[6] + z * (p[7] + z * (p[8] + z * (p[9] + z * p[10]))));
    tail = p[1] + z * (p[2] + z * (p[3] + z * (p[4] + z * tail)));
    return k * -0x1.62e42fefa39efp+0 - 4.0 * (s + s * (z * (p[0] + z * tail)));
}

VARSCOPE_BODY void varscope_turn64(uint64_t word, double *cosine, double *sine) {
    static const double p[] = {
        0x1.921fb54442d18p+0, -0x1.4abbce625be53p-1, 0x1.466bc6775aad9p-4, -0x1.32d2cce62ac22p-8,
        0x1.50783485cbd83p-13, -0x1.e3074b4ff3058p-19, 0x1.e8eed12ee00a3p-25,
        -0x1.6c5b875d4e739p-31};
    static const double q[] = {
        -0x1.3bd3cc9be45dep+0, 0x1.03c1f081b5ac4p-2, -0x1.55d3c7e3cbff7p-6, 0x1.e1f506891ae95p-11,
        -0x1.a6d1f2a086c9p-16, 0x1.f9d3870871194p-22, -0x1.b6de8b8e9ba08p-28,
        0x1.1e745e5e09f6dp-34};
    uint64_t quarter = word + 0x2000000000000000ULL;
    double x = varscope_number(quarter >> 12 & 0x3FFFFFFFFFFFFULL) - 0x1p49;
    x = (x + 0.5) * 0x1p-50;
    double z = x * x;
    double s = p[3] + z * (p[4] + z * (p[5] + z * (p[6] + z * p[7])));
    double c = q[3] + z * (q[4] + z * (q[5] + z * (q[6] + z * q[7])));
    s = x * (p[0] + z * (p[1] + z * (p[2] + z * s)));
    c = 1.0 + z * (q[0] + z * (q[1] + z * (q[2] + z * c)));
    int odd = (quarter & 0x4000000000000000ULL) != 0;
    const uint64_t top = 0x8000000000000000ULL;
    uint64_t sign = quarter & top, other = (quarter ^ quarter << 1) & top;
    *cosine = varscope_float64(varscope_bits64(odd ? s : c) ^ other);
    *sine = varscope_float64(varscope_bits64(odd ? c : s) ^ sign);
}

VARSCOPE_BODY double varscope_truncated64(uint64_t word) {
    static const double p[] = {
        0x1.fffffffffffffp+0, 0x1.40754d0221922p+6, 0x1.4f6fbaf10030ep+10, 0x1.7f883931752a5p+13,
        0x1.071bcd3885778p+16, 0x1.c164f8aad02b1p+17, 0x1.e19815a77b997p+18,
        0x1.401ae1c25881bp+19, 0x1.005cc9ae3e92fp+19, 0x1.d6a4d83797f81p+17,
        0x1.c876d76f1082ap+15, 0x1.96d93c30b677bp+12, 0x1.f8d5673f824cdp+7, 0x1.7fef3570cfe62p+0};
    static const double q[] = {
        0x1p+0, 0x1.4e2317fd0f054p+5, 0x1.6ee6f26c1eb17p+9, 0x1.bb4e496e6e119p+12,
        0x1.44397eaf585ap+15, 0x1.2a697429f139dp+17, 0x1.5d4ab9cfe49b6p+18, 0x1.01e7e5de1e759p+19,
        0x1.d52585a82c7aep+18, 0x1.f825bd6435235p+17, 0x1.2b5fad77f737dp+16,
        0x1.601d9695c2c46p+13, 0x1.4fa5780461f5ap+9, 0x1.44d27479ff67dp+3};
    double v = (varscope_number(word >> 12) - 0x1p51 + 0.5) * 0x1p-51, w = (1.0 - v) * (1.0 + v);
    double above = p[8] + w * (p[9] + w * (p[10] + w * (p[11] + w * (p[12] + w * p[13]))));
    double below = q[8] + w * (q[9] + w * (q[10] + w * (q[11] + w * (q[12] + w * q[13]))));
    above = p[4] + w * (p[5] + w * (p[6] + w * (p[7] + w * above)));
    below = q[4] + w * (q[5] + w * (q[6] + w * (q[7] + w * below)));
    above = p[0] + w * (p[1] + w * (p[2] + w * (p[3] + w * above)));
    below = q[0] + w * (q[1] + w * (q[2] + w * (q[3] + w * below)));
    return v * above / below;
}

VARSCOPE_BODY double varscope_clamped64(double x, double bottom, double top) {
    x = bottom > x ? bottom : x;
    return top < x ? top : x;
}

VARSCOPE_BODY void varscope_uniform64(const varscope_law *law, const uint64_t *words, size_t count,
                                      double *out) {
    double a = law->a, b = law->b, bottom = law->bottom, top = law->top;
    for (size_t i = 0; i < count; i++) {
        double u = varscope_number(words[i] >> 32) * 0x1p-32 +
                   varscope_number(words[i] >> 11 & 0x1FFFFF) * 0x1p-53;
        out[i] = varscope_clamped64(a + b * u, bottom, top);
    }
}

VARSCOPE_BODY void varscope_normal64(const varscope_law *law, const uint64_t *words, size_t count,
                                     double *out) {
    double a = law->a, b = law->b;
    for (size_t i = 0; i < count / 2; i++) {
        double cosine, sine, r = sqrt(varscope_log64(words[2 * i]));
        varscope_turn64(words[2 * i + 1], &cosine, &sine);
        out[2 * i] = a + b * (r * cosine);
        out[2 * i + 1] = a + b * (r * sine);
    }
}

VARSCOPE_BODY void varscope_normal64_within(const varscope_law *law, const uint64_t *words,
                                            size_t count, double *out) {
    double a = law->a, b = law->b, bottom = law->bottom, top = law->top;
    for (size_t i = 0; i < count; i++)
        out[i] = varscope_clamped64(a + b * varscope_truncated64(words[i]), bottom, top);
}

/* --- float16, bfloat16, integers ------------------------------------------------------------ */

/* To nearest even.  Not for NaN, which no law has. */
VARSCOPE_BODY uint16_t varscope_bfloat16(float x) {
    uint32_t bits = varscope_bits32(x);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

VARSCOPE_BODY uint16_t varscope_float16(float x) {
    uint32_t bits = varscope_bits32(x), sign = bits >> 16 & 0x8000, size = bits & 0x7FFFFFFF;
    /* From 2**-14 on: the exponent moves, and 13 bits are rounded away. */
    uint32_t normal = (size - 0x38000000 + 0xFFF + (size >> 13 & 1)) >> 13;
    normal = normal > 0x7C00 ? 0x7C00 : normal; /* infinity */
    /* Below: a unit in the last place of 0.5 is the smallest float16, so the addition rounds. */
    uint32_t small = varscope_bits32(varscope_float32(size) + 0.5f) - 0x3F000000;
    return (uint16_t)(sign | (size < 0x38800000 ? small : normal));
}

VARSCOPE_BODY uint64_t varscope_integer(const varscope_law *law, uint64_t word) {
    uint64_t low;
    uint64_t high = law->range ? varscope_product(word, law->range, &low) : word;
    return (uint64_t)law->low + high;
}

/* --- runs of elements ----------------------------------------------------------------------- */

/* A chunk of values is 16 groups of words, 128 words or 1 KiB. */
enum { VARSCOPE_GROUPS = 16, VARSCOPE_WORDS = 8 * VARSCOPE_GROUPS };

typedef union {
    float f32[2 * VARSCOPE_WORDS];
    double f64[VARSCOPE_WORDS];
    uint8_t u8[VARSCOPE_WORDS];
    uint16_t u16[VARSCOPE_WORDS];
    uint32_t u32[VARSCOPE_WORDS];
    uint64_t u64[VARSCOPE_WORDS];
} varscope_values;

VARSCOPE_BODY void varscope_transform(const varscope_law *law, const uint64_t *words,
                                      size_t count, varscope_values *values) {
    if (law->kind == LAW_INTEGERS) {
        for (size_t i = 0; i < count; i++) {
            uint64_t value = varscope_integer(law, words[i]);
            switch (law->itemsize) {
            case 1: values->u8[i] = (uint8_t)value; break;
            case 2: values->u16[i] = (uint16_t)value; break;
            case 4: values->u32[i] = (uint32_t)value; break;
            default: values->u64[i] = value;
            }
        }
    } else if (law->type == TYPE_F64) {
        if (law->kind == LAW_UNIFORM) varscope_uniform64(law, words, count, values->f64);
        else if (law->kind == LAW_NORMAL) varscope_normal64(law, words, count, values->f64);
        else varscope_normal64_within(law, words, count, values->f64);
    } else {
        if (law->kind == LAW_UNIFORM) varscope_uniform32(law, words, count, values->f32);
        else if (law->kind == LAW_NORMAL) varscope_normal32(law, words, count, values->f32);
        else varscope_normal32_within(law, words, count, values->f32);
    }
}

/* Elements of a chunk, from number skip on, as they lie in memory. */
VARSCOPE_BODY void varscope_pack(const varscope_law *law, const varscope_values *values,
                                  size_t skip, size_t count, unsigned char *out) {
    if (law->type == TYPE_F16 || law->type == TYPE_BF16) {
        uint16_t halves[2 * VARSCOPE_WORDS];
        if (law->type == TYPE_F16)
            for (size_t i = 0; i < count; i++) halves[i] = varscope_float16(values->f32[skip + i]);
        else
            for (size_t i = 0; i < count; i++) halves[i] = varscope_bfloat16(values->f32[skip + i]);
        memcpy(out, halves, 2 * count);
    } else {
        memcpy(out, (const unsigned char *)values + skip * law->itemsize, count * law->itemsize);
    }
}

VARSCOPE_BODY void varscope_run(const varscope_law *law, const uint64_t key[2], uint64_t first,
                                uint64_t count, unsigned char *out) {
    uint64_t words[VARSCOPE_WORDS];
    varscope_values values;
    /* Two elements a word, or one. */
    uint64_t each = law->kind != LAW_INTEGERS && law->type != TYPE_F64 ? 16 : 8;
    uint64_t group = first / each, skip = first % each;
    while (count > 0) {
        uint64_t groups = (skip + count + each - 1) / each;
        if (groups > VARSCOPE_GROUPS) groups = VARSCOPE_GROUPS;
        uint64_t now = groups * each - skip < count ? groups * each - skip : count;
        varscope_groups(key, group, groups, words);
        varscope_transform(law, words, 8 * groups, &values);
        varscope_pack(law, &values, skip, now, out);
        out += now * law->itemsize;
        count -= now;
        group += groups;
        skip = 0;
    }
}

/* The first `count` elements of n streams: small variables share chunks. */
VARSCOPE_BODY void varscope_each(const varscope_law *law, const uint64_t (*keys)[2], size_t n,
                                 uint64_t count, unsigned char *const *outs) {
    uint64_t words[VARSCOPE_WORDS];
    varscope_values values;
    uint64_t each = law->kind != LAW_INTEGERS && law->type != TYPE_F64 ? 16 : 8;
    uint64_t groups = (count + each - 1) / each;
    size_t most = VARSCOPE_GROUPS / groups;
    while (n > 0) {
        size_t now = n < most ? n : most;
        for (size_t i = 0; i < now; i++)
            varscope_groups(keys[i], 0, groups, words + 8 * groups * i);
        varscope_transform(law, words, 8 * groups * now, &values);
        for (size_t i = 0; i < now; i++)
            varscope_pack(law, &values, groups * each * i, count, outs[i]);
        keys += now;
        outs += now;
        n -= now;
    }
}

static void varscope_run_plain(const varscope_law *law, const uint64_t key[2], uint64_t first,
                               uint64_t count, unsigned char *out) {
    varscope_run(law, key, first, count, out);
}

static void varscope_each_plain(const varscope_law *law, const uint64_t (*keys)[2], size_t n,
                                uint64_t count, unsigned char *const *outs) {
    varscope_each(law, keys, n, count, outs);
}

#if VARSCOPE_TWICE
VARSCOPE_WIDE
static void varscope_run_wide(const varscope_law *law, const uint64_t key[2], uint64_t first,
                              uint64_t count, unsigned char *out) {
    varscope_run(law, key, first, count, out);
}

VARSCOPE_WIDE
static void varscope_each_wide(const varscope_law *law, const uint64_t (*keys)[2], size_t n,
                               uint64_t count, unsigned char *const *outs) {
    varscope_each(law, keys, n, count, outs);
}
#endif

/* The pattern of a constant, again and again. */
static void varscope_repeat(const varscope_law *law, uint64_t count, unsigned char *out) {
    const size_t size = law->itemsize;
    const unsigned char *pattern = law->pattern;
    int same = 1;
    for (size_t i = 1; i < size; i++) same &= pattern[i] == pattern[0];
    if (same)
        memset(out, pattern[0], count * size);
    else if (size == 2) /* loops of a known size are vectorised */
        for (uint64_t i = 0; i < count; i++) memcpy(out + 2 * i, pattern, 2);
    else if (size == 4)
        for (uint64_t i = 0; i < count; i++) memcpy(out + 4 * i, pattern, 4);
    else if (size == 8)
        for (uint64_t i = 0; i < count; i++) memcpy(out + 8 * i, pattern, 8);
    else
        for (uint64_t i = 0; i < count; i++) memcpy(out + size * i, pattern, size);
}

/* Elements first .. first+count-1 of the stream of key, packed, to out. */
static void varscope_fill_run(const varscope_law *law, const uint64_t key[2], uint64_t first,
                              uint64_t count, void *out) {
    if (law->kind == LAW_CONSTANT) {
        varscope_repeat(law, count, out);
        return;
    }
#if VARSCOPE_TWICE
    if (varscope_wide) {
        varscope_run_wide(law, key, first, count, out);
        return;
    }
#endif
    varscope_run_plain(law, key, first, count, out);
}

/* The first `count` elements of the stream of keys[i], packed, to outs[i], for n variables that
 * are alike.  Small ones take half the time that they take one by one. */
static void varscope_fill_each(const varscope_law *law, const uint64_t (*keys)[2], size_t n,
                               uint64_t count, unsigned char *const *outs) {
    if (count == 0) return;
    if (law->kind == LAW_CONSTANT || count > 4 * VARSCOPE_GROUPS) {
        for (size_t i = 0; i < n; i++) varscope_fill_run(law, keys[i], 0, count, outs[i]);
        return;
    }
#if VARSCOPE_TWICE
    if (varscope_wide) {
        varscope_each_wide(law, keys, n, count, outs);
        return;
    }
#endif
    varscope_each_plain(law, keys, n, count, outs);
}

/* Words start .. start+count-1 of the stream of key. */
static void varscope_words(const uint64_t key[2], uint64_t start, uint64_t count, uint64_t *out) {
    varscope_law law = {LAW_INTEGERS, TYPE_INT, 8, 0, 0, 0, 0, 0, 0, {0}};
    varscope_fill_run(&law, key, start, count, out);
}

/* One axis of a region: how many, how far apart in memory (bytes) and in the stream (elements). */
typedef struct { int64_t count, apart, step; } varscope_axis;

enum { VARSCOPE_MAX_AXES = 64, VARSCOPE_CHUNK = 4096 };

/* Elements first, first + step, ... of one axis. */
static void varscope_fill_axis(const varscope_law *law, const uint64_t key[2], uint64_t first,
                               varscope_axis axis, unsigned char *out) {
    unsigned char chunk[VARSCOPE_CHUNK];
    uint64_t size = law->itemsize;
    if (axis.step == 1 && axis.apart == (int64_t)size) {
        varscope_fill_run(law, key, first, (uint64_t)axis.count, out);
        return;
    }
    /* Runs that hold the elements and those between, while these are few; else one by one. */
    uint64_t step = axis.step > 0 && axis.step <= 16 ? (uint64_t)axis.step : 1;
    int64_t most = axis.step == (int64_t)step ? (int64_t)(VARSCOPE_CHUNK / size / step) : 1;
    while (axis.count > 0) {
        int64_t now = axis.count < most ? axis.count : most;
        varscope_fill_run(law, key, first, (uint64_t)(now - 1) * step + 1, chunk);
        for (int64_t i = 0; i < now; i++, out += axis.apart)
            memcpy(out, chunk + (uint64_t)i * step * size, size);
        first += (uint64_t)now * (uint64_t)axis.step;
        axis.count -= now;
    }
}

/* Element first + sum(i * step) to out + sum(i * apart), for all indices i.  The axes are put in
 * the order of the stream, and those that follow one upon the other become one.  The array of
 * axes is used up. */
static void varscope_fill_region(const varscope_law *law, const uint64_t key[2], uint64_t first,
                                 int rank, varscope_axis *axes, void *start) {
    unsigned char *out = start;
    int used = 0;
    for (int i = 0; i < rank; i++) {
        varscope_axis axis = axes[i];
        if (axis.count == 0) return;
        if (axis.count == 1) continue;
        if (axis.step < 0) { /* walk it from its other end */
            out += (axis.count - 1) * axis.apart;
            first += (uint64_t)(axis.count - 1) * (uint64_t)axis.step;
            axis.step = -axis.step;
            axis.apart = -axis.apart;
        }
        int at = used++;
        for (; at > 0 && axes[at - 1].step < axis.step; at--) axes[at] = axes[at - 1];
        axes[at] = axis;
    }
    int kept = 0;
    for (int i = 0; i < used; i++) {
        varscope_axis axis = axes[i];
        /* without signs: where the elements end, the products may lie just behind 2**63 - 1 */
        if (kept > 0 &&
            (uint64_t)axes[kept - 1].step == (uint64_t)axis.count * (uint64_t)axis.step &&
            (uint64_t)axes[kept - 1].apart == (uint64_t)axis.count * (uint64_t)axis.apart)
            axis.count *= axes[--kept].count;
        axes[kept++] = axis;
    }
    if (kept == 0) axes[kept++] = (varscope_axis){1, (int64_t)law->itemsize, 1};
    varscope_axis inner = axes[--kept];
    int64_t index[VARSCOPE_MAX_AXES] = {0};
    for (;;) {
        varscope_fill_axis(law, key, first, inner, out);
        int i = kept - 1;
        for (; i >= 0; i--) {
            out += axes[i].apart;
            first += (uint64_t)axes[i].step;
            if (++index[i] < axes[i].count) break;
            out -= axes[i].count * axes[i].apart;
            first -= (uint64_t)axes[i].count * (uint64_t)axes[i].step;
            index[i] = 0;
        }
        if (i < 0) return;
    }
}

/* --- BLAKE2b -----------------------------------------------------------------------------------
 * RFC 7693: 16 bytes, no key, the person "varscope".  A path of a model fills one or two blocks of
 * 128 bytes.  Messages of equally many blocks are hashed together, in the four lanes of an AVX2
 * register or the eight of AVX-512: then a key costs about as much as sixteen float32. */

static const uint64_t varscope_blake_start[8] = {
    0x6A09E667F3BCC908ULL, 0xBB67AE8584CAA73BULL, 0x3C6EF372FE94F82BULL, 0xA54FF53A5F1D36F1ULL,
    0x510E527FADE682D1ULL, 0x9B05688C2B3E6C1FULL, 0x1F83D9ABFB41BD6BULL, 0x5BE0CD19137E2179ULL};

/* To be combined with the words 0 and 6 of the start: 16 bytes, fanout and depth 1; "varscope". */
#define VARSCOPE_BLAKE_SIZES 0x01010010ULL
#define VARSCOPE_BLAKE_PERSON 0x65706F6373726176ULL

/* The columns and then the diagonals of the state v, by MIX(a, b, c, d, word, word). */
#define VARSCOPE_BLAKE_ROUND(MIX, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p) \
    MIX(0, 4, 8, 12, a, b) MIX(1, 5, 9, 13, c, d)                                 \
    MIX(2, 6, 10, 14, e, f) MIX(3, 7, 11, 15, g, h)                               \
    MIX(0, 5, 10, 15, i, j) MIX(1, 6, 11, 12, k, l)                               \
    MIX(2, 7, 8, 13, m, n) MIX(3, 4, 9, 14, o, p)

/* In which order the sixteen words of the block enter the rounds. */
#define VARSCOPE_BLAKE_ROUNDS(MIX)                                                         \
    VARSCOPE_BLAKE_ROUND(MIX, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)        \
    VARSCOPE_BLAKE_ROUND(MIX, 14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3)        \
    VARSCOPE_BLAKE_ROUND(MIX, 11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4)        \
    VARSCOPE_BLAKE_ROUND(MIX, 7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8)        \
    VARSCOPE_BLAKE_ROUND(MIX, 9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13)        \
    VARSCOPE_BLAKE_ROUND(MIX, 2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9)        \
    VARSCOPE_BLAKE_ROUND(MIX, 12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11)        \
    VARSCOPE_BLAKE_ROUND(MIX, 13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10)        \
    VARSCOPE_BLAKE_ROUND(MIX, 6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5)        \
    VARSCOPE_BLAKE_ROUND(MIX, 10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0)        \
    VARSCOPE_BLAKE_ROUND(MIX, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)        \
    VARSCOPE_BLAKE_ROUND(MIX, 14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3)

static size_t varscope_blake_blocks(size_t length) {
    return length <= 128 ? 1 : (length + 127) / 128;
}

/* The block at `offset` of a message; the last one is copied and filled up with zeros, unless these
 * follow it anyway: then the message is padded. */
VARSCOPE_BODY const unsigned char *varscope_blake_block(const unsigned char *message,
                                                        size_t length, size_t offset, int padded,
                                                        unsigned char spare[128]) {
    if (padded || length - offset >= 128) return message + offset;
    memset(spare, 0, 128);
    if (length > offset) memcpy(spare, message + offset, length - offset);
    return spare;
}

static uint64_t varscope_blake_word(const unsigned char *bytes) {
    uint64_t word = 0;
    for (int i = 7; i >= 0; i--) word = word << 8 | bytes[i];
    return word;
}

static uint64_t varscope_rotated(uint64_t x, int n) { return x >> n | x << (64 - n); }

static void varscope_blake(const unsigned char *message, size_t length, uint64_t key[2]) {
    uint64_t h[8], v[16], m[16];
    unsigned char spare[128];
    size_t blocks = varscope_blake_blocks(length);
    memcpy(h, varscope_blake_start, sizeof h);
    h[0] ^= VARSCOPE_BLAKE_SIZES;
    h[6] ^= VARSCOPE_BLAKE_PERSON;
    for (size_t n = 0; n < blocks; n++) {
        const unsigned char *block = varscope_blake_block(message, length, 128 * n, 0, spare);
        for (int i = 0; i < 16; i++) m[i] = varscope_blake_word(block + 8 * i);
        memcpy(v, h, sizeof h);
        memcpy(v + 8, varscope_blake_start, sizeof h);
        v[12] ^= n + 1 < blocks ? 128 * (n + 1) : length;
        if (n + 1 == blocks) v[14] = ~v[14];
#define VARSCOPE_MIX(a, b, c, d, x, y)                                                     \
        v[a] += v[b] + m[x]; v[d] = varscope_rotated(v[d] ^ v[a], 32);                     \
        v[c] += v[d];        v[b] = varscope_rotated(v[b] ^ v[c], 24);                     \
        v[a] += v[b] + m[y]; v[d] = varscope_rotated(v[d] ^ v[a], 16);                     \
        v[c] += v[d];        v[b] = varscope_rotated(v[b] ^ v[c], 63);
        VARSCOPE_BLAKE_ROUNDS(VARSCOPE_MIX)
#undef VARSCOPE_MIX
        for (int i = 0; i < 8; i++) h[i] ^= v[i] ^ v[i + 8];
    }
    key[0] = h[0];
    key[1] = h[1];
}

#if VARSCOPE_TWICE
/* Word i of four blocks, in the lanes of words[i]. */
VARSCOPE_WIDE
static inline void varscope_transposed(const unsigned char *const block[4], __m256i words[16]) {
    for (int i = 0; i < 16; i += 4) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(block[0] + 8 * i));
        __m256i b = _mm256_loadu_si256((const __m256i *)(block[1] + 8 * i));
        __m256i c = _mm256_loadu_si256((const __m256i *)(block[2] + 8 * i));
        __m256i d = _mm256_loadu_si256((const __m256i *)(block[3] + 8 * i));
        __m256i ab0 = _mm256_unpacklo_epi64(a, b), ab1 = _mm256_unpackhi_epi64(a, b);
        __m256i cd0 = _mm256_unpacklo_epi64(c, d), cd1 = _mm256_unpackhi_epi64(c, d);
        words[i] = _mm256_permute2x128_si256(ab0, cd0, 0x20);
        words[i + 1] = _mm256_permute2x128_si256(ab1, cd1, 0x20);
        words[i + 2] = _mm256_permute2x128_si256(ab0, cd0, 0x31);
        words[i + 3] = _mm256_permute2x128_si256(ab1, cd1, 0x31);
    }
}

/* The keys of four messages of `blocks` blocks each; their numbers are in `which`. */
VARSCOPE_WIDE
static void varscope_blake_lanes(const unsigned char *const *messages, const size_t *lengths,
                                 const size_t which[4], size_t blocks, int padded,
                                 uint64_t (*keys)[2]) {
    const __m256i by24 = _mm256_setr_epi8(
        3, 4, 5, 6, 7, 0, 1, 2, 11, 12, 13, 14, 15, 8, 9, 10,
        3, 4, 5, 6, 7, 0, 1, 2, 11, 12, 13, 14, 15, 8, 9, 10);
    const __m256i by16 = _mm256_setr_epi8(
        2, 3, 4, 5, 6, 7, 0, 1, 10, 11, 12, 13, 14, 15, 8, 9,
        2, 3, 4, 5, 6, 7, 0, 1, 10, 11, 12, 13, 14, 15, 8, 9);
    __m256i h[8], v[16], m[16];
    unsigned char spare[4][128];
    for (int i = 0; i < 8; i++) h[i] = _mm256_set1_epi64x((int64_t)varscope_blake_start[i]);
    h[0] = _mm256_xor_si256(h[0], _mm256_set1_epi64x((int64_t)VARSCOPE_BLAKE_SIZES));
    h[6] = _mm256_xor_si256(h[6], _mm256_set1_epi64x((int64_t)VARSCOPE_BLAKE_PERSON));
    for (size_t n = 0; n < blocks; n++) {
        const unsigned char *block[4];
        int64_t counted[4];
        for (int lane = 0; lane < 4; lane++) {
            size_t length = lengths[which[lane]];
            block[lane] = varscope_blake_block(messages[which[lane]], length, 128 * n, padded,
                                               spare[lane]);
            counted[lane] = (int64_t)(n + 1 < blocks ? 128 * (n + 1) : length);
        }
        varscope_transposed(block, m);
        for (int i = 0; i < 8; i++) {
            v[i] = h[i];
            v[i + 8] = _mm256_set1_epi64x((int64_t)varscope_blake_start[i]);
        }
        v[12] = _mm256_xor_si256(v[12], _mm256_loadu_si256((const __m256i *)counted));
        if (n + 1 == blocks) v[14] = _mm256_xor_si256(v[14], _mm256_set1_epi64x(-1));
#define VARSCOPE_MIX(a, b, c, d, x, y)                                                     \
        v[a] = _mm256_add_epi64(_mm256_add_epi64(v[a], m[x]), v[b]);                       \
        v[d] = _mm256_shuffle_epi32(_mm256_xor_si256(v[d], v[a]), 0xB1);                   \
        v[c] = _mm256_add_epi64(v[c], v[d]);                                               \
        v[b] = _mm256_shuffle_epi8(_mm256_xor_si256(v[b], v[c]), by24);                    \
        v[a] = _mm256_add_epi64(_mm256_add_epi64(v[a], m[y]), v[b]);                       \
        v[d] = _mm256_shuffle_epi8(_mm256_xor_si256(v[d], v[a]), by16);                    \
        v[c] = _mm256_add_epi64(v[c], v[d]);                                               \
        v[b] = _mm256_xor_si256(v[b], v[c]);                                               \
        v[b] = _mm256_xor_si256(_mm256_srli_epi64(v[b], 63), _mm256_add_epi64(v[b], v[b]));
        VARSCOPE_BLAKE_ROUNDS(VARSCOPE_MIX)
#undef VARSCOPE_MIX
        for (int i = 0; i < 8; i++)
            h[i] = _mm256_xor_si256(h[i], _mm256_xor_si256(v[i], v[i + 8]));
    }
    uint64_t low[4], high[4];
    _mm256_storeu_si256((__m256i *)low, h[0]);
    _mm256_storeu_si256((__m256i *)high, h[1]);
    for (int lane = 0; lane < 4; lane++) {
        keys[which[lane]][0] = low[lane];
        keys[which[lane]][1] = high[lane];
    }
}

/* Eight words of eight blocks, from an offset on: word i in the lanes of out[i]. */
VARSCOPE_WIDER
static inline void varscope_transposed_more(const unsigned char *const from[8], size_t offset,
                                            __m512i out[8]) {
    __m512i r[8], t[8], u[4];
    for (int i = 0; i < 8; i++) r[i] = _mm512_loadu_si512(from[i] + offset);
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm512_unpacklo_epi64(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi64(r[i], r[i + 1]);
    }
    for (int odd = 0; odd < 2; odd++) { /* words 0, 2, 4, 6; then 1, 3, 5, 7 */
        u[0] = _mm512_shuffle_i64x2(t[odd], t[2 + odd], 0x88);
        u[1] = _mm512_shuffle_i64x2(t[odd], t[2 + odd], 0xDD);
        u[2] = _mm512_shuffle_i64x2(t[4 + odd], t[6 + odd], 0x88);
        u[3] = _mm512_shuffle_i64x2(t[4 + odd], t[6 + odd], 0xDD);
        out[odd] = _mm512_shuffle_i64x2(u[0], u[2], 0x88);
        out[2 + odd] = _mm512_shuffle_i64x2(u[1], u[3], 0x88);
        out[4 + odd] = _mm512_shuffle_i64x2(u[0], u[2], 0xDD);
        out[6 + odd] = _mm512_shuffle_i64x2(u[1], u[3], 0xDD);
    }
}

/* The same for eight, on machines with AVX-512, which can rotate. */
VARSCOPE_WIDER
static void varscope_blake_more_lanes(const unsigned char *const *messages, const size_t *lengths,
                                 const size_t which[8], size_t blocks, int padded,
                                      uint64_t (*keys)[2]) {
    __m512i h[8], v[16], m[16];
    unsigned char spare[8][128];
    for (int i = 0; i < 8; i++) h[i] = _mm512_set1_epi64((int64_t)varscope_blake_start[i]);
    h[0] = _mm512_xor_si512(h[0], _mm512_set1_epi64((int64_t)VARSCOPE_BLAKE_SIZES));
    h[6] = _mm512_xor_si512(h[6], _mm512_set1_epi64((int64_t)VARSCOPE_BLAKE_PERSON));
    for (size_t n = 0; n < blocks; n++) {
        const unsigned char *block[8];
        int64_t counted[8];
        for (int lane = 0; lane < 8; lane++) {
            size_t length = lengths[which[lane]];
            block[lane] = varscope_blake_block(messages[which[lane]], length, 128 * n, padded,
                                               spare[lane]);
            counted[lane] = (int64_t)(n + 1 < blocks ? 128 * (n + 1) : length);
        }
        varscope_transposed_more(block, 0, m);
        varscope_transposed_more(block, 64, m + 8);
        for (int i = 0; i < 8; i++) {
            v[i] = h[i];
            v[i + 8] = _mm512_set1_epi64((int64_t)varscope_blake_start[i]);
        }
        v[12] = _mm512_xor_si512(v[12], _mm512_loadu_si512((const __m512i *)counted));
        if (n + 1 == blocks) v[14] = _mm512_xor_si512(v[14], _mm512_set1_epi64(-1));
#define VARSCOPE_MIX(a, b, c, d, x, y)                                                     \
        v[a] = _mm512_add_epi64(_mm512_add_epi64(v[a], m[x]), v[b]);                       \
        v[d] = _mm512_ror_epi64(_mm512_xor_si512(v[d], v[a]), 32);                          \
        v[c] = _mm512_add_epi64(v[c], v[d]);                                               \
        v[b] = _mm512_ror_epi64(_mm512_xor_si512(v[b], v[c]), 24);                    \
        v[a] = _mm512_add_epi64(_mm512_add_epi64(v[a], m[y]), v[b]);                       \
        v[d] = _mm512_ror_epi64(_mm512_xor_si512(v[d], v[a]), 16);                    \
        v[c] = _mm512_add_epi64(v[c], v[d]);                                               \
        v[b] = _mm512_ror_epi64(_mm512_xor_si512(v[b], v[c]), 63);
        VARSCOPE_BLAKE_ROUNDS(VARSCOPE_MIX)
#undef VARSCOPE_MIX
        for (int i = 0; i < 8; i++)
            h[i] = _mm512_xor_si512(h[i], _mm512_xor_si512(v[i], v[i + 8]));
    }
    uint64_t low[8], high[8];
    _mm512_storeu_si512((__m512i *)low, h[0]);
    _mm512_storeu_si512((__m512i *)high, h[1]);
    for (int lane = 0; lane < 8; lane++) {
        keys[which[lane]][0] = low[lane];
        keys[which[lane]][1] = high[lane];
    }
}
#endif

#if VARSCOPE_TWICE
/* As many of the messages `which` as there are lanes, all of `blocks` blocks. */
static void varscope_blake_some(const unsigned char *const *messages, const size_t *lengths,
                                const size_t *which, size_t blocks, int padded,
                                uint64_t (*keys)[2]) {
    if (varscope_wide > 1)
        varscope_blake_more_lanes(messages, lengths, which, blocks, padded, keys);
    else
        varscope_blake_lanes(messages, lengths, which, blocks, padded, keys);
}
#endif

/* The keys of n messages: keys[i] is the digest as two words, the lower one of the number that
 * randomness.path_key returns first.  Where the messages are padded, zeros follow each up to the
 * end of its last block of 128 bytes, an empty one's too, and none is copied. */
static void varscope_path_keys(const unsigned char *const *messages, const size_t *lengths,
                               size_t n, int padded, uint64_t (*keys)[2]) {
    size_t i = 0;
    (void)padded;
#if VARSCOPE_TWICE
    enum { MOST = 4 }; /* blocks; messages wait here for others of as many */
    const size_t lanes = varscope_wide > 1 ? 8 : 4;
    size_t waiting[MOST + 1][8], count[MOST + 1] = {0};
    for (; varscope_wide && i < n; i++) {
        size_t blocks = varscope_blake_blocks(lengths[i]);
        if (blocks > MOST) {
            varscope_blake(messages[i], lengths[i], keys[i]);
            continue;
        }
        waiting[blocks][count[blocks]++] = i;
        if (count[blocks] == lanes) {
            varscope_blake_some(messages, lengths, waiting[blocks], blocks, padded, keys);
            count[blocks] = 0;
        }
    }
    for (size_t blocks = 1; blocks <= MOST; blocks++) {
        size_t *last = waiting[blocks];
        if (count[blocks] == 1)
            varscope_blake(messages[last[0]], lengths[last[0]], keys[last[0]]);
        if (count[blocks] < 2) continue;
        for (size_t j = count[blocks]; j < lanes; j++) last[j] = last[0]; /* some are done twice */
        varscope_blake_some(messages, lengths, last, blocks, padded, keys);
    }
#endif
    for (; i < n; i++) varscope_blake(messages[i], lengths[i], keys[i]);
}

/* --- orthonormal columns -----------------------------------------------------------------------
 * The Q of the QR decomposition whose R has a positive diagonal, by Householder reflections
 * (Golub and Van Loan, "Matrix Computations", 5.2).  A library's result would vary with the
 * machine, in its last bits and in its signs.  Here each sum has one order: sums run over rows,
 * many columns at a time, so that the lanes of a register never hold parts of one sum.
 *
 * Reflections are collected in panels of 32 and applied together as I - V T V' (Schreiber and Van
 * Loan, "A storage-efficient WY representation for products of Householder transformations",
 * 1989), to strips of columns whose intermediate result stays in the first cache.  V takes the
 * place of the columns that it was made of, ones and zeros included: R is not kept, only the signs
 * of its diagonal.  Then the panels are applied to the columns of the identity, the last one
 * first.  4 m n**2 operations at most, more than 10 a nanosecond with AVX2. */

enum { VARSCOPE_PANEL = 32, VARSCOPE_STRIP = 64 };

typedef double varscope_row[VARSCOPE_PANEL];

/* x += a y, for whole rows. */
VARSCOPE_BODY void varscope_add(double *x, double a, const double *y, size_t count) {
    for (size_t i = 0; i < count; i++) x[i] += a * y[i];
}

/* The panel becomes V, of n reflections, and t their T; sign[j] that of the j-th diagonal of R. */
VARSCOPE_BODY void varscope_reflect(varscope_row *v, size_t m, size_t n, varscope_row *t,
                                    double *sign) {
    varscope_row tau, w;
    for (size_t j = 0; j < n; j++) {
        double rest = 0, head = v[j][j];
        for (size_t i = j + 1; i < m; i++) rest += v[i][j] * v[i][j];
        double norm = sqrt(head * head + rest);
        double diagonal = head > 0 ? -norm : norm;
        sign[j] = head > 0 ? -1 : 1;
        tau[j] = norm > 0 ? (diagonal - head) / diagonal : 0;
        double scale = norm > 0 ? 1 / (head - diagonal) : 0;
        for (size_t k = j + 1; k < n; k++) w[k] = v[j][k];
        for (size_t i = j + 1; i < m; i++) {
            v[i][j] *= scale;
            varscope_add(w + j + 1, v[i][j], v[i] + j + 1, n - j - 1);
        }
        for (size_t i = j + 1; i < m; i++)
            varscope_add(v[i] + j + 1, -tau[j] * v[i][j], w + j + 1, n - j - 1);
        for (size_t i = 0; i < j; i++) v[i][j] = 0; /* above was R */
        v[j][j] = 1;
    }
    varscope_row gram[VARSCOPE_PANEL];
    memset(gram, 0, sizeof gram);
    memset(t, 0, sizeof gram);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) varscope_add(gram[j], v[i][j], v[i], n);
    for (size_t j = 0; j < n; j++) {
        t[j][j] = tau[j];
        for (size_t i = 0; i < j; i++) {
            double sum = 0;
            for (size_t k = i; k < j; k++) sum += t[i][k] * gram[k][j];
            t[i][j] = -tau[j] * sum;
        }
    }
}

/* a - V T V' a, or with T', for a of m rows and `columns` columns. */
VARSCOPE_BODY void varscope_apply(const varscope_row *v, size_t m, size_t n,
                                  const varscope_row *t, int transposed, double *a,
                                  size_t columns, size_t stride) {
    double w[VARSCOPE_PANEL][VARSCOPE_STRIP], u[VARSCOPE_PANEL][VARSCOPE_STRIP];
    for (size_t start = 0; start < columns; start += VARSCOPE_STRIP) {
        size_t count = columns - start < VARSCOPE_STRIP ? columns - start : VARSCOPE_STRIP;
        double *strip = a + start;
        memset(w, 0, sizeof w);
        memset(u, 0, sizeof u);
        size_t i = 0;
        for (; i + 4 <= m; i += 4) { /* four rows a pass over w */
            const double *r0 = strip + i * stride, *r1 = r0 + stride;
            const double *r2 = r1 + stride, *r3 = r2 + stride;
            for (size_t k = 0; k < n; k++) {
                double c0 = v[i][k], c1 = v[i + 1][k], c2 = v[i + 2][k], c3 = v[i + 3][k];
                for (size_t j = 0; j < count; j++)
                    w[k][j] = w[k][j] + c0 * r0[j] + c1 * r1[j] + c2 * r2[j] + c3 * r3[j];
            }
        }
        for (; i < m; i++)
            for (size_t k = 0; k < n; k++) varscope_add(w[k], v[i][k], strip + i * stride, count);
        for (size_t k = 0; k < n; k++)
            for (size_t l = 0; l < n; l++)
                varscope_add(u[k], transposed ? t[l][k] : t[k][l], w[l], count);
        for (i = 0; i < m; i++) {
            double *row = strip + i * stride;
            for (size_t k = 0; k < VARSCOPE_PANEL; k += 4) { /* what is beyond n is zero */
                double c0 = v[i][k], c1 = v[i][k + 1], c2 = v[i][k + 2], c3 = v[i][k + 3];
                for (size_t j = 0; j < count; j++)
                    row[j] = row[j] - c0 * u[k][j] - c1 * u[k + 1][j] - c2 * u[k + 2][j] -
                             c3 * u[k + 3][j];
            }
        }
    }
}

VARSCOPE_BODY void varscope_orthonormal(double *a, size_t m, size_t n, varscope_row *v,
                                        varscope_row *t, double *sign) {
    size_t first, width;
    for (first = 0; first < n; first += VARSCOPE_PANEL) {
        width = n - first < VARSCOPE_PANEL ? n - first : VARSCOPE_PANEL;
        double *corner = a + first * n + first;
        memset(v, 0, (m - first) * sizeof *v);
        for (size_t i = 0; i < m - first; i++) memcpy(v[i], corner + i * n, 8 * width);
        varscope_reflect(v, m - first, width, t + first, sign + first);
        varscope_apply(v, m - first, width, t + first, 1, corner + width, n - first - width, n);
        for (size_t i = 0; i < m - first; i++) memcpy(corner + i * n, v[i], 8 * width);
    }
    while (first > 0) {
        first -= VARSCOPE_PANEL;
        width = n - first < VARSCOPE_PANEL ? n - first : VARSCOPE_PANEL;
        double *corner = a + first * n + first;
        memset(v, 0, (m - first) * sizeof *v);
        for (size_t i = 0; i < m - first; i++) {
            memcpy(v[i], corner + i * n, 8 * width);
            memset(corner + i * n, 0, 8 * width);
            /* to the right of the panel, its rows are still what they were made of */
            if (i < width) memset(corner + i * n, 0, 8 * (n - first));
            if (i < width) corner[i * n + i] = 1;
        }
        varscope_apply(v, m - first, width, t + first, 0, corner, n - first, n);
    }
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) a[i * n + j] *= sign[j];
}

#if VARSCOPE_TWICE
VARSCOPE_WIDE
static void varscope_orthonormal_wide(double *a, size_t m, size_t n, varscope_row *v,
                                      varscope_row *t, double *sign) {
    varscope_orthonormal(a, m, n, v, t, sign);
}
#endif

/* What varscope_orthogonalize needs beside the matrix, in bytes. */
static size_t varscope_orthogonalize_room(size_t m, size_t n) {
    return (m + n + VARSCOPE_PANEL) * sizeof(varscope_row) + n * sizeof(double);
}

/* A C-contiguous matrix of m rows and n columns, m >= n, gets orthonormal columns in its place. */
static void varscope_orthogonalize(double *a, size_t m, size_t n, void *room) {
    varscope_row *v = room, *t = v + m;
    double *sign = (double *)(t + n + VARSCOPE_PANEL);
#if VARSCOPE_TWICE
    if (varscope_wide) {
        varscope_orthonormal_wide(a, m, n, v, t, sign);
        return;
    }
#endif
    varscope_orthonormal(a, m, n, v, t, sign);
}

#endif
