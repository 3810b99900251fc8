/* Rows of floats that components hand to each other. */
#ifndef GQ_ASR_FRAMES_H
#define GQ_ASR_FRAMES_H

#include <stddef.h>
#include <stdint.h>

#include <vector>

namespace asr {

struct Frames {
    int64_t width = 0;
    std::vector<float> data; /* (rows, width) */

    explicit Frames(int64_t of_width = 0) : width(of_width) {}
    int64_t rows() const { return width ? (int64_t)data.size() / width : 0; }
    float *row(int64_t i) { return data.data() + i * width; }
    const float *row(int64_t i) const { return data.data() + i * width; }
    /* Append n rows; return the first of them. */
    float *add(int64_t n) {
        size_t before = data.size();
        data.resize(before + (size_t)(n * width));
        return data.data() + before;
    }
    /* Remove the first n rows. */
    void drop(int64_t n) { data.erase(data.begin(), data.begin() + n * width); }
    void clear() { data.clear(); }
};

}  // namespace asr

#endif
