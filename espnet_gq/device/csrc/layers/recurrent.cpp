#include "layers/recurrent.h"

#include <math.h>
#include <string.h>

#include <algorithm>

namespace asr {

namespace {

enum { BLOCK = 128 }; /* steps whose gates are in memory at once */

/* One sequence at each step. */
struct ones_t {
    int64_t active[BLOCK];
    ones_t() { std::fill(active, active + BLOCK, (int64_t)1); }
};
const ones_t ones;

float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

}  // namespace

int load_cell(Loader &loader, const std::string &key) {
    const std::string name = loader.text(key);
    if (name != "lstm" && name != "gru")
        loader.refuse("has an unknown cell gqasr.%s; allowed: lstm, gru", key.c_str());
    return name == "gru" ? GQ_GRU : GQ_LSTM;
}

Recurrent Recurrent::load(Loader &loader, const std::string &name, int cell,
                          int64_t inputs, int64_t units) {
    Recurrent layer;
    layer.cell = cell;
    layer.units = units;
    const int64_t rows = (cell == GQ_LSTM ? 4 : 3) * units;
    layer.ih = loader.matrix(name + ".ih", rows, inputs);
    layer.hh = loader.matrix(name + ".hh", rows, units);
    layer.inputs = layer.ih.cols();
    return layer;
}

void Recurrent::run(const Compute &compute, const float *x, int64_t n, bool reverse,
                    float *state, float *out, int64_t ld,
                    std::vector<float> &space) const {
    const int64_t blocks = (n + BLOCK - 1) / BLOCK;
    space.resize((size_t)(ih.rows() * std::min(n, (int64_t)BLOCK)));
    for (int64_t i = 0; i < blocks; ++i) {
        const int64_t first = (reverse ? blocks - 1 - i : i) * BLOCK;
        const int64_t count = std::min(n - first, (int64_t)BLOCK);
        ih.apply(compute, x + first * inputs, count, space.data());
        steps(compute, space.data(), count, reverse, state, out + first * ld, ld);
    }
}

void Recurrent::steps(const Compute &compute, const float *gates, int64_t n, bool reverse,
                      float *state, float *out, int64_t ld) const {
    float *h = state, *c = cell == GQ_LSTM ? state + units : nullptr;
    if (hh.is_packed()) {
        compute.check(gq_recurrence(cell, &hh.packed, nullptr, units, gates, ones.active,
                                    n, reverse, h, c, out, ld, hh.mode(compute),
                                    compute.threads, compute.isa));
        return;
    }
    std::vector<float> hidden((size_t)hh.rows());
    for (int64_t i = 0; i < n; ++i) {
        const int64_t step = reverse ? n - 1 - i : i;
        const float *g = gates + step * hh.rows(), *k = hidden.data();
        hh.apply(compute, h, 1, hidden.data());
        for (int64_t u = 0; u < units; ++u) {
            const int64_t v = u + units, w = v + units, o = w + units;
            if (cell == GQ_LSTM) {
                c[u] = sigmoid(g[v] + k[v]) * c[u] +
                       sigmoid(g[u] + k[u]) * tanhf(g[w] + k[w]);
                h[u] = sigmoid(g[o] + k[o]) * tanhf(c[u]);
            } else {
                float z = sigmoid(g[v] + k[v]);
                float now = tanhf(g[w] + sigmoid(g[u] + k[u]) * k[w]);
                h[u] = now + z * (h[u] - now);
            }
        }
        memcpy(out + step * ld, h, (size_t)units * sizeof *h);
    }
}

}  // namespace asr
