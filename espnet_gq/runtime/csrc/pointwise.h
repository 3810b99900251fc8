/* Element-wise mathematics of the recurrent layers, and the rounding of activations.
 *
 * Included once by each instruction set, inside its anonymous namespace and under its
 * target; LANES floats make one of its vectors.
 */
typedef float vf __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline vf load(const float *p) { return *(const vf *)p; }
inline vf splat(float value) { return vf{} + value; }

/* exp(x) to 2 units in the last place, exp(-87) <= result <= exp(88), or NaN. */
inline vf exponential(vf given) {
    vf x = given < splat(-87.0f) ? splat(-87.0f) : given;
    x = x > splat(88.0f) ? splat(88.0f) : x;
    const vf shift = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds */
    vf n = x * 1.44269504f + shift;
    vi exponent = ((vi)n - (vi)shift) << 23;
    n -= shift;
    vf r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vf p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return given == given ? (vf)((vi)p + exponent) : given;
}

inline vf sigmoid(vf x) { return 1.0f / (1.0f + exponential(-x)); }

inline vf hyperbolic_tangent(vf x) {
    vf z = x * x;
    vf p = splat(-5.70498872745e-3f);
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    vf near_zero = x + x * z * p;
    vf far = 1.0f - 2.0f / (exponential(x + x) + 1.0f);
    return z < splat(0.390625f) ? near_zero : far;
}

/* What is left of a row past its last full vector, as a vector. */
inline vf load_part(const float *p, int64_t n) {
    vf v = {};
    for (int64_t i = 0; i < n; ++i) v[i] = p[i];
    return v;
}

inline void store_part(float *p, vf v, int64_t n) {
    for (int64_t i = 0; i < n; ++i) p[i] = v[i];
}

inline void lstm_units(vf i, vf f, vf g, vf o, vf *c, vf *h) {
    *c = sigmoid(f) * *c + sigmoid(i) * hyperbolic_tangent(g);
    *h = sigmoid(o) * hyperbolic_tangent(*c);
}

void lstm(const float *gates, float *c, float *h, int64_t n) {
    const float *i = gates, *f = i + n, *g = f + n, *o = g + n;
    int64_t k = 0;
    for (; k + LANES <= n; k += LANES) {
        vf state = load(c + k), out;
        lstm_units(load(i + k), load(f + k), load(g + k), load(o + k), &state, &out);
        *(vf *)(c + k) = state;
        *(vf *)(h + k) = out;
    }
    if (k < n) {
        int64_t rest = n - k;
        vf state = load_part(c + k, rest), out;
        lstm_units(load_part(i + k, rest), load_part(f + k, rest),
                   load_part(g + k, rest), load_part(o + k, rest), &state, &out);
        store_part(c + k, state, rest);
        store_part(h + k, out, rest);
    }
}

inline vf gru_units(const vf *in, const vf *hidden, vf h) {
    vf r = sigmoid(in[0] + hidden[0]), z = sigmoid(in[1] + hidden[1]);
    vf n = hyperbolic_tangent(in[2] + r * hidden[2]);
    return n + z * (h - n);
}

void gru(const float *input, const float *hidden, float *h, int64_t n) {
    for (int64_t k = 0; k < n; k += LANES) {
        int64_t rest = n - k < LANES ? n - k : LANES;
        vf in[3], hid[3];
        for (int gate = 0; gate < 3; ++gate) {
            in[gate] = load_part(input + gate * n + k, rest);
            hid[gate] = load_part(hidden + gate * n + k, rest);
        }
        store_part(h + k, gru_units(in, hid, load_part(h + k, rest)), rest);
    }
}

float quantize(const float *x, int64_t n, int64_t m, int8_t *q, int32_t *total) {
    vi most = {};
    int64_t k = 0;
    for (; k + LANES <= n; k += LANES) {
        vi magnitude = *(const vi *)(x + k) & 0x7fffffff;
        most = magnitude > most ? magnitude : most;
    }
    if (k < n) {
        vi magnitude = (vi)load_part(x + k, n - k) & 0x7fffffff;
        most = magnitude > most ? magnitude : most;
    }
    int32_t bits = 0;
    for (int i = 0; i < LANES; ++i) bits = most[i] > bits ? most[i] : bits;
    vi as_vector = vi{} + bits;
    float largest = ((vf)as_vector)[0];
    bool finite = bits < 0x7f800000;
    /* Below 2^-120 the inverse would overflow: such rows count as 0. */
    float inverse = finite && largest > 7.5e-37f ? 127.0f / largest : 0.0f;
    const vf shift = splat(12582912.0f);
    vi sum = {};
    int64_t padded = (n + COLS - 1) / COLS * COLS;
    for (k = 0; k < padded; k += LANES) {
        int64_t rest = n - k;
        vf v = rest >= LANES ? load(x + k) : load_part(x + k, rest < 0 ? 0 : rest);
        if (!finite) v = vf{};
        vi rounded = (vi)(v * inverse + shift) - (vi)shift;
        sum += rounded;
        for (int i = 0; i < LANES; i += 4)
            for (int j = 0; j < 4; ++j) q[(k + i) * m + j] = (int8_t)rounded[i + j];
    }
    *total = 0;
    for (int i = 0; i < LANES; ++i) *total += sum[i];
    if (!finite) return __builtin_nanf("");
    return inverse == 0.0f ? 0.0f : largest / 127.0f;
}
