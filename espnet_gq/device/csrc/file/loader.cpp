#include "file/loader.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "packed/layout.h"

namespace asr {

namespace {

enum { MOST_SIZE = 1 << 24 }; /* rows, columns, vectors: far from overflowing */

}  // namespace

void Loader::refuse(const char *format, ...) {
    char message[sizeof(gq_asr_error::message)];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    status_.fail(GQ_ASR_BAD_MODEL, "the model file %s", message);
}

const Gguf::Value *Loader::value(const std::string &key, const char *what) {
    const Gguf::Value *found = file_.value("gqasr." + key);
    if (!found) refuse("lacks %s gqasr.%s", what, key.c_str());
    return found;
}

bool Loader::has(const std::string &key) const {
    return file_.value("gqasr." + key) != nullptr;
}

int64_t Loader::number(const std::string &key, int64_t least, int64_t most) {
    const Gguf::Value *found = value(key, "the number");
    int64_t number = least;
    if (found && (found->type == Gguf::ARRAY || !Gguf::number(*found, 0, &number) ||
                  number < least || number > most)) {
        refuse("has no gqasr.%s from %lld to %lld", key.c_str(), (long long)least,
               (long long)most);
        number = least;
    }
    return number;
}

std::vector<int64_t> Loader::numbers(const std::string &key, int64_t count,
                                     int64_t least, int64_t most) {
    const Gguf::Value *found = value(key, "the numbers");
    std::vector<int64_t> numbers((size_t)count, least);
    if (!found) return numbers;
    if (found->type != Gguf::ARRAY || found->count != (uint64_t)count) {
        refuse("has not %lld numbers gqasr.%s", (long long)count, key.c_str());
        return numbers;
    }
    for (int64_t i = 0; i < count; ++i) {
        int64_t number;
        if (!Gguf::number(*found, (uint64_t)i, &number) || number < least ||
            number > most)
            refuse("has in gqasr.%s a number that is not %lld to %lld", key.c_str(),
                   (long long)least, (long long)most);
        else
            numbers[(size_t)i] = number;
    }
    return numbers;
}

bool Loader::flag(const std::string &key) {
    const Gguf::Value *found = value(key, "the flag");
    if (found && found->type != Gguf::BOOL) refuse("has no flag gqasr.%s", key.c_str());
    return found && found->type == Gguf::BOOL && found->data[0] != 0;
}

std::string Loader::text(const std::string &key) {
    const Gguf::Value *found = value(key, "the text");
    if (found && found->type != Gguf::STRING) refuse("has no text gqasr.%s", key.c_str());
    if (!found || found->type != Gguf::STRING) return std::string();
    return Gguf::string(*found).copy();
}

std::vector<Text> Loader::texts(const std::string &key) {
    const Gguf::Value *found = value(key, "the texts");
    if (found && (found->type != Gguf::ARRAY || found->of != Gguf::STRING))
        refuse("has no texts gqasr.%s", key.c_str());
    if (!found || found->type != Gguf::ARRAY || found->of != Gguf::STRING) return {};
    return Gguf::strings(*found);
}

bool Loader::has_tensor(const std::string &name) const {
    return file_.tensor(name) != nullptr;
}

const float *Loader::floats(const std::string &name, int64_t size, int64_t *found) {
    static const float none = 0.0f;
    if (found) *found = 0;
    const Gguf::Tensor *tensor = file_.tensor(name);
    if (!tensor) {
        refuse("lacks the tensor %s", name.c_str());
        return &none;
    }
    if (tensor->type != Gguf::TENSOR_F32 || (size >= 0 && tensor->count != (uint64_t)size)) {
        refuse("has not %lld float32 values %s", (long long)size, name.c_str());
        return &none;
    }
    const float *values = (const float *)tensor->data; /* aligned, see gguf.cpp */
    float sum = 0.0f;                                  /* 0 if all are finite */
    for (uint64_t i = 0; i < tensor->count; ++i) sum += values[i] * 0.0f;
    if (!(sum == 0.0f)) {
        refuse("has values %s that are not finite", name.c_str());
        return &none;
    }
    if (found) *found = (int64_t)tensor->count;
    return values;
}

Matrix Loader::matrix(const std::string &name, int64_t rows, int64_t cols) {
    Matrix matrix;
    gq_weight &w = matrix.packed;
    const Gguf::Value *shape = file_.value(name + ".shape");
    int64_t size[2] = {1, 1};
    if (!shape || shape->type != Gguf::ARRAY || shape->count < 2 || shape->count > 8) {
        refuse("has no %s.shape", name.c_str());
        return matrix;
    }
    for (uint64_t i = 0; i < shape->count; ++i) {
        int64_t one, &so_far = size[i > 0];
        if (!Gguf::number(*shape, i, &one) || one < 1 || one > MOST_SIZE / so_far) {
            refuse("has no such %s.shape", name.c_str());
            return matrix;
        }
        so_far *= one;
    }
    if ((rows >= 0 && size[0] != rows) || (cols >= 0 && size[1] != cols)) {
        refuse("has %lld x %lld weights %s; its other parts need %lld x %lld (-1: any)",
               (long long)size[0], (long long)size[1], name.c_str(), (long long)rows,
               (long long)cols);
        return matrix;
    }
    w.rows = size[0];
    w.cols = size[1];
    if (has_tensor(name + ".bias")) w.bias = floats(name + ".bias", w.rows);
    if (has_tensor(name + ".values")) {
        matrix.values = floats(name + ".values", w.rows * w.cols);
        return matrix;
    }
    int64_t levels;
    w.codebook = floats(name + ".codebook", -1, &levels);
    w.scale = floats(name + ".scale", -1, &w.scales);
    for (w.bits = 1; w.bits < 8 && levels > 1 << w.bits; ++w.bits) continue;
    if (ok() && levels != 1 << w.bits) {
        refuse("has %lld centroids %s.codebook; allowed: 2, 4, ..., 256",
               (long long)levels, name.c_str());
    } else if (ok() && w.rows % w.scales) {
        refuse("has %lld scales %s.scale, which do not divide %lld rows",
               (long long)w.scales, name.c_str(), (long long)w.rows);
    }
    const Gguf::Tensor *planes = file_.tensor(name + ".planes");
    if (!planes) {
        refuse("lacks the tensor %s.planes", name.c_str());
        return matrix;
    }
    if (ok() && (planes->type != Gguf::TENSOR_I8 ||
                 planes->count != (uint64_t)gq::planes_bytes(w.rows, w.cols, w.bits)))
        refuse("has not the %lld bytes %s.planes that %lld x %lld weights of %d bits take",
               (long long)gq::planes_bytes(w.rows, w.cols, w.bits), name.c_str(),
               (long long)w.rows, (long long)w.cols, w.bits);
    if (ok()) w.planes = planes->data;
    return matrix;
}

}  // namespace asr
