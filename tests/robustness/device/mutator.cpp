/* libFuzzer's mutation of model files, which knows their structure.
 *
 * A file is taken apart into its values and tensors, some of them are changed, and it is
 * put together again with right offsets, so that most mutants get past the container and
 * reach the components. One in four mutants has changed bytes instead.
 */
#include <stdint.h>
#include <string.h>

#include <random>
#include <string>
#include <vector>

extern "C" size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

namespace {

using Random = std::minstd_rand;
enum { STRING = 8, ARRAY = 9, ALIGNMENT = 64 };

/* Of a type, 0 of strings and arrays. */
size_t width_of(uint32_t type) {
    static const uint8_t widths[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < sizeof widths ? widths[type] : 0;
}

struct Value {
    std::string key;
    uint32_t type, of; /* `of` of an array */
    std::vector<std::string> items;
};

struct Tensor {
    std::string name;
    std::vector<uint64_t> dims;
    uint32_t type;
    std::string bytes;
};

struct File {
    std::vector<Value> values;
    std::vector<Tensor> tensors;
};

/* Reads a file; whatever does not fit makes it fail. */
struct Reader {
    const uint8_t *data;
    size_t size, at = 0;
    bool ok = true;

    std::string take(uint64_t n) {
        ok = ok && n <= size - at;
        if (!ok) return "";
        at += (size_t)n;
        return std::string((const char *)data + at - n, (size_t)n);
    }
    uint64_t number(size_t width) {
        const std::string bytes = take(width);
        uint64_t found = 0;
        for (size_t i = bytes.size(); i-- > 0;) found = found << 8 | (uint8_t)bytes[i];
        return found;
    }
    std::string text() { return take(number(8)); }

    bool file(File *file) {
        ok = take(4) == "GGUF" && number(4) >= 2;
        const uint64_t tensors = number(8), values = number(8);
        for (uint64_t i = 0; i < values && ok; ++i) file->values.push_back(value());
        std::vector<uint64_t> offsets;
        for (uint64_t i = 0; i < tensors && ok; ++i) {
            Tensor tensor;
            tensor.name = text();
            for (uint64_t dims = number(4); dims > 0 && ok; --dims)
                tensor.dims.push_back(number(8));
            tensor.type = (uint32_t)number(4);
            offsets.push_back(number(8));
            file->tensors.push_back(tensor);
        }
        const size_t begin = (at + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        for (uint64_t i = 0; i < tensors && ok; ++i) {
            Tensor &tensor = file->tensors[i];
            uint64_t bytes = tensor.type == 0 ? 4 : 1;
            for (uint64_t dim : tensor.dims) bytes = dim < size ? bytes * dim : size + 1;
            ok = offsets[i] < size && begin + offsets[i] <= size;
            if (!ok) break;
            at = begin + offsets[i];
            tensor.bytes = take(bytes);
        }
        return ok;
    }

    Value value() {
        Value value;
        value.key = text();
        value.type = value.of = (uint32_t)number(4);
        uint64_t count = 1;
        if (value.type == ARRAY) {
            value.of = (uint32_t)number(4);
            count = number(8);
        }
        const size_t width = width_of(value.of);
        ok = ok && count <= size && (width || value.of == STRING);
        for (uint64_t i = 0; i < count && ok; ++i)
            value.items.push_back(width ? take(width) : text());
        return value;
    }
};

void append(std::string *to, uint64_t number, size_t width) {
    for (size_t i = 0; i < width; ++i) *to += (char)(number >> 8 * i);
}

void append(std::string *to, const std::string &text) {
    append(to, text.size(), 8);
    *to += text;
}

std::string written(const File &file) {
    std::string made = "GGUF", contents;
    append(&made, 3, 4);
    append(&made, file.tensors.size(), 8);
    append(&made, file.values.size(), 8);
    for (const Value &value : file.values) {
        append(&made, value.key);
        append(&made, value.type, 4);
        if (value.type == ARRAY) {
            append(&made, value.of, 4);
            append(&made, value.items.size(), 8);
        }
        for (const std::string &item : value.items) {
            if (value.of == STRING) append(&made, item.size(), 8);
            made += item;
        }
    }
    for (const Tensor &tensor : file.tensors) {
        append(&made, tensor.name);
        append(&made, tensor.dims.size(), 4);
        for (uint64_t dim : tensor.dims) append(&made, dim, 8);
        append(&made, tensor.type, 4);
        append(&made, contents.size(), 8);
        contents += tensor.bytes;
        contents.resize((contents.size() + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    }
    if (!contents.empty())
        made.resize((made.size() + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    return made + contents;
}

template <class T>
T &any(std::vector<T> &of, Random &random) {
    return of[random() % of.size()];
}

std::string number_of(Random &random, size_t width) {
    static const int64_t edges[] = {0,   1,     2,      3,       4,     5,
                                    8,   16,    17,     63,      -1,    127,
                                    255, 65535, 1 << 20, 1 << 24, 1 << 30};
    int64_t number = edges[random() % (sizeof edges / sizeof *edges)];
    if (random() % 8 == 0) number = INT64_MAX - (number < 0 ? 0 : number);
    std::string bytes;
    append(&bytes, (uint64_t)number, width);
    return bytes;
}

void change_value(File *file, Random &random) {
    if (file->values.empty()) return;
    Value &value = any(file->values, random);
    switch (random() % 6) {
        case 0: /* another's contents */
        {
            const Value &other = any(file->values, random);
            value.type = other.type, value.of = other.of, value.items = other.items;
            break;
        }
        case 1:
            if (value.type == ARRAY && !value.items.empty()) {
                if (random() % 2) value.items.push_back(any(value.items, random));
                else value.items.pop_back();
            }
            break;
        default:
            if (value.items.empty()) break;
            std::string &item = any(value.items, random);
            if (value.of != STRING) {
                item = number_of(random, width_of(value.of));
            } else if (random() % 3 == 0) {
                item.resize(random() % 40, (char)random());
            } else { /* such as the type of another encoder */
                const Value &other = any(file->values, random);
                if (other.of == STRING && !other.items.empty()) item = other.items[0];
            }
    }
}

void change_floats(Tensor *tensor, Random &random) {
    static const uint32_t special[] = {0,          0x7fc00000, 0x7f800000, 0xff800000,
                                       0x7f7fffff, 0xff7fffff, 1,          0x80000000,
                                       0x3f800000, 0x4b000000, 0xcb000000, 0x00800000};
    if (tensor->bytes.size() < 4) return;
    const uint32_t bits = special[random() % (sizeof special / sizeof *special)];
    const size_t count = tensor->bytes.size() / 4;
    const size_t from = random() % count, n = random() % 4 ? 1 : count - from;
    for (size_t i = from; i < from + n; ++i) memcpy(&tensor->bytes[4 * i], &bits, 4);
}

void change_tensor(File *file, Random &random) {
    if (file->tensors.empty()) return;
    Tensor &tensor = any(file->tensors, random);
    switch (random() % 6) {
        case 0: change_floats(&tensor, random); break;
        case 1: /* other bytes */
        {
            const size_t size = tensor.bytes.size();
            if (size) LLVMFuzzerMutate((uint8_t *)&tensor.bytes[0], size, size);
            break;
        }
        case 2: /* another size */
            if (!tensor.dims.empty()) {
                const size_t row = tensor.bytes.size() /
                                   (tensor.dims.back() ? tensor.dims.back() : 1);
                const uint64_t n = random() % (2 * tensor.dims.back() + 2);
                if (row * n > 1 << 16) break;
                tensor.dims.back() = n;
                tensor.bytes.resize(row * n);
            }
            break;
        case 3: /* a size that lies */
            if (!tensor.dims.empty()) any(tensor.dims, random) = (uint64_t)random() << 20;
            break;
        case 4: /* another's contents */
        {
            const Tensor other = any(file->tensors, random);
            tensor.dims = other.dims, tensor.type = other.type, tensor.bytes = other.bytes;
            break;
        }
        default: std::swap(tensor.name, any(file->tensors, random).name);
    }
}

/* Delete, or repeat under another name. */
void change_lists(File *file, Random &random) {
    if (file->values.empty() || file->tensors.empty()) return;
    const size_t value = random() % file->values.size();
    const size_t tensor = random() % file->tensors.size();
    switch (random() % 4) {
        case 0: file->values.erase(file->values.begin() + (long)value); break;
        case 1: file->tensors.erase(file->tensors.begin() + (long)tensor); break;
        case 2: file->values[value].key = any(file->values, random).key; break;
        default:
            file->tensors.push_back(file->tensors[tensor]);
            file->tensors.back().name += random() % 2 ? ".bias" : "";
    }
}

size_t give(const std::string &made, uint8_t *data, size_t max_size) {
    if (made.size() > max_size) return 0;
    memcpy(data, made.data(), made.size());
    return made.size();
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size,
                                          unsigned int seed) {
    Random random(seed);
    File file;
    if (random() % 4 == 0 || !Reader{data, size}.file(&file))
        return LLVMFuzzerMutate(data, size, max_size);
    for (size_t changes = 1 + random() % 3; changes > 0; --changes) {
        const size_t what = random() % 8;
        if (what < 4) change_value(&file, random);
        else if (what < 7) change_tensor(&file, random);
        else change_lists(&file, random);
    }
    const size_t made = give(written(file), data, max_size);
    return made ? made : LLVMFuzzerMutate(data, size, max_size);
}

/* Values and tensors of one file put into the other. */
extern "C" size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t a_size,
                                            const uint8_t *b, size_t b_size,
                                            uint8_t *out, size_t max_size,
                                            unsigned int seed) {
    Random random(seed);
    File first, second;
    if (!Reader{a, a_size}.file(&first) || !Reader{b, b_size}.file(&second)) return 0;
    for (const Value &value : second.values)
        for (Value &mine : first.values)
            if (mine.key == value.key && random() % 4 == 0) mine = value;
    for (const Tensor &tensor : second.tensors) {
        bool have = false;
        for (Tensor &mine : first.tensors) {
            if (mine.name != tensor.name) continue;
            have = true;
            if (random() % 4 == 0) mine = tensor;
        }
        if (!have && random() % 4 == 0) first.tensors.push_back(tensor);
    }
    return give(written(first), out, max_size);
}
