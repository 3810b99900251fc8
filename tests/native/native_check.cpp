/* Every function of api.h against plain loops in double, on random shapes.
 *
 * native_check [seed [rounds]] prints one line per instruction set, and ends with 1 and
 * one line about the first wrong result. Buffers that the library sees have their exact
 * sizes: AddressSanitizer notices a byte too many, and without it they end where a page
 * that nobody may touch begins, which needs no instrumented kernels.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

#include "api.h"
#include "checking.h"
#include "quantizer_check.h"
#include "team_check.h"

namespace {

/* What is known of each instruction set. */
struct record {
    long cases = 0;
    double product = 0, state = 0; /* largest errors */
};
std::vector<record> records;

/* Threads of a team one after the other, each finding what the last one left. */
void serial_team(void (*work)(void *), void *what, unsigned threads, unsigned) {
    for (unsigned i = 0; i < threads; ++i) work(what);
}

/* A weight and its indices, decoded bit by bit from the stream that made the planes. */
struct matrix {
    int64_t rows, cols, scales;
    int bits;
    float unit = 0;
    bool with_bias;
    buffer<uint8_t> stream, planes;
    buffer<float> codebook, scale, bias;
    std::vector<int> code; /* the codebook is about unit * code */
    std::vector<uint8_t> index;

    matrix(int64_t rows, int64_t cols, int bits, int64_t scales, bool with_bias,
           float gain = 1.0f)
        : rows(rows), cols(cols), scales(scales), bits(bits), with_bias(with_bias),
          stream((rows * cols * bits + 7) / 8),
          planes((rows + 15) / 16 * ((cols + 31) / 32) * 64 * bits),
          codebook((int64_t)1 << bits), scale(scales), bias(rows),
          code((size_t)1 << bits), index((size_t)(rows * cols)) {
        for (int64_t i = 0; i < stream.size; ++i) stream[i] = (uint8_t)random_word();
        for (int64_t i = 0; i < rows * cols; ++i)
            for (int64_t b = 0; b < bits; ++b) {
                int64_t bit = i * bits + b;
                index[(size_t)i] |= (uint8_t)((stream[bit / 8] >> bit % 8 & 1) << b);
            }
        /* Any centroids, extreme ones, or ones that round to even from half-way. */
        const int64_t shape = below(4);
        for (int64_t i = 0; i < codebook.size; ++i)
            codebook[i] = chance(5)    ? 0.0f
                          : shape == 0 ? (chance(50) ? 0.9f : -0.9f)
                          : shape == 1 ? (float)between(-254, 254) / 256
                                       : uniform();
        if (shape == 1) codebook[below(codebook.size)] = 127.0f / 128;
        round_codebook();
        for (int64_t i = 0; i < scales; ++i) scale[i] = gain * (1.1f + uniform());
        for (int64_t i = 0; i < rows; ++i) bias[i] = uniform();
        if (gq_planes_size(rows, cols, bits) != planes.size)
            fail("gq_planes_size(%ld, %ld, %d) is %ld", (long)rows, (long)cols, bits,
                 (long)gq_planes_size(rows, cols, bits));
        about_to("gq_fill_planes", -1);
        memset(planes.data, 0xa5, (size_t)planes.size);
        if (gq_fill_planes(stream.data, rows, cols, bits, planes.data))
            fail("gq_fill_planes refused (%ld, %ld) of %d bits", (long)rows, (long)cols,
                 bits);
    }

    void round_codebook() {
        float most = 0;
        for (int64_t i = 0; i < codebook.size; ++i)
            if (fabsf(codebook[i]) > most) most = fabsf(codebook[i]);
        const double exact = most > 0 ? (double)most / 127 : 1;
        unit = (float)exact;
        for (int64_t i = 0; i < codebook.size; ++i)
            code[(size_t)i] = (int)rint((double)codebook[i] / exact);
    }
    gq_weight handle() const {
        return {planes.data, codebook.data, scale.data, with_bias ? bias.data : nullptr,
                rows,        cols,          scales,     bits};
    }
    float scale_of(int64_t r) const { return scale[r / (rows / scales)]; }
    uint8_t at(int64_t r, int64_t c) const {
        return r < rows && c < cols ? index[(size_t)(r * cols + c)] : 0;
    }
    double bias_of(int64_t r) const { return with_bias ? bias[r] : 0.0; }

    std::string name() const {
        char text[160];
        snprintf(text, sizeof text, "(%ld, %ld) of %d bits, %ld scales, %s bias",
                 (long)rows, (long)cols, bits, (long)scales, with_bias ? "a" : "no");
        return text;
    }
};

