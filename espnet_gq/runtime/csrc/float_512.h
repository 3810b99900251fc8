/* The exact products of both AVX-512 instruction sets, in terms of their float_table,
 * and reading. */
template <int M, int CHAINS>
INLINE void store_sums(__m512 (&sum)[CHAINS][M], float *out) {
    for (int m = 0; m < M; ++m) {
        __m512 total = sum[0][m];
        for (int i = 1; i < CHAINS; ++i) total = _mm512_add_ps(total, sum[i][m]);
        _mm512_storeu_ps(out + 16 * m, total);
    }
}

template <int BITS, int M, int G, int CHAINS>
INLINE void float_group(const block_t<BITS> &block, const float_table<BITS> &table,
                        const float *x, __m512 (&sum)[CHAINS][M]) {
    __m512 w[4];
    table.look_up(block.template group<G>(), w);
    for (int j = 0; j < 4; ++j)
        for (int m = 0; m < M; ++m)
            sum[j % CHAINS][m] = _mm512_fmadd_ps(
                w[j], _mm512_set1_ps(x[(4 * G) * M + 4 * m + j]), sum[j % CHAINS][m]);
}

template <int BITS, int M>
void dot_float(const uint8_t *stripe, int64_t blocks, const tables *t, const float *x,
               float *out) {
    constexpr int chains = M >= 8 ? 1 : M >= 4 ? 2 : 4;
    const float_table<BITS> table(t);
    __m512 sum[chains][M];
    for (int i = 0; i < chains; ++i)
        for (int m = 0; m < M; ++m) sum[i][m] = _mm512_setzero_ps();
    for (; blocks > 0; --blocks, stripe += 64 * BITS, x += COLS * M) {
        const block_t<BITS> block(stripe);
        prefetch<BITS>(stripe);
        float_group<BITS, M, 0>(block, table, x, sum);
        float_group<BITS, M, 1>(block, table, x, sum);
        float_group<BITS, M, 2>(block, table, x, sum);
        float_group<BITS, M, 3>(block, table, x, sum);
        float_group<BITS, M, 4>(block, table, x, sum);
        float_group<BITS, M, 5>(block, table, x, sum);
        float_group<BITS, M, 6>(block, table, x, sum);
        float_group<BITS, M, 7>(block, table, x, sum);
    }
    store_sums<M, chains>(sum, out);
}

template <int BITS, int G>
INLINE void values_group(const block_t<BITS> &block, const float_table<BITS> &table,
                         float *out) {
    __m512 w[4];
    table.look_up(block.template group<G>(), w);
    for (int j = 0; j < 4; ++j) _mm512_storeu_ps(out + 64 * G + 16 * j, w[j]);
}

template <int BITS>
void values(const uint8_t *stripe, int64_t blocks, const tables *t, float *out) {
    const float_table<BITS> table(t);
    for (; blocks > 0; --blocks, stripe += 64 * BITS, out += COLS * ROWS) {
        const block_t<BITS> block(stripe);
        values_group<BITS, 0>(block, table, out);
        values_group<BITS, 1>(block, table, out);
        values_group<BITS, 2>(block, table, out);
        values_group<BITS, 3>(block, table, out);
        values_group<BITS, 4>(block, table, out);
        values_group<BITS, 5>(block, table, out);
        values_group<BITS, 6>(block, table, out);
        values_group<BITS, 7>(block, table, out);
    }
}

template <int M>
void dot_values(const float *values, int64_t blocks, const float *x, ahead_t ahead,
                float *out) {
    constexpr int chains = M >= 8 ? 1 : M >= 4 ? 2 : 4;
    __m512 sum[chains][M];
    for (int i = 0; i < chains; ++i)
        for (int m = 0; m < M; ++m) sum[i][m] = _mm512_setzero_ps();
    for (; blocks > 0; --blocks, ahead.at += 64 * ahead.lines)
        for (int g = 0; g < 8; ++g, values += 4 * ROWS, x += 4 * M) {
            if (g < ahead.lines) _mm_prefetch((const char *)ahead.at + 64 * g, _MM_HINT_T0);
            for (int j = 0; j < 4; ++j) {
                __m512 w = _mm512_loadu_ps(values + ROWS * j);
                for (int m = 0; m < M; ++m)
                    sum[j % chains][m] = _mm512_fmadd_ps(
                        w, _mm512_set1_ps(x[4 * m + j]), sum[j % chains][m]);
            }
        }
    store_sums<M, chains>(sum, out);
}

uint64_t read_words(const uint8_t *data, int64_t bytes) {
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (int64_t i = 0; i < bytes; i += 256) {
        a = _mm512_add_epi64(a, load64(data + i));
        b = _mm512_add_epi64(b, load64(data + i + 64));
        c = _mm512_add_epi64(c, load64(data + i + 128));
        d = _mm512_add_epi64(d, load64(data + i + 192));
    }
    a = _mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_add_epi64(c, d));
    uint64_t words[8], sum = 0;
    _mm512_storeu_si512(words, a);
    for (uint64_t word : words) sum += word;
    return sum;
}
