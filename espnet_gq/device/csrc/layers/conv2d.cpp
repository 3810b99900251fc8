#include "layers/conv2d.h"

#include <string.h>

#include <algorithm>

#include "layers/loops.h"

namespace asr {

namespace {

enum { BATCH = 128 }; /* positions that are multiplied at once */

}  // namespace

Conv2d Conv2d::load(Loader &loader, const std::string &name, int64_t kernel,
                    int64_t stride, int64_t padding, int64_t width, int64_t channels) {
    Conv2d conv;
    conv.kernel_time = conv.kernel_width = kernel;
    conv.stride = stride;
    conv.padding = padding;
    conv.channels = channels;
    conv.width_in = width;
    if (width + 2 * padding < kernel)
        loader.refuse("has fewer features than the kernel of %s", name.c_str());
    else
        conv.width_out = (width + 2 * padding - kernel) / stride + 1;
    conv.weight = loader.matrix(name, -1, kernel * kernel * channels);
    return conv;
}

void Conv2d::gather(const float *const *rows, float *out) const {
    const int64_t cols = weight.cols(), run = kernel_width * channels;
    if (padding > 0) memset(out, 0, (size_t)(width_out * cols) * sizeof *out);
    for (int64_t f = 0; f < width_out; ++f) {
        const int64_t begin = f * stride - padding;
        const int64_t from = std::max<int64_t>(begin, 0);
        const int64_t to = std::min(begin + kernel_width, width_in);
        for (int64_t i = 0; i < kernel_time; ++i)
            if (rows[i] && to > from)
                memcpy(out + f * cols + i * run + (from - begin) * channels,
                       rows[i] + from * channels,
                       (size_t)((to - from) * channels) * sizeof *out);
    }
}

void Conv2dStream::push(const float *x, int64_t n, bool relu, Frames &out) {
    if (n > 0) memcpy(rows_.add(n), x, (size_t)(n * rows_.width) * sizeof *x);
    emit(first_ + rows_.rows() - 1, relu, out);
}

void Conv2dStream::finish(bool relu, Frames &out) {
    emit(first_ + rows_.rows() - 1 + conv_.padding, relu, out);
}

/* Append the outputs that need no input after time `last`. */
void Conv2dStream::emit(int64_t last, bool relu, Frames &out) {
    const float *rows[16];
    const int64_t end = first_ + rows_.rows(), size = conv_.width_out * conv_.weight.cols();
    const int64_t known = last + conv_.padding + 1 - conv_.kernel_time;
    const int64_t due = end > 0 && known >= 0 ? known / conv_.stride + 1 : 0;
    const int64_t most = std::max<int64_t>(1, BATCH / std::max<int64_t>(conv_.width_out, 1));
    while (next_ < due) {
        const int64_t n = std::min(most, due - next_);
        space_.resize((size_t)(n * size));
        for (int64_t k = 0; k < n; ++k, ++next_) {
            for (int64_t i = 0; i < conv_.kernel_time; ++i) {
                const int64_t t = next_ * conv_.stride - conv_.padding + i;
                rows[i] = t < 0 || t >= end ? nullptr : rows_.row(t - first_);
            }
            conv_.gather(rows, space_.data() + k * size);
        }
        float *to = out.add(n);
        conv_.weight.apply_exactly(compute_, space_.data(), n * conv_.width_out, to);
        if (relu)
            loops(compute_.isa).activate(Activation::RELU, to, n * out.width);
    }
    const int64_t gone = std::min(next_ * conv_.stride - conv_.padding, end) - first_;
    if (gone > 0) {
        rows_.drop(gone);
        first_ += gone;
    }
}

}  // namespace asr