matrix random_matrix(int bits) {
    int64_t rows = some_size(300), scales = 1;
    if (chance(35)) scales = rows;
    if (chance(35))
        for (scales = between(1, 8); rows % scales;) --scales;
    return matrix(rows, some_size(300), bits, scales < 1 ? 1 : scales, chance(50));
}

/* The planes as kernels.h describes them, byte by byte. */
void check_planes(const matrix &w) {
    int64_t at = 0;
    for (int64_t row = 0; row < w.rows; row += 16)
        for (int64_t col = 0; col < w.cols; col += 32)
            for (int part = 8; part; part /= 2) {
                if (!(w.bits & part)) continue;
                int low = 0; /* bits in wider parts */
                for (int wider = 8; wider > part; wider /= 2) low += w.bits & wider;
                for (int64_t n = 0; n < part; ++n)
                    for (int64_t i = 0; i < 64; ++i, ++at) {
                        unsigned byte = 0;
                        for (int s = 0; s < 8 / part; ++s) {
                            int64_t group = 8 / part * n + s;
                            unsigned index =
                                w.at(row + i / 4, col + 4 * group + i % 4);
                            byte |= (index >> low & ((1u << part) - 1)) << part * s;
                        }
                        if (w.planes[at] != byte)
                            fail("gq_fill_planes, %s: byte %ld is %d, not %u",
                                 w.name().c_str(), (long)at, w.planes[at], byte);
                    }
            }
}

enum kind_t { NORMAL, ZERO, SPARSE, EDGES, TIES, HUGE_ROW, TINY, DENORMAL, NAN_ROW,
              INF_ROW, KINDS };

void random_row(float *x, int64_t n, int64_t kind) {
    for (int64_t i = 0; i < n; ++i) {
        x[i] = uniform();
        if (kind == ZERO) x[i] = chance(50) ? 0.0f : -0.0f;
        if (kind == SPARSE && chance(90)) x[i] = 0.0f;
        if (kind == EDGES) x[i] = x[i] < 0 ? -0.7f : 0.7f;
        if (kind == TIES) x[i] = i ? (float)between(-254, 254) / 2 : 127.0f;
        if (kind == HUGE_ROW) x[i] *= 1e30f;
        if (kind == TINY) x[i] *= 1e-36f; /* on both sides of what counts as 0 */
        if (kind == DENORMAL) x[i] *= 1e-40f;
    }
    for (int64_t k = 0; n && k < 2; ++k) {
        if (kind == NAN_ROW) x[below(n)] = nanf("");
        if (kind == INF_ROW) x[below(n)] = chance(50) ? INFINITY : -INFINITY;
    }
}

struct answer {
    double value, magnitude;
    double slack; /* what roundings that may go either way can change */
};

bool right(const answer &want, double tolerance, float got) {
    if (isnan(want.value)) return isnan(got);
    if (isinf(want.value)) return got == want.value;
    return fabs(got - want.value) <= tolerance * want.magnitude + want.slack;
}

answer exact_product(const matrix &w, const double *x, int64_t r) {
    double sum = 0, magnitude = 0;
    const uint8_t *index = w.index.data() + r * w.cols;
    for (int64_t c = 0; c < w.cols; ++c) {
        double term = (double)w.codebook[index[c]] * x[c];
        sum += term;
        magnitude += fabs(term);
    }
    double scale = w.scale_of(r), bias = w.bias_of(r);
    return {bias + scale * sum, scale * magnitude + fabs(bias), 1e-40};
}

/* A row of activations rounded to 8 bits. */
struct rounded {
    bool finite = true;
    float unit = 0;
    std::vector<int64_t> q;
    std::vector<bool> doubtful;

    /* Values within `doubt` of where the rounding turns may go either way, and those
     * where a fused multiplication and addition differs from two operations. */
    rounded(const double *x, int64_t n, double doubt)
        : q((size_t)n), doubtful((size_t)n) {
        float most = 0;
        for (int64_t c = 0; c < n; ++c) {
            if (!isfinite(x[c])) finite = false;
            if ((float)fabs(x[c]) > most) most = (float)fabs(x[c]);
        }
        if (!finite || !(most > 7.5e-37f)) return;
        const float inverse = 127.0f / most;
        unit = most / 127.0f;
        for (int64_t c = 0; c < n; ++c) {
            double scaled = (double)(float)x[c] * (double)inverse;
            q[(size_t)c] = (int64_t)rint(scaled);
            doubtful[(size_t)c] =
                rint(scaled) != rint((double)(float)scaled) ||
                fabs(scaled - floor(scaled) - 0.5) < doubt;
        }
    }
};

