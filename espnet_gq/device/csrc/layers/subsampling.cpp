#include "layers/subsampling.h"

#include <algorithm>

namespace asr {

namespace {

enum { MOST_CONVS = 4, MOST_KERNEL = 15, MOST_STRIDE = 8, BLOCK = 64 };

}  // namespace

Subsampling Subsampling::load(Loader &loader, int64_t inputs, int64_t width) {
    Subsampling found;
    const int64_t count = loader.number("encoder.conv.layers", 1, MOST_CONVS);
    const std::vector<int64_t> kernels =
        loader.numbers("encoder.conv.kernels", count, 1, MOST_KERNEL);
    const std::vector<int64_t> strides =
        loader.numbers("encoder.conv.strides", count, 1, MOST_STRIDE);
    int64_t features = inputs, channels = 1;
    for (int64_t i = 0; i < count && loader.ok(); ++i) {
        const std::string name = "encoder.conv." + std::to_string(i);
        found.convs.push_back(Conv2d::load(loader, name, kernels[(size_t)i],
                                           strides[(size_t)i], 0, features, channels));
        features = found.convs.back().width_out;
        channels = found.convs.back().outputs();
    }
    if (loader.ok())
        found.out = loader.matrix("encoder.conv.out", width, features * channels);
    return found;
}

int64_t Subsampling::stride() const {
    int64_t stride = 1;
    for (const Conv2d &conv : convs) stride *= conv.stride;
    return stride;
}

SubsamplingStream::SubsamplingStream(const Subsampling &subsampling,
                                     const Compute &compute)
    : subsampling_(subsampling), compute_(compute) {
    for (const Conv2d &conv : subsampling.convs) {
        convs_.emplace_back(conv, compute);
        made_.emplace_back(conv.row_out());
    }
}

void SubsamplingStream::push(const float *x, int64_t n, Frames &out) {
    const int64_t inputs = subsampling_.convs[0].row_in();
    for (int64_t at = 0; at < n; at += BLOCK) {
        const float *from = x + at * inputs;
        int64_t rows = std::min<int64_t>(BLOCK, n - at);
        for (size_t i = 0; i < convs_.size(); ++i) {
            made_[i].clear();
            convs_[i].push(from, rows, true, made_[i]);
            from = made_[i].data.data();
            rows = made_[i].rows();
        }
        if (rows > 0) subsampling_.out.apply(compute_, from, rows, out.add(rows));
    }
}

}  // namespace asr
