/* An LSTM or GRU layer in one direction. */
#ifndef GQ_ASR_RECURRENT_H
#define GQ_ASR_RECURRENT_H

#include <string>
#include <vector>

#include "file/loader.h"
#include "layers/matrix.h"

namespace asr {

struct Recurrent {
    int cell = GQ_LSTM; /* or GQ_GRU */
    int64_t inputs = 0, units = 0;
    /* (gates * units, inputs) and (gates * units, units); gates i, f, g, o of an LSTM,
     * r, z, n of a GRU. The bias of an LSTM is that of ih. */
    Matrix ih, hh;

    /* The matrices NAME.ih and NAME.hh; any number of inputs for -1. */
    static Recurrent load(Loader &loader, const std::string &name, int cell,
                          int64_t inputs, int64_t units);

    /* Floats of a state: h (units), of an LSTM then c (units). */
    int64_t state() const { return cell == GQ_LSTM ? 2 * units : units; }

    /* Run over x (n, inputs), from the last row to the first if `reverse`. state:
     * (state()), final on return. out: (n, ld), of which each row gets `units` values.
     * `space` is memory that calls reuse. */
    void run(const Compute &compute, const float *x, int64_t n, bool reverse,
             float *state, float *out, int64_t ld, std::vector<float> &space) const;

  private:
    void steps(const Compute &compute, const float *gates, int64_t n, bool reverse,
               float *state, float *out, int64_t ld) const;
};

/* The cell of the setting `key`. */
int load_cell(Loader &loader, const std::string &key);

}  // namespace asr

#endif