answer int8_product(const matrix &w, const rounded &x, int64_t r) {
    if (!x.finite) return {NAN, 0, 0};
    int64_t sum = 0, slack = 0;
    const uint8_t *index = w.index.data() + r * w.cols;
    for (int64_t c = 0; c < w.cols; ++c) {
        int64_t code = w.code[index[c]];
        sum += code * x.q[(size_t)c];
        if (x.doubtful[(size_t)c]) slack += llabs(code);
    }
    double scale = w.scale_of(r), bias = w.bias_of(r), unit = (double)x.unit * w.unit;
    double term = (double)sum * unit * scale;
    /* Of a denormal unit, each of three roundings may take half the least float. */
    double least = 1.5e-45 * (1 + scale + scale * w.unit) * fabs((double)sum);
    return {bias + term, fabs(bias) + fabs(term),
            (double)slack * unit * scale + least + 1e-40};
}

std::vector<answer> products(const matrix &w, const float *x, int64_t m, int mode) {
    std::vector<answer> all;
    all.reserve((size_t)(m * w.rows));
    for (int64_t i = 0; i < m; ++i) {
        std::vector<double> row(x + i * w.cols, x + (i + 1) * w.cols);
        rounded q(row.data(), mode == GQ_INT8 ? w.cols : 0, 0);
        for (int64_t r = 0; r < w.rows; ++r)
            all.push_back(mode == GQ_INT8 ? int8_product(w, q, r)
                                          : exact_product(w, row.data(), r));
    }
    return all;
}

const char *mode_name(int mode) { return mode == GQ_INT8 ? "int8" : "exact"; }

void check_linear(const matrix &w, int64_t m, int64_t only_kind = -1) {
    buffer<float> x(m * w.cols), out(m * w.rows);
    for (int64_t i = 0; i < m; ++i)
        random_row(x.data + i * w.cols, w.cols,
                   only_kind >= 0 ? only_kind : chance(50) ? 0 : below(KINDS));
    const gq_weight handle = w.handle();
    for (int mode : {GQ_EXACT, GQ_INT8}) {
        const std::vector<answer> want = products(w, x.data, m, mode);
        for (int isa = 0; isa < gq_isa_count(); ++isa)
            for (int threads : {1, 2}) {
                out.fill(UNWRITTEN);
                about_to("gq_linear", isa);
                int status =
                    gq_linear(&handle, x.data, m, out.data, mode, threads, isa);
                std::string what = std::string("gq_linear, ") + gq_isa_name(isa) +
                                   ", " + mode_name(mode) + ", " + w.name();
                if (status) fail("%s, m = %ld: %d", what.c_str(), (long)m, status);
                record &r = records[(size_t)isa];
                ++r.cases;
                for (int64_t i = 0; i < out.size; ++i) {
                    const answer &a = want[(size_t)i];
                    if (!right(a, 1e-5, out[i]))
                        fail("%s, m = %ld, threads = %d: out[%ld, %ld] is %.9g, not "
                             "%.9g",
                             what.c_str(), (long)m, threads, (long)(i / w.rows),
                             (long)(i % w.rows), out[i], a.value);
                    double error = fabs(out[i] - a.value) - a.slack;
                    if (isfinite(error) && a.magnitude > 0 &&
                        error / a.magnitude > r.product)
                        r.product = error / a.magnitude;
                }
            }
    }
}

void check_values(const matrix &w) {
    const gq_weight handle = w.handle();
    int64_t first = chance(40) ? 0 : below(w.rows / 16 + 1) * 16;
    int64_t count = chance(40) ? w.rows - first : below(w.rows - first + 1);
    buffer<float> out(w.cols * count);
    for (int isa = 0; isa < gq_isa_count(); ++isa)
        for (int threads : {1, 2}) {
            out.fill(UNWRITTEN);
            about_to("gq_values", isa);
            if (gq_values(&handle, first, count, out.data, threads, isa))
                fail("gq_values refused %s", w.name().c_str());
            ++records[(size_t)isa].cases;
            for (int64_t i = 0; i < out.size; ++i) {
                int64_t r = first + i % count, c = i / count;
                float want = w.codebook[w.at(r, c)] * w.scale_of(r);
                if (out[i] != want)
                    fail("gq_values, %s, %s: [%ld, %ld] is %.9g, not %.9g",
                         gq_isa_name(isa), w.name().c_str(), (long)r, (long)c, out[i],
                         want);
            }
        }
}

