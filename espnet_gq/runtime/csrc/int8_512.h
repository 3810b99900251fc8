/* The int8 products of both AVX-512 instruction sets, in terms of their code_table,
 * add_products and store_int8. */
template <int BITS, int M, int G, int CHAINS>
INLINE void int8_group(const block_t<BITS> &block, const code_table<BITS> &table,
                       const int8_t *x, __m512i (&sum)[CHAINS][M]) {
    add_products<M>(table.look_up(block.template group<G>()), x + 4 * G * M,
                    sum[G % CHAINS]);
}

template <int BITS, int M>
void dot_int8(const uint8_t *stripe, int64_t blocks, const tables *t, const int8_t *x,
              const int32_t *total, int32_t *out) {
    constexpr int chains = M >= 8 ? 1 : M >= 4 ? 2 : 4;
    const code_table<BITS> table(t);
    __m512i sum[chains][M];
    for (int i = 0; i < chains; ++i)
        for (int m = 0; m < M; ++m) sum[i][m] = _mm512_setzero_si512();
    for (; blocks > 0; --blocks, stripe += 64 * BITS, x += COLS * M) {
        const block_t<BITS> block(stripe);
        prefetch<BITS>(stripe);
        int8_group<BITS, M, 0>(block, table, x, sum);
        int8_group<BITS, M, 1>(block, table, x, sum);
        int8_group<BITS, M, 2>(block, table, x, sum);
        int8_group<BITS, M, 3>(block, table, x, sum);
        int8_group<BITS, M, 4>(block, table, x, sum);
        int8_group<BITS, M, 5>(block, table, x, sum);
        int8_group<BITS, M, 6>(block, table, x, sum);
        int8_group<BITS, M, 7>(block, table, x, sum);
    }
    store_int8<M, chains>(sum, total, out);
}

template <int BITS>
void codes(const uint8_t *stripe, int64_t blocks, const tables *t, uint8_t *out) {
    const code_table<BITS> table(t);
    for (; blocks > 0; --blocks, stripe += 64 * BITS, out += COLS * ROWS) {
        const block_t<BITS> block(stripe);
        _mm512_storeu_si512(out, table.look_up(block.template group<0>()));
        _mm512_storeu_si512(out + 64, table.look_up(block.template group<1>()));
        _mm512_storeu_si512(out + 128, table.look_up(block.template group<2>()));
        _mm512_storeu_si512(out + 192, table.look_up(block.template group<3>()));
        _mm512_storeu_si512(out + 256, table.look_up(block.template group<4>()));
        _mm512_storeu_si512(out + 320, table.look_up(block.template group<5>()));
        _mm512_storeu_si512(out + 384, table.look_up(block.template group<6>()));
        _mm512_storeu_si512(out + 448, table.look_up(block.template group<7>()));
    }
}

template <int M>
void dot_codes(const uint8_t *codes, int64_t blocks, const int8_t *x,
               const int32_t *total, ahead_t ahead, int32_t *out) {
    constexpr int chains = M >= 8 ? 1 : M >= 4 ? 2 : 4;
    __m512i sum[chains][M];
    for (int i = 0; i < chains; ++i)
        for (int m = 0; m < M; ++m) sum[i][m] = _mm512_setzero_si512();
    for (; blocks > 0; --blocks, codes += COLS * ROWS, x += COLS * M,
                       ahead.at += 64 * ahead.lines)
        for (int g = 0; g < 8; ++g) {
            if (g < ahead.lines) _mm_prefetch((const char *)ahead.at + 64 * g, _MM_HINT_T0);
            add_products<M>(load64(codes + 64 * g), x + 4 * g * M, sum[g % chains]);
        }
    store_int8<M, chains>(sum, total, out);
}
