#include "layers/conv2d.h"

#include <string.h>

#include <algorithm>

namespace asr {

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

void Conv2d::row(const Compute &compute, const float *const *rows, float *out,
                 std::vector<float> &space) const {
    const int64_t cols = weight.cols(), run = kernel_width * channels;
    space.assign((size_t)(width_out * cols), 0.0f);
    for (int64_t f = 0; f < width_out; ++f) {
        const int64_t begin = f * stride - padding;
        const int64_t from = std::max<int64_t>(begin, 0);
        const int64_t to = std::min(begin + kernel_width, width_in);
        for (int64_t i = 0; i < kernel_time; ++i)
            if (rows[i] && to > from)
                memcpy(space.data() + f * cols + i * run + (from - begin) * channels,
                       rows[i] + from * channels,
                       (size_t)((to - from) * channels) * sizeof(float));
    }
    weight.apply_exactly(compute, space.data(), width_out, out);
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
    const int64_t end = first_ + rows_.rows();
    for (;; ++next_) {
        const int64_t begin = next_ * conv_.stride - conv_.padding;
        if (begin + conv_.kernel_time - 1 > last || end == 0) break;
        for (int64_t i = 0; i < conv_.kernel_time; ++i) {
            const int64_t t = begin + i;
            rows[i] = t < 0 || t >= end ? nullptr : rows_.row(t - first_);
        }
        float *to = out.add(1);
        conv_.row(compute_, rows, to, space_);
        for (int64_t i = 0; relu && i < out.width; ++i) to[i] = to[i] > 0 ? to[i] : 0;
    }
    const int64_t gone = std::min(next_ * conv_.stride - conv_.padding, end) - first_;
    if (gone > 0) {
        rows_.drop(gone);
        first_ += gone;
    }
}

}  // namespace asr