void check_rows(const matrix &w) {
    const gq_weight handle = w.handle();
    buffer<int64_t> row(w.rows ? below(40) : 0);
    buffer<float> out(row.size * w.cols);
    for (int64_t i = 0; i < row.size; ++i) row[i] = below(w.rows);
    out.fill(UNWRITTEN);
    about_to("gq_rows", -1);
    if (gq_rows(&handle, row.data, row.size, out.data))
        fail("gq_rows refused %s", w.name().c_str());
    for (int64_t i = 0; i < out.size; ++i) {
        int64_t r = row[i / w.cols], c = i % w.cols;
        float want = w.codebook[w.at(r, c)] * w.scale_of(r);
        if (out[i] != want)
            fail("gq_rows, %s: [%ld, %ld] is %.9g, not %.9g", w.name().c_str(), (long)r,
                 (long)c, out[i], want);
    }
}

void check_read() {
    int64_t bytes = chance(20) ? 0 : chance(20) ? between(1 << 18, 1 << 20)
                                                : between(1, 3000);
    buffer<uint8_t> data(bytes);
    for (int64_t i = 0; i < bytes; ++i) data[i] = (uint8_t)random_word();
    uint64_t want = 0, word;
    for (int64_t i = 0; i < bytes / 256 * 256; i += 8) {
        memcpy(&word, data.data + i, 8);
        want += word;
    }
    for (int isa = 0; isa < gq_isa_count(); ++isa)
        for (int threads : {1, 2}) {
            about_to("gq_read", isa);
            if (gq_read(data.data, bytes, threads, isa) != want)
                fail("gq_read, %s: wrong sum of %ld bytes", gq_isa_name(isa),
                     (long)bytes);
            ++records[(size_t)isa].cases;
        }
}

double sigmoid(double x) { return 1 / (1 + exp(-x)); }

struct layer {
    int cell;
    const matrix *hh, *hr; /* hr: NULL without projection */
    int64_t units, outputs;
    const float *input;
    const std::vector<int64_t> *active;
    bool reverse;
    int mode;
};

/* The products of one row, in the layer's mode; *slack grows by their largest. */
std::vector<double> row_products(const matrix &w, const double *x, int mode,
                                 double doubt, double *slack) {
    std::vector<double> all;
    double most = 0;
    rounded q(x, mode == GQ_INT8 ? w.cols : 0, doubt);
    for (int64_t r = 0; r < w.rows; ++r) {
        answer a = mode == GQ_INT8 ? int8_product(w, q, r) : exact_product(w, x, r);
        all.push_back(a.value);
        if (a.slack > most) most = a.slack;
    }
    *slack += most;
    return all;
}

/* One step of one sequence in double. */
void reference_step(const layer &l, const float *in, double *h, double *c,
                    double *slack) {
    const int64_t n = l.units;
    double doubt = 0;
    std::vector<double> hid = row_products(*l.hh, h, l.mode, 0, &doubt);
    /* A gate that may differ can turn any rounding of the projection, and c stays so:
     * from there on only finite values are asked for. */
    *slack += l.hr && doubt > 1e-30 ? INFINITY : doubt;
    if (l.cell == GQ_GRU) {
        for (int64_t k = 0; k < n; ++k) {
            double r = sigmoid(in[k] + hid[(size_t)k]);
            double z = sigmoid(in[n + k] + hid[(size_t)(n + k)]);
            double m = tanh(in[2 * n + k] + r * hid[(size_t)(2 * n + k)]);
            h[k] = m + z * (h[k] - m);
        }
        return;
    }
    std::vector<double> raw((size_t)n);
    for (int64_t k = 0; k < n; ++k) {
        double gate[4];
        for (int64_t g = 0; g < 4; ++g)
            gate[g] = in[g * n + k] + hid[(size_t)(g * n + k)];
        c[k] = sigmoid(gate[1]) * c[k] + sigmoid(gate[0]) * tanh(gate[2]);
        raw[(size_t)k] = sigmoid(gate[3]) * tanh(c[k]);
    }
    if (l.hr) raw = row_products(*l.hr, raw.data(), l.mode, 2e-3, slack);
    for (int64_t k = 0; k < l.outputs; ++k) h[k] = raw[(size_t)k];
}

/* Results of gq_recurrence against the reference. In int8 mode each step starts from
 * the h that the library had: a rounding that falls the other way stays one. */
