/* The random kernels: words, values and keys, in plain C. */
#ifndef VARSCOPE_KERNELS_H
#define VARSCOPE_KERNELS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { LAW_CONSTANT, LAW_UNIFORM, LAW_NORMAL, LAW_TRUNCATED, LAW_INTEGERS };
enum { TYPE_F16, TYPE_BF16, TYPE_F32, TYPE_F64, TYPE_INT };

/* What an element is, as a function of its random bits.
 *
 *   LAW_UNIFORM    a + b * u                        in [bottom, top]
 *   LAW_NORMAL     a + b * z                        bottom, top: -inf, inf
 *   LAW_TRUNCATED  a + b * z, z in [-2, 2]          in [bottom, top]
 *   LAW_INTEGERS   low + the upper word of word * range; range 0 stands for 2**64
 *   LAW_CONSTANT   pattern: the itemsize bytes of each element
 *
 * bottom and top are values of the type. */
typedef struct {
    int kind, type;
    unsigned itemsize;
    double a, b, bottom, top;
    int64_t low;
    uint64_t range;
    unsigned char pattern[16];
} varscope_law;

/* --- Philox4x64-10 --- */

static inline uint64_t varscope_mulhi(uint64_t a, uint64_t b, uint64_t *low) {
    unsigned __int128 product = (unsigned __int128)a * b;
    *low = (uint64_t)product;
    return (uint64_t)(product >> 64);
}

static inline void varscope_philox(const uint64_t key[2], const uint64_t counter[4],
                                   uint64_t out[4]) {
    uint64_t a = counter[0], b = counter[1], c = counter[2], d = counter[3];
    uint64_t k = key[0], l = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t low0, low1;
        uint64_t high0 = varscope_mulhi(a, 0xD2E7470EE14C6C93ULL, &low0);
        uint64_t high1 = varscope_mulhi(c, 0xCA5A826395121157ULL, &low1);
        a = high1 ^ b ^ k;
        c = high0 ^ d ^ l;
        b = low1;
        d = low0;
        k += 0x9E3779B97F4A7C15ULL;
        l += 0xBB67AE8584CAA73BULL;
    }
    out[0] = a; out[1] = b; out[2] = c; out[3] = d;
}

/* Words 4*0 .. of the blocks behind a counter of 256 bits: NumPy counts before the first block. */
static inline void varscope_words_from(const uint64_t key[2], const uint64_t counter[4],
                                       uint64_t blocks, uint64_t *out) {
    uint64_t at[4] = {counter[0], counter[1], counter[2], counter[3]};
    for (uint64_t i = 0; i < blocks; i++) {
        if (++at[0] == 0 && ++at[1] == 0 && ++at[2] == 0) at[3]++;
        varscope_philox(key, at, out + 4 * i);
    }
}

static inline uint64_t varscope_word(const uint64_t key[2], uint64_t index) {
    uint64_t counter[4] = {index / 4 + 1, 0, 0, 0}, out[4];
    varscope_philox(key, counter, out);
    return out[index % 4];
}

/* words start .. start+count-1 */
static void varscope_words(const uint64_t key[2], uint64_t start, uint64_t count, uint64_t *out) {
    for (uint64_t i = 0; i < count; i++) out[i] = varscope_word(key, start + i);
}

/* --- elements --- */

static inline double varscope_clamped(const varscope_law *law, double x) {
    return x < law->bottom ? law->bottom : x > law->top ? law->top : x;
}

static inline double varscope_box_muller(double u, double turns, int odd) {
    double r = sqrt(-2 * log(u));
    return r * (odd ? sin(6.283185307179586 * turns) : cos(6.283185307179586 * turns));
}

static inline double varscope_truncated(double u) {
    double p = 0.022750131948179212 + u * 0.9544997361036416, low = -2, high = 2;
    for (int i = 0; i < 60; i++) {
        double z = (low + high) / 2;
        if (0.5 * erfc(-z * 0.7071067811865476) < p) low = z; else high = z;
    }
    return low;
}

