/* gq_stack against gq_linear and gq_recurrence, layer after layer: the same bits.
 *
 * To be included after `matrix` is defined.
 */
#ifndef ESPNET_GQ_STACK_CHECK_H
#define ESPNET_GQ_STACK_CHECK_H

#include <string.h>

#include <deque>
#include <vector>

#include "api.h"
#include "checking.h"

namespace {

struct stack {
    int cell;
    int64_t layers, each, units, inputs, outputs, rows, total = 0;
    bool project, with_biases;
    std::deque<matrix> matrices;
    std::deque<gq_weight> handles;
    std::vector<gq_direction> directions;
    std::deque<buffer<float>> biases;
    std::vector<int64_t> active;

    const gq_weight *add(int64_t rows, int64_t cols) {
        const int64_t scales = chance(50) ? 1 : rows;
        matrices.emplace_back(rows, cols, (int)between(1, 8), scales, false, 0.3f);
        handles.push_back(matrices.back().handle());
        return &handles.back();
    }

    const float *add_bias() {
        biases.emplace_back(rows);
        for (int64_t i = 0; i < rows; ++i) biases.back()[i] = uniform();
        return biases.back().data;
    }

    stack()
        : cell(chance(60) ? GQ_LSTM : GQ_GRU), layers(between(1, 4)),
          each(between(1, 2)), units(between(1, 40)), inputs(between(1, 50)),
          project(cell == GQ_LSTM && chance(50)), with_biases(chance(70)) {
        outputs = project ? between(1, 30) : units;
        rows = (cell == GQ_LSTM ? 4 : 3) * units;
        for (int64_t i = 0; i < layers * each; ++i) {
            gq_direction d = {};
            d.ih = add(rows, i < each ? inputs : each * outputs);
            d.hh = add(rows, outputs);
            d.hr = project ? add(outputs, units) : nullptr;
            d.b_ih = with_biases ? add_bias() : nullptr;
            d.b_hh = with_biases ? add_bias() : nullptr;
            directions.push_back(d);
        }
        for (int64_t n = between(1, 6), t = between(1, 5); t; --t, n = between(1, n)) {
            active.push_back(n);
            total += n;
        }
    }

    int run(const float *x, float *h, float *c, float *out, int mode, int threads,
            int isa) const {
        return gq_stack(cell, directions.data(), layers, each, units, x, active.data(),
                        (int64_t)active.size(), h, c, out, mode, threads, isa);
    }