void compare_layer(const layer &l, const std::string &what, const float *h0,
                   const float *c0, const float *out, int64_t ld, const float *h,
                   const float *c, record *rec) {
    const std::vector<int64_t> &active = *l.active;
    const int64_t steps = (int64_t)active.size(), gates = l.hh->rows;
    for (int64_t i = 0; i < active[0]; ++i) {
        std::vector<double> rh(h0 + i * l.outputs, h0 + (i + 1) * l.outputs);
        std::vector<double> rc(l.cell == GQ_LSTM ? c0 + i * l.units : c0,
                               l.cell == GQ_LSTM ? c0 + (i + 1) * l.units : c0);
        double slack = 0;
        int64_t row = 0;
        for (int64_t t : active) row += t;
        if (!l.reverse) row = 0;
        for (int64_t step = 0; step < steps; ++step) {
            int64_t t = l.reverse ? steps - 1 - step : step;
            if (l.reverse) row -= active[(size_t)t];
            if (i < active[(size_t)t]) {
                reference_step(l, l.input + (row + i) * gates, rh.data(), rc.data(),
                               &slack);
                const float *got = out + (row + i) * ld;
                for (int64_t k = 0; k < ld; ++k) {
                    answer a = {k < l.outputs ? rh[(size_t)k] : UNWRITTEN,
                                k < l.outputs ? 1.0 : 0.0, slack};
                    if (!right(a, 1e-4, got[k]))
                        fail("%s: out[%ld, %ld] of step %ld is %.9g, not %.9g",
                             what.c_str(), (long)(row + i), (long)k, (long)t, got[k],
                             a.value);
                    if (k >= l.outputs || isnan(got[k])) continue;
                    if (!isfinite(got[k]) || (!l.hr && fabs(got[k]) > 1 + 1e-6))
                        fail("%s: out[%ld, %ld] is %.9g", what.c_str(), (long)(row + i),
                             (long)k, got[k]);
                    double error = fabs(got[k] - a.value) - slack;
                    if (error > rec->state) rec->state = error;
                    if (l.mode == GQ_INT8) rh[(size_t)k] = got[k];
                }
            }
            if (!l.reverse) row += active[(size_t)t];
        }
        for (int64_t k = 0; k < l.outputs; ++k)
            if (!right({rh[(size_t)k], 1, slack}, 1e-4, h[i * l.outputs + k]))
                fail("%s: final h[%ld, %ld] is %.9g, not %.9g", what.c_str(), (long)i,
                     (long)k, h[i * l.outputs + k], rh[(size_t)k]);
        for (int64_t k = 0; l.cell == GQ_LSTM && k < l.units; ++k)
            if (!right({rc[(size_t)k], 1 + fabs(rc[(size_t)k]), 4 * slack}, 1e-4,
                       c[i * l.units + k]))
                fail("%s: final c[%ld, %ld] is %.9g, not %.9g", what.c_str(), (long)i,
                     (long)k, c[i * l.units + k], rc[(size_t)k]);
    }
}