static inline double varscope_element(const varscope_law *law, const uint64_t key[2], uint64_t i) {
    double u;
    if (law->type == TYPE_F64) {
        if (law->kind == LAW_NORMAL) {
            double r = ((varscope_word(key, i & ~1ULL) >> 12) + 0.5) * 0x1p-52;
            double t = ((varscope_word(key, i | 1) >> 12) + 0.5) * 0x1p-52;
            return law->a + law->b * varscope_box_muller(r, t, i & 1);
        }
        uint64_t word = varscope_word(key, i);
        if (law->kind == LAW_TRUNCATED)
            return law->a + law->b * varscope_truncated(((word >> 12) + 0.5) * 0x1p-52);
        return law->a + law->b * ((word >> 11) * 0x1p-53);
    }
    uint64_t word = varscope_word(key, i / 2);
    if (law->kind == LAW_NORMAL) {
        double r = ((uint32_t)word + 0.5) * 0x1p-32, t = ((word >> 32) + 0.5) * 0x1p-32;
        return (float)law->a + (float)law->b * (float)varscope_box_muller(r, t, i & 1);
    }
    uint32_t half = i & 1 ? word >> 32 : word;
    if (law->kind == LAW_TRUNCATED)
        return (float)law->a + (float)law->b * (float)varscope_truncated((half + 0.5) * 0x1p-32);
    u = half * 0x1p-32;
    return law->a + law->b * u;
}

static inline uint16_t varscope_to_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static inline uint16_t varscope_to_float16(float value) {
    uint32_t bits, sign;
    memcpy(&bits, &value, 4);
    sign = bits >> 16 & 0x8000;
    bits &= 0x7FFFFFFF;
    if (bits >= 0x47800000) return (uint16_t)(sign | (bits > 0x7F800000 ? 0x7E00 : 0x7C00));
    if (bits < 0x38800000) {
        float magic, x;
        uint32_t base = 0x3F000000; /* 0.5: one unit in its last place is the smallest float16 */
        memcpy(&magic, &base, 4);
        memcpy(&x, &bits, 4);
        x += magic;
        memcpy(&bits, &x, 4);
        return (uint16_t)(sign | (bits - base));
    }
    return (uint16_t)(sign | ((bits + 0xC8000FFF + (bits >> 13 & 1)) >> 13));
}

/* Elements first .. first+count-1 of the stream of key, packed, to out. */
static void varscope_fill_run(const varscope_law *law, const uint64_t key[2], uint64_t first,
                              uint64_t count, void *out) {
    unsigned char *to = out;
    for (uint64_t i = first; i < first + count; i++, to += law->itemsize) {
        if (law->kind == LAW_CONSTANT) {
            memcpy(to, law->pattern, law->itemsize);
        } else if (law->kind == LAW_INTEGERS) {
            uint64_t low, word = varscope_word(key, i);
            uint64_t value = law->range ? varscope_mulhi(word, law->range, &low) : word;
            value += (uint64_t)law->low;
            uint8_t v8 = (uint8_t)value; uint16_t v16 = (uint16_t)value;
            uint32_t v32 = (uint32_t)value;
            if (law->itemsize == 1) memcpy(to, &v8, 1);
            else if (law->itemsize == 2) memcpy(to, &v16, 2);
            else if (law->itemsize == 4) memcpy(to, &v32, 4);
            else memcpy(to, &value, 8);
        } else {
            double value = varscope_element(law, key, i);
            value = varscope_clamped(law, law->type == TYPE_F64 ? value : (float)value);
            float single = (float)value;
            uint16_t half = law->type == TYPE_F16 ? varscope_to_float16(single)
                                                  : varscope_to_bfloat16(single);
            if (law->type == TYPE_F64) memcpy(to, &value, 8);
            else if (law->type == TYPE_F32) memcpy(to, &single, 4);
            else memcpy(to, &half, 2);
        }
    }
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
    uint64_t step = axis.step > 0 && axis.step <= 8 ? (uint64_t)axis.step : 1;
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
        if (kept > 0 && axes[kept - 1].step == axis.count * axis.step &&
            axes[kept - 1].apart == axis.count * axis.apart)
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
            first -= (uint64_t)(axes[i].count * axes[i].step);
            index[i] = 0;
        }
        if (i < 0) return;
    }
}

