/* Any machine: what the compiler makes of plain loops. */
#include "instruction_set.h"
#include "kernels/pointwise.h"

using namespace gq;

namespace {

/* The indices of a block, group after group. */
template <int BITS>
static void unpack(const uint8_t *block, uint8_t *index) {
    constexpr int parts[4] = {8, 4, 2, 1};
    for (int i = 0; i < 512; ++i) index[i] = 0;
    for (int part : parts) {
        if (!(BITS & part)) continue;
        const uint8_t *plane = block + begin(BITS, part);
        const int low = below(BITS, part), mask = (1 << part) - 1;
        for (int group = 0; group < 8; ++group) {
            const uint8_t *from = plane + 64 * (group * part / 8);
            const int shift = group * part % 8;
            for (int i = 0; i < 64; ++i)
                index[64 * group + i] |= (uint8_t)((from[i] >> shift & mask) << low);
        }
    }
}

template <int M>
INLINE void add_values(const float *values, const float *x, float (&sum)[M][ROWS]) {
    for (int j = 0; j < COLS; ++j)
        for (int m = 0; m < M; ++m)
            for (int r = 0; r < ROWS; ++r)
                sum[m][r] += values[j * ROWS + r] * x[4 * (j / 4 * M + m) + j % 4];
}

template <int M>
INLINE void add_codes(const uint8_t *codes, const int8_t *x, int32_t (&sum)[M][4 * ROWS]) {
    for (int group = 0; group < 8; ++group)
        for (int m = 0; m < M; ++m)
            for (int i = 0; i < 64; ++i)
                sum[m][i] += (int16_t)(int8_t)codes[64 * group + i] *
                             (int16_t)x[4 * (group * M + m) + i % 4];
}

template <bool ADD, int M>
INLINE void store_int8(const int32_t (&sum)[M][4 * ROWS], int32_t *out) {
    for (int m = 0; m < M; ++m)
        for (int r = 0; r < ROWS; ++r) {
            const int32_t *s = sum[m] + 4 * r;
            out[m * ROWS + r] = (ADD ? out[m * ROWS + r] : 0) + s[0] + s[1] + s[2] + s[3];
        }
}

struct kernels : pointwise {
    template <int BITS>
    static void values(const uint8_t *stripe, int64_t blocks, const tables *t, float *out) {
        uint8_t index[512];
        for (; blocks > 0; --blocks, stripe += block_bytes(BITS), out += VALUES) {
            unpack<BITS>(stripe, index);
            for (int j = 0; j < COLS; ++j)
                for (int r = 0; r < ROWS; ++r)
                    out[j * ROWS + r] = t->value[index[64 * (j / 4) + 4 * r + j % 4]];
        }
    }

    template <int BITS>
    static void codes(const uint8_t *stripe, int64_t blocks, const tables *t, uint8_t *out) {
        uint8_t index[512];
        for (; blocks > 0; --blocks, stripe += block_bytes(BITS), out += VALUES) {
            unpack<BITS>(stripe, index);
            for (int i = 0; i < VALUES; ++i) out[i] = (uint8_t)t->code[index[i]];
        }
    }

    template <int BITS, int M>
    static void dot_float(const uint8_t *stripe, int64_t blocks, const tables *t, const float *x,
                   float *out) {
        float w[VALUES], sum[M][ROWS] = {};
        for (; blocks > 0; --blocks, stripe += block_bytes(BITS), x += COLS * M) {
            values<BITS>(stripe, 1, t, w);
            add_values<M>(w, x, sum);
        }
        __builtin_memcpy(out, sum, sizeof sum);
    }

    template <int BITS, int M>
    static void dot_int8(const uint8_t *stripe, int64_t blocks, const tables *t, const int8_t *x,
                  const int32_t *, int32_t *out) {
        uint8_t w[VALUES];
        int32_t sum[M][4 * ROWS] = {};
        for (; blocks > 0; --blocks, stripe += block_bytes(BITS), x += COLS * M) {
            codes<BITS>(stripe, 1, t, w);
            add_codes<M>(w, x, sum);
        }
        store_int8<false>(sum, out);
    }

    template <int M>
    static void dot_values(const float *values, int64_t blocks, const float *x, ahead_t,
                    float *out) {
        float sum[M][ROWS] = {};
        for (; blocks > 0; --blocks, values += VALUES, x += COLS * M)
            add_values<M>(values, x, sum);
        for (int i = 0; i < M * ROWS; ++i) out[i] += sum[i / ROWS][i % ROWS];
    }

    template <int M>
    static void dot_codes(const uint8_t *codes, int64_t blocks, const int8_t *x,
                          const int32_t *, ahead_t, int32_t *out) {
        int32_t sum[M][4 * ROWS] = {};
        for (; blocks > 0; --blocks, codes += VALUES, x += COLS * M)
            add_codes<M>(codes, x, sum);
        store_int8<true>(sum, out);
    }

    static uint64_t read(const uint8_t *data, int64_t bytes) {
        uint64_t sum = 0, word;
        for (int64_t i = 0; i < bytes; i += 8) {
            __builtin_memcpy(&word, data + i, 8);
            sum += word;
        }
        return sum;
    }
};

}  // namespace

constexpr instruction_set gq::portable =
    make_instruction_set<kernels>("portable", &pass_portable);