void check_recurrence(int bits) {
    const int cell = chance(60) ? GQ_LSTM : GQ_GRU;
    const int64_t gates = cell == GQ_LSTM ? 4 : 3;
    const int64_t units = chance(30) ? between(1, 5) : between(1, 80);
    const bool project = cell == GQ_LSTM && chance(50);
    const int64_t outputs = project ? between(1, 60) : units;
    const int64_t hh_scales = chance(50) ? 1 : chance(50) ? gates : gates * units;
    const float gain = 2 / sqrtf((float)outputs);
    matrix hh(gates * units, outputs, bits, hh_scales, chance(50), gain);
    matrix hr(outputs, units, (int)between(1, 8), chance(50) ? 1 : outputs, chance(20),
              1 / sqrtf((float)units));
    std::vector<int64_t> active;
    int64_t total = 0;
    for (int64_t n = between(1, 10), t = between(1, 6); t; --t, n = between(1, n)) {
        active.push_back(n);
        total += n;
    }
    const int64_t batch = active[0], ld = outputs + below(4);
    buffer<int64_t> lengths((int64_t)active.size());
    for (int64_t i = 0; i < lengths.size; ++i) lengths[i] = active[(size_t)i];
    buffer<float> input(total * gates * units), h0(batch * outputs), h(h0.size);
    buffer<float> c0(cell == GQ_LSTM ? batch * units : 0), c(c0.size), out(total * ld);
    const float spread = chance(20) ? 100.0f : 3.0f;
    const int special = chance(15) ? 2 : 0;
    for (int64_t i = 0; i < input.size; ++i) {
        input[i] = spread * uniform();
        if (chance(special))
            input[i] = chance(30) ? nanf("") : copysignf(INFINITY, input[i]);
    }
    const bool from_zero = chance(40);
    for (int64_t i = 0; i < h0.size; ++i) h0[i] = from_zero ? 0.0f : uniform();
    for (int64_t i = 0; i < c0.size; ++i) c0[i] = from_zero ? 0.0f : 2 * uniform();
    const gq_weight hh_handle = hh.handle(), hr_handle = hr.handle();
    for (int mode : {GQ_EXACT, GQ_INT8})
        for (bool reverse : {false, true}) {
            layer l = {cell,       &hh,     project ? &hr : nullptr, units, outputs,
                       input.data, &active, reverse,                 mode};
            for (int isa = 0; isa < gq_isa_count(); ++isa)
                for (int threads : {1, 2}) {
                    memcpy(h.data, h0.data, (size_t)h.size * 4);
                    memcpy(c.data, c0.data, (size_t)c.size * 4);
                    out.fill(UNWRITTEN);
                    about_to("gq_recurrence", isa);
                    int status = gq_recurrence(
                        cell, &hh_handle, project ? &hr_handle : nullptr, units,
                        input.data, lengths.data, lengths.size, reverse, h.data, c.data,
                        out.data, ld, mode, threads, isa);
                    char text[200];
                    snprintf(text, sizeof text,
                             "gq_recurrence, %s, %s, %s%s%s, %ld units, %ld outputs, "
                             "%d bits, %d threads",
                             gq_isa_name(isa), mode_name(mode),
                             cell == GQ_LSTM ? "LSTM" : "GRU",
                             project ? " with projection" : "",
                             reverse ? ", reverse" : "", (long)units, (long)outputs,
                             bits, threads);
                    if (status) fail("%s: %d", text, status);
                    ++records[(size_t)isa].cases;
                    compare_layer(l, text, h0.data, c0.data, out.data, ld, h.data,
                                  c.data, &records[(size_t)isa]);
                }
        }
}