    /* The same, layer after layer. */
    void in_turn(const float *x, float *h, float *c, float *out, int mode, int threads,
                 int isa) const {
        std::vector<float> from(x, x + total * inputs), gates((size_t)(total * rows));
        std::vector<float> to((size_t)(total * each * outputs));
        for (int64_t i = 0; i < layers * each; ++i) {
            const gq_direction &d = directions[(size_t)i];
            std::vector<float> sum((size_t)rows, 0.0f);
            for (int64_t r = 0; r < rows && d.b_ih; ++r)
                sum[(size_t)r] = cell == GQ_LSTM ? d.b_ih[r] + d.b_hh[r] : d.b_ih[r];
            gq_weight ih = *d.ih, hh = *d.hh;
            ih.bias = d.b_ih ? sum.data() : nullptr;
            hh.bias = cell == GQ_GRU ? d.b_hh : nullptr;
            gq_linear(&ih, from.data(), total, gates.data(), mode, threads, isa);
            gq_recurrence(cell, &hh, d.hr, units, gates.data(), active.data(),
                          (int64_t)active.size(), (int)(i % each),
                          h + i * active[0] * outputs, c + i * active[0] * units,
                          to.data() + i % each * outputs, each * outputs, mode, threads,
                          isa);
            if (i % each == each - 1) from = to;
        }
        memcpy(out, to.data(), to.size() * 4);
    }
};

void check_stack() {
    const stack s;
    buffer<float> x(s.total * s.inputs), out(s.total * s.each * s.outputs), want(out.size);
    buffer<float> h(s.layers * s.each * s.active[0] * s.outputs), h2(h.size);
    buffer<float> c(s.layers * s.each * s.active[0] * s.units), c2(c.size);
    for (int64_t i = 0; i < x.size; ++i) x[i] = uniform();
    for (int mode : {GQ_EXACT, GQ_INT8})
        for (int isa = 0; isa < gq_isa_count(); ++isa) {
            for (int64_t i = 0; i < h.size; ++i) h[i] = h2[i] = uniform();
            for (int64_t i = 0; i < c.size; ++i) c[i] = c2[i] = uniform();
            const int threads = (int)between(1, 2);
            out.fill(UNWRITTEN);
            about_to("gq_stack", isa);
            const bool refused =
                s.run(x.data, h.data, s.cell == GQ_GRU ? nullptr : c.data, out.data, mode,
                      threads, isa);
            s.in_turn(x.data, h2.data, c2.data, want.data, mode, threads, isa);
            if (refused || memcmp(out.data, want.data, (size_t)out.size * 4) ||
                memcmp(h.data, h2.data, (size_t)h.size * 4) ||
                (s.cell == GQ_LSTM && memcmp(c.data, c2.data, (size_t)c.size * 4)))
                fail("gq_stack, %s, mode %d, %ld layers, %ld directions, %ld units: "
                     "other results than in turn",
                     gq_isa_name(isa), mode, (long)s.layers, (long)s.each, (long)s.units);
        }
}

/* Each call is right but for one argument. */
void check_refused_stacks() {
    stack s;
    while (s.layers < 2 || s.cell != GQ_LSTM || s.project || s.units < 2) s = stack();
    buffer<float> x(s.total * s.inputs), out(s.total * s.each * s.outputs);
    buffer<float> h(s.layers * s.each * s.active[0] * s.outputs), c(h.size);
    x.fill(0), h.fill(0), c.fill(0);
    auto run = [&](int cell, int64_t layers, int64_t each, int64_t units, int mode,
                   int isa) {
        return gq_stack(cell, s.directions.data(), layers, each, units, x.data,
                        s.active.data(), (int64_t)s.active.size(), h.data, c.data,
                        out.data, mode, 1, isa);
    };
    expect(run(GQ_LSTM, s.layers, s.each, s.units, GQ_EXACT, 0) == 0, "right arguments");
    REFUSED(run(2, s.layers, s.each, s.units, GQ_EXACT, 0));
    REFUSED(run(GQ_GRU, s.layers, s.each, s.units, GQ_EXACT, 0));
    REFUSED(run(GQ_LSTM, 0, s.each, s.units, GQ_EXACT, 0));
    for (int each : {0, 3}) REFUSED(run(GQ_LSTM, s.layers, each, s.units, GQ_EXACT, 0));
    REFUSED(run(GQ_LSTM, s.layers, s.each, s.units - 1, GQ_EXACT, 0));
    REFUSED(run(GQ_LSTM, s.layers, s.each, s.units, 2, 0));
    REFUSED(run(GQ_LSTM, s.layers, s.each, s.units, GQ_EXACT, gq_isa_count()));
    for (int what = 0; what < 5; ++what) {
        const gq_direction good = s.directions.back();
        gq_direction &bad = s.directions.back();
        if (what == 0) bad.ih = nullptr;
        if (what == 1) bad.hh = nullptr;
        if (what == 2) bad.hr = good.hh;
        if (what == 3) bad.ih = s.add(s.rows, s.each * s.outputs + 1);
        if (what == 4) bad.b_hh = good.b_hh ? nullptr : x.data;
        REFUSED(run(GQ_LSTM, s.layers, s.each, s.units, GQ_EXACT, 0));
        s.directions.back() = good;
    }
    s.active.back() = 0;
    REFUSED(run(GQ_LSTM, s.layers, s.each, s.units, GQ_EXACT, 0));
}

}  // namespace

#endif
