#include "file/gguf.h"

#include <string.h>

namespace asr {

namespace {

enum { DEFAULT_ALIGNMENT = 32, MOST_NAME = 1 << 16 };

uint32_t load32(const uint8_t *from) {
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 |
           (uint32_t)from[3] << 24;
}

uint64_t load64(const uint8_t *from) {
    return (uint64_t)load32(from) | (uint64_t)load32(from + 4) << 32;
}

/* Bytes of a type, 0 of strings, arrays and what is none. */
size_t width_of(int type) {
    static const uint8_t widths[Gguf::TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type >= 0 && type < Gguf::TYPES ? widths[type] : 0;
}

/* Reads from the front of the file to its end, never past it. After the first failure
 * everything that is read is 0. */
class Reader {
  public:
    Reader(const uint8_t *data, size_t size, Status &status)
        : data_(data), size_(size), status_(status) {}

    bool ok() const { return status_.ok(); }
    size_t at() const { return at_; }
    size_t left() const { return size_ - at_; }

    /* Step over n bytes; nullptr where there are fewer. */
    const uint8_t *take(uint64_t n) {
        if (!ok()) return nullptr;
        if (n > left()) {
            status_.fail(GQ_ASR_BAD_MODEL, "the model file ends within its header");
            return nullptr;
        }
        const uint8_t *found = data_ + at_;
        at_ += (size_t)n;
        return found;
    }
    uint32_t u32() {
        const uint8_t *from = take(4);
        return from ? load32(from) : 0;
    }
    uint64_t u64() {
        const uint8_t *from = take(8);
        return from ? load64(from) : 0;
    }
    std::string name() {
        uint64_t n = u64();
        if (ok() && n > MOST_NAME)
            status_.fail(GQ_ASR_BAD_MODEL, "the model file has a name of %llu bytes",
                         (unsigned long long)n);
        const uint8_t *from = take(n);
        return from ? std::string((const char *)from, (size_t)n) : std::string();
    }

  private:
    const uint8_t *data_;
    size_t size_, at_ = 0;
    Status &status_;
};

Gguf::Value read_value(Reader &r, const std::string &key, Status &status) {
    Gguf::Value value;
    uint32_t type = r.u32();
    if (type == Gguf::ARRAY) {
        value.of = (int)r.u32();
        value.count = r.u64();
    } else {
        value.of = (int)type;
    }
    value.type = (int)type;
    size_t width = width_of(value.of);
    if (r.ok() && width == 0 && value.of != Gguf::STRING)
        status.fail(GQ_ASR_BAD_MODEL, "the value %s of the model file has type %d",
                    quoted(key.data(), key.size()).text, value.of);
    const uint8_t *begin = r.take(0);
    if (value.of == Gguf::STRING) {
        /* Each takes 8 bytes or more, so that a count that lies ends soon. */
        for (uint64_t i = 0; i < value.count && r.ok(); ++i) r.take(r.u64());
    } else {
        if (width && value.count > r.left() / width)
            status.fail(GQ_ASR_BAD_MODEL, "the model file ends within its header");
        r.take(value.count * width);
    }
    value.data = begin;
    return value;
}

/* Where its contents begin among those of all tensors. */
struct Info {
    std::string name;
    Gguf::Tensor tensor;
    uint64_t offset, bytes;
};

Info read_info(Reader &r, Status &status) {
    Info info;
    info.name = r.name();
    const Quoted shown = quoted(info.name.data(), info.name.size());
    uint32_t dims = r.u32();
    if (r.ok() && dims > 4)
        status.fail(GQ_ASR_BAD_MODEL, "tensor %s of the model file has %u dimensions",
                    shown.text, dims);
    uint64_t count = 1;
    for (uint32_t i = 0; i < dims && r.ok(); ++i) {
        uint64_t dim = r.u64();
        info.tensor.dims[i] = dim;
        if (dim == 0 || dim > ((uint64_t)1 << 40) / count)
            status.fail(GQ_ASR_BAD_MODEL, "tensor %s of the model file has no such size",
                        shown.text);
        else
            count *= dim;
    }
    info.tensor.type = (int)r.u32();
    info.tensor.count = count;
    info.offset = r.u64();
    if (r.ok() && info.tensor.type != Gguf::TENSOR_F32 &&
        info.tensor.type != Gguf::TENSOR_I8)
        status.fail(GQ_ASR_BAD_MODEL,
                    "tensor %s of the model file has type %d; allowed: 0 (float32), "
                    "24 (int8)",
                    shown.text, info.tensor.type);
    info.bytes = count * (info.tensor.type == Gguf::TENSOR_F32 ? 4 : 1);
    return info;
}

}  // namespace

void Gguf::read(const uint8_t *data, size_t size, Status &status) {
    if (size < 24 || memcmp(data, "GGUF", 4) != 0) {
        status.fail(GQ_ASR_BAD_MODEL,
                    "it is not a model file (GGUF); allowed: what espnet-gq export wrote");
        return;
    }
    Reader r(data, size, status);
    r.take(4);
    uint32_t version = r.u32();
    if (version != 2 && version != 3) {
        status.fail(GQ_ASR_BAD_MODEL, "the file is GGUF version %u; allowed: 2, 3",
                    version);
        return;
    }
    uint64_t tensors = r.u64(), values = r.u64();
    for (uint64_t i = 0; i < values && r.ok(); ++i) {
        std::string key = r.name();
        Value value = read_value(r, key, status);
        if (r.ok() && !values_.emplace(key, value).second)
            status.fail(GQ_ASR_BAD_MODEL, "the model file has the value %s twice",
                        quoted(key.data(), key.size()).text);
    }
    int64_t alignment = DEFAULT_ALIGNMENT;
    const Value *given = value("general.alignment");
    if (given && (!number(*given, 0, &alignment) || alignment < 8 || alignment > 65536 ||
                  alignment % 8))
        status.fail(GQ_ASR_BAD_MODEL, "the model file has no such alignment");
    std::vector<Info> infos;
    for (uint64_t i = 0; i < tensors && r.ok(); ++i) infos.push_back(read_info(r, status));
    if (!status.ok()) return;
    uint64_t begin = ((uint64_t)r.at() + (uint64_t)alignment - 1) / (uint64_t)alignment *
                     (uint64_t)alignment;
    for (Info &info : infos) {
        if (info.offset % (uint64_t)alignment || begin > size ||
            info.offset > size - begin || info.bytes > size - begin - info.offset) {
            status.fail(GQ_ASR_BAD_MODEL, "tensor %s lies outside the model file",
                        quoted(info.name.data(), info.name.size()).text);
            return;
        }
        info.tensor.data = data + begin + info.offset;
        if (!tensors_.emplace(info.name, info.tensor).second) {
            status.fail(GQ_ASR_BAD_MODEL, "the model file has the tensor %s twice",
                        quoted(info.name.data(), info.name.size()).text);
            return;
        }
    }
}

const Gguf::Value *Gguf::value(const std::string &key) const {
    auto found = values_.find(key);
    return found == values_.end() ? nullptr : &found->second;
}

const Gguf::Tensor *Gguf::tensor(const std::string &name) const {
    auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
}

std::map<std::string, std::string> Gguf::texts(const std::string &prefix) const {
    std::map<std::string, std::string> found;
    for (const auto &one : values_)
        if (one.second.type == STRING && one.first.compare(0, prefix.size(), prefix) == 0)
            found[one.first.substr(prefix.size())] = string(one.second).copy();
    return found;
}

Text Gguf::string(const Value &value) {
    Text text;
    text.size = (size_t)load64(value.data);
    text.data = (const char *)value.data + 8;
    return text;
}

std::vector<Text> Gguf::strings(const Value &array) {
    std::vector<Text> found;
    Value one = array;
    for (uint64_t i = 0; i < array.count; ++i) {
        found.push_back(string(one));
        one.data += 8 + found.back().size;
    }
    return found;
}

bool Gguf::number(const Value &value, uint64_t index, int64_t *found) {
    if (index >= value.count || value.of == F32 || value.of == F64) return false;
    size_t width = width_of(value.of);
    if (width == 0) return false;
    const uint8_t *from = value.data + index * width;
    uint64_t bits = 0;
    for (size_t i = 0; i < width; ++i) bits |= (uint64_t)from[i] << 8 * i;
    switch (value.of) {
        case I8: *found = (int8_t)bits; break;
        case I16: *found = (int16_t)bits; break;
        case I32: *found = (int32_t)bits; break;
        default:
            if (value.of == U64 && bits > INT64_MAX) return false;
            *found = (int64_t)bits;
    }
    return true;
}

}  // namespace asr