/* Arguments out of range, none of which may be used. */
void check_refusals() {
    const int64_t huge = (int64_t)1 << 60, most = INT64_MAX;
    const struct {
        int64_t rows, cols;
        int bits;
    } wrong[] = {{-1, 5, 5},       {5, -1, 5},           {5, 5, 0},    {5, 5, 9},
                 {5, 5, -1},       {huge, huge, 5},      {most, 1, 8}, {1, most, 8},
                 {most, most, 1},  {1 << 30, 1 << 30, 5}, {-most - 1, 1, 1},
                 {huge / 4096, huge / 4096, 8}};
    matrix w(48, 20, 5, 3, true);
    buffer<float> x(20 * 20), out(48 * 48);
    for (const auto &bad : wrong) {
        uint8_t byte = 0;
        expect(gq_planes_size(bad.rows, bad.cols, bad.bits) == -1, "gq_planes_size");
        REFUSED(gq_fill_planes(&byte, bad.rows, bad.cols, bad.bits, &byte));
        gq_weight h = w.handle();
        h.rows = bad.rows;
        h.cols = bad.cols;
        h.bits = bad.bits;
        h.scales = 1;
        int64_t row = 0;
        REFUSED(gq_linear(&h, x.data, 1, out.data, GQ_EXACT, 1, 0));
        REFUSED(gq_linear(&h, x.data, 0, out.data, GQ_EXACT, 1, 0));
        REFUSED(gq_values(&h, 0, 1, out.data, 1, 0));
        REFUSED(gq_rows(&h, &row, 1, out.data));
        REFUSED(gq_recurrence(GQ_LSTM, &h, nullptr, 5, x.data, &row, 0, 0, out.data,
                              out.data, out.data, 5, GQ_EXACT, 1, 0));
    }
    const gq_weight good = w.handle();
    for (int64_t scales : {(int64_t)0, (int64_t)-1, (int64_t)5, (int64_t)49, most}) {
        gq_weight h = good;
        int64_t row = 0;
        h.scales = scales;
        REFUSED(gq_linear(&h, x.data, 1, out.data, GQ_EXACT, 1, 0));
        REFUSED(gq_values(&h, 0, 1, out.data, 1, 0));
        REFUSED(gq_rows(&h, &row, 1, out.data));
    }
    for (int isa : {-1, gq_isa_count(), 1000}) {
        REFUSED(gq_linear(&good, x.data, 1, out.data, GQ_EXACT, 1, isa));
        REFUSED(gq_values(&good, 0, 1, out.data, 1, isa));
        expect(strcmp(gq_isa_name(isa), "") == 0, "gq_isa_name");
        expect(gq_read((const uint8_t *)x.data, 256, 1, isa) == 0, "gq_read");
    }
    REFUSED(gq_linear(nullptr, x.data, 1, out.data, GQ_EXACT, 1, 0));
    for (int missing = 0; missing < 3; ++missing) {
        gq_weight h = good;
        if (missing == 0) h.planes = nullptr;
        if (missing == 1) h.codebook = nullptr;
        if (missing == 2) h.scale = nullptr;
        int64_t row = 0;
        REFUSED(gq_linear(&h, x.data, 1, out.data, GQ_EXACT, 1, 0));
        REFUSED(gq_values(&h, 0, 1, out.data, 1, 0));
        REFUSED(gq_rows(&h, &row, 1, out.data));
    }
    REFUSED(gq_linear(&good, nullptr, 1, out.data, GQ_EXACT, 1, 0));
    REFUSED(gq_linear(&good, x.data, 1, nullptr, GQ_EXACT, 1, 0));
    REFUSED(gq_values(&good, 0, 1, nullptr, 1, 0));
    for (int64_t m : {(int64_t)-1, most, -most - 1, huge})
        REFUSED(gq_linear(&good, x.data, m, out.data, GQ_EXACT, 1, 0));
    for (int mode : {-1, 2}) REFUSED(gq_linear(&good, x.data, 1, out.data, mode, 1, 0));
    gq_weight wide = good;
    wide.cols = (1 << 16) + 1;
    REFUSED(gq_linear(&wide, x.data, 1, out.data, GQ_INT8, 1, 0));
    const int64_t ranges[][2] = {{8, 1},   {-16, 1},   {64, 0},         {16, 33},
                                 {0, -1},  {0, most},  {most - 15, 16}, {32, most}};
    for (const auto &range : ranges)
        REFUSED(gq_values(&good, range[0], range[1], out.data, 1, 0));
    for (int64_t bad : {(int64_t)-1, (int64_t)48, most, -most - 1}) {
        const int64_t row[2] = {0, bad};
        REFUSED(gq_rows(&good, row, 2, out.data));
    }
    int64_t first = 0;
    REFUSED(gq_rows(&good, &first, -1, out.data));
    REFUSED(gq_rows(&good, nullptr, 1, out.data));
    REFUSED(gq_rows(&good, &first, 1, nullptr));
    REFUSED(gq_fill_planes(nullptr, 4, 4, 4, (uint8_t *)out.data));
    REFUSED(gq_fill_planes((const uint8_t *)x.data, 4, 4, 4, nullptr));
    expect(gq_read((const uint8_t *)x.data, -256, 1, 0) == 0, "gq_read");
}

