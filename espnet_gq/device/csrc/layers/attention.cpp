#include "layers/attention.h"

#include <math.h>
#include <string.h>

#include <algorithm>

#include "file/loader.h"

namespace asr {

namespace {

enum { BLOCK = 32 }; /* queries at a time */

int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

/* x: (n, depth) of row size ldx; out: (depth, padded(n)). */
void transpose(const float *x, int64_t ldx, int64_t n, int64_t depth, float *out) {
    const int64_t ldo = padded(n);
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < depth; ++j) out[j * ldo + i] = x[i * ldx + j];
}

void add_bias(const float *x, int64_t ldx, const float *bias, int64_t n, int64_t depth,
              float *out) {
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < depth; ++j)
            out[i * depth + j] = x[i * ldx + j] + (bias ? bias[j] : 0.0f);
}

/* The row of position scores that ESPnet's shift makes of rows i (own) and i + 1 (next)
 * of a (n, n) product. */
void shift_row(const float *own, const float *next, int64_t i, int64_t n, float *out) {
    memcpy(out, own + n - 1 - i, (size_t)(i + 1) * sizeof *out);
    if (i + 1 < n) out[i + 1] = 0.0f;
    if (i + 2 < n) memcpy(out + i + 2, next, (size_t)(n - i - 2) * sizeof *out);
}

}  // namespace

Attention Attention::load(Loader &loader, const std::string &name, AttentionKind kind,
                          int64_t heads, int64_t width) {
    Attention found;
    found.kind = kind;
    found.heads = heads;
    found.width = width;
    if (width % heads)
        loader.refuse("has %lld heads of attention, which do not divide %lld units",
                      (long long)heads, (long long)width);
    found.query = loader.matrix(name + ".linear_q", width, width);
    found.key = loader.matrix(name + ".linear_k", width, width);
    found.value = loader.matrix(name + ".linear_v", width, width);
    found.out = loader.matrix(name + ".linear_out", width, width);
    if (kind == PLAIN) return found;
    found.position = loader.matrix(name + ".linear_pos", width, width);
    found.bias_u = loader.floats(name + ".pos_bias_u", width);
    found.bias_v = loader.floats(name + ".pos_bias_v", width);
    return found;
}

int64_t Attention::positions(int64_t queries, int64_t keys) const {
    return kind == PLAIN ? 0 : kind == SHIFTED ? keys : queries + keys - 1;
}

void Attention::attend(const Loops &loops, float *q, int64_t queries, const float *k,
                       const float *v, int64_t keys, const float *p,
                       Arena &arena) const {
    Arena::Scope scope(arena);
    const int64_t depth = width / heads, ldk = padded(keys);
    const int64_t places = positions(queries, keys), ldp = padded(places);
    const float divisor = sqrtf((float)depth);
    float *keys_t = arena.take(depth * ldk);
    float *places_t = p ? arena.take(depth * ldp + BLOCK) : nullptr;
    float *with_bias = arena.take((BLOCK + 1) * depth);
    float *scores = arena.take(BLOCK * ldk);
    float *of_places = p ? arena.take((BLOCK + 1) * (ldp + BLOCK)) : nullptr;
    float *shifted = kind == SHIFTED ? arena.take(keys) : nullptr;
    for (int64_t h = 0; h < heads; ++h) {
        const int64_t at = h * depth;
        transpose(k + at, width, keys, depth, keys_t);
        if (p) transpose(p + at, width, places, depth, places_t);
        for (int64_t i = 0; i < queries; i += BLOCK) {
            const int64_t n = std::min<int64_t>(BLOCK, queries - i);
            float *of = q + i * width + at;
            add_bias(of, width, p ? bias_u + at : nullptr, n, depth, with_bias);
            loops.product(with_bias, depth, keys_t, ldk, n, keys, depth, scores, ldk);
            if (kind == RELATIVE) {
                /* Row j of the block needs places queries - 1 - (i + j) and on. */
                const int64_t first = queries - i - n, count = keys + n - 1;
                add_bias(of, width, bias_v + at, n, depth, with_bias);
                loops.product(with_bias, depth, places_t + first, ldp, n, count, depth,
                              of_places, count);
                for (int64_t j = 0; j < n; ++j)
                    loops.softmax(scores + j * ldk, of_places + j * count + n - 1 - j,
                                  divisor, keys);
            } else if (kind == SHIFTED) {
                /* The query after the block, which the results have not replaced. */
                const int64_t more = i + n < queries ? n + 1 : n;
                add_bias(of, width, bias_v + at, more, depth, with_bias);
                loops.product(with_bias, depth, places_t, ldp, more, keys, depth,
                              of_places, ldp);
                for (int64_t j = 0; j < n; ++j) {
                    const float *own = of_places + j * ldp;
                    shift_row(own, own + ldp, i + j, keys, shifted);
                    loops.softmax(scores + j * ldk, shifted, divisor, keys);
                }
            } else {
                for (int64_t j = 0; j < n; ++j)
                    loops.softmax(scores + j * ldk, nullptr, divisor, keys);
            }
            loops.product(scores, ldk, v + at, width, n, depth, keys, of, width);
        }
    }
}

void Attention::apply(const Compute &compute, const float *x, int64_t n,
                      const float *encodings, Arena &arena, float *result, int64_t first,
                      int64_t end) const {
    Arena::Scope scope(arena);
    const int64_t keys = end < 0 ? n : end;
    float *q = arena.take(n * width), *p = nullptr;
    float *k = arena.take(keys * width), *v = arena.take(keys * width);
    query.apply(compute, x, n, q);
    key.apply(compute, x, keys, k);
    value.apply(compute, x, keys, v);
    if (kind != PLAIN) {
        p = arena.take(positions(n, n) * width);
        position.apply(compute, encodings, positions(n, n), p);
    }
    memset(q, 0, sizeof(float) * (size_t)(first * width));
    attend(loops(compute.isa), q + first * width, n - first, k, v, keys, p, arena);
    out.apply(compute, q, n, result);
}

}  // namespace asr
