/* The container: named values and tensors of a GGUF file, found without copying them.
 *
 * Layout (little-endian): "GGUF", version u32, tensors u64, values u64; each value as key
 * string, type u32, contents; each tensor as name string, dimensions u32, each of them
 * u64, type u32, offset u64; then, at a multiple of the alignment, the tensors' contents.
 * A string is its length u64 and its bytes.
 */
#ifndef GQ_ASR_GGUF_H
#define GQ_ASR_GGUF_H

#include <map>
#include <string>
#include <vector>

#include "status.h"

namespace asr {

/* Bytes of the file. */
struct Text {
    const char *data = nullptr;
    size_t size = 0;
    std::string copy() const { return std::string(data, size); }
};

class Gguf {
  public:
    enum Type {
        U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64, TYPES
    };
    enum TensorType { TENSOR_F32 = 0, TENSOR_I8 = 24 };

    struct Value {
        int type = TYPES;
        int of = TYPES;                /* type of an array's elements */
        uint64_t count = 1;            /* of an array */
        const uint8_t *data = nullptr; /* its contents; of a string, its length first */
    };

    struct Tensor {
        int type = 0;
        uint64_t count = 0; /* elements */
        uint64_t dims[4] = {1, 1, 1, 1};
        const uint8_t *data = nullptr;
    };

    /* Find everything in data (size); nothing in it is trusted. */
    void read(const uint8_t *data, size_t size, Status &status);

    /* nullptr where there is none. */
    const Value *value(const std::string &key) const;
    const Tensor *tensor(const std::string &name) const;

    /* The values that are strings, of the keys that begin with prefix, by the rest. */
    std::map<std::string, std::string> texts(const std::string &prefix) const;

    /* The elements of an array of strings. */
    static std::vector<Text> strings(const Value &array);
    static Text string(const Value &value);
    /* A whole number of any of the types; false where it is none or too large. */
    static bool number(const Value &value, uint64_t index, int64_t *found);

  private:
    std::map<std::string, Value> values_;
    std::map<std::string, Tensor> tensors_;
};

}  // namespace asr

#endif