/* The same for gq_recurrence: each call is right but for one argument. */
void check_refused_recurrences() {
    matrix lstm(20, 5, 4, 1, false), gru(15, 5, 4, 1, false), hr(3, 5, 4, 1, false);
    matrix projected(20, 3, 4, 1, false);
    const gq_weight hh = lstm.handle(), hg = gru.handle(), hp = projected.handle();
    const gq_weight p = hr.handle();
    buffer<float> input(4 * 20), h(2 * 5), c(2 * 5), out(4 * 5);
    input.fill(0);
    h.fill(0);
    c.fill(0);
    const int64_t fine[2] = {2, 2};
    auto run = [&](int cell, const gq_weight *w, const gq_weight *project,
                   int64_t units, const int64_t *active, int64_t steps, int64_t ld,
                   int mode, int isa) {
        return gq_recurrence(cell, w, project, units, input.data, active, steps, 0,
                             h.data, c.data, out.data, ld, mode, 1, isa);
    };
    expect(run(GQ_LSTM, &hh, nullptr, 5, fine, 2, 5, GQ_EXACT, 0) == 0 &&
               run(GQ_GRU, &hg, nullptr, 5, fine, 2, 5, GQ_INT8, 0) == 0 &&
               run(GQ_LSTM, &hp, &p, 5, fine, 2, 3, GQ_EXACT, 0) == 0 &&
               run(GQ_LSTM, &hh, nullptr, 5, fine, 0, 5, GQ_EXACT, 0) == 0,
           "right arguments");
    for (int cell : {-1, 2})
        REFUSED(run(cell, &hh, nullptr, 5, fine, 2, 5, GQ_EXACT, 0));
    REFUSED(run(GQ_LSTM, nullptr, nullptr, 5, fine, 2, 5, GQ_EXACT, 0));
    REFUSED(run(GQ_LSTM, &hg, nullptr, 5, fine, 2, 5, GQ_EXACT, 0));
    REFUSED(run(GQ_GRU, &hh, nullptr, 5, fine, 2, 5, GQ_EXACT, 0));
    REFUSED(run(GQ_LSTM, &hp, nullptr, 5, fine, 2, 5, GQ_EXACT, 0));
    REFUSED(run(GQ_LSTM, &hh, &p, 5, fine, 2, 5, GQ_EXACT, 0));
    REFUSED(run(GQ_GRU, &hg, &p, 5, fine, 2, 5, GQ_EXACT, 0));
    for (int64_t units : {0, -1, 4, 6})
        REFUSED(run(GQ_LSTM, &hh, nullptr, units, fine, 2, 5, GQ_EXACT, 0));
    REFUSED(run(GQ_LSTM, &hh, nullptr, 5, fine, -1, 5, GQ_EXACT, 0));
    REFUSED(run(GQ_LSTM, &hh, nullptr, 5, fine, 2, 4, GQ_EXACT, 0));
    for (int mode : {-1, 2})
        REFUSED(run(GQ_LSTM, &hh, nullptr, 5, fine, 2, 5, mode, 0));
    for (int isa : {-1, gq_isa_count()})
        REFUSED(run(GQ_LSTM, &hh, nullptr, 5, fine, 2, 5, GQ_EXACT, isa));
    const int64_t bad[][2] = {{1, 2}, {2, 0}, {2, -1}, {0, 0}, {INT64_MAX, 1}};
    for (const auto &active : bad)
        REFUSED(run(GQ_LSTM, &hh, nullptr, 5, active, 2, 5, GQ_EXACT, 0));
    gq_weight bits = hh;
    bits.bits = 9;
    REFUSED(run(GQ_LSTM, &bits, nullptr, 5, fine, 2, 5, GQ_EXACT, 0));
    bits = p;
    bits.bits = 0;
    REFUSED(run(GQ_LSTM, &hp, &bits, 5, fine, 2, 3, GQ_EXACT, 0));
}

}  // namespace

#include "stack_check.h"

namespace {

/* Sizes that random ones do not reach: several tasks of tiles and of their filling,
 * and the widest sums that int8 allows. */
void check_large() {
    check_linear(matrix(40, 2000, (int)between(1, 8), 40, true), 150);
    check_linear(matrix(33, 300, (int)between(1, 8), 1, false), 300);
    matrix widest(17, 1 << 16, (int)between(1, 8), 1, false);
    for (int sign : {1, -1}) {
        widest.codebook.fill(0.3f * (float)sign);
        widest.round_codebook();
        check_linear(widest, 1, EDGES);
        buffer<float> x(widest.cols), out(widest.rows);
        x.fill(0.5f);
        const gq_weight handle = widest.handle();
        const std::vector<answer> want = products(widest, x.data, 1, GQ_INT8);
        for (int isa = 0; isa < gq_isa_count(); ++isa) {
            gq_linear(&handle, x.data, 1, out.data, GQ_INT8, 1, isa);
            for (int64_t r = 0; r < widest.rows; ++r)
                if (!right(want[(size_t)r], 1e-5, out[r]))
                    fail("%s: widest sum is %.9g, not %.9g", gq_isa_name(isa), out[r],
                         want[(size_t)r].value);
        }
    }
}

}  // namespace

int main(int argc, char **argv) {
    seed = argc > 1 ? strtoull(argv[1], nullptr, 10) : 1;
    const long rounds = argc > 2 ? atol(argv[2]) : 20;
    state = seed;
    catch_faults();
    records.resize((size_t)gq_isa_count());
    check_refusals();
    check_refused_recurrences();
    check_refused_passes();
    check_refused_stacks();
    for (long round = 0; round < rounds; ++round) {
        gq_set_team(round % 4 == 3 ? serial_team : nullptr);
        for (int bits = 1; bits <= 8; ++bits) {
            const matrix w = random_matrix(bits);
            check_planes(w);
            check_values(w);
            check_rows(w);
            check_linear(w, between(0, 20));
            check_recurrence(bits);
            check_stack();
            check_quantizer(bits);
            check_mulaw(bits);
        }
        check_read();
    }
    gq_set_team(nullptr);
    check_team();
    check_large();
    for (int isa = 0; isa < gq_isa_count(); ++isa) {
        const record &r = records[(size_t)isa];
        printf("%s: %ld cases, largest error %.1e of the magnitude in products, "
               "%.1e in states\n",
               gq_isa_name(isa), r.cases, r.product, r.state);
    }
    return 0;
}