/* --- BLAKE2b --- */

static const uint64_t VARSCOPE_BLAKE_IV[8] = {
    0x6A09E667F3BCC908ULL, 0xBB67AE8584CAA73BULL, 0x3C6EF372FE94F82BULL, 0xA54FF53A5F1D36F1ULL,
    0x510E527FADE682D1ULL, 0x9B05688C2B3E6C1FULL, 0x1F83D9ABFB41BD6BULL, 0x5BE0CD19137E2179ULL};
static const uint8_t VARSCOPE_BLAKE_SIGMA[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
    {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
    {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
    {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
    {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

static inline uint64_t varscope_rotated(uint64_t x, int n) { return x >> n | x << (64 - n); }

static void varscope_blake_block(uint64_t h[8], const unsigned char *block, uint64_t counted,
                                 int last) {
    uint64_t m[16], v[16];
    for (int i = 0; i < 16; i++) {
        m[i] = 0;
        for (int j = 7; j >= 0; j--) m[i] = m[i] << 8 | block[8 * i + j];
    }
    for (int i = 0; i < 8; i++) v[i] = h[i], v[8 + i] = VARSCOPE_BLAKE_IV[i];
    v[12] ^= counted;
    if (last) v[14] = ~v[14];
#define VARSCOPE_G(a, b, c, d, x, y)                            \
    v[a] += v[b] + m[x]; v[d] = varscope_rotated(v[d] ^ v[a], 32); \
    v[c] += v[d];        v[b] = varscope_rotated(v[b] ^ v[c], 24); \
    v[a] += v[b] + m[y]; v[d] = varscope_rotated(v[d] ^ v[a], 16); \
    v[c] += v[d];        v[b] = varscope_rotated(v[b] ^ v[c], 63);
    for (int r = 0; r < 12; r++) {
        const uint8_t *s = VARSCOPE_BLAKE_SIGMA[r % 10];
        VARSCOPE_G(0, 4, 8, 12, s[0], s[1])
        VARSCOPE_G(1, 5, 9, 13, s[2], s[3])
        VARSCOPE_G(2, 6, 10, 14, s[4], s[5])
        VARSCOPE_G(3, 7, 11, 15, s[6], s[7])
        VARSCOPE_G(0, 5, 10, 15, s[8], s[9])
        VARSCOPE_G(1, 6, 11, 12, s[10], s[11])
        VARSCOPE_G(2, 7, 8, 13, s[12], s[13])
        VARSCOPE_G(3, 4, 9, 14, s[14], s[15])
    }
#undef VARSCOPE_G
    for (int i = 0; i < 8; i++) h[i] ^= v[i] ^ v[8 + i];
}

/* BLAKE2b of 16 bytes, person "varscope", of n messages: keys[i] is the digest as two words, the
 * lower one of randomness.path_key first. */
static void varscope_path_keys(const unsigned char *const *messages, const size_t *lengths,
                               size_t n, uint64_t (*keys)[2]) {
    for (size_t i = 0; i < n; i++) {
        uint64_t h[8];
        const unsigned char *at = messages[i];
        size_t left = lengths[i], counted = 0;
        unsigned char tail[128];
        for (int j = 0; j < 8; j++) h[j] = VARSCOPE_BLAKE_IV[j];
        h[0] ^= 0x01010010;             /* 16 bytes, no key, fanout and depth 1 */
        h[6] ^= 0x65706F6373726176ULL;  /* "varscope" */
        for (; left > 128; at += 128, left -= 128)
            varscope_blake_block(h, at, counted += 128, 0);
        memset(tail, 0, 128);
        if (left) memcpy(tail, at, left);
        varscope_blake_block(h, tail, counted + left, 1);
        keys[i][0] = h[0];
        keys[i][1] = h[1];
    }
}

/* --- orthogonal matrices --- */

#endif
